"""A hub and two hospitals on three machines, as far as a kernel can tell: namespaces with cables between them.

Each has a network of its own, and the hospitals reach the hub's one address and nothing else. Everything is what people
would start: nginx, the SuperLink, the API, each site's two processes behind their walls.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fedward_client.site import Site
from fedward_common import __version__
from fedward_common.study import SiteEntry, load
from fedward_common.testing import tiny_study
from fedward_server.approvals import Approvals
from fedward_server.events import RunEvent
from fedward_server.hub import Hub
from fedward_server.hub_settings import METRICS_PORT, SETTINGS
from fedward_server.journal import FILE as EVENTS
from fedward_server.journal import Journal
from fedward_server.locks import held
from fedward_server.models import Registry
from fedward_server.result import RunResult
from fedward_server.runs import ENGINE, LOCK
from fedward_server.statuses import Statuses
from fedward_server.testing import Ground as Pages
from fedward_simulations.federation import Federation, background
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
rounds = 2
batch_size = 16
optimizer = { name = "adamw", lr = 0.003 }
[strategy]
min_sites = 2
[evaluation]
local_baseline = false
"""
HUB_ADDRESS, GATEWAY_PORT, SUPERLINK_PORT = "10.77.0.1", 443, 9092
SITES = {"north": 1, "valley": 2}  # each on a cable of its own to the hub: 10.77.N.2 there, 10.77.N.1 here
FEDWARD = [sys.executable, "-m", "fedward_common"]

pytestmark = pytest.mark.timeout(900)


def wait_until(there: Callable[[], bool], limit_s: float = 120) -> None:
    deadline = time.monotonic() + limit_s
    while not there():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


# Machines ------------------------------------------------------------------------------------------------------------


def machine(name: str) -> str:
    """The name of a namespace of this process."""
    return f"fedward-{os.getpid()}-{name}"


def on(name: str, *command: str | Path) -> list[str]:
    """A command on one of the machines."""
    return ["ip", "netns", "exec", machine(name), *map(str, command)]


def ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"this test makes networks, which needs root's rights: {done.stderr}"


@contextmanager
def machines() -> Iterator[None]:
    with ExitStack() as stack:
        for name in ("hub", *SITES):
            ip("netns", "add", machine(name))
            stack.callback(ip, "netns", "delete", machine(name))
            ip("-n", machine(name), "link", "set", "lo", "up")
        ip("-n", machine("hub"), "address", "add", f"{HUB_ADDRESS}/32", "dev", "lo")
        for name, number in SITES.items():
            ip("-n", machine("hub"), "link", "add", name, "type", "veth", "peer", "hub", "netns", machine(name))
            for place, cable, end in ((machine("hub"), name, 1), (machine(name), "hub", 2)):
                ip("-n", place, "address", "add", f"10.77.{number}.{end}/24", "dev", cable)
                ip("-n", place, "link", "set", cable, "up")
            ip("-n", machine(name), "route", "add", "default", "via", f"10.77.{number}.1")
        yield


