"""What the figures of a run cannot say, in sentences: for the model card, and for whoever has the model alone."""

from collections.abc import Collection, Iterable, Iterator

from fedward_common.metrics import Evaluation
from fedward_common.study import Input, StudySpec


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
    if study.model.start is not None:
        found.append("The models began with trained weights, which may come of patients who are tested here.")
    if isinstance(study.input, Input) and study.study.task in ("segmentation", "registration") and study.cohort.labels:
        found.append(_on_grid(study.input))
    if seeds == 1:
        found.append(
            "One seed: how much the figures change with another split or other initial weights was not measured."
        )
    return [*found, tested_where(study, sites), "The analysis is retrospective."]


def _on_grid(images: Input) -> str:
    """On what masks are held against each other: images cut to a grid, or stretched to it as a whole."""
    grid = f"{' × '.join(map(str, images.size))} pixels"
    if images.spacing is not None:
        grid += f" of {' × '.join(f'{mm:g}' for mm in images.spacing)} mm"
    cut = images.spacing is not None or images.crop is not None
    outside = ": what of a structure lies outside of it is not in them" * cut
    return f"Figures of masks are on the study’s grid, {grid}{outside}."


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
    """Whether any hospital was tested that did not train, and whether one that did."""
    left_out = study.split.site  # the others then have training and validation patients alone
    if left_out is not None and left_out not in sites:
        return f"Nobody was tested: {left_out}, the one hospital that was to be, took no part."
    if left_out is not None:
        return f"Tested only at {left_out}, which did not train; no patient of a hospital that trained was tested."
    outside = {site.name for site in study.sites if site.role == "evaluate"}
    tested = [name for name in sites if name in outside]
    if not tested:
        return "Tested on held-out patients of the hospitals that trained; no hospital outside the training was tested."
    return (
        f"Tested on held-out patients of the hospitals that trained, and at {', '.join(tested)}, which did not train."
    )
