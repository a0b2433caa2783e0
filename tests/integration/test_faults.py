"""A network that is away, disks that are full, a clock that is wrong: the run goes on, and ends with the same bits.

One federation has it all: north reaches the hub through a relay and has its folder on a small disk of its own, the
hub has another, and the clock of valley's network side is ten minutes ahead.
"""

import os
import select
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fedward_client.member import LINK_STATUS, read_json
from fedward_client.site import SETTINGS
from fedward_common import pki
from fedward_common.cards import HubCard
from fedward_common.study import StudySpec, load
from fedward_server import runs
from fedward_server.hub import Hub
from fedward_server.superlink import HOST, free_port
from fedward_simulations.faults import Watched, wait_until
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
rounds = 3
local_epochs = 12
batch_size = 8
optimizer = { name = "adamw", lr = 0.003 }
[strategy]
min_sites = 2
"""
CUT_S = 30.0
AHEAD_S = 600
FULL_S = 15.0  # how long a disk stays full
DISK = "64m"
# What Python tells of the time in valley's network side, which signs with it. The data side is left alone: it speaks to
# nobody outside, and gRPC's servers hold Python's clock against the machine's.
CLOCK = f"""
import datetime, sys, time
if "supernode" in sys.orig_argv and any("valley" in word for word in sys.orig_argv):
    real_time, real_time_ns, Real = time.time, time.time_ns, datetime.datetime
    time.time = lambda: real_time() + {AHEAD_S}
    time.time_ns = lambda: real_time_ns() + {AHEAD_S} * 10**9

    class Kind(type):
        def __instancecheck__(cls, each):
            return isinstance(each, Real)

    class Ahead(Real, metaclass=Kind):
        @classmethod
        def now(cls, tz=None):
            return Real.now(tz) + datetime.timedelta(seconds={AHEAD_S})

    datetime.datetime = Ahead
"""

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


# What is in the way --------------------------------------------------------------------------------------------------


@dataclass
class Relay:
    """Passes on what comes to a port of loopback, unless it is cut: then it ends what is open, and takes nothing."""

    target: int
    port: int = field(default_factory=free_port)
    _pairs: list[tuple[socket.socket, socket.socket]] = field(default_factory=list)
    _listening: socket.socket | None = None

    def __enter__(self) -> "Relay":
        self.mend()
        return self

    def __exit__(self, *_error: object) -> None:
        self.cut()

    def mend(self) -> None:
        self._listening = socket.create_server((HOST, self.port))
        threading.Thread(target=self._accept, args=(self._listening,), daemon=True).start()

    def cut(self) -> None:
        assert self._listening is not None
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for each in [each for pair in self._pairs for each in pair]:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self._pairs.clear()

    def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                near, _ = listening.accept()
            except OSError:
                return
            try:
                far = socket.create_connection((HOST, self.target))
            except OSError:
                near.close()
                continue
            self._pairs.append((near, far))
            threading.Thread(target=_pass_on, args=(near, far), daemon=True).start()


def _pass_on(near: socket.socket, far: socket.socket) -> None:
    with near, far, suppress(OSError):
        while True:
            for each in select.select([near, far], [], [])[0]:
                data = each.recv(65536)
                if not data:
                    return
                (far if each is near else near).sendall(data)


@contextmanager
def small_disk() -> Iterator[Path]:
    """A disk of its own, not among pytest's folders: one that a killed test leaves would be in the way of the next."""
    folder = Path(tempfile.mkdtemp(prefix="fedward-disk-"))
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "none", str(folder)], capture_output=True, text=True, check=False
    )
    try:
        if done.returncode:
            pytest.skip(f"a small disk needs the right to mount one: {done.stderr.strip()}")
        yield folder
    finally:
        if not done.returncode:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
        folder.rmdir()


@contextmanager
def full(disk: Path) -> Iterator[None]:
    """Not a byte is left on a disk while the block runs, also where something is removed from it meanwhile."""
    filler, over = disk / "filler", threading.Event()
    with filler.open("wb", buffering=0) as file:

        def fill() -> None:
            for size in (1 << 20, 1 << 12, 1):
                with suppress(OSError):
                    while True:
                        file.write(bytes(size))

        def keep_full() -> None:
            while not over.wait(0.005):
                fill()

        fill()
        assert os.statvfs(disk).f_bavail == 0
        thread = threading.Thread(target=keep_full)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            filler.unlink()


