"""Puts arrays into the spool. On the data side the outbox is the only one that may (an import contract holds it)."""

import hashlib
import os
import secrets
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from fedward_client.spool import IN, OUT, Parcel
from fedward_common.array_blocks import Record, block_size, pieces
from fedward_common.errors import RunError

_UNFINISHED = ".writing-"


def write(spool: Path, where: str, record: Record, *, limit: int) -> Parcel:
    """Write a record as a parcel into `spool`/`where`; raises RunError where the spool is full (`limit`: bytes)."""
    return write_block(spool, where, pieces(record), block_size(record), limit=limit)


def write_block(spool: Path, where: str, parts: Iterable[bytes | memoryview], size: int, *, limit: int) -> Parcel:
    """Write a block of `size` bytes, given in parts, as a parcel; raises RunError where the spool is full."""
    if (held := _held(spool)) + size > limit:
        raise RunError(
            f"the site's spool is full ({(held + size) / 2**20:.0f} of {limit / 2**20:.0f} MiB): "
            "raise [limits] spool_mib in site.toml, or end runs that are over"
        )
    folder = spool / where
    temporary = folder / f"{_UNFINISHED}{secrets.token_hex(8)}"
    digest = hashlib.sha256()
    try:
        with temporary.open("xb") as file:
            for part in parts:
                file.write(part)
                digest.update(part)
        parcel = Parcel(sha256=digest.hexdigest(), size=size)
        temporary.replace(folder / parcel.sha256)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise RunError(
            f"the site's spool cannot be written to ({error.strerror}): free space on its disk, or give it another"
        ) from None
    return parcel


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


def _held(spool: Path) -> int:
    total = 0
    for where in (IN, OUT):
        with os.scandir(spool / where) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    total += entry.stat(follow_symlinks=False).st_size
    return total
