"""Models that wait: in memory up to a bound, then in mapped files, so that memory does not grow with their number."""

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from flwr.app import ArrayRecord

from fedward_common.array_blocks import block_size, pieces, view
from fedward_common.errors import RunError
from fedward_common.mapped_files import in_file, map_file

IN_MEMORY_BYTES = 64 * 2**20
SHARED_BYTES = 2**30  # where what waits is shared memory that a simulation's workers have written already


@dataclass(slots=True)
class Shelf:
    """Where records are put by; `folder`, on the disk that holds them, is made when the first one needs it."""

    folder: Path
    in_memory: int = IN_MEMORY_BYTES
    _held: int = 0  # bytes in memory

    def put(self, record: ArrayRecord) -> ArrayRecord:
        """The same record, in a file where memory is for others. RunError where it cannot be written."""
        if all(in_file(array.data) for array in record.values()):
            return record
        size = block_size(record)
        if self._held + size <= self.in_memory:
            self._held += size
            return record
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder) as file:
                file.writelines(pieces(record))
                return view(memoryview(map_file(file)))
        except OSError as error:
            raise unwritable(self.folder, error) from error

    def clear(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


def unwritable(folder: Path, error: OSError) -> RunError:
    """That an update cannot wait on the disk, and what to do."""
    return RunError(
        f"an update cannot be put by in {folder} ({os.strerror(error.errno or 0)}): free space on that disk, then "
        "resume the run"
    )
