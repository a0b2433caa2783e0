"""Statistics of patients: what a table and grey values tell, what they keep home, and where a pooled quantile lies."""

import json
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from flwr.app import ConfigRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fedward_common.cohort_statistics import (
    EDGES,
    GREY_BINS,
    GREY_EDGES,
    MISSING,
    OTHER,
    UNIT,
    VARIABLES,
    Cells,
    Statistics,
    Variable,
    bins,
    cell_of,
    grey_shares,
    grouped,
    pooled,
    table,
)
from fedward_common.errors import RecordError
from fedward_common.quantiles import Part, quantile
from fedward_common.records import read_answer

K = 5
AGES: st.SearchStrategy[list[int | None]] = st.lists(st.none() | st.integers(0, 90), min_size=K, max_size=80)


def tables(ages: Sequence[int | None], makers: list[str] | None = None, *, min_cell: int = K) -> dict[Variable, Cells]:
    """Tables of patients of whom only ages (and makers) are known."""
    unknown = {MISSING: len(ages)}
    found = {name: table(unknown, bins(name) if name in EDGES else (), min_cell=min_cell) for name in VARIABLES}
    found["age"] = table(Counter(cell_of("age", age) for age in ages), bins("age"), min_cell=min_cell)
    if makers is not None:
        found["manufacturer"] = table(Counter(makers), (), min_cell=min_cell)
    return found


def answer(ages: Sequence[int | None], *, site: str = "north", **more: Any) -> Statistics:
    return Statistics.model_validate({
        "site": site, "fedward": "0.1.0", "wanted": "catalog", "patients": len(ages), "images": len(ages),
        "unusable": 0, "tables": tables(ages), "seconds": 0.1, **more,
    })  # fmt: skip


# Tables --------------------------------------------------------------------------------------------------------------


def test_cells_of_numbers() -> None:
    assert bins("age")[:2] == ("0 to 10", "10 to 20")
    assert [cell_of("age", age) for age in (0, 9, 10, 90, None)] == [
        *("0 to 10", "0 to 10", "10 to 20", "90 and more", MISSING)
    ]
    assert cell_of("spacing_mm", 0.2) == "0.2 to 0.3"


def test_words_of_few_patients_are_not_named() -> None:
    makers = ["Acme"] * 9 + ["Rare and Sons"] * 2 + ["Sole Maker"] + ["Beta"] * 6
    assert table(Counter(makers), (), min_cell=K) == {"Acme": 9, "Beta": None, MISSING: 0, OTHER: None}
    assert table(Counter(makers), (), min_cell=1) == {
        "Acme": 9,
        "Beta": 6,
        "Rare and Sons": 2,
        "Sole Maker": 1,
        MISSING: 0,
    }


