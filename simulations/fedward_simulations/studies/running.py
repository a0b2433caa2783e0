"""Runs the trials, and puts what they found on one page."""

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev

from rich.console import Console

from fedward_client.site import site_folders
from fedward_common.errors import FedwardError, RunError, UsageError
from fedward_server.figures.blocks import METRIC_TITLES, Figure
from fedward_server.models import resolve_start
from fedward_simulations.compare import open_hospitals
from fedward_simulations.markdown import render
from fedward_simulations.progress import Bars
from fedward_simulations.results import Results, write_atomic
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
from fedward_simulations.studies.record import RECORD, Record, of_results


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


def run_all(
    chosen: Iterable[Trial], data: Path, out: Path, console: Console, *, by_name: bool
) -> Iterator[tuple[str, Record]]:
    """Run the trials whose record does not stand in `out` yet: the name and the record of each.

    One whose collection is not there is told of and left out; raises UsageError where it was asked for `by_name`. One
    that fails is told of, and the others run: raises RunError at the end.
    """
    failed = []
    for trial in chosen:
        if not is_done(trial, out):
            if not (data / trial.source).is_dir():
                if by_name:
                    raise UsageError(f"study '{trial.name}' needs the folder {data / trial.source}: it is not there")
                console.print(f"{trial.name} is left out: {trial.source} is not in {data}", highlight=False)
                continue
            try:
                run(trial, data, out, console)
            except FedwardError as error:
                console.print(f"{trial.name} failed: {error}", highlight=False, markup=False)
                failed.append(trial.name)
                continue
        yield trial.name, Record.model_validate_json((out / trial.name / RECORD).read_bytes())
    if failed:
        raise RunError(f"these studies failed, the reasons stand above: {'; '.join(failed)}")


def is_done(trial: Trial, out: Path) -> bool:
    """Whether a trial ran to its end in `out`."""
    return (out / trial.name / RECORD).exists()


def run(trial: Trial, data: Path, out: Path, console: Console) -> None:
    """Run a trial: hospitals, a simulation of all seeds, what it compares with others, and the record of all that."""
    source, folder = data / trial.source, out / trial.name
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
    record = of_results(Results.read(folder / "results.json"))
    if trial.accuracies:
        record = record.model_copy(update={"accuracies": accuracies(folder, hospitals)})
    if trial.windows:
        record = record.model_copy(update={"windows": freezing_of_gait.by_window(folder, hospitals)})
    write_atomic(folder / RECORD, record.model_dump_json())


# The page ------------------------------------------------------------------------------------------------------------


def page(records: Mapping[str, Record]) -> str:
    """docs/results.md of the records of trials, by name."""
    flamby = list(_flamby(records))
    shown = [each for each in trials() if each.shown and each not in heart_disease.FLAMBY.values()]
    ready = [each for each in shown if each.name in records]
    return render(
        "results.md",
        seeds=len(SEEDS),
        tables={
            kind: [_row(trial, records[trial.name]) for trial in ready if trial.shown == kind]
            for kind in ("real", "synthetic")
        },
        missing=[each.name for each in shown if each.name not in records],
        sources={trial.name: f"{trial.data}.{trial.caveat and ' '}{trial.caveat}" for trial in ready},
        compared=[
            (trial.name, *map(mean, accuracies.values()))
            for trial in ready
            if (accuracies := records[trial.name].accuracies)
        ],
        models=freezing_of_gait.LEARNED,
        windows=[row for trial in ready for row in _by_window(records[trial.name])],
        flamby=flamby,
        best=max(flamby, key=lambda row: row[1], default=("",))[0],
        published=heart_disease.PUBLISHED,
    )


def _row(trial: Trial, record: Record) -> tuple[str, ...]:
    spread = "" if record.local_sd is None else f", sd {record.local_sd:.3f}"
    named = "" if record.metric == "roc_auc" else f"{METRIC_TITLES[record.metric]} "
    return (
        trial.name,
        record.network,
        str(record.hospitals),
        str(record.patients),
        record.budget,
        "withheld" if record.local is None else f"{named}{record.local:.3f} (mean of {record.local_sites}{spread})",
        named + figure(record.federated),
        named + figure(record.pooled) if record.with_pooled else "-",
        trial.published,
    )


def figure(found: Figure | None) -> str:
    """With its interval and the standard deviation over seeds, as the pages write it."""
    if found is None:
        return "withheld"
    spread = "" if found.sd is None else f", sd {found.sd:.3f}"
    return f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f}{spread})"


def _by_window(record: Record) -> Iterator[tuple[str, ...]]:
    """Accuracy, sensitivity and specificity by window: of each model over seeds; last what was published."""
    for name, published in freezing_of_gait.PUBLISHED.items() if record.windows else ():
        yield name, *(mean(record.windows[each][name]) for each in freezing_of_gait.LEARNED), f"{published:.3f}"


def mean(values: Sequence[float]) -> str:
    """The mean over seeds and the standard deviation, as the pages write them."""
    return f"{fmean(values):.3f} (sd {stdev(values):.3f})"


def _flamby(records: Mapping[str, Record]) -> Iterator[tuple[str, ...]]:
    """Strategy; accuracies of the federated and of the pooled-data model, over seeds; FLamby's. Of all or of none."""
    if not all(trial.name in records for trial in heart_disease.FLAMBY.values()):
        return
    for name, trial in heart_disease.FLAMBY.items():
        found = records[trial.name].accuracies
        yield (
            name,
            mean(found["federated"]),
            mean(found["pooled"]),
            f"{heart_disease.PUBLISHED[name]:.3f}" if name in heart_disease.PUBLISHED else "-",
        )
