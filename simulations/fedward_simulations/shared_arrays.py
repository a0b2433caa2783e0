"""Arrays between processes of one machine: anonymous shared memory (memfd), so that a killed one leaves nothing.

New memory costs the system several times what copying into it does. So a question's block serves all who are asked,
and the blocks of replies are used again: a worker writes where it has written before.
"""

import mmap
import os
import weakref
from collections import OrderedDict
from dataclasses import dataclass, field
from io import FileIO

import numpy as np
from flwr.app import ArrayRecord

from fedward_common.array_blocks import Record, block_size, pieces, view
from fedward_common.errors import RunError

NO_BLOCK = -1
KEPT = 4  # blocks for the replies of a worker: some are being read while the next is written


def write_block(record: ArrayRecord) -> int:
    """Copy a record's buffers into new shared memory; gives its file descriptor."""
    block = os.memfd_create("fedward", os.MFD_CLOEXEC)
    try:
        with os.fdopen(block, "wb", buffering=0, closefd=False) as file:  # cheaper than through new pages of a mapping
            for piece in pieces(record):
                _write_whole(file, memoryview(piece))
    except OSError as error:
        os.close(block)
        raise _no_memory(record, error) from None
    return block


def _write_whole(file: FileIO, piece: memoryview) -> None:
    while piece:  # Linux writes 2 GiB at a time
        piece = piece[file.write(piece) :]


def _no_memory(record: Record, error: OSError) -> RunError:
    return RunError(f"no shared memory for {block_size(record) / 2**20:.0f} MiB of arrays: {error.strerror}")


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


# Replies -------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class ReplyBlock:
    """Memory that a worker writes a reply into, and the hub's mapping of it."""

    descriptor: int
    memory: mmap.mmap | None = None

    def close(self) -> None:
        """Give it back; a mapping goes when nobody reads it."""
        os.close(self.descriptor)
        self.memory = None


@dataclass(slots=True)
class ReplyBlocks:
    """The hub's side: the blocks of one worker, each used again once nobody reads what was there."""

    _free: list[ReplyBlock] = field(default_factory=list)
    _closed: bool = False

    def take(self) -> ReplyBlock:
        """A block that nobody reads, perhaps an empty one."""
        return self._free.pop() if self._free else ReplyBlock(os.memfd_create("fedward-reply", os.MFD_CLOEXEC))

    def give_back(self, block: ReplyBlock) -> None:
        """Nobody reads a block any more."""
        if self._closed or len(self._free) >= KEPT:
            block.close()
        else:
            self._free.append(block)

    def read(self, block: ReplyBlock) -> ArrayRecord:
        """The record in a block, as views; when the last of them goes, the block is given back."""
        if block.memory is None or len(block.memory) != os.fstat(block.descriptor).st_size:
            block.memory = mmap.mmap(block.descriptor, 0)
        whole = np.frombuffer(block.memory, np.uint8)
        weakref.finalize(whole, self.give_back, block).atexit = False
        return view(whole.data)

    def close(self) -> None:
        """Give the memory back: at once where nobody reads it."""
        self._closed = True
        while self._free:
            self._free.pop().close()


@dataclass(slots=True)
class ReplyWriter:
    """The worker's side: the blocks that it was given last stay mapped, for that is what costs."""

    _mapped: OrderedDict[int, mmap.mmap] = field(default_factory=OrderedDict)  # by inode

    def write(self, block: int, record: Record) -> None:
        """Copy a record into the block of a descriptor, which grows if it has to."""
        size = block_size(record)
        inode = os.fstat(block).st_ino
        memory = self._mapped.pop(inode, None)
        try:
            if memory is None or len(memory) < size:
                if os.fstat(block).st_size < size:
                    os.truncate(block, size)
                memory = mmap.mmap(block, 0)
        except OSError as error:
            raise _no_memory(record, error) from None
        memory.seek(0)
        for piece in pieces(record):
            memory.write(piece)
        self._mapped[inode] = memory
        while len(self._mapped) > KEPT:
            self._mapped.popitem(last=False)
