"""Models that wait: in memory up to a bound, then in mapped files, so that memory does not grow with their number."""

import mmap
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from flwr.app import ArrayRecord

from fedward_common.array_blocks import block_size, pieces, view
from fedward_common.errors import RunError

IN_MEMORY_BYTES = 64 * 2**20


@dataclass(slots=True)
class Shelf:
    """Where records are put by; `folder` is made when the first one needs it."""

    folder: Path
    _held: int = 0  # bytes in memory

    def put(self, name: str, record: ArrayRecord) -> ArrayRecord:
        """The same record, in the file `name` where memory is for others. RunError where it cannot be written."""
        size = block_size(record)
        if self._held + size <= IN_MEMORY_BYTES:
            self._held += size
            return record
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / name).open("w+b") as file:
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
        """Remove the files."""
        shutil.rmtree(self.folder, ignore_errors=True)
