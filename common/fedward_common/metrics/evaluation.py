"""What leaves a site about one model on one side of the split, and what the hub makes of all sites' together."""

import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from fedward_common.errors import SettingsError
from fedward_common.metrics.base import Count, Record
from fedward_common.metrics.cases import checked
from fedward_common.metrics.figures import SiteFigures, proportions, site_figures
from fedward_common.metrics.froc import Detections, merged_froc
from fedward_common.metrics.histogram import MergedHistogram, merge
from fedward_common.metrics.intervals import Estimate
from fedward_common.metrics.overlap import Moments, Overlap, pooled_moments
from fedward_common.metrics.sketch import ScoreSketch
from fedward_common.metrics.survival import Concordance, pooled_concordance
from fedward_common.study import StudySpec
from fedward_common.study_subgroups import GROUPS, Subgroups

MAX_LOSS = 1e9  # of any task's: that of classes stays below 16

Label = Annotated[str, Field(max_length=256)]
Group = Annotated[str, Field(max_length=64)]


class GroupEvaluation(Record):
    """A model's figures on a group of a site's patients, after the site's small-cell rule.

    `sketches` and `figures` are by label, one against the rest: the positive label of a study that has one, else each.
    A patient counts once with a label and once without it where images differ, and not at all where it is not known.
    Tasks other than classification fill the fields below instead. `loss` is the mean over patients, of the negative
    log-likelihood (nats) in classification. `withheld` says in words what stayed home and why; when there were too few
    patients altogether, `patients` is 0 and nothing else is there.
    """

    patients: Count
    loss: Annotated[float, Field(ge=0.0, le=MAX_LOSS)] | None
    sketches: dict[Label, ScoreSketch] = Field(default_factory=dict)
    figures: dict[Label, SiteFigures] = Field(default_factory=dict)
    withheld: Annotated[str, Field(max_length=2000)] | None
    overlaps: dict[Label, Overlap] = Field(
        default_factory=dict
    )  # segmentation, registration: of the model's or the warped masks
    unregistered: dict[Label, Overlap] = Field(default_factory=dict)  # registration: of the masks as they were
    folding: Moments | None = None  # registration: of a patient's share of voxels whose Jacobian is not positive
    concordance: Concordance | None = None  # survival
    detections: dict[Label, Detections] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.loss is not None and not self.patients:
            raise ValueError("a loss over no patients is none")
        for label, sketch in self.sketches.items():
            if max(sketch.total_positives, sketch.total_negatives) > self.patients:
                raise ValueError(f"the sketch of {label!r} counts more than the {self.patients} patients")
        for label, figures in self.figures.items():
            counts = (figures.positives, figures.negatives)
            sketched = self.sketches.get(label)
            agrees = sketched is None or (sketched.total_positives, sketched.total_negatives) == counts
            if max(counts) > self.patients or not agrees:
                raise ValueError(f"the figures of {label!r} are of other patients than the rest")
        others = [overlap.dice.patients for overlap in (*self.overlaps.values(), *self.unregistered.values())]
        others += [each.patients for each in (self.concordance, self.folding) if each is not None]
        if max(others, default=0) > self.patients or (self.detections and not self.patients):
            raise ValueError(f"figures of more than the {self.patients} patients")
        return self


class Evaluation(GroupEvaluation):
    """A model's figures on a site's patients of one side of the split, after the site's small-cell rule.

    `subgroups` are those of the groups that a study asks for, of the groups that may be shown beside all patients.
    """

    subgroups: dict[Subgroups, dict[Group, GroupEvaluation]] = Field(default_factory=dict, exclude_if=operator.not_)

    @model_validator(mode="after")
    def _in_groups(self) -> Self:
        for by, groups in self.subgroups.items():
            if unknown := groups.keys() - set(GROUPS[by]):
                raise ValueError(f"{min(unknown)!r} is no group of patients by {by}")
            if sum(group.patients for group in groups.values()) > self.patients:
                raise ValueError(f"the groups by {by} count more than the {self.patients} patients")
        return self


