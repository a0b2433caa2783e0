"""The small-cell rule for tables of counts."""

from hypothesis import assume, given
from hypothesis import strategies as st

from fedward_common.metrics import told, told_labels, told_total

K = 5
COUNTS = st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 40), min_size=1)


def test_by_hand() -> None:
    assert told({"a": 29, "b": 3, "c": 8}, K) == {"a": 29, "b": None, "c": None}
    assert told({"a": 29, "b": 2, "c": 1}, K) == {"a": None, "b": None, "c": None}
    assert told({"a": 20, "b": 9}, K) == {"a": 20, "b": 9}
    assert told({"a": 20, "b": 0}, K) == {"a": 20, "b": 0}
    sides = {"train": 9, "validation": 2, "test": 1}
    shown = told(sides, K, known=["train"])
    assert shown == {"train": 9, "validation": None, "test": None}
    assert told_total(sides, shown, K) is None  # 12 - 9 would be the three that are hidden
    assert told_total({"a": 29, "b": 3, "c": 8}, told({"a": 29, "b": 3, "c": 8}, K), K) == 40


@given(COUNTS)
def test_no_small_count_is_told_or_is_a_difference(counts: dict[str, int]) -> None:
    shown = told(counts, K)
    hidden = [counts[key] for key, count in shown.items() if count is None]
    assert all(count is None or count == counts[key] for key, count in shown.items())
    assert all(count is None or count == 0 or count >= K for count in shown.values())
    if told_total(counts, shown, K) is not None and hidden:
        assert len(hidden) > 1
        assert sum(hidden) >= K


def test_a_label_that_few_lack_stays_home() -> None:
    """One of several: those with it and those without are both nobody or k. Of labels that part all, `told` is all."""
    assert told_labels({"a": 20, "b": 17, "c": 9}, 20, 0, K) == {"a": 20, "b": None, "c": 9}
    assert told_labels({"finding": 17}, 20, 3, K) == {"finding": None}
    assert told_labels({"finding": 15}, 20, 5, K) == {"finding": 15}
    assert told_labels({"a": 10, "b": 8}, 20, 2, K) == {"a": 10, "b": None}, "2 have neither, if nobody has both"


@given(st.lists(st.integers(0, 12), min_size=1, max_size=5), st.integers(1, 6))
def test_labels_that_part_the_patients_are_told_as_ever(numbers: list[int], k: int) -> None:
    assume(sum(numbers) >= k)  # a site of fewer does not train
    counts = {str(place): number for place, number in enumerate(numbers)}
    assert told_labels(counts, sum(numbers), 0, k) == told(counts, k)
