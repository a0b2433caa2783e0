"""A hub as its operator runs it: a real SuperLink with TLS and node authentication, sites that answer, hostile ones."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from flwr.app import Error, Message, Metadata, RecordDict
from flwr.app.message import make_message
from flwr.proto.fleet_pb2 import ActivateNodeRequest
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree, iterate_object_tree
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents, pull_objects
from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.run import RunNotRunningException
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.fleet_http_connection import http_request_response
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from fedward_common import pki
from fedward_common.audit import entries
from fedward_common.cards import SiteCard
from fedward_common.models.weights_file import NAME as START
from fedward_common.packing import unpacked
from fedward_common.records import Arrays
from fedward_common.study import StudySpec, load
from fedward_common.testing import Answerer, FakeGrid, FakeSite
from fedward_server import revival, runs
from fedward_server.hub import Hub
from fedward_server.locks import holder
from fedward_server.result import RunResult
from fedward_server.rounds import RoundEngine
from fedward_server.superlink import free_port
from fedward_server.watch import follow

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
size = [16, 16]
[model]
name = "small-cnn"
[training]
rounds = {rounds}
batch_size = 8
[strategy]
min_sites = {min_sites}
round_deadline_s = {deadline}
"""


def fedward(*arguments: str | Path, limit_s: float = 120) -> "subprocess.CompletedProcess[str]":
    command = [str(Path(sys.executable).with_name("fedward")), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=limit_s)


def wait_until(there: Callable[[], bool], limit_s: float = 60) -> None:
    deadline = time.monotonic() + limit_s
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.05)


# Sites ---------------------------------------------------------------------------------------------------------------


@dataclass
class Member:
    """A site's keys and card."""

    name: str
    folder: Path
    card: Path = field(init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)
        pki.write_private(self.node_key, pki.make_node_key())
        pki.write_private(self.folder / "signing.key", pki.make_signing_key())
        self.card = self.folder / f"{self.name}.card.json"
        line = pki.node_public_line(pki.load_node_key(self.node_key))
        SiteCard.make(self.name, line, pki.load_signing_key(self.folder / "signing.key")).write(self.card)

    @property
    def node_key(self) -> Path:
        return self.folder / "node.key"


class Node(threading.Thread):
    """A site's node on Flower's own client: pulls, answers, pushes. What it answers may change while it runs."""

    def __init__(self, hub: Hub, member: Member, answer: Answerer) -> None:
        super().__init__(daemon=True)
        self.hub, self.member, self.answer = hub, member, answer
        self.asked: list[tuple[str, int]] = []  # what, in which round
        self.leaving = threading.Event()
        self.connected = threading.Event()

    def run(self) -> None:
        key = pki.load_node_key(self.member.node_key)
        with http_request_response(
            f"127.0.0.1:{self.hub.port}",
            insecure=False,
            root_certificates=self.hub.tls.authority.read_bytes(),
            authentication_keys=(key, key.public_key()),
        ) as connection:
            _, receive, self.send, _, _, self.pull_object, self.push_object, self.confirm = connection
            self.connected.set()
            while not self.leaving.wait(0.1):
                if received := receive():
                    with suppress(RunNotRunningException):  # the run has ended, or died, before its message came here
                        self.work(*received)

    def work(self, bare: Message, tree: Any) -> None:
        run_id, number = bare.metadata.run_id, bare.metadata.message_id
        names = dict.fromkeys(each.object_id for each in iterate_object_tree(tree))
        contents = pull_objects(list(names), lambda name: self.pull_object(run_id, name), initial_backoff=0.01)
        message = inflate_object_from_contents(number, contents)
        assert isinstance(message, Message)
        message.metadata.__dict__["_message_id"] = number
        message.content = unpacked(message.content)
        self.confirm(run_id, number)
        self.asked.append((message.metadata.message_type, round_of(message)))
        reply = self.answer(message)
        if reply is not None:
            self.push(reply)

    def push(self, reply: Message, *, claims: Metadata | None = None, pieces: bool = True) -> None:
        """Send a reply; `claims` is what stands in it of itself; without `pieces`, it is announced only."""
        honest = reply.metadata
        inner = make_message(metadata=claims or honest, content=reply.content) if reply.has_content() else reply
        honest.__dict__["_message_id"] = inner.object_id
        objects = {name: each.deflate() for name, each in get_all_nested_objects(inner).items()}
        bare = make_message(metadata=honest, content=RecordDict()) if reply.has_content() else reply
        wanted, session = self.send(bare, get_object_tree(inner), 0.0)
        for name in wanted if pieces else ():
            self.push_object(honest.run_id, session, name, objects[name])

    def leave(self) -> None:
        self.leaving.set()
        self.join(30)


