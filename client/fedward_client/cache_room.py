"""Room for caches: which study used which last, what goes first when there is too little, and what cannot fit at all.

`[limits] cache_mib` of site.toml bounds all of a site's caches together, `min_free_mib` is what they leave of the disk.
What goes is what was used longest ago and what nobody reads: whoever maps a cache holds a lock on it for as long. All
here is for whoever holds the lock of the folder of caches, but for `plan`.
"""

import fcntl
import logging
import os
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from fedward_client.site import Site
from fedward_common.disk import sync
from fedward_common.errors import DataError

_log = logging.getLogger(__name__)

IMAGES, TARGETS = "images.npy", "targets.npy"
USERS = "studies"  # in a cache: one empty file a study that used it, named by its digest, written at when it last did


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One cache. `users` are digests of studies; `used` is when one last did, in nanoseconds since 1970."""

    path: Path
    size: int  # bytes
    users: frozenset[str]
    used: int

    @property
    def is_read(self) -> bool:
        """Whether a process has it mapped, this one included."""
        try:
            with (self.path / IMAGES).open("r+b") as file:  # NFS locks only what is open for writing
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except FileNotFoundError:
            return False
        return False


def root_of(site: Site) -> Path:
    """The folder of a site's caches."""
    return site.state / "cache"


def entries(root: Path) -> list[Entry]:
    """Every cache, the least recently used first; those of equal age by name."""
    if not root.is_dir():
        return []
    found = []
    for path in root.iterdir():
        with suppress(FileNotFoundError):  # it goes at this moment
            if not path.name.startswith(".") and path.is_dir():
                found.append(_entry(path))
    return sorted(found, key=lambda entry: (entry.used, entry.path.name))


def _entry(path: Path) -> Entry:
    users = list((path / USERS).iterdir()) if (path / USERS).is_dir() else []
    return Entry(
        path=path,
        size=sum(file.lstat().st_size for file in path.iterdir()),
        users=frozenset(user.name for user in users),
        used=max((user.lstat().st_mtime_ns for user in users), default=0),
    )


def use(folder: Path, study: str) -> None:
    """Remember in a cache that a study, by its digest, uses it now."""
    mark = folder / USERS / study
    is_new = not mark.exists()
    mark.parent.mkdir(exist_ok=True)
    mark.touch()
    os.utime(mark, ns=(time.time_ns(),) * 2)  # the file system's own clock ticks every few milliseconds
    if is_new:
        sync(mark.parent)


def use_no_more(folder: Path, study: str) -> None:
    """Take that back."""
    (folder / USERS / study).unlink(missing_ok=True)


def plan(site: Site, needed: int) -> list[Entry]:
    """What goes so that `needed` bytes fit, the least recently used first; raises DataError where they cannot."""
    there, free = entries(root_of(site)), _free(site)
    if site.cache_bytes is not None and needed > site.cache_bytes:
        raise DataError(
            f"{site.name}: the cache needs {mib(needed)}, and [limits] cache_mib allows {mib(site.cache_bytes)}: raise "
            "it in site.toml, or ask for a study of smaller images"
        )
    over = 0 if site.cache_bytes is None else sum(entry.size for entry in there) + needed - site.cache_bytes
    short = needed + site.min_free_bytes - free
    missing, going = max(over, short), list[Entry]()
    for entry in there:
        if missing <= 0:
            break
        if not entry.is_read:
            going.append(entry)
            missing -= entry.size
    if missing > 0:
        raise _no_room(site, needed, free) if short >= over else _all_read(site, needed)
    return going


def make(site: Site, needed: int) -> None:
    """Remove what `plan` says. Raises DataError, with nothing removed, where that is not enough."""
    for entry in plan(site, needed):
        _log.info("%s: the least recently used cache goes, to make room for %s", site.name, mib(needed))
        shutil.rmtree(entry.path)


def full(site: Site, needed: int, error: OSError) -> DataError:
    """What is said where a cache could not be written after all."""
    return _no_room(site, needed, _free(site), f" ({error.strerror})")


def _free(site: Site) -> int:
    root = root_of(site)
    return shutil.disk_usage(next(path for path in (root, *root.parents) if path.exists())).free


def _no_room(site: Site, needed: int, free: int, why: str = "") -> DataError:
    floor = f", of which [limits] min_free_mib keeps {mib(site.min_free_bytes)}" if site.min_free_bytes else ""
    return DataError(
        f"{site.name}: the cache needs {mib(needed)}, the disk of the state folder has {mib(free)}{floor}{why}; "
        "make room, or put the state folder on another disk"
    )


def _all_read(site: Site, needed: int) -> DataError:
    return DataError(
        f"{site.name}: the cache needs {mib(needed)}, and the caches that are read at this moment leave less of "
        "[limits] cache_mib: wait until their rounds are over, or raise it in site.toml"
    )


def mib(size: int) -> str:
    """Whole MiB: to the byte, it would tell how many images there are."""
    return f"{-(-size // 2**20)} MiB"
