"""Statistics of a study's patients before training: what a site sends, and what several sites' add up to. Pure.

A patient counts once in each table: in the cell of the word that most of the patient's images have, or of the median
of their numbers. So a table's cells add up to the patients, which is what `metrics.cells.told` needs to keep small
cells home; a cell that stays home is None. Numbers are counted in bins that are the same at every site; those of grey
values fit every modality, from 2^-10 to 2^17 and down to -2^17.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Literal, Self, get_args

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from fedward_common.feature_scale import FeatureSums
from fedward_common.feature_statistics import FeatureCells, PooledFeature, pooled_features
from fedward_common.landmarks import LandmarkSums
from fedward_common.metrics.base import MAX_PATIENTS, Count, Floats, Ints, Record
from fedward_common.metrics.cells import told
from fedward_common.quantiles import SHARES, Part, Range, Span, growing_edges, quantile, range_of
from fedward_common.study_section import Slug, Version
from fedward_common.study_table import MAX_FEATURES, Name

Variable = Literal["label", "sex", "age", "modality", "manufacturer", "rows", "columns", "spacing_mm"]
VARIABLES: tuple[Variable, ...] = get_args(Variable)
Wanted = Literal["catalog", "pixels", "scale"]
Cells = Annotated[dict[Annotated[str, Field(min_length=1, max_length=256)], Count | None], Field(max_length=1100)]
Some = Annotated[int, Field(ge=1, le=MAX_PATIENTS)]

MISSING, OTHER = "(missing)", "(other)"  # cells of every table: no value is known; words that too few patients have
MOST_WORDS = 64  # cells of words that no study and no standard foresees, manufacturers for example
SEXES = ("F", "M", "O")  # PS3.3 C.7.1.1
EDGES: Mapping[Variable, tuple[float, ...]] = {  # of the bins; the last one has no end
    "age": tuple(range(0, 100, 10)),  # years
    "rows": (0, 64, 128, 192, 256, 320, 384, 512, 640, 768, 1024, 1536, 2048, 3072, 4096),  # pixels
    "columns": (0, 64, 128, 192, 256, 320, 384, 512, 640, 768, 1024, 1536, 2048, 3072, 4096),
    "spacing_mm": (0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1, 1.25, 1.5, 2, 3, 5),  # from row to row
}

UNIT = 10**6  # a share of pixels is rounded to a millionth
GREY_EDGES = growing_edges(range(-10, 17))
GREY_BINS = len(GREY_EDGES) + 1

GreyGroup = tuple[
    Annotated[int, Field(ge=0, lt=GREY_BINS)], Annotated[int, Field(ge=0, lt=GREY_BINS)], Annotated[int, Field(ge=0)]
]


class GreyValues(Record):
    """How grey values are spread over the pixels of an average patient, as the network's input has them before scaling.

    `groups` are (first bin, last bin, share of the pixels in millionths). Neighbouring bins are one group where a bin
    holds pixels of too few patients. How many patients had an image that could be read is not told: the difference to
    all would be a small cell.
    """

    groups: Annotated[tuple[GreyGroup, ...], Field(min_length=1, max_length=GREY_BINS)]

    @model_validator(mode="after")
    def _possible(self) -> Self:
        places = [place for first, last, _ in self.groups for place in (first, last + 0.5)]
        if places != sorted(places):
            raise ValueError("groups of bins must ascend, each bin in one of them")
        if sum(share for _, _, share in self.groups) > UNIT + GREY_BINS:
            raise ValueError("the groups hold more than all pixels")
        return self


class Statistics(Record):
    """A site's answer: tables (`wanted` "catalog"), grey values too ("pixels"), or sums for a scale ("scale").

    `patients` are those whom the study can train and score on. `unusable` ones have images that it takes, but no label
    that it knows, or no whole volume; they are in no table, so that a few of them hide no other cell.
    """

    site: Slug
    fedward: Version
    wanted: Wanted
    patients: Some
    images: Some
    unusable: Count | None
    tables: dict[Variable, Cells]
    grey_values: GreyValues | None = None  # of images
    feature_tables: dict[Name, FeatureCells] = Field(default_factory=dict, max_length=MAX_FEATURES)  # of rows of tables
    landmarks: LandmarkSums | None = None  # of images
    features: FeatureSums | None = None  # of rows of tables
    seconds: Annotated[float, Field(ge=0.0, le=1e9)]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        measures = self.wanted == "scale"
        if measures != ((self.landmarks is None) != (self.features is None)) or measures == bool(self.tables):
            raise ValueError(f"an answer to '{self.wanted}' holds something else")
        if self.grey_values is not None and self.wanted != "pixels":
            raise ValueError("grey values were not asked for")
        if measures and self.feature_tables:
            raise ValueError("tables of features were not asked for")
        if self.tables and self.tables.keys() != set(VARIABLES):
            raise ValueError(f"tables must be of {', '.join(VARIABLES)}")
        for variable, cells in self.tables.items():
            self._check_table(variable, cells)
        for name, feature in self.feature_tables.items():
            if not feature.adds_up_to(self.patients):
                raise ValueError(f"the cells of {name} do not add up to the patients")
        return self

    def _check_table(self, variable: Variable, cells: Cells) -> None:
        if variable in EDGES and cells.keys() != {*bins(variable), MISSING}:
            raise ValueError(f"{variable} has other bins than all sites have")
        shown = sum(count for count in cells.values() if count is not None)
        if shown > self.patients or (None not in cells.values() and shown != self.patients):
            raise ValueError(f"the cells of {variable} do not add up to the patients")


# At a site -----------------------------------------------------------------------------------------------------------


def bins(variable: Variable) -> tuple[str, ...]:
    """The names of a number's cells, "20 to 30" for 20 and more and less than 30."""
    edges = EDGES[variable]
    return (*(f"{low:g} to {high:g}" for low, high in pairwise(edges)), f"{edges[-1]:g} and more")


