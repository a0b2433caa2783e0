"""Where what comes is put: DATA/received/STUDY/SERIES/INSTANCE.dcm, all three pseudonyms under the site's key.

An object is written beside its place as it comes, checked, made durable, and only then has its name: after a crash a
file is whole or not there. What was received before is never written over: the same data set again is no news, another
one under the same SOP Instance UID is refused. Nothing is kept of an object that is too large or that no room is for.
"""

import errno
import fcntl
import logging
import os
import secrets
import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal, TextIO

from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info, read_partial
from pydicom.uid import DeflatedExplicitVRLittleEndian

from fedward_client.intake import elements
from fedward_client.intake.quiet import DICOM_ERRORS
from fedward_client.receiver.journal import Journal
from fedward_client.site import Site
from fedward_common.disk import sync
from fedward_common.errors import SettingsError, UnreadableFile

_log = logging.getLogger(__name__)

RECEIVED = "received"

Reason = Literal["no room is left", "too large", "unreadable", "differs from what is here", "cannot be written"]
NO_ROOM: Reason = "no room is left"
TOO_LARGE: Reason = "too large"
UNREADABLE: Reason = "unreadable"
DIFFERS: Reason = "differs from what is here"
NOT_WRITTEN: Reason = "cannot be written"

_INCOMING = ".incoming-"
_LOCK = ".lock"
_PREFIX = 132  # bytes of preamble and "DICM" before the meta information's own length (PS3.10 7.1)
_META_LENGTH = b"\x02\x00\x00\x00UL\x04\x00"
_CHUNK = 2**20
_UIDS = {"SOPInstanceUID": 0x00080018, "StudyInstanceUID": 0x0020000D, "SeriesInstanceUID": 0x0020000E}


class Refused(Exception):  # noqa: N818 - what happened to one object, no error of the program
    """An object was not taken, and why."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(kw_only=True, slots=True)
class Tally:
    """What an inbox took, in numbers; `again` counts objects that were here already."""

    new: int = 0
    again: int = 0
    size: int = 0  # bytes that came, again or not
    refused: Counter[Reason] = field(default_factory=Counter)


class Inbox:
    """A site's folder of received objects, for several threads."""

    def __init__(self, site: Site, journal: Journal, incoming: Path) -> None:
        self.site = site
        self.journal = journal
        self.tally = Tally()
        self.incoming = incoming  # for files that are on their way, on the file system where they will stay
        self._root = incoming.parent
        self._one = threading.Lock()

    @classmethod
    @contextmanager
    def open(cls, site: Site) -> Iterator["Inbox"]:
        """The inbox of a site. Removes what a receiver that was killed left half received.

        Raises SettingsError where the data folder cannot be written to, DataError for the journal.
        """
        _ = site.key  # a key that cannot be used is found before anything is asked for
        try:
            root = site.data / RECEIVED
            root.mkdir(mode=0o700, exist_ok=True)
            incoming, lock = _make_incoming(root)
        except OSError as error:
            raise SettingsError(
                f"the data folder of site '{site.name}' cannot be written to ({error.strerror}): images go there"
            ) from None
        try:
            with lock, Journal.open(site) as journal:
                yield cls(site, journal, incoming)
        finally:
            shutil.rmtree(incoming, ignore_errors=True)

    def name_file(self) -> Path:
        """A new name for a file on its way."""
        return self.incoming / secrets.token_hex(8)

    def objection(self, size: int) -> Reason | None:
        """Why an object of which `size` bytes came cannot be taken, None where nothing speaks against it yet."""
        if size > self.site.pacs.max_object_bytes:
            return TOO_LARGE
        return NO_ROOM if shutil.disk_usage(self._root).free < self.site.pacs.min_free_bytes else None

    def refuse(self, reason: Reason) -> Reason:
        """Count an object that is not taken."""
        with self._one:
            self.tally.refused[reason] += 1
        _log.warning("%s: an object was refused: %s", self.site.name, reason)
        return reason

    def take(self, path: Path, instance: str | None = None) -> None:
        """Put a whole file in its place; `path` is gone afterwards. Raises Refused with the reason.

        `instance` is the SOP Instance UID that its sender promised. Raises DataError for the journal.
        """
        try:
            self._take(path, instance)
        except Refused as refused:
            self.refuse(refused.reason)
            raise
        finally:
            path.unlink(missing_ok=True)

    def _take(self, path: Path, instance: str | None) -> None:
        try:
            size = path.stat().st_size
            if (objection := self.objection(size)) is not None:
                raise Refused(objection)
            uids = _uids(path)
            if instance not in (None, uids[0]):
                raise Refused(UNREADABLE)
            self._place(path, uids, size)
        except OSError as error:
            raise Refused(NO_ROOM if error.errno in (errno.ENOSPC, errno.EDQUOT) else NOT_WRITTEN) from None

    def _place(self, path: Path, uids: tuple[str, ...], size: int) -> None:
        instance, study, series = (
            self.site.pseudonym(kind, uid) for kind, uid in zip(("instance", "study", "series"), uids, strict=True)
        )
        target = self._root / study / series / f"{instance}.dcm"
        sync(path)
        with self._one:
            new = not target.exists()
            if new:
                _make_folder(target.parent.parent)
                _make_folder(target.parent)
                path.replace(target)
                sync(target.parent)
            elif not _same_data(path, target):
                raise Refused(DIFFERS)
            self.tally.new += new
            self.tally.again += not new
            self.tally.size += size
        self.journal.add(study=study, series=series, instance=instance, size=size)


