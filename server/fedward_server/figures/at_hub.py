"""The figures of a hub's runs, for whom they are: read from `run.json` once, drawn once.

A picture is the same bytes for everybody who may see the same.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from fedward_server.figures.pictures import PICTURES, numbers, operating_points, pictures
from fedward_server.figures.run_figures import RunFigures
from fedward_server.figures.scope import Scope
from fedward_server.figures.tables import Table
from fedward_server.hub import Hub
from fedward_server.people import Person
from fedward_server.result import FILE, RunResult
from fedward_server.store import RunRow

FORMS: Mapping[str, str] = {"svg": "image/svg+xml", "png": "image/png", "csv": "text/csv; charset=utf-8"}
TABLES: Mapping[str, Callable[[RunFigures], Table]] = {"numbers": numbers, "operating-points": operating_points}
"""Files of numbers that no picture is of."""

RUNS, FILES = 8, 128  # that are kept in memory


@dataclass(frozen=True, slots=True)
class HubFigures:
    """Finds a run's figures, for a person who may know of the run."""

    hub: Hub

    def of(self, person: Person, row: RunRow) -> RunFigures | None:
        """What a person may see of a run's figures; None of one that has none (yet)."""
        return figures_of(self.hub.runs / row.run, Scope.of(person))

    def file(self, person: Person, row: RunRow, name: str, form: str) -> bytes | None:
        """A picture as a file, or its numbers; None where the run has no such picture."""
        stamp = _stamp(self.hub.runs / row.run)
        if stamp is None or not _is_there(name, form):
            return None
        return _file(self.hub.runs / row.run, stamp, Scope.of(person), name, form)

    def public(self, person: Person, row: RunRow) -> dict[str, Any] | None:
        """All that a person may know of a run's results, as JSON."""
        run = self.of(person, row)
        if run is None:
            return None
        names = [
            *(picture.name for picture in pictures(run)),
            *(name for name, made in TABLES.items() if made(run).rows),
        ]
        return {
            **run.public(),
            "fedward": row.fedward_version,
            "started": row.started,
            "ended": row.ended,
            "figures": {name: f"/runs/{row.run}/figures/{name}.csv" for name in names},
        }


def figures_of(folder: Path, scope: Scope) -> RunFigures | None:
    """The figures of the run of a folder; None of one that has none (yet)."""
    stamp = _stamp(folder)
    return None if stamp is None else _figures(folder, stamp, scope)


def _stamp(folder: Path) -> int | None:
    """What changes when a run's figures do."""
    try:
        return (folder / FILE).stat().st_mtime_ns
    except FileNotFoundError:
        return None


@lru_cache(RUNS)
def _result(folder: Path, _stamp: int) -> RunResult:
    return RunResult.read(folder)


@lru_cache(2 * RUNS)
def _figures(folder: Path, stamp: int, scope: Scope) -> RunFigures:
    return RunFigures(_result(folder, stamp), scope)


def _is_there(name: str, form: str) -> bool:
    return (form in FORMS and name in PICTURES) or (form == "csv" and name in TABLES)


@lru_cache(FILES)
def _file(folder: Path, stamp: int, scope: Scope, name: str, form: str) -> bytes | None:
    run = _figures(folder, stamp, scope)
    if form == "csv" and name in TABLES:
        table = TABLES[name](run)
        return table.csv().encode() if table.rows else None
    picture = PICTURES[name](run)
    if picture is None or not picture.numbers.rows:
        return None
    if form == "csv":
        return picture.numbers.csv().encode()
    from fedward_server.figures.run_plots import draw

    return draw(run, name, form)
