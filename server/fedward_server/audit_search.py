"""A hub's audit log read from its end: a page of entries at a time, those that somebody asks for.

Each entry that is given is held against its hash and the hub's signature, and shown as bad where it does not agree.
What was removed or moved only the check of the whole log finds (`audit_check`).
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from fedward_common.audit import backwards, entry_of
from fedward_common.errors import AuditError

PAGE = 50
LOOKED_AT = 2**25  # bytes, a quarter of a second: then the question can be gone on with


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """Which entries: those of whom all of this is so. `text` is in a value of the data; case does not count."""

    event: str = ""  # a part of it
    text: str = ""
    since: date | None = None  # UTC, as `until`, which is the last day
    until: date | None = None

    def takes(self, line: bytes) -> bool:
        """Whether a line is asked for. One that cannot be read is, always."""
        words = [json.dumps(word.casefold(), ensure_ascii=False)[1:-1] for word in (self.event, self.text) if word]
        if words:
            whole = line.decode(errors="replace").casefold()
            if not all(word in whole for word in words):  # most are done with here
                return False
        try:
            found = json.loads(line)
            day, event, data = str(found["time"])[:10], str(found["event"]), found["data"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return True
        return (
            self.event.casefold() in event.casefold()
            and (self.since is None or day >= self.since.isoformat())
            and (self.until is None or day <= self.until.isoformat())
            and (not self.text or any(self.text.casefold() in each.casefold() for each in _values(data)))
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """Entries, the newest first, as JSON, each with what is `wrong` with it, None where nothing is.

    `older` is the byte to go on from, None where the log's beginning was reached.
    """

    entries: list[dict[str, Any]]
    older: int | None


def search(
    path: Path, public_key: Ed25519PublicKey, asked: Asked, *, end: int | None = None, most: int = PAGE
) -> Found:
    """Up to `most` entries of a log that are asked for, before the byte `end`. Raises AuditError as `backwards`."""
    found: list[dict[str, Any]] = []
    first: int | None = None
    for place, line in backwards(path, end):
        first = place + len(line) if first is None else first
        if asked.takes(line):
            found.append(_shown(line, public_key))
        if len(found) >= most or first - place >= LOOKED_AT:
            return Found(entries=found, older=place or None)
    return Found(entries=found, older=None)


def _shown(line: bytes, public_key: Ed25519PublicKey) -> dict[str, Any]:
    try:
        return {**asdict(entry_of(line, public_key)), "wrong": None}
    except AuditError as error:
        return {**_as_it_stands(line), "wrong": str(error)}


def _as_it_stands(line: bytes) -> dict[str, Any]:
    """What a line that is not to be relied on says it is."""
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        said = None
    said = said if isinstance(said, dict) else {}
    kinds = {"n": int, "time": str, "event": str}
    told = {name: said[name] if isinstance(said.get(name), kind) else None for name, kind in kinds.items()}
    return {**told, "data": {}, "hash": None}


def _values(data: Any) -> Iterator[str]:
    """Whatever stands in an entry's data, as text."""
    left = [data]
    while left:
        each = left.pop()
        if isinstance(each, dict | list):
            left.extend(each.values() if isinstance(each, dict) else each)
        else:
            yield str(each)