@given(counts=st.dictionaries(st.sampled_from("abcdefgh"), st.integers(0, 12), min_size=1), k=st.integers(1, 9))
def test_no_small_cell_leaves_nor_follows_from_the_others(counts: dict[str, int], k: int) -> None:
    total = sum(counts.values())
    found = table(counts, ("a", "b"), min_cell=k)
    assert all(count is None or count == 0 or count >= k for count in found.values())
    assert all(found[word] in {None, counts[word]} for word in counts if word in found)
    hidden = total - sum(count for count in found.values() if count is not None)
    if total >= k and hidden:  # fewer patients answer nothing at all
        assert hidden >= k
        assert sum(count is None for count in found.values()) >= 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"patients": 0},
        {"patients": 10**10},
        {"unusable": -1},
        {"wanted": "landmarks"},
        {"wanted": "everything"},
        {"tables": {}},
        {"tables": {**tables([30] * 9), "age": {"30 to 40": 9}}},
        {"tables": {**tables([30] * 9), "sex": {MISSING: 8}}},
        {"tables": {**tables([30] * 9), "sex": {MISSING: 10}}},
        {"tables": {**tables([30] * 9), "sex": {MISSING: -1, "F": 10}}},
        {"tables": {**tables([30] * 9), "sex": {"x" * 300: 9}}},
        {"tables": {**tables([30] * 9), "names": {"Anna": 9}}},
        {"grey_values": {"groups": ((1, 1, UNIT),)}},
        {"feature_tables": {"volume": {"missing": 0, "cells": ((4, 9, 8),)}}},
        {"feature_tables": {"volume": {"missing": None, "cells": ((4, 9, 10),)}}},
        {"feature_tables": {"volume": {"missing": 0, "cells": ((4, 9, 4), (9, 10, 5))}}},
        {"wanted": "pixels", "grey_values": {"groups": ((5, 4, 9),)}},
        {"wanted": "pixels", "grey_values": {"groups": ((1, 4, 9), (4, 5, 9))}},
        {"wanted": "pixels", "grey_values": {"groups": ((1, GREY_BINS, 9),)}},
        {"wanted": "pixels", "grey_values": {"groups": ((1, 4, 2 * UNIT),)}},
        {"name": "Anna"},
    ],
)
def test_an_answer_that_no_patients_can_give_is_refused(wrong: dict[str, Any]) -> None:
    assert answer([30] * 9).patients == 9
    with pytest.raises(ValidationError):
        answer([30] * 9, **wrong)


def test_what_is_sent_is_what_is_read() -> None:
    sent = answer([30] * 9, wanted="pixels", grey_values={"groups": ((1, 4, 9), (5, 5, 9))})
    assert Statistics.model_validate_json(sent.model_dump_json()) == sent


JUNK: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


@given(key=st.sampled_from([*Statistics.model_fields, "other"]), junk=JUNK, in_tables=st.booleans())
def test_junk_from_the_wire_is_refused_or_fits(key: str, junk: Any, in_tables: bool) -> None:
    sent = json.loads(answer([30] * 9).model_dump_json())
    (sent["tables"] if in_tables else sent)["age" if in_tables else key] = junk
    record = RecordDict({"fedward": ConfigRecord({"answer": json.dumps(sent)})})
    with suppress(RecordError):
        found = read_answer(record, Statistics)
        assert all(sum(count or 0 for count in cells.values()) <= found.patients for cells in found.tables.values())


# Quantiles -----------------------------------------------------------------------------------------------------------


@given(ages=AGES, others=AGES, share=st.sampled_from([0.05, 0.25, 0.5, 0.75, 0.95]))
def test_a_pooled_quantile_lies_where_it_is_said_to(
    ages: list[int | None], others: list[int | None], share: float
) -> None:
    """Whatever stays home: the oracle is numpy's quantile of all known ages in one place."""
    known = [age for age in (*ages, *others) if age is not None]
    found = pooled([answer(ages), answer(others, site="valley")]).tables["age"].quantiles
    if not known:
        assert found == {}
        return
    low, high = found[f"{share * 100:g} %"]
    exact = float(np.quantile(known, share, method="inverted_cdf"))
    assert low is not None
    assert low <= exact
    assert high is None or exact < high


def test_sums_over_sites() -> None:
    found = pooled([answer([35] * 10 + [45] * 6), answer([35] * 9 + [15] * 2, site="valley")])
    assert (found.patients, found.images, found.unusable, found.unusable_kept_home) == (27, 27, 0, 0)
    ages = found.tables["age"]
    assert (ages.cells["30 to 40"], ages.cells["40 to 50"], ages.cells["10 to 20"]) == (10, 6, 0)
    assert ages.kept_home == {"10 to 20": 1, "30 to 40": 1}
    assert ages.not_told == 11
    assert ages.quantiles["50 %"] == (30.0, 40.0)
    assert ages.quantiles["5 %"] == (10.0, 40.0)
    assert found.tables["sex"].cells == {MISSING: 27}
    assert found.grey_values == {}


