"""Recordings as their collections publish them, written here in the same form."""

import lzma
import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedward_client.intake import recording
from fedward_client.intake.recording import windows
from fedward_client.intake.wearable import read_daphnet, read_gait, read_strides
from fedward_common.errors import UnreadableFile


def daphnet(count: int = 640) -> Iterator[str]:
    """Rows as Daphnet has them: milliseconds rounded down, nine accelerations, an annotation."""
    for i in range(count):
        acceleration = " ".join(str(100 * channel + i % 7) for channel in range(9))
        yield f"{math.floor((i + 1) * 1000 / 64)} {acceleration} {0 if i < 128 else 1 + (i >= 384)}\n"


def gait(count: int = 300) -> Iterator[str]:
    for i in range(count):
        forces = [10 * sensor + (i % 50) / 4 for sensor in range(16)]
        row = [i / 100, *forces, sum(forces[:8]), sum(forces[8:])]
        yield "\t".join([f"{row[0]:.4f}", *(f"{value:.2f}" for value in row[1:])]) + "\r\n"


def written(folder: Path, name: str, rows: Iterator[str] | list[str]) -> Path:
    text = "".join(rows).encode()
    (folder / name).write_bytes(lzma.compress(text) if name.endswith(".xz") else text)
    return folder / name


def refusal(path: Path, read: Callable[[Path], object]) -> str:
    with pytest.raises(UnreadableFile) as caught:
        read(path)
    message = str(caught.value)
    assert str(path.parent) not in message
    assert path.name not in message
    return message


def test_daphnet(tmp_path: Path) -> None:
    found = read_daphnet(written(tmp_path, "S03R02.txt", daphnet()))
    assert (found.subject, found.run, found.rate_hz, found.gaps) == ("S03", "R02", 64.0, ())
    assert found.values.dtype == np.float32
    assert found.values.shape == (640, 9)
    np.testing.assert_array_equal(found.values[3], [100 * channel + 3 for channel in range(9)])
    assert [channel.name for channel in found.channels[:4]] == [
        "ankle forward",
        "ankle vertical",
        "ankle lateral",
        "thigh forward",
    ]
    assert {channel.unit for channel in found.channels} == {"mg"}
    assert found.annotation is not None
    np.testing.assert_array_equal(np.bincount(found.annotation), [128, 256, 256])
    values, notes = windows(found, seconds=1.0, step_seconds=1.0)
    assert notes is not None
    np.testing.assert_array_equal(notes, [1, 1, 1, 1, 2, 2, 2, 2])
    assert values.shape == (8, 9, 64)


def test_a_gap_in_daphnet_is_found(tmp_path: Path) -> None:
    rows = list(daphnet())
    found = read_daphnet(written(tmp_path, "S03R02.txt", rows[:200] + rows[264:]))
    assert found.gaps == (200,)
    assert found.values.shape == (576, 9)


@pytest.mark.parametrize("name", ["GaPt03_01.txt", "JuCo07_10.txt.xz"])
def test_gait(tmp_path: Path, name: str) -> None:
    found = read_gait(written(tmp_path, name, gait()))
    assert (found.subject, found.run, found.study, found.group) == (name[:6], name[7:9], name[:2], name[2:4])
    assert (found.rate_hz, found.gaps, found.annotation) == (100.0, (), None)
    assert found.values.shape == (300, 18)
    np.testing.assert_allclose(found.values[:, :8].sum(axis=1), found.values[:, 16], atol=0.1)
    assert (found.channels[0].name, found.channels[15].name, found.channels[17].name) == (
        "left 1",
        "right 8",
        "right total",
    )
    assert {channel.unit for channel in found.channels} == {"N"}


