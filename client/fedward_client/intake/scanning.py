"""Bring the catalog up to date with the data folder: new and changed files are read, the rest is not.

A folder whose files have the names, sizes and times that they had is passed over whole. A batch of files is one
transaction, so an interrupted scan goes on where it was.
"""

import fcntl
import json
import logging
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import TypeVar

from sqlalchemy import Connection, and_, delete, exists, func, insert, or_, select, update

from fedward_client.intake import bids_facts, index
from fedward_client.intake.bids import read_folder
from fedward_client.intake.box_table import Box, read_boxes
from fedward_client.intake.labels import LabelTable, read_labels
from fedward_client.intake.optout import opted_out
from fedward_client.intake.reading import ROWS, Found, Readers, Row
from fedward_client.intake.walk import Folder, file_key, files, folder_key, folders
from fedward_client.site import Site
from fedward_common.events import Event, Listener

BATCH = 256
_LOCK = "scan.lock"

Value = TypeVar("Value")

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
    # first: a wrong table is found before an hour of reading
    table, boxes, out = read_labels(site), read_boxes(site), opted_out(site)
    with _alone(site), index.connected(site) as catalog:
        with index.transaction(catalog):
            _put_boxes(catalog, boxes)
        done = _scanned(site, catalog, table, out, listener)
    return replace(done, seconds=time.perf_counter() - started)


def _scanned(site: Site, catalog: Connection, table: LabelTable, out: Collection[str], listener: Listener) -> Done:
    known = _known_folders(catalog)
    with index.transaction(catalog):
        fresh = catalog.execute(select(index.files.c.key).limit(1)).first() is None
    found = {folder_key(site, folder.path): folder for folder in folders(site)}
    changed = {key: folder for key, folder in found.items() if not folder.stamp or known.get(key) != folder.stamp}
    total = sum(folder.files for folder in found.values())
    seen = total - sum(folder.files for folder in changed.values())
    listener(Event(site=site.name, stage="scan", done=seen, total=total))
    read = removed = 0
    there = Counter[str]()  # files, by folder
    with Readers(site) as readers:
        for ready in _read(_batches(_files(site, changed)), None if fresh else catalog, readers):
            read += _put(catalog, ready)
            there.update(ready.folders)
            seen += len(ready.folders)
            listener(Event(site=site.name, stage="scan", done=seen, total=max(seen, total)))
    for keys in _batches(changed):
        removed += _end_folders(site, catalog, {key: changed[key] for key in keys}, there)
    removed += _finish(site, catalog, known.keys() - found.keys(), table, out, changed=bool(changed))
    return Done(read=read, unchanged=seen - read, removed=removed, seconds=0.0)


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


def _known_folders(catalog: Connection) -> dict[str, str]:
    """The stamps of the folders that were scanned to their end."""
    with index.transaction(catalog):
        rows = catalog.execute(select(index.folders.c.key, index.folders.c.stamp))
        return {row.key: row.stamp for row in rows}


def _batches(values: Iterable[Value]) -> Iterator[list[Value]]:
    found = iter(values)
    while batch := list(islice(found, BATCH)):
        yield batch


def _files(site: Site, changed: Mapping[str, Folder]) -> Iterator[tuple[str, Found]]:
    """The files of folders, by their keys."""
    for key, folder in changed.items():
        for entry in files(site, folder.path):
            yield file_key(site, entry.path), (key, entry)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Ready:
    """A batch of files that was read; `known` are those of them that are in the catalog as they were before."""

    folders: Sequence[str]  # of each file of the batch, unchanged ones included
    rows: list[Row]
    known: Collection[str]


def _read(batches: Iterable[list[tuple[str, Found]]], catalog: Connection | None, readers: Readers) -> Iterator[_Ready]:
    """Batches of files, each when the next is begun: it goes into the catalog while others read on."""
    ready = None
    for batch in batches:
        known = _begin(catalog, dict(batch), readers)
        if ready is not None:
            yield ready
        ready = _Ready(folders=[folder for _, (folder, _) in batch], rows=readers.end(), known=known)
    if ready is not None:
        yield ready


def _begin(catalog: Connection | None, batch: Mapping[str, Found], readers: Readers) -> Collection[str]:
    """Begin to read what is new of a batch of files; the keys of those that are in the catalog otherwise.

    None stands for a catalog that was empty when the scan began, in which none of them can be.
    """
    if catalog is None:
        readers.begin(batch)
        return ()
    with index.transaction(catalog):
        columns = select(index.files.c.key, index.files.c.size, index.files.c.mtime_ns)
        stamps = catalog.execute(columns.where(index.files.c.key.in_(batch)))
        before = {key: (size, mtime_ns) for key, size, mtime_ns in stamps}
    new = {key: one for key, one in batch.items() if before.get(key) != (one[1].size, one[1].mtime_ns)}
    readers.begin(new)
    return before.keys() & new.keys()


