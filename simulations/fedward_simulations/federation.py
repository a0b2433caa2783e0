"""A whole federation on this machine: a real hub, a real daemon for each hospital, every process that there would be.

For the demo, for tests and for benchmarks. It plays all the people too: the operator who enrols, the stewards who
approve. Everything is ended with the block, and with this process however that ends.
"""

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import cast

import grpc

from fedward_client import isolation
from fedward_client.credentials import Credentials
from fedward_client.member import CONTROL_SOCKET, LINK_STATUS, SIGNING_KEY, Member, join, read_json
from fedward_client.site import Site
from fedward_client.sockets import address, channel
from fedward_client.steward import approve
from fedward_client.stubs.site_pb2 import Nothing, SiteEvent
from fedward_client.stubs.site_pb2_grpc import ControlStub
from fedward_common import pki
from fedward_common.cards import HubCard, SiteCard
from fedward_common.errors import RunError
from fedward_common.events import Event, Listener, Stage
from fedward_common.study import StudySpec
from fedward_server import runs, watch
from fedward_server.events import RunEvent
from fedward_server.hub import Hub
from fedward_server.joining import Joining
from fedward_server.result import RunResult
from fedward_server.store import UNFINISHED, RunRow
from fedward_server.superlink import HOST, free_port

START_LIMIT_S = 180.0
WAIT_S = 60.0  # for sites that are connected but not ready
END_LIMIT_S = 30.0
LOOK_S = 0.1

HUB = "hub"  # among the names of the sites
HUB_UP, SITE_UP = ("fedward_common", "hub", "up"), ("fedward_common", "site", "up")

RunListener = Callable[[RunEvent], None]
Step = Callable[[str, int, int], None]  # what is being started, how much of it is done, of how much


def no_step(_title: str, _done: int, _total: int) -> None:
    """The step of those who do not watch."""


@dataclass(frozen=True, slots=True)
class Federation:
    """A hub that is up, and sites that are connected to it."""

    hub: Hub
    sites: Mapping[str, Site]
    pids: Mapping[str, int]  # the hub's and each site's daemon
    isolated: bool

    def approve(self, study: StudySpec, *, names: Sequence[str] = (), seed: int | None = None) -> StudySpec:
        """Every steward approves the study as the hub will resolve it; gives that."""
        spec = runs.resolve(self.hub, study, names=names, seed=seed)
        for entry in spec.sites:
            member = Member.open(self.sites[entry.name])
            approve(member, spec, spec.study.ends or datetime.now(UTC).date())
            member.ledger.close()
        return spec

    def run(
        self, study: StudySpec, listener: RunListener, *, seed: int | None = None, resume: bool = False
    ) -> RunResult:
        """Approve and start a study, and follow it to its end; with `resume`, the last run of it goes on.

        Raises RunError where it fails.
        """
        names = [] if study.sites else sorted(self.sites)
        spec = self.approve(study, names=names, seed=seed)
        with self.hub.store() as store:
            before = [row for row in store.runs() if row.study_digest == spec.digest] if resume else []
        if before and before[-1].status in {*UNFINISHED, "finished"}:  # the hub lets an interrupted one go on
            return self.follow(before[-1], listener)
        if before:
            return self.follow(runs.resume(self.hub, before[-1].run, wait_s=WAIT_S), listener)
        return self.follow(runs.start(self.hub, study, names=names, seed=seed, wait_s=WAIT_S), listener)

    @contextmanager
    def watching(self, listener: Listener) -> Iterator[None]:
        """Hand what the sites' daemons tell their stewards to `listener`, while the block runs."""
        with ExitStack() as stack:
            for site in self.sites.values():
                connection = stack.enter_context(closing(channel(site.state / CONTROL_SOCKET)))
                events = ControlStub(connection).Watch(Nothing())
                thread = threading.Thread(target=_listen, args=(events, listener), name=f"watch {site.name}")
                stack.callback(thread.join)
                stack.callback(events.cancel)
                thread.start()
            yield

    def follow(self, row: RunRow, listener: RunListener) -> RunResult:
        """Follow a run to its end."""
        row = watch.follow(self.hub, row.run, listener)
        if row.status != "finished":
            raise RunError(f"run {row.run} {row.status}: {row.reason}")
        return RunResult.read(self.hub.runs / row.run)


def _listen(events: Iterable[SiteEvent], listener: Listener) -> None:
    try:
        for event in events:
            stage = cast("Stage", event.stage)
            listener(Event(site=event.site, stage=stage, done=event.done, total=event.total, note=event.note))
    except grpc.RpcError:
        return  # the block ended, or the daemon


