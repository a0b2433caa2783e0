"""`fedward hub people …`: who may use the dashboard."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fedward_common.cli_passphrase import read_secret

app = typer.Typer(no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(help="The hub's folder.")]
Name = Annotated[str, typer.Argument(help="1 to 63 lower-case letters, digits and hyphens.")]


class Role(StrEnum):
    """What people may be."""

    operator = "operator"
    investigator = "investigator"
    steward = "steward"
    auditor = "auditor"


@app.callback()
def people() -> None:
    """Who may use the dashboard, and as what.

    Example: fedward hub people list /srv/hub
    """


@app.command()
def add(  # noqa: PLR0917 - typer reads options from parameters
    folder: Folder,
    name: Name,
    role: Annotated[Role, typer.Option(help="What the person may do.")],
    site: Annotated[str | None, typer.Option(help="Of a steward: the site.")] = None,
    password_file: Annotated[
        Path | None, typer.Option(help="A file with the password, which only its owner can read; else it is asked for.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Let a person log in. Prints a picture that the person's telephone reads, once: it is the second proof.

    Example: fedward hub people add /srv/hub ada --role operator
    """
    from fedward_server.hub import Hub
    from fedward_server.people import People, uri_of

    hub = Hub.open(folder)
    password = read_secret("Password", password_file, new=True)
    with hub.store() as store:
        secret = People(store).add(name, role.value, password, site=site)
    hub.audit().append("person added", {"person": name, "role": role.value, "site": site})
    uri = uri_of(secret, name, hub.name)
    if as_json:
        print(json.dumps({"name": name, "role": role.value, "site": site, "totp": uri}))
        return
    import segno

    segno.make(uri).terminal(compact=True)
    print(f"{name} may log in as {role.value}{f' of {site}' if site else ''}.")
    print(f"An app for one-time codes reads the picture, or takes the key {secret}. It is shown only now.")


@app.command("list")
def list_(folder: Folder, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List who may log in.

    Example: fedward hub people list /srv/hub
    """
    from fedward_server.hub import Hub
    from fedward_server.people import People
    from fedward_server.tables import show_table

    with Hub.open(folder).store() as store:
        found = [{"name": each.name, "role": each.role, "site": each.site} for each in People(store).all()]
    if as_json:
        print(json.dumps(found))
    else:
        show_table(found, ("name", "role", "site"), "nobody: let the first person in with `fedward hub people add`")


@app.command()
def remove(folder: Folder, name: Name) -> None:
    """Let a person log in no more; who is logged in is out at once.

    Example: fedward hub people remove /srv/hub ada
    """
    from fedward_server.hub import Hub
    from fedward_server.people import People

    hub = Hub.open(folder)
    with hub.store() as store:
        People(store).remove(name)
    hub.audit().append("person removed", {"person": name})
    print(f"{name} may not log in any more.")


@app.command()
def unlock(folder: Folder, name: Name) -> None:
    """Let a person who is locked out for wrong tries log in again at once.

    Example: fedward hub people unlock /srv/hub ada
    """
    from fedward_server.hub import Hub
    from fedward_server.people import People

    hub = Hub.open(folder)
    with hub.store() as store:
        People(store).unlock(name)
    hub.audit().append("person unlocked", {"person": name})
    print(f"{name} may try to log in again.")
