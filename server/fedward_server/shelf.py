"""Models that wait: in memory up to a bound, then in mapped files, so that memory does not grow with their number.

A file has no name once it is mapped: the mapping keeps it, and nothing of it is left however this process ends.
"""

import mmap
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from flwr.app import ArrayRecord

from fedward_common.array_blocks import block_size, pieces, view
from fedward_common.errors import RunError

IN_MEMORY_BYTES = 64 * 2**20
SHARED_BYTES = 2**30  # where what waits is shared memory that a simulation's workers have written already


@dataclass(slots=True)
class Shelf:
    """Where records are put by; `folder`, on the disk that holds them, is made when the first one needs it."""

    folder: Path
    in_memory: int = IN_MEMORY_BYTES
    _held: int = 0  # bytes in memory

    def put(self, name: str, record: ArrayRecord) -> ArrayRecord:
        """The same record, in a file where memory is for others. RunError where it cannot be written."""
        size = block_size(record)
        if self._held + size <= self.in_memory:
            self._held += size
            return record
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / name
            with path.open("w+b") as file:
                path.unlink()
                for piece in pieces(record):
                    file.write(piece)
                file.flush()
                return view(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))
        except OSError as error:
            raise RunError(
                f"an update cannot be put by in {self.folder} ({os.strerror(error.errno or 0)}): free space on that "
                "disk, then resume the run"
            ) from error

    def clear(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)
