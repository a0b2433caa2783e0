"""Parcels in the spool, the one folder that both sides of a site see: arrays in a file named by its own digest.

Reading trusts nothing: a parcel is taken only when its file is a plain one of the length and digest that it says.
Writing is in `spool_writer`, which on the data side only the outbox may import.
"""

import mmap
import os
import stat
from pathlib import Path
from typing import Annotated

from flwr.app import ArrayRecord
from pydantic import BaseModel, ConfigDict, Field

from fedward_common.array_blocks import MAX_BYTES, view
from fedward_common.bulk import digests, joint
from fedward_common.errors import RecordError
from fedward_common.records import Digest

IN, OUT = "in", "out"  # from the hub, to the hub


class Parcel(BaseModel):
    """A block of arrays in the spool: its digest (`bulk.joint`), which is the file's name, and its size in bytes."""

    model_config = ConfigDict(frozen=True, extra="ignore")  # of another version, in a ledger

    sha256: Digest
    size: Annotated[int, Field(ge=1, le=MAX_BYTES)]


def read(folder: Path, parcel: Parcel) -> ArrayRecord:
    """A parcel's arrays, mapped from `folder`. `RecordError` unless the file is what the parcel says."""
    return view(read_block(folder, parcel))


def read_block(folder: Path, parcel: Parcel) -> memoryview:
    """A parcel's bytes, mapped from `folder`. `RecordError` unless the file is what the parcel says."""
    return read_chunks(folder, parcel)[0]


def read_chunks(folder: Path, parcel: Parcel) -> tuple[memoryview, list[str]]:
    """As `read_block`, and the digests of the chunks that it may travel in."""
    try:
        descriptor = os.open(folder / parcel.sha256, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise RecordError(f"a parcel is not in the spool ({error.strerror})") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size != parcel.size:
            raise RecordError("a parcel in the spool is not of the size that was said")
        memory = memoryview(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ))
    finally:
        os.close(descriptor)
    chunks = digests(memory)
    if joint(chunks) != parcel.sha256:
        raise RecordError("a parcel in the spool was changed: its digest is another")
    return memory, chunks
