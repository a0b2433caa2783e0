"""The embedded engine with real worker processes: same bits however many, replaced when killed, gone when closed."""

import gc
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message, MessageType

from fedward_common import models
from fedward_common.errors import RunError
from fedward_common.events import Event
from fedward_common.records import Question, from_array_record, question_record, record_of, to_array_record
from fedward_common.study import StudySpec
from fedward_common.testing import tiny_study
from fedward_server.result import RunResult
from fedward_server.rounds import RoundEngine
from fedward_simulations.grid import EmbeddedGrid
from fedward_simulations.grid_view import GridView
from fedward_simulations.phantoms import OpenPhantom
from fedward_simulations.shared_arrays import BlockPool, ReplyBlocks, ReplyWriter, read_block, write_block

STUDY = tiny_study(
    training={"rounds": 3, "optimizer": {"name": "adamw", "lr": 0.01}},
    strategy={"min_sites": 2, "round_deadline_s": 60.0},
)
SITES = {"a": OpenPhantom("a", 60), "b": OpenPhantom("b", 40), "c": OpenPhantom("c", 80)}
LIMIT_S = 60.0


def run(grid: EmbeddedGrid | GridView, folder: Path) -> RunResult:
    folder.mkdir(exist_ok=True)
    return RoundEngine(
        grid=grid,
        study=STUDY,
        run="run-1",
        engine="embedded",
        folder=folder,
        on_round=lambda row: None,
        listener=lambda event: None,
    )()


def train_message(study: StudySpec, node: int = 1) -> Message:
    arrays = to_array_record(models.initial_state(study, study.training.seed))
    content = question_record(Question(kind="train", study=study, run="run-1"), arrays)
    content.config_records["config"]["server-round"] = 1
    return Message(content, node, MessageType.TRAIN)


def reply_to(grid: EmbeddedGrid, message: Message) -> Message:
    (reply,) = grid.send_and_receive([message], timeout=LIMIT_S)
    return reply


def test_it_learns_a_planted_signal_and_the_bits_do_not_depend_on_the_workers(tmp_path: Path) -> None:
    events: list[Event] = []
    with EmbeddedGrid(SITES, workers=3, listener=events.append) as grid:
        first = run(grid, tmp_path / "three")
    with EmbeddedGrid(SITES, workers=1) as grid:
        second = run(grid, tmp_path / "one")
    assert first.model_sha256 == second.model_sha256
    assert first.history[-1].primary is not None
    assert first.history[-1].primary > 0.9
    stages = {(event.site, event.stage) for event in events}
    assert stages >= {(site, stage) for site in SITES for stage in ("train", "evaluate")}
    assert all(0 <= event.done <= event.total for event in events)


def test_a_view_shows_its_hospitals_only(tmp_path: Path) -> None:
    with EmbeddedGrid(SITES, workers=2) as grid:
        result = run(GridView(grid, ["c", "a"]), tmp_path)
    assert set(result.sites) == {"a", "c"}


def test_a_killed_worker_costs_one_question_and_is_replaced() -> None:
    events: list[Event] = []
    endless = tiny_study(training={"local_steps": 1_000_000})
    with EmbeddedGrid({"a": OpenPhantom("a", 60)}, workers=1, listener=events.append) as grid:
        ids = grid.push_messages([train_message(endless)])
        started = time.monotonic()
        while not any(event.stage == "train" for event in events):
            assert time.monotonic() - started < LIMIT_S
            time.sleep(0.01)
        (victim,) = grid.worker_pids()
        os.kill(victim, signal.SIGKILL)
        replies: list[Message] = []
        while not replies and time.monotonic() - started < LIMIT_S:
            replies = grid.pull_messages(ids)
        assert "signal 9" in (replies[0].error.reason or "")
        assert reply_to(grid, train_message(STUDY)).has_content()
        assert grid.worker_pids() != [victim]


def test_a_refusal_comes_back_in_words() -> None:
    with EmbeddedGrid({"a": OpenPhantom("a", 60)}, workers=1) as grid:
        message = train_message(STUDY)
        arrays = record_of({**message.content.array_records["arrays"], **to_array_record({"odd": np.zeros(1)})})
        message.content["arrays"] = arrays
        reply = reply_to(grid, message)
    assert "odd" in (reply.error.reason or "")


