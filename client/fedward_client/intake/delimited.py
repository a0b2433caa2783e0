"""Text in rows, as instruments and spreadsheets write it: lines, cells, numbers; plain or xz.

Files are read as streams and in bounded memory: a line, a cell and the whole have a greatest length, and so has what an
xz stream unpacks to. Rows are told by their number, never by what stands in them.
"""

import csv
import io
import lzma
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, ClassVar, Literal

from fedward_client.intake.bounds import opened
from fedward_common.errors import DataError, SettingsError, UnreadableFile

MAX_BYTES = 2**31  # of a file, unpacked
MAX_LINE = 2**16  # characters
XZ_MEMORY = 2**27  # bytes; `xz -9` needs half of it

_CHUNK = 2**16
_FLOAT32_MAX = 3.4e38
_XZ = b"\xfd7zXZ\0"
_DELIMITERS = (",", ";", "\t")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")


@dataclass(frozen=True, kw_only=True, slots=True)
class TextFormat:
    """How a site writes its text: encoding, delimiter (None: found by the first row), decimal mark."""

    encoding: str = "utf-8"
    delimiter: str | None = None
    decimal: Literal[".", ","] = "."

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}  # where TOML describes it

    def __post_init__(self) -> None:
        if self.delimiter is not None and (len(self.delimiter) != 1 or self.delimiter in '"\r\n'):
            raise SettingsError(f"a delimiter is one character, not {self.delimiter!r}; common are ',' ';' and tab")

    def number(self, cell: str) -> float:
        """A cell as a number that float32 can hold. Raises ValueError for any other text."""
        plain = cell.replace(",", ".") if self.decimal == "," else cell
        if not _NUMBER.fullmatch(plain) or abs(number := float(plain)) > _FLOAT32_MAX:
            raise ValueError
        return number


def lines(path: Path, encoding: str = "utf-8") -> Iterator[str]:
    """The lines of a file with their ends, without a byte-order mark.

    Raises UnreadableFile with a reason in words; DataError for an encoding that there is not.
    """
    with opened(path) as file, io.BufferedReader(_Chunks(_chunks(file))) as stream:
        try:
            text = io.TextIOWrapper(stream, encoding, newline="")
            line = text.readline(MAX_LINE + 1).removeprefix("\ufeff")
            while line:
                if len(line) > MAX_LINE:
                    raise UnreadableFile(f"it has a line of more than {MAX_LINE} characters")
                yield line
                line = text.readline(MAX_LINE + 1)
        except LookupError:
            raise DataError(f"the encoding '{encoding}' is not known; common are utf-8, gb18030, cp1252") from None
        except UnicodeError:
            raise UnreadableFile(f"it is not {encoding} text; save it as that, or name its encoding") from None


def rows(path: Path, text: TextFormat, wanted: Collection[str] = ()) -> Iterator[tuple[int, list[str]]]:
    """The rows that are not blank, each with its number as a spreadsheet counts, from 1; cells without space around.

    `wanted` are the columns that the first row should name; by it the delimiter is found where none is given.
    Raises what `lines` raises, and UnreadableFile for text that is not CSV (RFC 4180).
    """
    delimiter = text.delimiter if text.delimiter is not None else _delimiter(path, text, wanted)
    yield from _rows(path, text.encoding, delimiter)


def _rows(path: Path, encoding: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    number = 0
    try:
        for number, cells in enumerate(csv.reader(lines(path, encoding), delimiter=delimiter, strict=True), 1):
            row = [cell.strip() for cell in cells]
            if any(row):
                yield number, row
    except csv.Error:
        raise UnreadableFile(
            f"after row {number} it is not CSV: a quote does not close, or a cell is too long"
        ) from None


def _delimiter(path: Path, text: TextFormat, wanted: Collection[str]) -> str:
    """The delimiter whose first row names most of the wanted columns, then the one with most cells."""

    def fit(delimiter: str) -> tuple[int, int]:
        try:
            _, header = next(_rows(path, text.encoding, delimiter), (0, []))
        except UnreadableFile:
            return 0, 0  # reading on with what was found says what is wrong
        return len(set(wanted) & set(header)), len(header)

    return max((one for one in _DELIMITERS if one != text.decimal), key=fit)


class _Chunks(io.RawIOBase):
    """An iterator of bytes as a raw stream."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks, self._rest = chunks, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = chunk
        part, self._rest = self._rest[: len(view)], self._rest[len(view) :]
        view[: len(part)] = part
        return len(part)


def _chunks(file: BufferedReader) -> Iterator[bytes]:
    """The bytes of a file, unpacked where it is xz."""
    total = 0
    packed = file.peek(len(_XZ))[: len(_XZ)] == _XZ
    for chunk in _unpacked(file) if packed else iter(lambda: file.read(_CHUNK), b""):
        total += len(chunk)
        if total > MAX_BYTES:
            raise UnreadableFile(f"it is longer than {MAX_BYTES} bytes{' unpacked' if packed else ''}")
        yield chunk


def _unpacked(file: BufferedReader) -> Iterator[bytes]:
    """The streams of an xz file, one after the other (the .xz format, 2)."""
    decoder = _decoder()
    try:
        while True:
            if decoder.eof:
                more = (decoder.unused_data or file.read(_CHUNK)).lstrip(b"\0")
                if not more:
                    return
                decoder = _decoder()
            else:
                more = file.read(_CHUNK) if decoder.needs_input else b""
                if decoder.needs_input and not more:
                    raise UnreadableFile("its xz stream ends early")
            yield decoder.decompress(more, _CHUNK)
    except lzma.LZMAError:
        raise UnreadableFile("its xz stream is damaged, or needs too much memory") from None


def _decoder() -> lzma.LZMADecompressor:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY)
