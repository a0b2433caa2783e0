"""Statistics of features: spans of enough patients each, what stays home, and where a pooled quantile lies."""

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedward_common.feature_statistics import (
    BINS,
    EDGES,
    NOTHING,
    FeatureCells,
    feature_cells,
    pooled_features,
    table_cells,
)
from fedward_common.quantiles import Range, range_of

K, NAN = 5, float("nan")
VALUE = st.one_of(
    st.just(float("nan")),
    st.integers(0, 3).map(float),
    st.integers(20, 90).map(float),
    st.floats(-1e30, 1e30),
)
VALUES = st.lists(VALUE, min_size=1, max_size=120)


def ranges(cells: FeatureCells) -> list[tuple[Range, int | None]]:
    return [(range_of((first, last), EDGES), count) for first, last, count in cells.cells]


@given(values=VALUES, k=st.integers(1, 8))
def test_no_small_cell_leaves(values: list[float], k: int) -> None:
    found = feature_cells(values, min_cell=k)
    counts = [found.missing, *(count for _, _, count in found.cells)]
    assert found.missing in {None, int(np.isnan(values).sum())}
    assert all(count is None or count == 0 or count >= k for count in counts)
    assert found.adds_up_to(len(values))


def everybody(patients: int, places: int) -> Iterator[tuple[int, ...]]:
    """Every way to put so many patients into so many places."""
    if places == 1:
        yield (patients,)
        return
    for here in range(patients + 1):
        for others in everybody(patients - here, places - 1):
            yield here, *others


@pytest.mark.parametrize("values", [(NAN, 1.0, 1.1, 3.0, 1e6), (NAN, 0.0, 1.0), (NAN, 1.0, 1.045, 1.09, 1.2)], ids=str)
@pytest.mark.parametrize("k", [2, 3, 4, 5])
def test_few_patients_do_not_follow_from_what_is_told(values: tuple[float, ...], k: int) -> None:
    """Even for who knows all values that there can be: each count of few is one of several that fit an answer."""
    for patients in range(k, 13):
        fits = defaultdict(list)
        for counts in everybody(patients, len(values)):
            told = feature_cells(np.repeat(values, counts), min_cell=k)
            fits[told].append(counts)
        for told, all_counts in fits.items():
            for value, possible in zip(values, map(set, zip(*all_counts, strict=True)), strict=True):
                assert len(possible) > 1 or not 0 < min(possible) < k, (told, value, possible)


@given(values=VALUES, k=st.integers(1, 8))
def test_each_patient_is_in_a_span(values: list[float], k: int) -> None:
    found = feature_cells(values, min_cell=k)
    known = np.array(values)[np.isfinite(values)]
    held = np.zeros(len(known), bool)
    for (low, high), count in ranges(found):
        inside = (known >= (-np.inf if low is None else low)) & (known < (np.inf if high is None else high))
        assert not (held & inside).any()
        held |= inside
        assert count is None or abs(count - inside.sum()) <= max(k, 3) + 1  # who lies far out may be told as nearer
    assert held.all()
    assert found.missing is None or found.told + sum(c is None for _, _, c in found.cells) >= len(known)


@given(sites=st.lists(VALUES, min_size=1, max_size=3), share=st.sampled_from([0.05, 0.25, 0.5, 0.75, 0.95]))
def test_a_pooled_quantile_lies_where_it_is_said_to(sites: list[list[float]], share: float) -> None:
    """Whatever stays home, of how many patients a value is missing too: the oracle is numpy's quantile of all."""
    pooled = pooled_features(
        ({"volume": feature_cells(values, min_cell=K)}, len(values)) for values in sites
    )["volume"]  # fmt: skip
    known = np.concatenate(sites)[np.isfinite(np.concatenate(sites))]
    if not len(known):
        assert {*pooled.quantiles.values()} <= {(None, None)}
        return
    low, high = pooled.quantiles[f"{share * 100:g} %"]
    exact = np.quantile(known, share, method="inverted_cdf")
    assert low is None or low <= exact
    assert high is None or exact < high


def test_words_are_told_apart_and_numbers_to_within_a_few_percent() -> None:
    chest_pain = feature_cells([1] * 20 + [2] * 50 + [3] * 80 + [4] * 150, min_cell=K)
    assert [count for _, _, count in chest_pain.cells] == [20, 50, 80, 150]
    for word, (low, high) in zip((1, 2, 3, 4), (span for span, _ in ranges(chest_pain)), strict=True):
        assert (low or word) <= word < (high or 1.05 * word)
        assert 0.95 * word < (low or word)
        assert (high or word) < 1.05 * word
    ages = feature_cells(np.random.default_rng(0).normal(55, 9, 2000), min_cell=K)
    low, high = pooled_features([({"age": ages}, 2000)])["age"].quantiles["50 %"]
    assert low is not None
    assert high is not None
    assert low < 55 < high < 1.05 * low


def test_one_patients_odd_value_is_neither_seen_nor_placed() -> None:
    usual = [40.0] * 30 + [60.0] * 30
    [*_, ((low, high), count)] = ranges(feature_cells([*usual, 9e5], min_cell=K))
    assert low == pytest.approx(60, rel=0.05)
    assert (high, count) == (None, 31)
    assert feature_cells([*usual, 9e5], min_cell=K) == feature_cells([*usual, 70.0], min_cell=K)


def test_a_few_who_lack_it_hide_the_smallest_cell_too() -> None:
    found = feature_cells([40.0] * 30 + [60.0] * 9 + [float("nan")] * 2, min_cell=K)
    assert found.missing is None
    assert [count for _, _, count in found.cells] == [30, None]
    assert feature_cells([40.0] * 30 + [60.0] * 7 + [NAN], min_cell=K) == NOTHING, "6 have 60 at least"
    pooled = pooled_features([({"volume": found}, 41)])["volume"]
    assert (pooled.missing, pooled.missing_kept_home) == (0, 1)


def test_the_levels_of_a_column_are_told_together_or_not_at_all() -> None:
    """Of whom no level is told, few would follow from the others; so would few who lack it."""
    second, third = np.repeat([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], (8, 40, 52), axis=0).T
    levels = {"cp=2": second, "cp=3": third, "age": second}
    assert [count for _, _, count in table_cells(levels, min_cell=5)["cp=2"].cells] == [60, 40]
    kept = table_cells(levels, min_cell=10)
    assert kept["cp=2"] == kept["cp=3"] == NOTHING
    assert kept["age"] != NOTHING
    lacks = {name: np.append(values, [NAN, NAN]) for name, values in levels.items()}
    assert table_cells(lacks, min_cell=5)["cp=3"] == NOTHING


def test_what_few_or_none_have_says_nothing_of_its_values() -> None:
    few = feature_cells([40.0] * 3 + [float("nan")] * 30, min_cell=K)
    assert few == NOTHING == FeatureCells(missing=None, cells=((0, BINS - 1, None),))
    assert feature_cells([float("nan")] * 30, min_cell=K) == FeatureCells(missing=30, cells=())


def test_a_site_of_many_patients_tells_of_few_spans() -> None:
    found = feature_cells(np.random.default_rng(0).lognormal(0, 3, 100_000), min_cell=K)
    assert 30 < len(found.cells) <= 64
    assert sum(count or 0 for _, _, count in found.cells) == 100_000
