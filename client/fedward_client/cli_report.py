"""`fedward site report`: what a hospital has, on a page that stays there, and whether a study can use it."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedward_client.cli_common import AsJson, Folder, State, progress
from fedward_client.site import Site
from fedward_common.errors import UsageError

if TYPE_CHECKING:
    from fedward_client.catalog_counts import Counts
    from fedward_client.report.contract import Contract
    from fedward_client.report.survey import Survey

PAGE = "report.html"
MOST_KINDS = 12  # of a kind of thing, in the table; --json has all


def report(  # noqa: PLR0917 - typer reads options from parameters
    folder: Folder,
    out: Annotated[
        Path | None, typer.Option(help="Where to write the page.", show_default=f"FOLDER/.fedward/{PAGE}")
    ] = None,
    study: Annotated[
        str | None, typer.Option(help="Also say whether the data serve a study: its file, or a template's name.")
    ] = None,
    state: State = None,
    as_json: AsJson = False,
    show_paths: Annotated[
        bool,
        typer.Option("--show-paths", help="Also list the files in quarantine or with a flag. For this terminal only."),
    ] = False,
) -> None:
    """Look at the images that the last scan found, and write a page on them that stays here: it shows patients.

    Pixels are decoded once; a second report looks at new and changed images only.

    Exit code 1 where the data do not serve the study.

    Example: fedward site report /srv/hospital --study breast-ultrasound
    """
    from fedward_client.report import page
    from fedward_client.report.survey import survey
    from fedward_common.study import find, load

    if as_json and show_paths:
        raise UsageError("--show-paths is for a terminal, not for --json: paths may name patients; leave one out")
    if out is not None and (out.is_dir() or not out.parent.is_dir()):
        raise UsageError("--out is no file, or in no folder that exists; give a file such as report.html")
    opened, spec = Site.open(folder, state=state), None if study is None else load(find(study))
    with progress("Looking at images") as listener:
        found = survey(opened, spec, listener)
    target = out or opened.state / PAGE
    page.write(target, found)
    if as_json:
        contract = None if found.contract is None else _plain(found.contract)
        told = {"counts": asdict(found.counts), "flags": found.judged(), "contract": contract, "page": str(target)}
        print(json.dumps({"site": opened.name, **told}))
    else:
        _show(opened, found)
        if show_paths:
            _show_paths(opened, found)
        shows = "It shows pictures of patients: it" if found.pictures else "It"
        print(f"Written: {target}. {shows} stays at this hospital.")
    if found.contract is not None and not found.contract.passes:
        raise typer.Exit(1)


_SELDOM = ("recordings", "recording_rows_left_out", "tables", "table_rows")  # not told where there are none


def show_counts(site: Site, counts: "Counts", flags: Mapping[str, int] | None = None) -> None:
    """A table of what a catalog holds, and of how many images have a flag."""
    table = Table("", "", "count", title=f"Site {site.name}", title_justify="left")
    table.columns[2].justify = "right"
    shown = {**asdict(counts), **({"flags": flags} if flags else {})}
    for name, value in shown.items():
        if not value and name in _SELDOM:
            continue
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


def _plain(contract: "Contract") -> dict[str, object]:
    """A contract for JSON."""
    lines = [line._asdict() for line in contract.lines]
    return {**asdict(contract), "lines": lines, "passes": contract.passes}


def _show(site: Site, found: "Survey") -> None:
    show_counts(site, found.counts, found.judged())
    if found.inspection.not_seen:
        print(
            f"{found.inspection.not_seen} images were not looked at: their files have gone or changed since the last "
            "scan, or could not be opened. Scan again."
        )
    if found.contract is not None:
        _show_contract(found.contract)


def _show_contract(contract: "Contract") -> None:
    table = Table("the study asks for", "this site has", "", title=f"Study {contract.study}", title_justify="left")
    for line in contract.lines:
        table.add_row(Text(line.asked), Text(line.found), "passes" if line.passes else "fails")
    console = Console()
    console.print(table)
    verdict = "Passes." if contract.passes else f"Fails. {contract.refusal}".strip()
    console.print(Text(verdict, overflow="fold"))


def _show_paths(site: Site, found: "Survey") -> None:
    from fedward_client.catalog import Catalog, paths

    with Catalog.open(site) as catalog:
        reasons = catalog.quarantine()
    reasons |= {key: ", ".join(sorted(flags)) for key, flags in found.flags.items() if flags}
    where = paths(site)
    table = Table(title="Files in quarantine or with a flag. Their names may be patients': they stay on this terminal")
    table.add_column("file", overflow="fold")
    table.add_column("reason")
    for key, reason in sorted(
        reasons.items(), key=lambda item: (where.get(item[0].partition("-")[0], site.data), item)
    ):
        file, _, row = key.partition("-")  # of a row of a table the number stands behind its file's
        path = where.get(file)
        name = "(gone since the scan)" if path is None else _printable(path.relative_to(site.data))
        name += f", row {row}" if row else ""
        table.add_row(Text(name), Text(reason))
    Console().print(table)


def _printable(path: Path) -> str:
    """A name on one line: what does not print is written as its escape."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in str(path))
