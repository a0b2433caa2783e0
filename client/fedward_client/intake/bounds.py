"""What holds for every reader of files: how one is opened, how much of it is read, what may be told."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader, FileIO
from pathlib import Path

from fedward_common.errors import UnreadableFile

MAX_VALUES = 2**29  # pixels of one image, or numbers of one series or table: 2 GiB as float32

_LARGE = 2**20  # bytes; a file is not measured for less


class _Reader(BufferedReader):
    """Allocates no more than there is: Python's reserves all that it is asked for, and a header may say 4 GiB."""

    def read(self, size: int | None = -1, /) -> bytes:
        """At most `size` bytes, all that are left for None and below 0."""
        if size is not None and size > _LARGE:
            size = min(size, max(os.fstat(self.fileno()).st_size - self.tell(), 0))
        return super().read(size)


@contextmanager
def opened(path: Path) -> Iterator[BufferedReader]:
    """A file for reading; what the file system refuses, now or later, is an UnreadableFile."""
    try:
        with _Reader(FileIO(path)) as file:
            if not file.peek(1):
                raise UnreadableFile("the file is empty")
            yield file
    except OSError as error:
        raise UnreadableFile(f"the file system refuses it: {error.strerror}") from error


def one_line(text: str) -> str:
    """Text of a file for a table of makers and devices: one line of plain characters, at most 64."""
    return " ".join(re.sub(r"[^\w .,()/+&-]", " ", text).split())[:64]