# The ground ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ground:
    hub: Hub
    sites: dict[str, Site]
    planted: dict[str, PlantedHospital]
    study: Path

    def fedward(self, name: str, *words: str | Path) -> "subprocess.CompletedProcess[str]":
        """A command of a person on one of the machines."""
        done = subprocess.run(on(name, *FEDWARD, *words), capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr
        return done

    def site(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(
            self.fedward(name, "site", "status", self.sites[name].folder, "--json").stdout
        )
        return found


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    folder = tmp_path_factory.mktemp("network")
    (folder / "study.toml").write_text(STUDY)
    planted = {each.name: each for each in plant(folder / "hospitals", limit=40) if each.name in SITES}
    address = f"{HUB_ADDRESS}:{GATEWAY_PORT}"
    hub = Hub.init(folder / "hub", name="alliance", port=SUPERLINK_PORT, address=address, root=folder / "root")
    with (hub.folder / SETTINGS).open("a") as settings:
        settings.write(f'\n[metrics]\nlisten = "127.0.0.1:{METRICS_PORT}"\n')
    hub = Hub.open(hub.folder)
    ground = Ground(
        hub, {name: Site.open(each.folder) for name, each in planted.items()}, planted, folder / "study.toml"
    )
    with machines(), ExitStack() as daemons:
        daemons.enter_context(background(on("hub", *FEDWARD, "hub", "up", hub.folder), folder / "hub.out"))
        wait_until(lambda: json.loads(ground.fedward("hub", "hub", "status", hub.folder, "--json").stdout)["up"])
        for name, site in ground.sites.items():
            invited = json.loads(ground.fedward("hub", "hub", "invite", hub.folder, name, "--json").stdout)
            asked = [name, "site", "join", site.folder, invited["code"], "--json"]
            shown = json.loads(ground.fedward(*asked, "--no-wait").stdout)
            assert not shown["joined"]
            waiting = json.loads(ground.fedward("hub", "hub", "status", hub.folder, "--json").stdout)["waiting"]
            assert [each["fingerprint"] for each in waiting] == [shown["fingerprint"]]  # what the two compare
            ground.fedward("hub", "hub", "approve", hub.folder, name, "--yes")
            assert json.loads(ground.fedward(*asked).stdout)["joined"]
            up = on(name, *FEDWARD, "site", "up", site.folder)
            daemons.enter_context(background(up, folder / f"{name}.out"))
        wait_until(lambda: all(ground.site(name)["link"]["state"] == "connected" for name in SITES))
        yield ground


def run_of(ground: Ground, study: Path) -> RunResult:
    """A study that went through the gateway."""
    names = sorted(SITES)
    Federation(ground.hub, ground.sites, {}, isolated=True).approve(load(study), names=names)
    sites = [word for name in names for word in ("--site", name)]
    ground.fedward("hub", "study", "start", study, "--hub", ground.hub.folder, *sites, "--wait", "120")
    return RunResult.read(max(ground.hub.runs.iterdir(), key=lambda folder: folder.name[-22:]))


@pytest.fixture(scope="module")
def finished(ground: Ground) -> RunResult:
    return run_of(ground, ground.study)


# What they find -------------------------------------------------------------------------------------------------------


def test_a_study_an_approval_a_status_and_a_refusal_find_their_way(ground: Ground) -> None:
    """Of a run that asks its site nothing by Flower."""
    run, site = "tiny-20200131T100000-abcdef", ground.sites["north"]
    with ground.hub.store() as store:
        entry = SiteEntry(name="north", fingerprint=store.sites()["north"].fingerprint)
        study = tiny_study().model_copy(update={"sites": (entry,)})

        def answered(state: str) -> bool:
            found = Approvals(store).of(study.digest)
            return "north" in found and found["north"].state == state

        store.start_run(run, study.study.id, study.digest, study.canonical_json().decode(), ENGINE)
        (ground.hub.runs / run).mkdir()
        with held(ground.hub.runs / run / LOCK):
            Journal(ground.hub.runs / run)(
                RunEvent(kind="refused", run=run, round=1, rounds=2, site="north", note="NaN in its update")
            )
            wait_until(lambda: answered("awaiting"))
            shown = ground.site("north")
            assert [each["digest"] for each in shown["waiting"]] == [study.digest]
            [told] = shown["quarantined"]
            assert (told["run"], told["reason"]) == (run, "round 1 went on without this site: NaN in its update")
            ground.fedward("north", "site", "approve", site.folder, "tiny", "--yes")
            wait_until(lambda: answered("approved"))
            store.finish_run(run, "stopped", None)
        wait_until(lambda: Statuses(store).all().keys() == SITES.keys())  # a site tells it when its data side answers
        found = Statuses(store).all()
        assert {(each.status.fedward, each.status.state) for each in found.values()} == {(__version__, "idle")}
        assert Approvals(store).of_site("valley") == {}
        assert shown["told"]["status"]["state"] == "idle"
    log = (ground.hub.logs / "gateway.log").read_text()
    assert "site=north GET /v1/site/studies 200" in log
    assert "/v1/site/studies 304" not in log
    assert "/v1/site/status 204" not in log


def test_a_study_runs_through_the_gateway(finished: RunResult) -> None:
    assert sorted(finished.sites) == sorted(SITES)
    assert all(found.test is not None for found in finished.sites.values())


def test_stewards_answers_to_the_run_are_at_the_hub(ground: Ground, finished: RunResult) -> None:
    with ground.hub.store() as store:
        wait_until(lambda: Approvals(store).of(finished.study.digest).keys() == SITES.keys())
        assert {each.state for each in Approvals(store).of(finished.study.digest).values()} == {"approved"}


def test_a_large_model_travels_in_chunks_beside_its_messages(ground: Ground, finished: RunResult) -> None:
    study = ground.study.with_name("large.toml")
    study.write_text(STUDY.replace("small-cnn", "resnet18"))
    result = run_of(ground, study)
    assert all(found.test is not None for found in result.sites.values())
    lines = (ground.hub.logs / "gateway.log").read_text().splitlines()
    for name in SITES:
        own = [line.split() for line in lines if f"site={name} " in line and "/v1/bulk/" in line]
        fetched = [path for _, _, method, path, status, *_ in own if (method, status) == ("GET", "200")]
        put = [path for _, _, method, path, status, *_ in own if (method, status) == ("PUT", "201")]
        assert len(set(fetched)) >= 3 * 9  # two rounds and the end: three models, of 43 MB each
        assert len(put) >= 2 * 9
        assert all(path.startswith(f"/v1/bulk/up/{name}/") for path in put)
        assert max(int(line[5].removeprefix("in=")) for line in own if line[2] == "PUT") > 5 * 2**20
    assert not [path for path in (ground.hub.folder / "bulk").rglob("*") if path.is_file()]  # nothing is left of it


@pytest.mark.long  # the hub waits 20 s before it takes a site for gone
def test_what_was_sent_before_a_cut_is_not_sent_again_when_the_hub_asks_anew(ground: Ground) -> None:
    study = ground.study.with_name("cut.toml")
    study.write_text(STUDY.replace("small-cnn", "resnet18").replace('"tiny-ultrasound"', '"cut"'))
    sent, log = ground.hub.folder / "bulk" / "up" / "valley", ground.hub.logs / "gateway.log"
    begin = log.stat().st_size
    with ThreadPoolExecutor(1) as other:
        ends = other.submit(run_of, ground, study)
        deadline = time.monotonic() + 120
        while len(list(sent.glob("*/*/*"))) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        ip("-n", machine("hub"), "link", "set", "valley", "down")
        before = {path.name for path in sent.glob("*/*/*")}
        time.sleep(35)
        ip("-n", machine("hub"), "link", "set", "valley", "up")
        result = ends.result(300)
    assert all(found.test is not None for found in result.sites.values())
    lines = [line.split() for line in log.read_text()[begin:].splitlines() if "site=valley PUT /v1/bulk/" in line]
    put = Counter(line[3].rpartition("/")[2] for line in lines if line[4] in {"201", "204"})
    assert 3 <= len(before) < 9
    assert before <= put.keys()
    assert sum(put.values()) <= len(put) + 1  # the one that was in hand
    events = (ground.hub.runs / result.run / EVENTS).read_text()
    assert "is back and is asked again" in events


PROBE = """
import json, socket, ssl, sys
found = {}
for place in json.loads(sys.argv[1]):
    try:
        with socket.create_connection(tuple(place), timeout=3):
            found[f"{place[0]}:{place[1]}"] = "open"
    except OSError as error:
        found[f"{place[0]}:{place[1]}"] = type(error).__name__
print(json.dumps(found))
"""


def reach(name: str, *places: tuple[str, int]) -> dict[str, str]:
    """What a machine finds at addresses and ports."""
    command = on(name, sys.executable, "-c", PROBE, json.dumps(places))
    found: dict[str, str] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return found


def test_the_gateway_is_all_that_a_hospital_reaches(ground: Ground) -> None:
    listening = subprocess.run(on("hub", "ss", "-Htln"), capture_output=True, text=True, check=True).stdout
    ports = {int(line.split()[3].rpartition(":")[2]) for line in listening.splitlines()}
    assert {GATEWAY_PORT, SUPERLINK_PORT, METRICS_PORT} <= ports
    for name, number in SITES.items():
        [other] = {f"10.77.{each}.2" for each in SITES.values() if each != number}
        hub = [(HUB_ADDRESS, port) for port in sorted(ports)] + [(f"10.77.{number}.1", port) for port in sorted(ports)]
        found = reach(name, *hub, (other, 22))
        reached = {place for place, how in found.items() if how == "open"}
        assert reached == {f"{HUB_ADDRESS}:{GATEWAY_PORT}", f"10.77.{number}.1:{GATEWAY_PORT}"}


def test_no_file_of_the_hubs_holds_an_identifier(ground: Ground, finished: RunResult) -> None:
    identifiers = frozenset().union(*(each.identifiers for each in ground.planted.values()))
    files = [path for path in ground.hub.folder.rglob("*") if path.is_file()]
    assert {"gateway.log", "gateway-errors.log", "api.log", "store.sqlite", "hub.log"} <= {path.name for path in files}
    for path in files:
        assert not identifiers_in(path.name.encode() + b" " + path.read_bytes(), identifiers), path.name


def test_no_page_shows_an_identifier_nor_a_steward_another_hospital(
    ground: Ground, finished: RunResult, tmp_path: Path
) -> None:
    identifiers = frozenset().union(*(each.identifiers for each in ground.planted.values()))
    api = [
        f"/api/v1{path}" for path in ("/overview", "/runs", f"/runs/{finished.run}", f"/runs/{finished.run}/results")
    ]
    Registry(ground.hub).add_run("breast-2026", finished.run)
    with ground.hub.store() as store:
        pages = Pages(ground.hub, store, tmp_path)
        seen = pages.person("ida", "auditor").crawls("/", *api)
        for page in (
            "/",
            "/sites",
            f"/runs/{finished.run}",
            f"/runs/{finished.run}/results",
            "/models/breast-2026",
            "/audit",
        ):
            assert page in seen
        for path, content in seen.items():
            assert not identifiers_in(path.encode() + b" " + content, identifiers), path
        other, row = "valley", store.sites()["valley"]
        own = pages.person("sten", "steward", "north").crawls("/", *api)
        assert f"/runs/{finished.run}/results" in own
        assert f"/runs/{finished.run}/figures/gains.svg" in own
        studies = {path for path in own if re.fullmatch(r"/api/v1/runs/[^/]+/study", path)}
        assert f"/api/v1/runs/{finished.run}/study" in studies
        for path in ("/models/breast-2026/file", *studies):
            taken = own.pop(path)  # holds the study, with the roster that his hospital approved
            assert not identifiers_in(taken, identifiers)
        for path, content in own.items():
            for hidden in (other, row.fingerprint[:16], row.node_key.split()[1][:40]):
                assert hidden.encode() not in path.encode() + content, (path, hidden)


def test_a_hospital_that_is_forgotten_is_out_and_the_other_stays(ground: Ground, finished: RunResult) -> None:
    before = ground.site("valley")["link"]
    ground.fedward("hub", "hub", "forget", ground.hub.folder, "north")
    wait_until(lambda: "does not accept this site's certificate" in ground.site("north")["link"]["reason"])
    after = ground.site("valley")["link"]
    assert (after["state"], after["since"], after["pid"]) == ("connected", before["since"], before["pid"])


def test_a_site_that_is_up_goes_on_with_the_certificate_of_another_code(ground: Ground, finished: RunResult) -> None:
    """The one before counts no more, so its network side has to be another process."""
    del finished
    before = ground.site("valley")["link"]["pid"]
    invited = json.loads(ground.fedward("hub", "hub", "invite", ground.hub.folder, "valley", "--json").stdout)
    asked = ["valley", "site", "join", ground.sites["valley"].folder, invited["code"], "--json"]
    ground.fedward(*asked, "--no-wait")
    ground.fedward("hub", "hub", "approve", ground.hub.folder, "valley", "--yes")
    assert json.loads(ground.fedward(*asked).stdout)["joined"]

    def again() -> bool:
        link = ground.site("valley")["link"]
        return bool(link["state"] == "connected" and link["pid"] != before)

    wait_until(again)
