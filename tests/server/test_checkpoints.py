"""Checkpoints on a real disk: whole or not there, through kills, torn files and a full disk."""

import errno
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from fedward_common.errors import CheckpointError
from fedward_common.records import model_sha256
from fedward_server.checkpoints import BEST, Checkpoint, keep_best, latest, of_round, save

STUDY = "a" * 64


def checkpoint(number: int, *, study: str = STUDY, size: int = 6) -> Checkpoint:
    return Checkpoint(
        run="run-1",
        study_digest=study,
        round=number,
        arrays={
            "z.weight": np.full((2, size // 2), number, np.float32),
            "bn.seen": np.array(number, np.int64),
            "a/b": np.zeros((0, 3)),
        },
        strategy_state={"m_t/z.weight": np.full(3, -number, np.float64), "v_t/z.weight": np.ones((2, 2)).T},
        participation=["north", "south"],
        metrics={"history": [{"round": number, "loss": 0.25, "note": "β", "none": None}]},
    )


def held(folder: Path) -> Checkpoint:
    found = latest(folder, study_digest=STUDY)
    assert found is not None
    return found


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_comes_back_as_it_was(tmp_path: Path) -> None:
    saved = checkpoint(7)
    save(tmp_path / "deep" / "run", saved)
    found = held(tmp_path / "deep" / "run")
    assert (found.run, found.study_digest, found.round) == ("run-1", STUDY, 7)
    assert (found.participation, found.metrics) == (saved.participation, saved.metrics)
    for before, after in ((saved.arrays, found.arrays), (saved.strategy_state, found.strategy_state)):
        assert list(before) == list(after)
        assert model_sha256(before) == model_sha256(after)


def test_what_is_on_disk(tmp_path: Path) -> None:
    save(tmp_path, checkpoint(7))
    assert names(tmp_path) == ["round-000007.json", "round-000007.safetensors"]
    manifest = json.loads((tmp_path / "round-000007.json").read_text())
    assert manifest["version"] == 1
    assert manifest["participation"] == ["north", "south"]
    tensors = load_file(tmp_path / "round-000007.safetensors")
    assert {"model/z.weight", "model/bn.seen", "model/a/b", "strategy/m_t/z.weight", "strategy/v_t/z.weight"} == set(
        tensors
    )


def test_a_folder_without_checkpoints(tmp_path: Path) -> None:
    assert latest(tmp_path, study_digest=STUDY) is None
    assert latest(tmp_path / "nowhere", study_digest=STUDY) is None
    save(tmp_path, checkpoint(1))
    (tmp_path / "round-000001.json").unlink()  # arrays whose JSON was never written
    assert latest(tmp_path, study_digest=STUDY) is None


def test_the_last_two_are_kept(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    for number in range(1, 5):
        save(tmp_path, checkpoint(number))
    kept = [f"round-{number:06d}.{kind}" for number in (3, 4) for kind in ("json", "safetensors")]
    assert names(tmp_path) == [*kept, "run.json"]
    assert held(tmp_path).round == 4


def test_a_round_saved_again_replaces_it_and_what_followed(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        save(tmp_path, checkpoint(number))
    save(tmp_path, checkpoint(2, size=20))
    assert held(tmp_path).arrays["z.weight"].shape == (2, 10)
    assert names(tmp_path) == ["round-000002.json", "round-000002.safetensors"]


@pytest.mark.parametrize("links", [True, False])
def test_the_best_one_stays_when_its_round_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    if not links:  # as some network disks

        def refused(_self: Path, _target: Path) -> None:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

        monkeypatch.setattr(Path, "hardlink_to", refused)
    for number in range(1, 6):
        save(tmp_path, checkpoint(number))
        if number in {1, 2}:
            keep_best(tmp_path, number)
        if number == 2:
            assert (tmp_path / BEST / "round-000002.json").samefile(tmp_path / "round-000002.json") == links
    best = held(tmp_path / BEST)
    assert (best.round, model_sha256(best.arrays)) == (2, model_sha256(checkpoint(2).arrays))
    assert model_sha256(of_round(tmp_path, 2, study_digest=STUDY).arrays) == model_sha256(best.arrays)
    assert held(tmp_path).round == 5


def test_a_best_one_that_is_not_there_is_said_and_the_one_before_stays(tmp_path: Path) -> None:
    save(tmp_path, checkpoint(1))
    keep_best(tmp_path, 1)
    with pytest.raises(CheckpointError, match=r"checkpoint of round 2 cannot be written"):
        keep_best(tmp_path, 2)
    assert held(tmp_path / BEST).round == 1


def test_what_a_killed_save_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".saving").mkdir()
    (tmp_path / ".saving" / ".tmpAbCdEf").write_bytes(b"half a model")
    save(tmp_path, checkpoint(1))
    assert names(tmp_path) == ["round-000001.json", "round-000001.safetensors"]


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def other_round(path: Path) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), "round": 1}))


