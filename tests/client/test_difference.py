"""The difference rule: no two answers whose difference is a few patients, across restarts too."""

from collections.abc import Mapping
from functools import partial
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedward_client.difference import as_bytes, check, patients_apart
from fedward_client.ledger import Ledger
from fedward_common.errors import PolicyError

K = 5
PATIENTS = st.dictionaries(st.integers(0, 30), st.integers(0, 1), max_size=25)  # with the version of each one's record


def records(patients: Mapping[int, int]) -> dict[str, str]:
    return {_hex(f"patient {one}"): _hex(f"record {one} {version}") for one, version in patients.items()}


def _hex(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:32]


def ask(ledger: Ledger, patients: Mapping[int, int], what: str = "tables") -> None:
    asked = as_bytes(records(patients))
    ledger.cover(what, asked, partial(check, asked, site="north", min_cell=K))


@given(one=PATIENTS, other=PATIENTS)
def test_patients_apart_are_those_who_came_went_or_changed(one: dict[int, int], other: dict[int, int]) -> None:
    apart = {patient for patient in one.keys() | other.keys() if one.get(patient) != other.get(patient)}
    assert patients_apart(as_bytes(records(one)), as_bytes(records(other))) == len(apart)
    assert as_bytes(records(one)) == as_bytes(records(dict(sorted(one.items(), reverse=True))))


@given(asked=st.lists(PATIENTS, max_size=12))
def test_no_two_answers_differ_by_few_patients(asked: list[dict[int, int]]) -> None:
    answered: list[bytes] = []
    for patients in asked:
        of = as_bytes(records(patients))
        try:
            check(of, answered, site="north", min_cell=K)
        except PolicyError:
            assert any(0 < patients_apart(of, other) < K for other in answered)
        else:
            answered.append(of)
    for place, one in enumerate(answered):
        for other in answered[:place]:
            assert patients_apart(one, other) == 0 or patients_apart(one, other) >= K


def test_it_outlives_the_process(tmp_path: Path) -> None:
    with Ledger.open(tmp_path) as ledger:
        ask(ledger, dict.fromkeys(range(20), 0))
    with Ledger.open(tmp_path) as ledger, pytest.raises(PolicyError):
        ask(ledger, dict.fromkeys(range(21), 0))
    with Ledger.open(tmp_path) as ledger:  # what was refused counts for nothing
        ask(ledger, dict.fromkeys(range(25), 0))


def test_a_refusal_says_what_to_do_and_names_no_number_of_patients(tmp_path: Path) -> None:
    with Ledger.open(tmp_path) as ledger:
        ask(ledger, dict.fromkeys(range(20), 0))
        with pytest.raises(PolicyError) as refused:
            ask(ledger, dict.fromkeys(range(22), 0))
        assert str(refused.value) == (
            "north has answered on nearly the same patients before: fewer than 5 have come, gone or changed since, and "
            "the difference of the two answers would tell of them; ask again when there are more"
        )
        ask(ledger, dict.fromkeys(range(25), 0))
        ask(ledger, dict.fromkeys(range(20), 0))  # the first again
        ask(ledger, dict.fromkeys(range(22), 0), "landmarks")  # nothing of that kind was answered
