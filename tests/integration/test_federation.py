"""A real federation: a hub with its SuperLink, three hospitals with two processes each, a study through them all."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from fedward_client import daemon, isolation
from fedward_client.member import AUDIT, CONTROL_SOCKET, WORK_SOCKET, Member, private_paths, read_json
from fedward_client.site import Site
from fedward_client.sockets import channel
from fedward_client.stubs.site_pb2 import Approval, Approved
from fedward_client.supernode import NOT_OURS
from fedward_common import audit, pki
from fedward_common.errors import RunError
from fedward_common.study import StudySpec, load, resolved
from fedward_server import runs
from fedward_server.events import RunEvent
from fedward_server.marked import end_marked
from fedward_server.result import RunResult
from fedward_server.superlink import CONNECTION, free_port
from fedward_simulations.federation import Federation, federation
from fedward_simulations.hospitals import PlantedHospital, identifiers_in, plant

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
rounds = 3
batch_size = 16
augmentation = ["flip"]
optimizer = { name = "adamw", lr = 0.003 }
[strategy]
min_sites = 3
"""
TODAY = datetime.now(UTC).date()
TEXTFILES = "textfiles"

pytestmark = pytest.mark.timeout(900)


@dataclass(frozen=True)
class Finished:
    """The first run, as everybody saw it."""

    study: StudySpec
    result: RunResult
    events: list[RunEvent] = field(default_factory=list)


