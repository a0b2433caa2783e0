"""Arrays that wait in files: memory that the system may have back at any time, and that no model's number adds to.

A file has no name once it is mapped: the mapping keeps it, and nothing of it is left however this process ends.
"""

import mmap
from typing import IO, Any

import numpy as np
import numpy.typing as npt


class MappedFile(mmap.mmap):
    """A file's bytes, to be read as memory."""


def map_file(file: IO[bytes]) -> MappedFile:
    """Of a file that holds something."""
    file.flush()
    return MappedFile(file.fileno(), 0, access=mmap.ACCESS_READ)


def in_file(data: object) -> bool:
    """Whether a buffer lies in a mapped file."""
    return isinstance(data, memoryview) and isinstance(data.obj, MappedFile)


def owner(array: npt.NDArray[Any]) -> object:
    """What an array's memory belongs to."""
    found: object = array
    while True:
        if isinstance(found, np.ndarray) and found.base is not None:
            found = found.base
        elif isinstance(found, memoryview):
            found = found.obj
        else:
            return found


def address(memory: Any) -> int:
    """Where an array or a buffer begins."""
    return int(
        np.frombuffer(memory, np.uint8).ctypes.data if not isinstance(memory, np.ndarray) else memory.ctypes.data
    )


def release(array: npt.NDArray[Any], first: int = 0, last: int | None = None) -> None:
    """Give the memory under an array back, from its byte `first` to `last`, where a mapped file is under it.

    Who reads the array again reads the file, in which nothing changes.
    """
    file = owner(array)
    if not isinstance(file, MappedFile):
        return
    start = address(array) - address(file)
    begin = -(-(start + first) // mmap.PAGESIZE) * mmap.PAGESIZE
    end = start + (array.nbytes if last is None else last)
    if end // mmap.PAGESIZE * mmap.PAGESIZE > begin:
        file.madvise(mmap.MADV_DONTNEED, begin, end // mmap.PAGESIZE * mmap.PAGESIZE - begin)
