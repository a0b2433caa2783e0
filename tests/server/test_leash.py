"""What is on a leash ends with whoever holds it, its children too, however that ends."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

# a program that ignores what it is told politely, has a child that does so too, and writes both their numbers
STUBBORN = """
import os, pathlib, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = os.fork()
if child:
    pathlib.Path(sys.argv[1]).write_text(f"{os.getpid()} {child}")
time.sleep(600)
"""


def wait_until(there: Callable[[], bool], limit_s: float = 30) -> None:
    deadline = time.monotonic() + limit_s
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def alive(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    return False


def leashed(*command: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "fedward_server.leash", *command], stdin=subprocess.PIPE, start_new_session=True
    )


@pytest.fixture
def pids(tmp_path: Path) -> Callable[[], list[int]]:
    """The stubborn program's two processes, once they are there."""

    def read() -> list[int]:
        path = tmp_path / "pids"
        wait_until(lambda: path.exists() and len(path.read_text().split()) == 2)
        return [int(pid) for pid in path.read_text().split()]

    return read


def test_it_ends_with_its_holder(tmp_path: Path, pids: Callable[[], list[int]]) -> None:
    with leashed(sys.executable, "-c", STUBBORN, str(tmp_path / "pids")) as leash:
        found = pids()
        assert all(map(alive, found))
        assert leash.stdin is not None
        leash.stdin.close()
        wait_until(lambda: not any(map(alive, found)))
        assert leash.wait(30) == -signal.SIGKILL  # it goes with the group that it had to kill


def test_it_ends_with_a_holder_that_was_killed(tmp_path: Path, pids: Callable[[], list[int]]) -> None:
    holding = (
        "import subprocess, sys, time\n"
        "subprocess.Popen([sys.executable, '-m', 'fedward_server.leash', *sys.argv[1:]], stdin=subprocess.PIPE,"
        " start_new_session=True)\n"
        "time.sleep(600)"
    )
    command = [sys.executable, "-c", holding, sys.executable, "-c", STUBBORN, str(tmp_path / "pids")]
    with subprocess.Popen(command) as holder:
        found = pids()
        holder.kill()
    wait_until(lambda: not any(map(alive, found)))


def test_what_a_program_left_ends_with_it(tmp_path: Path, pids: Callable[[], list[int]]) -> None:
    with leashed(sys.executable, "-c", STUBBORN, str(tmp_path / "pids")):
        program, child = pids()
        os.kill(program, signal.SIGKILL)
        wait_until(lambda: not alive(child))


def test_it_gives_the_programs_exit_code() -> None:
    with leashed(sys.executable, "-c", "raise SystemExit(7)") as leash:
        assert leash.wait(30) == 7
