"""Tables as hospitals write them, by a map of their columns; UCI's heart disease in its own form."""

import csv
import os
import tomllib
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedward_client.column_settings import shipped
from fedward_client.intake import tabular
from fedward_client.intake.columns import Category, Date, Numeric, TableMap, Target
from fedward_client.intake.delimited import TextFormat
from fedward_client.intake.tabular import read_table
from fedward_common.errors import DataError, SettingsError, UnreadableFile

HEART_DISEASE = TableMap.of(tomllib.loads(shipped("heart-disease")))

NAN = float("nan")
HEADER = ["id", "age", "stage", "seen", "ill", "name"]
FEATURES = (
    Numeric(column="age"),
    Category(column="stage", levels=("1", "2", "3")),
    Date(column="seen", origin=date(2020, 1, 1)),
)
ROWS = [
    ["007", "63.5", "1", "2020-01-02", "0", "JANE DOE"],
    ["7", "40", "3.0", "2019-12-31", "1", "JANE DOE"],
    ["8", "?", "2", "2020-02-29", "4", "JANE DOE"],
]


def mapped(**fields: Any) -> TableMap:
    given: dict[str, Any] = {
        "features": FEATURES,
        "patient": "id",
        "target": Target(column="ill", classes={"0": "healthy", "1": "ill", "4": "ill"}),
        "missing": ("", "?", "-9"),
    }
    return TableMap(**(given | fields))


