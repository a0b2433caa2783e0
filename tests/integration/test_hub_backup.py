"""A hub whose machine is lost in the middle of a study: restored from a backup, it goes on, behind its gateway."""

import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from fedward_common.study import load
from fedward_server import runs
from fedward_server.backup import backup, restore
from fedward_server.checkpoints import newest
from fedward_server.hub import Hub
from fedward_server.marked import end_marked
from fedward_server.store import RunRow
from fedward_simulations.federation import HUB_UP, Federation, background, federation
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
rounds = 12
batch_size = 16
optimizer = { name = "adamw", lr = 0.003 }
[strategy]
min_sites = 2
[evaluation]
local_baseline = false
"""
WORDS = "correct horse battery"

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Federation]:
    (tmp_path / "study.toml").write_text(STUDY)
    planted = {each.name: each.folder for each in plant(tmp_path / "hospitals", limit=40) if each.name != "harbour"}
    with federation(tmp_path / "hub", planted, logs=tmp_path / "logs", gateway=True) as found:
        yield found


def wait_until(there: Callable[[], bool], limit_s: float = 120) -> None:
    deadline = time.monotonic() + limit_s
    while not there():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def test_a_hub_that_is_redeployed_under_a_running_study_resumes_it(running: Federation, tmp_path: Path) -> None:
    study, hub = load(tmp_path / "study.toml"), running.hub
    undisturbed = running.run(study, lambda _event: None)
    run = runs.start(hub, study, names=sorted(running.sites), wait_s=60.0).run
    wait_until(lambda: (newest(hub.runs / run) or 0) >= 4)
    backup(hub, tmp_path / "hub.backup", WORDS, cost=4)
    os.kill(running.pids["hub"], signal.SIGKILL)  # the machine is lost, with all that ran there
    end_marked(hub.link.mark)
    port = int(hub.address.rpartition(":")[2])
    wait_until(lambda: not is_open(port))
    hub.folder.rename(tmp_path / "lost")
    restored, _ = restore(hub.folder, tmp_path / "hub.backup", WORDS)
    assert (newest(restored.runs / run) or 0) < study.training.rounds
    with background([sys.executable, "-m", *HUB_UP, str(hub.folder)], tmp_path / "logs" / "again.out"):
        wait_until(lambda: restored.pid() is not None)
        result = running.follow(runs_row(restored, run), lambda _event: None)
    assert result.model_sha256 == undisturbed.model_sha256
    shutil.rmtree(tmp_path / "lost")


def runs_row(hub: Hub, run: str) -> RunRow:
    with hub.store() as store:
        return store.run(run)


def is_open(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
        return True
    return False
