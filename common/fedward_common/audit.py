"""An audit log that cannot be changed unseen: JSON lines, each chained to the one before it by hash, each signed.

An entry's hash is the SHA-256 of its RFC 8785 JSON without hash and signature, and its signature is Ed25519 over the 32
bytes of that hash. A line is the entry's RFC 8785 JSON, byte for byte. Entry 1 names the holder and the public key.

Any change of a line, and any line removed, added or moved, is found, and the first bad entry named. Two things no log
can show by itself: that its end was cut off, and that its holder wrote it anew with the same key. Whoever noted the
hash of an entry finds both. An entry holds what its caller gives: no patient's identifier, no path.
"""

import base64
import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedward_common import pki
from fedward_common.disk import sync
from fedward_common.errors import AuditError, RecordError
from fedward_common.study_faults import printable

NAME = "audit.jsonl"
MAX_ENTRY_BYTES = 2**20
BEGUN, TORN = "begun", "torn"  # the events that the log itself writes
_NOTHING_BEFORE = "0" * 64
_NO_ENTRY = "is no entry: it was changed after it was written, or put there by somebody else"
_BLOCK = 2**16  # bytes that are read at a time
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_TYPES = {"n": int, "time": str, "event": str, "data": dict, "previous": str, "hash": str, "signature": str}


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One line of a log."""

    n: int  # from 1
    time: str  # ISO 8601, UTC, milliseconds
    event: str
    data: Mapping[str, Any]  # JSON
    previous: str  # the hash of the entry before it, 64 hex digits; of entry 1 zeros
    hash: str  # 64 hex digits
    signature: str  # base64


@dataclass(frozen=True, kw_only=True, slots=True)
class Survey:
    """What a whole log is."""

    holder: str  # a site's name or a hub's
    fingerprint: str  # of the holder's key, 64 hex digits
    entries: int
    first: str  # time of entry 1
    last: str  # time of the last entry
    hash: str  # of the last entry, 64 hex digits


class _BadError(Exception):
    """What is wrong with an entry, said of it."""


# Writing -------------------------------------------------------------------------------------------------------------


class AuditLog:
    """A log that is written to, by any number of threads and processes that hold the same key.

    Begun (mode 0600) where it is not there. Raises AuditError when the log is another key's, or cannot be written.
    """

    def __init__(self, path: Path, key: Ed25519PrivateKey, holder: str) -> None:
        self._path = path
        self._key = key
        self._holder = holder
        self._end = 0  # bytes that were there once: less of them, and something was removed
        with self._opened(os.O_CREAT) as descriptor:
            if self._tail(descriptor)[0] is None:
                self._write(descriptor)
            else:
                self._check_first(descriptor)

    def append(self, event: str, data: Mapping[str, Any]) -> Entry:
        """Write an entry; it is on disk when this returns. `data` is JSON.

        Raises AuditError when it cannot be written (disk full): then the log is as it was. What a crash left of an
        entry in mid-write is cut off first, and an entry says so.
        """
        with self._opened() as descriptor:
            return self._write(descriptor, (event, data))

    @contextmanager
    def _opened(self, flags: int = 0) -> Iterator[int]:
        """The log's file, locked against every other writer: a lock belongs to this opening, not to the process."""
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC | flags, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                yield descriptor
            finally:
                os.close(descriptor)
        except OSError as error:
            todo = "free space on its disk" if error.errno in _FULL else "put that right"
            raise AuditError(f"{self._path.name} cannot be written ({error.strerror}): {todo}") from error

    def _write(self, descriptor: int, *events: tuple[str, Mapping[str, Any]]) -> Entry:
        """Append the events, those that the log itself has to tell before them; the last entry."""
        last, end, torn = self._tail(descriptor)
        own: list[tuple[str, Mapping[str, Any]]] = []
        if last is None:
            own += [(BEGUN, {"public_key": pki.public_hex(self._key.public_key()), "holder": self._holder})]
        if torn:
            own += [(TORN, {"bytes": torn})]
        lines = b""
        for event, data in (*own, *events):
            last = self._entry(last, event, data)
            lines += _line(last)
        assert last is not None
        self._put(descriptor, end, lines)
        if end == 0:
            sync(self._path.parent)
        self._end = end + len(lines)
        return last

    def _put(self, descriptor: int, end: int, lines: bytes) -> None:
        try:
            written = 0
            while written < len(lines):
                written += os.pwrite(descriptor, lines[written:], end + written)
            os.ftruncate(descriptor, end + len(lines))  # what was torn may have been longer
            os.fsync(descriptor)
        except OSError:
            with suppress(OSError):
                os.ftruncate(descriptor, end)
            raise

    def _entry(self, last: Entry | None, event: str, data: Mapping[str, Any]) -> Entry:
        body: dict[str, Any] = {
            "n": last.n + 1 if last else 1,
            "time": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "event": event,
            "data": dict(data),
            "previous": last.hash if last else _NOTHING_BEFORE,
        }
        digest = hashlib.sha256(rfc8785.dumps(body)).digest()
        signature = base64.b64encode(self._key.sign(digest)).decode()
        entry = Entry(**body, hash=digest.hex(), signature=signature)
        if len(_line(entry)) > MAX_ENTRY_BYTES:
            raise AuditError(f"an entry of {self._path.name} would be over {MAX_ENTRY_BYTES} bytes: record less of it")
        return entry

    def _tail(self, descriptor: int) -> tuple[Entry | None, int, int]:
        """The last entry, where it ends, and how many bytes of one that was never finished lie behind it."""
        size = os.fstat(descriptor).st_size
        if size < self._end:
            raise AuditError(
                f"{self._path.name} is shorter than it was, entries were removed: keep it, ask who did it, and restore "
                "it from a backup"
            )
        line, torn = _last_line(descriptor, size)
        return (self._own(line, "last") if line else None), size - torn, torn

    def _check_first(self, descriptor: int) -> None:
        with open(descriptor, "rb", closefd=False) as file:
            first = self._own(file.readline(MAX_ENTRY_BYTES + 1), "first")
        if first.data.get("public_key") != pki.public_hex(self._key.public_key()):
            raise self._foreign("first")

    def _own(self, line: bytes, which: str) -> Entry:
        """The entry of a line; AuditError unless it is whole and this key's: nothing is chained to anything else."""
        try:
            entry = _parse(line)
            _check_signature(entry, self._key.public_key())
        except _BadError:
            raise self._foreign(which) from None
        return entry

    def _foreign(self, which: str) -> AuditError:
        return AuditError(
            f"the {which} entry of {self._path.name} is not this key's, or was changed: restore the log and the key "
            "from the same backup, or move the log away, keep it, and a new one begins"
        )