def written(path: Path, rows: list[list[str]], *, delimiter: str = ",", encoding: str = "utf-8") -> Path:
    with path.open("w", encoding=encoding, newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    return path


def refusal(path: Path, columns: TableMap, kind: type[DataError] = DataError) -> str:
    with pytest.raises(kind) as caught:
        read_table(path, columns)
    message = str(caught.value)
    assert str(path.parent) not in message
    assert "JANE" not in message
    return message


@pytest.mark.parametrize("name", [b"a.csv", b"line\nbreak", b"not utf-8 \xff"])
def test_a_table_by_its_map(tmp_path: Path, name: bytes) -> None:
    found = read_table(written(tmp_path / os.fsdecode(name), [HEADER, *ROWS]), mapped())
    assert found.names == ("age", "stage=1", "stage=2", "stage=3", "seen")
    assert found.features.dtype == np.float32
    np.testing.assert_array_equal(found.features, [[63.5, 1, 0, 0, 1], [40, 0, 0, 1, -1], [NAN, 0, 1, 0, 59]])
    assert found.patients == ("007", "7", "8"), "ids are text"
    assert found.targets == ("healthy", "ill", "ill")
    assert (found.missing, found.left_out) == ({"age": 1, "stage": 0, "seen": 0}, ())
    assert "007" not in repr(found)
    assert "ill" not in repr(found)


def test_a_row_without_its_target_is_kept(tmp_path: Path) -> None:
    """Another table may say it, or a study learn from rows without."""
    bad = ["?" if name == "ill" else value for name, value in zip(HEADER, ROWS[0], strict=True)]
    found = read_table(written(tmp_path / "a", [HEADER, bad, *ROWS[1:]]), mapped())
    assert (found.targets, found.left_out) == (("", "ill", "ill"), ())


@pytest.mark.parametrize(
    ("column", "cell", "reason"),
    [
        ("age", "JANE", "column 'age' holds no number"),
        ("age", "inf", "column 'age' holds no number"),
        ("age", "1e39", "column 'age' holds no number"),
        ("stage", "4", "column 'stage' holds a level that the map does not list"),
        ("stage", "01", "column 'stage' holds a level that the map does not list"),
        ("seen", "29.02.2020", "column 'seen' holds no date of the form %Y-%m-%d"),
        ("seen", "2019-02-29", "column 'seen' holds no date of the form %Y-%m-%d"),
        ("ill", "2", "its target, column 'ill', is of no class that the map lists"),
        ("id", "", "it names no patient"),
    ],
)
def test_a_bad_row_is_left_out_with_its_reason(tmp_path: Path, column: str, cell: str, reason: str) -> None:
    bad = [cell if name == column else value for name, value in zip(HEADER, ROWS[0], strict=True)]
    found = read_table(written(tmp_path / "a", [HEADER, ROWS[0], [""] * 6, bad, *ROWS[1:]]), mapped())
    assert found.left_out == ((4, reason),)
    assert len(found.features) == len(found.patients) == len(found.targets) == 3


def test_rows_of_another_width_are_left_out(tmp_path: Path) -> None:
    rows = [HEADER, ROWS[0][:-1], [*ROWS[0], "x"], [*ROWS[1], "", " "], ROWS[2]]
    found = read_table(written(tmp_path / "a", rows), mapped())
    reason = "it has more or fewer cells than the table has columns"
    assert found.left_out == ((2, reason), (3, reason))
    assert found.patients == ("7", "8")


def test_missing_values_as_each_column_writes_them(tmp_path: Path) -> None:
    features = (
        Numeric(column="age", missing=("0", "unknown")),
        Category(column="stage", levels=("1", "-9"), missing=("9",)),
        Numeric(column="ill"),
    )
    rows = [["age", "stage", "ill"], ["0.0", "-9", "-9"], ["unknown", "9.0", "-9.0"], ["-9", "1", "NA"], ["1", "1", ""]]
    found = read_table(written(tmp_path / "a", rows), TableMap(features=features, missing=("-9", "")))
    np.testing.assert_array_equal(found.features, [[NAN, 0, 1, NAN], [NAN, NAN, NAN, NAN], [1, 1, 0, NAN]])
    assert found.left_out == ((4, "column 'ill' holds no number"),)
    assert found.missing == {"age": 2, "stage": 1, "ill": 3}


def test_levels_are_the_study_s(tmp_path: Path) -> None:
    path = written(tmp_path / "a", [["stage"], ["2"], ["2"]])
    found = read_table(path, TableMap(features=(Category(column="stage", levels=("1", "2", "3")),)))
    np.testing.assert_array_equal(found.features, [[0, 1, 0], [0, 1, 0]])
    assert (found.patients, found.targets) == (("row 2", "row 3"), ())


def test_a_target_that_is_a_number(tmp_path: Path) -> None:
    path = written(tmp_path / "a", [["x", "y"], ["1", "2,50"], ["1", "JANE"]], delimiter=";")
    columns = TableMap(features=(Numeric(column="x"),), target=Target(column="y"), text=TextFormat(decimal=","))
    found = read_table(path, columns)
    assert found.targets == ("2.5",)
    assert found.left_out == ((3, "column 'y' holds no number"),)


def test_times_of_follow_up(tmp_path: Path) -> None:
    rows = [["x", "days"], ["1", "0"], ["1", "36,50"], ["1", "?"], ["1", "-0,5"], ["1", "JANE"], ["1", "1e39"]]
    columns = TableMap(
        features=(Numeric(column="x"),), time="days", missing=("", "?"), text=TextFormat(decimal=",", delimiter=";")
    )
    found = read_table(written(tmp_path / "a", rows, delimiter=";"), columns)
    np.testing.assert_array_equal(found.times, [0.0, 36.5, NAN])
    assert found.left_out == (
        (5, "column 'days' holds a negative time of follow-up"),
        *((row, "column 'days' holds no number") for row in (6, 7)),
    )
    np.testing.assert_array_equal(read_table(tmp_path / "a", replace(columns, time=None)).times, [NAN] * 6)
    assert refusal(tmp_path / "a", replace(columns, time="months")).startswith("the table has no column 'months'")


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030"])
def test_other_delimiters_and_encodings(tmp_path: Path, delimiter: str, encoding: str) -> None:
    rows = [["姓名", "年龄"], ["x", "5"]]
    path = written(tmp_path / "a", rows, delimiter=delimiter, encoding=encoding)
    columns = TableMap(
        features=(Numeric(column="年龄"),), text=TextFormat(encoding="gb18030" if encoding == "gb18030" else "utf-8")
    )
    assert read_table(path, columns).features.tolist() == [[5.0]]


def test_a_map_that_does_not_fit(tmp_path: Path) -> None:
    path = written(tmp_path / "a", [["id", "age", "x"], ["1", "2", "3"]])
    assert refusal(path, mapped()) == (
        "the table has no column 'stage', only 'id', 'age', 'x'; check the map of its columns"
    )
    path = written(tmp_path / "a", [["JANE", "40", "x"], ["1", "2", "3"]])
    assert refusal(path, mapped()) == (
        "the table has no column 'age' among its 3 columns; check the map of its columns"
    )
    path = written(tmp_path / "a", [["id", "age", "age"], ["1", "2", "3"]])
    assert refusal(path, mapped()) == "the table has 2 columns named 'age'; keep one"
    (tmp_path / "a").write_bytes(b'id,age\n"JANE,2\n')
    assert refusal(path, TableMap(features=(Numeric(column="age"),))).startswith("after row 1 it is not CSV")
    assert (
        refusal(path, mapped(columns=("id", "id")))
        == "the table has no column 'age', only 'id', 'id'; check the map of its columns"
    )
    (tmp_path / "a").write_bytes(b"")
    assert refusal(path, mapped(), UnreadableFile) == "the file is empty"
    assert refusal(tmp_path / "gone", mapped()) == "the file system refuses it: No such file or directory"


def test_a_table_of_its_header_alone(tmp_path: Path) -> None:
    found = read_table(written(tmp_path / "a", [HEADER]), mapped())
    assert found.features.shape == (0, 5)
    assert found.left_out == ()


def test_more_rows_than_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "a", [HEADER, *ROWS])
    monkeypatch.setattr(tabular, "MAX_ROWS", 2)
    assert refusal(path, mapped()) == "it has more than 2 rows of 5 features, too many for one file: split it"
    monkeypatch.setattr(tabular, "MAX_ROWS", 3)
    assert len(read_table(path, mapped()).patients) == 3
    monkeypatch.setattr(tabular, "MAX_NUMBERS", 14)
    assert refusal(path, mapped()) == "it has more than 2 rows of 5 features, too many for one file: split it"


