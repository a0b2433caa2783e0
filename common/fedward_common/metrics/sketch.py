"""A histogram of scores that may leave a site: each class in bins of its own that hold at least k of its patients."""

from collections.abc import Collection, Iterable, Sequence
from operator import ge
from typing import Annotated, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from fedward_common.metrics.base import Count, Floats, Ints, Parts, Record, as_classes

BINS = 1024
LOGIT_RANGE = 12.0  # the interior edges reach from 6e-6 to 1 - 6e-6; no bin is wider than 0.006


def _edges() -> Floats:
    interior = 1.0 / (1.0 + np.exp(-np.linspace(-LOGIT_RANGE, LOGIT_RANGE, BINS - 1)))
    edges = np.concatenate(([0.0], interior, [1.0])).round(12)  # processors differ in the last bits of exp
    edges.setflags(write=False)
    return edges


SCORE_EDGES: Floats = _edges()
"""The base grid [1025] over [0, 1], even in the logit, the same at every site. Bin i is [edge i, edge i + 1)."""


MIDDLES: Floats = (SCORE_EDGES[:-1] + SCORE_EDGES[1:]) / 2
"""The score [1024] at the middle of each base bin."""

LOGITS: Floats = np.clip(
    (np.arange(BINS) - (BINS - 1) / 2) * (2 * LOGIT_RANGE / (BINS - 2)),
    -LOGIT_RANGE,
    LOGIT_RANGE,
)
"""The logit [1024] at the middle of each base bin; the two outermost bins, open ones, stand at their finite edge."""

MOMENT_DIGITS = 2  # of a logit: less than a base bin is wide, and no more than the spread needs


def base_bins(scores: Floats) -> Ints:
    """The base bin, 0 to 1023, of each score in [0, 1]; the last bin holds 1.0 too."""
    return np.minimum(np.searchsorted(SCORE_EDGES, scores, side="right") - 1, BINS - 1).astype(np.int64)


def common_edges(
    bins: Ints, owners: Ints, parts: Parts, told: Collection[str], edges: Sequence[int], *, k: int
) -> list[int]:
    """Of the rising `edges` those between which each of the groups `told`, at least one, has something of `k` patients.

    So have all others together, or nothing at all. What is there lies in base `bins` [n] and is of the `owners` [n], of
    whom `parts` says in which group they are. A bin is closed as soon as it may be, left to right; what is left over
    joins the last, as in `ClassSketch`.
    """
    groups = [parts[name][owners] for name in told]
    rows = [own for own in (*groups, ~np.any(groups, axis=0)) if own.any()]
    return full_edges([(bins[own], owners[own]) for own in rows], edges, k=k)


def full_edges(rows: Iterable[tuple[Ints, Ints]], edges: Sequence[int], *, k: int) -> list[int]:
    """Of the rising `edges` those between which each of `rows`, base bins [n] and their owners [n], has `k` owners."""
    held = [_owners(edges, *row) for row in rows]
    left = [_so_many_from(own) for own in held]
    kept, inside = [edges[0]], [set[int]() for _ in held]
    for place, edge in enumerate(edges[1:-1], start=1):
        for own, new in zip(inside, held, strict=True):
            own.update(new[place - 1])
        if all(len(own) >= k for own in inside) and all(own[place] >= k for own in left):
            kept.append(edge)
            inside = [set() for _ in held]
    return [*kept, edges[-1]]


def _owners(edges: Sequence[int], bins: Ints, owners: Ints) -> list[set[int]]:
    """Whose are the bins between each edge and the next."""
    held: list[set[int]] = [set() for _ in edges[1:]]
    places = np.searchsorted(edges, bins, side="right") - 1
    for place, owner in zip(places.tolist(), owners.tolist(), strict=True):
        held[place].add(owner)
    return held


def _so_many_from(held: Sequence[set[int]]) -> list[int]:
    """How many there are in each set and all after it."""
    seen, counts = set[int](), list[int]()
    for owners in reversed(held):
        seen |= owners
        counts.append(len(seen))
    return counts[::-1]


