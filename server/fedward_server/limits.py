"""What the figures of a run cannot say, in sentences: for the model card, and for whoever has the model alone."""

from collections.abc import Collection, Iterable, Iterator

from fedward_common.metrics import Evaluation
from fedward_common.study import StudySpec


def limits(study: StudySpec, sites: Collection[str], *, patients: int | None, seeds: int = 1) -> list[str]:
    """Of figures at `sites`, on so many test patients in all; None where their number is not told."""
    found = []
    if patients is not None:
        tested = f"{patients:,} test patient{'s' * (patients != 1)}".replace(",", "\N{NARROW NO-BREAK SPACE}")
        found.append(f"The figures rest on {tested} in all; the intervals show how little that settles.")
    if study.split.folds is not None:
        found.append(
            "The model itself was trained on all patients after the folds and was tested on none: the figures are of "
            "the folds’ models, which were trained alike on fewer patients."
        )
    if seeds == 1:
        found.append(
            "One seed: how much the figures change with another split or other initial weights was not measured."
        )
    return [*found, tested_where(study, sites), "The analysis is retrospective."]


def unseen(study: StudySpec, tested: Iterable[Evaluation]) -> Iterator[str]:
    """A sentence of the labels of which no site could show a figure, where the model gives each a score or a mask."""
    if study.cohort.positive is not None or study.study.task not in ("classification", "segmentation", "detection"):
        return
    shown = {
        label for each in tested for of_task in (each.figures, each.overlaps, each.detections) for label in of_task
    }
    if without := [label for label in study.cohort.labels if label not in shown]:
        yield (
            f"No hospital had enough test patients to show a figure of {', '.join(without)}: what the model says of it "
            "was not tested, and there may have been nobody to learn it from."
        )


def tested_where(study: StudySpec, sites: Collection[str]) -> str:
    """Whether any hospital was tested that did not train."""
    outside = {site.name for site in study.sites if site.role == "evaluate"} | {study.split.site} - {None}
    tested = [name for name in sites if name in outside]
    if not tested:
        return "Tested on held-out patients of the hospitals that trained; no hospital outside the training was tested."
    return (
        f"Tested on held-out patients of the hospitals that trained, and at {', '.join(tested)}, which did not train."
    )
