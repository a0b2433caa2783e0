"""Which side of the split a patient is on."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedward_client.split import SIDES, PatientInfo, Shares, Side, assign, folds_of, side_of, sides_in
from fedward_common.errors import DataError
from fedward_common.study import Split

KEY = bytes(range(32))
NOBODY: Mapping[str, str] = {}  # is linked
pseudonyms = st.text("0123456789abcdef", min_size=32, max_size=32)
keys = st.binary(min_size=32, max_size=32)
seeds = st.integers(0, 2**53 - 1)
shares = st.sampled_from([(0.7, 0.1, 0.2), (1.0, 0.0, 0.0), (0.1, 0.2, 0.7), (0.5, 0.5, 0.0), (0.9, 0.0, 0.1)])
chance = st.sampled_from(["hash", "leave-site-out"])


def crowd(count: int) -> dict[str, PatientInfo]:
    return {hashlib.sha256(str(index).encode()).hexdigest()[:32]: PatientInfo() for index in range(count)}


def sides(
    patients: dict[str, PatientInfo],
    split: Split,
    *,
    groups: Mapping[str, str] = NOBODY,
    seed: int = 42,
    site: str = "north",
) -> dict[str, Side]:
    return assign(patients, groups=groups, split=split, seed=seed, key=KEY, site_name=site)


@given(st.sets(pseudonyms), st.sets(pseudonyms), keys, seeds, shares, chance)
def test_patients_who_come_later_move_nobody(
    first: set[str], later: set[str], key: bytes, seed: int, parts: Shares, kind: str
) -> None:
    split = Split.model_validate({"kind": kind, "shares": parts, "site": "south" if kind == "leave-site-out" else None})

    def assigned(patients: set[str]) -> dict[str, Side]:
        infos = dict.fromkeys(patients, PatientInfo())
        return assign(infos, groups=NOBODY, split=split, seed=seed, key=key, site_name="north")

    before, after = assigned(first), assigned(first | later)
    assert before == {patient: after[patient] for patient in first}
    assert after.keys() == first | later


@given(pseudonyms, keys, seeds, shares)
def test_a_side_without_a_share_is_never_picked(patient: str, key: bytes, seed: int, parts: Shares) -> None:
    assert parts[SIDES.index(side_of(key, seed, Split(shares=parts), patient))] > 0


def test_a_known_patient_stays_where_the_formula_puts_it() -> None:
    # openssl, HMAC of "split\x1f42\x1f000...": b012cdec..., so 0.6878 of the way from 0 to 1
    assert side_of(KEY, 42, Split(shares=(0.5, 0.25, 0.25)), "0" * 32) == "validation"


@pytest.mark.parametrize("label", [0, 1, 2])
def test_shares_hold_approximately_in_every_label(label: int) -> None:
    patients = crowd(9000)
    stratum = list(patients)[label::3]
    found = sides(patients, Split(shares=(0.7, 0.1, 0.2)))
    counts = {side: sum(found[patient] == side for patient in stratum) / len(stratum) for side in SIDES}
    # 4 standard deviations of a share of 0.7 over 3000 patients
    assert counts == pytest.approx({"train": 0.7, "validation": 0.1, "test": 0.2}, abs=0.034)


def test_seed_and_key_each_draw_anew() -> None:
    patients, split = crowd(200), Split()
    drawn = sides(patients, split)
    assert drawn == sides(patients, split)
    assert drawn != sides(patients, split, seed=43)
    assert drawn != assign(patients, groups=NOBODY, split=split, seed=42, key=KEY[::-1], site_name="north")


def test_column_takes_the_label_tables_words() -> None:
    words = ["train", " Test", "VALIDATION", "val", "Valid"]
    patients = {str(index): PatientInfo(word) for index, word in enumerate(words)}
    expected = ["train", "test", "validation", "validation", "validation"]
    assert list(sides(patients, Split(kind="column")).values()) == expected


def test_column_refuses_other_words_by_count_alone() -> None:
    patients = {"a": PatientInfo("train"), "b": PatientInfo("Jane Doe"), "c": PatientInfo("")}
    with pytest.raises(DataError, match=r"'fold_1' holds other words too.*train, validation or test") as error:
        sides(patients, Split(kind="column", column="fold_1"))
    assert "Jane" not in str(error.value)


def test_column_refuses_a_table_without_it() -> None:
    with pytest.raises(DataError, match=r"no column 'fold_1'.*train, validation or test"):
        sides(crowd(3), Split(kind="column", column="fold_1"))


# Folds ---------------------------------------------------------------------------------------------------------------


def folds(patients: Iterable[str], split: Split, groups: Mapping[str, str] = NOBODY, seed: int = 42) -> dict[str, int]:
    return folds_of(patients, groups=groups, split=split, seed=seed, key=KEY, site_name="north")


@given(st.dictionaries(pseudonyms, st.integers(0, 9), max_size=40), st.integers(3, 8), seeds)
def test_folds_are_of_nearly_as_many_and_linked_patients_share_one(
    numbers: dict[str, int], count: int, seed: int
) -> None:
    """Those of a number below 3 are linked."""
    groups = {one: min(o for o in numbers if numbers[o] == n) for one, n in numbers.items() if n < 3}
    split = Split(kind="folds", folds=count)
    found = folds(numbers, split, groups, seed)
    assert found.keys() == numbers.keys()
    firsts = {groups.get(one, one) for one in numbers}
    assert all(found[one] == found[groups[one]] for one in groups)
    sizes = [sum(found[first] == fold for first in firsts) for fold in range(count)]
    assert max(sizes) - min(sizes) <= 1
    assert set(sides({one: PatientInfo() for one in numbers}, split, groups=groups).values()) <= {"train"}


def test_seed_and_key_deal_anew_and_the_order_of_patients_does_not() -> None:
    patients, split = list(crowd(50)), Split(kind="folds", folds=5)
    dealt = folds(patients, split)
    assert dealt == folds(reversed(patients), split)
    assert dealt != folds(patients, split, seed=43)
    assert dealt != folds_of(patients, groups=NOBODY, split=split, seed=42, key=KEY[::-1], site_name="north")


@pytest.mark.parametrize("count", [3, 5, 9])
def test_everybody_is_tested_once_and_validates_once_and_trains_in_the_other_folds(count: int) -> None:
    tested = np.arange(20, dtype=np.int16) % count
    found = np.stack([sides_in(fold, count, tested) for fold in range(count)])
    times = {side: (found == index).sum(axis=0).tolist() for index, side in enumerate(SIDES)}
    assert times == {"train": [count - 2] * 20, "validation": [1] * 20, "test": [1] * 20}


def test_one_patient_at_a_time_is_tested_alone_with_those_who_are_linked() -> None:
    patients = list(crowd(9))
    first, second, third, *_ = sorted(patients)
    split = Split(kind="leave-one-patient-out", folds=7)
    found = folds(patients, split, dict.fromkeys((first, second, third), first))
    assert sorted(Counter(found.values()).values()) == [1] * 6 + [3]
    assert folds([], split) == {}
    assert set(folds(patients[:4], split).values()) == {0, 1, 2, 3}, "then nobody is tested in the last folds"


def test_one_patient_at_a_time_needs_a_fold_for_each() -> None:
    with pytest.raises(DataError, match=r"north has more patients than the study's 7 folds.*more folds, or kind"):
        folds(crowd(8), Split(kind="leave-one-patient-out", folds=7))
    assert len(folds(crowd(8), Split(kind="folds", folds=7))) == 8


def test_leave_site_out_tests_the_whole_site_and_trains_elsewhere() -> None:
    split = Split(kind="leave-site-out", site="south", shares=(0.6, 0.2, 0.2))
    assert set(sides(crowd(50), split, site="south").values()) == {"test"}
    elsewhere = list(sides(crowd(4000), split, site="north").values())
    assert set(elsewhere) == {"train", "validation"}
    assert elsewhere.count("train") == pytest.approx(3000, abs=110)


# Patients linked by images that are the same or nearly ---------------------------------------------------------------


@given(
    st.dictionaries(pseudonyms, st.integers(0, 5), max_size=30),
    shares,
    st.sampled_from(["hash", "column", "leave-site-out"]),
)
def test_linked_patients_are_on_one_side_and_nobody_else_moves(
    numbers: dict[str, int], parts: Shares, kind: str
) -> None:
    site = "south" if kind == "leave-site-out" else None
    split = Split.model_validate({"kind": kind, "site": site} | ({} if kind == "column" else {"shares": parts}))
    patients = {one: PatientInfo(SIDES[int(one[0], 16) % 3]) for one in numbers}
    members = {number: sorted(one for one in numbers if numbers[one] == number) for number in range(3)}  # others: alone
    groups = {one: group[0] for group in members.values() if len(group) > 1 for one in group}
    together, alone = sides(patients, split, groups=groups), sides(patients, split)
    for group in members.values():
        assert len({together[one] for one in group}) <= 1
    assert all(together[one] == alone[one] for one in numbers if one not in groups)
    for one, side in together.items():
        assert SIDES.index(side) <= SIDES.index(alone[one]), "nobody who was trained on is tested later"
