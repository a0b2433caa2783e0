"""A histogram of scores that may leave a site: each bin holds at least k patients with the label and k without."""

from itertools import pairwise
from typing import Annotated, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from fedward_common.metrics.base import Count, Floats, Ints, Record, as_classes

BINS = 1024
LOGIT_RANGE = 12.0  # the interior edges reach from 6e-6 to 1 - 6e-6; no bin is wider than 0.006


def _edges() -> Floats:
    interior = 1.0 / (1.0 + np.exp(-np.linspace(-LOGIT_RANGE, LOGIT_RANGE, BINS - 1)))
    edges = np.concatenate(([0.0], interior, [1.0])).round(12)  # processors differ in the last bits of exp
    edges.setflags(write=False)
    return edges


SCORE_EDGES: Floats = _edges()
"""The base grid [1025] over [0, 1], even in the logit, the same at every site. Bin i is [edge i, edge i + 1)."""


def base_bins(scores: Floats) -> Ints:
    """The base bin, 0 to 1023, of each score in [0, 1]; the last bin holds 1.0 too."""
    return np.minimum(np.searchsorted(SCORE_EDGES, scores, side="right") - 1, BINS - 1).astype(np.int64)


class ScoreSketch(Record):
    """How many patients with a label (positives) and without (negatives) scored in each bin.

    `edges` are indices into `SCORE_EDGES`, rising from 0 to 1024; `positives` and `negatives` hold one count a bin
    between two edges. Read from the wire, anything else is refused with a `pydantic.ValidationError`.
    """

    edges: Annotated[tuple[Annotated[int, Field(ge=0, le=BINS)], ...], Field(min_length=2, max_length=BINS + 1)]
    positives: Annotated[tuple[Count, ...], Field(min_length=1, max_length=BINS)]
    negatives: Annotated[tuple[Count, ...], Field(min_length=1, max_length=BINS)]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.edges[0] != 0 or self.edges[-1] != BINS:
            raise ValueError(f"edges go from 0 to {BINS}, not from {self.edges[0]} to {self.edges[-1]}")
        if any(left >= right for left, right in pairwise(self.edges)):
            raise ValueError("edges must rise from one to the next")
        if not len(self.positives) == len(self.negatives) == len(self.edges) - 1:
            raise ValueError(
                f"{len(self.edges)} edges make {len(self.edges) - 1} bins, but there are {len(self.positives)} counts "
                f"of positives and {len(self.negatives)} of negatives"
            )
        return self

    @classmethod
    def of(cls, scores: npt.ArrayLike, labels: npt.ArrayLike) -> Self:
        """The exact histogram on the base grid of `scores` [n] in [0, 1] with `labels` [n] of 0 and 1. Stays home."""
        positives, negatives = (
            tuple(np.bincount(base_bins(part), minlength=BINS).tolist()) for part in as_classes(scores, labels)
        )
        return cls(edges=tuple(range(BINS + 1)), positives=positives, negatives=negatives)

    @property
    def total_positives(self) -> int:
        """Patients with the label."""
        return sum(self.positives)

    @property
    def total_negatives(self) -> int:
        """Patients without it."""
        return sum(self.negatives)

    def suppressed(self, k: int) -> Self | None:
        """Neighbouring bins merged until each holds at least `k` positives and `k` negatives; None where none can.

        Closing a bin as soon as it is full, left to right, keeps the most bins; what is left over joins the last. A `k`
        below 1 counts as 1.
        """
        k = max(k, 1)
        if min(self.total_positives, self.total_negatives) < k:
            return None
        cuts = self._cuts(k)
        starts = [0, *(cut for cut, _ in cuts)]
        return type(self)(
            edges=(0, *(edge for _, edge in cuts), BINS),
            positives=tuple(np.add.reduceat(self.positives, starts).tolist()),
            negatives=tuple(np.add.reduceat(self.negatives, starts).tolist()),
        )

    def _cuts(self, k: int) -> list[tuple[int, int]]:
        """Where the bins of `suppressed` part: (first own bin of the right-hand one, edge on the base grid)."""
        cuts = []
        positives = negatives = 0
        left_positives, left_negatives = self.total_positives, self.total_negatives
        for index, (more_positives, more_negatives) in enumerate(zip(self.positives, self.negatives, strict=True)):
            positives, negatives = positives + more_positives, negatives + more_negatives
            left_positives, left_negatives = left_positives - more_positives, left_negatives - more_negatives
            if min(left_positives, left_negatives) < k:
                break  # the rest could not fill a bin of its own
            if min(positives, negatives) >= k:
                cuts.append((index + 1, self._gap_middle(index + 1)))
                positives = negatives = 0
        return cuts

    def _gap_middle(self, start: int) -> int:
        """The edge halfway through the empty bins from `start` on: one right after a patient would tell that score."""
        end = next(i for i in range(start, len(self.positives)) if self.positives[i] or self.negatives[i])
        return self.edges[(start + end) // 2]