def told_alone(count: int, *, min_cell: int) -> int | None:
    """A count that no total includes, None where it stays home."""
    return told({"": count}, min_cell)[""]


def cell_of(variable: Variable, value: float | None) -> str:
    """The cell of a number, of none where it is not known."""
    if value is None:
        return MISSING
    return bins(variable)[max(int(np.searchsorted(EDGES[variable], value, side="right")) - 1, 0)]


def table(counts: Mapping[str, int], foreseen: Sequence[str], *, min_cell: int) -> dict[str, int | None]:
    """A table as it may leave: patients by cell, of which `foreseen` are told of in any case, with None or 0.

    Another word's cell is there where at least `min_cell` patients have it; the others' patients are in `OTHER`.
    """
    common = sorted(
        (word for word in counts.keys() - {*foreseen, MISSING} if counts[word] >= min_cell),
        key=lambda word: (-counts[word], word),
    )[:MOST_WORDS]
    cells = {word: counts.get(word, 0) for word in dict.fromkeys((*foreseen, *sorted(common), MISSING))}
    if rest := sum(counts.values()) - sum(cells.values()):
        cells[OTHER] = cells.get(OTHER, 0) + rest
    return told(cells, min_cell)


def grey_shares(values: npt.ArrayLike) -> Floats:
    """The shares [GREY_BINS] of an image's pixels in each bin; they add up to 1."""
    places = np.searchsorted(GREY_EDGES, np.asarray(values).ravel(), side="right")
    return np.bincount(places, minlength=GREY_BINS) / len(places)


def grouped(sums: Ints, touched: Ints, *, patients: int, min_cell: int) -> GreyValues | None:
    """Grey values as they may leave, of the sums over patients of their shares in millionths in each bin [GREY_BINS].

    `touched` [GREY_BINS] says how many patients have pixels in a bin.

    Each group begins at a bin that at least `min_cell` patients have pixels in. It takes in what follows up to the next
    such bin, or the end, where that holds fewer patients' pixels; so neither a rare value nor where it lies is told.
    None where no bin is of so many.
    """
    spans = _joined([(each, each) for each in np.flatnonzero(touched >= max(min_cell, 1)).tolist()], touched)
    if patients < min_cell or not spans:
        return None
    return GreyValues(
        groups=tuple((first, last, round(int(sums[first : last + 1].sum()) / patients)) for first, last in spans)
    )


