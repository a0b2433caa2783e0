"""Ends every process whose environment holds a mark: what Flower and Ray start leaves sessions and process groups.

As a program it is a watchdog: it waits until its standard input closes, which it does when the process that holds the
other end is gone, however that went, and then ends what is marked.

    python -m fedward_server.marked FEDWARD_MARK=/tmp/fedward-ray-1234
"""

import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

PATIENCE_S = 10.0
PAUSE_S = 0.1


def end_marked(mark: str) -> None:
    """Ask every process with `mark` ("NAME=value") in its environment, and what it started, to end; kill after 10 s."""
    left = marked(mark)
    for number in (signal.SIGTERM, signal.SIGKILL):
        started = time.monotonic()
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        while left and time.monotonic() - started < PATIENCE_S:
            time.sleep(PAUSE_S)
            left = {pid for pid in left if _parent(pid) is not None}


def marked(mark: str) -> set[int]:
    """Processes of this user with the mark and their descendants: Ray's agents write their titles over the mark."""
    pids = {int(path.name) for path in Path("/proc").glob("[0-9]*")} - {os.getpid()}
    family = {pid for pid in pids if _is_marked(pid, mark)}
    while more := {pid for pid in pids - family if _parent(pid) in family}:
        family |= more
    return family


def _is_marked(pid: int, mark: str) -> bool:
    with suppress(OSError):
        return mark.encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return False


def _parent(pid: int) -> int | None:
    """The parent of a process, None where it is gone or a zombie."""
    with suppress(OSError):
        state, parent = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[:2]
        return None if state == "Z" else int(parent)
    return None


if __name__ == "__main__":
    sys.stdin.read()
    end_marked(sys.argv[1])
