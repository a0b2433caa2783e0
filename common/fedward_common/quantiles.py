"""Where a quantile of values counted in bins lies, some counts of which nobody tells. Pure.

Bins that grow by a factor tell a quantile to within that factor, whatever the values' unit (Masson, Rim and Lee 2019,
"DDSketch: a fast and fully-mergeable quantile sketch with relative-error guarantees", PVLDB 12(12):2195-2205).
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from fedward_common.metrics.base import Floats

_PER_OCTAVE = 16
SHARES = {"5 %": 0.05, "25 %": 0.25, "50 %": 0.5, "75 %": 0.75, "95 %": 0.95}

Span = tuple[int, int]  # a first and a last bin
Range = tuple[float | None, float | None]  # from, up to and not including; None is without end


def growing_edges(octaves: range) -> Floats:
    """The inner edges of bins around 0, alike on both sides: each is 2^(1/16), 1.044, times the one before it.

    Bin i is from edge i - 1 up to, not including, edge i; the outermost bins are endless.
    """
    above = np.array([2.0 ** (o + step / _PER_OCTAVE) for o in octaves for step in range(_PER_OCTAVE)])
    above = np.append(above, 2.0**octaves.stop)
    return np.concatenate([-above[::-1], above])


class Part(NamedTuple):
    """A weight of `least` to `most` that lies somewhere from a first to a last bin."""

    first: int
    last: int
    least: int
    most: int


def quantile(parts: Iterable[Part], share: float) -> Span | None:
    """The first and the last bin that the quantile of a `share` (0 to 1) may be in, None where there is no weight."""
    held = [part for part in parts if part.most > 0]
    if not held:
        return None

    def reached(placed: Iterable[tuple[int, int, int]], beyond: int) -> int:
        """The first place up to which there may be enough: what is there as it counts there, the rest as beyond it."""
        place, excess = 0, -share * beyond
        for place, there, elsewhere in sorted(placed):  # noqa: B007 - the place where it stops is the answer
            excess += (1.0 - share) * there + share * elsewhere
            if excess >= -1e-9 * beyond:
                break
        return place

    return (
        reached(((p.first, p.most, p.least) for p in held), sum(p.least for p in held)),
        reached(((p.last, p.least, p.most) for p in held), sum(p.most for p in held)),
    )


def range_of(span: Span, edges: Sequence[float] | Floats) -> Range:
    """From where to where bins reach whose inner edges are `edges`."""
    first, last = span
    return (float(edges[first - 1]) if first else None), (float(edges[last]) if last < len(edges) else None)
