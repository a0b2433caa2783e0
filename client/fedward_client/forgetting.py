"""Forgets a study: everything that a site made of its patients for it goes, the proof of what left stays.

What goes: the approval, stored answers, frozen cohorts, what runs keep between rounds, and cached tensors that no other
approved study uses. What stays: receipts and all else in the audit log, the study's own text as a hub asked for it, and
what its runs are bound to. Nothing behind a link is touched. Done again, it does what is left to do.
"""

import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from fedward_client import cache, cache_room
from fedward_client.cache_index import locked
from fedward_client.freezing import RUNS, study_of
from fedward_client.member import Member
from fedward_client.outbox import Outbox
from fedward_client.site import Site
from fedward_client.site_state import FOLDER
from fedward_client.spool import Parcel
from fedward_common.errors import SettingsError, UsageError

_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Removed:
    """What of one kind was removed: files, and their bytes."""

    files: int = 0
    size: int = 0

    def __add__(self, other: "Removed") -> "Removed":
        return Removed(files=self.files + other.files, size=self.size + other.size)


def studies_of(site: Site) -> set[str]:
    """The digests of the studies that something is kept of, outside the ledger."""
    names = {path.name for path in _entries(site.state / FOLDER)}
    names |= {study_of(run) or "" for run in _entries(site.state / RUNS)}
    names |= {user for entry in cache_room.entries(cache_room.root_of(site)) for user in entry.users}
    return {name for name in names if _DIGEST.fullmatch(name)}


def forget(member: Member, outbox: Outbox, study: str) -> dict[str, Removed]:
    """Forget a study, by its digest, of which nothing may be in hand (`Desk.without`); what went, by kind.

    Raises SettingsError where something cannot be removed; what is gone by then stays gone.
    """
    site = member.site
    if not _DIGEST.fullmatch(study):
        raise UsageError("a study to be forgotten is named by its digest, 64 hexadecimal digits")
    _check_folders(site)
    member.log.append("forgotten", {"study": study})
    member.ledger.withdraw(study)
    try:
        return {
            "cached images": _cached(site, study, {approval.digest for approval in member.ledger.approvals()}),
            "kept between rounds": _remove(site.state / FOLDER / study),
            "frozen cohorts": _sum(_remove(run) for run in _entries(site.state / RUNS) if study_of(run) == study),
            "stored answers": _answers(member, outbox, study),
        }
    except OSError as error:
        raise SettingsError(
            f"something of the study could not be removed ({error.strerror}): put that right, then forget it again"
        ) from None


def _check_folders(site: Site) -> None:
    """Raise SettingsError where a folder of what is to go is a link: what is behind it may be somebody else's."""
    for folder in (cache_room.root_of(site), site.state / FOLDER, site.state / RUNS):
        if folder.is_symlink():
            raise SettingsError(
                f"'{folder.name}' in the state folder is a link, and nothing behind a link is removed: put the folder "
                "itself there (a mount or [site] state can lead to another disk), then forget the study again"
            )


def _cached(site: Site, study: str, approved: set[str]) -> Removed:
    """The study's caches, but for those that an approved one uses, and what killed processes were building."""
    root, gone = cache_room.root_of(site), Removed()
    for entry in cache_room.entries(root):
        if study in entry.users and entry.users & approved:
            cache_room.use_no_more(entry.path, study)
        elif study in entry.users:
            gone += _remove(entry.path)
    if root.is_dir():
        with suppress(BlockingIOError), locked(root, wait=False):  # else somebody is building, and clears up
            gone += _sum(_remove(path) for path in cache.unfinished(root))
    return gone


def _answers(member: Member, outbox: Outbox, study: str) -> Removed:
    count, texts = member.ledger.forget(study)
    parcels = [parcel for text in texts if outbox.holds(parcel := Parcel.model_validate_json(text))]
    for parcel in parcels:
        outbox.drop(parcel)
    return Removed(files=count, size=sum(parcel.size for parcel in parcels))


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() and not folder.is_symlink() else []


def _remove(path: Path) -> Removed:
    """Remove a file, a folder with all in it, or a link and not what it leads to; nothing where there is none."""
    if path.is_symlink() or path.is_file():
        removed = Removed(files=1, size=path.lstat().st_size)
        path.unlink()
        return removed
    if not path.exists():
        return Removed()
    removed = _sum(_sized(path))
    shutil.rmtree(path)  # which follows no link
    return removed


def _sum(parts: Iterable[Removed]) -> Removed:
    return sum(parts, Removed())


def _sized(folder: Path) -> Iterator[Removed]:
    for path in folder.rglob("*"):  # which follows no link
        if path.is_symlink() or not path.is_dir():
            yield Removed(files=1, size=path.lstat().st_size)
