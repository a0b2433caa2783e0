"""The sketches of many sites merged at the hub, and what a clinician reads off them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np

from fedward_common.errors import RunError, StudyError
from fedward_common.metrics.base import Floats, Ints
from fedward_common.metrics.intervals import (
    LEVEL,
    Estimate,
    auc_score_interval,
    fraction_estimate,
    wilson_interval,
)
from fedward_common.metrics.sketch import BINS, MIDDLES, SCORE_EDGES, ClassSketch, ScoreSketch
from fedward_common.metrics.spread import spread
from fedward_common.streams import stream

OperatingRule = Literal["youden"] | Mapping[Literal["sensitivity"], float]
"""How an operating point is chosen: Youden's J, or the least sensitivity that is wanted."""

TOLERANCE = 1e-12  # shares of one histogram that differ by less differ by rounding


class RocCurve(NamedTuple):
    """Points of a ROC curve from (0, 0) to (1, 1): a patient is called positive at a score >= the threshold.

    Arrays of one length; thresholds fall, the first is infinite (no one is called positive).
    """

    fpr: Floats
    tpr: Floats
    thresholds: Floats


class PrecisionRecallCurve(NamedTuple):
    """Points of a precision-recall curve, recall rising: a patient is called positive at a score >= the threshold.

    Arrays of one length; thresholds fall.
    """

    recall: Floats
    precision: Floats
    thresholds: Floats


class OperatingPoint(NamedTuple):
    """What a threshold gives, each in [0, 1]; no precision where no one is called positive."""

    sensitivity: float
    specificity: float
    precision: float | None


class CalibrationGroup(NamedTuple):
    """Patients of similar score: their mean score, the share of them with the label (Wilson interval), their number."""

    predicted: float
    observed: Estimate
    patients: float