def not_json(path: Path) -> None:
    path.write_bytes(b"\xff{")


TEARS = [
    ("safetensors", truncate, "SHA-256 differs"),
    ("safetensors", flip, "SHA-256 differs"),
    ("safetensors", Path.unlink, "cannot be read"),
    ("json", truncate, "not whole"),
    ("json", not_json, "not whole"),
    ("json", other_round, "its JSON is of round 1"),
]


@pytest.mark.parametrize(("kind", "tear", "reason"), TEARS)
def test_a_torn_one_is_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str, tear: Any, reason: str
) -> None:
    save(tmp_path, checkpoint(1))
    save(tmp_path, checkpoint(2))
    tear(tmp_path / f"round-000002.{kind}")
    with caplog.at_level(logging.WARNING):
        assert held(tmp_path).round == 1
    assert "round 2" in caplog.text
    assert reason in caplog.text
    save(tmp_path, checkpoint(2))
    assert held(tmp_path).round == 2


def test_all_torn(tmp_path: Path) -> None:
    for number in (1, 2):
        save(tmp_path, checkpoint(number))
        flip(tmp_path / f"round-00000{number}.safetensors")
    with pytest.raises(CheckpointError, match=r"every checkpoint in .* is torn .round 2: .* round 1: .* a new run"):
        latest(tmp_path, study_digest=STUDY)


def test_another_study(tmp_path: Path) -> None:
    save(tmp_path, checkpoint(1, study="b" * 64))
    with pytest.raises(CheckpointError, match=r"another study .digest bbbbbbbbbbbb…, not aaaaaaaaaaaa"):
        latest(tmp_path, study_digest=STUDY)


def test_a_newer_format(tmp_path: Path) -> None:
    save(tmp_path, checkpoint(1))
    path = tmp_path / "round-000001.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": 2, "more": []}))
    with pytest.raises(CheckpointError, match="format 2, this Fedward reads 1: install the version"):
        latest(tmp_path, study_digest=STUDY)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"round 1 cannot be written to .*/file: .*; put that right, then resume"):
        save(tmp_path / "file", checkpoint(1))


# A process of its own for what must not happen to this one. It prints what the test then looks at.

BUILDER = """
import os, random, resource, signal, sys, time
from pathlib import Path
import numpy as np
from fedward_common.errors import CheckpointError
from fedward_server.checkpoints import Checkpoint, latest, save

def checkpoint(number, size):
    arrays = {"w": np.full(size, number, np.float32)}
    return Checkpoint(
        run="r", study_digest="a" * 64, round=number, arrays=arrays, strategy_state={}, participation=[], metrics={}
    )

folder = Path(sys.argv[1])
"""

LIMITED = """
save(folder, checkpoint(1, 10))
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    save(folder, checkpoint(2, 100_000))
except CheckpointError as error:
    print(error)
"""

KILLED = """
def save_forever(number, said):
    while True:
        save(folder, checkpoint(number, 400_000))
        os.write(said, number.to_bytes(4, "big"))
        number += 1

moments, last = random.Random(5), 0
for _ in range(20):
    reading, said = os.pipe()
    if (child := os.fork()) == 0:
        save_forever(last + 1, said)
    os.close(said)
    committed = int.from_bytes(os.read(reading, 4), "big")  # it is in its loop now
    time.sleep(moments.uniform(0, 0.02))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while more := os.read(reading, 4):
        committed = int.from_bytes(more, "big")
    os.close(reading)
    left = ".saving" in os.listdir(folder)
    found = latest(folder, study_digest="a" * 64)
    whole = found is not None and found.arrays["w"].size == 400_000 and bool((found.arrays["w"] == found.round).all())
    print(committed, found.round if found else None, whole, left)
    last = found.round
"""


def in_a_child(script: str, folder: Path) -> str:
    command = [sys.executable, "-c", BUILDER + script, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


def test_a_full_disk_leaves_the_one_before(tmp_path: Path) -> None:
    said = in_a_child(LIMITED, tmp_path)
    assert "checkpoint of round 2 cannot be written" in said
    assert "File too large" in said
    assert "the checkpoints before it are untouched" in said
    assert held(tmp_path).round == 1
    assert names(tmp_path) == ["round-000001.json", "round-000001.safetensors"]


def test_killed_at_any_moment(tmp_path: Path) -> None:
    kills = [line.split() for line in in_a_child(KILLED, tmp_path).splitlines()]
    assert len(kills) == 20
    for committed, found, whole, _left in kills:
        assert whole == "True"
        assert int(found) in {int(committed), int(committed) + 1}  # killed after its commit, before it could say so
    assert any(left == "True" for *_, left in kills)  # some were killed in the middle of a save
    save(tmp_path, checkpoint(int(kills[-1][1]) + 1))
    assert len(names(tmp_path)) == 4
