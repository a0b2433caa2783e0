"""A site's metrics: what a real data side counts, in a file that Prometheus's own parser reads."""

import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from fedward_client.daemon import Daemon, monitor_walls
from fedward_client.daemon import textfiles as textfiles_of
from fedward_client.desk import Desk
from fedward_client.executor import Control, Work, serving
from fedward_client.handlers import Hospital
from fedward_client.isolation import behind, impossible
from fedward_client.member import HUB_CARD, TRAFFIC, Member
from fedward_client.monitoring import PREFIX, Found, look, write
from fedward_client.reporting import Reporter
from fedward_client.source import SiteSource
from fedward_client.spool import IN
from fedward_client.steward import approve, pause
from fedward_client.traffic import Traffic
from fedward_common import models
from fedward_common.errors import SettingsError
from fedward_common.records import Question, question_record
from fedward_common.study import StudySpec

MemberMaker = Callable[..., Member]
StudyMaker = Callable[..., StudySpec]

NORTH = '[site]\nname = "north"\n[policy]\noutputs = ["counts", "update", "evaluation"]\n'
COUNTED = {
    "answered": {"train": 3},
    "refused": 2,
    "round": 3,
    "train_seconds": 4.0,
    "round_seconds": 5.0,
    "work_seconds": None,
    "paused": False,
    "waiting": 1,
    "gpu_memory": (60, 80),
}


@pytest.fixture
def textfiles(tmp_path: Path) -> Path:
    folder = tmp_path / "textfiles"
    folder.mkdir()
    return folder


@pytest.fixture
def at(member: MemberMaker, textfiles: Path) -> Member:
    """A site that tells metrics."""
    return member(f'{NORTH}[metrics]\ntextfile = "{textfiles}"\n')


def desk(at: Member) -> Desk:
    outbox = at.outbox(spool=True)
    return Desk(Hospital(SiteSource(at.site), outbox.tell), outbox, at.ledger)


@contextmanager
def served(at: Member, working: Desk) -> Iterator[None]:
    work = Work(working, at.site.spool / IN, Reporter(at, working))
    with serving(at.site, work, Control(at, working, threading.Event())):
        yield


def ask(working: Desk, study: StudySpec, kind: str = "train", number: int = 1) -> str:
    """A question and its answer; the refusal."""
    question = Question.model_validate({"kind": kind, "study": study, "run": "run-1"})
    config: dict[str, Any] = {**question_record(question, None).config_records["config"], "server-round": number}
    return working.answer(config, lambda: dict(models.initial_state(study, 1)), f"{number:064x}").refusal


def read(path: Path) -> dict[str, float]:
    """The figures by name without the prefix; with a kind behind a dot."""
    found = {}
    for family in text_string_to_metric_families(path.read_text()):
        assert family.documentation
        for sample in family.samples:
            labels = dict(sample.labels)
            assert labels.pop("site") == "north"
            found[".".join([sample.name.removeprefix(PREFIX), *labels.values()])] = sample.value
    return found


def told(at: Member, textfiles: Path) -> dict[str, float]:
    write(textfiles, at.site.name, look(at.site))
    return read(textfiles / "fedward-north.prom")


# What it counts ------------------------------------------------------------------------------------------------------


def test_what_the_data_side_has_done(at: Member, textfiles: Path, roster_study: StudyMaker) -> None:
    study, working = roster_study(at, training={"local_steps": 1, "rounds": 4}), desk(at)
    with served(at, working):
        assert told(at, textfiles)["refused_questions_total"] == 0
        assert "waits for approval" in ask(working, study)
        assert told(at, textfiles)["studies_waiting"] == 1
        approve(at, study, datetime.now(UTC).date())
        assert not ask(working, study, "prepare")
        assert not ask(working, study)
        assert not ask(working, study, number=2)
        found = told(at, textfiles)
    assert (found["up"], found["paused"], found["working"], found["studies_waiting"]) == (1, 0, 0, 0)
    assert found["refused_questions_total"] == 1
    assert (found["answered_questions_total.prepare"], found["answered_questions_total.train"]) == (1, 2)
    assert found["round"] == 2
    assert 0 < found["last_train_seconds"] <= found["last_round_seconds"]
    assert 0 < found["disk_free_bytes"] < found["disk_size_bytes"]


def test_what_it_is_doing(at: Member, textfiles: Path) -> None:
    working = desk(at)
    with served(at, working):
        with working.tally.working():
            found = told(at, textfiles)
            assert found["working"] == 1
            assert found["work_seconds"] > 0
        assert told(at, textfiles)["work_seconds"] == 0
        pause(at, "the GPU of Dr Doe is needed")
        assert told(at, textfiles)["paused"] == 1
    assert "Doe" not in (textfiles / "fedward-north.prom").read_text()


