"""Series of samples in CSV files of any form, by a map of their columns."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedward_client.intake.delimited import TextFormat
from fedward_client.intake.series import read_series
from fedward_client.intake.series_map import Channel, SeriesMap
from fedward_common.errors import DataError, SettingsError, UnreadableFile

CHANNELS = {"acc_x": Channel(name="x", unit="g"), "acc_y": Channel(name="y", unit="g")}


def mapped(**fields: Any) -> SeriesMap:
    given: dict[str, Any] = {"channels": CHANNELS, "rate_hz": 10.0}
    return SeriesMap(**(given | fields))


def written(path: Path, rows: list[str], header: str = "t,acc_x,acc_y,what") -> Path:
    path.write_text("\n".join([header, *rows, ""]), "utf-8")
    return path


def samples(count: int = 40) -> list[str]:
    return [f"{i / 10:.1f},{i},{-i}.5,{'walk' if i < 20 else 'freeze'}" for i in range(count)]


def refusal(path: Path, columns: SeriesMap, kind: type[DataError] = UnreadableFile) -> str:
    with pytest.raises(kind) as caught:
        read_series(path, columns, subject="JANE")
    message = str(caught.value)
    assert str(path.parent) not in message
    assert "JANE" not in message
    return message


@pytest.mark.parametrize("name", [b"a.csv", b"line\nbreak", b"not utf-8 \xff"])
def test_a_csv_by_its_map(tmp_path: Path, name: bytes) -> None:
    path = written(tmp_path / os.fsdecode(name), samples())
    columns = mapped(time="t", annotation="what", annotations={"walk": 1, "freeze": 2})
    found = read_series(path, columns, subject="JANE", run="morning")
    assert (found.subject, found.run, found.rate_hz, found.gaps, found.left_out) == ("JANE", "morning", 10.0, (), 0)
    assert found.channels == tuple(CHANNELS.values())
    np.testing.assert_array_equal(found.values[:, 0], np.arange(40))
    np.testing.assert_array_equal(found.values[:, 1], [float(f"{-i}.5") for i in range(40)])
    assert found.annotation is not None
    np.testing.assert_array_equal(found.annotation, [1] * 20 + [2] * 20)


def test_columns_that_are_not_asked_for_are_not_looked_at(tmp_path: Path) -> None:
    path = written(tmp_path / "a", [f"{row},JANE DOE" for row in samples()], "t,acc_x,acc_y,what,name")
    found = read_series(path, mapped(), subject="A")
    assert found.values.shape == (40, 2)
    assert (found.annotation, found.gaps) == (None, ())


@pytest.mark.parametrize(
    ("unit", "at"),
    [
        ("s", lambda i: f"{i / 10}"),
        ("ms", lambda i: f"{1_700_000_000_000 + 100 * i}"),
        ("us", lambda i: f"{100_000 * i}"),
        ("ns", lambda i: f"{1_700_000_000_000_000_000 + 100_000_000 * i}"),
        ("iso", lambda i: f"2026-03-29T01:59:5{8 + i // 10}.{i % 10}00"),
    ],
)
def test_times_in_any_unit(tmp_path: Path, unit: str, at: Callable[[int], str]) -> None:
    path = written(tmp_path / "a", [f"{at(i)},{i},0" for i in range(20)], "t,acc_x,acc_y")
    assert read_series(path, mapped(time="t", time_unit=unit), subject="A").gaps == ()
    path = written(tmp_path / "a", [f"{at(i)},{i},0" for i in range(20) if i != 10], "t,acc_x,acc_y")
    assert read_series(path, mapped(time="t", time_unit=unit), subject="A").gaps == (10,)


def test_iso_times_may_name_a_zone(tmp_path: Path) -> None:
    stamps = [f"2026-03-29T03:00:0{i}+02:00" if i % 2 else f"2026-03-29T01:00:0{i}Z" for i in range(10)]
    path = written(tmp_path / "a", [f"{stamp},1,2" for stamp in stamps], "t,acc_x,acc_y")
    assert read_series(path, mapped(time="t", time_unit="iso", rate_hz=1.0), subject="A").gaps == ()
    assert "rows are as the map" in refusal(path, mapped(time="t"))


def test_semicolons_and_decimal_commas(tmp_path: Path) -> None:
    path = written(tmp_path / "a", [f"{i / 10};{i},25;1".replace(".", ",") for i in range(20)], "t;acc_x;acc_y")
    found = read_series(path, mapped(time="t", text=TextFormat(decimal=",")), subject="A")
    np.testing.assert_array_equal(found.values[:, 0], np.arange(20) + 0.25)


def test_a_file_without_a_header(tmp_path: Path) -> None:
    path = written(tmp_path / "a", samples()[1:], samples()[0])
    found = read_series(path, mapped(columns=("t", "acc_x", "acc_y", "label"), time="t"), subject="A")
    np.testing.assert_array_equal(found.values[:, 0], np.arange(40))


@pytest.mark.parametrize(
    "row", ["2.0,,1,walk", "2.0,JANE,1,walk", "2.0,1,2", "2.0,1,2,walk,5", ",1,2,walk", "2.0,nan,1,walk"]
)
def test_a_row_that_cannot_be_used_is_a_gap(tmp_path: Path, row: str) -> None:
    rows = samples()
    rows[20] = row
    path = written(tmp_path / "a", rows)
    for fields in ({"time": "t"}, {"time": "t", "annotation": "what", "annotations": {"walk": 1, "freeze": 2}}):
        found = read_series(path, mapped(**fields), subject="A")
        assert (len(found.values), found.gaps, found.left_out) == (39, (20,), 1)


def test_without_times_a_row_that_cannot_be_used_is_a_gap_too(tmp_path: Path) -> None:
    rows = samples()
    rows[0] = rows[20] = rows[21] = rows[39] = "?,?,?,?"
    found = read_series(written(tmp_path / "a", rows), mapped(), subject="A")
    assert (len(found.values), found.gaps, found.left_out) == (36, (19,), 4)


def test_an_annotation_that_the_map_does_not_know(tmp_path: Path) -> None:
    rows = samples()
    rows[5] = rows[5].replace("walk", "JANE")
    found = read_series(
        written(tmp_path / "a", rows), mapped(annotation="what", annotations={"walk": 1, "freeze": 0}), subject="A"
    )
    assert (found.gaps, found.left_out) == ((5,), 1)
    assert found.annotation is not None
    np.testing.assert_array_equal(np.bincount(found.annotation), [20, 19])


def test_a_file_that_is_not_what_its_map_says(tmp_path: Path) -> None:
    rows = samples()
    rows[:5] = ["JANE,x,y,z"] * 5
    assert refusal(written(tmp_path / "a", rows), mapped()) == (
        "only 35 of its 40 rows are as the map of its columns says"
    )
    assert refusal(written(tmp_path / "a", []), mapped()) == ("only 0 of its 0 rows are as the map of its columns says")
    words = refusal(written(tmp_path / "a", samples(), "t,acc_x,JANE,what"), mapped(), DataError)
    assert words == "the file has 0 columns 'acc_y' instead of one; check the map"
    assert "has 2 columns 'acc_x'" in refusal(written(tmp_path / "a", [], "acc_x,acc_x,acc_y"), mapped(), DataError)
    assert "of 12 samples a second" in refusal(written(tmp_path / "a", samples()), mapped(time="t", rate_hz=12.0))
    (tmp_path / "a").write_bytes(b"")
    assert refusal(tmp_path / "a", mapped()) == "the file is empty"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"channels": {}}, "a map of a series' columns needs channels and a rate_hz above 0"),
        ({"rate_hz": 0.0}, "a map of a series' columns needs channels and a rate_hz above 0"),
        ({"rate_hz": float("nan")}, "a map of a series' columns needs channels and a rate_hz above 0"),
        ({"annotations": {"a": 128}}, "annotations are 1 to 127, or 0 for what is outside the experiment"),
        ({"annotations": {"a": -1}}, "annotations are 1 to 127, or 0 for what is outside the experiment"),
    ],
)
def test_maps_that_are_none(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        mapped(**fields)
    assert str(caught.value) == words


FILES = ("\n".join(["t,acc_x,acc_y,what", *samples(10)]).encode(), b"t;acc_x;acc_y;what\n0,1;2;3;walk\n")
MAPS = (mapped(), mapped(time="t", annotation="what", annotations={"walk": 1}), mapped(time="t", time_unit="iso"))


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_gives_a_recording_or_a_reason(
    tmp_path: Path, damaged: Callable[[tuple[bytes, ...]], st.SearchStrategy[bytes]], data: st.DataObject
) -> None:
    path = tmp_path / "a"
    path.write_bytes(data.draw(damaged(FILES)))
    with suppress(DataError):
        found = read_series(path, data.draw(st.sampled_from(MAPS)), subject="A")
        assert np.isfinite(found.values).all()
        assert all(0 < gap < len(found.values) for gap in found.gaps)
