"""What holds for every reader of files: how one is opened, how much of it is read, what may be told."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from fedward_common.errors import UnreadableFile

MAX_VALUES = 2**29  # pixels of one image, or numbers of one series or table: 2 GiB as float32


@contextmanager
def opened(path: Path) -> Iterator[BufferedReader]:
    """A file for reading; what the file system refuses, now or later, is an UnreadableFile."""
    try:
        with path.open("rb") as file:
            if not file.peek(1):
                raise UnreadableFile("the file is empty")
            yield file
    except OSError as error:
        raise UnreadableFile(f"the file system refuses it: {error.strerror}") from error


def one_line(text: str) -> str:
    """Text of a file for a table of makers and devices: one line of plain characters, at most 64."""
    return " ".join(re.sub(r"[^\w .,()/+&-]", " ", text).split())[:64]
