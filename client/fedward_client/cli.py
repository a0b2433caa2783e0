"""`fedward site …`: what a data steward does with a hospital's own folder. Everything stays on this machine."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedward_client.cli_common import AsJson, progress
from fedward_client.cli_daemon import down, executor, supernode, up
from fedward_client.cli_deidentify import deidentify
from fedward_client.cli_receive import receive
from fedward_client.cli_steward import approve, init, pause, resume, withdraw
from fedward_client.cli_study import check
from fedward_client.cli_watch import log, receipts, status, watch
from fedward_client.site import Site
from fedward_common.errors import DataError, UsageError

if TYPE_CHECKING:
    from fedward_client.catalog import Counts

MOST_KINDS = 12  # of a kind of thing, in the table; --json has all

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
        report = catalog.scan(opened, listener)
    if not report.counts.files:
        raise DataError(
            f"the data folder of site {opened.name} holds no files: put the hospital's images there, then scan again"
        )
    if as_json:
        print(json.dumps({"site": opened.name, **asdict(report)}))
        return
    _show(opened, report.counts)
    print(
        f"Read {report.read} files in {report.seconds:.1f} s; {report.unchanged} were known and unchanged, "
        f"{report.removed} are gone."
    )


@app.command()
def report(
    folder: Folder,
    state: State = None,
    as_json: AsJson = False,
    show_paths: Annotated[
        bool, typer.Option("--show-paths", help="Also list the files in quarantine. For this terminal only.")
    ] = False,
) -> None:
    """Say what the last scan found, without reading anything again.

    Example: fedward site report /srv/hospital --show-paths
    """
    from fedward_client.catalog import Catalog

    if as_json and show_paths:
        raise UsageError("--show-paths is for a terminal, not for --json: paths may name patients; leave one out")
    opened = Site.open(folder, state=state)
    with Catalog.open(opened) as catalog:
        counts, quarantine = catalog.counts(), catalog.quarantine()
    if as_json:
        print(json.dumps({"site": opened.name, "counts": asdict(counts)}))
        return
    _show(opened, counts)
    if show_paths:
        _show_paths(opened, quarantine)


COMMANDS = (
    *(receive, deidentify, check, init, up, down, approve, withdraw, pause, resume),
    *(status, watch, receipts, log, executor, supernode),
)

for command in COMMANDS:
    app.command()(command)


def _show(site: Site, counts: "Counts") -> None:
    table = Table("", "", "count", title=f"Site {site.name}", title_justify="left")
    table.columns[2].justify = "right"
    for name, value in asdict(counts).items():
        for kind, count in _rows(value):
            table.add_row(name.replace("_", " "), Text(kind), str(count))
    Console().print(table)


def _rows(value: int | Mapping[str, int]) -> Iterator[tuple[str, int]]:
    """A number, or the most frequent kinds and how many files or patients the others have."""
    if isinstance(value, int):
        yield "", value
        return
    kinds = list(value.items())
    yield from ((kind or "(not said)", count) for kind, count in kinds[:MOST_KINDS])
    if others := kinds[MOST_KINDS:]:
        yield f"{len(others)} other kinds", sum(count for _, count in others)


def _show_paths(site: Site, quarantine: Mapping[str, str]) -> None:
    from fedward_client.catalog import paths

    found = paths(site)
    table = Table(title="Files in quarantine. These names may be patients': they stay on this terminal")
    table.add_column("file", overflow="fold")
    table.add_column("reason")
    for key, reason in sorted(quarantine.items(), key=lambda item: found.get(item[0], site.data)):
        path = found.get(key)
        name = "(gone since the scan)" if path is None else _printable(path.relative_to(site.data))
        table.add_row(Text(name), Text(reason))
    Console().print(table)


def _printable(path: Path) -> str:
    """A name on one line: what does not print is written as its escape."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in str(path))