def _line(entry: Entry) -> bytes:
    return rfc8785.dumps(asdict(entry)) + b"\n"


def _last_line(descriptor: int, size: int) -> tuple[bytes, int]:
    """The last whole line with its end, empty where there is none, and how many bytes follow it."""
    block = 4096
    while True:
        start = max(0, size - block)
        data = os.pread(descriptor, size - start, start)
        whole, end, torn = data.rpartition(b"\n")
        _, before, line = whole.rpartition(b"\n")
        if before or start == 0:
            return line + end, len(torn)
        block *= 8


# Reading -------------------------------------------------------------------------------------------------------------


def find(path: Path) -> Path:
    """The log that a person means: a file, or the one in the folder of a hub or a site. AuditError without one."""
    if not path.is_dir():
        return path
    for place in (path / NAME, path / ".fedward" / NAME):
        if place.is_file():
            return place
    raise AuditError(f"{path} holds no audit log: give a hub's folder, a site's, or the file {NAME} itself")


def entries(path: Path, *, event: str | None = None) -> Iterator[Entry]:
    """The entries of a log in order, those of one event if it is given: for listing, signatures are not checked.

    What is torn at the end is left out. Raises AuditError when the log cannot be read or a line is no whole entry.
    """
    for number, line in enumerate(_lines(path), 1):
        if not line.endswith(b"\n") and len(line) <= MAX_ENTRY_BYTES:
            return
        try:
            entry = _parse(line)
        except _BadError as bad:
            raise AuditError(f"{path.name}: entry {number} (line {number}) {bad}") from None
        if event in (None, entry.event):
            yield entry


