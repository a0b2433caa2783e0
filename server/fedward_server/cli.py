"""`fedward hub …`: what a federation's operator does with a hub's folder."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedward_common.cli_passphrase import PassphraseFile
from fedward_server import people_cli

if TYPE_CHECKING:
    from fedward_server.hub import Hub

app = typer.Typer(no_args_is_help=True)
app.add_typer(people_cli.app, name="people")

Folder = Annotated[Path, typer.Argument(help="The hub's folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.callback()
def hub() -> None:
    """A hub: the sites that it knows, and the server that they connect to.

    Example: fedward hub init /srv/hub
    """


@app.command()
def init(  # noqa: PLR0917 - typer reads options from parameters
    folder: Annotated[Path, typer.Argument(help="A folder that is empty or not there.")],
    name: Annotated[str | None, typer.Option(help="The hub's name; the folder's if not given.")] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Its own port, on this machine only.", show_default="9092")
    ] = None,
    address: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Where hospitals reach it; without, this machine only.")
    ] = None,
    listen: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Where the gateway listens.", show_default="0.0.0.0, the same port"),
    ] = None,
    dashboard: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Where people reach its pages; without, it has none.")
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(help="Where to put the root's key, to be locked away.", show_default="FOLDER/root"),
    ] = None,
) -> None:
    """Make a hub: its keys, its certificate, its card for sites, its database and its audit log.

    Example: fedward hub init /srv/hub --name north-alliance --address hub.example:8443 --root /media/root
    """
    from fedward_common.errors import UsageError
    from fedward_server.hub import ROOT, Hub
    from fedward_server.issuing import ROOT_KEY

    if address is None and any(option is not None for option in (listen, root, dashboard)):
        raise UsageError("--listen, --root and --dashboard are for a hub that hospitals reach: give its --address too")
    made = Hub.init(folder, name=name, port=port, address=address, listen=listen, root=root, dashboard=dashboard)
    print(f"Hub {made.name} is made in {made.folder}.")
    if made.gateway is None:
        _show_card(made)
    else:
        _tell(f"Lock the root's key away from this machine: {(root or made.folder / ROOT) / ROOT_KEY}")
        _tell(f"Invite a site with `fedward hub invite {made.folder} SITE`.")
    _tell(f"Start it with `fedward hub up {made.folder}`.")


@app.command()
def up(
    folder: Annotated[Path | None, typer.Argument(help="The hub's folder.")] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Return when it is up; it goes on by itself.")] = False,
    demo: Annotated[
        bool,
        typer.Option("--demo", help="Instead of a hub, show the dashboard with shipped results of invented sites."),
    ] = False,
) -> None:
    """Start the hub's server and keep it running; Ctrl-C ends it.

    Example: fedward hub up /srv/hub --detach
    Example: fedward hub up --demo
    """
    from fedward_common.errors import UsageError
    from fedward_server.hub import Hub

    if demo and (folder is not None or detach):
        raise UsageError("--demo shows what is shipped: it takes no folder, and is there until Ctrl-C")
    if demo:
        _show_demo()
        return
    if folder is None:
        raise UsageError("say which hub: `fedward hub up FOLDER`; or look around with `fedward hub up --demo`")
    opened = Hub.open(folder)
    words = f"The hub {opened.name} is up; stop it with `fedward hub down {opened.folder}`."
    if detach:
        from fedward_server.control import start_detached

        start_detached(opened)
        _tell(words)
    else:
        from fedward_server.supervisor import supervise

        supervise(opened, lambda: _tell(words.replace("stop it", "stop it with Ctrl-C, or")))
        _tell("The hub has ended.")


@app.command()
def login(
    url: Annotated[str, typer.Argument(metavar="URL", help="The address of the hub's pages, https://…")],
    name: Annotated[str, typer.Option(help="Who you are there.")],
    authority: Annotated[
        Path | None, typer.Option(help="The hub's root (PEM), where this machine does not trust its certificate.")
    ] = None,
    password_file: Annotated[
        Path | None, typer.Option(help="A file with the password, which only its owner can read; else it is asked for.")
    ] = None,
) -> None:
    """Log in at a hub that is elsewhere; `fedward study --hub URL` then works there.

    Example: fedward hub login https://hub.example:8444 --name ivy --authority root.pem
    """
    from fedward_common.cli_passphrase import read_secret
    from fedward_server.remote import Remote, checked, read_authority

    url, trusted = checked(url), "" if authority is None else read_authority(authority)
    password = read_secret("Password", password_file, new=False)
    there = Remote.log_in(url, name, password, typer.prompt("Six digits", err=True), trusted)
    print(f"{name} is logged in at {there.url}.")


@app.command()
def logout(url: Annotated[str, typer.Argument(metavar="URL", help="As of `fedward hub login`.")]) -> None:
    """End the session of `fedward hub login`.

    Example: fedward hub logout https://hub.example:8444
    """
    from fedward_server.remote import Remote

    there = Remote.at(url)
    there.log_out()
    print(f"Nobody is logged in at {there.url} from here any more.")


def _show_demo() -> None:
    from tempfile import TemporaryDirectory

    from fedward_server.demo import serve
    from fedward_server.superlink import free_port

    with TemporaryDirectory(prefix="fedward-demo-") as scratch:
        serve(Path(scratch) / "hub", free_port(), lambda url: _tell(f"Look around at {url}; Ctrl-C ends it."))


@app.command()
def down(folder: Folder) -> None:
    """End a hub that is up; runs that are at work go on by themselves when it is up again.

    Example: fedward hub down /srv/hub
    """
    from fedward_server.control import take_down
    from fedward_server.hub import Hub

    take_down(Hub.open(folder))
    _tell("The hub has ended.")


@app.command()
def status(folder: Folder, as_json: AsJson = False) -> None:
    """Say whether the hub is up, which sites are connected, and what runs there are.

    Example: fedward hub status /srv/hub
    """
    from fedward_server.control import survey
    from fedward_server.hub import Hub
    from fedward_server.tables import show_hub

    found = survey(Hub.open(folder))
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        show_hub(found)


@app.command()
def enrol(
    folder: Folder,
    card: Annotated[Path, typer.Argument(help="The card that the site's steward sent.")],
    as_json: AsJson = False,
) -> None:
    """Let a site take part, by its card. Compare the fingerprint with its steward by telephone.

    Example: fedward hub enrol /srv/hub north.json
    """
    from fedward_common.cards import SiteCard
    from fedward_common.pki import grouped
    from fedward_server.control import let_in
    from fedward_server.hub import Hub

    row = let_in(Hub.open(folder), SiteCard.read(card))
    if as_json:
        print(json.dumps({"site": row.site, "fingerprint": row.fingerprint, "added": row.added}))
        return
    print(f"{row.site} is enrolled. Its fingerprint:\n{grouped(row.fingerprint)}")
    _tell("Compare it with the site's steward by telephone: it alone shows that the card is theirs.")


@app.command()
def invite(
    folder: Folder,
    site: Annotated[str, typer.Argument(help="The site's name: 1 to 63 of a-z, 0-9 and '-'.")],
    days: Annotated[int, typer.Option(min=1, max=90, help="For how long the code counts.")] = 7,
    as_json: AsJson = False,
) -> None:
    """Make a code with which a site can ask to join, once. It is a secret: send it to the site's steward only.

    Example: fedward hub invite /srv/hub north
    """
    from fedward_server.hub import Hub
    from fedward_server.joining import Joining

    hub = Hub.open(folder)
    with hub.store() as store:
        made = Joining(hub, store).invite(site, days=days)
    if as_json:
        print(json.dumps({"site": site, "code": made.code(), "days": days}))
        return
    print(made.code())
    _tell(f"Send this code to the steward of {site}; it counts once, for {days} days:")
    _tell("  fedward site join FOLDER CODE")
    _tell(f"When the steward has done so, `fedward hub approve {folder} {site}` asks for the fingerprint.")


@app.command()
def approve(
    folder: Folder,
    site: Annotated[str, typer.Argument(help="A site that asked to join; `fedward hub status` lists them.")],
    yes: Annotated[bool, typer.Option("--yes", help="The fingerprint was compared; do not ask.")] = False,
) -> None:
    """Let a site in that asked to join, after its steward has read its fingerprint out by telephone.

    Example: fedward hub approve /srv/hub north
    """
    from fedward_common.pki import grouped
    from fedward_server.control import approve as let_in_as_asked
    from fedward_server.hub import Hub
    from fedward_server.joining import Joining

    hub = Hub.open(folder)
    with hub.store() as store:
        _, card = Joining(hub, store).asked_by(site)
    print(f"{site} asks to join with Fedward {card.fedward}. Its fingerprint:\n{grouped(card.fingerprint)}")
    if not yes and not typer.confirm("Does its steward read the same on the telephone?"):
        _tell(f"It was not let in. If it is not theirs, `fedward hub refuse {folder} {site}`.")
        raise typer.Exit(1)
    let_in_as_asked(hub, site, card.fingerprint)
    print(f"{site} is let in.")


@app.command()
def refuse(folder: Folder, site: Annotated[str, typer.Argument(help="A site that asked to join.")]) -> None:
    """Turn a site down that asked to join.

    Example: fedward hub refuse /srv/hub north
    """
    from fedward_common.pki import grouped
    from fedward_server.hub import Hub
    from fedward_server.joining import Joining

    hub = Hub.open(folder)
    with hub.store() as store:
        joining = Joining(hub, store)
        row, card = joining.asked_by(site)
        joining.refuse(row)
    print(f"{site} is refused, which asked with the fingerprint\n{grouped(card.fingerprint)}")


@app.command()
def rotate(
    folder: Folder,
    root: Annotated[Path, typer.Option(help="The folder with the root's key, from where it is locked away.")],
    distrust: Annotated[
        bool, typer.Option("--distrust", help="The authorities so far count no more: every site joins anew.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --distrust, do not ask.")] = False,
) -> None:
    """Make the next authority below the root; sites' certificates of the one before hold, and are renewed below it.

    Example: fedward hub rotate /srv/hub --root /media/root
    """
    from fedward_server.control import rotate as make_next
    from fedward_server.hub import Hub

    hub = Hub.open(folder)
    with hub.store() as store:
        sites = ", ".join(store.sites())
    if distrust and sites and not yes and not typer.confirm(f"Shut out every site until it joins anew ({sites})?"):
        raise typer.Exit(1)
    ends = make_next(hub, root, distrust=distrust)
    print(f"The new authority issues from now on, until {ends:%Y-%m-%d}.")
    if distrust and sites:
        print(f"No site's certificate counts any more; invite each site anew: {sites}.")
    _tell("Lock the root's key away again.")


@app.command()
def forget(folder: Folder, site: Annotated[str, typer.Argument(help="The site's name.")]) -> None:
    """Let a site take part no more, from now on; its certificate is taken back, and its stewards log in no more.

    Example: fedward hub forget /srv/hub north
    """
    from fedward_server.control import shut_out
    from fedward_server.hub import Hub

    stewards = shut_out(Hub.open(folder), site)
    print(f"{site} is forgotten.")
    if stewards:
        print(f"Its stewards were removed from the people with it: {', '.join(stewards)}.")


@app.command()
def backup(
    folder: Folder,
    file: Annotated[Path, typer.Argument(help="The file to write; it must not be there yet.")],
    passphrase_file: PassphraseFile = None,
) -> None:
    """Write settings, keys, database, audit log, runs and models into one file under a passphrase. The hub may be up.

    The root's key is not in it. Keep the passphrase elsewhere: without it nobody can read the file.

    Example: fedward hub backup /srv/hub /mnt/safe/alliance-2027-01-31.backup
    """
    from rich.console import Console

    from fedward_common.cli_passphrase import passphrase_of
    from fedward_server.backup import backup as write
    from fedward_server.hub import Hub

    hub = Hub.open(folder)
    passphrase = passphrase_of(passphrase_file, new=True)
    with Console(stderr=True).status("Copying the database, checking the log, sealing"):
        size = write(hub, file, passphrase)
    print(f"Hub {hub.name} is backed up: {file}, {size / 2**20:.1f} MiB.")


@app.command()
def restore(
    folder: Annotated[Path, typer.Argument(help="A folder that is empty or not there.")],
    file: Annotated[Path, typer.Argument(help="What `fedward hub backup` wrote.")],
    passphrase_file: PassphraseFile = None,
) -> None:
    """Make this folder the hub that a backup is of; it is checked first. What was at work goes on when it is up.

    Example: fedward hub restore /srv/hub /mnt/safe/alliance-2027-01-31.backup
    """
    from rich.console import Console

    from fedward_common.cli_passphrase import passphrase_of
    from fedward_server.backup import restore as put_back

    passphrase = passphrase_of(passphrase_file, new=False)
    with Console(stderr=True).status("Opening, checking keys, the database and the log"):
        hub, made = put_back(folder, file, passphrase)
    print(f"Hub {hub.name} is as it was on {made}, in {hub.folder}.")
    _tell("Forget the sites anew that you had forgotten since. Never let two copies of a hub be up at a time.")
    _tell(f"Start it with `fedward hub up {hub.folder}`.")


@app.command()
def card(folder: Folder) -> None:
    """Say where the hub's card is: what a site knows the hub by.

    Example: fedward hub card /srv/hub
    """
    from fedward_server.hub import Hub

    _show_card(Hub.open(folder))


@app.command("log")
def show_log(
    folder: Folder,
    follow: Annotated[bool, typer.Option("--follow", help="Go on with what comes; Ctrl-C ends.")] = False,
) -> None:
    """Print what the hub has logged.

    Example: fedward hub log /srv/hub --follow
    """
    from fedward_server.control import lines
    from fedward_server.hub import Hub

    for line in lines(Hub.open(folder), follow=follow):
        print(line)
        sys.stdout.flush()


def _show_card(opened: "Hub") -> None:
    from fedward_common.cards import HubCard
    from fedward_common.pki import grouped

    read = HubCard.read(opened.card)
    print(opened.card)
    if opened.gateway is None:
        _tell("Give this card to every site's steward, and read its fingerprint out by telephone:")
    else:
        _tell("Sites get this card with a code of `fedward hub invite`, in which its fingerprint stands:")
    _tell(grouped(read.fingerprint))


def _tell(text: str) -> None:
    """A line for a person."""
    typer.echo(text, err=True)
