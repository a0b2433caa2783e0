"""The line of every key, against generated TOML whose lines are known."""

import tomllib
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fedward_common.toml_lines import KeyPath, locate

NAMES = st.sampled_from(["a", "b-1", "c_2", "rounds", "3", "a b", 'q"uote', "dot.ted", "tür", "#no", ""])
SCALARS = st.sampled_from(
    [
        ("1", 1),
        ("-2.5e3", -2500.0),
        ("true", True),
        ('"text # [no] {x} = 1"', "text # [no] {x} = 1"),
        (r'"a \" ] quote"', 'a " ] quote'),
        (r"'C:\no ]'", r"C:\no ]"),
        ('"""two\n[a]\nx = 1 ""quoted"""""', 'two\n[a]\nx = 1 ""quoted""'),
        ("'''raw\n\\''''", "raw\n\\'"),
        ('"""line \\\n   on"""', "line on"),
    ]
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.tuples(st.just("list"), st.lists(inner, max_size=3), st.booleans())
        | st.tuples(st.just("table"), st.dictionaries(NAMES, inner, max_size=3), st.booleans())
    ),
    max_leaves=6,
)
TABLES = st.dictionaries(NAMES, VALUES, max_size=3)


class Writer:
    """Writes TOML and keeps what it wrote and where."""

    def __init__(self) -> None:
        self.text = ""
        self.lines: dict[KeyPath, int] = {}

    @property
    def line(self) -> int:
        return self.text.count("\n") + 1

    def key(self, name: str) -> str:
        bare = name and all(letter.isascii() and (letter.isalnum() or letter in "-_") for letter in name)
        return name if bare else '"' + name.replace('"', '\\"') + '"'

    def value(self, value: Any, path: KeyPath) -> Any:
        if value[0] == "list":
            return self._list(value[1], path, spread=value[2])
        if value[0] == "table":
            self.text += "{ "
            result = self._pairs(value[1], path, joint=", ")
            self.text += " }"
            return result
        self.text += value[0]
        return value[1]

    def _list(self, items: list[Any], path: KeyPath, *, spread: bool) -> list[Any]:
        self.text += "[" + (" # x = [1]\n\n  " if spread else "")
        result = []
        for index, item in enumerate(items):
            self.lines[(*path, index)] = self.line
            result.append(self.value(item, (*path, index)))
            last = index == len(items) - 1
            self.text += ("" if last and not spread else ",") + ("\n " if spread else "")
        self.text += "]"
        return result

    def _pairs(self, table: dict[str, Any], path: KeyPath, joint: str) -> dict[str, Any]:
        result = {}
        for index, (name, value) in enumerate(table.items()):
            self.text += joint if index else ""
            self.lines[(*path, name)] = self.line
            self.text += f"{self.key(name)} = "
            result[name] = self.value(value, (*path, name))
        return result

    def body(self, table: dict[str, Any], path: KeyPath) -> dict[str, Any]:
        result = self._pairs(table, path, joint="\n# [note]\n")
        self.text += "\n"
        return result


@st.composite
def documents(draw: st.DrawFn) -> tuple[str, dict[str, Any], dict[KeyPath, int]]:
    """A TOML text, what it means, and the line of each of its keys."""
    writer = Writer()
    document = writer.body(draw(TABLES), ())
    for name in draw(st.lists(NAMES, unique=True, max_size=3)):
        if name in document:
            continue
        kind = draw(st.sampled_from(["table", "tables", "deep", "dotted"]))
        writer.text += draw(st.sampled_from(["", "\n", "  # comment ' \"\n\t"]))
        document[name] = SECTIONS[kind](writer, name, draw)
    return writer.text, document, writer.lines


def _table(writer: Writer, name: str, draw: st.DrawFn) -> Any:
    writer.lines[(name,)] = writer.line
    writer.text += f"[ {writer.key(name)} ] # head\n"
    return writer.body(draw(TABLES), (name,))


def _tables(writer: Writer, name: str, draw: st.DrawFn) -> Any:
    items = []
    for index in range(draw(st.integers(1, 3))):
        writer.lines.setdefault((name,), writer.line)
        writer.lines[(name, index)] = writer.line
        writer.text += f"[[{writer.key(name)}]]\n"
        items.append(writer.body(draw(TABLES), (name, index)))
        if draw(st.booleans()):
            writer.lines[(name, index, "sub")] = writer.line
            writer.text += f"[{writer.key(name)}.sub]\n"
            items[-1]["sub"] = writer.body(draw(TABLES), (name, index, "sub"))
    return items


def _deep(writer: Writer, name: str, draw: st.DrawFn) -> Any:
    """The child before its parent: the parent stands where its own header is."""
    writer.lines[(name, "in")] = writer.line
    writer.text += f"[{writer.key(name)} . in]\n"
    inner = writer.body(draw(TABLES), (name, "in"))
    writer.lines[(name,)] = writer.line
    writer.text += f"[{writer.key(name)}]\n"
    return {**writer.body(draw(TABLES), (name,)), "in": inner}


def _dotted(writer: Writer, name: str, draw: st.DrawFn) -> Any:
    writer.lines[(name,)] = writer.line
    writer.text += f"[{writer.key(name)}]\n"
    writer.lines[(name, "x")] = writer.lines[(name, "x", "y")] = writer.line
    writer.text += "x . y = "
    first = writer.value(draw(VALUES), (name, "x", "y"))
    writer.text += "\n"
    writer.lines[(name, "x", "z")] = writer.line
    writer.text += "x.'z' = "
    second = writer.value(draw(VALUES), (name, "x", "z"))
    writer.text += "\n"
    return {"x": {"y": first, "z": second}}


SECTIONS = {"table": _table, "tables": _tables, "deep": _deep, "dotted": _dotted}


@given(documents())
def test_every_key_is_found_on_its_line(case: tuple[str, dict[str, Any], dict[KeyPath, int]]) -> None:
    text, document, lines = case
    assert tomllib.loads(text) == document  # the test's own writer is right
    assert locate(text) == lines


@given(documents())
def test_windows_line_ends_change_nothing(case: tuple[str, dict[str, Any], dict[KeyPath, int]]) -> None:
    text, _, lines = case
    assert locate(text.replace("\n", "\r\n")) == lines


def test_tables_of_an_array_are_numbered() -> None:
    text = 'x = 1\n\n[[sites]]\nname = "a"\n[[sites]]\nname = "b"\nkeys = [\n  1,\n  2, # two\n]\n'
    lines = locate(text)
    assert lines[("sites",)] == 3
    assert lines[("sites", 1)] == 5
    assert lines[("sites", 1, "name")] == 6
    assert lines[("sites", 1, "keys", 1)] == 9
