"""Arrays between processes of one machine: anonymous shared memory (memfd), so that a killed one leaves nothing."""

import mmap
import os
from dataclasses import dataclass, field

from flwr.app import ArrayRecord

from fedward_common.array_blocks import block_size, pieces, view
from fedward_common.errors import RunError

NO_BLOCK = -1


def write_block(record: ArrayRecord) -> int:
    """Copy a record's buffers into new shared memory; gives its file descriptor."""
    size = block_size(record)
    block = os.memfd_create("fedward", os.MFD_CLOEXEC)
    try:
        os.truncate(block, size)
        with mmap.mmap(block, size) as memory:
            for piece in pieces(record):
                memory.write(piece)
    except OSError as error:
        os.close(block)
        raise RunError(f"no shared memory for {size / 2**20:.0f} MiB of arrays: {error.strerror}") from None
    return block


def read_block(block: int) -> ArrayRecord:
    """The record of a block, as views: the memory lives as long as an array does. Closes the descriptor."""
    try:
        memory = memoryview(mmap.mmap(block, 0))
    finally:
        os.close(block)
    return view(memory)


@dataclass(slots=True)
class _Entry:
    record: ArrayRecord  # held, so that the ids in its key stay its arrays'
    users: int = 0
    block: int = NO_BLOCK


@dataclass(slots=True)
class BlockPool:
    """One block for each set of arrays, however many messages carry it. Not thread-safe: guard it from outside."""

    _entries: dict[tuple[int, ...], _Entry] = field(default_factory=dict)

    def retain(self, record: ArrayRecord) -> None:
        """A message with this record is on its way."""
        self._entries.setdefault(_key(record), _Entry(record)).users += 1

    def block(self, record: ArrayRecord) -> int:
        """The descriptor of a retained record, written at the first call."""
        entry = self._entries[_key(record)]
        if entry.block == NO_BLOCK:
            entry.block = write_block(record)
        return entry.block

    def release(self, record: ArrayRecord) -> None:
        """A message with this record has been answered; the memory goes with the last one."""
        entry = self._entries[_key(record)]
        entry.users -= 1
        if entry.users == 0:
            del self._entries[_key(record)]
            if entry.block != NO_BLOCK:
                os.close(entry.block)

    def close(self) -> None:
        """Give back every block."""
        for entry in self._entries.values():
            if entry.block != NO_BLOCK:
                os.close(entry.block)
        self._entries.clear()


def _key(record: ArrayRecord) -> tuple[int, ...]:
    return tuple(id(array) for array in record.values())
