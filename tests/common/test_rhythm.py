"""When to look again: rarely in vain, never long after the thing is there."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedward_common.rhythm import Rhythm

SHARE, SHORTEST, LONGEST = 0.1, 0.01, 2.0


def looks(rhythm: Rhythm, after_s: float) -> list[float]:
    """The times of the looks of one wait, for something that is there `after_s` seconds after it began."""
    rhythm.begin(100.0)
    times = [rhythm.next_look()]
    while times[-1] < 100.0 + after_s:
        rhythm.in_vain(times[-1])
        times.append(rhythm.next_look())
    rhythm.came(times[-1])
    return [time - 100.0 for time in times]


def test_what_comes_as_it_did_is_found_at_once_with_few_looks() -> None:
    rhythm = Rhythm(SHARE, SHORTEST, LONGEST)
    first = looks(rhythm, 0.3)
    for _ in range(5):
        then = looks(rhythm, 0.3)
        assert len(then) <= 3 < len(first)
        assert then[-1] - 0.3 < 0.05


def test_what_comes_sooner_than_it_did_is_found_sooner_each_time() -> None:
    rhythm = Rhythm(SHARE, SHORTEST, LONGEST)
    looks(rhythm, 1.0)
    found = [looks(rhythm, 0.1)[-1] for _ in range(5)]
    assert found[0] <= 1.0
    assert found == sorted(found, reverse=True)
    assert found[-1] < 0.2


@given(after=st.lists(st.floats(0.0, 3600.0), min_size=1, max_size=5))
def test_nothing_waits_much_longer_than_the_longest_pause(after: list[float]) -> None:
    rhythm = Rhythm(SHARE, SHORTEST, LONGEST)
    for each in after:
        times = looks(rhythm, each)
        assert times[-1] - each <= LONGEST + 1e-6
        assert all(later - sooner >= SHORTEST - 1e-9 for sooner, later in pairwise(times))


def test_pauses_grow_with_the_wait() -> None:
    rhythm = Rhythm(SHARE, SHORTEST, LONGEST)
    times = looks(rhythm, 100.0)
    assert times[0] == pytest.approx(SHORTEST)
    assert times[-1] - times[-2] == pytest.approx(LONGEST)
    assert len(times) < 150
