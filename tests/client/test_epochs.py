"""A round's training that is cut off goes on after its last whole epoch, with the same bits."""

import math
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fedward_client.app import simulated
from fedward_client.handlers import Hospital
from fedward_client.site_state import RunState
from fedward_client.training import epochs
from fedward_client.training.epochs import EpochJournal, Progress
from fedward_common import models
from fedward_common.events import Event
from fedward_common.records import Question, model_sha256
from fedward_common.study import StudySpec
from fedward_common.testing import tiny_study
from fedward_simulations.phantoms import PhantomSource

KILLED = """
import os, signal, sys
from pathlib import Path
from fedward_common.study import StudySpec
sys.path.insert(0, sys.argv[1])
from test_epochs import trained

study, folder, step = StudySpec.from_json(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
trained(study, folder, step, lambda: os.kill(os.getpid(), signal.SIGKILL))
"""


class CutError(Exception):
    """A training is cut off."""


def cut_off() -> None:
    raise CutError


@dataclass(frozen=True)
class Done:
    sha256: str
    loss: float
    steps: list[int]  # those that were trained, in order


def trained(
    spec: StudySpec, folder: Path | None, ends_at: int = 0, end: Callable[[], None] = cut_off, *, start: int = 1
) -> Done:
    """Round 2 of a site; `end` is called at a step, counted over all that is trained."""
    steps: list[int] = []

    def listen(event: Event) -> None:
        if event.stage == "train":
            steps.append(event.done)
            if len(steps) == ends_at:
                end()

    before, cheap = torch.get_num_threads(), epochs._CHEAP_S
    torch.set_num_threads(1)
    epochs._CHEAP_S = math.inf  # each epoch is written down, however long writing takes on a busy machine
    try:
        hospital = Hospital(PhantomSource("north", 40, 2.0, 5, folder), listen)
        question = Question(kind="train", study=spec, run="run-1", score_incoming=True)
        answer, update = hospital.train(question, models.initial_state(spec, start), round_number=2)
    finally:
        torch.set_num_threads(before)
        epochs._CHEAP_S = cheap
    return Done(model_sha256(update), answer.train_loss, steps)


def study(optimizer: str, amount: dict[str, int], **strategy: object) -> StudySpec:
    """20 training images in batches of 8: 3 steps an epoch. Dropout and augmentation draw random numbers."""
    return tiny_study(
        model={"name": "enhanced-alexnet", "options": {"width": 8}},
        training={"optimizer": {"name": optimizer, "lr": 0.01}, "augmentation": ["flip", "noise"], **amount},
        strategy=strategy,
    )


def test_a_killed_training_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    """It dies in its third epoch of four: steps 1 to 6 are written down."""
    spec, here = study("adamw", {"local_epochs": 4}), str(Path(__file__).parent)
    arguments = [here, spec.canonical_json().decode(), str(tmp_path), "8"]
    killed = subprocess.run([sys.executable, "-c", KILLED, *arguments], capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert [path.name for path in tmp_path.rglob("*.journal")] == ["000002-model.journal"]
    again, whole = trained(spec, tmp_path), trained(spec, None)
    assert (again.sha256, again.loss) == (whole.sha256, whole.loss)
    assert again.steps == whole.steps[6:]


def test_momentum_and_steps_that_end_within_an_epoch_go_on_too(tmp_path: Path) -> None:
    spec = study("sgd", {"local_steps": 8})
    with pytest.raises(CutError):
        trained(spec, tmp_path, 8)
    again, whole = trained(spec, tmp_path), trained(spec, None)
    assert (again.sha256, again.loss, again.steps) == (whole.sha256, whole.loss, [7, 8])


@pytest.mark.parametrize("change", ["cut", "another model", "before the first epoch's end"])
def test_a_journal_that_does_not_fit_is_passed_over(tmp_path: Path, change: str) -> None:
    spec = study("adamw", {"local_epochs": 3})
    with pytest.raises(CutError):
        trained(spec, tmp_path, 3 if change == "before the first epoch's end" else 5)
    for path in tmp_path.rglob("*.journal"):
        if change == "cut":
            path.write_bytes(path.read_bytes()[:-100])
    start = 2 if change == "another model" else 1
    assert trained(spec, tmp_path, start=start) == trained(spec, None, start=start)


def test_dittos_own_model_goes_on_too(tmp_path: Path) -> None:
    """9 steps for the common model, 9 for the own one; it is cut off in the own one's second epoch."""
    spec = study("adamw", {"local_epochs": 3}, name="ditto")
    trained(spec, tmp_path / "whole")
    with pytest.raises(CutError):
        trained(spec, tmp_path / "cut", 14)
    again = trained(spec, tmp_path / "cut")
    assert again.steps == [4, 5, 6, 7, 8, 9], "the common model is not trained again, the own one from its second epoch"

    def own(folder: str) -> dict[str, np.ndarray]:
        return RunState.of(tmp_path / folder / "north", spec, "run-1").load("personal")

    assert own("whole")
    assert model_sha256(own("whole")) == model_sha256(own("cut"))


def test_one_epoch_writes_nothing_and_an_answered_round_leaves_nothing(tmp_path: Path) -> None:
    hospital = Hospital(PhantomSource("north", 40, 2.0, 5, tmp_path))
    for many, files in ((1, 0), (2, 1)):
        spec = tiny_study(training={"local_epochs": many})
        question = Question(kind="train", study=spec, run="run-1")
        hospital.train(question, models.initial_state(spec, 1), round_number=1)
        assert len(list(tmp_path.rglob("*.journal"))) == files
        hospital.settle(question, 1)
        assert not list(tmp_path.rglob("*.journal"))


def test_the_desk_removes_the_journal_of_an_answered_round(tmp_path: Path) -> None:
    spec = tiny_study(training={"local_epochs": 2})
    seen: list[int] = []
    hospital = Hospital(
        PhantomSource("north", 40, 2.0, 5, tmp_path), lambda _event: seen.append(len(list(tmp_path.rglob("*.journal"))))
    )
    config = {"fedward": Question(kind="train", study=spec, run="run-1").model_dump_json(), "server-round": 1}
    reply = simulated(hospital).answer(config, lambda: models.initial_state(spec, 1))
    assert reply.answer is not None, reply.refusal
    assert seen[-1] == 1
    assert not list(tmp_path.rglob("*.journal"))


def test_what_is_costly_to_write_is_not_written_after_every_short_epoch(tmp_path: Path) -> None:
    """Four epochs of a millisecond: the first writing of 40 MB takes longer than all of them, and is the only one."""
    state = RunState.of(tmp_path, tiny_study(), "run-1")
    journal = EpochJournal(journal=state.journal("model", 1), began_with="x")
    model = nn.Linear(3200, 3200)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for epoch in (1, 2, 3, 4):
        journal.save(model, optimizer, Progress(torch.zeros((), dtype=torch.float64), epoch=epoch))
    found = journal.restore(model, optimizer)
    assert found is not None
    assert found.epoch == 1