def test_the_order_of_sites_makes_no_difference() -> None:
    sites = [answer([20 + 3 * n] * (6 + n), site=f"site-{n}") for n in range(5)]
    assert pooled(sites) == pooled(sites[::-1])


def test_no_weight_has_no_quantile() -> None:
    assert quantile([], 0.5) is None
    assert quantile([Part(3, 3, 0, 0)], 0.5) is None
    assert quantile([Part(2, 4, 1, 1), Part(6, 6, 1, 1)], 0.5) == (2, 4)


# Grey values ---------------------------------------------------------------------------------------------------------


def test_bins_of_grey_values_grow_by_a_factor_and_hold_every_number() -> None:
    assert (np.diff(GREY_EDGES) > 0).all()
    ratios = GREY_EDGES[GREY_EDGES > 0][1:] / GREY_EDGES[GREY_EDGES > 0][:-1]
    np.testing.assert_allclose(ratios, 2 ** (1 / 16))
    np.testing.assert_array_equal(GREY_EDGES, -GREY_EDGES[::-1])
    shares = grey_shares(np.array([-1e9, 0.0, 1e9, 1e9], np.float32))
    assert (shares[0], shares[GREY_BINS // 2], shares[-1]) == (0.25, 0.25, 0.5)


def spread(images: list[npt.NDArray[np.float32]], k: int) -> Any:
    """Of one image a patient, as a site makes it."""
    shares = [grey_shares(image) for image in images]
    sums = np.sum([np.rint(each * UNIT).astype(np.int64) for each in shares], axis=0)
    touched = np.sum([each > 0 for each in shares], axis=0)
    return sums, touched, grouped(sums, touched, patients=len(images), min_cell=k)


@given(seed=st.integers(0, 2**32 - 1), patients=st.integers(1, 12), k=st.integers(1, 6))
def test_a_group_holds_a_bin_of_enough_patients_and_nothing_is_lost(seed: int, patients: int, k: int) -> None:
    random = np.random.default_rng(seed)
    images = [random.normal(random.uniform(-50, 400), 60, 200).astype(np.float32) for _ in range(patients)]
    sums, touched, found = spread(images, k)
    if found is None:
        assert patients < k or touched.max() < k
        return
    assert sum(share for _, _, share in found.groups) == pytest.approx(UNIT, abs=GREY_BINS)
    for first, last, share in found.groups:
        assert touched[first : last + 1].max() >= k
        assert share == pytest.approx(sums[first : last + 1].sum() / patients, abs=0.5)
    told = {bin_ for first, last, _ in found.groups for bin_ in range(first, last + 1)}
    assert told >= set(np.flatnonzero(touched).tolist())


def test_one_patients_bright_implant_is_neither_seen_nor_placed() -> None:
    tissue = [np.full(100, 40.0, np.float32) for _ in range(8)]
    metal = tissue[0].copy()
    metal[:3] = 3000.0
    _, _, plain = spread(tissue, K)
    _, _, found = spread([metal, *tissue[1:]], K)
    assert [(first, last) for first, last, _ in plain.groups] == [(plain.groups[0][0], plain.groups[0][0])]
    assert [(first, last) for first, last, _ in found.groups] == [(plain.groups[0][0], GREY_BINS - 1)]


def test_grey_quantiles_to_within_their_bins() -> None:
    random = np.random.default_rng(0)
    images = [random.normal(100, 20, 5000).astype(np.float32) for _ in range(20)]
    _, _, found = spread(images, K)
    sites = [answer([30] * 20, wanted="pixels", grey_values=found.model_dump())]
    for share, exact in zip(
        ("5 %", "50 %", "95 %"), np.quantile(np.concatenate(images), (0.05, 0.5, 0.95)), strict=True
    ):
        low, high = pooled(sites).grey_values[share]
        assert low is not None
        assert high is not None
        assert low * 0.999 <= exact <= high * 1.001
        assert high / low == pytest.approx(2 ** (1 / 16))