def entry_of(line: bytes, public_key: Ed25519PublicKey) -> Entry:
    """The entry of one line, held against its own hash and signature; whether it is in its place is not looked at.

    Raises AuditError that says what is wrong with it.
    """
    try:
        entry = _parse(line)
        _check_signature(entry, public_key)
    except _BadError as bad:
        raise AuditError(f"this entry {bad}") from None
    return entry


def backwards(path: Path, end: int | None = None) -> Iterator[tuple[int, bytes]]:
    """The lines of a log, the last first, each with the byte where it begins; nothing is checked.

    Of a byte `end` on nothing is given; neither is what is torn at the end. Raises AuditError when the log cannot be
    read, or a line of it is longer than any entry.
    """
    with _as_it_is(path) as (file, size):
        place, rest, whole = (size if end is None else min(max(end, 0), size)), b"", False
        while place:
            block = min(place, _BLOCK)
            place -= block
            file.seek(place)
            rest = file.read(block) + rest
            if not whole:
                rest = rest[: rest.rfind(b"\n") + 1]
                whole = bool(rest)
            first = rest.find(b"\n") + 1 if place else 0  # what is before it begins further back
            stop = len(rest)
            while stop > first:
                start = max(rest.rfind(b"\n", first, stop - 1) + 1, first)
                yield place + start, rest[start:stop]
                stop = start
            rest = rest[:first]
            if len(rest) > MAX_ENTRY_BYTES:
                raise AuditError(f"a line of {path.name} {_NO_ENTRY}")


def copied(path: Path) -> tuple[int, Iterator[bytes]]:
    """How many bytes a log has now, and these bytes in parts: what is written meanwhile is not among them.

    Raises AuditError when it cannot be read.
    """
    with _as_it_is(path) as (_, size):
        pass

    def parts() -> Iterator[bytes]:
        with path.open("rb") as file:
            left = size
            while left and (part := file.read(min(left, _BLOCK))):
                left -= len(part)
                yield part

    return size, parts()


def verified(path: Path, *, public_key: Ed25519PublicKey | None = None) -> Iterator[Entry]:
    """The entries of a log in order, each checked before it is given; without a `public_key` by the one in entry 1.

    Raises AuditError that names the first bad entry. A log that was only copied can be checked anywhere.
    """
    last: Entry | None = None
    for number, line in enumerate(_lines(path), 1):
        try:
            entry = _parse(line)
            _check_order(entry, last)
            if last is None:
                public_key = _key_of(entry, public_key)
            assert public_key is not None
            _check_signature(entry, public_key)
        except _BadError as bad:
            raise AuditError(f"{path.name}: entry {number} (line {number}) {bad}") from None
        last = entry
        yield entry
    if last is None:
        raise AuditError(f"{path.name} is empty: restore it from a backup")


def verify(path: Path, *, public_key: Ed25519PublicKey | None = None) -> Entry:
    """Check a whole log; its last entry. Raises AuditError that names the first bad entry, as `verified` does."""
    last: Entry | None = None
    for entry in verified(path, public_key=public_key):
        last = entry
    assert last is not None
    return last


def survey(
    path: Path,
    *,
    fingerprint: str | None = None,
    noted: str | None = None,
    progress: Callable[[int], None] = lambda _checked: None,
) -> Survey:
    """Check a whole log and say what it is; `progress` is told how many entries are checked.

    Raises AuditError that names the first bad entry, and where the holder's key has another `fingerprint` than the
    given one, or no entry has the hash that was `noted` before.
    """
    found: Survey | None = None
    missing = noted is not None
    for entry in verified(path):
        if found is None:
            found = _begun(entry)
            if fingerprint not in (None, found.fingerprint):
                raise AuditError(f"{path.name} is signed by another key, that with the fingerprint {found.fingerprint}")
        found = replace(found, entries=entry.n, last=entry.time, hash=entry.hash)
        missing = missing and entry.hash != noted
        progress(entry.n)
    if missing:
        raise AuditError(
            f"{path.name} has no entry with the hash that was noted: its end was cut off, or it was replaced"
        )
    assert found is not None
    return found


