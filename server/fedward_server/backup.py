"""A hub's settings, keys, database, log, runs and models as one sealed file, made while it is up; and back.

What the hub makes again by itself is not in it: the SuperLink's folder, nginx's, chunks on their way, logs. A run that
is at work is in it with its last checkpoints, and goes on when the restored hub is up. The root's key is not: it is
not in the hub's folder.
"""

import os
import shutil
import tempfile
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from fedward_common import __version__, audit, pki, sealing
from fedward_common.audit import NAME as AUDIT
from fedward_common.disk import sync
from fedward_common.errors import SettingsError, UsageError
from fedward_common.sealed_archives import (
    MANIFEST,
    SealedArchive,
    check_database,
    copies_in,
    copy_log,
    pack,
    placed,
    snapshot,
    told,
)
from fedward_server.hub import CARD, ROOT, Hub
from fedward_server.hub_settings import SETTINGS
from fedward_server.runs import LOCK

NEEDED = (SETTINGS, "store.sqlite", AUDIT, "keys/hub.key", "keys/ca.key", "keys/ca.pem")
_TREES = ("keys", "runs", "models")
_MADE_AGAIN = frozenset({"gateway.pem", "dashboard.pem", LOCK})
_TRIES = 5  # to catch a run between two checkpoints


class Manifest(BaseModel):
    """What a backup says of itself: the format of what is in it, who made it of what, and when."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: Literal[1] = 1
    fedward: str
    hub: str
    made: str  # ISO 8601, UTC


def backup(hub: Hub, path: Path, passphrase: str, *, cost: int = sealing.COST) -> int:
    """Write a backup of a hub, which may be up; its size in bytes. `cost` is log2 of scrypt's N.

    Raises UsageError where the file is there, AuditError where the log was changed, SettingsError where something
    cannot be read or written; then nothing of the file is left.
    """
    if path.exists():
        raise UsageError(f"{path.name} is there already and was left as it is: give the backup another name")
    hub.audit().append("backed up", {})  # cuts off what a crash left at its end, and is itself in the backup
    manifest = Manifest(fedward=__version__, hub=hub.name, made=datetime.now(UTC).isoformat(timespec="seconds"))
    with told(path.name), copies_in(hub.folder) as copies:
        (copies / MANIFEST).write_text(manifest.model_dump_json(), "utf-8")
        snapshot(hub.store_file, copies / hub.store_file.name)
        copy_log(hub.audit_file, copies / AUDIT, hub.audit_key)
        for name in (SETTINGS, CARD):
            shutil.copyfile(hub.folder / name, copies / name)
        for name in _TREES:
            _link(hub.folder / name, copies / name)
        found = sorted(path for path in copies.rglob("*") if path.is_file())
        first = [copies / MANIFEST, copies / SETTINGS]
        members = {str(one.relative_to(copies)): one for one in [*first, *(one for one in found if one not in first)]}
        if absent := [name for name in NEEDED if name not in members]:
            raise SettingsError(f"{absent[0]} is missing: restore it from an earlier backup, then back up again")
        with placed(path) as file:
            pack(members, file, passphrase, cost=cost)
        return path.stat().st_size


def _link(source: Path, target: Path) -> None:
    """The files of a tree as they are now, by links: what replaces them meanwhile is another file.

    A checkpoint comes whole: its JSON is linked before the arrays that it names, and a folder of which something went
    on the way is linked anew. Raises SettingsError where that does not end.
    """
    if not source.exists():
        return
    for _ in range(_TRIES):
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        try:
            for entry in sorted(source.iterdir(), key=lambda path: path.suffix != ".json"):
                if entry.name.startswith(".") or entry.name in _MADE_AGAIN or entry.is_symlink():
                    continue
                if entry.is_dir():
                    _link(entry, target / entry.name)
                else:
                    os.link(entry, target / entry.name)
        except FileNotFoundError:
            continue
        return
    raise SettingsError(f"{source.name} changes faster than it can be copied: back up again")


# Back ----------------------------------------------------------------------------------------------------------------


def restore(folder: Path, path: Path, passphrase: str) -> tuple[Hub, str]:
    """Make a folder, empty or not there, the hub that a backup is of; the hub, and when the backup was made.

    Raises SettingsError where the file is damaged, sealed with another passphrase, or a newer Fedward's, or the folder
    holds something else; then nothing was changed.
    """
    folder = folder.absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SettingsError(f"{folder} holds something else: name an empty folder, or one that is not there")
    with told(path.name), path.open("rb") as file:
        archive = SealedArchive.opened(path, file, passphrase, "a hub")
        manifest = archive.manifest(Manifest)
        with told("the hub's folder"):
            folder.parent.mkdir(parents=True, exist_ok=True)
            stage = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
            try:
                archive.unpack(stage, _belongs, NEEDED)
                _check(stage, path.name, manifest)
                with suppress(FileNotFoundError):
                    folder.rmdir()
                stage.rename(folder)
                sync(folder.parent)
            finally:
                shutil.rmtree(stage, ignore_errors=True)
    return Hub.open(folder), manifest.made


def _belongs(name: str) -> bool:
    """Whether a backup of a hub may hold a member of this name: all that `_link` takes, and nothing outside."""
    tree, *parts = name.split("/")
    inside = tree in _TREES and bool(parts) and all(part and not part.startswith(".") for part in parts)
    return inside or name in {CARD, *NEEDED}


def _check(stage: Path, name: str, manifest: Manifest) -> None:
    """Check what was unpacked, and say in its log that it was restored. Raises FedwardError."""
    hub = Hub.open(stage)
    check_database(hub.store_file)
    if hub.gateway is not None:
        hub.issuing.current()
    key = pki.load_signing_key(hub.keys / "hub.key")
    audit.verify(stage / AUDIT, public_key=key.public_key())
    for folder in (hub.runs, hub.logs, hub.home, hub.keys):
        folder.mkdir(mode=0o700, exist_ok=True)
    if (stage / ROOT).exists():
        raise SettingsError(f"{name}: it holds a root's key: use another copy")
    hub.audit().append("restored", {"made": manifest.made, "fedward": manifest.fedward})
