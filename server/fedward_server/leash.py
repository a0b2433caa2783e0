"""Runs a program whose processes all end with whoever started this, however that ends.

It waits until its standard input closes or the program ends, and then ends every process of its own process group: the
program, and what that left. So it must be started in a session of its own.

    python -m fedward_server.leash PROGRAM ARGUMENT …
"""

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

PATIENCE_S = 5.0
LOOK_S = 0.05


def _main(command: list[str]) -> int:
    with subprocess.Popen(["setpriv", "--pdeathsig", "TERM", *command], stdin=subprocess.DEVNULL) as program:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it comes back when the group is told to end
        ended = os.pidfd_open(program.pid)
        select.select([sys.stdin, ended], [], [])
        os.close(ended)
        os.killpg(0, signal.SIGTERM)
        started = time.monotonic()
        while _others() and time.monotonic() - started < PATIENCE_S:
            program.poll()
            time.sleep(LOOK_S)
        if _others():
            os.killpg(0, signal.SIGKILL)  # this process too
        return program.wait()


def _others() -> bool:
    """Whether another process of the group is still at work."""
    group, own = os.getpgrp(), os.getpid()
    return any(_group(path) == group for path in Path("/proc").glob("[0-9]*") if path.name != str(own))


def _group(process: Path) -> int | None:
    try:
        state, _, group = (process / "stat").read_text().rsplit(")", 1)[1].split()[:3]
    except OSError:
        return None
    return None if state == "Z" else int(group)


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
