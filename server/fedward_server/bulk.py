"""The hub's side of the bulk path: files that the gateway serves to a run's sites and takes from them.

    bulk/members/RUN/SITE             there while the site may fetch what the run sends
    bulk/down/RUN/SHA256              a chunk for the sites of a run, once for all of them
    bulk/up/SITE/RUN/TRIP/SHA256      a chunk of a site's answer; the folder is there while it is awaited
    bulk/full/SITE                    there while a site has put more than it may

nginx looks at what is there and asks nobody. What a site put counts only when its bytes have the digest that they are
named by, and only as what its message says.
"""

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from fedward_common.bulk import CHUNK_BYTES, Manifest, digests, parts
from fedward_common.errors import RecordError, RunError
from fedward_common.mapped_files import map_files
from fedward_server.shelf import unwritable

FOLDER = "bulk"
KEPT = 4  # of a site's trips: a question that was asked again may be answered as either
_WRITING = ".writing-"
_NOT_THERE = frozenset({errno.ENOENT, errno.EINVAL, errno.ELOOP})  # no file, one of another size, a link


@dataclass(slots=True)
class Bulk:
    """One run's part of the bulk path. `folder` is the hub's."""

    folder: Path
    run: str
    _trips: dict[str, list[int]] = field(default_factory=dict)  # by site, those that are open
    _left: dict[str, list[int]] = field(default_factory=dict)  # by site, trips in which it was gone before it answered
    _offered: dict[int, set[str]] = field(default_factory=dict)  # by trip, the chunks of its blocks

    def __post_init__(self) -> None:
        self.remove()  # of the run's process that died

    @property
    def _down(self) -> Path:
        return self.folder / FOLDER / "down" / self.run

    def _up(self, site: str, trip: int) -> Path:
        return self.folder / FOLDER / "up" / site / self.run / str(trip)

    def offer(self, block: memoryview, trip: int) -> Manifest:
        """Put a block where sites fetch it; what no open question needs any more goes.

        Raises RunError where the disk is full.
        """
        manifest = Manifest.of(block, run=self.run, trip=trip)
        try:
            self._down.mkdir(parents=True, exist_ok=True)
            for name, part in zip(manifest.chunks, parts(block), strict=True):
                if not (self._down / name).exists():
                    temporary = self._down / f"{_WRITING}{secrets.token_hex(8)}"
                    temporary.write_bytes(part)
                    temporary.replace(self._down / name)
        except OSError as error:
            raise unwritable(self._down, error) from error
        self._offered.setdefault(trip, set()).update(manifest.chunks)  # sites may get different ones
        open_ = {trip, *(each for trips in self._trips.values() for each in trips)}
        self._offered = {each: chunks for each, chunks in self._offered.items() if each in open_}
        kept = set().union(*self._offered.values())
        for path in self._down.iterdir():
            if path.name not in kept:
                path.unlink()
        return manifest

    def await_answers(self, sites: Iterable[str], trip: int) -> None:
        """Let sites fetch, and put their answers to a question.

        What a site had put when it was gone counts as put for this one: the same question gets the same answer.
        """
        for site in sites:
            member = self.folder / FOLDER / "members" / self.run / site
            member.parent.mkdir(parents=True, exist_ok=True)
            member.touch()
            self._up(site, trip).mkdir(parents=True, exist_ok=True)
            for old in self._left.pop(site, ()):
                self._move(site, old, trip)
            trips = [*self._trips.get(site, ()), trip]
            for old in trips[:-KEPT]:
                self.forget(site, old)
            self._trips[site] = trips[-KEPT:]

    def _move(self, site: str, old: int, new: int) -> None:
        with suppress(OSError):  # then it is put once more
            for chunk in self._up(site, old).iterdir():
                chunk.replace(self._up(site, new) / chunk.name)
        self.forget(site, old)

    def take(self, site: str, manifest: Manifest, limit: int) -> memoryview:
        """The block that a site put, mapped from its chunks.

        Raises RecordError where it is not as it said, RunError where this machine cannot read it.
        """
        if manifest.run != self.run or manifest.trip not in self._trips.get(site, ()):
            raise RecordError("what travels beside its answer is of another question")
        if manifest.size > limit:
            raise RecordError(f"its reply is larger than {limit / 2**20:.0f} MiB, the most that fits what it was asked")
        folder = self._up(site, manifest.trip)
        try:
            block = memoryview(
                map_files([(folder / name, manifest.length(n)) for n, name in enumerate(manifest.chunks)])
            )
        except OSError as error:
            if error.errno not in _NOT_THERE:
                raise RunError(
                    f"an answer cannot be read from {folder} ({os.strerror(error.errno or 0)}): put that right, then "
                    "resume the run"
                ) from error
            raise RecordError("a chunk of its answer is not there") from None
        if digests(block) != manifest.chunks:
            raise RecordError("a chunk of its answer is not what it is named by")
        return block

    def leave(self, site: str, trip: int) -> None:
        """Keep what a site put that is gone now, for when it is back and asked again; until then it may go on."""
        if trip in self._trips.get(site, ()):
            self._left.setdefault(site, []).append(trip)

    def forget(self, site: str, trip: int) -> None:
        """Remove what a site put for a trip, which is over."""
        shutil.rmtree(self._up(site, trip), ignore_errors=True)
        with suppress(ValueError, KeyError):
            self._trips[site].remove(trip)

    def remove(self) -> None:
        """Remove all of the run."""
        remove_run(self.folder, self.run)


def remove_run(folder: Path, run: str) -> None:
    """Remove all of a run from the bulk path of the hub in `folder`."""
    bulk = folder / FOLDER
    for path in (bulk / "members" / run, bulk / "down" / run, *(bulk / "up").glob(f"*/{run}")):
        shutil.rmtree(path, ignore_errors=True)


def tidy(folder: Path, unfinished: Iterable[str], limit: int) -> None:
    """Remove what runs that are over left, and let each site that holds more than `limit` bytes put no more."""
    bulk, known = folder / FOLDER, set(unfinished)
    for path in (*(bulk / "members").glob("*"), *(bulk / "up").glob("*/*")):
        if path.name not in known:
            remove_run(folder, path.name)
    for site in (bulk / "up").glob("*"):
        mark = bulk / "full" / site.name
        if _is_full(site, limit):
            mark.parent.mkdir(exist_ok=True)
            mark.touch()
        else:
            mark.unlink(missing_ok=True)


def held(folder: Path) -> int:
    """The bytes of all files below a folder."""
    return sum(_sizes(folder))


def _is_full(folder: Path, limit: int) -> bool:
    """Whether a site put more than `limit` bytes there, or more files than make so many.

    What travels here is longer than a chunk, so of an answer's chunks at least every second one is whole.
    """
    total = 0
    for number, size in enumerate(_sizes(folder), start=1):
        total += size
        if total > limit or number > 2 * limit // CHUNK_BYTES:
            return True
    return False


def _sizes(folder: Path) -> Iterator[int]:
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            status = path.lstat()
            if stat.S_ISREG(status.st_mode):
                yield status.st_size
