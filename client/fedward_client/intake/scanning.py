"""Bring the catalog up to date with the data folder: new and changed files are read, the rest is not.

A batch of files is one transaction, so an interrupted scan goes on where it was. Each file that is there ends as an
image, as something that is no image, or in quarantine with its reason.
"""

import fcntl
import hashlib
import json
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

from sqlalchemy import Connection, and_, delete, exists, insert, select, update

from fedward_client.intake import index
from fedward_client.intake.dicom import Header, read_header
from fedward_client.intake.labels import LabelTable, read_labels
from fedward_client.intake.walk import Entry, file_key, walk
from fedward_client.site import Site
from fedward_common.errors import UnreadableFile
from fedward_common.events import Event, Listener

BATCH = 256
_LOCK = "scan.lock"

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Done:
    """What a scan did: files read, files that were known and unchanged, files that are gone; wall time."""

    read: int
    unchanged: int
    removed: int
    seconds: float


def scan(site: Site, listener: Listener) -> Done:
    """Scan the data folder; see `fedward_client.catalog.scan`."""
    started = time.perf_counter()
    table = read_labels(site)  # first: a wrong table is found before an hour of reading
    with _alone(site):
        index.prepare(site)
        generation = _next_generation(site)
        total = sum(1 for _ in walk(site))
        listener(Event(site=site.name, stage="scan", done=0, total=total))
        read = seen = 0
        for batch in _batches(walk(site)):
            read += _take(site, batch, generation)
            seen += len(batch)
            listener(Event(site=site.name, stage="scan", done=seen, total=max(seen, total)))
        removed = _finish(site, generation, table)
    return Done(read=read, unchanged=seen - read, removed=removed, seconds=time.perf_counter() - started)


@contextmanager
def _alone(site: Site) -> Iterator[None]:
    """One scan of a site at a time; a second one waits, and then finds little to do."""
    with (site.ensure_state() / _LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("%s: another scan is running; this one waits for it", site.name)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _next_generation(site: Site) -> int:
    with index.writing(site) as connection:
        generation = int(index.fact(connection, "generation") or 0) + 1
        index.put(connection, "generation", str(generation))
    return generation


def _batches(entries: Iterator[Entry]) -> Iterator[list[Entry]]:
    while batch := list(islice(entries, BATCH)):
        yield batch


def _take(site: Site, batch: Sequence[Entry], generation: int) -> int:
    """Put a batch into the catalog; the number of files that had to be read."""
    entries = {file_key(site, entry.path): entry for entry in batch}
    known = index.files.c.key.in_(entries)
    with index.writing(site) as connection:
        stamps = select(index.files.c.key, index.files.c.size, index.files.c.mtime_ns).where(known)
        before = {key: (size, mtime_ns) for key, size, mtime_ns in connection.execute(stamps)}
    new = {key: entry for key, entry in entries.items() if before.get(key) != (entry.size, entry.mtime_ns)}
    rows = [_row(site, key, entry, generation) for key, entry in new.items()]
    with index.writing(site) as connection:  # reading files took its time, and needs no lock on the catalog
        connection.execute(update(index.files).where(known).values(generation=generation))
        connection.execute(delete(index.files).where(index.files.c.key.in_(new)))
        if rows:
            connection.execute(insert(index.files), rows)
    return len(rows)


def _row(site: Site, key: str, entry: Entry, generation: int) -> dict[str, Any]:
    """A file's row, every column of it."""
    row: dict[str, Any] = dict.fromkeys(column.name for column in index.files.columns)
    row |= {"key": key, "generation": generation, "size": entry.size, "mtime_ns": entry.mtime_ns, "duplicate": False}
    if entry.link:
        return row | {"kind": "link"}
    try:
        return row | _read(site, entry)
    except UnreadableFile as error:
        row |= {"kind": "quarantine", "reason": str(error)}
        # what the file system refused may be allowed tomorrow, without a change of the file's size or time
        return row | ({"size": -1} if isinstance(error.__cause__, OSError) or entry.refused else {})


def _read(site: Site, entry: Entry) -> dict[str, Any]:
    if entry.refused:
        raise UnreadableFile(entry.refused)
    header = read_header(entry.path)
    if not isinstance(header, Header):
        return {"kind": header}
    content = _content(entry)
    values = asdict(header)
    patient, instance = values.pop("patient_id"), values.pop("instance_uid") or content
    return values | {
        "kind": "image",
        "patient": site.pseudonym("patient", patient),
        "instance": site.pseudonym("instance", instance),
        "content": content,
    }


def _content(entry: Entry) -> str:
    """BLAKE2b-256 of a file's bytes (hex), read in pieces."""
    try:
        with entry.path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=32)).hexdigest()
    except OSError as error:
        raise UnreadableFile(f"the file system refuses it: {error.strerror}") from error


def _finish(site: Site, generation: int, table: LabelTable) -> int:
    """Forget what is gone, mark duplicates, replace the labels; the number of files that are gone."""
    with index.writing(site) as connection:
        gone = connection.execute(delete(index.files).where(index.files.c.generation != generation)).rowcount
        _mark_duplicates(connection)
        connection.execute(delete(index.labels))
        if table.rows:
            rows = [{"patient": patient, "row": json.dumps(row)} for patient, row in table.rows.items()]
            connection.execute(insert(index.labels), rows)
        left_out = {name: count for name, count in asdict(table).items() if name != "rows"}
        index.put(connection, "labels left out", json.dumps(left_out))
        index.complete(connection)
    return gone


def _mark_duplicates(connection: Connection) -> None:
    """Of the files of one instance, the one with the least key is the image, whichever was found first."""
    files, other = index.files, index.files.alias()
    earlier = exists().where(and_(other.c.instance == files.c.instance, other.c.key < files.c.key))
    connection.execute(update(files).where(files.c.instance.is_not(None)).values(duplicate=earlier))
