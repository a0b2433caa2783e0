"""`fedward site …`: what a data steward does with a hospital's own folder. Everything stays on this machine."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from fedward_client.cli_common import AsJson, progress
from fedward_client.cli_daemon import down, executor, metrics, supernode, up
from fedward_client.cli_deidentify import deidentify
from fedward_client.cli_join import join
from fedward_client.cli_receive import receive
from fedward_client.cli_report import report, show_counts
from fedward_client.cli_steward import approve, init, pause, refuse, resume, withdraw
from fedward_client.cli_study import check
from fedward_client.cli_upkeep import backup, forget, restore
from fedward_client.cli_watch import log, receipts, status, watch
from fedward_client.site import Site
from fedward_common.errors import DataError

app = typer.Typer(no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(help="The hospital's folder: images, labels.csv, and site.toml where needed.")]
State = Annotated[
    Path | None, typer.Option(help="Where Fedward keeps its key and catalog.", show_default="FOLDER/.fedward")
]


@app.callback()
def site() -> None:
    """A hospital's own data: what is there, and what can be used.

    Example: fedward site scan /srv/hospital
    """


@app.command()
def scan(folder: Folder, state: State = None, as_json: AsJson = False) -> None:
    """Read the headers of new and changed images and the label table, then say what was found.

    Example: fedward site scan /srv/hospital
    """
    from fedward_client import catalog

    opened = Site.open(folder, state=state)
    with progress("Reading headers") as listener:
        found = catalog.scan(opened, listener)
    if not found.counts.files:
        raise DataError(
            f"the data folder of site {opened.name} holds no files: put the hospital's images there, then scan again"
        )
    if as_json:
        print(json.dumps({"site": opened.name, **asdict(found)}))
        return
    show_counts(opened, found.counts)
    print(
        f"Read {found.read} files in {found.seconds:.1f} s; {found.unchanged} were known and unchanged, "
        f"{found.removed} are gone."
    )
    if found.counts.passed_by:
        print(f"{found.counts.passed_by}.")


COMMANDS = (
    *(report, receive, deidentify, check, init, join, up, down, approve, refuse, withdraw, pause, resume),
    *(status, watch, receipts, log, forget, backup, restore, executor, supernode, metrics),
)

for command in COMMANDS:
    app.command()(command)