class ClassSketch(Record):
    """How many patients of one class scored in each bin, and the mean and standard deviation of their scores' logits.

    `edges` are indices into `SCORE_EDGES`, rising from 0 to 1024; `counts` holds one count a bin between two edges. The
    moments are of the middles of base bins (`LOGITS`), rounded; 0 where there is no patient. Read from the wire,
    anything else is refused with a `pydantic.ValidationError`.
    """

    edges: Annotated[tuple[Annotated[int, Field(ge=0, le=BINS)], ...], Field(min_length=2, max_length=BINS + 1)]
    counts: Annotated[tuple[Count, ...], Field(min_length=1, max_length=BINS)]
    mean: Annotated[float, Field(ge=-LOGIT_RANGE, le=LOGIT_RANGE)]
    sd: Annotated[float, Field(ge=0.0, le=LOGIT_RANGE)]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.edges[0] != 0 or self.edges[-1] != BINS:
            raise ValueError(f"edges go from 0 to {BINS}, not from {self.edges[0]} to {self.edges[-1]}")
        if any(map(ge, self.edges, self.edges[1:])):
            raise ValueError("edges must rise from one to the next")
        if len(self.counts) != len(self.edges) - 1:
            raise ValueError(
                f"{len(self.edges)} edges make {len(self.edges) - 1} bins, but there are {len(self.counts)} counts"
            )
        return self

    @classmethod
    def of(cls, scores: Floats) -> Self:
        """The exact histogram on the base grid of one class's `scores` [n] in [0, 1]. Stays home."""
        bins = base_bins(scores)
        logits = LOGITS[bins] if bins.size else np.zeros(1)
        return cls(
            edges=tuple(range(BINS + 1)),
            counts=tuple(np.bincount(bins, minlength=BINS).tolist()),
            mean=round(float(logits.mean()), MOMENT_DIGITS),
            sd=round(float(logits.std()), MOMENT_DIGITS),
        )

    @property
    def total(self) -> int:
        """Patients of the class."""
        return sum(self.counts)

    def suppressed(self, k: int) -> Self | None:
        """Neighbouring bins merged until each holds at least `k` patients; None for fewer than `k` in all.

        Closing a bin as soon as it is full, left to right, keeps the most bins; what is left over joins the last. A `k`
        below 1 counts as 1.
        """
        k = max(k, 1)
        if self.total < k:
            return None
        return self.merged_at(self._cuts(k))

    def merged_at(self, cuts: Sequence[int]) -> Self:
        """Of the exact histogram: its bins joined, but for those that start at the rising `cuts`."""
        return type(self)(
            edges=(0, *(self._gap_middle(cut) for cut in cuts), BINS),
            counts=tuple(np.add.reduceat(self.counts, [0, *cuts]).tolist()),
            mean=self.mean,
            sd=self.sd,
        )

    def between(self, edges: Sequence[int]) -> Self:
        """Of the exact histogram: its bins joined between rising `edges` from 0 to 1024."""
        counts = np.add.reduceat(self.counts, edges[:-1])
        return type(self)(edges=tuple(edges), counts=tuple(counts.tolist()), mean=self.mean, sd=self.sd)

    def _cuts(self, k: int) -> list[int]:
        """Where the bins of `suppressed` part: the first own bin of each but the leftmost."""
        cuts = []
        inside, left = 0, self.total
        for end, count in enumerate(self.counts, start=1):
            inside, left = inside + count, left - count
            if left < k:
                break  # the rest could not fill a bin of its own
            if inside >= k:
                cuts.append(end)
                inside = 0
        return cuts

    def _gap_middle(self, start: int) -> int:
        """The edge halfway through the empty bins from `start` on: one right after a patient would tell that score."""
        end = next(i for i in range(start, len(self.counts)) if self.counts[i])
        return self.edges[(start + end) // 2]


class ScoreSketch(Record):
    """The scores of the patients with a label (positives) and without (negatives), each class in bins of its own."""

    positives: ClassSketch
    negatives: ClassSketch

    @classmethod
    def of(cls, scores: npt.ArrayLike, labels: npt.ArrayLike) -> Self:
        """The exact histograms on the base grid of `scores` [n] in [0, 1] with `labels` [n] of 0 and 1. Stays home."""
        positives, negatives = map(ClassSketch.of, as_classes(scores, labels))
        return cls(positives=positives, negatives=negatives)

    @property
    def total_positives(self) -> int:
        """Patients with the label."""
        return self.positives.total

    @property
    def total_negatives(self) -> int:
        """Patients without it."""
        return self.negatives.total

    def suppressed(self, k: int) -> Self | None:
        """Each class in bins of at least `k` of its patients; None where a class has fewer."""
        positives, negatives = self.positives.suppressed(k), self.negatives.suppressed(k)
        if positives is None or negatives is None:
            return None
        return type(self)(positives=positives, negatives=negatives)
