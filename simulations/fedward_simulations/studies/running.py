"""Runs the trials, and puts what they found on one page."""

import json
import os
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path
from statistics import fmean, stdev

from rich.console import Console

from fedward_client.site import site_folders
from fedward_common.errors import UsageError
from fedward_common.study import StudySpec
from fedward_server.models import resolve_start
from fedward_simulations.compare import open_hospitals
from fedward_simulations.markdown import render
from fedward_simulations.progress import Bars
from fedward_simulations.result_blocks import headline
from fedward_simulations.results import OverallBlock, Results
from fedward_simulations.simulate import Simulation
from fedward_simulations.studies import (
    SEEDS,
    Trial,
    breast_pathology,
    breast_ultrasound,
    compound_activity,
    dna,
    freezing_of_gait,
    heart_disease,
    hippocampus,
    invented,
    lung_malignancy,
    oasis,
    parkinson_gait,
)
from fedward_simulations.studies.accuracy import accuracies
from fedward_simulations.wording import METRIC_TITLES

_RESULTS, _ACCURACIES, _WINDOWS = "results.json", "accuracies.json", "windows.json"


def trials() -> tuple[Trial, ...]:
    """Every trial, in the order of the page."""
    return (
        *heart_disease.TRIALS,
        *heart_disease.FLAMBY.values(),
        *parkinson_gait.TRIALS,
        *freezing_of_gait.TRIALS,
        *oasis.TRIALS,
        *lung_malignancy.TRIALS,
        *breast_pathology.TRIALS,
        *breast_ultrasound.TRIALS,
        *compound_activity.TRIALS,
        *dna.TRIALS,
        *hippocampus.TRIALS,
        *invented.TRIALS,
    )


def run_all(data: Path, out: Path, only: Collection[str] | None, console: Console) -> None:
    """Run the trials whose results do not stand in `out` yet, and tell of those whose collection is not there.

    Raises UsageError where one of these was asked for by name.
    """
    for trial in trials():
        if is_done(trial, out) or (only is not None and trial.name not in only):
            continue
        if only is None and not (data / trial.source).is_dir():
            console.print(f"{trial.name} is left out: {trial.source} is not in {data}", highlight=False)
            continue
        run(trial, data, out, console)


def is_done(trial: Trial, out: Path) -> bool:
    """Whether the results of a trial stand in `out`."""
    last = _WINDOWS if trial.windows else _ACCURACIES if trial.accuracies else _RESULTS
    return (out / trial.name / last).exists()


def run(trial: Trial, data: Path, out: Path, console: Console) -> None:
    """Run a trial: hospitals, a simulation of all seeds, and the accuracies where it compares some."""
    source, folder = data / trial.source, out / trial.name
    if not source.is_dir():
        raise UsageError(f"study '{trial.name}' needs the folder {source}: its collection is not there")
    hospitals = folder / "hospitals"
    if not hospitals.exists():
        building = folder / "hospitals.building"
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir(parents=True)
        trial.write(source, building)
        building.rename(hospitals)
    console.print(f"{trial.name} …", highlight=False)
    kind = "Synthetic patients" if trial.shown == "synthetic" else "Public data"
    started = resolve_start(trial.study(), base=out, registry=None)
    with Bars(console) as bars:
        Simulation(
            study=started.study,
            folders=open_hospitals(hospitals, site_folders(hospitals)),
            out=folder,
            seeds=trial.seeds,
            pooled=trial.pooled,
            workers=len(os.sched_getaffinity(0)),
            resume=True,
            data_notes=tuple(filter(None, (f"{kind}: {trial.data}.", trial.caveat))),
            weights=started.weights,
        )(bars)
    if trial.accuracies:
        (folder / _ACCURACIES).write_text(json.dumps(accuracies(folder, hospitals)))
    if trial.windows:
        (folder / _WINDOWS).write_text(json.dumps(freezing_of_gait.by_window(folder, hospitals)))


# The page ------------------------------------------------------------------------------------------------------------