def round_of(message: Message) -> int:
    number = message.content.config_records["config"].get("server-round", 0)
    assert isinstance(number, int)
    return number


def shifted(amount: float) -> Callable[[Arrays], Arrays]:
    """Training that adds `amount` to every floating array."""
    return lambda arrays: {
        name: (a + np.asarray(amount, a.dtype)) if a.dtype.kind == "f" else a for name, a in arrays.items()
    }


HONEST = {
    "north": FakeSite(name="north", patients=30, update=shifted(0.25)),
    "valley": FakeSite(name="valley", patients=10, update=shifted(-0.5)),
}


# The hub -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A hub that is up, and knows three sites."""
    folder = tmp_path_factory.mktemp("federation")
    made = Hub.init(folder / "hub", name="alliance", port=free_port())
    for name in ("north", "valley", "west"):
        made.enrol(SiteCard.read(Member(name, folder / name).card))
    up = fedward("hub", "up", made.folder, "--detach")
    assert up.returncode == 0, up.stderr
    try:
        yield made
    finally:
        fedward("hub", "down", made.folder)
        assert made.pid() is None
        assert not left_of(made)


@pytest.fixture(scope="module")
def nodes(hub: Hub) -> Iterator[dict[str, Node]]:
    """The sites' nodes, connected. The one of west says that it is north."""
    TaskIdentity.task_id = TaskIdentity.run_id = 1
    TaskIdentity.node_id = 0
    sites: dict[str, Answerer] = {**HONEST, "west": FakeSite(name="north")}
    found = {name: Node(hub, member(hub, name), site) for name, site in sites.items()}
    for node in found.values():
        node.start()
    for node in found.values():
        assert node.connected.wait(30)
    yield found
    for node in found.values():
        node.leave()


@pytest.fixture(autouse=True)
def honest(nodes: dict[str, Node]) -> None:
    """Each test begins with sites that answer as they should."""
    for name, site in HONEST.items():
        nodes[name].answer = site


def member(hub: Hub, name: str) -> Member:
    found = object.__new__(Member)
    found.name, found.folder = name, hub.folder.parent / name
    return found


def left_of(hub: Hub) -> list[str]:
    """The processes that a SuperLink's start has left."""
    return [path.name for path in Path("/proc").glob("[0-9]*") if hub.link.mark.encode() in _environment(path)]


def _environment(process: Path) -> bytes:
    try:
        return (process / "environ").read_bytes()
    except OSError:
        return b""


def study(folder: Path, *, rounds: int = 2, min_sites: int = 2, deadline: float = 60.0) -> Path:
    path = folder / "study.toml"
    path.write_text(STUDY.format(rounds=rounds, min_sites=min_sites, deadline=deadline))
    return path


def in_memory(hub: Hub, run: str, folder: Path) -> RunResult:
    """The same study on a grid in memory."""
    spec = StudySpec.from_json((hub.runs / run / "study.json").read_bytes())
    return RoundEngine(
        grid=FakeGrid(dict(enumerate(HONEST.values(), 1))),
        study=spec,
        run=run,
        engine="embedded",
        folder=folder,
        on_round=lambda _row: None,
        listener=lambda _event: None,
    )()


