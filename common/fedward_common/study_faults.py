"""What is wrong with a study, in words: the line, the key, the value, and what would be valid.

Turns pydantic's errors and a study's own rules into `Fault`s and faults into lines of text. What is valid comes from
the spec's JSON schema, so the words cannot drift from the checks; a field's `description` replaces the generated words.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from fedward_common.toml_lines import KeyPath

_MAX_VALUE = 60
_KIND = "kind"  # the key that says which of several tables a section is


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong at one key of a study."""

    key: KeyPath
    reason: str


def refuse(title: str, faults: Iterable[Fault]) -> None:
    """Raise a `ValidationError` that holds all of the faults, each at its own key; does nothing without any."""
    details = [
        InitErrorDetails(
            type=PydanticCustomError("study_rule", "{reason}", {"reason": fault.reason}), loc=fault.key, input=None
        )
        for fault in faults
    ]
    if details:
        raise ValidationError.from_exception_data(title, details)


def explain(error: ValidationError, document: Mapping[str, Any], schema: Mapping[str, Any]) -> list[Fault]:
    """The faults behind a validation error, one a key, what is valid taken from the spec's JSON schema."""
    reader = _Schema(schema, document)
    faults: dict[tuple[KeyPath, str], Fault] = {}
    for detail in error.errors(include_url=False, include_input=False):
        if detail["type"] == "default_factory_not_called":
            continue  # a default that follows from a key which is itself at fault
        fault = _fault(detail["type"], reader.untagged(detail["loc"]), detail["msg"], document, reader)
        faults.setdefault((fault.key, detail["msg"] if detail["type"] == "study_rule" else ""), fault)
    return list(faults.values())


def _fault(kind: str, loc: KeyPath, message: str, document: Mapping[str, Any], schema: "_Schema") -> Fault:
    if kind == "study_rule":
        return Fault(loc, message)
    if kind == "extra_forbidden":
        return Fault(loc, _unknown_key(loc, schema))
    if kind == "union_tag_invalid":
        return _wrong_kind((*loc, _KIND), document, schema)
    known = _known_part(loc, document, schema)
    if kind == "missing" and isinstance(loc[-1], str):
        return Fault(loc, f"missing; it must be {schema.words(schema.at(loc))}")
    return Fault(known, f"must be {schema.words(schema.at(known))}{_did_you_mean(known, document, schema)}")


def _wrong_kind(key: KeyPath, document: Mapping[str, Any], schema: "_Schema") -> Fault:
    kinds, kind = schema.kinds(key[0]), value_at(document, key)
    words = f"must be one of {', '.join(toml_value(each) for each in kinds)}"
    return Fault(key, words + (near(kind, kinds) if isinstance(kind, str) else ""))


def _known_part(loc: KeyPath, document: Mapping[str, Any], schema: "_Schema") -> KeyPath:
    """The longest start of `loc` that the document and the schema have; pydantic adds the tags of unions behind it."""
    length = 0
    while length < len(loc) and has(document, loc[: length + 1]) and schema.at(loc[: length + 1]) is not None:
        length += 1
    return loc[:length]


def _unknown_key(loc: KeyPath, schema: "_Schema") -> str:
    valid = schema.keys(schema.at(loc[:-1]))
    key = str(loc[-1])
    if not valid:
        return "unknown key; there are none to set here"
    homes = [name for name in schema.keys(schema.at(())) if key in schema.keys(schema.at((name,)))]
    elsewhere = f"; it belongs to {' or '.join(f'[{home}]' for home in homes)};" if homes else ";"
    return f"unknown key{near(key, valid) or elsewhere} valid keys: {', '.join(valid)}"


def _did_you_mean(key: KeyPath, document: Mapping[str, Any], schema: "_Schema") -> str:
    value = value_at(document, key)
    choices = [choice for choice in (schema.at(key) or {}).get("enum", []) if isinstance(choice, str)]
    return near(value, choices) if isinstance(value, str) else ""