def _begun(first: Entry) -> Survey:
    return Survey(
        holder=printable(first.data["holder"]),
        fingerprint=pki.fingerprint(pki.public_from_hex(first.data["public_key"])),
        entries=1,
        first=first.time,
        last=first.time,
        hash=first.hash,
    )


def _lines(path: Path) -> Iterator[bytes]:
    """The lines as they were when the log was opened; one that is being written is not seen."""
    with _as_it_is(path) as (file, size):
        left = size
        while left > 0 and (line := _read_line(file, left)):
            left -= len(line)
            yield line


@contextmanager
def _as_it_is(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """A log, opened, and how long it was then."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            size = os.fstat(file.fileno()).st_size
            fcntl.flock(file, fcntl.LOCK_UN)  # a long check must not hold up who writes
            yield file, size
    except OSError as error:
        raise AuditError(f"{path.name} cannot be read ({error.strerror}): name a log that is there") from None


def _read_line(file: BinaryIO, left: int) -> bytes:
    return file.readline(min(left, MAX_ENTRY_BYTES + 1))


def _parse(line: bytes) -> Entry:
    """The entry of a line, held against its own hash."""
    if not line.endswith(b"\n") and len(line) <= MAX_ENTRY_BYTES:
        raise _BadError("is cut off: its writer ended in the middle of it, or it was changed")
    try:
        found = json.loads(line, parse_int=_number)
        whole = isinstance(found, dict) and {key: type(value) for key, value in found.items()} == _TYPES
        if not whole or rfc8785.dumps(found) + b"\n" != line:
            raise _BadError(_NO_ENTRY)
    except (ValueError, RecursionError):
        raise _BadError(_NO_ENTRY) from None
    body = {key: value for key, value in found.items() if key not in {"hash", "signature"}}
    if hashlib.sha256(rfc8785.dumps(body)).hexdigest() != found["hash"]:
        raise _BadError("was changed: its content is not what its hash was made of")
    return Entry(**found)


def _number(text: str) -> int | float:
    """RFC 8785 writes a large float without a point; an integer above 2^53 it does not have."""
    number = int(text)
    return number if abs(number) < 2**53 else float(number)


def _check_order(entry: Entry, last: Entry | None) -> None:
    before, previous = (last.n, last.hash) if last else (0, _NOTHING_BEFORE)
    if (entry.n, entry.previous) != (before + 1, previous):
        follows = f"does not follow entry {before}" if last else "does not begin a log"
        raise _BadError(f"says that it is entry {entry.n} and {follows}: something was removed, added or moved")


def _key_of(first: Entry, expected: Ed25519PublicKey | None) -> Ed25519PublicKey:
    """The key that entry 1 names, which is the expected one."""
    try:
        if first.event != BEGUN or not isinstance(first.data["holder"], str):
            raise _BadError("is no beginning of a log")
        key = pki.public_from_hex(first.data["public_key"])
    except (KeyError, TypeError, RecordError):
        raise _BadError("names no holder and no public key") from None
    if expected is not None and pki.public_hex(expected) != pki.public_hex(key):
        raise _BadError(f"names another key than yours, that with the fingerprint {pki.fingerprint(key)}")
    return key


def _check_signature(entry: Entry, key: Ed25519PublicKey) -> None:
    try:
        signature = base64.b64decode(entry.signature, validate=True)
        key.verify(signature, bytes.fromhex(entry.hash))
        intact = base64.b64encode(signature).decode() == entry.signature  # its last digit has bits that nobody reads
    except (InvalidSignature, ValueError):
        intact = False
    if not intact:
        raise _BadError("was changed: its signature is not the holder's")
