"""The page of the four limits: what their trials found, with a figure for each."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from fedward_simulations import plots
from fedward_simulations.markdown import render
from fedward_simulations.studies.limits import LIMITS, Limit
from fedward_simulations.studies.record import Record
from fedward_simulations.studies.running import mean

Areas = dict[str, dict[str, tuple[float, ...]]]  # under the ROC curve, by way and place, of each seed


def write_page(records: Mapping[str, Record], page: Path) -> None:
    """Write the page of the limits whose trials all have a record, and below its images/ a figure of each."""
    images = page.parent / "images"
    images.mkdir(exist_ok=True)
    limits: list[tuple[Limit, dict[str, Any] | None]] = []
    for limit in LIMITS:
        if not all(trial.name in records for trial in limit.trials):
            limits.append((limit, None))
            continue
        areas = {
            way: {place: records[trial.name].tested for place, trial in trials.items()}
            for way, trials in limit.ways.items()
        }
        figure = plots.ways(f"limits-{limit.name}", areas, axis=limit.axis, joined=limit.joined)
        (images / f"limits-{limit.name}.svg").write_text(figure, encoding="utf-8")
        limits.append((limit, _found(limit, areas, records)))
    page.write_text(render("limits.md", seeds=len(LIMITS[0].trials[0].seeds), limits=limits), encoding="utf-8")


def _found(limit: Limit, areas: Areas, records: Mapping[str, Record]) -> dict[str, Any]:
    ran = [records[trial.name] for trial in limit.trials]
    return {
        "alt": plots.ways_alt(areas),
        "places": list(next(iter(areas.values()))),
        "rows": [[way, *map(mean, places.values())] for way, places in areas.items()],
        "seen": list(_seen(limit, areas)),
        "budgets": {f"{record.network}, {record.budget}": None for record in ran},
        "sources": {f"{trial.data}. {trial.caveat}": None for trial in limit.trials},
    }


def _seen(limit: Limit, areas: Areas) -> Iterator[str]:
    """What changes along the axis, and how a way differs from the one that it is held against, seed by seed."""
    first, *others = areas
    for way, (start, *_, end) in ((way, places.items()) for way, places in areas.items() if limit.joined):
        yield f"{way}, from {start[0]} to {end[0]}: {_change(start[1], end[1])}."
    for way in others:
        beside = limit.beside.get(way, first)
        pairs = {place: (areas[beside][place], values) for place, values in areas[way].items()}
        said = [f"{place}: {_change(*pair)}" for place, pair in pairs.items() if pair[0] != pair[1]]
        yield f"{way}, beside {beside}: {'; '.join(said) or 'no difference'}."


def _change(before: Sequence[float], after: Sequence[float]) -> str:
    changes = [each - other for other, each in zip(before, after, strict=True)]
    better = sum(change > 0 for change in changes)
    return f"{fmean(changes):+.3f}, higher with {better} of {len(changes)} seeds"
