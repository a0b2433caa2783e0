"""`fedward site join`: a hospital's folder becomes a site of a hub, by the code of the hub's operator."""

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from fedward_client.cli_common import AsJson, Folder, State
from fedward_common.errors import LinkError, RefusedError

if TYPE_CHECKING:
    from fedward_client.site import Site
    from fedward_common.cards import SiteCard
    from fedward_common.joining import Invitation

LOOK_S = 5.0  # how often the hub is asked whether its operator has answered
WAITING = "Waiting for the hub's operator to approve; Ctrl-C, and the same call later"


def join(  # noqa: PLR0917 - typer reads options from parameters
    folder: Folder,
    code: Annotated[str, typer.Argument(help="The code that the hub's operator sent; - reads it from standard input.")],
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Wait until the operator has approved; Ctrl-C is no harm.")
    ] = True,
    new_node_key: Annotated[
        bool, typer.Option("--new-node-key", help="For a hub that forgot this site: it takes no node's key twice.")
    ] = False,
    state: State = None,
    as_json: AsJson = False,
) -> None:
    """Make keys in this folder, which never leave it, and ask a hub to let this site in. The same call goes on.

    Example: fedward site join /srv/hospital CODE
    """
    from fedward_client.credentials import Credentials, hub_of
    from fedward_client.member import SIGNING_KEY
    from fedward_client.site import SETTINGS
    from fedward_common import pki
    from fedward_common.joining import Invitation

    invitation = Invitation.read(sys.stdin.read() if code == "-" else code)
    hub = hub_of(invitation)
    is_named = (folder / SETTINGS).exists()
    site, own = _made(folder, invitation, state)
    key = pki.load_signing_key(site.state / SIGNING_KEY)
    credentials = Credentials(site.link)
    own = credentials.with_node_key(own, key, invitation.secret, anew=new_node_key)
    try:
        is_in = credentials.ask(hub, own, key, invitation.secret)
    except LinkError:
        if not is_named:  # the next code may be for another name
            (folder / SETTINGS).unlink()
        raise
    if not as_json:
        print(f"Site {site.name} asks the hub {hub.hub} at {hub.address} to be let in.")
        print(f"Fingerprint, to be read out to the hub's operator by telephone:\n{pki.grouped(own.fingerprint)}")
    if wait and not is_in:
        with Console(stderr=True).status(WAITING) as status:
            while not is_in:
                time.sleep(LOOK_S)
                try:
                    is_in = credentials.ask(hub, own, key, invitation.secret)
                    status.update(WAITING)
                except RefusedError:
                    raise
                except LinkError as error:  # the hub is being started anew, say
                    status.update(escape(f"{WAITING} ({error})"))
    if as_json:
        told = {"site": site.name, "fingerprint": own.fingerprint, "hub": hub.hub, "joined": is_in}
        print(json.dumps(told))
    elif is_in:
        print(f"Site {site.name} is let in. {_next(site)}")
        if not site.outputs:
            print("Its policy is empty: nothing leaves until site.toml says, under [policy],")
            print('outputs = ["counts", "update", "evaluation"]')
    else:
        print("The hub's operator has not answered yet: run the same call again.")


def _next(site: "Site") -> str:
    from fedward_client import daemon

    if daemon.is_up(site):
        return "It is up, and goes on with its new certificate within a minute."
    return f"Start it with `fedward site up {site.folder}`."


def _made(folder: Path, invitation: "Invitation", state: Path | None) -> "tuple[Site, SiteCard]":
    """The folder as a site with the invitation's name. Raises UsageError where it is another's."""
    from fedward_client.member import join as make
    from fedward_client.site import SETTINGS, Site
    from fedward_common.errors import UsageError

    if (folder / SETTINGS).exists() and (found := Site.open(folder, state=state).name) != invitation.site:
        raise UsageError(
            f"the code is for a site '{invitation.site}', and {SETTINGS} names this one '{found}': ask the hub's "
            "operator for a code for that name, or change it"
        )
    return make(folder, None, name=invitation.site, state=state)
