"""Runs the trials of the four limits, and puts what they found on a page with a figure for each."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console

from fedward_simulations import plots
from fedward_simulations.markdown import render
from fedward_simulations.results import Results
from fedward_simulations.studies import Trial
from fedward_simulations.studies.limits import LIMITS, Limit
from fedward_simulations.studies.running import budget, is_done, mean, run

Areas = dict[str, dict[str, list[float]]]  # under the ROC curve, by way and place, of each seed


def run_limits(data: Path, out: Path, only: Collection[str] | None, console: Console) -> None:
    """Run the trials whose results do not stand in `out` yet. Raises UsageError where the data of one are missing."""
    for limit in LIMITS:
        for trial in limit.trials if only is None or limit.name in only else ():
            if not is_done(trial, out):
                run(trial, data, out, console)


def write_page(out: Path, page: Path) -> None:
    """Write the page of the limits whose results stand in `out`, and below its images/ a figure of each."""
    images = page.parent / "images"
    images.mkdir(exist_ok=True)
    limits: list[tuple[Limit, dict[str, Any] | None]] = []
    for limit in LIMITS:
        if not all(is_done(trial, out) for trial in limit.trials):
            limits.append((limit, None))
            continue
        areas = {way: {at: _areas(trial, out) for at, trial in trials.items()} for way, trials in limit.ways.items()}
        figure = plots.ways(f"limits-{limit.name}", areas, axis=limit.axis, joined=limit.joined)
        (images / f"limits-{limit.name}.svg").write_text(figure, encoding="utf-8")
        limits.append((limit, _found(limit, areas)))
    page.write_text(render("limits.md", seeds=len(LIMITS[0].trials[0].seeds), limits=limits), encoding="utf-8")


def _areas(trial: Trial, out: Path) -> list[float]:
    """Of the hospital that only tests."""
    tested = trial.study().split.site
    runs = Results.read(out / trial.name / "results.json").runs
    figures = [site.federated.roc_auc for run in runs for site in run.sites if site.name == tested]
    return [figure.value for figure in figures if figure is not None]


def _found(limit: Limit, areas: Areas) -> dict[str, Any]:
    return {
        "alt": plots.ways_alt(areas),
        "places": list(next(iter(areas.values()))),
        "rows": [[way, *map(mean, places.values())] for way, places in areas.items()],
        "seen": list(_seen(limit, areas)),
        "budgets": {f"{trial.study().model.name}, {budget(trial.study())}": None for trial in limit.trials},
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
