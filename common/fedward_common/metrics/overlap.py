"""How well masks cover the truth: Dice and surface distances of an image, and what of them leaves a site."""

import math
from collections.abc import Iterable, Sequence
from typing import Annotated, NamedTuple, Self

import numpy as np
from pydantic import Field, model_validator

from fedward_common.errors import RunError
from fedward_common.metrics.base import MAX_PATIENTS, Bools, Floats, Parts, Record
from fedward_common.metrics.cells import counts_in, told_groups
from fedward_common.metrics.intervals import LEVEL, Estimate, fraction_estimate, t_quantile, wilson_interval
from fedward_common.metrics.sketch import MIDDLES, ClassSketch, base_bins, common_edges
from fedward_common.metrics.spread import spread

MAX_MM = 1e6  # of a distance; no image is larger
TOLERANCE = 1e-9  # of a share of patients, for rounding


class MaskScores(NamedTuple):
    """One image's scores by structure, arrays [structures] with NaN where there is no score.

    `surface_mm` is the mean symmetric surface distance, `hausdorff_mm` the 95 % Hausdorff distance.
    """

    dice: Floats
    surface_mm: Floats
    hausdorff_mm: Floats


def mask_scores(predicted: Bools, truth: Bools, spacing_mm: Sequence[float] | None) -> MaskScores:
    """The scores of masks `predicted` against `truth`, both bool [structures, *size], each structure by itself.

    Dice (1945), "Measures of the amount of ecologic association between species", Ecology 26:297-302. A surface is a
    mask's voxels that touch the outside by a face. Of the distances from each surface's voxels to the other surface,
    `surface_mm` is the mean over both surfaces, `hausdorff_mm` the larger of the two 95th percentiles (Maier-Hein et
    al. 2024, "Metrics reloaded", Nature Methods 21:195-212). `spacing_mm` [dimensions] is between voxels' centres; no
    distance without it. Where a structure is in neither mask Dice is 1, as brain tumour challenges have it (Bakas 2018,
    arXiv:1811.02629): whose Dice counts must not depend on what a model found. Where it is in one only, Dice is 0.
    There is a distance where both have it. `RunError` where the shapes differ.
    """
    if predicted.shape != truth.shape:
        raise RunError(f"masks of shape {predicted.shape} cannot be held against a truth of shape {truth.shape}")
    axes = tuple(range(1, truth.ndim))
    both, total = (predicted & truth).sum(axis=axes), predicted.sum(axis=axes) + truth.sum(axis=axes)
    distances = np.full((len(truth), 2), np.nan)
    if spacing_mm is not None:
        for index in np.flatnonzero(predicted.any(axis=axes) & truth.any(axis=axes)):
            distances[index] = _distances(predicted[index], truth[index], spacing_mm)
    dice = np.divide(2.0 * both, total, out=np.ones(len(truth)), where=total > 0)
    return MaskScores(dice, distances[:, 0], distances[:, 1])


def _distances(predicted: Bools, truth: Bools, spacing_mm: Sequence[float]) -> tuple[float, float]:
    """The mean symmetric surface distance and the 95 % Hausdorff distance of two masks that are not empty."""
    from scipy import ndimage  # type: ignore[import-untyped]  # sites have it, a hub need not

    (box,) = ndimage.find_objects((predicted | truth).astype(np.int8))
    surfaces = [mask[box] & ~ndimage.binary_erosion(mask[box]) for mask in (predicted, truth)]
    ways = [
        ndimage.distance_transform_edt(~other, sampling=spacing_mm)[own] for own, other in (surfaces, surfaces[::-1])
    ]
    return float(np.concatenate(ways).mean()), max(float(np.percentile(way, 95)) for way in ways)


_SAME = 1e-9  # a standard deviation that rounding alone makes of equal values


class Moments(Record):
    """Mean and standard deviation (of a sample, n - 1; 0 for one) of a figure over patients."""

    patients: Annotated[int, Field(ge=1, le=MAX_PATIENTS)]
    mean: Annotated[float, Field(ge=0.0, le=MAX_MM)]
    sd: Annotated[float, Field(ge=0.0, le=MAX_MM)]

    @classmethod
    def of(cls, values: Floats) -> Self:
        """Those of `values` [patients], at least one."""
        return cls(patients=values.size, mean=float(values.mean()), sd=float(values.std(ddof=min(values.size - 1, 1))))

    def interval(self, level: float = LEVEL) -> Estimate:
        """The mean with Student's interval, not below 0."""
        half = t_quantile(level, self.patients - 1) * self.sd / math.sqrt(self.patients) if self.sd else 0.0
        return Estimate(value=self.mean, low=max(self.mean - half, 0.0), high=self.mean + half)

    def fraction_interval(self, level: float = LEVEL) -> Estimate:
        """`interval` of a figure in [0, 1]; Wilson's where all patients have the same, which is no certainty."""
        if self.sd < _SAME:
            return wilson_interval(min(self.mean, 1.0) * self.patients, self.patients, level)
        found = self.interval(level)
        return fraction_estimate(found.value, found.low, found.high)


