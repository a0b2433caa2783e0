"""A site's own figures for one label, computed where the scores are; only finished numbers leave."""

from typing import Self

import numpy as np
import numpy.typing as npt
from pydantic import model_validator

from fedward_common.errors import RecordError, RunError
from fedward_common.metrics.base import Count, Floats, Fraction, Ints, Record, as_classes
from fedward_common.metrics.intervals import Estimate, FractionEstimate, delong_interval, wilson_interval


class SiteFigures(Record):
    """A model's figures on one site's patients for one label, exact, with 95 % intervals.

    `roc_auc` has DeLong's interval; `sensitivity`, `specificity` and `precision` are at `threshold` (score >= threshold
    is a positive call), with Wilson's, and None without one; `precision` is None too when no patient is called
    positive.
    """

    patients: Count
    positives: Count
    negatives: Count
    roc_auc: FractionEstimate
    sensitivity: FractionEstimate | None
    specificity: FractionEstimate | None
    precision: FractionEstimate | None
    brier: Fraction
    threshold: Fraction | None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.positives or not self.negatives or self.patients != self.positives + self.negatives:
            raise ValueError(
                f"{self.patients} patients cannot be {self.positives} positives and {self.negatives} negatives; "
                "figures need at least one of each"
            )
        without = self.threshold is None
        if (self.sensitivity is None) != without or (self.specificity is None) != without:
            raise ValueError("sensitivity and specificity come with a threshold, and not without one")
        if self.precision is not None and without:
            raise ValueError("precision comes with a threshold only")
        return self


def site_figures(
    scores: npt.ArrayLike, labels: npt.ArrayLike, *, threshold: float | None, min_cell: int
) -> SiteFigures | None:
    """The figures of patients' `scores` [n] in [0, 1] for `labels` [n] of 0 and 1.

    None when there are fewer than `min_cell` positives or negatives: such figures would tell of single patients. Raises
    `RecordError` for a `threshold` outside [0, 1], `RunError` for scores that are.
    """
    if threshold is not None and not 0 <= threshold <= 1:
        raise RecordError(f"the threshold {threshold} is not between 0 and 1; choose one on the scale of the scores")
    positives, negatives = as_classes(scores, labels)
    if min(positives.size, negatives.size) < max(min_cell, 1):
        return None
    squares = float(np.sum((1 - positives) ** 2) + np.sum(negatives**2))
    sensitivity, specificity, precision = (
        (None, None, None) if threshold is None else _calls(positives, negatives, threshold)
    )
    return SiteFigures(
        patients=positives.size + negatives.size,
        positives=positives.size,
        negatives=negatives.size,
        roc_auc=delong_interval(scores, labels),
        sensitivity=sensitivity,
        specificity=specificity,
        precision=precision,
        brier=min(squares / (positives.size + negatives.size), 1.0),
        threshold=None if threshold is None else float(threshold),
    )


def _calls(positives: Floats, negatives: Floats, threshold: float) -> tuple[Estimate, Estimate, Estimate | None]:
    true, false = int(np.count_nonzero(positives >= threshold)), int(np.count_nonzero(negatives >= threshold))
    return proportions(true, positives.size, false, negatives.size)


def proportions(true: int, positives: int, false: int, negatives: int) -> tuple[Estimate, Estimate, Estimate | None]:
    """Sensitivity, specificity and precision of `true` and `false` positive calls among `positives` and `negatives`."""
    called = true + false
    return (
        wilson_interval(true, positives),
        wilson_interval(negatives - false, negatives),
        wilson_interval(true, called) if called else None,
    )


def patient_scores(scores: npt.ArrayLike, patients: npt.ArrayLike) -> tuple[Ints, Floats]:
    """Each of `patients` [n] once, rising, and the mean of that patient's `scores` [n] or [n, classes]."""
    values, index = np.asarray(scores, dtype=np.float64), np.asarray(patients, dtype=np.int64)
    if index.ndim != 1 or values.shape[:1] != index.shape:
        raise RunError(f"scores of shape {values.shape} need one patient each, not {index.shape}")
    unique, inverse, images = np.unique(index, return_inverse=True, return_counts=True)
    sums = np.zeros((unique.size, *values.shape[1:]))
    np.add.at(sums, inverse, values)
    return unique, sums / images.reshape(-1, *(1,) * (values.ndim - 1))
