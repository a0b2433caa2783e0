"""Statistics of a table's features before training: what a site tells of each, and what several sites' add up to. Pure.

A patient counts once, with the mean of the patient's rows. Bins grow from 2^-20 to 2^40 and down to -2^40, so that they
fit features of any unit; a site tells of spans of them that hold enough patients each.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from fedward_common.metrics.base import Count, Floats, Ints, Record
from fedward_common.quantiles import SHARES, Part, Range, Span, growing_edges, quantile, range_of

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


def levels_kept_home(columns: Mapping[str, npt.ArrayLike], *, min_cell: int, lacking: bool = False) -> set[str]:
    """The features "column=level", by name with their values [patients], that nothing may be told of.

    Levels of one column are told together or not at all: how many patients are of none of them follows from the others.
    `lacking`: where counts are told, several levels beside each other also tell how few lack them.
    """
    of_column: dict[str, list[str]] = {}
    for name in columns:
        column, equals, _ = name.partition("=")
        if equals:
            of_column.setdefault(column, []).append(name)
    kept: set[str] = set()
    for names in of_column.values():
        levels = np.array([np.asarray(columns[name], dtype=np.float64) for name in names])
        known = np.isfinite(levels).all(axis=0)
        there = (levels > 0) & known
        counts = [known.sum() - there.any(axis=0).sum(), *there.sum(axis=1)]
        if lacking and len(names) > 1:
            counts.append((~known).sum())
        if any(0 < count < min_cell for count in counts):
            kept.update(names)
    return kept


def table_cells(columns: Mapping[str, npt.ArrayLike], *, min_cell: int) -> dict[str, FeatureCells]:
    """What may be told of the features of a table, each with its values [patients], NaN where one is missing."""
    kept = levels_kept_home(columns, min_cell=min_cell, lacking=True)
    return {
        name: NOTHING if name in kept else feature_cells(values, min_cell=min_cell) for name, values in columns.items()
    }


def feature_cells(values: npt.ArrayLike, *, min_cell: int) -> FeatureCells:
    """What may be told of one feature's `values` [patients], NaN where one is missing.

    Spans are halves of halves of all bins, halved on as long as each half holds nobody or enough patients: `min_cell`,
    or of many patients the `MOST_SPANS`-th part. So of a span that was not halved on, nobody can tell which half holds
    few, or how few. Before that, as many of the least values become the next one, and of the greatest likewise: nothing
    is told of who lies far out, nor does one such patient keep everything in one span. Where few lack the feature, the
    span in the middle of the list is not told either; where even that would leave little doubt how few, nothing is.
    """
    table = np.asarray(values, dtype=np.float64)
    known = np.sort(table[np.isfinite(table)])
    missing, few = len(table) - len(known), max(min_cell, 1)
    if 0 < len(known) < few or (few > 1 and len(table) < 2 * few):
        return NOTHING
    lacks_few = 0 < missing < few
    least = max(few, -(-(len(table) if lacks_few else len(known)) // MOST_SPANS), 3 if few > 1 else 1)
    sure = len(table) - few + 1 if lacks_few else len(known)  # of whom it can be told that they have it
    spans, counts = _ALL, [len(known)]
    if sure >= 2 * least + 3:
        spans, counts = _halved(known, least) if few == 1 else _spans(known, least)
    if lacks_few:
        middle = len(spans) // 2
        if few == 2 or counts[middle] + missing - least - 1 < few - 1:
            return NOTHING
        shown: list[int | None] = [*counts[:middle], None, *counts[middle + 1 :]]
        return FeatureCells(missing=None, cells=_cells(spans, shown))
    return FeatureCells(missing=missing, cells=_cells(spans, counts) if len(known) else ())


_ALL: list[Span] = [(0, BINS - 1)]
NOTHING = FeatureCells(missing=None, cells=((0, BINS - 1, None),))


def _cells(spans: Sequence[Span], counts: Sequence[int | None]) -> tuple[tuple[int, int, int | None], ...]:
    return tuple((first, last, count) for (first, last), count in zip(spans, counts, strict=True))


def _spans(known: Floats, least: int) -> tuple[list[Span], list[int]]:
    """Spans, and how many patients of `known` (ascending) are in each; the outermost reach to the ends.

    As many as became one value are at the outer end of an outermost span. Where one more is in it, that one would be
    told: then it becomes that value too.
    """
    spans, held = _halved(np.clip(known, known[least], known[-least - 1]), least)
    low, high = (least + (count == least + 2) for count in (held[0], held[-1]))
    spans, held = _halved(np.clip(known, known[low], known[-high - 1]), least)
    spans[0] = (0, spans[0][1])
    spans[-1] = (spans[-1][0], BINS - 1)
    return spans, held


def _halved(known: Floats, least: int) -> tuple[list[Span], list[int]]:
    counts = np.bincount(np.searchsorted(EDGES, known, side="right"), minlength=BINS)
    spans = _halves(counts, (0, BINS - 1), least)
    return spans, [int(counts[first : last + 1].sum()) for first, last in spans]


def _halves(counts: Ints, span: Span, least: int) -> list[Span]:
    first, last = span
    middle = (first + last) // 2
    halves = [(first, middle), (middle + 1, last)]
    held = [int(counts[begin : end + 1].sum()) for begin, end in halves]
    if not any(held):
        return []
    if first == last or any(0 < count < least for count in held):
        return [span]
    return [each for half in halves for each in _halves(counts, half, least)]


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
