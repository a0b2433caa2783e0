"""Every process of a federation is killed at every point of a round: the run goes on, and ends with the same bits."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from fedward_common.study import StudySpec, load
from fedward_server import control, runs
from fedward_simulations.faults import POINTS, VICTIMS, MissedError, Point, Victim, Watched, wait_until
from fedward_simulations.federation import Federation, federation
from fedward_simulations.hospitals import plant

STUDY = """
[study]
id = "tiny-ultrasound"
task = "classification"
[cohort]
modality = "US"
labels = ["benign", "malignant"]
positive = "malignant"
min_patients = 5
[split]
shares = [0.5, 0.25, 0.25]
[input]
size = [32, 32]
[model]
name = "small-cnn"
[training]
rounds = 4
local_epochs = 12
batch_size = 8
optimizer = { name = "adamw", lr = 0.003 }
[strategy]
min_sites = 2
"""
EARLY, LATE = "north", "valley"
# of each process the point where there is most to lose, in an order in which one run meets them all; both sites work at
# once, so that one's training may have gone by when the other's was held
NASTIEST: list[tuple[Victim, Point, int]] = [
    ("supernode", "training", 2),
    ("superlink", "one answered", 3),
    ("serverapp", "saving", 3),
    ("executor", "training", 4),
    ("hub", "saved", 4),
]
ENDS_THE_RUNS_PROCESS: tuple[Victim, ...] = ("serverapp", "superlink", "hub")

pytestmark = pytest.mark.timeout(600)


@dataclass(frozen=True)
class Ground:
    """A federation whose hub comes back when it was killed, the study, and what it ends with when nothing dies."""

    federation: Federation
    study: StudySpec
    sha256: str


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    folder = tmp_path_factory.mktemp("kills")
    (folder / "study.toml").write_text(STUDY)
    folders = {each.name: each.folder for each in plant(folder / "hospitals", limit=60) if each.name in {EARLY, LATE}}
    with federation(folder / "hub", folders, logs=folder / "logs") as running:
        study = load(folder / "study.toml")
        undisturbed = running.run(study, lambda _event: None)
        try:
            yield Ground(running, study, undisturbed.model_sha256)
        finally:
            if running.hub.pid() not in (None, running.pids["hub"]):
                control.take_down(running.hub)


@pytest.mark.long
def test_five_kills_in_one_run_cost_no_bits(ground: Ground) -> None:
    running = ground.federation
    for _ in range(3):  # runs: on a busy machine a point may go by too quickly
        watched = Watched(running, runs.start(running.hub, ground.study, wait_s=60.0).run, early=EARLY, late=LATE)
        try:
            with running.watching(watched.listen):
                for victim, point, number in NASTIEST:
                    kill(watched, victim, point, [number])
            break
        except MissedError:
            runs.stop(running.hub, watched.run)
    else:
        pytest.fail("in each run a point went by too quickly")
    end = watched.end()
    assert (end.status, end.reason) == ("finished", None)
    assert end.model_sha256 == ground.sha256
    assert watched.has("finished", 4)
    assert watched.deaths == 3


@pytest.mark.long
@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("victim", VICTIMS)
def test_a_kill_costs_no_bits(ground: Ground, victim: Victim, point: Point) -> None:
    running = ground.federation
    watched = Watched(running, runs.start(running.hub, ground.study, wait_s=60.0).run, early=EARLY, late=LATE)
    with running.watching(watched.listen):
        pid = kill(watched, victim, point, [2, 3])
    end = watched.end()
    assert (end.status, end.reason) == ("finished", None)
    assert end.model_sha256 == ground.sha256
    assert watched.has("finished", 4)
    assert watched.deaths == (1 if victim in ENDS_THE_RUNS_PROCESS else 0)
    if victim in {"supernode", "executor"}:
        wait_until(lambda: watched.pid(victim, EARLY) != pid, f"another {victim}", look_s=0.1)


def kill(watched: Watched, victim: Victim, point: Point, rounds: list[int]) -> int:
    """Kill at the point of the first of these rounds where it does not go by too quickly; the process that it was."""
    for number in rounds:
        try:
            with watched.held(point, number):
                pid = watched.pid(victim, EARLY)
                os.kill(pid, signal.SIGKILL)
        except MissedError:
            continue
        if victim == "hub":
            start_again(watched.federation, pid)
        if victim in ENDS_THE_RUNS_PROCESS:
            await_another_life(watched, watched.lives)
        return pid
    raise MissedError(f"the point '{point}' went by too quickly")


def await_another_life(watched: Watched, lives: int) -> None:
    wait_until(lambda: watched.has("began", 0) and watched.lives > lives, "another life of the run")


def start_again(running: Federation, killed_pid: int) -> None:
    """What systemd does with a hub that was killed."""
    wait_until(lambda: running.hub.pid() is None, "the end of the hub's process", look_s=0.05)
    up = [str(Path(sys.executable).with_name("fedward")), "hub", "up", str(running.hub.folder), "--detach"]
    done = subprocess.run(up, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert running.hub.pid() not in {None, killed_pid}
