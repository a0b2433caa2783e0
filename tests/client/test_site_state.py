"""What a site keeps between rounds: the last two, whole or passed over, another run's never, old runs removed."""

import os
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedward_client.site_state import KEPT, UNTOUCHED_S, RunState, read, write
from fedward_common.testing import tiny_study

STUDY = tiny_study()


def arrays(number: int) -> dict[str, np.ndarray]:
    return {
        "a/b": np.full((2, 3), number, np.float32),
        "scalar": np.asarray(number, np.int64),
        "empty": np.zeros((0, 4), np.float64),
        "bytes": np.arange(5, dtype=np.uint8),
    }


def same(one: dict[str, np.ndarray], two: dict[str, np.ndarray]) -> bool:
    return one.keys() == two.keys() and all(
        np.array_equal(one[n], two[n]) and one[n].dtype == two[n].dtype and one[n].shape == two[n].shape for n in one
    )


def test_a_round_begins_with_what_the_last_one_before_it_left(tmp_path: Path) -> None:
    state = RunState.of(tmp_path, STUDY, "run-1")
    assert state.load("control") == {}
    for number in (1, 4, 5):
        state.save("control", number, arrays(number))
    assert same(state.load("control"), arrays(5))
    assert same(state.load("control", before=6), arrays(5))
    assert same(state.load("control", before=5), arrays(4)), "round 5 again begins where it began before"
    assert state.load("control", before=4) == {}, "only the last two are kept"
    assert state.load("personal") == {}
    assert RunState.of(tmp_path, STUDY, "run-2").load("control") == {}
    assert RunState.of(tmp_path, tiny_study(training={"seed": 1}), "run-1").load("control") == {}


def test_training_a_round_again_drops_what_came_after_it(tmp_path: Path) -> None:
    state = RunState.of(tmp_path, STUDY, "run-1")
    for number in (3, 4, 5, 4):
        state.save("control", number, arrays(number))
    assert same(state.load("control"), arrays(4))
    assert len(list(state.folder.iterdir())) <= KEPT


def test_nothing_is_made_before_something_is_kept(tmp_path: Path) -> None:
    state = RunState.of(tmp_path / "rounds", STUDY, "run-1")
    state.load("control")
    state.settle(1)
    assert state.journal("model", 1).load() is None
    assert not (tmp_path / "rounds").exists()


@pytest.mark.parametrize("change", ["cut", "empty", "flipped", "notes"])
def test_a_torn_file_is_passed_over(tmp_path: Path, change: str) -> None:
    state = RunState.of(tmp_path, STUDY, "run-1")
    state.save("control", 1, arrays(1))
    state.save("control", 2, arrays(2))
    path = state.folder / "000002-control.safetensors"
    data = path.read_bytes()
    broken = {
        "cut": data[:-1],
        "empty": b"",
        "flipped": data[:-1] + bytes([data[-1] ^ 1]),
        "notes": data.replace(b'{\\"round\\": 2}', b'{\\"round\\": 3}'),
    }[change]
    assert broken != data
    path.write_bytes(broken)
    assert same(state.load("control"), arrays(1))


def test_a_journal_is_written_over_and_goes_when_its_round_is_answered(tmp_path: Path) -> None:
    state = RunState.of(tmp_path, STUDY, "run-1")
    for number in (3, 4):
        journal = state.journal("model", number)
        journal.save(arrays(1), {"epoch": 1})
        journal.save(arrays(2), {"epoch": 2, "began_with": "x"})
        found = journal.load()
        assert found is not None
        assert same(found[0], arrays(2))
        assert found[1] == {"epoch": 2, "began_with": "x"}
    (state.folder / ".writing-abc").write_bytes(b"of a killed process")
    state.save("control", 3, arrays(3))
    state.settle(3)
    assert sorted(path.name for path in state.folder.iterdir()) == [
        "000003-control.safetensors",
        "000004-model.journal",
    ]


def test_only_the_owner_may_read_it(tmp_path: Path) -> None:
    state = RunState.of(tmp_path / "rounds", STUDY, "run-1")
    state.save("control", 1, arrays(1))
    assert state.folder.stat().st_mode & 0o777 == 0o700
    assert (state.folder / "000001-control.safetensors").stat().st_mode & 0o077 == 0


def test_a_run_untouched_for_30_days_is_removed_when_another_begins(tmp_path: Path) -> None:
    old, newer = RunState.of(tmp_path, STUDY, "old"), RunState.of(tmp_path, tiny_study(training={"seed": 3}), "newer")
    for state, age in ((old, UNTOUCHED_S + 60), (newer, UNTOUCHED_S - 60)):
        state.save("control", 1, arrays(1))
        then = time.time() - age
        os.utime(state.folder, (then, then))
    RunState.of(tmp_path, tiny_study(training={"seed": 4}), "begins").save("control", 1, arrays(1))
    assert not old.folder.parent.exists()
    assert same(newer.load("control"), arrays(1))


@settings(max_examples=60)
@given(data=st.data())
def test_whatever_is_cut_or_changed_is_noticed(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("torn") / "000001-control.safetensors"
    write(path, arrays(7), {"round": 1}, durably=False)
    whole = path.read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    other = bytes([whole[place] ^ data.draw(st.integers(1, 255))])
    path.write_bytes(data.draw(st.sampled_from([whole[:place], whole[:place] + other + whole[place + 1 :]])))
    found = read(path)
    assert found is None or (same(found[0], arrays(7)) and found[1] == {"round": 1})