@pytest.mark.parametrize(
    ("name", "subject", "group"), [("pd1-si.txt", "pd1", "pd"), ("o2-74-si.txt", "o2", "o"), ("y5.txt", "y5", "y")]
)
def test_strides(tmp_path: Path, name: str, subject: str, group: str) -> None:
    found = read_strides(written(tmp_path, name, ["30.797 1.023\n", "31.820\t1.030\n", "32.85 1.017\n"]))
    assert (found.subject, found.group) == (subject, group)
    np.testing.assert_array_equal(found.times_s, [30.797, 31.82, 32.85])
    np.testing.assert_allclose(found.intervals_s, [1.023, 1.03, 1.017])
    assert subject not in repr(found)


@pytest.mark.parametrize("name", ["JANE.txt", "S03R02\n.txt", "S03R02.txt\n", "S3R2.txt", "GaPt03.txt", "pd.txt"])
def test_who_was_recorded_is_in_the_name(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, name, daphnet())
    for read in (read_daphnet, read_gait, read_strides):
        assert refusal(path, read).startswith("its name does not say who was recorded; the collection's names are like")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (lambda rows: [*rows[:9], "15 1 2 3 4 5 6 7 8 9\n"], "line 10 is not 11 numbers"),
        (lambda rows: [*rows[:-1], rows[-1][:9]], "line 640 is not 11 numbers"),
        (lambda rows: [*rows, "15 JANE 2 3 4 5 6 7 8 9 1\n"], "line 641 is not 11 numbers"),
        (lambda rows: [*rows, "15 nan 2 3 4 5 6 7 8 9 1\n"], "its values are not all finite numbers"),
        (lambda rows: [*rows, "15 1e99 2 3 4 5 6 7 8 9 1\n"], "its values are not all finite numbers"),
        (lambda rows: [*rows, "15 1 2 3 4 5 6 7 8 9 3\n"], "its annotations are not 0, 1 and 2"),
        (lambda rows: [*rows, "15 1 2 3 4 5 6 7 8 9 0.5\n"], "its annotations are not 0, 1 and 2"),
        (lambda rows: rows[::2], "its column of times is not one of 64 samples a second"),
        (lambda rows: ["\n", " \n"], "it holds no numbers"),
        (lambda rows: [], "the file is empty"),
        (lambda rows: ["é"], "it is not ascii text; save it as that, or name its encoding"),
    ],
)
def test_what_is_no_daphnet(tmp_path: Path, changed: Callable[[list[str]], list[str]], words: str) -> None:
    assert refusal(written(tmp_path, "S01R01.txt", changed(list(daphnet()))), read_daphnet) == words


def test_blank_lines_are_no_rows(tmp_path: Path) -> None:
    rows = list(gait())
    assert read_gait(written(tmp_path, "GaPt03_01.txt", [*rows, "\r\n", "  \n"])).values.shape == (300, 18)


def test_strides_that_do_not_follow(tmp_path: Path) -> None:
    for rows in (["2 1\n", "2 1\n"], ["3 1\n", "2 1\n"], ["1 1\n", "2 0\n"], ["1 -1\n"]):
        assert refusal(written(tmp_path, "pd1.txt", rows), read_strides) == "its strides do not follow one another"


def test_more_numbers_than_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "MAX_NUMBERS", 19 * 300 - 1)
    assert refusal(written(tmp_path, "GaPt03_01.txt", gait()), read_gait) == "it holds more than 5699 numbers"


FILES = tuple(
    data
    for rows in (daphnet(20), gait(20), iter(["1 1\n", "2 1\n"]))
    for text in ["".join(rows).encode()]
    for data in (text, lzma.compress(text))
)


@pytest.mark.long
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_gives_a_recording_or_a_reason(
    tmp_path: Path, damaged: Callable[[tuple[bytes, ...]], st.SearchStrategy[bytes]], data: st.DataObject
) -> None:
    content = data.draw(damaged(FILES))
    for name, read in (("S01R01.txt", read_daphnet), ("GaPt03_01.txt", read_gait)):
        (tmp_path / name).write_bytes(content)
        with suppress(UnreadableFile):
            assert np.isfinite(read(tmp_path / name).values).all()
    (tmp_path / "pd1.txt").write_bytes(content)
    with suppress(UnreadableFile):
        assert (read_strides(tmp_path / "pd1.txt").intervals_s > 0).all()