def evaluate_scores(
    probabilities: npt.ArrayLike,
    labels: npt.ArrayLike,
    patients: npt.ArrayLike,
    *,
    study: StudySpec,
    thresholds: Mapping[str, float] | None,
    min_cell: int,
) -> Evaluation:
    """The evaluation of `probabilities` [images, classes], of images with `labels` [images] and `patients` [images].

    Classes are in the order of the study's labels; `labels` index them, `patients` are any integers. In a study of
    several labels an image, `labels` [images, classes] are 1, 0, or -1 where it is not known: that image takes no part
    in the label's figures. A patient's score is the mean over that patient's images, over those with a label and those
    without it where they differ. `thresholds` are operating points in [0, 1] by label. A count below `min_cell` never
    shows, nor as a difference: of patients in all, with a label or without, with both, or of whom it is not known. The
    loss stays home with any label of such a count.
    Raises `RunError` for scores that are no probabilities, `ModelError` for a wrong number of classes, `DataError` for
    a label that is none of the study's, `RecordError` for a threshold outside [0, 1].
    """
    images = checked(probabilities, labels, patients, study=study)
    people = images.people
    if too_few(people, min_cell):
        return nothing(min_cell)
    asked = _asked(study)
    cases = {index: images.cases(index, min_cell=min_cell) for index in range(len(study.cohort.labels))}
    enough = [
        index
        for index, one in cases.items()
        if min(one.with_it, one.without) >= min_cell and not 0 < abs(people - one.truth.size) < min_cell
    ]
    shown = [index for index in asked if index in enough]
    if not study.cohort.multi_label and len(asked) == len(study.cohort.labels):
        shown = _covered({index: cases[index].with_it for index in asked}, shown, people, min_cell)
    sketches, figures = {}, {}
    for index in shown:
        label, one = study.cohort.labels[index], cases[index]
        sketch = ScoreSketch.of(one.scores, one.truth).suppressed(min_cell)
        own = site_figures(one.scores, one.truth, threshold=(thresholds or {}).get(label), min_cell=min_cell)
        if sketch is not None and own is not None:
            sketches[label], figures[label] = sketch, own
    hidden = [study.cohort.labels[index] for index in asked if index not in shown]
    few = [
        index for index, one in cases.items() if one.truth.size and index not in (shown if index in asked else enough)
    ]
    return Evaluation(
        patients=people,
        loss=None if few else images.loss(),  # a hub's model that gives everyone the same would tell counts by it
        sketches=sketches,
        figures=figures,
        withheld=_withheld(hidden, min_cell) if hidden else None,
    )


def too_few(people: int, min_cell: int) -> bool:
    """Whether nothing may be told of so many patients. Raises `SettingsError` for a `min_cell` that is none."""
    if min_cell < 1:
        raise SettingsError(f"[privacy] min_cell is {min_cell}; it must be at least 1")
    return people < min_cell


def nothing(min_cell: int) -> Evaluation:
    """The evaluation of too few patients."""
    why = f"fewer than {min_cell} patients on this side of the split, so nothing leaves"
    return Evaluation(patients=0, loss=None, withheld=why)


def _asked(study: StudySpec) -> list[int]:
    """Indices of the labels that a study looks at, one against the rest."""
    return list(range(len(study.cohort.labels))) if study.positive_index is None else [study.positive_index]


def _covered(counts: Mapping[int, int], shown: Sequence[int], people: int, min_cell: int) -> list[int]:
    """Which of the `shown` labels may show, given how many of the `people` have each, of which an image has one.

    The patients of those not shown are the difference to the total: as long as that is a small cell, the smallest label
    shown is hidden too (complementary suppression; Hundepool et al. 2012, "Statistical Disclosure Control"). That no
    patient has a label tells of no one. Patients with two labels are what the sum of all is above the total.
    """
    left, totals = list(shown), (sum(counts.values()), people)
    while left and any(0 < abs(total - sum(counts[index] for index in left)) < min_cell for total in totals):
        left.remove(min(left, key=lambda index: counts[index]))
    return left


def _withheld(hidden: Sequence[str], min_cell: int) -> str:
    # It must not tell a label that is small itself from one that is hidden to cover another.
    return (
        f"fewer than {min_cell} patients with or without a label: figures of {', '.join(hidden)} stay home, "
        "so that no small count can be worked out"
    )[:2000]


def pooled(evaluations: Iterable[GroupEvaluation], label: str) -> MergedHistogram | None:
    """The sites' sketches of `label` as one histogram; None unless it holds a positive and a negative."""
    merged = merge(e.sketches[label] for e in evaluations if label in e.sketches)
    return merged if merged.total_positives and merged.total_negatives else None


