"""Intervals that say how sure a figure is: Wilson for proportions, DeLong for the area under the ROC curve."""

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Annotated, Self

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, model_validator

from fedward_common.errors import RunError
from fedward_common.metrics.base import Floats, Record, as_classes

LEVEL = 0.95
HALVINGS = 100  # of [0, 1]: further than float64 resolves


class Estimate(Record):
    """A figure and its interval, 95 % unless said otherwise: finite, `low` <= `value` <= `high`."""

    value: float
    low: float
    high: float

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.low <= self.value <= self.high:
            raise ValueError(f"{self.value} is not within its own interval {self.low} to {self.high}")
        return self


def _is_fraction(estimate: Estimate) -> Estimate:
    if estimate.low < 0 or estimate.high > 1:
        raise ValueError(f"{estimate.low} to {estimate.high} is not within 0 and 1")
    return estimate


FractionEstimate = Annotated[Estimate, AfterValidator(_is_fraction)]
"""An estimate of something between 0 and 1."""


def fraction_estimate(value: float, low: float, high: float) -> Estimate:
    """An `Estimate` within [0, 1]; an end that rounding or a skew bootstrap puts past the value moves to the value."""
    value = min(max(float(value), 0.0), 1.0)
    return Estimate(value=value, low=max(min(float(low), value), 0.0), high=min(max(float(high), value), 1.0))


def normal_quantile(level: float) -> float:
    """The z of a two-sided interval: 1.96 for 0.95."""
    return NormalDist().inv_cdf((1 + level) / 2)


def t_quantile(level: float, freedom: int) -> float:
    """Student's t of a two-sided interval, to 1 % from 3 degrees of freedom on: 2.78 for 0.95 and 4.

    Abramowitz & Stegun (1964), "Handbook of Mathematical Functions", 26.7.5: the normal quantile and four corrections.
    """
    z, n = normal_quantile(level), max(freedom, 1)
    return (
        z
        + (z**3 + z) / (4 * n)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3)
        + (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * n**4)
    )


def wilson_interval(successes: float, trials: float, level: float = LEVEL) -> Estimate:
    """A proportion with its score interval; never empty, never outside [0, 1], also for 0 or all of `trials` > 0.

    Wilson (1927), "Probable inference, the law of succession, and statistical inference", JASA 22:209-212; the form
    recommended by Newcombe (1998), Statistics in Medicine 17:857-872. Counts may be fractions, off a merged histogram.
    """
    if not 0 <= successes <= trials or trials <= 0:
        raise RunError(f"{successes} of {trials} is no proportion")
    z2 = normal_quantile(level) ** 2
    value = successes / trials
    centre = (value + z2 / (2 * trials)) / (1 + z2 / trials)
    half = math.sqrt(z2 * (value * (1 - value) / trials + z2 / (4 * trials**2))) / (1 + z2 / trials)
    return fraction_estimate(value, centre - half, centre + half)


def delong_interval(scores: npt.ArrayLike, labels: npt.ArrayLike, level: float = LEVEL) -> Estimate:
    """The area under the ROC curve of `scores` [n] for `labels` [n] of 0 and 1, with DeLong's interval.

    DeLong, DeLong & Clarke-Pearson (1988), "Comparing the areas under two or more correlated receiver operating
    characteristic curves: a nonparametric approach", Biometrics 44:837-845; taken on the logit scale, so that it stays
    within [0, 1] and covers better near 1 (Pepe 2003, "The Statistical Evaluation of Medical Tests for Classification
    and Prediction", ch. 5). Where DeLong's variance is zero, as for perfectly separated classes (AUC 1) or one score
    for all, it would claim certainty, and with a single positive or negative there is none: the interval is
    `auc_score_interval`.
    """
    positives, negatives = as_classes(scores, labels)
    if not positives.size or not negatives.size:
        raise RunError("an area under the ROC curve needs at least one positive and one negative")
    # Structural components: each patient's share of the other class on the right side, ties counting half.
    over = _share_below(negatives, positives)
    under = 1.0 - _share_below(positives, negatives)
    auc = float(over.mean())
    if min(over.size, under.size) < 2 or (np.ptp(over) == 0 and np.ptp(under) == 0):
        return auc_score_interval(auc, positives.size, negatives.size, level)
    variance = float(over.var(ddof=1)) / over.size + float(under.var(ddof=1)) / under.size
    return logit_interval(auc, variance, level)


def logit_interval(value: float, variance: float, level: float = LEVEL) -> Estimate:
    """A figure strictly between 0 and 1 with the interval of its `variance`, normal on the logit scale."""
    half = normal_quantile(level) * math.sqrt(variance) / (value * (1 - value))
    centre = math.log(value / (1 - value))
    return fraction_estimate(value, _expit(centre - half), _expit(centre + half))


def _share_below(others: Floats, scores: Floats) -> Floats:
    """For each of `scores`, the share of `others` below it, ties counting half."""
    ordered = np.sort(others)
    below, upto = np.searchsorted(ordered, scores, side="left"), np.searchsorted(ordered, scores, side="right")
    return np.asarray((below + upto) / (2.0 * others.size), dtype=np.float64)


def _expit(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def auc_score_interval(auc: float, positives: int, negatives: int, level: float = LEVEL) -> Estimate:
    """The score interval of an area under the ROC curve from its value and the class sizes alone; not empty even at 1.

    Newcombe (2006), "Confidence intervals for an effect size measure based on the Mann-Whitney statistic. Part 2",
    Statistics in Medicine 25:559-573, method 5: the areas A with |auc - A| <= z sqrt(V(A)), V being the variance of
    Hanley & McNeil (1982), Radiology 143:29-36, at A itself, each class size in its covariances replaced by their mean.
    """
    z2 = normal_quantile(level) ** 2
    mean_size = (positives + negatives) / 2 - 1

    def beyond(area: float) -> bool:
        spread = 1 + mean_size * ((1 - area) / (2 - area) + area / (1 + area))
        return (auc - area) ** 2 > z2 * area * (1 - area) * spread / (positives * negatives)

    return fraction_estimate(auc, _bisect(beyond, 0.0, auc), _bisect(beyond, 1.0, auc))


def _bisect(beyond: Callable[[float], bool], outside: float, inside: float) -> float:
    """The border between `outside`, where `beyond` holds, and `inside`, where it does not."""
    for _ in range(HALVINGS):
        middle = (outside + inside) / 2
        outside, inside = (middle, inside) if beyond(middle) else (outside, middle)
    return inside