def near(word: str, choices: Sequence[str]) -> str:
    """`; did you mean …?` where one of the choices is close, else nothing."""
    close = get_close_matches(word, choices, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def has(document: Any, key: KeyPath) -> bool:
    """Whether the document has something at `key`."""
    for part in key:
        if not _holds(document, part):
            return False
        document = document[part]
    return True


def _holds(document: Any, part: str | int) -> bool:
    if isinstance(document, Mapping):
        return part in document
    return isinstance(document, list) and isinstance(part, int) and part < len(document)


def value_at(document: Any, key: KeyPath) -> Any:
    """What the document has at `key`."""
    for part in key:
        document = document[part]
    return document


def report(faults: Iterable[Fault], document: Mapping[str, Any], lines: Mapping[KeyPath, int], source: str) -> str:
    """All faults, one a line, in the order of the file: `a.toml, line 14: [training] round = 20: unknown key; …`."""
    placed = sorted(((_line_of(fault.key, lines), fault) for fault in faults), key=lambda item: item[0])
    return "\n".join(
        printable(f"{source}{f', line {line}' if line else ''}: {_named(fault.key, document)}: {fault.reason}")
        for line, fault in placed
    )


def printable(text: str) -> str:
    """What a file holds must not steer a terminal, nor break a line in two."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def _line_of(key: KeyPath, lines: Mapping[KeyPath, int]) -> int:
    """The line of the key, else of what holds it; 0 where nothing of it is in the file."""
    return next((lines[key[:end]] for end in range(len(key), 0, -1) if key[:end] in lines), 0)


def _named(key: KeyPath, document: Mapping[str, Any]) -> str:
    value = value_at(document, key) if has(document, key) else None
    text = key_text(key, table=isinstance(value, Mapping) or (value is None and len(key) == 1))
    return text if value is None or isinstance(value, Mapping) else f"{text} = {toml_value(value)}"


def key_text(key: KeyPath, *, table: bool = False) -> str:
    """A key as a person reads it: `[training] optimizer.lr`, `[[sites]] item 2 name`, `[split] shares item 1`."""
    if len(key) == 1 and not table:
        return str(key[0])
    head, *rest = key
    in_array = bool(rest) and isinstance(rest[0], int)
    text = f"[[{head}]]" if in_array else f"[{head}]"
    joint = " "
    for part in rest:
        text += f" item {part + 1}" if isinstance(part, int) else f"{joint}{part}"
        joint = " " if isinstance(part, int) else "."
    return text


def toml_value(value: Any) -> str:
    """A value as TOML writes it, cut where it is long."""
    text = _toml(value)
    return text if len(text) <= _MAX_VALUE else f"{text[: _MAX_VALUE - 1]}…"


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name} = {_toml(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, bool | str):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


class _Schema:
    """Reads pydantic's JSON schema (draft 2020-12) of the spec.

    Of a section that is one of several tables, told apart by their `kind`, the one counts that the document names.
    """

    def __init__(self, root: Mapping[str, Any], document: Mapping[str, Any]) -> None:
        sections = root.get("properties", {})
        self._root = root
        self._tables = {
            name: {self._resolved(option)["properties"][_KIND]["const"]: option for option in section["oneOf"]}
            for name, section in sections.items()
            if "oneOf" in section
        }
        chosen = {}
        for name, tables in self._tables.items():
            held = document.get(name)
            kind = held.get(_KIND) if isinstance(held, Mapping) else None
            chosen[name] = next((table for each, table in tables.items() if each == kind), next(iter(tables.values())))
        self._root = {**root, "properties": {**sections, **chosen}}

    def kinds(self, section: str | int) -> list[str]:
        """What the `kind` of a section may be."""
        return list(self._tables[str(section)])

    def untagged(self, loc: KeyPath) -> KeyPath:
        """A place as the document has it: pydantic puts the kind of such a section behind its name."""
        return (loc[0], *loc[2:]) if len(loc) > 1 and loc[1] in self._tables.get(str(loc[0]), ()) else loc

    def at(self, key: KeyPath) -> Mapping[str, Any] | None:
        """The schema of a key; None where the spec has no such key."""
        node: Mapping[str, Any] | None = self._resolved(self._root)
        for part in key:
            node = None if node is None else self._child(node, part)
        return node

    def keys(self, node: Mapping[str, Any] | None) -> list[str]:
        """The keys of a table."""
        return list((node or {}).get("properties", ()))

    def _resolved(self, node: Mapping[str, Any]) -> Mapping[str, Any]:
        """Follow a reference; take the null out of an optional value. What is beside them (a description) is kept."""
        beside = {name: value for name, value in node.items() if name not in {"$ref", "anyOf", "default"}}
        if "$ref" in node:
            target = self._resolved(self._root["$defs"][node["$ref"].rpartition("/")[2]])
            docstring = {"description"}  # of the class, meant for who reads the code
            return {**{name: value for name, value in target.items() if name not in docstring}, **beside}
        options = [self._resolved(option) for option in node.get("anyOf", ()) if option.get("type") != "null"]
        if len(options) == 1:
            return {**options[0], **beside}
        return {**beside, "anyOf": options} if options else node

    def _child(self, node: Mapping[str, Any], part: str | int) -> Mapping[str, Any] | None:
        if "anyOf" in node:
            children = (self._child(option, part) for option in node["anyOf"])
            return next((child for child in children if child is not None), None)
        if isinstance(part, str):
            child = node.get("properties", {}).get(part, node.get("additionalProperties"))
        else:
            first = node.get("prefixItems", [])
            child = first[part] if part < len(first) else node.get("items")
        return self._resolved(child) if isinstance(child, Mapping) else None

    def words(self, node: Mapping[str, Any] | None) -> str:
        """What is valid, e.g. `a whole number from 1 to 10000`."""
        node = node or {}
        for sign, words in _WORDS.items():
            if sign in node:
                return words(self, node)
        return _TYPE_WORDS[node["type"]](self, node) if "type" in node else "a value"

    def _list_words(self, node: Mapping[str, Any]) -> str:
        if first := node.get("prefixItems"):
            return f"a list of {len(first)} values, each {self.words(self._resolved(first[0]))}"
        bounds = " and ".join(f"{words} {node[sign]}" for sign, words in _LENGTHS.items() if sign in node)
        each = self.words(self._resolved(node.get("items", {})))
        return f"a list of {bounds} values, each {each}" if bounds else f"a list of values, each {each}"

    def _table_words(self, node: Mapping[str, Any]) -> str:
        keys = self.keys(node)
        return f"a table of {', '.join(keys)}" if keys else "a table"

    def _number_words(self, node: Mapping[str, Any]) -> str:
        kind = "a whole number" if node["type"] == "integer" else "a number"
        bounds = [f"{words} {toml_value(_plain(node[sign]))}" for sign, words in _BOUNDS.items() if sign in node]
        return " ".join([kind, " and ".join(bounds)]).strip()


def _string_words(node: Mapping[str, Any]) -> str:
    if node.get("format") == "date":
        return "a date such as 2027-12-31"
    return "text in quotes that is not empty" if node.get("minLength") else "text in quotes"


def _plain(number: float) -> float:
    return int(number) if number == int(number) else number


_BOUNDS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}

_LENGTHS = {"minItems": "at least", "maxItems": "at most"}

_Words = Callable[[_Schema, Mapping[str, Any]], str]

# The first that the node has decides.
_WORDS: dict[str, _Words] = {
    "description": lambda _schema, node: str(node["description"]),
    "const": lambda _schema, node: toml_value(node["const"]),
    "enum": lambda _schema, node: f"one of {', '.join(toml_value(value) for value in node['enum'])}",
    "anyOf": lambda schema, node: " or ".join(schema.words(option) for option in node["anyOf"]),
}

_TYPE_WORDS: dict[str, _Words] = {
    "integer": _Schema._number_words,
    "number": _Schema._number_words,
    "string": lambda _schema, node: _string_words(node),
    "boolean": lambda _schema, _node: "true or false",
    "array": _Schema._list_words,
    "object": _Schema._table_words,
}