def test_a_data_side_that_is_not_there(at: Member, textfiles: Path) -> None:
    found = told(at, textfiles)
    assert (found["up"], found["link_up"]) == (0, 0)
    assert "working" not in found
    assert "disk_free_bytes" in found


def test_how_the_link_is(at: Member, textfiles: Path) -> None:
    traffic = Traffic()
    traffic.passed(sent=10, received=200)
    traffic.passed(sent=1)
    (at.site.link / TRAFFIC).write_text(json.dumps(traffic.numbers()))
    found = told(at, textfiles)
    assert (found["link_up"], found["sent_bytes_total"], found["received_bytes_total"]) == (1, 11, 200)
    assert found["hub_heard_timestamp_seconds"] == pytest.approx(time.time(), abs=60)
    (at.site.link / TRAFFIC).write_text(json.dumps({**traffic.numbers(), "heard": time.time() - 60}))
    assert told(at, textfiles)["link_up"] == 0
    (at.site.link / TRAFFIC).write_text("{")
    assert "sent_bytes_total" not in told(at, textfiles)


def test_a_gpu_and_a_certificate(textfiles: Path) -> None:
    end = datetime(2027, 1, 31, tzinfo=UTC)
    write(textfiles, "north", Found(now=0, disk=(1, 2), counted=COUNTED, traffic={}, certificate_ends=end))
    found = read(textfiles / "fedward-north.prom")
    assert (found["gpu_memory_free_bytes"], found["gpu_memory_size_bytes"]) == (60, 80)
    assert found["certificate_end_timestamp_seconds"] == end.timestamp()


# The file ------------------------------------------------------------------------------------------------------------


def test_another_user_reads_it_whatever_the_umask(at: Member, textfiles: Path) -> None:
    before = os.umask(0o077)
    try:
        told(at, textfiles)
    finally:
        os.umask(before)
    [path] = textfiles.iterdir()
    assert (path.name, stat.S_IMODE(path.stat().st_mode)) == ("fedward-north.prom", 0o644)


COMMAND = [sys.executable, "-m", "fedward_common", "site", "metrics"]


@contextmanager
def monitor(command: list[str]) -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def test_the_process_behind_its_walls(at: Member, textfiles: Path) -> None:
    if (why := impossible()) is not None:
        pytest.skip(why)
    path = textfiles / "fedward-north.prom"
    with served(at, desk(at)):
        with monitor(behind(monitor_walls(textfiles), [*COMMAND, str(at.site.folder)])) as process:
            wait_for(path)
            assert read(path)["up"] == 1
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0, process.stderr.read() if process.stderr else ""
        assert read(path)["up"] == 0, "it is down, and says so while the file lies there"


def test_without_walls_it_does_not_start(at: Member, textfiles: Path) -> None:
    done = subprocess.run([*COMMAND, str(at.site.folder)], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "this process is not isolated" in done.stderr
    assert list(textfiles.iterdir()) == []


@pytest.mark.parametrize("textfile", ["nowhere", "site.toml"])
def test_a_folder_that_is_none(member: MemberMaker, textfile: str) -> None:
    at = member(f'{NORTH}[metrics]\ntextfile = "{textfile}"\n')
    (at.site.link / HUB_CARD).touch()
    with pytest.raises(SettingsError, match=r"\[metrics\] textfile is no folder that this user may write to: make it"):
        Daemon(at.site, unsafe=True).require()


@pytest.mark.parametrize("textfile", [".", "metrics", ".fedward/spool"])
def test_a_folder_of_the_hospitals(member: MemberMaker, textfile: str) -> None:
    at = member(f'{NORTH}[metrics]\ntextfile = "{textfile}"\n')
    (at.site.folder / textfile).mkdir(exist_ok=True)
    with pytest.raises(SettingsError, match=r"\[metrics\] textfile is a folder of the hospital's"):
        textfiles_of(at.site)


def test_a_site_that_tells_none(member: MemberMaker) -> None:
    at = member()
    command = [*COMMAND, str(at.site.folder), "--unsafe-no-walls"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "site 'north' tells no metrics: name a folder with [metrics] textfile in site.toml" in done.stderr


def test_a_full_disk_is_said_once(at: Member, textfiles: Path) -> None:
    (textfiles / "fedward-north.prom").mkdir()  # what it cannot replace
    with monitor([*COMMAND, str(at.site.folder), "--unsafe-no-walls"]) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        while "not written" not in line:
            assert line, "it ended"
            line = process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
        assert process.wait(30) == 0
    assert "the metrics are not written: fedward-north.prom cannot be written (Is a directory)" in line
    assert "not written" not in rest
