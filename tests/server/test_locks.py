"""Locks that go with the process that holds them, and the events of a run in its file."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fedward_server.events import RunEvent
from fedward_server.journal import FILE, Journal, Standing, Tail, standing
from fedward_server.locks import held, holder, turn

HOLD = """
import sys
from pathlib import Path
from fedward_server.locks import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_lock_is_its_holders_until_it_dies(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert holder(path) is None
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        assert holder(path) == other.pid
        with pytest.raises(BlockingIOError), held(path):
            pass
        other.kill()
        other.wait()
    assert holder(path) is None
    assert path.read_text() == f"{other.pid}\n"  # a number that was left means nothing
    with held(path):
        assert holder(path) == os.getpid()
    assert holder(path) is None


def test_turns_are_taken(tmp_path: Path) -> None:
    for _ in range(2):
        with turn(tmp_path / "turn"):
            assert (tmp_path / "turn").exists()


# Events --------------------------------------------------------------------------------------------------------------


def event(kind: str, number: int = 0, site: str = "", note: str = "") -> RunEvent:
    return RunEvent(kind=kind, run="run-1", round=number, rounds=3, site=site, note=note)  # type: ignore[arg-type]


def test_events_come_back_as_they_come(tmp_path: Path) -> None:
    journal, tail = Journal(tmp_path), Tail(tmp_path)
    assert list(tail.new()) == []
    journal(event("began"))
    assert list(tail.new()) == [event("began")]
    journal(event("waiting", site="north", note="waits for approval … “now”\n"))
    journal(event("round", 1))
    assert [each.kind for each in tail.new()] == ["waiting", "round"]
    assert list(tail.new()) == []


def test_half_a_line_is_read_when_it_is_whole_and_what_is_no_event_is_passed_over(tmp_path: Path) -> None:
    journal, tail = Journal(tmp_path), Tail(tmp_path)
    journal(event("began"))
    line = (tmp_path / FILE).read_bytes()
    with (tmp_path / FILE).open("ab") as file:
        file.write(b"no event\n" + line[:20])
        file.flush()
        assert list(tail.new()) == [event("began")]
        file.write(line[20:])
    assert list(tail.new()) == [event("began")]


def test_skipped_events_are_not_given(tmp_path: Path) -> None:
    journal, tail = Journal(tmp_path), Tail(tmp_path)
    journal(event("began"))
    tail.skip()
    journal(event("round", 1))
    assert [each.kind for each in tail.new()] == ["round"]


def test_how_far_a_run_is(tmp_path: Path) -> None:
    told = [
        event("began"),
        event("waiting", site="valley", note="is not connected to the hub"),
        event("prepared", site="north"),
        event("round", 1),
        event("answered", 1, site="north"),
    ]
    assert standing(told) == Standing(
        round=1,
        rounds=3,
        kind="round",
        sites={"valley": ("waiting", "is not connected to the hub"), "north": ("answered", "")},
    )
    assert standing([*told, event("began")]).sites == {}
