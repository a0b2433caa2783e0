"""Where each key of a TOML text stands: `locate` gives line numbers, so that a refusal can name the line.

Reads text that `tomllib` has already accepted, so it looks only for where keys and values begin and end (TOML 1.0.0)
and leaves all judgement to `tomllib`.
"""

import re
import tomllib
from bisect import bisect_right

KeyPath = tuple[str | int, ...]

_BLANK = re.compile(r"(?:[ \t\n]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR = re.compile(r"[^,\]}#\n]+")
_STRING = re.compile(
    r'"""(?:[^\\]|\\.)*?"""(?:"{0,2})'  # a closing """ may follow up to two quotes of the text itself
    r"|'''.*?'''(?:'{0,2})"
    r'|"(?:[^"\\]|\\.)*"'
    r"|'[^']*'",
    re.DOTALL,
)


def locate(text: str) -> dict[KeyPath, int]:
    """The line (from 1) of each table, key and array item of a valid TOML text, by its path, as `("sites", 0, "name")`.

    A table stands where its own header is, one that only its children name where the first of them is.
    """
    return _Scanner(text.replace("\r\n", "\n")).scan()


class _Scanner:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._starts = [0, *(match.end() for match in re.finditer("\n", text))]
        self._lines: dict[KeyPath, int] = {}
        self._tables_in: dict[KeyPath, int] = {}  # how many tables an array of tables holds so far

    def scan(self) -> dict[KeyPath, int]:
        table: KeyPath = ()
        self._skip(_BLANK)
        while self._at < len(self._text):
            table = self._header() if self._text[self._at] == "[" else self._pair(table)
            self._skip(_BLANK)
        return self._lines

    def _skip(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._at)
        if match is None:
            return ""
        self._at = match.end()
        return match.group()

    def _line(self) -> int:
        return bisect_right(self._starts, self._at)

    def _header(self) -> KeyPath:
        """Read `[a.b]` or `[[a.b]]`; gives the table that the following keys belong to."""
        line = self._line()
        brackets = 2 if self._text.startswith("[[", self._at) else 1
        self._at += brackets
        *parents, last = self._key()
        self._at += brackets
        path: KeyPath = ()
        for part in parents:
            path = self._enter((*path, part), line)
        path = (*path, last)
        if brackets == 1:
            path = self._enter(path, line)
        else:
            count = self._tables_in[path] = self._tables_in.get(path, 0) + 1
            self._lines.setdefault(path, line)
            path = (*path, count - 1)
        self._lines[path] = line
        return path

    def _enter(self, path: KeyPath, line: int) -> KeyPath:
        """The table at `path`, the last one where an array of tables stands there."""
        self._lines.setdefault(path, line)
        return (*path, self._tables_in[path] - 1) if path in self._tables_in else path

    def _key(self) -> list[str]:
        """Read a dotted key and the bracket's or equals sign's white space around it."""
        parts = []
        while True:
            self._skip(_SPACE)
            parts.append(self._key_part())
            self._skip(_SPACE)
            if self._text[self._at] != ".":
                return parts
            self._at += 1

    def _key_part(self) -> str:
        if self._text[self._at] in "\"'":
            return next(iter(tomllib.loads(f"{self._skip(_STRING)} = 0")))
        return self._skip(_BARE_KEY)

    def _pair(self, table: KeyPath) -> KeyPath:
        """Read `key = value` of a table; gives that table back."""
        line = self._line()
        path = table
        for part in self._key():
            path = (*path, part)
            self._lines.setdefault(path, line)
        self._at += 1  # =
        self._skip(_SPACE)
        self._value(path)
        return table

    def _value(self, path: KeyPath) -> None:
        opening = self._text[self._at]
        if opening == "[":
            self._items(path)
        elif opening == "{":
            self._inline_table(path)
        else:
            self._skip(_STRING if opening in "\"'" else _SCALAR)

    def _items(self, path: KeyPath) -> None:
        index = 0
        self._at += 1  # [
        while self._another("]"):
            self._lines[(*path, index)] = self._line()
            self._value((*path, index))
            index += 1

    def _inline_table(self, path: KeyPath) -> None:
        self._at += 1  # {
        while self._another("}"):
            self._pair(path)

    def _another(self, closing: str) -> bool:
        """Go to the next item of an array or inline table, or past its end."""
        self._skip(_BLANK)
        if self._text[self._at] == ",":
            self._at += 1
            self._skip(_BLANK)
        if self._text[self._at] != closing:
            return True
        self._at += 1
        return False
