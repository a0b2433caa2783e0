"""Who serves a site: a lock that one process at a time holds, in a file with its id. The kernel drops a dead one's."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedward_common.errors import SettingsError

DAEMON, EXECUTOR = "daemon.lock", "executor.lock"  # in the state folder


@contextmanager
def claimed(state: Path, name: str, lock: str) -> Iterator[None]:
    """Hold a site's state folder as its daemon or its data side does. Raises SettingsError where another process is."""
    with (state / lock).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise SettingsError(
                f"another daemon (process {file.read().strip() or 'unknown'}) serves site '{name}': "
                "stop it first (`fedward site down`), or use it as it is"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def holder(state: Path, lock: str) -> int | None:
    """The id of the process that holds a lock; None where none does."""
    try:
        with (state / lock).open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(file.read() or 0) or None
    except (FileNotFoundError, ValueError):
        pass
    return None
