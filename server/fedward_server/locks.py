"""Who is at work in a folder: a file that a process holds locked for as long as it lives, with its id in it.

The lock goes with the process however that ends; a number that was left in the file means nothing by itself.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOOK_S = 1.0  # whoever looks at a lock holds it for a moment
PAUSE_S = 0.02


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold a file while the block runs. Raises BlockingIOError where another process holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _lock(descriptor)
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    started = time.monotonic()
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() - started > LOOK_S:
                raise
            time.sleep(PAUSE_S)
        else:
            return


@contextmanager
def turn(path: Path) -> Iterator[None]:
    """Wait until nobody else is in such a block, then run it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def holder(path: Path) -> int | None:
    """The id of the process that holds a file, None where none does."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _pid(descriptor)
    else:
        return None
    finally:
        os.close(descriptor)


def _pid(descriptor: int) -> int | None:
    """The number in a file that is held; its holder writes it right after it took the lock."""
    started = time.monotonic()
    while time.monotonic() - started < LOOK_S:
        text = os.pread(descriptor, 32, 0)
        if text.endswith(b"\n"):
            return int(text)
        time.sleep(PAUSE_S)
    return None