def _make_incoming(root: Path) -> tuple[Path, TextIO]:
    """A folder of this receiver's own, with its lock; those of receivers that are no more are removed.

    The kernel drops the lock of a process that dies. One starts at a time, so a folder without a held lock is nobody's.
    """
    with (root / _LOCK).open("w") as starting:
        fcntl.flock(starting, fcntl.LOCK_EX)
        for folder in root.glob(f"{_INCOMING}*"):
            with suppress(BlockingIOError):  # its receiver is at work
                _remove(folder)
        incoming = root / f"{_INCOMING}{secrets.token_hex(8)}"
        incoming.mkdir(mode=0o700)
        lock = (incoming / _LOCK).open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
        return incoming, lock


def _remove(folder: Path) -> None:
    with (folder / _LOCK).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)


def _uids(path: Path) -> tuple[str, ...]:
    """SOP instance, study and series UID. Reads the header up to them. Raises Refused."""
    try:
        if _is_deflated(path):
            raise Refused(UNREADABLE)  # nobody knows what it inflates to
        with path.open("rb") as file:
            dataset = read_partial(file, stop_when=_after, force=True, specific_tags=list(_UIDS.values()))
        return tuple(_uid(dataset, keyword) for keyword in _UIDS)
    except (*DICOM_ERRORS, UnreadableFile):
        raise Refused(UNREADABLE) from None


def _is_deflated(path: Path) -> bool:
    try:
        return bool(read_file_meta_info(path).get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian)
    except InvalidDicomError:  # without the prefix there is no meta information
        return False


def _after(tag: int, _vr: str | None, _length: int) -> bool:
    return tag > _UIDS["SeriesInstanceUID"]  # the last of them


def _uid(dataset: Dataset, keyword: str) -> str:
    uid = elements.text(dataset, keyword)
    if not 1 <= len(uid) <= 64:
        raise Refused(UNREADABLE)
    return uid


def _same_data(one: Path, other: Path) -> bool:
    """Whether two files hold the same data set; who sent it when stands in the meta information and does not count."""
    with one.open("rb") as first, other.open("rb") as second:
        _skip_meta(first)
        _skip_meta(second)
        while True:
            left, right = first.read(_CHUNK), second.read(_CHUNK)
            if left != right:
                return False
            if not left:
                return True


def _skip_meta(file: BinaryIO) -> None:
    """Go to the data set: behind the meta information, whose first element says how long it is (PS3.10 7.1)."""
    file.seek(_PREFIX)
    head = file.read(12)
    file.seek(int.from_bytes(head[8:], "little") if head.startswith(_META_LENGTH) else -len(head), os.SEEK_CUR)


def _make_folder(folder: Path) -> None:
    if not folder.exists():
        folder.mkdir(mode=0o700, exist_ok=True)
        sync(folder.parent)