@dataclass(frozen=True)
class MergedHistogram:
    """Sketches of several sites on the base grid; made by `merge`.

    Where in a sketch's bins its patients are is what `spread` makes of it, so counts are fractions while the totals are
    exact. Figures that need a positive and a negative raise `RunError` where there is none.
    """

    sketches: tuple[ScoreSketch, ...]

    @cached_property
    def positives(self) -> Floats:
        """Patients with the label in each base bin [1024]."""
        return _total([sketch.positives for sketch in self.sketches])

    @cached_property
    def negatives(self) -> Floats:
        """Patients without the label in each base bin [1024]."""
        return _total([sketch.negatives for sketch in self.sketches])

    @property
    def total_positives(self) -> int:
        """Patients with the label, exact."""
        return sum(sketch.total_positives for sketch in self.sketches)

    @property
    def total_negatives(self) -> int:
        """Patients without the label, exact."""
        return sum(sketch.total_negatives for sketch in self.sketches)

    # The curve and the area under it ---------------------------------------------------------------------------------

    def roc(self) -> RocCurve:
        """The ROC curve, a point for each base bin that holds patients."""
        self._need_both_classes()
        held = np.flatnonzero(self.positives + self.negatives)[::-1]
        true, false = np.cumsum(self.positives[held]), np.cumsum(self.negatives[held])
        return RocCurve(
            fpr=np.concatenate(([0.0], false / false[-1])),
            tpr=np.concatenate(([0.0], true / true[-1])),
            thresholds=np.concatenate(([np.inf], SCORE_EDGES[held])),
        )

    def roc_auc(self) -> float:
        """The area under the ROC curve by trapezes: patients of one base bin count as tied."""
        self._need_both_classes()
        return float(np.clip(_areas(self.positives, self.negatives), 0.0, 1.0))

    def precision_recall(self) -> PrecisionRecallCurve:
        """The precision-recall curve, a point for each base bin that holds patients."""
        self._need_both_classes()
        held = np.flatnonzero(self.positives + self.negatives)[::-1]
        true, false = np.cumsum(self.positives[held]), np.cumsum(self.negatives[held])
        return PrecisionRecallCurve(
            recall=true / true[-1], precision=true / (true + false), thresholds=SCORE_EDGES[held]
        )

    def average_precision(self) -> float:
        """The area under the precision-recall curve in steps, in [0, 1]: the precisions, by how much recall each adds.

        Without a model it is the share of positives. Davis and Goadrich (2006), "The relationship between
        Precision-Recall and ROC curves", ICML: to join the points by lines would promise too much.
        """
        curve = self.precision_recall()
        return float(np.clip(np.diff(curve.recall, prepend=0.0) @ curve.precision, 0.0, 1.0))

    def roc_auc_interval(self, seed: int, replicates: int = 2000, level: float = LEVEL) -> Estimate:
        """The area with its percentile bootstrap interval; patients are drawn off the histogram, each class on its own.

        Efron & Tibshirani (1993), "An Introduction to the Bootstrap", ch. 13. The draws come from the stream
        ("bootstrap", "roc_auc") of `seed`. Where all replicates agree, as for classes that no bin shares, the bootstrap
        would claim certainty: then the interval is `auc_score_interval`.
        """
        auc = self.roc_auc()
        rng = stream(seed, "bootstrap", "roc_auc")
        held = np.flatnonzero(self.positives + self.negatives)
        positives, negatives = (
            rng.multinomial(total, counts[held] / counts[held].sum(), size=replicates)
            for total, counts in ((self.total_positives, self.positives), (self.total_negatives, self.negatives))
        )
        areas = _areas(positives, negatives)
        if np.ptp(areas) < TOLERANCE:
            return auc_score_interval(auc, self.total_positives, self.total_negatives, level)
        low, high = np.quantile(areas, [(1 - level) / 2, (1 + level) / 2])
        return fraction_estimate(auc, low, high)

    def tied(self) -> float:
        """The share of pairs of a positive and a negative that fall into one base bin, where no order is known."""
        self._need_both_classes()
        return float(self.positives @ self.negatives / (self.positives.sum() * self.negatives.sum()))

    def auc_uncertainty(self) -> float:
        """Half the width of the areas that some order of patients within their bins could give, in [0, 0.5].

        What bins alone leave open, however likely the order that `spread` finds; beside the sampling error that
        `roc_auc_interval` gives.
        """
        self._need_both_classes()
        positives, negatives = ([getattr(one, side) for one in self.sketches] for side in ("positives", "negatives"))
        least = np.sum(_at_edge(positives, 0) * np.cumsum(_at_edge(negatives, 1)))
        most = np.sum(_at_edge(positives, 1)[1:] * np.cumsum(_at_edge(negatives, 0))[:-1])
        return float(most - least) / (2.0 * self.total_positives * self.total_negatives)

    # Operating points ------------------------------------------------------------------------------------------------

    def threshold(self, rule: OperatingRule) -> float:
        """The threshold in [0, 1) that `rule` chooses: an edge of the base grid, to be applied as score >= threshold.

        "youden" maximises J = sensitivity + specificity - 1 (Youden 1950, "Index for rating diagnostic tests", Cancer
        3:32-35), the middle of equally good ones; {"sensitivity": x} is the highest with a sensitivity of at least x.
        """
        self._need_both_classes()
        sensitivity, fall_out = _share_from(self.positives), _share_from(self.negatives)
        if rule == "youden":
            index = sensitivity - fall_out
            best = np.flatnonzero(index >= index.max() - TOLERANCE)
            return float(SCORE_EDGES[best[best.size // 2]])
        if "sensitivity" not in rule:
            raise StudyError(
                '[evaluation] operating_point must be "youden" or name a sensitivity: { sensitivity = 0.95 }'
            )
        return float(SCORE_EDGES[np.flatnonzero(sensitivity >= rule["sensitivity"] - TOLERANCE)[-1]])

    def at(self, threshold: float) -> OperatingPoint:
        """What calling scores >= `threshold` positive gives; between two edges of the base grid, interpolated."""
        self._need_both_classes()
        true, false = (_share_at_or_above(counts, threshold) for counts in (self.positives, self.negatives))
        called = true * self.total_positives + false * self.total_negatives
        return OperatingPoint(
            sensitivity=true,
            specificity=1 - false,
            precision=true * self.total_positives / called if called > 0 else None,
        )

    # How far scores are probabilities --------------------------------------------------------------------------------

    def brier(self) -> float:
        """Mean squared difference of score and outcome, in [0, 1], with each patient at the middle of a base bin.

        Brier (1950), "Verification of forecasts expressed in terms of probability", Monthly Weather Review 78:1-3.
        """
        self._need_patients()
        squares = self.positives * (1 - MIDDLES) ** 2 + self.negatives * MIDDLES**2
        return float(squares.sum() / (self.positives.sum() + self.negatives.sum()))

    def calibration(self, bins: int = 10) -> tuple[CalibrationGroup, ...]:
        """Predicted against observed in up to `bins` groups of like size in rising order of score ("deciles of risk").

        Hosmer & Lemeshow (1980), Communications in Statistics A9:1043-1069. A base bin goes whole into one group, so
        groups are fewer where many patients share a score. There are no more groups than patients, and none of less
        than half a patient, which a spread can leave between two crowded scores.
        """
        self._need_patients()
        counts = self.positives + self.negatives
        bins = min(bins, self.total_positives + self.total_negatives)
        rank = (np.cumsum(counts) - counts / 2) / counts.sum()
        group = np.minimum((rank * bins).astype(np.int64), bins - 1)
        patients, with_label, scores = (
            np.bincount(group, weights=weights, minlength=bins)
            for weights in (counts, self.positives, counts * MIDDLES)
        )
        return tuple(
            CalibrationGroup(float(score / n), wilson_interval(min(float(y), float(n)), float(n)), float(n))
            for n, y, score in zip(patients, with_label, scores, strict=True)
            if n >= 0.5
        )

    def calibration_error(self, bins: int = 10) -> float:
        """The mean distance of score and outcome over the groups of `calibration`, by their patients, in [0, 1].

        Naeini, Cooper and Hauskrecht (2015), "Obtaining well calibrated probabilities using Bayesian binning", AAAI;
        with groups of like size, as many scores of a study lie close together.
        """
        groups = self.calibration(bins)
        gaps = sum(group.patients * abs(group.observed.value - group.predicted) for group in groups)
        return float(gaps / sum(group.patients for group in groups))

    def _need_patients(self) -> None:
        if self.total_positives + self.total_negatives == 0:
            raise RunError("no patient is in the merged scores, so they have no figures; let more sites take part")

    def _need_both_classes(self) -> None:
        if not (self.total_positives and self.total_negatives):
            raise RunError(
                "the merged scores hold no positive or no negative patient, so there is no ROC curve of them"
            )


def merge(sketches: Iterable[ScoreSketch]) -> MergedHistogram:
    """All sites' sketches as one histogram: the same bits in whatever order they come."""
    return MergedHistogram(tuple(sorted(sketches, key=ScoreSketch.model_dump_json)))


def _total(sketches: list[ClassSketch]) -> Floats:
    total = np.sum([np.zeros(BINS), *map(spread, sketches)], axis=0)
    total.setflags(write=False)
    return np.asarray(total, dtype=np.float64)


def _at_edge(sketches: list[ClassSketch], upper: Literal[0, 1]) -> Floats:
    """Counts [1025], each bin's patients moved to its lower (0) or upper (1) edge."""
    moved = np.zeros(BINS + 1)
    for sketch in sketches:
        edges = sketch.edges[1:] if upper else sketch.edges[:-1]
        moved += np.bincount(edges, weights=sketch.counts, minlength=BINS + 1)
    return moved


def _areas(positives: Floats | Ints, negatives: Floats | Ints) -> Floats:
    """Areas under the ROC curve [...] of counts [..., bins]: pairs in the right order, ties counting half."""
    below = np.cumsum(negatives, axis=-1, dtype=np.float64) - negatives / 2
    pairs = positives.sum(axis=-1, dtype=np.float64) * negatives.sum(axis=-1, dtype=np.float64)
    return np.asarray((positives * below).sum(axis=-1) / pairs, dtype=np.float64)


def _share_from(counts: Floats) -> Floats:
    """For each base bin, the share of `counts` in it and above."""
    upwards = np.cumsum(counts[::-1])[::-1]
    return np.asarray(upwards / upwards[0], dtype=np.float64)


def _share_at_or_above(counts: Floats, threshold: float) -> float:
    return float(np.interp(threshold, SCORE_EDGES, np.append(_share_from(counts), 0.0)))
