"""Recordings at another rate and cut into windows: nothing crosses a gap, nothing is made up."""

from typing import Any

import numpy as np
import pytest

from fedward_client.intake import recording as module
from fedward_client.intake.recording import Recording, gaps, stretched, windows
from fedward_client.intake.series_map import Channel
from fedward_common.errors import DataError, UnreadableFile

CHANNELS = (Channel(name="x", unit="g"), Channel(name="y", unit="g"))


def recording(count: int, *, rate_hz: float = 10.0, **fields: Any) -> Recording:
    """Channel x counts samples, y is its negative."""
    values = np.arange(count, dtype=np.float32)
    fields.setdefault("values", np.stack([values, -values], 1))
    return Recording(rate_hz=rate_hz, channels=CHANNELS, subject="JANE", **fields)


def test_who_was_recorded_is_not_told() -> None:
    assert "JANE" not in repr(recording(3))
    assert "array" not in repr(recording(3, annotation=np.ones(3, np.int8)))


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([], ()),
        ([5.0], ()),
        ([i / 10 for i in range(30)], ()),
        ([i / 10 + (i >= 20) * 0.2 for i in range(30)], (20,)),
        ([i / 10 - (i >= 20) * 0.1 for i in range(30)], (20,)),  # the same time twice
        ([i / 10 - (i >= 20) * 99 for i in range(30)], (20,)),  # time goes back
        ([i / 10 + (i == 29) * 99 for i in range(30)], (29,)),
        ([round(i / 10 + 0.003 * (i % 2), 3) for i in range(30)], ()),  # jitter
    ],
)
def test_gaps(times: list[float], expected: tuple[int, ...]) -> None:
    assert gaps(np.array(times), 10.0) == expected


@pytest.mark.parametrize("rate", [9.7, 10.3, 5.0, 20.0, 1000.0])
def test_times_of_another_rate(rate: float) -> None:
    with pytest.raises(UnreadableFile, match=r"^its column of times is not one of .* samples a second$"):
        gaps(np.arange(100) / 10, rate)
    assert gaps(np.arange(100) / 10, 10.1) == ()


def test_milliseconds_rounded_down_are_64_hz() -> None:
    assert gaps(np.floor(np.arange(5000) * 1000 / 64) / 1000, 64.0) == ()


def test_many_jumps_are_no_recording() -> None:
    times = np.cumsum(np.where(np.arange(100) % 9 == 0, 5, 0.1))
    with pytest.raises(UnreadableFile, match="not one of 10 samples a second"):
        gaps(times, 10.0)


def test_windows_step_through_time() -> None:
    values, notes = windows(recording(25), seconds=1.0, step_seconds=0.5)
    assert notes is None
    assert values.dtype == np.float32
    assert values.shape == (4, 2, 10)
    assert values.flags.c_contiguous
    np.testing.assert_array_equal(values[:, 0, 0], [0, 5, 10, 15])
    np.testing.assert_array_equal(values[2], [np.arange(10, 20), -np.arange(10, 20)])


def test_windows_do_not_cross_gaps() -> None:
    values, _ = windows(recording(30, gaps=(7, 20)), seconds=0.5, step_seconds=0.5)
    np.testing.assert_array_equal(values[:, 0, 0], [0, 7, 12, 20, 25])
    assert (np.diff(values[:, 0], axis=1) == 1).all()


def test_annotations_of_windows() -> None:
    notes = np.array([1, 1, 1, 2, 1, 1, 2, 2, 2, 1, 2, 2, 0, 1, 1, 1, 2, 2, 2, 2], np.int8)
    values, found = windows(recording(20, annotation=notes), seconds=0.4, step_seconds=0.4)
    # 1112 -> 1; 1122 -> 2, the higher of two as many; 2122 -> 2; 0111 is outside; 2222 -> 2
    assert found is not None
    assert found.dtype == np.int8
    np.testing.assert_array_equal(found, [1, 2, 2, 2])
    np.testing.assert_array_equal(values[:, 0, 0], [0, 4, 8, 16])
    _, found = windows(recording(20, annotation=np.zeros(20, np.int8)), seconds=0.4, step_seconds=0.4)
    assert found is not None
    assert found.shape == (0,)


def test_a_recording_shorter_than_a_window() -> None:
    for fields in ({}, {"annotation": np.ones(5, np.int8)}, {"gaps": (2,)}):
        values, notes = windows(recording(5, **fields), seconds=1.0, step_seconds=1.0)
        assert values.shape == (0, 2, 10)
        assert (notes is None) == ("annotation" not in fields)


def test_windows_that_are_none_or_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    for seconds, step in ((0.0, 1.0), (1.0, 0.0), (-1.0, 1.0), (0.04, 1.0)):
        with pytest.raises(DataError, match="hold no sample at 10 Hz; use longer ones"):
            windows(recording(20), seconds=seconds, step_seconds=step)
    monkeypatch.setattr(module, "MAX_VALUES", 2 * 10 * 3 - 1)
    with pytest.raises(DataError, match=r"^3 windows of 10 samples are more than fit in memory"):
        windows(recording(20), seconds=1.0, step_seconds=0.5)


def test_resampling_keeps_a_slow_wave_and_its_place() -> None:
    def wave(rate: float) -> Any:
        return np.sin(2 * np.pi * 1.5 * (np.arange(int(rate * 8)) + 0.5) / rate)

    for source, target in ((100.0, 64.0), (64.0, 100.0), (100.0, 50.0)):
        values = np.stack([wave(source), 3 - wave(source)], 1).astype(np.float32)
        found = stretched(values, int(8 * target))
        assert found.shape == (int(8 * target), 2)
        inner = slice(5, -5)
        np.testing.assert_allclose(found[inner, 0], wave(target)[inner], atol=0.02)
        np.testing.assert_allclose(found[inner].sum(axis=1), 3, atol=1e-5)


def test_resampling_removes_what_the_rate_cannot_hold() -> None:
    fast = np.sin(2 * np.pi * 45 * np.arange(1000) / 100).astype(np.float32)
    found = stretched(np.stack([fast, fast], 1), 200)
    assert abs(found[5:-5]).max() < 0.1


def test_same_bits_at_every_call() -> None:
    given = recording(1000).values
    assert stretched(given, 640).tobytes() == stretched(given, 640).tobytes()
