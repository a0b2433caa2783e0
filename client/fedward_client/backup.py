"""A site's keys, ledger, log, catalog and settings as one sealed file (`sealing`); `restore` makes a site of it again.

The file is a tar archive of MEMBERS under a passphrase, the manifest first. No image, no label, no tensor and no model
is in it. It is written beside its place and moved there; the databases in it are as they were at one moment, whatever
the daemon does meanwhile.
"""

import fcntl
import os
import secrets
import shutil
import sqlite3
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Literal, cast

import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import BaseModel, ConfigDict

from fedward_client import sealing
from fedward_client.intake.index import FILE as CATALOG
from fedward_client.ledger import FILE as LEDGER
from fedward_client.member import AUDIT, HUB_CARD, NODE_KEY, SIGNING_KEY, Member
from fedward_client.site import KEY, LINK, SETTINGS
from fedward_common import __version__, audit
from fedward_common.disk import sync
from fedward_common.errors import SettingsError, UsageError

MANIFEST = "manifest.json"
_COPIES = ".backup-"  # in the state folder
NEEDED = (KEY, f"{LINK}/{NODE_KEY}", LEDGER, AUDIT, SIGNING_KEY)  # without the last, a site is none
MEMBERS = (MANIFEST, SETTINGS, f"{LINK}/{HUB_CARD}", CATALOG, *NEEDED)


class Manifest(BaseModel):
    """What a backup says of itself: the format of what is in it, who made it of what, and when."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: Literal[1] = 1
    fedward: str
    site: str
    made: str  # ISO 8601, UTC


def backup(member: Member, path: Path, passphrase: str, *, cost: int = sealing.COST) -> int:
    """Write a backup of a site, which may be up; its size in bytes. `cost` is log2 of scrypt's N.

    Raises UsageError where the file is there, AuditError where the log was changed, SettingsError where something
    cannot be read or written; then nothing of the file is left.
    """
    if path.exists():
        raise UsageError(f"{path.name} is there already and was left as it is: give the backup another name")
    member.log.append("backed up", {})  # cuts off what a crash left at its end, and is itself in the backup
    site = member.site
    manifest = Manifest(fedward=__version__, site=site.name, made=datetime.now(UTC).isoformat(timespec="seconds"))
    with told(path.name), _copies(site.state) as copies:
        (copies / MANIFEST).write_text(manifest.model_dump_json(), "utf-8")
        for database in (LEDGER, CATALOG):
            if (site.state / database).exists():
                _snapshot(site.state / database, copies / database)
        _copy_log(site.state / AUDIT, copies / AUDIT, member.key.public_key())
        sources = {member_: copies / member_ for member_ in (MANIFEST, LEDGER, CATALOG, AUDIT)}
        sources |= {one: site.state / one for one in MEMBERS if one not in sources} | {SETTINGS: site.folder / SETTINGS}
        if absent := [one for one in NEEDED if not sources[one].exists()]:
            raise SettingsError(f"{absent[0]} is missing: run `fedward site init`, then back up again")
        with placed(path) as file:
            _pack({one: sources[one] for one in MEMBERS if sources[one].exists()}, file, passphrase, cost)
        return path.stat().st_size


@contextmanager
def _copies(state: Path) -> Iterator[Path]:
    """A folder for copies: one backup at a time, and what a killed one left goes."""
    with (state / "backup.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for torn in state.glob(f"{_COPIES}*"):
            shutil.rmtree(torn)
        with tempfile.TemporaryDirectory(prefix=_COPIES, dir=state) as name:
            yield Path(name)


def _snapshot(source: Path, target: Path) -> None:
    """Copy a database as it is at one moment (https://www.sqlite.org/backup.html)."""
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


def _copy_log(source: Path, target: Path, key: Ed25519PublicKey) -> None:
    """Copy a log, entry by entry as each is found whole."""
    with target.open("wb") as file:
        for entry in audit.verified(source, public_key=key):
            file.write(rfc8785.dumps(asdict(entry)) + b"\n")


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


def _pack(sources: dict[str, Path], file: IO[bytes], passphrase: str, cost: int) -> None:
    sealer = sealing.Sealer(file, passphrase, cost=cost)
    with tarfile.open(fileobj=cast("IO[bytes]", sealer), mode="w|", format=tarfile.PAX_FORMAT) as archive:
        for name, path in sources.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = path.stat().st_size, 0o600
            with path.open("rb") as content:
                archive.addfile(info, content)
    sealer.finish()


@contextmanager
def told(what: str) -> Iterator[None]:
    """What the file system refuses in words."""
    try:
        yield
    except OSError as error:
        raise SettingsError(f"{what} cannot be read or written ({error.strerror}): put that right first") from None
