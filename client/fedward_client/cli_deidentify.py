"""`fedward site deidentify`: a folder of DICOM files becomes one without identifiers, and a proof of it."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from fedward_client.cli_common import AsJson
from fedward_client.site import Site
from fedward_common.errors import DataError, UsageError

if TYPE_CHECKING:
    from fedward_client.deidentify import Report

Source = Annotated[Path, typer.Argument(metavar="SRC", help="The folder of DICOM files.")]
Target = Annotated[Path, typer.Argument(metavar="DST", help="An empty folder, or one that an earlier run began.")]
Folder = Annotated[
    Path | None, typer.Option("--site", help="The site's folder, whose key makes the pseudonyms.", show_default="SRC")
]
State = Annotated[Path | None, typer.Option(help="Where the site keeps its key.", show_default="SITE/.fedward")]
BurnedIn = Annotated[
    Literal["blank", "quarantine", "keep"], typer.Option(help="What happens to text that is burned into pixels.")
]
Drop = Annotated[
    list[str] | None,
    typer.Option(help="What is not retained: dates (moved), device (its identity) or patient (sex, age, size)."),
]


def deidentify(  # noqa: PLR0917 - typer reads options from parameters
    source: Source,
    target: Target,
    site: Folder = None,
    burned_in: BurnedIn = "blank",
    drop: Drop = None,
    state: State = None,
    show_paths: Annotated[
        bool, typer.Option("--show-paths", help="Also list the files that were left out. For this terminal only.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Copy DICOM files without what identifies patients (PS3.15 Annex E), then search the copy for what was in them.

    Example: fedward site deidentify /srv/hospital /srv/clean --burned-in quarantine
    """
    from fedward_client.deidentify import Profile
    from fedward_client.deidentify import deidentify as run

    if as_json and show_paths:
        raise UsageError("--show-paths is for a terminal, not for --json: paths may name patients; leave one out")
    opened = Site.open(site or source, state=state)
    profile = Profile.without(drop or (), burned_in=burned_in)
    with _progress() as tell:
        report = run(opened, source, target, profile, tell)
    if as_json:
        print(json.dumps({"site": opened.name, **_plain(report)}))
    else:
        _show(opened, report)
    if show_paths:
        _show_paths(opened, source, report)
    if report.leaks:
        raise DataError(
            f"identifiers were found in {len(report.proof.unclean)} files that were written; they were moved to the "
            "state folder's quarantine, and the list says which attributes they were of: do not use the rest before "
            "you know why"
        )


def _plain(report: "Report") -> dict[str, object]:
    """A report for JSON: it holds no path."""
    values = asdict(report)
    values["proof"] = {name: value for name, value in values["proof"].items() if name != "unclean"}
    return values


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar on stderr."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)

        def tell(stage: str, done: int, total: int) -> None:
            bar.update(task, description=stage, completed=done, total=total)

        yield tell


def _show(site: Site, report: "Report") -> None:
    from fedward_client.deidentify.folder import counted

    table = Table("", "", "count", title=f"Site {site.name}", title_justify="left")
    table.columns[2].justify = "right"
    for name in (
        "files",
        "written",
        "already_there",
        "not_dicom",
        "dicomdir",
        "links",
        "opted_out",
        "blanked",
        "labelled",
    ):
        table.add_row(name.replace("_", " "), "", str(getattr(report, name)))
    for reason, count in counted(report):
        table.add_row("quarantine", Text(reason), str(count))
    for leak in report.leaks:
        table.add_row("identifiers found", Text(leak.attribute), str(leak.files))
    Console().print(table)
    print(f"Searched {report.proof.files} files for {report.proof.identifiers} identifiers.")


def _show_paths(site: Site, source: Path, report: "Report") -> None:
    from fedward_client.deidentify.folder import source_paths

    found = source_paths(site, source)
    table = Table(title="Files that were left out. These names may be patients': they stay on this terminal")
    table.add_column("file", overflow="fold")
    table.add_column("reason")
    for key, reason in sorted(report.quarantine.items(), key=lambda item: found.get(item[0], "")):
        table.add_row(Text(found.get(key, "(gone)")), Text(reason))
    Console().print(table)