def page(out: Path) -> str:
    """docs/results.md of the results that stand in `out`."""
    apart, flamby = heart_disease.FLAMBY.values(), list(_flamby(out))
    ready = [each for each in trials() if each.shown and each not in apart and is_done(each, out)]
    tables = {
        shown: [_row(trial, Results.read(out / trial.name / _RESULTS)) for trial in ready if trial.shown == shown]
        for shown in ("real", "synthetic")
    }
    return render(
        "results.md",
        seeds=len(SEEDS),
        tables=tables,
        sources={trial.name: f"{trial.data}.{trial.caveat and ' '}{trial.caveat}" for trial in ready},
        compared=list(_compared(out)),
        models=freezing_of_gait.LEARNED,
        windows=list(_by_window(out)),
        flamby=flamby,
        best=max(flamby, key=lambda row: row[1], default=("",))[0],
        published=heart_disease.PUBLISHED,
    )


def _row(trial: Trial, results: Results) -> tuple[str, ...]:
    study = results.study.spec
    overall, metric = results.overall, results.study.headline
    mean = overall.local.mean
    local = mean.figure(metric)
    spread = "" if mean.sd is None else f", sd {mean.sd:.3f}"
    named = "" if metric == "roc_auc" else f"{METRIC_TITLES[metric]} "
    return (
        trial.name,
        study.model.name,
        str(len(results.sites)),
        str(sum(site.patients for site in results.sites)),
        budget(study),
        "withheld" if local is None else f"{named}{local:.3f} (mean of {mean.sites}{spread})",
        named + _figure(overall.federated, study),
        "-" if overall.pooled is None else named + _figure(overall.pooled, study),
        trial.published,
    )


def budget(study: StudySpec) -> str:
    """How long a hospital trains, in words."""
    phases, training = sum(phase.rounds for phase in study.phases), study.training
    return (
        (f"{phases} rounds without labels, " if phases else "")
        + f"{training.rounds} rounds of "
        + (
            f"{training.local_steps} steps"
            if training.local_steps is not None
            else f"{training.local_epochs} epoch{'s' * (training.local_epochs != 1)}"
        )
        + (f" for each of {study.split.folds} folds" if study.split.folds is not None else "")
    )


def _figure(block: OverallBlock, study: StudySpec) -> str:
    """Of all hospitals' test patients; of three classes and more, the mean over labels."""
    found = block.figure(headline(study))
    if found is None:
        return "withheld"
    spread = "" if found.sd is None else f", sd {found.sd:.3f}"
    return f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f}{spread})"


def _compared(out: Path) -> Iterator[tuple[str, ...]]:
    """Trial; accuracies of its models and of classical learners, over seeds."""
    for trial in trials():
        path = out / trial.name / _ACCURACIES
        if trial not in heart_disease.FLAMBY.values() and path.exists():
            yield trial.name, *map(mean, json.loads(path.read_text()).values())


def _by_window(out: Path) -> Iterator[tuple[str, ...]]:
    """Accuracy, sensitivity and specificity by window: of each model over seeds; last what was published."""
    for trial in trials():
        path = out / trial.name / _WINDOWS
        if trial.windows and path.exists():
            found = json.loads(path.read_text())
            for figure, published in freezing_of_gait.PUBLISHED.items():
                yield figure, *(mean(found[name][figure]) for name in freezing_of_gait.LEARNED), f"{published:.3f}"


def mean(values: list[float]) -> str:
    """The mean over seeds and the standard deviation, as the pages write them."""
    return f"{fmean(values):.3f} (sd {stdev(values):.3f})"


def _flamby(out: Path) -> Iterator[tuple[str, ...]]:
    """Strategy; accuracies of the federated and of the pooled-data model, over seeds; FLamby's."""
    for name, trial in heart_disease.FLAMBY.items():
        path = out / trial.name / _ACCURACIES
        if path.exists():
            found = json.loads(path.read_text())
            yield (
                name,
                mean(found["federated"]),
                mean(found["pooled"]),
                f"{heart_disease.PUBLISHED[name]:.3f}" if name in heart_disease.PUBLISHED else "-",
            )