def _put(catalog: Connection, ready: _Ready) -> int:
    """Put a batch into the catalog; the number of its files."""
    if not ready.rows:
        return 0
    inner = [each for row in ready.rows for each in row.pop(ROWS, ())]
    with index.transaction(catalog):  # reading files took its time, and needs no lock on the catalog
        if ready.known:
            _delete(catalog, ready.known)
        index.put_files(catalog, ready.rows + inner)
    return len(ready.rows)


def _delete(connection: Connection, keys: Collection[str]) -> None:
    """Forget files, and the rows of those that are tables."""
    connection.execute(delete(index.files).where(or_(index.files.c.key.in_(keys), index.files.c.parent.in_(keys))))


def _end_folders(site: Site, connection: Connection, ended: Mapping[str, Folder], there: Mapping[str, int]) -> int:
    """Forget the files that folders hold no longer, remember the folders as scanned; the number of files that are gone.

    `there` says how many files were found in each; all of them are in the catalog, so it is looked through again only
    where that has another number. A folder with a file that the file system refused is scanned again: that may be
    allowed tomorrow.
    """
    key, folder, size = index.files.c.key, index.files.c.folder, index.files.c.size
    of_these = and_(folder.in_(ended), index.files.c.parent.is_(None))
    with index.transaction(connection):
        counts = select(folder, func.count(), func.min(size)).where(of_these).group_by(folder)
        held = {name: (files, least) for name, files, least in connection.execute(counts)}
        refused = {name for name, (_, least) in held.items() if least < 0}
        fewer = {name: one for name, one in ended.items() if held.get(name, (0, 0))[0] != there.get(name, 0)}
        still = {name for name, _ in _files(site, fewer)} if fewer else set()
        known = connection.execute(select(key).where(of_these, folder.in_(fewer))).scalars() if fewer else ()
        gone = [name for name in known if name not in still]
        for batch in _batches(gone):
            _delete(connection, batch)
        connection.execute(delete(index.folders).where(index.folders.c.key.in_(ended)))
        stamps = {key: "" if key in refused else folder.stamp for key, folder in ended.items()}
        connection.execute(insert(index.folders), [{"key": key, "stamp": stamp} for key, stamp in stamps.items()])
    return len(gone)


def _finish(
    site: Site, connection: Connection, gone: Collection[str], table: LabelTable, out: Collection[str], *, changed: bool
) -> int:
    """Forget folders that are gone, mark what is not used, replace the labels; the number of files that are gone."""
    removed = 0
    bids = read_folder(site.data) if site.bids and (changed or gone) else None
    with index.transaction(connection):
        for batch in _batches(gone):
            theirs = index.files.c.folder.in_(batch)
            removed += connection.execute(delete(index.files).where(theirs, index.files.c.parent.is_(None))).rowcount
            connection.execute(delete(index.files).where(theirs))
            connection.execute(delete(index.folders).where(index.folders.c.key.in_(batch)))
        if bids is not None:
            bids_facts.apply(site, connection, bids)
        if changed or gone:
            _mark_duplicates(connection)
        _mark_opted_out(connection, out)
        connection.execute(delete(index.labels))
        rows = [{"key": name, "row": json.dumps(row)} for name, row in table.rows.items() if name not in out]
        if rows:
            connection.execute(insert(index.labels), rows)
        left_out = {name: count for name, count in asdict(table).items() if name != "rows"}
        index.put(connection, "labels left out", json.dumps(left_out))
        index.complete(connection)
    return removed


def _put_boxes(connection: Connection, table: Mapping[str, list[Box]]) -> None:
    connection.execute(delete(index.boxes))
    rows = [{"key": key, "boxes": json.dumps(found)} for key, found in table.items()]
    if rows:
        connection.execute(insert(index.boxes), rows)


def _mark_duplicates(connection: Connection) -> None:
    """Of the files of one instance, the one with the least key is the image, whichever was found first."""
    files, other = index.files, index.files.alias()
    earlier = exists().where(and_(other.c.instance == files.c.instance, other.c.key < files.c.key))
    connection.execute(update(files).where(files.c.instance.is_not(None)).values(duplicate=earlier))


def _mark_opted_out(connection: Connection, out: Collection[str]) -> None:
    """Of patients on the list nothing is taken; who is on it no longer is used again."""
    connection.execute(update(index.files).where(index.files.c.opted_out).values(opted_out=False))
    for batch in _batches(out):
        connection.execute(update(index.files).where(index.files.c.patient.in_(batch)).values(opted_out=True))
