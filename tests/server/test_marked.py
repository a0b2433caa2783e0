"""Ending what a run started, however deep, and nothing else."""

import os
import subprocess
import sys
import time
from pathlib import Path

from fedward_server.marked import end_marked

SLEEPERS = "setsid env -u MARK sleep 300 & sleep 300"  # a child in a session of its own that has lost the mark


def start(**marks: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(["sh", "-c", SLEEPERS], env={**os.environ, **marks}, start_new_session=True)


def children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def runs(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_it_ends_a_marked_family_and_leaves_others() -> None:
    ours, other = start(MARK="run-1"), start(MARK="run-11")
    while not (len(children(ours.pid)) == len(children(other.pid)) == 2):
        time.sleep(0.01)
    family = children(ours.pid)
    end_marked("MARK=run-1")
    assert ours.wait(10) != 0
    assert not [pid for pid in family if runs(pid)]
    assert other.poll() is None
    end_marked("MARK=run-11")
    assert other.wait(10) != 0


def test_the_watchdog_acts_when_its_input_closes() -> None:
    ours = start(MARK="run-2")
    watchdog = subprocess.Popen([sys.executable, "-m", "fedward_server.marked", "MARK=run-2"], stdin=subprocess.PIPE)
    assert watchdog.poll() is None
    assert ours.poll() is None
    watchdog.communicate(timeout=30)
    assert watchdog.returncode == 0
    assert ours.wait(10) != 0