def _joined(spans: Sequence[Span], touched: Ints) -> list[Span]:
    """Spans of bins that may be told of, each with what follows it; `touched` [bins] are those who are in a bin.

    Where somebody is between two spans, the first reaches up to the second; what is before the first or after the last
    makes it reach to the end. So neither how many are outside of the spans is told, nor where they are.
    """
    found: list[Span] = []
    for (first, last), (following, _) in pairwise([*spans, (len(touched), 0)]):
        begin = 0 if not found and touched[:first].any() else first
        found.append((begin, following - 1 if touched[last + 1 : following].any() else last))
    return found


# At the hub ----------------------------------------------------------------------------------------------------------


def parts_of(variable: Variable, cells: Mapping[str, int | None], patients: int) -> list[Part]:
    """A site's table of a number as weights. What its small-cell rule keeps home lies in one of the cells kept home."""
    names = bins(variable)
    known = [Part(place, place, count, count) for place, name in enumerate(names) if (count := cells[name]) is not None]
    kept = [place for place, name in enumerate(names) if cells[name] is None]
    rest = patients - sum(count for count in cells.values() if count is not None)
    least = 0 if cells[MISSING] is None else rest  # of some of them no number is known
    return [*known, Part(kept[0], kept[-1], least, rest)] if kept else known


class PooledTable(Record):
    """Several sites' tables as one: patients that are told of by cell, and how many sites keep a cell home."""

    cells: dict[str, int]
    kept_home: dict[str, int]  # by cell, sites
    not_told: int  # patients in cells that were kept home
    quantiles: dict[str, Range]  # of numbers


class Pooled(Record):
    """Several sites' statistics as one. A quantile is told as the bins that it lies in, never finer."""

    patients: int
    images: int
    unusable: int
    unusable_kept_home: int  # sites
    tables: dict[Variable, PooledTable]
    grey_values: dict[str, Range]  # quantiles; empty where no site sent them
    features: dict[str, PooledFeature] = Field(default_factory=dict)  # of tables


GREY_SHARES = {"1 %": 0.01, **SHARES, "99 %": 0.99}


def pooled(answers: Iterable[Statistics]) -> Pooled:
    """The statistics of several sites, whatever their order."""
    held = list(answers)
    grey = [
        Part(first, last, share * each.patients, share * each.patients)
        for each in held
        if each.grey_values is not None
        for first, last, share in each.grey_values.groups
    ]
    return Pooled(
        patients=sum(each.patients for each in held),
        images=sum(each.images for each in held),
        unusable=sum(each.unusable or 0 for each in held),
        unusable_kept_home=sum(each.unusable is None for each in held),
        tables={variable: _pooled_table(variable, held) for variable in VARIABLES},
        grey_values={
            name: range_of(found, GREY_EDGES) for name, share in GREY_SHARES.items() if (found := quantile(grey, share))
        },
        features=pooled_features([(each.feature_tables, each.patients) for each in held]),
    )


def _pooled_table(variable: Variable, answers: Sequence[Statistics]) -> PooledTable:
    tables = [each.tables[variable] for each in answers]
    names = _in_order(variable, {name for cells in tables for name in cells})
    parts = []
    if variable in EDGES:
        parts = [p for each in answers for p in parts_of(variable, each.tables[variable], each.patients)]
    cells = {name: sum(cells.get(name) or 0 for cells in tables) for name in names}
    kept = {name: sum(name in cells and cells[name] is None for cells in tables) for name in names}
    return PooledTable(
        cells=cells,
        kept_home={name: sites for name, sites in kept.items() if sites},
        not_told=sum(each.patients for each in answers) - sum(cells.values()),
        quantiles={
            name: _range(variable, found) for name, share in SHARES.items() if (found := quantile(parts, share))
        },
    )


def _in_order(variable: Variable, names: set[str]) -> list[str]:
    """Bins as they ascend, words by the alphabet, and last what is neither."""
    ascending = [*bins(variable), MISSING] if variable in EDGES else [*sorted(names - {OTHER, MISSING}), OTHER, MISSING]
    return [name for name in ascending if name in names]


def _range(variable: Variable, found: tuple[int, int]) -> tuple[float, float | None]:
    edges = EDGES[variable]
    return float(edges[found[0]]), float(edges[found[1] + 1]) if found[1] + 1 < len(edges) else None
