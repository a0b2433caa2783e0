"""Every patient in exactly one hospital, sizes and labels as asked for."""

import random
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedward_common.errors import UsageError
from fedward_simulations.partition import partition

LABELS = ("benign", "malignant", "cyst")
patients_of = st.dictionaries(st.text(min_size=1, max_size=4), st.sampled_from(LABELS), max_size=60)
shares_of = st.lists(st.floats(0.01, 10.0), min_size=1, max_size=5)


@given(patients_of, shares_of, st.sampled_from((None, *LABELS)), st.data())
def test_every_patient_is_in_exactly_one_part(
    patients: dict[str, str], shares: list[float], positive: str | None, data: st.DataObject
) -> None:
    tilt = data.draw(st.lists(st.floats(0.1, 5.0), min_size=len(shares), max_size=len(shares)))
    parts = partition(patients, shares, positive=positive, positive_tilt=tilt)
    assert len(parts) == len(shares)
    assert sorted(chain(*parts)) == sorted(patients)


@given(patients_of, st.sampled_from((None, *LABELS)))
def test_sizes_follow_the_shares_whatever_the_tilt(patients: dict[str, str], positive: str | None) -> None:
    for part, share in zip(partition(patients, positive=positive), (0.46, 0.32, 0.22), strict=True):
        assert abs(len(part) - share * len(patients)) < 1.5


@given(patients_of, st.randoms(use_true_random=False))
def test_the_order_of_the_mapping_does_not_matter(patients: dict[str, str], shuffler: random.Random) -> None:
    items = list(patients.items())
    shuffler.shuffle(items)
    assert partition(dict(items), positive="cyst") == partition(patients, positive="cyst")


def many(benign: int, malignant: int) -> dict[str, str]:
    return {f"B{at}": "benign" for at in range(benign)} | {f"M{at}": "malignant" for at in range(malignant)}


def test_the_tilt_moves_the_positive_label_and_only_it() -> None:
    patients = many(600, 300)
    parts = partition(patients, positive="malignant", positive_tilt=(0.5, 1.0, 2.0))
    counts = [sum(patients[patient] == "malignant" for patient in part) for part in parts]
    weights = (0.46 * 0.5, 0.32 * 1.0, 0.22 * 2.0)
    assert counts == pytest.approx([300 * weight / sum(weights) for weight in weights], abs=1.0)
    assert [len(part) for part in parts] == [414, 288, 198]


def test_without_a_positive_label_all_parts_are_mixed_alike() -> None:
    patients = many(600, 300)
    for part in partition(patients):
        assert sum(patients[patient] == "malignant" for patient in part) / len(part) == pytest.approx(1 / 3, abs=0.01)


def test_each_beginning_of_a_part_holds_both_labels_as_mixed_as_the_part() -> None:
    patients = many(90, 30)
    (part,) = partition(patients, (1.0,), positive="malignant", positive_tilt=(1.0,))
    assert {patients[patient] for patient in part[:2]} == {"benign", "malignant"}
    for length in range(4, 120):
        assert sum(patients[patient] == "malignant" for patient in part[:length]) == pytest.approx(length / 4, abs=1.0)


def test_another_seed_deals_other_patients() -> None:
    patients = many(60, 30)
    first, second = partition(patients), partition(patients, seed=1)
    assert first == partition(patients)
    assert [len(part) for part in first] == [len(part) for part in second]
    assert set(first[0]) != set(second[0])


def test_more_positives_than_fit_are_spread_over_the_room_there_is() -> None:
    patients = many(2, 8)
    parts = partition(patients, (0.5, 0.5), positive="malignant", positive_tilt=(0.01, 10.0))
    assert [len(part) for part in parts] == [5, 5]
    assert sum(patients[patient] == "malignant" for patient in parts[1]) == 5


@pytest.mark.parametrize(
    ("shares", "tilt"), [((), ()), ((0.5, 0.5), (1.0,)), ((0.5, 0.0), (1.0, 1.0)), ((1.0, 1.0), (1.0, -1.0))]
)
def test_unusable_shares_are_refused(shares: tuple[float, ...], tilt: tuple[float, ...]) -> None:
    with pytest.raises(UsageError, match="positive numbers"):
        partition({"a": "benign"}, shares, positive_tilt=tilt)