@pytest.mark.long
def test_memory_is_that_of_the_features(tmp_path: Path) -> None:
    path = written(tmp_path / "a", [["age", "note"], *([str(n), "x" * 200] for n in range(20_000))])
    tracemalloc.start()
    read_table(path, TableMap(features=(Numeric(column="age"),)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert path.stat().st_size > 4_000_000
    assert peak < 3_000_000


TOML: dict[str, Any] = {
    "patient": "id",
    "missing": ["?"],
    "target": {"column": "ill", "classes": {"0": "no", "1": "yes"}},
    "features": [
        {"kind": "numeric", "column": "age", "missing": ["0"]},
        {"kind": "category", "column": "stage", "levels": ["1", "2"]},
        {"kind": "date", "column": "seen", "origin": date(2020, 1, 1), "form": "%d.%m.%Y"},
    ],
    "text": {"encoding": "gb18030", "decimal": ","},
}


def test_a_map_from_toml() -> None:
    found = TableMap.of(TOML)
    assert found.features == (
        Numeric(column="age", missing=("0",)),
        Category(column="stage", levels=("1", "2")),
        Date(column="seen", origin=date(2020, 1, 1), form="%d.%m.%Y"),
    )
    assert found.text == TextFormat(encoding="gb18030", decimal=",")
    assert found.wanted == ("age", "stage", "seen", "id", "ill")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"feature": []}, "the map of a table's columns is wrong at 'feature'"),
        ({"features": []}, "a map of a table needs features, each of another name"),
        ({"features": [TOML["features"][0]] * 2}, "a map of a table needs features, each of another name"),
        ({"features": [{"kind": "text", "column": "a"}]}, "the map of a table's columns is wrong at 'features.0'"),
        ({"features": [{"kind": "category", "column": "a"}]}, "the map of a table's columns is wrong at 'features.0."),
        ({"features": [{"kind": "numeric", "column": "a", "levels": []}]}, "the map of a table's columns is wrong at"),
        ({"target": {"column": "a", "classes": {"0": 1}}}, "the map of a table's columns is wrong at 'target.classes"),
        ({"target": {"column": "a", "klasses": {}}}, "the map of a table's columns is wrong at 'target.klasses'"),
        ({"text": {"delimiter": "ab"}}, "a delimiter is one character, not 'ab'; common are"),
        ({"text": {"decimals": "."}}, "the map of a table's columns is wrong at 'text.decimals'"),
    ],
)
def test_maps_that_are_none(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        TableMap.of(TOML | changed)
    assert str(caught.value).startswith(words)


def test_heart_disease_as_it_is(tmp_path: Path) -> None:
    """Rows in the forms of the four files: whole numbers with a point, ".7", "?" and -9."""
    path = tmp_path / "processed.cleveland.data"
    path.write_text(
        "63.0,1.0,1.0,145.0,233.0,1.0,2.0,150.0,0.0,2.3,3.0,0.0,6.0,0\n"
        "28,1,2,130,132,0,2,185,0,0,?,?,?,0\n"
        "32,1,1,95,0,?,0,127,0,.7,1,?,?,1\n"
        "60,0,4,-9,260,-9,1,112,1,-1.1,2,-9,7,4\n",
        "ascii",
    )
    found = read_table(path, HEART_DISEASE)
    assert len(found.names) == found.features.shape[1] == 22
    assert found.targets == ("healthy", "healthy", "disease", "disease")
    assert found.patients == ("row 1", "row 2", "row 3", "row 4")
    by_name = dict(zip(found.names, found.features.T.tolist(), strict=True))
    assert by_name["age"] == [63, 28, 32, 60]
    assert (by_name["cp=1"], by_name["cp=2"], by_name["cp=4"]) == ([1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1])
    np.testing.assert_array_equal(by_name["thal=6"], [1, NAN, NAN, 0])
    np.testing.assert_array_equal(by_name["trestbps"], [145, 130, 95, NAN])
    np.testing.assert_allclose(by_name["oldpeak"], [2.3, 0, 0.7, -1.1], rtol=1e-6)
    assert found.missing == {
        "age": 0,
        "sex": 0,
        "cp": 0,
        "trestbps": 1,
        "chol": 0,
        "fbs": 2,
        "restecg": 0,
        "thalach": 0,
        "exang": 0,
        "oldpeak": 0,
        "slope": 1,
        "ca": 3,
        "thal": 2,
    }
    assert found.left_out == ()


FILES = tuple("\n".join(",".join(row) for row in rows).encode() for rows in ([HEADER, *ROWS], [HEADER, ROWS[0]] * 2))


@pytest.mark.long
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_gives_a_table_or_a_reason(
    tmp_path: Path, damaged: Callable[[tuple[bytes, ...]], st.SearchStrategy[bytes]], data: st.DataObject
) -> None:
    (tmp_path / "a").write_bytes(data.draw(damaged(FILES)))
    for columns in (mapped(), mapped(columns=tuple(HEADER)), mapped(time="age"), HEART_DISEASE):
        with suppress(DataError):
            found = read_table(tmp_path / "a", columns)
            assert found.times.shape == (len(found.patients),)
            assert not (found.times < 0).any()
            assert found.features.shape == (len(found.patients), len(found.names))
            assert not np.isinf(found.features).any()
