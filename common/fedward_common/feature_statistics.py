"""Statistics of a table's features before training: what a site tells of each, and what several sites' add up to. Pure.

A patient counts once, with the mean of the patient's rows. Bins grow from 2^-20 to 2^40 and down to -2^40, so that they
fit features of any unit; a site tells of spans of them that hold enough patients each.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from fedward_common.metrics.base import Count, Ints, Record
from fedward_common.metrics.cells import told
from fedward_common.quantiles import SHARES, Part, Range, Span, growing_edges, joined, quantile, range_of

EDGES = growing_edges(range(-20, 40))
NEAREST_ZERO = 2.0**-20  # the edge of the bin that 0 is in
BINS = len(EDGES) + 1
MOST_SPANS = 64  # more than a plot shows

Bin = Annotated[int, Field(ge=0, lt=BINS)]


class FeatureCells(Record):
    """A feature at a site: of how many patients it is `missing`, and the others by spans of bins, None kept home.

    `cells` are (first bin, last bin, patients), ascending; where there is no cell, there is nobody.
    """

    missing: Count | None
    cells: Annotated[tuple[tuple[Bin, Bin, Count | None], ...], Field(max_length=MOST_SPANS + 1)]

    @model_validator(mode="after")
    def _possible(self) -> Self:
        places = [place for first, last, _ in self.cells for place in (first, last + 0.5)]
        if places != sorted(places):
            raise ValueError("spans of bins must ascend, each bin in one of them")
        return self

    @property
    def told(self) -> int:
        """The patients who are in a cell that is told of."""
        return (self.missing or 0) + sum(count or 0 for _, _, count in self.cells)

    def adds_up_to(self, patients: int) -> bool:
        """Whether the cells can be those of so many patients."""
        whole = self.missing is not None and all(count is not None for _, _, count in self.cells)
        return self.told == patients if whole else self.told <= patients

    def parts(self, patients: int) -> list[Part]:
        """The patients whose value is known as weights; those kept home are in one of the spans kept home."""
        known = [Part(first, last, count, count) for first, last, count in self.cells if count is not None]
        kept = [(first, last) for first, last, count in self.cells if count is None]
        rest = patients - self.told
        return [*known, Part(kept[0][0], kept[-1][1], 0 if self.missing is None else rest, rest)] if kept else known


# At a site -----------------------------------------------------------------------------------------------------------


def feature_cells(values: npt.ArrayLike, *, min_cell: int) -> FeatureCells:
    """What may be told of a feature's `values` [patients], NaN where one is missing.

    Spans are halves of halves of all bins, halved on while one half holds enough patients: `min_cell`, or of many
    patients the `MOST_SPANS`-th part. What holds fewer is joined to what is beside it (`joined`).
    """
    table = np.asarray(values, dtype=np.float64)
    known = table[np.isfinite(table)]
    counts = np.bincount(np.searchsorted(EDGES, known, side="right"), minlength=BINS)
    least = max(min_cell, -(-len(known) // MOST_SPANS), 1)
    spans = joined(_halves(counts, (0, BINS - 1), least), counts)
    if not spans and len(known):
        spans = [(0, BINS - 1)]
    held = {f"{first}": int(counts[first : last + 1].sum()) for first, last in spans}
    shown = told({"": len(table) - len(known), **held}, min_cell)
    return FeatureCells(missing=shown[""], cells=tuple((first, last, shown[f"{first}"]) for first, last in spans))


def _halves(counts: Ints, span: Span, least: int) -> list[Span]:
    first, last = span
    if counts[first : last + 1].sum() < least:
        return []
    if first == last:
        return [span]
    middle = (first + last) // 2
    return [*_halves(counts, (first, middle), least), *_halves(counts, (middle + 1, last), least)] or [span]


# At the hub ----------------------------------------------------------------------------------------------------------


class PooledFeature(Record):
    """Several sites' cells of a feature as one: how many patients lack it, and quantiles as the bins they lie in."""

    missing: int
    missing_kept_home: int  # sites
    quantiles: dict[str, Range]


def pooled_features(sites: Iterable[tuple[Mapping[str, FeatureCells], int]]) -> dict[str, PooledFeature]:
    """The features of several sites, of so many patients each; features in the order of the first site that has any."""
    held = list(sites)
    names = dict.fromkeys(name for features, _ in held for name in features)
    return {name: _pooled([(each[name], patients) for each, patients in held if name in each]) for name in names}


def _pooled(held: list[tuple[FeatureCells, int]]) -> PooledFeature:
    parts = [part for each, patients in held for part in each.parts(patients)]
    return PooledFeature(
        missing=sum(each.missing or 0 for each, _ in held),
        missing_kept_home=sum(each.missing is None for each, _ in held),
        quantiles={name: range_of(found, EDGES) for name, share in SHARES.items() if (found := quantile(parts, share))},
    )