def pooled_moments(parts: Iterable[Moments]) -> Moments | None:
    """The moments of all patients together, exact; None of nothing."""
    held = list(parts)
    if not held:
        return None
    n = sum(part.patients for part in held)
    mean = sum(part.patients * part.mean for part in held) / n
    squares = sum((part.patients - 1) * part.sd**2 + part.patients * (part.mean - mean) ** 2 for part in held)
    return Moments(patients=n, mean=mean, sd=math.sqrt(squares / max(n - 1, 1)))


class Overlap(Record):
    """A model's masks of one structure on a site's patients: a patient counts once, as the mean over its images.

    Each figure is of at least k patients, and as many as lack it: either none or at least k. Distances are of the
    patients that have the structure in the model's mask and in the true one; None of fewer than k.
    """

    dice: Moments
    histogram: ClassSketch  # of the patients' Dice
    surface_mm: Moments | None
    hausdorff_mm: Moments | None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.dice.mean > 1 or self.histogram.total != self.dice.patients:
            raise ValueError("Dice is between 0 and 1, and its histogram is of the same patients")
        distances = (self.surface_mm, self.hausdorff_mm)
        if any(found is not None and found.patients > self.dice.patients for found in distances):
            raise ValueError("distances are of no more patients than Dice")
        return self

    @classmethod
    def of(cls, scores: MaskScores, k: int) -> Self | None:
        """Of patients' `scores` of one structure, arrays [patients] with NaN where there is none; None of too few.

        Were fewer than `k` patients without a score, the difference to the site's patients would tell of them: then as
        many others as it takes are left out too, the first in order, whatever their scores.
        """
        scored, far = _taking_part(scores, k)
        histogram = ClassSketch.of(scores.dice[scored]).suppressed(k)
        if histogram is None:
            return None
        return cls._with(histogram, scores, scored, far if np.count_nonzero(far) >= max(k, 1) else None)

    def of_groups(self, scores: MaskScores, parts: Parts, k: int) -> dict[str, Self]:
        """Those of groups of the patients of whose `scores` this is, as far as they may be told beside it.

        The same patients take part. A group that is told has at least `k` of them and, where some do not, `k` who do
        not; so have all others together, or nobody is left. So it is with distances among those with a Dice.
        """
        scored, far = _taking_part(scores, k)
        told = told_groups(counts_in(parts, np.flatnonzero(scored), np.flatnonzero(~scored)), k)
        if not told:
            return {}
        among, measured = {name: part & scored for name, part in parts.items()}, set[str]()
        if self.surface_mm is not None:
            measured = told_groups(counts_in(among, np.flatnonzero(far), np.flatnonzero(scored & ~far)), k, among=told)
        bins = base_bins(scores.dice[scored])
        edges = common_edges(bins, np.flatnonzero(scored), parts, told, self.histogram.edges, k=k)
        return {
            name: self._with(
                ClassSketch.of(scores.dice[own]).between(edges), scores, own, own & far if name in measured else None
            )
            for name, own in among.items()
            if name in told
        }

    @classmethod
    def _with(cls, histogram: ClassSketch, scores: MaskScores, scored: Bools, far: Bools | None) -> Self:
        """Of the patients that are `scored`, with distances of those that are `far`."""
        return cls(
            dice=Moments.of(scores.dice[scored]),
            histogram=histogram,
            surface_mm=None if far is None else Moments.of(scores.surface_mm[far]),
            hausdorff_mm=None if far is None else Moments.of(scores.hausdorff_mm[far]),
        )


def dice_percentiles(overlaps: Sequence[Overlap], percents: Sequence[float] = (5, 25, 50, 75, 95)) -> Floats:
    """Percentiles of the Dice of all sites' patients [percents], off their histograms: within a bin they are modelled.

    `overlaps` are at least one, of one structure.
    """
    counts = np.sum([spread(one.histogram) for one in overlaps], axis=0)
    shares = np.cumsum(counts) / counts.sum()
    return MIDDLES[np.searchsorted(shares, np.asarray(percents) / 100 - TOLERANCE)]


def _taking_part(scores: MaskScores, k: int) -> tuple[Bools, Bools]:
    """Which patients count in Dice, and which of these in distances."""
    scored = _covered(~np.isnan(scores.dice), np.ones(scores.dice.size, dtype=bool), k)
    return scored, _covered(scored & ~np.isnan(scores.surface_mm), scored, k)


def _covered(having: Bools, among: Bools, k: int) -> Bools:
    """`having` [patients] less the first few, so that of those `among` whom they are none or at least `k` are not."""
    kept = having.copy()
    lacking = np.count_nonzero(among & ~having)
    if 0 < lacking < k:
        kept[np.flatnonzero(having)[: k - lacking]] = False
    return kept