def test_closing_leaves_no_worker_and_no_descriptor(tmp_path: Path) -> None:
    with EmbeddedGrid(SITES, workers=1) as grid:  # the fork server itself stays: it is multiprocessing's
        run(grid, tmp_path / "warm")
    gc.collect()  # a mapped reply holds a descriptor until it goes
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - listed, not walked
    with EmbeddedGrid(SITES, workers=2) as grid:
        pids = grid.worker_pids()
        run(grid, tmp_path / "counted")
    assert all(not Path(f"/proc/{pid}").exists() for pid in pids)
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before  # noqa: PTH208
    grid.close()


def test_a_killed_run_leaves_no_process(tmp_path: Path) -> None:
    script = (
        "from fedward_simulations.grid import EmbeddedGrid\n"
        "from fedward_simulations.phantoms import OpenPhantom\n"
        "import time\n"
        "if __name__ == '__main__':\n"
        "    grid = EmbeddedGrid({'a': OpenPhantom('a', 20)}, workers=2)\n"
        "    print(*grid.worker_pids(), flush=True)\n"
        "    time.sleep(600)\n"
    )
    file = tmp_path / "killed.py"
    file.write_text(script)
    parent = subprocess.Popen([sys.executable, str(file)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pids = [int(word) for word in parent.stdout.readline().split()]
    assert len(pids) == 2
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while any(_runs(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(_runs(pid) for pid in pids)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_no_hospital_is_refused() -> None:
    with pytest.raises(RunError, match="no hospital"):
        EmbeddedGrid({}, workers=1)


def test_shared_blocks_hold_what_was_written_and_go_with_their_last_user() -> None:
    arrays: dict[str, np.ndarray[Any, Any]] = {
        "w": np.arange(5, dtype=np.float32),
        "empty": np.zeros((0, 3), np.float32),
        "n": np.asarray(3, np.int64),
    }
    record = to_array_record(arrays)
    back = read_block(write_block(record))
    assert {name: array.numpy().tolist() for name, array in back.items()} == {n: a.tolist() for n, a in arrays.items()}
    pool = BlockPool()
    pool.retain(record)
    pool.retain(record)
    descriptor = pool.block(record)
    assert pool.block(record) == descriptor
    pool.release(record)
    os.fstat(descriptor)
    pool.release(record)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_a_closed_grid_ends_every_wait() -> None:
    grid = EmbeddedGrid({"a": OpenPhantom("a", 60)}, workers=1)
    grid.close()
    with pytest.raises(RunError, match="stopped"):
        grid.push_messages([train_message(STUDY)])
    with pytest.raises(RunError, match="stopped"):
        grid.pull_messages(["embedded-1"])


def test_a_listener_that_fails_ends_the_wait_with_its_error() -> None:
    def broken(_event: Event) -> None:
        raise ZeroDivisionError

    with EmbeddedGrid({"a": OpenPhantom("a", 60)}, workers=1, listener=broken) as grid:
        with pytest.raises(RunError, match="log says where") as caught:
            grid.send_and_receive([train_message(STUDY)], timeout=LIMIT_S)
        assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_replys_memory_is_used_again_once_nobody_reads_it() -> None:
    blocks, writer = ReplyBlocks(), ReplyWriter()

    def reply(*values: float) -> np.ndarray[Any, Any]:
        block = blocks.take()
        writer.write(block.descriptor, {"w": np.array(values), "n": np.array(7)})
        return from_array_record(blocks.read(block))["w"]

    first = reply(1, 2, 3)
    second = reply(4, 5, 6)  # the first is still read
    assert (first.tolist(), second.tolist()) == ([1, 2, 3], [4, 5, 6])
    place = first.__array_interface__["data"][0]
    part = first[1:]
    del first
    third = reply(7, 8, 9)
    assert part.tolist() == [2, 3]
    del part
    fourth = reply(*range(3))
    assert fourth.__array_interface__["data"][0] == place
    assert third.tolist() == [7, 8, 9]
    longer = reply(*range(10_000))  # a block grows with what is written into it
    assert longer[-1] == 9999
    blocks.close()
    assert (third.tolist(), longer[1]) == ([7, 8, 9], 1)  # what is read stays


def test_closing_gives_a_replys_memory_back_when_it_was_read() -> None:
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - listed, not walked
    blocks, writer = ReplyBlocks(), ReplyWriter()
    held = []
    for value in range(6):
        block = blocks.take()
        writer.write(block.descriptor, {"w": np.full(5, value)})
        held.append(from_array_record(blocks.read(block))["w"])
    assert [int(one[0]) for one in held] == list(range(6))
    blocks.close()
    del held, writer, block
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
