"""Puts arrays into the spool. On the data side the outbox is the only one that may (an import contract holds it)."""

import hashlib
import os
import secrets
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from fedward_client.spool import IN, OUT, Parcel
from fedward_common.array_blocks import Record, block_size, pieces
from fedward_common.bulk import Manifest, digests, joint
from fedward_common.errors import RunError
from fedward_common.mapped_files import map_file

KEPT_S = 3600.0  # an answer, at least
_UNFINISHED = ".writing-"


def write(spool: Path, where: str, record: Record, *, limit: int) -> Parcel:
    """Write a record as a parcel into `spool`/`where`; raises RunError where the spool is full (`limit`: bytes)."""
    return write_block(spool, where, pieces(record), block_size(record), limit=limit)


def write_block(spool: Path, where: str, parts: Iterable[bytes | memoryview], size: int, *, limit: int) -> Parcel:
    """Write a block of `size` bytes, given in parts, as a parcel; raises RunError where the spool is full."""
    _make_room(spool, size, limit)
    folder = spool / where
    temporary = folder / f"{_UNFINISHED}{secrets.token_hex(8)}"
    with _written():
        try:
            with temporary.open("x+b") as file:
                file.writelines(parts)
                parcel = Parcel(sha256=joint(digests(memoryview(map_file(file)))), size=size)
            temporary.replace(folder / parcel.sha256)
        except OSError:
            with suppress(OSError):
                temporary.unlink()
            raise
    return parcel


def _make_room(spool: Path, size: int, limit: int) -> None:
    """Remove answers that nobody has fetched for long, the oldest first, as far as the room is needed.

    They are mostly of runs that are over, which nobody tells a site; asked for again, an answer is worked out anew.
    Raises RunError where that does not do.
    """
    held = _held(spool)
    if held + size <= limit:
        return
    for age, path in sorted(_ages(spool / OUT), reverse=True):
        if held + size <= limit or age < KEPT_S:
            break
        with suppress(FileNotFoundError):  # the other side has removed it
            held -= path.stat().st_size
            path.unlink()
    if held + size > limit:
        raise RunError(
            f"the site's spool is full ({(held + size) / 2**20:.0f} of {limit / 2**20:.0f} MiB): "
            "raise [limits] spool_mib in site.toml"
        )


def _ages(folder: Path) -> Iterator[tuple[float, Path]]:
    """How many seconds ago each parcel was written."""
    for path in folder.iterdir():
        if not path.name.startswith(_UNFINISHED):
            with suppress(FileNotFoundError):
                yield time.time() - path.stat().st_mtime, path


@contextmanager
def _written() -> Iterator[None]:
    """Turn a disk that takes no more into words."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f"the site's spool cannot be written to ({error.strerror}): free space on its disk, or give it another"
        ) from None


@dataclass(slots=True)
class Growing:
    """A parcel that comes chunk by chunk, and goes on where it was after a restart."""

    spool: Path
    path: Path
    manifest: Manifest
    file: IO[bytes]
    here: int = 0  # chunks

    @classmethod
    @contextmanager
    def open(cls, spool: Path, where: str, manifest: Manifest, *, limit: int) -> Iterator["Growing"]:
        """The parcel of a manifest, with the whole chunks that are here. Raises RunError as `write_block` does."""
        path = spool / where / growing_name(manifest)
        already = path.stat().st_size if path.exists() else 0
        _make_room(spool, manifest.size - already, limit)
        with _written(), path.open("a+b") as file:
            growing = cls(spool, path, manifest, file)
            growing._read_again()
            yield growing

    def missing(self) -> Iterator[int]:
        """The numbers of the chunks that are still to come, in their order."""
        yield from range(self.here, len(self.manifest.chunks))

    def append(self, chunk: bytes) -> None:
        """Take the next chunk."""
        self.file.write(chunk)
        self.file.flush()
        self.here += 1

    def finish(self) -> Parcel:
        """The parcel, which is whole."""
        parcel = Parcel(sha256=self.manifest.digest, size=self.manifest.size)
        self.path.replace(self.path.with_name(parcel.sha256))
        return parcel

    def _read_again(self) -> None:
        """Take what an earlier attempt left, up to the first chunk that is not as it should be."""
        self.file.seek(0)
        end = 0
        for number, name in enumerate(self.manifest.chunks):
            data = self.file.read(self.manifest.length(number))
            if hashlib.sha256(data).hexdigest() != name:
                break
            self.here, end = number + 1, end + len(data)
        self.file.truncate(end)


def growing_name(manifest: Manifest) -> str:
    """The name of the file of a parcel that is not whole yet."""
    return f"{_UNFINISHED}{manifest.digest}"


def remove(spool: Path, where: str, sha256: str) -> None:
    """Remove a parcel; one that is gone already is no error."""
    with suppress(OSError):
        (spool / where / sha256).unlink()


def tidy(spool: Path, where: str, kept: set[str]) -> None:
    """Remove all but the parcels named from a side of the spool, e.g. what a killed process left half-written."""
    for path in (spool / where).iterdir():
        if path.name not in kept:
            with suppress(OSError):
                path.unlink()


def tidy_unfinished(spool: Path, where: str, wanted: set[str]) -> None:
    """Remove the parcels that are not whole, but those named."""
    for path in (spool / where).glob(f"{_UNFINISHED}*"):
        if path.name not in wanted:
            path.unlink(missing_ok=True)


def _held(spool: Path) -> int:
    total = 0
    for where in (IN, OUT):
        with os.scandir(spool / where) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    total += entry.stat(follow_symlinks=False).st_size
    return total
