"""Where a model comes from and what began with it: the runs that lie between weights, by the weights' SHA-256.

A run makes weights; it may have begun with others, which its study names by their SHA-256. So the chain holds however
models are called, and where one was removed or was never registered.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from fedward_server.models import Registered
from fedward_server.store import RunRow, Store

GENERATIONS = 20  # that are shown before a model, and as many after it


@dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """Weights, the run that made them, and those that runs made which began with them."""

    sha256: str | None = None  # None of a run that has made none
    names: tuple[str, ...] = ()  # under which they are registered
    called: str | None = None  # by the study that begins with them
    source: Literal["model", "file"] | None = None  # what it says that they are
    run: str | None = None
    study: str | None = None
    status: str | None = None  # of the run; None of one that the hub does not know
    this: bool = False  # whose lineage it is
    before: bool = False  # it began with weights that are not shown
    after: bool = False  # other weights began with it, which are not shown
    heirs: tuple["Weights", ...] = ()


class Lineages:
    """The lineages of models, as far as these `entries` and the runs that a person `may_see` tell."""

    def __init__(self, store: Store, entries: Iterable[Registered], may_see: Callable[[RunRow], bool]) -> None:
        self._store = store
        self._may_see = may_see
        self._names: dict[str, list[str]] = defaultdict(list)
        for entry in entries:
            self._names[entry.sha256].append(entry.name)

    def of(self, entry: Registered) -> Weights:
        """The tree of a model, from the first weights that are known on, with those that began with it."""
        makers = self._seen(self._store.makers(entry.sha256))
        row = next((row for row in makers if row.run == entry.run), makers[0] if makers else None)
        shown = {entry.sha256}
        heirs = self._heirs(entry.sha256, self._begun(entry.sha256), shown, GENERATIONS)
        here = replace(self._weights(entry.sha256, row), this=True, heirs=heirs)
        if row is None:  # the hub may have forgotten the run
            here = replace(here, run=entry.run, study=entry.study)
        for _ in range(GENERATIONS):
            start = None if row is None else _start(row)
            if start is None or start["sha256"] in shown:
                return here
            shown.add(start["sha256"])
            row = next(iter(self._seen(self._store.makers(start["sha256"]))), None)
            here = replace(self._weights(start["sha256"], row, start), heirs=(here,))
        return replace(here, before=row is not None and _start(row) is not None)

    def _begun(self, sha256: str) -> dict[str, list[RunRow]]:
        """By weights, the runs that began with them: with these, with what those runs made, and so on."""
        found: dict[str, list[RunRow]] = {}
        level = {sha256}
        for _ in range(GENERATIONS + 1):
            if not level:
                break
            found |= {each: [] for each in level}
            for row in self._seen(self._store.begun_with(level)):
                found[_started_with(row)].append(row)
            level = {row.model_sha256 for each in level for row in found[each] if row.model_sha256} - found.keys()
        return found

    def _heirs(self, sha256: str, begun: Mapping[str, list[RunRow]], shown: set[str], left: int) -> tuple[Weights, ...]:
        """What began with weights, and so on, through `left` generations; each weights' own heirs once."""
        found = []
        for row in begun.get(sha256, ()):
            made, own = row.model_sha256, self._weights(row.model_sha256, row)
            if made is not None and made not in shown:
                shown.add(made)
                heirs = self._heirs(made, begun, shown, left - 1) if left > 1 else ()
                own = replace(own, heirs=heirs, after=left == 1 and bool(begun.get(made)))
            found.append(own)
        return tuple(found)

    def _seen(self, rows: Iterable[RunRow]) -> list[RunRow]:
        return [row for row in rows if self._may_see(row)]

    def _weights(self, sha256: str | None, row: RunRow | None, start: Mapping[str, Any] | None = None) -> Weights:
        found = Weights(sha256=sha256, names=tuple(self._names.get(sha256 or "", ())))
        if row is not None:
            found = replace(found, run=row.run, study=row.study_id, status=row.status)
        if start is not None:
            source: Literal["model", "file"] = "file" if start.get("model") is None else "model"
            found = replace(found, called=start[source], source=source)
        return found


def _start(row: RunRow) -> Mapping[str, Any] | None:
    """What a run's study begins with, None where that is not known by its SHA-256."""
    start: Mapping[str, Any] | None = row.study_json["model"].get("start")
    return start if start and start.get("sha256") else None


def _started_with(row: RunRow) -> str:
    return str(row.study_json["model"]["start"]["sha256"])
