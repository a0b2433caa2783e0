"""Arrays between processes of one machine: anonymous shared memory (memfd), so that a killed one leaves nothing."""

import mmap
import os
from dataclasses import dataclass, field

from flwr.app import Array, ArrayRecord

from fedward_common.errors import RunError

ALIGNMENT = 64

Layout = list[tuple[str, str, tuple[int, ...], int, int]]  # name, dtype, shape, offset, length


def write_block(record: ArrayRecord) -> tuple[int, Layout]:
    """Copy a record's buffers into new shared memory: its file descriptor, and what lies where."""
    layout: Layout = []
    end = 0
    for name, array in record.items():
        offset = -(-end // ALIGNMENT) * ALIGNMENT
        end = offset + len(array.data)
        layout.append((name, array.dtype, array.shape, offset, len(array.data)))
    block = os.memfd_create("fedward", os.MFD_CLOEXEC)
    try:
        os.truncate(block, max(end, 1))
        with mmap.mmap(block, max(end, 1)) as memory:
            for (_, _, _, offset, length), array in zip(layout, record.values(), strict=True):
                memory[offset : offset + length] = array.data
    except OSError as error:
        os.close(block)
        raise RunError(f"no shared memory for {end / 2**20:.0f} MiB of arrays: {error.strerror}") from None
    return block, layout


def read_block(block: int, layout: Layout) -> ArrayRecord:
    """The record of a block, as views: the memory lives as long as an array does. Closes the descriptor."""
    try:
        memory = memoryview(mmap.mmap(block, 0))
    finally:
        os.close(block)
    record = ArrayRecord()
    for name, dtype, shape, offset, length in layout:
        array = Array(dtype, tuple(shape), "numpy.ndarray", b"")
        array.data = memory[offset : offset + length]  # type: ignore[assignment]  # flwr reads any buffer
        record[name] = array
    return record


@dataclass(slots=True)
class _Entry:
    record: ArrayRecord  # held, so that the ids in its key stay its arrays'
    users: int = 0
    block: tuple[int, Layout] | None = None


@dataclass(slots=True)
class BlockPool:
    """One block for each set of arrays, however many messages carry it. Not thread-safe: guard it from outside."""

    _entries: dict[tuple[int, ...], _Entry] = field(default_factory=dict)

    def retain(self, record: ArrayRecord) -> None:
        """A message with this record is on its way."""
        self._entries.setdefault(_key(record), _Entry(record)).users += 1

    def block(self, record: ArrayRecord) -> tuple[int, Layout]:
        """The descriptor and layout of a retained record, written at the first call."""
        entry = self._entries[_key(record)]
        if entry.block is None:
            entry.block = write_block(record)
        return entry.block

    def release(self, record: ArrayRecord) -> None:
        """A message with this record has been answered; the memory goes with the last one."""
        entry = self._entries[_key(record)]
        entry.users -= 1
        if entry.users == 0:
            del self._entries[_key(record)]
            if entry.block is not None:
                os.close(entry.block[0])

    def close(self) -> None:
        """Give back every block."""
        for entry in self._entries.values():
            if entry.block is not None:
                os.close(entry.block[0])
        self._entries.clear()


def _key(record: ArrayRecord) -> tuple[int, ...]:
    return tuple(id(array) for array in record.values())
