"""A backup as one file: a tar archive under a passphrase (`sealing`), its manifest first.

It is written beside its place and moved there; databases in it are as they were at one moment. It is read to its last
byte, every bit checked, before anybody goes by it.
"""

import fcntl
import json
import os
import secrets
import shutil
import sqlite3
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Self, TypeVar, cast

import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import BaseModel, ValidationError

from fedward_common import audit, sealing
from fedward_common.disk import sync
from fedward_common.errors import SettingsError

MANIFEST = "manifest.json"
Manifest = TypeVar("Manifest", bound=BaseModel)
_COPIES = ".backup-"
_MOST_BYTES = 2**20  # of what is read whole


# Writing -------------------------------------------------------------------------------------------------------------


def pack(sources: Mapping[str, Path], file: IO[bytes], passphrase: str, *, cost: int = sealing.COST) -> None:
    """Write files, by the names that they have in it, into a sealed archive. `cost` is log2 of scrypt's N."""
    sealer = sealing.Sealer(file, passphrase, cost=cost)
    with tarfile.open(fileobj=cast("IO[bytes]", sealer), mode="w|", format=tarfile.PAX_FORMAT) as archive:
        for name, path in sources.items():
            with path.open("rb") as content:
                info = tarfile.TarInfo(name)
                info.size, info.mode = os.fstat(content.fileno()).st_size, 0o600
                archive.addfile(info, content)
    sealer.finish()


@contextmanager
def placed(path: Path) -> Iterator[IO[bytes]]:
    """A new file (mode 0600) that is whole under its name and on disk after the `with`, or not there."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor: private from its first moment
            yield file
            file.flush()
            os.fsync(descriptor)
        temporary.rename(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def snapshot(source: Path, target: Path) -> None:
    """Copy a database as it is at one moment (https://www.sqlite.org/backup.html). SettingsError for a damaged one."""
    try:
        with (
            closing(sqlite3.connect(f"{source.as_uri()}?mode=ro", uri=True)) as live,
            closing(sqlite3.connect(target)) as copy,
        ):
            live.backup(copy)
    except sqlite3.Error as error:
        raise SettingsError(f"{source.name} cannot be copied ({error}): put that right, then back up again") from None
    check_database(target)


def check_database(path: Path) -> None:
    """Raise SettingsError where a database is damaged."""
    try:
        with closing(sqlite3.connect(path)) as connection:
            found = connection.execute("PRAGMA quick_check").fetchone()[0]
    except sqlite3.Error as error:
        found = str(error)
    if found != "ok":
        raise SettingsError(
            f"{path.name} is damaged ({found}): restore an earlier backup; a catalog may also be deleted"
        )


def copy_log(source: Path, target: Path, key: Ed25519PublicKey) -> None:
    """Copy a log, entry by entry as each is found whole. Raises AuditError where it was changed."""
    with target.open("wb") as file:
        for entry in audit.verified(source, public_key=key):
            file.write(rfc8785.dumps(asdict(entry)) + b"\n")


@contextmanager
def copies_in(folder: Path) -> Iterator[Path]:
    """A folder for copies, in another: one backup at a time, and what a killed one left goes."""
    with (folder / "backup.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for torn in folder.glob(f"{_COPIES}*"):
            shutil.rmtree(torn)
        with tempfile.TemporaryDirectory(prefix=_COPIES, dir=folder) as name:
            yield Path(name)


@contextmanager
def told(what: str) -> Iterator[None]:
    """What the file system refuses in words."""
    try:
        yield
    except OSError as error:
        raise SettingsError(f"{what} cannot be read or written ({error.strerror}): put that right first") from None


# Reading -------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class SealedArchive:
    """An archive that is read from its beginning; `what` it is a backup of, in words."""

    name: str
    what: str
    _tar: tarfile.TarFile
    _stream: sealing.Unsealer
    _next: tarfile.TarInfo | None
    _seen: set[str] = field(default_factory=set)

    @classmethod
    def opened(cls, path: Path, file: IO[bytes], passphrase: str, what: str) -> Self:
        """Raises SettingsError for what is none, or was sealed with another passphrase."""
        with _archive_told(path.name, what):
            stream = sealing.Unsealer(file, passphrase)
            tar = tarfile.open(fileobj=cast("IO[bytes]", stream), mode="r|")  # noqa: SIM115 - read on in `unpack`
            return cls(path.name, what, tar, stream, tar.next())

    def manifest(self, kind: type[Manifest]) -> Manifest:
        """The manifest, which comes first. Raises SettingsError where there is none that this Fedward can read."""
        data = self.small(MANIFEST)
        with _archive_told(self.name, self.what):
            if data is None:
                raise SettingsError(f"it is no backup of {self.what}: where {MANIFEST} should be is something else")
            try:
                return kind.model_validate_json(data)
            except ValidationError:
                raise SettingsError(self._not_taken(data)) from None

    def _not_taken(self, manifest: bytes) -> str:
        """Why a manifest is none that was looked for: it is of something else, or of a version that this is not."""
        try:
            found = json.loads(manifest)
        except ValueError:
            found = None
        for kind in ("hub", "site"):  # which its manifest names
            if isinstance(found, dict) and kind in found and self.what != f"a {kind}":
                return f"it is the backup of a {kind}: use `fedward {kind} restore`"
        return "it was made by a newer Fedward than this one: install that, then restore again"

    def small(self, name: str) -> bytes | None:
        """The bytes of the next member where it is this one, None where it is another."""
        with _archive_told(self.name, self.what):
            info = self._next
            if info is None or info.name != name:
                return None
            if not info.isreg() or info.size > _MOST_BYTES:
                raise SettingsError(f"it is no backup of {self.what}: where {name} should be is something else")
            content = self._tar.extractfile(info)
            assert content is not None
            data = content.read()
            self._seen.add(name)
            self._next = self._tar.next()
            return data

    def unpack(self, folder: Path, belongs: Callable[[str], bool], needed: Iterable[str]) -> None:
        """Write the rest into a folder, read to its end. Raises SettingsError for what does not belong there."""
        with _archive_told(self.name, self.what):
            while (info := self._next) is not None:
                content = self._tar.extractfile(info) if info.isreg() else None
                if content is None or info.name in self._seen or not belongs(info.name):
                    raise SettingsError(f"it holds what no backup of {self.what} does: use another copy")
                self._seen.add(info.name)
                _write(folder / info.name, content)
                self._next = self._tar.next()
            while self._stream.read(sealing.CHUNK):  # an archive ends before its stream does
                pass
            if absent := [name for name in needed if name not in self._seen]:
                raise SettingsError(f"it lacks {absent[0]}, without which {self.what} is none: use another copy")


def _write(path: Path, content: IO[bytes]) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open(path, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        shutil.copyfileobj(content, file)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _archive_told(name: str, what: str) -> Iterator[None]:
    """What is wrong with a backup, with its name."""
    try:
        yield
    except tarfile.TarError:
        raise SettingsError(f"{name}: it is no backup of {what}: name another file") from None
    except SettingsError as error:
        raise SettingsError(f"{name}: {error}") from None