def pooled_at(evaluations: Iterable[GroupEvaluation], label: str) -> dict[str, Estimate]:
    """Exact overall "sensitivity", "specificity" and "precision" of `label` from the sites' own, Wilson intervals.

    Each site at its own operating point: sums of calls over sums of patients, whether or not the thresholds are one.
    Empty where no site sent any; without "precision" where no one is called positive.
    """
    sites = [e.figures[label] for e in evaluations if label in e.figures and e.figures[label].threshold is not None]
    if not sites:
        return {}
    true = sum(round(site.sensitivity.value * site.positives) for site in sites if site.sensitivity)
    right = sum(round(site.specificity.value * site.negatives) for site in sites if site.specificity)
    positives, negatives = sum(site.positives for site in sites), sum(site.negatives for site in sites)
    sensitivity, specificity, precision = proportions(true, positives, negatives - right, negatives)
    found = {"sensitivity": sensitivity, "specificity": specificity}
    return found if precision is None else {**found, "precision": precision}


def main_figure(evaluation: Evaluation, label: str, *, seed: int) -> Estimate | None:
    """A site's own figure of its task for a label, with its interval; None where it stays home.

    The exact area under the ROC curve, Dice of a structure, the FROC score of a kind of finding (whose interval is
    drawn from `seed`), or C of an event.
    """
    if label in evaluation.figures:
        return evaluation.figures[label].roc_auc
    if label in evaluation.overlaps:
        return evaluation.overlaps[label].dice.fraction_interval()
    if label in evaluation.detections:
        froc = merged_froc([evaluation.detections[label]])
        return None if froc is None else froc.interval(seed)
    return None if evaluation.concordance is None else evaluation.concordance.interval()


def macro_auc(evaluations: Iterable[Evaluation], labels: Iterable[str]) -> float | None:
    """The mean over `labels` of the merged area under the ROC curve.

    A label that no site may show is left out; None where all are.
    """
    held = list(evaluations)
    merged = [histogram for label in labels if (histogram := pooled(held, label)) is not None]
    return float(np.mean([histogram.roc_auc() for histogram in merged])) if merged else None


def mean_dice(evaluations: Iterable[Evaluation]) -> float | None:
    """The mean over structures of the mean Dice of all sites' patients; None where no site may show one."""
    held = list(evaluations)
    structures = sorted({structure for e in held for structure in e.overlaps})
    parts = [pooled_moments(e.overlaps[each].dice for e in held if each in e.overlaps) for each in structures]
    return _mean(part.mean for part in parts if part is not None)


def mean_froc(evaluations: Iterable[Evaluation]) -> float | None:
    """The mean over kinds of finding of the score of the merged FROC curve; None where no site may show one."""
    held = list(evaluations)
    kinds = sorted({kind for e in held for kind in e.detections})
    curves = [merged_froc(e.detections[kind] for e in held if kind in e.detections) for kind in kinds]
    return _mean(curve.score() for curve in curves if curve is not None)


def mean_loss(evaluations: Iterable[Evaluation]) -> float | None:
    """The mean loss of a patient over all sites; None where none sent any."""
    losses = [(e.loss, e.patients) for e in evaluations if e.loss is not None]
    return sum(loss * n for loss, n in losses) / sum(n for _, n in losses) if losses else None


def _mean(values: Iterable[float]) -> float | None:
    given = list(values)
    return float(np.mean(given)) if given else None


def primary_value(evaluations: Iterable[Evaluation], study: StudySpec) -> float | None:
    """The study's primary metric over all sites; None where the small-cell rule kept everything home.

    "roc_auc" is the merged area under the ROC curve of the positive label, or the mean over all labels in a study
    without one (`macro_auc`); "dice" is `mean_dice`, "c_index" the C of all sites' pairs, "froc" `mean_froc`, "loss"
    the mean loss of a patient.
    """
    held = list(evaluations)
    match study.evaluation.primary:
        case "roc_auc":
            return macro_auc(held, [study.cohort.labels[index] for index in _asked(study)])
        case "dice":
            return mean_dice(held)
        case "c_index":
            pairs = pooled_concordance(e.concordance for e in held if e.concordance is not None)
            return None if pairs is None else pairs.value
        case "froc":
            return mean_froc(held)
        case "loss":
            return mean_loss(held)


def site_primary(evaluation: Evaluation, study: StudySpec) -> float | None:
    """The study's primary metric of one site; the areas under the ROC curve are the exact ones, not a sketch's."""
    if study.evaluation.primary == "roc_auc":
        return _mean(figures.roc_auc.value for figures in evaluation.figures.values())
    return primary_value([evaluation], study)