# The ground ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ground:
    federation: Federation
    study: StudySpec
    sha256: str  # of an undisturbed run on an undisturbed federation
    relay: Relay
    site_disk: Path
    hub_disk: Path
    logs: Path


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    folder = tmp_path_factory.mktemp("faults")
    (folder / "study.toml").write_text(STUDY)
    (folder / "clock").mkdir()
    (folder / "clock" / "sitecustomize.py").write_text(CLOCK)
    study = load(folder / "study.toml")
    plain = {each.name: each.folder for each in plant(folder / "plain", limit=60) if each.name != "harbour"}
    with ExitStack() as stack:
        site_disk = stack.enter_context(small_disk())
        hub_disk = stack.enter_context(small_disk())
        places = {"north": site_disk / "north", "valley": folder / "valley"}
        for name, place in places.items():
            shutil.copytree(plain[name], place)
        settings = places["north"] / SETTINGS
        assert settings.read_text().rstrip().endswith("threads = 1")  # the last line of [limits]
        settings.write_text(settings.read_text() + "min_free_mib = 0\n")  # else its small disk counts as full
        with federation(folder / "hub", plain, logs=folder / "logs") as running:
            sha256 = running.run(study, lambda _event: None).model_sha256
        hub = Hub.init(hub_disk / "hub", name="faulty", port=free_port())
        relay = stack.enter_context(Relay(hub.port))
        card = folder / "relayed.json"
        signing = pki.load_signing_key(hub.keys / "hub.key")
        HubCard.make(hub.name, f"{HOST}:{relay.port}", hub._authority(), signing).write(card)
        monkeypatch = stack.enter_context(pytest.MonkeyPatch.context())
        monkeypatch.setenv("PYTHONPATH", str(folder / "clock"), prepend=os.pathsep)
        running = stack.enter_context(federation(hub.folder, places, logs=folder / "logs", cards={"north": card}))
        running.approve(study)
        yield Ground(running, study, sha256, relay, site_disk, hub_disk, folder / "logs")


@contextmanager
def in_training(ground: Ground) -> Iterator[Watched]:
    """A run whose site north is in the middle of its training in round 2 while the block begins; how it then ends."""
    running = ground.federation
    run = runs.start(running.hub, ground.study, wait_s=60.0).run
    watched = Watched(running, run, early="north", late="valley")
    with running.watching(watched.listen), watched.held("training", 2):
        yield watched


def test_a_clock_that_is_ten_minutes_ahead(ground: Ground) -> None:
    running = ground.federation
    skew = read_json(running.sites["valley"].link / LINK_STATUS)["skew_s"]
    assert skew == pytest.approx(-AHEAD_S, abs=5)
    assert running.run(ground.study, lambda _event: None).model_sha256 == ground.sha256


def test_a_network_that_is_away_for_half_a_minute(ground: Ground) -> None:
    with in_training(ground) as watched:
        ground.relay.cut()
        since = time.monotonic()
    status = ground.federation.sites["north"].link / LINK_STATUS
    wait_until(lambda: f"{HOST}:{ground.relay.port}" in read_json(status)["reason"], "a word of the site", look_s=0.1)
    time.sleep(CUT_S - (time.monotonic() - since))  # the fault itself, not a wait for anything
    ground.relay.mend()
    end = watched.end(240)
    assert (end.status, end.reason) == ("finished", None)
    assert end.model_sha256 == ground.sha256
    assert not watched.has("died", 1)  # the hub has nothing to do with it


def test_a_disk_that_is_full_at_a_site(ground: Ground) -> None:
    with ExitStack() as stack:
        with in_training(ground) as watched:
            stack.enter_context(full(ground.site_disk))
        since = time.monotonic()
        said = ground.logs / "north.out"  # what it told its terminal: there is no room for its status, nor for its log
        wait_until(lambda: "disk cannot be written to (No space left" in said.read_text(), "a word of it", look_s=0.1)
        time.sleep(max(0.0, FULL_S - (time.monotonic() - since)))
    end = watched.end(240)
    assert (end.status, end.reason) == ("finished", None)
    assert end.model_sha256 == ground.sha256


def test_a_disk_that_is_full_at_the_hub(ground: Ground) -> None:
    with ExitStack() as stack:
        with in_training(ground) as watched:
            stack.enter_context(full(ground.hub_disk))
        time.sleep(FULL_S)
    wait_until(lambda: watched.status().status in {"failed", "finished"}, "an end", 240, look_s=0.1)
    if watched.status().status == "failed":
        assert "free space" in str(watched.status().reason)
        runs.resume(ground.federation.hub, watched.run, wait_s=60.0)
    end = watched.end(240)
    assert (end.status, end.reason) == ("finished", None)
    assert end.model_sha256 == ground.sha256