def status_of(hub: Hub, run: str) -> str:
    with hub.store() as store:
        return store.run(run).status


def audited(hub: Hub, run: str) -> list[str]:
    return [entry.event for entry in entries(hub.folder / "audit.jsonl") if entry.data.get("run") == run]


# Tests ---------------------------------------------------------------------------------------------------------------


def test_a_run_waits_for_approval_and_ends_with_the_bits_of_a_simulation(
    hub: Hub, nodes: dict[str, Node], tmp_path: Path
) -> None:
    left = 2

    def unapproved(message: Message) -> Message | None:
        nonlocal left
        left -= 1
        if left >= 0:
            return Message(Error(code=1000, reason="waits for approval by its steward"), reply_to=message)
        return HONEST["valley"](message)

    nodes["valley"].answer = unapproved
    done = fedward("study", "start", study(tmp_path), "--hub", hub.folder, "--wait", "60", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    told = done.stderr.splitlines()
    assert told.count("valley waits for approval by its steward") == 1
    assert "west is left out: its node answered as north" in told
    assert "north is ready" in told
    assert told[-1] == "round 2 of 2 is done"
    result = RunResult.read(hub.runs / found["run"])
    assert found["figures"] == str(hub.runs / found["run"] / "run.json")
    assert result.left_out == ("west: its node answered as north",)
    assert found["model_sha256"] == in_memory(hub, found["run"], tmp_path / "memory").model_sha256
    assert audited(hub, found["run"]) == ["run started", "run finished"]
    spec = StudySpec.from_json((hub.runs / found["run"] / "study.json").read_bytes())
    assert [(site.name, site.fingerprint is not None) for site in spec.sites] == [
        *(("north", True), ("valley", True), ("west", True))
    ]
    report = json.loads(fedward("study", "status", found["run"], "--hub", hub.folder, "--json").stdout)
    assert [row["round"] for row in report["history"]] == [1, 2]
    assert {site["name"]: site["last"] for site in report["sites"]}["west"] == "left-out"


@pytest.mark.long
def test_a_run_begins_with_the_registered_model_of_another(hub: Hub, nodes: dict[str, Node], tmp_path: Path) -> None:
    first = json.loads(fedward("study", "start", study(tmp_path, rounds=1), "--hub", hub.folder, "--json").stdout)
    added = fedward("model", "add", "pilot", "--hub", hub.folder, "--run", first["run"])
    assert added.returncode == 0, added.stderr
    second = study(tmp_path, rounds=1)
    second.write_text(second.read_text().replace('"small-cnn"', '"small-cnn"\nstart = { model = "pilot" }'))
    done = fedward("study", "start", second, "--hub", hub.folder, "--json")
    assert done.returncode == 0, done.stderr
    assert "the registered model pilot: 11 of the network's 11 arrays are taken over." in done.stderr
    run = json.loads(done.stdout)
    spec = StudySpec.from_json((hub.runs / run["run"] / "study.json").read_bytes())
    assert spec.model.start is not None
    assert spec.model.start.sha256 == first["model_sha256"]
    memory = tmp_path / "memory"
    memory.mkdir()
    (memory / START).write_bytes((hub.runs / run["run"] / START).read_bytes())
    assert run["model_sha256"] == in_memory(hub, run["run"], memory).model_sha256 != first["model_sha256"]


@pytest.mark.long
def test_hostile_and_absent_sites_cost_a_round_at_most(hub: Hub, nodes: dict[str, Node], tmp_path: Path) -> None:
    """Round 1: a reply is announced and never sent. 2: it claims to be another's. 3: the connection is lost."""
    valley, north = nodes["valley"], nodes["north"]
    site = HONEST["valley"]
    back: list[Node] = []

    def hostile(message: Message) -> Message | None:
        number, reply = round_of(message), site(message)
        assert reply is not None
        if number == 1:
            valley.push(reply, pieces=False)
            return None
        if number == 2:
            claims = copy(reply.metadata)
            claims.__dict__["_src_node_id"] = 99
            claims.__dict__["_reply_to_message_id"] = "f" * 64
            valley.push(reply, claims=claims)
            return None
        if number == 3:
            valley.leaving.set()
            again = Node(hub, valley.member, site)
            threading.Timer(3.0, again.start).start()  # a hub at work looks for it meanwhile
            back.append(again)
            return None
        return reply

    valley.answer = hostile
    row = runs.start(
        hub, load(study(tmp_path, rounds=3, min_sites=1, deadline=25.0)), names=("north", "valley"), wait_s=30.0
    )
    assert follow(hub, row.run, lambda _event: None).status == "finished"
    nodes["valley"] = back[0]
    history = RunResult.read(hub.runs / row.run).history
    assert "25 s is the limit of this study" in history[0].refused["valley"]
    assert [set(each.sites) for each in history] == [{"north"}, {"north", "valley"}, {"north", "valley"}]
    assert back[0].asked[0] == ("train", 3)
    assert north.is_alive()


@pytest.mark.long
def test_ctrl_c_leaves_the_run_and_a_stopped_one_goes_on_with_the_same_bits(
    hub: Hub, nodes: dict[str, Node], tmp_path: Path
) -> None:
    let_go = threading.Event()

    def holds(message: Message) -> Message | None:
        if round_of(message) == 3:
            let_go.wait(60)
        return HONEST["north"](message)

    nodes["north"].answer = holds
    command = [str(Path(sys.executable).with_name("fedward")), "study", "start", str(study(tmp_path, rounds=4))]
    command += ["--hub", str(hub.folder), "--site", "north", "--site", "valley"]
    starting = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert starting.stderr is not None
    while "round 2 of 4" not in (line := starting.stderr.readline()):
        assert line, "the command has ended"
    starting.send_signal(signal.SIGINT)
    _, errors = starting.communicate(timeout=30)
    assert starting.returncode == 130
    assert "The run goes on." in errors
    assert "Traceback" not in errors
    run = max(hub.runs.iterdir(), key=lambda path: path.stat().st_mtime).name
    assert status_of(hub, run) == "running"
    assert f"fedward study stop {run} --hub {hub.folder}" in " ".join(errors.split())
    stopped = fedward("study", "stop", run, "--hub", hub.folder)
    assert stopped.returncode == 0, stopped.stderr
    assert status_of(hub, run) == "stopped"
    assert holder(hub.runs / run / runs.LOCK) is None
    let_go.set()
    resumed = fedward("study", "resume", run, "--hub", hub.folder, "--json")
    assert resumed.returncode == 0, resumed.stderr
    assert "round 1 of 4" not in resumed.stderr
    assert json.loads(resumed.stdout)["model_sha256"] == in_memory(hub, run, tmp_path / "memory").model_sha256
    assert audited(hub, run) == ["run started", "run stopped", "run resumed", "run finished"]
    again = fedward("study", "resume", run, "--hub", hub.folder)
    assert again.returncode == 1
    assert f"run {run} has finished" in again.stderr


@pytest.mark.long
def test_a_run_that_dies_again_and_again_in_one_round_fails_and_says_so(
    hub: Hub, nodes: dict[str, Node], tmp_path: Path
) -> None:
    """Each time in round 2: the third is one too many. Resumed by a person, it counts anew."""
    nodes["north"].answer = lambda message: None if round_of(message) == 2 else HONEST["north"](message)
    row = runs.start(hub, load(study(tmp_path)), names=("north", "valley"), wait_s=30.0)
    lock = hub.runs / row.run / runs.LOCK
    journal = hub.runs / row.run / "events.jsonl"
    for death in range(1, revival.MOST_DEATHS + 1):
        wait_until(partial(begun, journal, 2, times=death), 180)
        process = holder(lock)
        assert process is not None
        os.kill(process, signal.SIGKILL)
    failed = follow(hub, row.run, lambda _event: None)
    assert failed.status == "failed"
    assert failed.reason is not None
    assert failed.reason.startswith("it died 3 times in a row after round 1, the last time because")
    nodes["north"].answer = HONEST["north"]
    runs.resume(hub, row.run, wait_s=60.0)
    done = follow(hub, row.run, lambda _event: None)
    assert done.status == "finished", done.reason
    assert done.model_sha256 == in_memory(hub, row.run, tmp_path / "memory").model_sha256
    assert audited(hub, row.run) == [
        *("run started", *(("run interrupted", "run resumed") * 2), "run interrupted", "run failed"),
        *("run resumed", "run finished"),
    ]
    shown = fedward("study", "status", row.run, "--hub", hub.folder).stdout
    assert shown.count(revival.PROCESS_DIED) == revival.MOST_DEATHS


def begun(journal: Path, number: int, *, times: int) -> bool:
    """Whether a round has begun so many times."""
    events = [json.loads(line) for line in journal.read_text().splitlines()] if journal.exists() else []
    return [(each["kind"], each["round"]) for each in events].count(("round", number)) == times


def test_only_enrolled_sites_connect_and_a_forgotten_one_no_more(
    hub: Hub, nodes: dict[str, Node], tmp_path: Path
) -> None:
    stranger = Member("south", tmp_path / "south")
    assert activates(hub, stranger) == 412  # Flower's answer to a key that it does not know
    found = json.loads(fedward("hub", "status", hub.folder, "--json").stdout)
    assert {site["name"]: site["connection"] for site in found["sites"]} == dict.fromkeys(nodes, "online")
    enrolled = fedward("hub", "enrol", hub.folder, stranger.card)
    assert enrolled.returncode == 0, enrolled.stderr
    assert activates(hub, stranger) == 200
    assert fedward("hub", "forget", hub.folder, "south").returncode == 0
    assert activates(hub, stranger) == 412
    again = fedward("hub", "enrol", hub.folder, stranger.card)
    assert again.returncode == 1
    assert "the node key of south was taken off this hub since it was started" in again.stderr
    assert fedward("hub", "forget", hub.folder, "south").returncode == 0


def activates(hub: Hub, member: Member) -> int:
    """The HTTP status with which the SuperLink answers a node that says that it is here."""
    key = pki.load_node_key(member.node_key)
    with FleetHttpClient.from_server_address(
        f"127.0.0.1:{hub.port}",
        False,
        hub.tls.authority.read_bytes(),
        interceptors=[
            RuntimeVersionHttpInterceptor(component_name="SuperNode"),
            NodeAuthHttpInterceptor(key, key.public_key()),
        ],
    ) as client:
        public = public_key_to_bytes(key.public_key())
        try:
            client.ActivateNode(ActivateNodeRequest(public_key=public, heartbeat_interval=30))
        except httpx.HTTPStatusError as error:
            return error.response.status_code
    return 200


@pytest.mark.long
def test_a_supervisor_that_is_killed_leaves_nothing_and_another_starts(hub: Hub, nodes: dict[str, Node]) -> None:
    for node in nodes.values():  # Flower's own node ends its process when a SuperLink does not know it yet: this one
        node.leave()
    pid = hub.pid()
    assert pid is not None
    assert left_of(hub)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not left_of(hub))
    assert hub.pid() is None
    refused = fedward("study", "start", "breast-ultrasound", "--hub", hub.folder)
    assert refused.returncode == 1
    assert "the hub is not up: start it with" in refused.stderr
    up = fedward("hub", "up", hub.folder, "--detach")
    assert up.returncode == 0, up.stderr
    assert hub.pid() not in (pid, None)
    assert hub.link.healthy()
