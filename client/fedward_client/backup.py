"""A site's keys, ledger, log, catalog and settings as one sealed file; `restore` makes a site of it again.

It is a sealed archive of MEMBERS. No image, no label, no tensor and no model is in it. The daemon may be up meanwhile.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from fedward_client.intake.index import FILE as CATALOG
from fedward_client.ledger import FILE as LEDGER
from fedward_client.member import AUDIT, HUB_CARD, NODE_KEY, SIGNING_KEY, Member
from fedward_client.site import KEY, LINK, SETTINGS
from fedward_common import __version__, sealing
from fedward_common.errors import SettingsError, UsageError
from fedward_common.sealed_archives import MANIFEST, copies_in, copy_log, pack, placed, snapshot, told

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
    with told(path.name), copies_in(site.state) as copies:
        (copies / MANIFEST).write_text(manifest.model_dump_json(), "utf-8")
        for database in (LEDGER, CATALOG):
            if (site.state / database).exists():
                snapshot(site.state / database, copies / database)
        copy_log(site.state / AUDIT, copies / AUDIT, member.key.public_key())
        sources = {member_: copies / member_ for member_ in (MANIFEST, LEDGER, CATALOG, AUDIT)}
        sources |= {one: site.state / one for one in MEMBERS if one not in sources} | {SETTINGS: site.folder / SETTINGS}
        if absent := [one for one in NEEDED if not sources[one].exists()]:
            raise SettingsError(f"{absent[0]} is missing: run `fedward site init`, then back up again")
        with placed(path) as file:
            pack({one: sources[one] for one in MEMBERS if sources[one].exists()}, file, passphrase, cost=cost)
        return path.stat().st_size
