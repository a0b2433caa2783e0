"""Free-response ROC of detections: which findings a model's boxes hit, at how many false alarms an image."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple, Self

import numpy as np
from pydantic import Field

from fedward_common.errors import RunError
from fedward_common.metrics.base import MAX_PATIENTS, Count, Floats, Ints, Parts, Record, as_probabilities
from fedward_common.metrics.cells import counts_in, told_groups
from fedward_common.metrics.intervals import LEVEL, Estimate, fraction_estimate, wilson_interval
from fedward_common.metrics.sketch import BINS, SCORE_EDGES, ClassSketch, base_bins, common_edges, full_edges
from fedward_common.metrics.spread import spread
from fedward_common.streams import stream

RATES = (1 / 8, 1 / 4, 1 / 2, 1.0, 2.0, 4.0, 8.0)
"""False positives an image at which LUNA16 asks for the sensitivity."""

_DRAWN = np.arange(0, BINS, 8)  # an interval needs no finer bins than eight together

MISSED = -1.0  # the score of a finding that no box hits
_MISSED_BIN = -1  # below all bins of hits


class ImageHits(NamedTuple):
    """What the boxes of one image did: each finding's best score, `MISSED` where none, and each false alarm's."""

    findings: Floats
    false_positives: Floats


def image_hits(boxes: Floats, scores: Floats, truth: Floats) -> ImageHits:
    """Match `boxes` [m, 2 * dimensions] with `scores` [m] in [0, 1] to `truth` [t, 2 * dimensions], of the same kind.

    A box is its lowest corner, then its highest, in the order of the image's axes. A box hits a finding where its
    centre is in the ellipsoid that fills the true box, the nearest in units of half the true box where several do: for
    a round finding that is LUNA16's rule, a centre within the radius (Setio et al. 2017, "Validation, comparison, and
    combination of algorithms for automatic detection of pulmonary nodules", Medical Image Analysis 42:1-13). It is kind
    to boxes of the wrong size, which a reader forgives and an overlap of small boxes would not. A finding scores by its
    best box, and more boxes that hit it are neither right nor wrong; a box that hits none is a false positive.
    """
    if boxes.shape != (scores.size, truth.shape[1]):
        raise RunError(f"{scores.size} scored boxes of shape {boxes.shape} do not fit true boxes {truth.shape}")
    findings, own = np.full(len(truth), MISSED), as_probabilities(scores)
    if not len(truth):
        return ImageHits(findings, own)
    dimensions = truth.shape[1] // 2
    low, high = truth[:, :dimensions], truth[:, dimensions:]
    half = np.maximum((high - low) / 2, np.finfo(np.float64).tiny)
    centres = (boxes[:, :dimensions] + boxes[:, dimensions:]) / 2
    away = (((centres[:, None] - (low + high) / 2) / half) ** 2).sum(axis=2)
    nearest = away.argmin(axis=1)
    hit = away[np.arange(len(boxes)), nearest] <= 1
    np.maximum.at(findings, nearest[hit], own[hit])
    return ImageHits(findings, own[~hit])


class Detections(Record):
    """A model's boxes of one kind of finding in a site's images, as counts by score.

    Each bin of a sketch counts findings, or false positives, of at least k patients; `missed` are findings of none or
    at least k. None stands for no hit, no false positive.
    """

    images: Annotated[int, Field(ge=1, le=MAX_PATIENTS)]
    hits: ClassSketch | None
    missed: Count
    false_positives: ClassSketch | None

    @property
    def findings(self) -> int:
        """All true boxes, hit or not."""
        return self.missed + (0 if self.hits is None else self.hits.total)

    @classmethod
    def of(cls, images: Sequence[ImageHits], patients: Ints, k: int) -> Self | None:
        """Of a site's `images` and their `patients` [images]; None of too few patients with a finding or false alarm.

        Where fewer than `k` patients have a missed finding, those with the lowest scores count as missed too, up to
        `k` patients; where fewer than `k` are left with a hit, none is told of. So sensitivity is told too low, never
        too high.
        """
        findings, owners, false, blamed = _boxes(images, patients)
        if np.unique(owners).size < max(k, 1) or 0 < np.unique(blamed).size < k:
            return None
        order = np.argsort(findings, kind="stable")
        missed = _missed(findings[order], owners[order], k)
        hit = order[missed:]
        return cls(
            images=len(images),
            hits=_sketch(findings[hit], owners[hit], k),
            missed=missed,
            false_positives=_sketch(false, blamed, k),
        )

    def of_groups(self, images: Sequence[ImageHits], patients: Ints, parts: Parts, k: int) -> dict[str, Self]:
        """Those of groups of the patients of whose `images` this is, as far as they may be told beside it.

        A group that is told has at least `k` patients with a finding and, where there are any, `k` with a false
        positive; so have all others together, or nobody is left. Their bins are some of these joined. Where of a group
        findings of some but fewer than `k` patients were missed, or hit, the lowest bins of hits of all groups count as
        missed too; where that is all of them, no group is told.
        """
        findings, owners, false, blamed = _boxes(images, patients)
        told = told_groups(counts_in(parts, np.unique(owners), np.unique(blamed)), k)
        if not told:
            return {}
        bins, hit = base_bins(np.maximum(findings, 0)), np.ones(findings.size, dtype=bool)
        hit[np.argsort(findings, kind="stable")[: self.missed]] = False
        bins[~hit] = _MISSED_BIN
        edges, first = self.hits.edges if self.hits else (0, BINS), 0  # `first`: bin of a hit
        if any(_few(parts, told, owners[each], k) for each in (hit, ~hit)):
            joined = common_edges(bins, owners, parts, told, (_MISSED_BIN, *edges), k=k)
            first = joined[1]
        else:
            joined = common_edges(bins[hit], owners[hit], parts, told, edges, k=k)
        if first == BINS:
            return {}
        wrong = self.false_positives.edges if self.false_positives else (0, BINS)
        wrong = tuple(common_edges(base_bins(false), blamed, parts, told, wrong, k=k))
        return {
            name: type(self)(
                images=int(np.count_nonzero(part[patients])),
                hits=_between(findings[part[owners] & (bins >= first)], sorted({0, *joined} - {_MISSED_BIN})),
                missed=int(np.count_nonzero(part[owners] & (bins < first))),
                false_positives=_between(false[part[blamed]], wrong),
            )
            for name, part in parts.items()
            if name in told
        }


def _boxes(images: Sequence[ImageHits], patients: Ints) -> tuple[Floats, Ints, Floats, Ints]:
    """Scores of all findings [n] and of all false positives [m] of `images`, and the patient of each."""
    findings = np.concatenate([image.findings for image in images])
    false = np.concatenate([image.false_positives for image in images])
    owners = np.repeat(patients, [image.findings.size for image in images])
    blamed = np.repeat(patients, [image.false_positives.size for image in images])
    return findings, owners, false, blamed


def _few(parts: Parts, told: Collection[str], owners: Ints, k: int) -> bool:
    """Whether of a group that is told, or of all others together, 1 to `k` - 1 patients are among `owners`."""
    counts = {name: sum(own) for name, own in counts_in(parts, np.unique(owners)).items()}
    others = sum(count for name, count in counts.items() if name not in told)
    return any(0 < count < k for count in (*(counts[name] for name in told), others))


def _between(scores: Floats, edges: Sequence[int]) -> ClassSketch | None:
    return ClassSketch.of(scores).between(edges) if scores.size else None


def _missed(scores: Floats, owners: Ints, k: int) -> int:
    """How many of the findings, in rising order of score, count as missed."""
    missed = int(np.count_nonzero(scores < 0))
    while 0 < missed < scores.size and np.unique(owners[:missed]).size < k:
        missed += 1
    return scores.size if np.unique(owners[missed:]).size < k else missed


def _sketch(scores: Floats, owners: Ints, k: int) -> ClassSketch | None:
    """The histogram of `scores` [n] in bins that each hold some of at least `k` of the `owners` [n]; None of none."""
    if not scores.size:
        return None
    edges = full_edges([(base_bins(scores), owners)], range(BINS + 1), k=k)
    return ClassSketch.of(scores).merged_at(edges[1:-1])


class FrocPoints(NamedTuple):
    """Points of a FROC curve from (0, 0) on, arrays of one length: a box counts at a score >= the threshold."""

    false_positives: Floats  # an image
    sensitivity: Floats
    thresholds: Floats


@dataclass(frozen=True)
class Froc:
    """The detections of one or more sites on the base grid: `hits` and `false_positives` [1024], as fractions."""

    images: int
    findings: int
    hits: Floats
    false_positives: Floats

    def curve(self) -> FrocPoints:
        """The curve, a point for each base bin that holds something (Bunch et al. 1978, J. Appl. Photogr. Eng. 4)."""
        held = np.flatnonzero(self.hits + self.false_positives)[::-1]
        false, true = _curves(self.hits[held], self.false_positives[held], self)
        return FrocPoints(false, true, np.concatenate(([np.inf], SCORE_EDGES[held])))

    def sensitivities(self) -> Floats:
        """Sensitivity at `RATES` false positives an image, [7]; between two points of the curve on a line."""
        found = self.curve()
        at_rates: Floats = np.interp(RATES, found.false_positives, found.sensitivity)
        return at_rates

    def score(self) -> float:
        """The mean of `sensitivities`: LUNA16's score, the competition performance metric."""
        return float(np.clip(self.sensitivities().mean(), 0.0, 1.0))

    def interval(self, seed: int, replicates: int = 500, level: float = LEVEL) -> Estimate:
        """The score with its percentile bootstrap interval, findings and false positives drawn off the histogram.

        The draws come from the stream ("bootstrap", "froc") of `seed`. Where all replicates agree the interval is
        Wilson's, of a share of the findings.
        """
        rng, score = stream(seed, "bootstrap", "froc"), self.score()
        hits, false = (np.add.reduceat(counts[::-1], _DRAWN) for counts in (self.hits, self.false_positives))
        shares = np.concatenate(([max(self.findings - self.hits.sum(), 0.0)], hits))
        true = rng.multinomial(self.findings, shares / shares.sum(), size=replicates)[:, 1:].astype(np.float64)
        wrong = rng.poisson(false, size=(replicates, false.size)).astype(np.float64)
        drawn = [float(np.interp(RATES, *_curves(*pair, self)).mean()) for pair in zip(true, wrong, strict=True)]
        if np.ptp(drawn) == 0:
            return wilson_interval(score * self.findings, self.findings, level)
        low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
        return fraction_estimate(score, low, high)


def _curves(hits: Floats, false: Floats, of: Froc) -> tuple[Floats, Floats]:
    """False positives an image, and sensitivity, of counts by falling score."""
    return (
        np.concatenate(([0.0], np.cumsum(false) / of.images)),
        np.concatenate(([0.0], np.cumsum(hits) / of.findings)),
    )


def merged_froc(parts: Iterable[Detections]) -> Froc | None:
    """The detections of several sites together; None where no site tells of a finding."""
    held = [part for part in parts if part.findings]
    if not held:
        return None

    def total(sketches: Iterable[ClassSketch | None]) -> Floats:
        return sum((spread(one) for one in sketches if one is not None), np.zeros(BINS))

    return Froc(
        images=sum(part.images for part in held),
        findings=sum(part.findings for part in held),
        hits=total(part.hits for part in held),
        false_positives=total(part.false_positives for part in held),
    )
