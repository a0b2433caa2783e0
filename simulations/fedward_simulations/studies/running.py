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
from fedward_simulations.compare import open_hospitals
from fedward_simulations.markdown import render
from fedward_simulations.progress import Bars
from fedward_simulations.results import OverallBlock, Results
from fedward_simulations.simulate import Simulation
from fedward_simulations.studies import (
    Trial,
    alzheimer_mri,
    breast_pathology,
    heart_disease,
    lung_malignancy,
    parkinson_gait,
    splice_sites,
)

SEEDS = range(42, 45)
_RESULTS, _ACCURACIES = "results.json", "accuracies.json"


def trials() -> tuple[Trial, ...]:
    """Every trial, in the order of the page."""
    return (
        *heart_disease.TRIALS,
        *heart_disease.FLAMBY.values(),
        *parkinson_gait.TRIALS,
        *alzheimer_mri.TRIALS,
        *lung_malignancy.TRIALS,
        *breast_pathology.TRIALS,
        *splice_sites.TRIALS,
    )


def run_all(data: Path, out: Path, only: Collection[str] | None, console: Console) -> None:
    """Run the trials whose results do not stand in `out` yet. Raises UsageError where the data of one are missing."""
    for trial in trials():
        if (only is None or trial.name in only) and not is_done(trial, out):
            run(trial, data, out, console)


def is_done(trial: Trial, out: Path) -> bool:
    """Whether the results of a trial stand in `out`."""
    last = _ACCURACIES if trial in heart_disease.FLAMBY.values() else _RESULTS
    return (out / trial.name / last).exists()


def run(trial: Trial, data: Path, out: Path, console: Console) -> None:
    """Run a trial: hospitals, a simulation of all seeds, and for FLamby's protocol the accuracies."""
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
    flamby = trial in heart_disease.FLAMBY.values()
    with Bars(console) as bars:
        Simulation(
            study=trial.study(),
            folders=open_hospitals(hospitals, site_folders(hospitals)),
            out=folder,
            seeds=heart_disease.SEEDS if flamby else SEEDS,
            workers=len(os.sched_getaffinity(0)),
            resume=True,
            data_notes=tuple(filter(None, (f"Public data: {trial.data}.", trial.caveat))),
        )(bars)
    if flamby:
        (folder / _ACCURACIES).write_text(json.dumps(heart_disease.accuracies(folder, hospitals)))


# The page ------------------------------------------------------------------------------------------------------------


def page(out: Path) -> str:
    """docs/results.md of the results that stand in `out`."""
    flamby = heart_disease.FLAMBY.values()
    ready = [each for each in trials() if each not in flamby and is_done(each, out)]
    return render(
        "results.md",
        seeds=len(SEEDS),
        rows=[_row(trial, Results.read(out / trial.name / _RESULTS)) for trial in ready],
        sources={trial.name: f"{trial.data}.{trial.caveat and ' '}{trial.caveat}" for trial in ready},
        flamby=list(_flamby(out)),
        published=heart_disease.PUBLISHED,
    )


def _row(trial: Trial, results: Results) -> tuple[str, ...]:
    study = results.study.spec
    budget = f"{study.training.rounds} rounds of " + (
        f"{study.training.local_steps} steps"
        if study.training.local_steps is not None
        else f"{study.training.local_epochs} epoch{'s' * (study.training.local_epochs != 1)}"
    )
    overall = results.overall
    local = overall.local.mean.roc_auc
    return (
        trial.name,
        study.model.name,
        str(len(results.sites)),
        str(sum(site.patients for site in results.sites)),
        budget,
        "withheld" if local is None else f"{local:.3f} (mean of {overall.local.mean.sites})",
        _area(overall.federated, len(study.cohort.labels)),
        "-" if overall.pooled is None else _area(overall.pooled, len(study.cohort.labels)),
    )


def _area(block: OverallBlock, labels: int) -> str:
    """Of all hospitals' test patients; of three labels and more, of the mean over hospitals that have figures."""
    if labels > 2:
        mean = block.mean
        return "withheld" if mean.roc_auc is None else f"{mean.roc_auc:.3f} (mean of {mean.sites})"
    found = block.roc_auc
    if found is None:
        return "withheld"
    spread = "" if found.sd is None else f", sd {found.sd:.3f}"
    return f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f}{spread})"


def _flamby(out: Path) -> Iterator[tuple[str, ...]]:
    """Strategy; accuracies of the federated and of the pooled-data model, over seeds; FLamby's."""
    for name, trial in heart_disease.FLAMBY.items():
        path = out / trial.name / _ACCURACIES
        if path.exists():
            found = json.loads(path.read_text())
            ours = [f"{fmean(found[model]):.3f} (sd {stdev(found[model]):.3f})" for model in ("federated", "pooled")]
            yield name, *ours, f"{heart_disease.PUBLISHED[name]:.3f}"
