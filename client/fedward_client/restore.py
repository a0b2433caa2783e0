"""Makes a folder the site that a backup is of.

The backup is read to its last byte and checked, chain of the log and databases included, before anything is changed; a
site that is there is moved aside and never overwritten. What was restored is paused: approvals that were withdrawn
since the backup hold again, so its steward looks at them first.
"""

import secrets
import shutil
import tempfile
import tomllib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Self

from fedward_client import locks
from fedward_client.backup import MEMBERS, NEEDED, Manifest
from fedward_client.intake.index import FILE as CATALOG
from fedward_client.ledger import FILE as LEDGER
from fedward_client.ledger import Approval, Ledger
from fedward_client.member import AUDIT, NODE_KEY, SIGNING_KEY
from fedward_client.site import KEY, KEY_BYTES, LINK, SETTINGS, SPOOL, STATE
from fedward_client.spool import IN, OUT
from fedward_common import audit, pki
from fedward_common.audit import AuditLog
from fedward_common.disk import sync
from fedward_common.errors import SettingsError, UsageError
from fedward_common.sealed_archives import SealedArchive, check_database, placed, told

_STAGE, _ASIDE = ".restoring-", "replaced-"  # in the state folder


@dataclass(frozen=True, kw_only=True, slots=True)
class Restored:
    """What came back: of which site, as of when, and the approvals that hold again once the site is not paused."""

    site: str
    made: str  # ISO 8601, UTC
    state: Path
    approvals: list[Approval]
    aside: Path | None  # where what was there is now


def restore(folder: Path, path: Path, passphrase: str, *, state: Path | None = None, replace: bool = False) -> Restored:
    """Make a folder the site that a backup is of; `state` wins over its site.toml. The site is paused.

    Raises SettingsError where the file is damaged, sealed with another passphrase, or a newer Fedward's, where a daemon
    serves the site, or a folder cannot be written; UsageError where a site is there and `replace` is not given. Then
    nothing was changed. What is replaced is moved aside within the state folder, so that whatever ends this process on
    the way loses nothing: without its signing key, which comes last, a site does not start, and this can be done again.
    """
    with told(path.name), path.open("rb") as file:
        archive = _Archive.opened(path, file, passphrase)
        folder, target = folder.absolute(), (state if state is not None else folder / archive.state).absolute()
        made = [*_missing(target), *_missing(folder)]
        try:
            with told("the site's folder"):
                folder.mkdir(parents=True, exist_ok=True)
                target.mkdir(mode=0o700, parents=True, exist_ok=True)
                return _restore(archive, folder, target, replace=replace)
        finally:
            for empty in made:
                if empty.is_dir() and not any(one.suffix != ".lock" for one in empty.iterdir()):
                    shutil.rmtree(empty)


def _missing(folder: Path) -> list[Path]:
    """What of a path is not there yet, the innermost first."""
    return [part for part in (folder, *folder.parents) if not part.exists()]


@dataclass(frozen=True, slots=True)
class _Archive:
    """A backup of which the manifest and the settings were read; the rest of it follows."""

    manifest: Manifest
    settings: bytes | None
    state: str  # that the settings name
    _rest: SealedArchive

    @classmethod
    def opened(cls, path: Path, file: IO[bytes], passphrase: str) -> Self:
        """Raises SettingsError for what is no backup that can be read here."""
        rest = SealedArchive.opened(path, file, passphrase, "a site")
        manifest = rest.manifest(Manifest)
        settings = rest.small(SETTINGS)
        try:
            section = tomllib.loads((settings or b"").decode()).get("site", {})
        except ValueError:
            section = {}
        named = section.get("state") if isinstance(section, dict) else None
        return cls(manifest, settings, named if isinstance(named, str) else STATE, rest)

    def unpack(self, folder: Path) -> None:
        """Write the rest into a folder, read to its end. Raises SettingsError for what does not belong there."""
        self._rest.unpack(folder, lambda name: name in MEMBERS, NEEDED)


def _restore(archive: _Archive, folder: Path, state: Path, *, replace: bool) -> Restored:
    name = archive.manifest.site
    with locks.claimed(state, name, locks.DAEMON), locks.claimed(state, name, locks.EXECUTOR):
        for torn in state.glob(f"{_STAGE}*"):  # of a process that was killed
            shutil.rmtree(torn)
        there = _there(state)
        other = folder / SETTINGS
        is_other = other.exists() and other.read_bytes() != archive.settings
        if (there or is_other) and not replace:
            raise UsageError(
                f"{'the state folder' if there else SETTINGS} of a site is there already: restore into an empty "
                "folder, or say --replace, which moves what is there aside"
            )
        with tempfile.TemporaryDirectory(prefix=_STAGE, dir=state) as stage:
            archive.unpack(Path(stage))
            approvals = _made_ready(Path(stage), archive.manifest)
            aside = _put_aside(state, there, other if is_other else None)
            if archive.settings is not None:
                with placed(other) as file:
                    file.write(archive.settings)
            _put_in_place(Path(stage), state)
    return Restored(site=name, made=archive.manifest.made, state=state, approvals=approvals, aside=aside)


def _there(state: Path) -> list[Path]:
    """What is in a state folder but locks, the signing key first: without it a site does not start."""
    found = [path for path in state.iterdir() if path.suffix != ".lock" and not path.name.startswith(_ASIDE)]
    return sorted(found, key=lambda path: (path.name != SIGNING_KEY, path.name))


def _made_ready(stage: Path, manifest: Manifest) -> list[Approval]:
    """Check what was unpacked, pause the site in it and say so in its log; its approvals. Raises FedwardError."""
    key = pki.load_signing_key(stage / SIGNING_KEY)
    pki.load_node_key(stage / LINK / NODE_KEY)
    if len(pki.read_private(stage / KEY)) != KEY_BYTES:
        raise SettingsError(f"{KEY} in it does not hold {KEY_BYTES} bytes: use another copy")
    for database in (LEDGER, CATALOG):
        if (stage / database).exists():
            check_database(stage / database)
    audit.verify(stage / AUDIT, public_key=key.public_key())
    with Ledger.open(stage) as ledger:
        ledger.pause(f"restored from the backup of {manifest.made}")
        approvals = ledger.approvals()
    log = AuditLog(stage / AUDIT, key, manifest.site)
    log.append("restored", {"made": manifest.made, "fedward": manifest.fedward})
    return approvals


def _put_aside(state: Path, there: list[Path], settings: Path | None) -> Path | None:
    if not there and settings is None:
        return None
    aside = state / f"{_ASIDE}{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"
    aside.mkdir(mode=0o700)
    for path in there:
        path.rename(aside / path.name)
    if settings is not None:
        shutil.copyfile(settings, aside / SETTINGS)
    sync(aside)
    return aside


def _put_in_place(stage: Path, state: Path) -> None:
    """Move what was unpacked into a state folder, the signing key last."""
    for name in (LINK, SPOOL, f"{SPOOL}/{IN}", f"{SPOOL}/{OUT}"):
        (state / name).mkdir(mode=0o700, exist_ok=True)
    for name in MEMBERS:
        if (stage / name).exists():
            (stage / name).rename(state / name)
    for folder in (state / LINK, state):
        sync(folder)