@contextmanager
def federation(
    hub: Path,
    hospitals: Mapping[str, Path],
    *,
    logs: Path,
    step: Step = no_step,
    hub_up: Sequence[str] = HUB_UP,
    site_up: Sequence[str] = SITE_UP,
    cards: Mapping[str, Path] = MappingProxyType({}),
    gateway: bool = False,
) -> Iterator[Federation]:
    """A federation of the hospitals in these folders, with a hub in `hub`, made where there is none.

    `hub_up` and `site_up` are the modules that run them, with their words. `cards` are cards of the hub for sites that
    reach it at another address than its own. With a `gateway` sites come through nginx. Where this machine cannot
    isolate processes the sites run without walls, and `isolated` says so. Raises RunError where it does not come up.
    """
    logs.mkdir(parents=True, exist_ok=True)
    opened = Hub.open(hub) if (hub / "hub.toml").exists() else _made(hub, gateway=gateway)
    sites = {
        name: _joined(opened, folder)
        if gateway
        else _enrolled(opened, cards.get(name, opened.card), folder, logs / f"{name}.card.json")
        for name, folder in sorted(hospitals.items())
    }
    flags = [] if isolation.impossible() is None else ["--unsafe-no-walls"]
    with ExitStack() as daemons:
        pids = {}
        for name, command in {
            HUB: [*hub_up, str(opened.folder)],
            **{name: [*site_up, str(site.folder), *flags] for name, site in sites.items()},
        }.items():
            pids[name] = daemons.enter_context(background([sys.executable, "-m", *command], logs / f"{name}.out"))
        _wait_until_connected(sites, pids, logs, step)
        yield Federation(opened, sites, pids, isolated=not flags)


def _made(folder: Path, *, gateway: bool) -> Hub:
    address = f"{HOST}:{free_port()}" if gateway else None
    return Hub.init(folder, name="demo-hub", port=free_port(), address=address, listen=address)


def _joined(hub: Hub, folder: Path) -> Site:
    """A hospital's folder as a site that was invited, asked and was approved, without the wait between people."""
    card = HubCard.read(hub.card)
    site, own = join(folder, card)
    (site.link / LINK_STATUS).unlink(missing_ok=True)
    key, credentials = pki.load_signing_key(site.state / SIGNING_KEY), Credentials(site.link)
    with hub.store() as store:
        joining = Joining(hub, store)
        asked = credentials.asking(card, own, key, joining.invite(site.name).secret)
        joining.ask(asked)
        joining.approve(joining.asked_by(site.name)[0])
        credentials.take(card, joining.ask(asked))
    return site


def _enrolled(hub: Hub, hub_card: Path, folder: Path, path: Path) -> Site:
    """A hospital's folder as a site that has joined; the cards go both ways as files, as they do between people."""
    site, card = join(folder, HubCard.read(hub_card))
    (site.link / LINK_STATUS).unlink(missing_ok=True)
    card.write(path)
    hub.enrol(SiteCard.read(path))
    return site


@contextmanager
def background(command: Sequence[str], output: Path, environment: Mapping[str, str] | None = None) -> Iterator[int]:
    """A process in a session of its own, ended with the block, and by the kernel with this process; gives its pid."""
    with output.open("ab") as said:
        process = subprocess.Popen(  # a session of its own: Ctrl-C is for this process, which then ends it
            ["setpriv", "--pdeathsig", "TERM", *command],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
    try:
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(END_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_connected(sites: Mapping[str, Site], pids: Mapping[str, int], logs: Path, step: Step) -> None:
    started = time.monotonic()
    while time.monotonic() - started < START_LIMIT_S:
        for name, pid in pids.items():
            if _has_ended(pid):
                raise RunError(f"{name} ended at its start: {_last_word(logs / f'{name}.out')}")
        away = [name for name, site in sites.items() if not _is_up(site)]
        step("connecting hospitals", len(sites) - len(away), len(sites))
        if not away:
            return
        time.sleep(LOOK_S)
    raise RunError(
        f"{', '.join(away)} did not reach the hub within {START_LIMIT_S:g} s; the last word of {away[0]} was "
        f"'{_last_word(logs / f'{away[0]}.out')}', and the logs are in {logs}"
    )


def _is_up(site: Site) -> bool:
    """Whether both sides are: the one that is connected to the hub, and the one that its people talk to."""
    if read_json(site.link / LINK_STATUS).get("state") != "connected":
        return False
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(address(site.state / CONTROL_SOCKET)) == 0


def _last_word(output: Path) -> str:
    """What a daemon last said to its person."""
    lines = output.read_text("utf-8", "replace").splitlines()
    return next((line.removeprefix("fedward: ") for line in reversed(lines) if line.startswith("fedward: ")), "none")


def _has_ended(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
