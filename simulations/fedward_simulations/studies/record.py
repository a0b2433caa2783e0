"""What the trials found, kept beside the pages that show it: docs/results.json.

A trial can so be run anew, and its page written, without the others, which take hours together.
"""

from pathlib import Path

from pydantic import Field, TypeAdapter

from fedward_common.study import StudySpec
from fedward_server.figures.blocks import Count, Figure, Metric, Part, headline
from fedward_simulations.results import Results, write_atomic

RECORD = "record.json"  # in the folder of a trial, whose last file it is


class Record(Part):
    """What a trial found, over its seeds. Figures are of its task's own metric, on test patients."""

    network: str
    hospitals: Count
    patients: Count
    budget: str  # of a hospital, in words
    metric: Metric
    local: float | None  # the mean over `local_sites` hospitals of what each reaches alone
    local_sites: Count
    local_sd: float | None
    federated: Figure | None  # as `pooled`, of all hospitals together; None where it is withheld
    pooled: Figure | None
    with_pooled: bool  # whether a model of pooled data was trained
    tested: tuple[float, ...] = ()  # of each seed, the federated model's at the hospital that takes no part in training
    accuracies: dict[str, list[float]] = Field(default_factory=dict)  # by model, of each seed
    windows: dict[str, dict[str, list[float]]] = Field(default_factory=dict)  # by model and figure, of each seed


_RECORDS = TypeAdapter(dict[str, Record])


def of_results(results: Results) -> Record:
    """What stands in a simulation's results.json."""
    study, overall = results.study.spec, results.overall
    metric, mean = headline(study), overall.local.mean
    tested = [site.federated for run in results.runs for site in run.sites if site.name == study.split.site]
    return Record(
        network=study.model.name,
        hospitals=len(results.sites),
        patients=sum(site.patients for site in results.sites),
        budget=budget(study),
        metric=metric,
        local=mean.figure(metric),
        local_sites=mean.sites,
        local_sd=mean.sd,
        federated=overall.federated.figure(metric),
        pooled=None if overall.pooled is None else overall.pooled.figure(metric),
        with_pooled=overall.pooled is not None,
        tested=tuple(figure.value for block in tested if (figure := block.figure(metric)) is not None),
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


def read(path: Path) -> dict[str, Record]:
    """The records of trials, by name; none where there is no file yet."""
    return _RECORDS.validate_json(path.read_bytes()) if path.exists() else {}


def add(path: Path, name: str, record: Record) -> None:
    """Put a record beside those that stand there, in the place of an older one of that name."""
    records = dict(sorted((read(path) | {name: record}).items()))
    write_atomic(path, _RECORDS.dump_json(records, indent=1, exclude_defaults=True).decode() + "\n")
