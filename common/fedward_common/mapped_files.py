"""Arrays that wait in files: memory that the system may have back at any time, and that no model's number adds to.

A file has no name once it is mapped: the mapping keeps it, and nothing of it is left however this process ends.
"""

import ctypes
import errno
import mmap
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

_MAP_FIXED = 0x10  # mmap(2); Python's own mmap cannot be told where
_mmap = ctypes.CDLL(None, use_errno=True).mmap
_mmap.restype = ctypes.c_void_p
_mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]


class MappedFile(mmap.mmap):
    """A file's bytes, or those of several one after the other, to be read as memory."""


def map_file(file: IO[bytes]) -> MappedFile:
    """Of a file that holds something."""
    file.flush()
    return MappedFile(file.fileno(), 0, access=mmap.ACCESS_READ)


def map_files(files: Sequence[tuple[Path, int]]) -> MappedFile:
    """Of several files, each with its size, all but the last of whole pages: one piece of memory, and no copy.

    Raises OSError where one is not a plain file of that size. Nobody may change or shorten them; names may go.
    """
    whole = MappedFile(-1, sum(size for _, size in files), flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)  # room
    start = address(whole)
    for path, size in files:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_size != size:
                raise OSError(errno.EINVAL, "another size")
            if _mmap(start, size, mmap.PROT_READ, mmap.MAP_SHARED | _MAP_FIXED, descriptor, 0) != start:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        finally:
            os.close(descriptor)
        start += size
    return whole


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
