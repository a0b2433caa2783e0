"""Counts as bars: nothing is lost, whatever is counted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedward_client.report.charts import MOST_KINDS, NOT_SAID, Chart, kinds, numbers


def told(chart: Chart) -> list[tuple[str, int]]:
    return [(bar.label, bar.many) for bar in chart.bars]


def test_kinds_come_by_how_frequent_they_are() -> None:
    chart = kinds("Maker", "series", ["GE", "", "Siemens", "GE", "Philips", ""])
    assert told(chart) == [(NOT_SAID, 2), ("GE", 2), ("Philips", 1), ("Siemens", 1)]
    assert [bar.width for bar in chart.bars] == [100, 100, 50, 50]
    many = kinds("Model", "series", [f"M{number:02}" for number in range(15)])
    assert told(many)[-1] == ("5 other kinds", 5)
    assert len(many.bars) == MOST_KINDS + 1


def test_few_numbers_are_told_one_by_one_and_in_order() -> None:
    assert told(numbers("Field", "series", [3.0, 1.5, 3.0])) == [("1.5", 1), ("3", 2)]
    assert told(numbers("Field", "series", [])) == []


def test_many_numbers_are_told_in_round_bins() -> None:
    assert told(numbers("Age", "patients", list(range(20, 60)))) == [
        ("20 – 24", 5),
        ("25 – 29", 5),
        ("30 – 34", 5),
        ("35 – 39", 5),
        ("40 – 44", 5),
        ("45 – 49", 5),
        ("50 – 54", 5),
        ("55 – 59", 5),
    ]
    spacing = told(numbers("Spacing", "series", [0.1 + 0.01 * step for step in range(30)]))
    assert spacing[0] == ("0.1 – 0.15", 5)
    assert sum(many for _, many in spacing) == 30


@given(st.lists(st.one_of(st.integers(1, 10**6), st.integers(1, 10**7).map(lambda n: n / 1000)), max_size=60))
def test_every_number_is_in_one_of_few_bins(values: list[float]) -> None:
    bars = numbers("x", "y", values).bars
    assert sum(bar.many for bar in bars) == len(values)
    assert len(bars) <= MOST_KINDS
    assert max((bar.width for bar in bars), default=100) == pytest.approx(100)