def fedward(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    command = [str(Path(sys.executable).with_name("fedward")), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def wait_until(there: Callable[[], bool], limit_s: float = 60) -> None:
    deadline = time.monotonic() + limit_s
    while not there():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("federation")
    (folder / "study.toml").write_text(STUDY)
    return folder


@pytest.fixture(scope="module")
def planted(work: Path) -> list[PlantedHospital]:
    """Three hospitals, of which north tells metrics and logs for programs."""
    hospitals = plant(work / "hospitals", limit=60)
    [north] = [hospital.folder for hospital in hospitals if hospital.name == "north"]
    (work / TEXTFILES).mkdir()
    with (north / "site.toml").open("a") as settings:
        settings.write(f'\n[metrics]\ntextfile = "{work / TEXTFILES}"\n[log]\nformat = "json"\n')
    return hospitals


@pytest.fixture(scope="module")
def running(work: Path, planted: list[PlantedHospital]) -> Iterator[Federation]:
    folders = {hospital.name: hospital.folder for hospital in planted}
    with federation(work / "hub", folders, logs=work / "logs") as found:
        assert found.isolated, "this machine cannot isolate processes: CI must"
        yield found


@pytest.fixture(scope="module")
def finished(running: Federation, work: Path) -> Finished:
    events: list[RunEvent] = []
    study = load(work / "study.toml")
    return Finished(study, running.run(study, events.append), events)


def sides(running: Federation, site: str) -> dict[str, int]:
    """The pids of a site's two processes, by name."""
    found = {}
    parent = running.pids[site]
    for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        words = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
        for name in ("executor", "supernode"):
            if name.encode() in words:
                found[name] = int(child)
    return found


# One run -------------------------------------------------------------------------------------------------------------


def test_the_same_bits_as_the_embedded_engine(finished: Finished, work: Path) -> None:
    done = fedward("simulate", work / "study.toml", "--data", work / "hospitals", "--out", work / "one", "--no-pooled")
    assert done.returncode == 0, done.stderr
    assert json.loads((work / "one" / "results.json").read_text())["model_sha256"] == finished.result.model_sha256


def test_a_run_tells_what_happens(finished: Finished) -> None:
    told = [(event.kind, event.round, event.site) for event in finished.events]
    assert {("prepared", 0, name) for name in ("harbour", "north", "valley")} <= set(told)
    for number in (1, 2, 3):
        assert ("round", number, "") in told
        assert ("aggregated", number, "") in told
    assert told[-1][0] == "finished"
    assert finished.result.engine == "deployment"
    assert sorted(finished.result.sites) == ["harbour", "north", "valley"]


def test_each_message_has_a_signed_receipt(finished: Finished, running: Federation) -> None:
    for name, site in running.sites.items():
        found = [
            entry.data
            for entry in audit.entries(site.state / AUDIT, event="left")
            if entry.data["run"] == finished.result.run
        ]
        kinds = [(data["kind"], data["round"]) for data in found]
        assert kinds == [("prepare", 0), ("train", 1), ("train", 2), ("train", 3), *[("evaluate", 0)] * 3]
        for data in found[1:4]:
            assert data["array_count"] > 0
            assert data["update_norm"] > 0
            assert data["masked"] is False
        audit.verify(site.state / AUDIT, public_key=Member.open(site).key.public_key())
        shown = fedward("site", "receipts", site.folder, "--run", finished.result.run, "--json")
        assert [row["n"] for row in json.loads(shown.stdout)], shown.stderr
        checked = fedward("audit", "verify", site.state)
        assert checked.returncode == 0, (name, checked.stderr)


def test_a_changed_receipt_is_found_and_named(finished: Finished, running: Federation, tmp_path: Path) -> None:
    copy = tmp_path / AUDIT
    lines = (running.sites["north"].state / AUDIT).read_text().splitlines(keepends=True)
    place = next(n for n, line in enumerate(lines) if '"kind":"train"' in line)
    lines[place] = lines[place].replace('"update_norm":', '"update_norm":1', 1)
    copy.write_text("".join(lines))
    refused = fedward("audit", "verify", copy)
    assert refused.returncode == 1
    assert f"entry {place + 1}" in refused.stderr


def test_statistics_come_through_the_hub_with_a_receipt(finished: Finished, running: Federation, work: Path) -> None:
    """The approval is that of the study, which the stewards gave for training."""
    asked = fedward("study", "stats", work / "study.toml", "--hub", running.hub.folder, "--wait", "60", "--json")
    assert asked.returncode == 0, asked.stderr
    found = json.loads(asked.stdout)
    assert found["study_digest"] == finished.result.study.digest
    assert sorted(found["sites"]) == ["harbour", "north", "valley"]
    assert found["left_out"] == []
    assert found["pooled"]["tables"]["modality"]["cells"]["US"] == found["pooled"]["patients"]
    for name, site in running.sites.items():
        [receipt] = [e.data for e in audit.entries(site.state / AUDIT, event="left") if e.data["run"] == found["run"]]
        assert (receipt["kind"], receipt["array_count"]) == ("stats", 0), name
    shown = fedward("study", "status", found["run"], "--hub", running.hub.folder, "--json")
    assert json.loads(shown.stdout)["status"] == "finished"


def test_the_hub_has_its_own_log(finished: Finished, running: Federation) -> None:
    events = [entry.event for entry in audit.entries(running.hub.folder / "audit.jsonl")]
    assert events[:4] == ["begun", "site enrolled", "site enrolled", "site enrolled"]
    assert {"run started", "run finished"} <= set(events)
    key = pki.load_signing_key(running.hub.keys / "hub.key")
    audit.verify(running.hub.folder / "audit.jsonl", public_key=key.public_key())


def test_planted_identifiers_are_in_no_file_but_the_hospitals_own(
    finished: Finished, work: Path, planted: list[PlantedHospital]
) -> None:
    identifiers = frozenset().union(*(hospital.identifiers for hospital in planted))
    searched = 0
    for path in work.rglob("*"):
        if path.is_file() and "export" not in path.parts and path.name not in ("labels.csv", "site.toml"):
            found = identifiers_in(path.name.encode() + b" " + path.read_bytes(), identifiers)
            assert not found, f"{path.relative_to(work)} holds {sorted(found)[:3]}"
            searched += 1
    assert searched > 50


def test_a_steward_sees_what_runs(finished: Finished, running: Federation) -> None:
    shown = fedward("site", "status", running.sites["north"].folder, "--json")
    status = json.loads(shown.stdout)
    assert status["up"]
    assert status["link"]["state"] == "connected"
    assert finished.result.study.digest in {one["digest"] for one in status["approved"]}
    words = fedward("site", "status", running.sites["north"].folder).stdout
    assert "tiny-ultrasound" in words
    hub = json.loads(fedward("hub", "status", running.hub.folder, "--json").stdout)
    assert hub["up"]


def test_a_monitoring_sees_what_ran(finished: Finished, running: Federation, work: Path) -> None:
    [train] = [entry.sites["north"] for entry in finished.result.history if entry.round == 3]

    def figures() -> dict[str, float]:
        path = work / TEXTFILES / "fedward-north.prom"
        text = path.read_text() if path.exists() else ""
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        assert {sample.labels["site"] for sample in samples} <= {"north"}
        return {
            f"{sample.name.removeprefix('fedward_site_')}{sample.labels.get('kind', '')}": sample.value
            for sample in samples
        }

    # each side writes its numbers down every so many seconds
    wait_until(lambda: figures().get("answered_questions_totaltrain", 0) >= 3)
    wait_until(lambda: figures().get("sent_bytes_total", 0) > 2 * train.bytes_up)
    found = figures()
    assert (found["up"], found["link_up"], found["paused"], found["round"]) == (1, 1, 0, 3)
    assert found["received_bytes_total"] > 2 * train.bytes_down
    assert found["last_train_seconds"] == pytest.approx(train.train_seconds, rel=1e-3)


def test_logs_for_programs(finished: Finished, running: Federation) -> None:
    site = running.sites["north"]
    for path in (site.state / "executor.log", site.link / "supernode.log"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert lines
        assert all(line.keys() >= {"time", "level", "logger", "message"} for line in lines)


@pytest.mark.long
def test_a_scale_is_measured_through_the_hub_and_is_that_of_a_simulation(running: Federation, work: Path) -> None:
    path = work / "measuring.toml"
    path.write_text(STUDY.replace("rounds = 3", "rounds = 1").replace("32]", '32]\nintensity = "landmarks"'))
    result = running.run(load(path), lambda _event: None)
    assert result.scale is not None
    done = fedward("simulate", path, "--data", work / "hospitals", "--out", work / "measured", "--no-pooled")
    assert done.returncode == 0, done.stderr
    [simulated] = [RunResult.read(run.parent) for run in work.glob("measured/seed-*/federated/run.json")]
    assert (simulated.scale, simulated.model_sha256) == (result.scale, result.model_sha256)


# Walls and doors -----------------------------------------------------------------------------------------------------

OPEN = """
import os, sys
for name in sys.argv[1:]:
    try:
        shown = os.listdir(name) if os.path.isdir(name) else open(name, "rb").read(1)
    except OSError:
        continue
    if shown:
        print(name, shown)
"""
CONNECT = """
import socket, sys
for name in sys.argv[1:]:
    host, _, port = name.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=2).close()
        print(name)
    except OSError:
        pass
"""


def behind(walls: isolation.Walls, program: str, *arguments: str | Path) -> str:
    """What a program prints that runs behind a side's walls."""
    command = isolation.behind(walls, [sys.executable, "-c", program, *map(str, arguments)])
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_network_side_can_open_no_data_path(running: Federation, planted: list[PlantedHospital]) -> None:
    site = running.sites["north"]
    secret = [path for path in site.folder.rglob("*") if path.is_file() and site.link not in path.parents]
    secret = [path for path in secret if site.spool not in path.parents]
    assert len(secret) > 60
    walls = daemon.supernode_walls(site.link, site.spool, private_paths(site))
    assert behind(walls, OPEN, *secret, site.data, site.folder / "export") == ""
    assert behind(walls, OPEN, site.link) != ""  # the program can find
    for kept in (site.link, site.spool):
        assert behind(walls, OPEN, f"{kept}/../..", f"{kept}/../site.key", f"{kept}/../../labels.csv") in (
            "",
            f"{kept}/../.. ['.fedward']\n",
        )


def test_the_data_side_reaches_no_address(running: Federation) -> None:
    site = running.sites["north"]
    walls = daemon.executor_walls(site)
    hub = f"127.0.0.1:{running.hub.port}"
    assert (
        behind(walls, CONNECT, hub, f"localhost:{running.hub.port}", f"{os.uname().nodename}:{running.hub.port}") == ""
    )
    shown = subprocess.run([sys.executable, "-c", CONNECT, hub], capture_output=True, text=True, check=True).stdout
    assert shown == f"{hub}\n"  # the program can connect
    assert behind(walls, OPEN, *site.link.iterdir()) == ""


def test_the_processes_that_run_are_behind_their_walls(running: Federation) -> None:
    for name, site in running.sites.items():
        pids = sides(running, name)
        assert pids.keys() == {"executor", "supernode"}
        interfaces = Path(f"/proc/{pids['executor']}/net/dev").read_text().splitlines()[2:]
        assert [line.split(":")[0].strip() for line in interfaces] == ["lo"]
        walls = daemon.supernode_walls(site.link, site.spool, private_paths(site))
        assert isolation.reopened(walls, pids["supernode"]) == []
        for pid in pids.values():
            status = dict(
                line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line
            )
            assert status["NoNewPrivs"].strip() == "1"
            assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0


def test_approval_over_the_work_socket_is_refused(finished: Finished, running: Federation) -> None:
    site = running.sites["north"]
    study = finished.result.study.canonical_json().decode()
    with closing(channel(site.spool / WORK_SOCKET)) as connection:
        call = connection.unary_unary(
            "/fedward.site.Control/Approve",
            request_serializer=Approval.SerializeToString,
            response_deserializer=Approved.FromString,
        )
        with pytest.raises(grpc.RpcError) as refused:
            call(Approval(study=study, until="2027-01-01"), timeout=10)
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
    walls = daemon.supernode_walls(site.link, site.spool, private_paths(site))
    inner = site.state / "executor" / "control.inner"
    assert inner.exists()
    assert behind(walls, OPEN, site.state / CONTROL_SOCKET, inner) == ""


# What is refused -----------------------------------------------------------------------------------------------------


def refused_run(running: Federation, study: StudySpec, wait_s: float = 0.0) -> str:
    row = runs.start(running.hub, study, names=sorted(running.sites), wait_s=wait_s)
    with pytest.raises(RunError) as failed:
        running.follow(row, lambda _event: None)
    return str(failed.value)


def test_nothing_leaves_for_a_study_that_nobody_approved(finished: Finished, running: Federation) -> None:
    before = len(list(audit.entries(running.sites["north"].state / AUDIT, event="left")))
    changed = resolved(finished.study, seed=77)  # a changed study under an approved id
    said = refused_run(running, changed)
    for name in running.sites:
        assert f"the steward of {name} approved another version of 'tiny-ultrasound'" in said
    assert len(list(audit.entries(running.sites["north"].state / AUDIT, event="left"))) == before
    waiting = json.loads(fedward("site", "status", running.sites["north"].folder, "--json").stdout)["waiting"]
    digest = runs.resolve(running.hub, changed, names=sorted(running.sites)).digest
    assert digest in {one["digest"] for one in waiting}


def test_a_run_waits_for_stewards_who_approve_by_the_command(finished: Finished, running: Federation) -> None:
    study = resolved(finished.study.model_copy(update={"training": one_round(finished)}), seed=78)
    row = runs.start(running.hub, study, names=sorted(running.sites), wait_s=240)
    spec = runs.resolve(running.hub, study, names=sorted(running.sites))
    for site in running.sites.values():
        wait_until(partial(_waits, site, spec), 120)
        shown = fedward("site", "approve", site.folder, spec.digest, "--until", TODAY.isoformat(), "--yes")
        assert shown.returncode == 0, shown.stderr
        assert "Approved: tiny-ultrasound" in shown.stdout
    assert running.follow(row, lambda _event: None).study.digest == spec.digest


def _waits(site: Site, spec: StudySpec) -> bool:
    member = Member.open(site)
    try:
        return spec.digest in {asked["digest"] for asked in member.status()["waiting"]}
    finally:
        member.ledger.close()


def one_round(finished: Finished) -> object:
    return finished.study.training.model_copy(update={"rounds": 1})


def test_a_paused_site_is_left_out_and_says_so(finished: Finished, running: Federation) -> None:
    folder = running.sites["valley"].folder
    assert fedward("site", "pause", folder, "--reason", "the GPU is needed").returncode == 0
    try:
        assert "valley is paused by its steward since" in refused_run(running, finished.study)
    finally:
        assert fedward("site", "resume", folder).returncode == 0


def test_an_approval_that_ended_is_told(finished: Finished, running: Federation) -> None:
    study = resolved(finished.study, seed=79)
    spec = running.approve(study, names=sorted(running.sites))
    member = Member.open(running.sites["north"])
    member.ledger.approve(spec, TODAY.replace(year=TODAY.year - 1))
    assert "the approval of north ended on" in refused_run(running, study)


def test_one_daemon_a_site(running: Federation) -> None:
    second = fedward("site", "up", running.sites["north"].folder)
    assert second.returncode == 1
    assert f"another daemon (process {running.pids['north']}) serves site 'north'" in second.stderr


# What a kill costs ---------------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("side", ["executor", "supernode"])
def test_a_killed_side_costs_no_bits(finished: Finished, running: Federation, side: str) -> None:
    before = sides(running, "north")[side]
    node = read_json(running.sites["north"].link / "node.json")["node"]
    killed: list[RunEvent] = []

    def kill(event: RunEvent) -> None:
        if event.kind == "round" and event.round == 2 and not killed:
            killed.append(event)
            os.kill(sides(running, "north")[side], signal.SIGKILL)

    again = running.run(finished.study, kill)
    assert killed
    assert again.model_sha256 == finished.result.model_sha256
    assert [sorted(row.sites) for row in again.history] == [["harbour", "north", "valley"]] * 3
    wait_until(lambda: sides(running, "north").get(side, before) != before)
    assert read_json(running.sites["north"].link / "node.json")["node"] == node


# Stock parts; these come last, for they take a daemon's place ---------------------------------------------------------

STOCK_APP = """
[project]
name = "stock"
version = "1.0.0"
[tool.flwr.app]
publisher = "somebody"
fab-include = ["*.py"]
[tool.flwr.app.components]
serverapp = "stock_app:server"
clientapp = "stock_app:client"
[tool.flwr.app.config]
out = {out}
study = {study}
"""
STOCK_CODE = """
import json, pathlib, time
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
import numpy as np
from fedward_common import models
from fedward_common.records import Question, question_record, to_array_record
from fedward_common.study import StudySpec

server = ServerApp()
client = ClientApp()

@client.train()
def train(message, context):
    pathlib.Path(context.run_config["out"]).with_name("code-ran").touch()
    return Message(RecordDict({}), reply_to=message)

def words(reply):
    return reply.error.reason if reply.has_error() else reply.content.config_records["fedward"]["answer"]

@server.main()
def main(grid, context):
    study = StudySpec.from_json(pathlib.Path(context.run_config["study"]).read_bytes())
    question = question_record(Question(kind="prepare", study=study, run="stock-1"), None)
    foreign = RecordDict({"arrays": ArrayRecord([np.ones(3)]), "config": ConfigRecord({"lr": 0.1})})
    said = {}
    for name, kind, content in (("foreign", "train", foreign), ("ours", "query", question)):
        messages = [Message(content, node, kind) for node in grid.get_node_ids()]
        replies = grid.send_and_receive(messages, timeout=60)
        said[name] = [words(reply) for reply in replies]
    arrays = to_array_record(models.initial_state(study, 1))
    ask = Question(kind="train", study=study, run="stock-1")
    content = question_record(ask, arrays, ConfigRecord({"server-round": 1}))
    messages = [Message(content, node, "train") for node in grid.get_node_ids()]
    trained = [reply.content for reply in grid.send_and_receive(messages, timeout=60)]
    said["arrays"] = sorted(arrays)
    said["trained"] = [sorted(content.array_records["arrays"]) for content in trained]
    said["examples"] = [content.metric_records["metrics"]["num-examples"] for content in trained]
    out = pathlib.Path(context.run_config["out"])
    out.with_suffix(".tmp").write_text(json.dumps(said))
    out.with_suffix(".tmp").replace(out)
"""


@pytest.mark.long
def test_a_stock_app_gets_answers_to_what_is_ours_and_reasons_for_the_rest(
    finished: Finished, running: Federation, tmp_path: Path
) -> None:
    app, out, study = tmp_path / "app", tmp_path / "said.json", tmp_path / "study.json"
    app.mkdir()
    study.write_bytes(finished.result.study.canonical_json())
    config = {"out": json.dumps(str(out)), "study": json.dumps(str(study))}
    (app / "pyproject.toml").write_text(STOCK_APP.format(**config))
    (app / "stock_app.py").write_text(STOCK_CODE)
    running.hub.link.flwr("run", str(app), CONNECTION)
    wait_until(out.exists, 120)
    said = json.loads(out.read_text())
    assert said["foreign"] == [NOT_OURS] * 3
    assert sorted(json.loads(answer)["site"] for answer in said["ours"]) == ["harbour", "north", "valley"]
    assert said["trained"] == [said["arrays"]] * 3  # array by array, as it was asked: what a stock strategy reads
    assert min(said["examples"]) > 0
    assert not (tmp_path / "code-ran").exists()


@pytest.mark.long  # a process for each message, and three seconds between them
def test_a_stock_supernode_with_the_thin_bundle_gives_the_same_bits(finished: Finished, running: Federation) -> None:
    site = running.sites["north"]
    assert fedward("site", "down", site.folder).returncode == 0
    command = [
        *("flower-supernode", "--superlink", f"127.0.0.1:{running.hub.port}"),
        *("--root-certificates", str(running.hub.tls.authority)),
        *("--auth-supernode-private-key", str(site.link / "node.key")),
        *("--host", "127.0.0.1", "--port", str(free_port())),
        *("--node-config", f'site="{site.folder}"'),
    ]
    command[0] = str(Path(sys.executable).with_name(command[0]))
    environment = {**os.environ, "FLWR_HOME": str(running.hub.folder.parent / "stock"), "PATH": stock_path()}
    with (running.hub.folder.parent / "stock.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        result = running.run(finished.study, lambda _event: None)
    finally:
        end_marked(f"FLWR_HOME={environment['FLWR_HOME']}")
        process.wait(30)
    assert result.model_sha256 == finished.result.model_sha256
    receipts = audit.entries(site.state / AUDIT, event="left")
    assert [e.data["kind"] for e in receipts if e.data["run"] == result.run] == [
        *("prepare", "train", "train", "train", "evaluate", "evaluate", "evaluate")
    ]


def stock_path() -> str:
    """Flower's node starts programs of its own by name."""
    return f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
