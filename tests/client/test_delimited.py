"""Lines, cells and numbers of text files, in bounded memory; xz."""

import lzma
import os
import tracemalloc
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedward_client.intake import delimited
from fedward_client.intake.delimited import TextFormat, lines, rows
from fedward_common.errors import DataError, SettingsError, UnreadableFile


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def refusal(path: Path, text: TextFormat | None = None) -> str:
    with pytest.raises(DataError) as caught:
        list(rows(path, text or TextFormat()))
    assert str(path.parent) not in str(caught.value)
    assert "JANE" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", [b"a", b"line\nbreak.csv", b"not utf-8 \xff.csv"])
@pytest.mark.parametrize("content", [b"a,b\n1, 2 \n\n,\n3,4", b"\xef\xbb\xbfa,b\r\n1,2\r\n\r\n,\r\n3,4\r\n"])
def test_rows_are_counted_as_a_spreadsheet_does(tmp_path: Path, name: bytes, content: bytes) -> None:
    path = written(tmp_path / os.fsdecode(name), content)
    assert list(rows(path, TextFormat())) == [(1, ["a", "b"]), (2, ["1", "2"]), (5, ["3", "4"])]


@pytest.mark.parametrize(
    ("content", "wanted", "cells"),
    [
        ("a;b,c\n", ("a",), ["a", "b,c"]),
        ("a;b,c\n", (), ["a;b", "c"]),
        ("a,b;c,d\n", ("c",), ["a,b;c", "d"]),
        ("a\tb,c\n", ("a",), ["a", "b,c"]),
        ("alone\n", (), ["alone"]),
    ],
)
def test_the_first_row_says_the_delimiter(
    tmp_path: Path, content: str, wanted: Collection[str], cells: list[str]
) -> None:
    expected = [(1, cells)] if cells != ["a,b;c", "d"] else [(1, ["a", "b;c", "d"])]
    assert list(rows(written(tmp_path / "a", content), TextFormat(), wanted)) == expected


def test_a_given_delimiter_and_a_decimal_comma(tmp_path: Path) -> None:
    path = written(tmp_path / "a", "1,5|2\n")
    assert list(rows(path, TextFormat(delimiter="|"))) == [(1, ["1,5", "2"])]
    assert list(rows(path, TextFormat(decimal=","))) == [(1, ["1,5|2"])]
    for delimiter in ("", ",,", '"', "\n"):
        with pytest.raises(SettingsError, match="a delimiter is one character"):
            TextFormat(delimiter=delimiter)


def test_quoted_cells_hold_delimiters_and_lines(tmp_path: Path) -> None:
    path = written(tmp_path / "a", 'a,b\n"x, ""y""\nz",2\n')
    assert list(rows(path, TextFormat())) == [(1, ["a", "b"]), (2, ['x, "y"\nz', "2"])]


def test_other_encodings(tmp_path: Path) -> None:
    for encoding in ("gb18030", "utf-16", "cp1252"):
        text = "名字,b\n" if encoding != "cp1252" else "Größe,b\n"
        path = written(tmp_path / "a", text.encode(encoding))
        assert next(rows(path, TextFormat(encoding=encoding)))[1][0] == text.split(",", maxsplit=1)[0]
    assert refusal(path) == "it is not utf-8 text; save it as that, or name its encoding"
    for nonsense in ("klingon", "zlib"):
        assert refusal(path, TextFormat(encoding=nonsense)).startswith(f"the encoding '{nonsense}' is not known")


@pytest.mark.parametrize(
    ("cell", "decimal", "number"),
    [
        ("1", ".", 1.0),
        ("-.5", ".", -0.5),
        ("+2.", ".", 2.0),
        ("1e-3", ".", 0.001),
        ("1,5", ",", 1.5),
        ("1.5", ",", 1.5),
    ],
)
def test_numbers(cell: str, decimal: Literal[".", ","], number: float) -> None:
    assert TextFormat(decimal=decimal).number(cell) == number


@pytest.mark.parametrize(
    "cell", ["", " 1", "1,5", "1_0", "nan", "inf", "0x10", "\uff11", "1e39", "-1e39", "1e9999", "--1", ".", "1 2"]
)
def test_what_is_no_number(cell: str) -> None:
    with pytest.raises(ValueError, match=r"^$"):
        TextFormat().number(cell)
    with pytest.raises(ValueError, match=r"^$"):
        TextFormat(decimal=",").number("1.234,5")


def test_what_is_no_csv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = "it is not CSV: a quote does not close, or a cell is too long"
    assert refusal(written(tmp_path / "a", 'a,b\n1,2\n"JANE,2\n3,4\n')) == f"after row 2 {words}"
    assert refusal(written(tmp_path / "a", 'a,b\n1,"J"ANE\n')) == f"after row 1 {words}"
    assert refusal(written(tmp_path / "a", b"")) == "the file is empty"
    assert refusal(tmp_path / "gone") == "the file system refuses it: No such file or directory"
    assert refusal(written(tmp_path / "a", "x" * 2**17)) == "it has a line of more than 65536 characters"
    long_cell = '"' + ("x" * 999 + "\n") * 200 + '"'
    assert refusal(written(tmp_path / "a", long_cell)) == f"after row 0 {words}"
    monkeypatch.setattr(delimited, "MAX_BYTES", 99)
    assert refusal(written(tmp_path / "a", "1,2\n" * 25)) == "it is longer than 99 bytes"
    assert len(list(rows(written(tmp_path / "a", "1,2\n" * 24), TextFormat()))) == 24


def test_xz(tmp_path: Path) -> None:
    text = "1 2\n" * 20_000
    path = tmp_path / "a"
    for data in (
        lzma.compress(text.encode()),
        lzma.compress(text[:8000].encode()) + lzma.compress(text[8000:].encode()),
    ):
        assert "".join(lines(written(path, data))) == text
        assert "".join(lines(written(path, data + b"\0" * 8))) == text, "stream padding"
        for size in (7, 20, len(data) // 2, len(data) - 1):
            assert refusal(written(path, data[:size])).startswith("its xz stream ")
        flipped = data[:40] + bytes([data[40] ^ 255]) + data[41:]
        assert refusal(written(path, flipped)) == "its xz stream is damaged, or needs too much memory"
        assert refusal(written(path, data + b"JANE")) == "its xz stream ends early"


@pytest.mark.long
def test_an_xz_bomb_costs_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delimited, "MAX_BYTES", 10**6)
    path = written(tmp_path / "a", lzma.compress(b"1 2\n" * 10**7))
    assert path.stat().st_size < 20_000
    tracemalloc.start()
    with pytest.raises(UnreadableFile, match=r"^it is longer than 1000000 bytes unpacked$"):
        for _ in lines(path):
            pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 12 * 2**20, "most of it is the stream's dictionary"
    greedy = lzma.compress(b"1 2\n", filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 2**28}])
    assert refusal(written(path, greedy)) == "its xz stream is damaged, or needs too much memory"


FILES = (b'a,b\n1,"2, 3"\n4,5\n', "größe;b\n1,5;2\n".encode(), lzma.compress(b"a\tb\n1\t2\n" * 9), b"a,b\r1,2\r")


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_gives_rows_or_a_reason(
    tmp_path: Path, damaged: Callable[[tuple[bytes, ...]], st.SearchStrategy[bytes]], data: st.DataObject
) -> None:
    path = written(tmp_path / "a", data.draw(damaged(FILES)))
    with suppress(UnreadableFile):
        for _, cells in rows(path, TextFormat(), ("a", "b")):
            assert any(cells)
