"""Keeps what stands before a hub running while its block runs: nginx, and the API behind it.

Each is started on a leash, so that nothing of it outlives this process. One that ends is started again, with growing
pauses; a log of the gateway's that has grown long is begun anew. Once a minute the gateway is brought in line: its
certificate and the lists of those taken back are renewed, and what nginx did not take is told to it again; sessions and
certificates that are over are removed; and the SuperLink lets in who was approved, where that did not succeed.
"""

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from fedward_common.errors import FedwardError, RunError, SettingsError
from fedward_server import bulk
from fedward_server.enrolment import bring_in_line
from fedward_server.gateway import Gateway, bring_gateway_in_line
from fedward_server.hub import Hub
from fedward_server.hub_settings import SETTINGS, listener
from fedward_server.issuing import LIST_DAYS
from fedward_server.joining import gateway as settings_of
from fedward_server.people import People
from fedward_server.register import Register
from fedward_server.runs import ENGINE
from fedward_server.store import Store

START_LIMIT_S = 60.0
LOOK_S = 0.2
UPKEEP_S = 60.0
SHORTEST_PAUSE_S, LONGEST_PAUSE_S, WELL_S = 0.5, 60.0, 30.0

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Service:
    """One program on its leash."""

    name: str
    command: list[str]
    folder: Path
    output: Path
    process: "subprocess.Popen[bytes] | None" = None
    started: float = 0.0
    pause_s: float = SHORTEST_PAUSE_S

    def start(self) -> None:
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "fedward_server.leash", *self.command],
                cwd=self.folder,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self.started = time.monotonic()

    def watch(self) -> None:
        """Start it again where it has ended and its pause is over."""
        assert self.process is not None
        code, now = self.process.poll(), time.monotonic()
        if code is None:
            if now - self.started > WELL_S:
                self.pause_s = SHORTEST_PAUSE_S
        elif now - self.started > self.pause_s:
            log.error("the %s ended (exit code %d) and is started again; see %s", self.name, code, self.output)
            self.pause_s = min(2 * self.pause_s, LONGEST_PAUSE_S)
            self.start()

    def end(self) -> None:
        if self.process is not None:
            self.process.communicate()  # closes its input, which the leash waits for


@dataclass(slots=True)
class _Entrance:
    hub: Hub
    services: list[_Service]
    over: threading.Event = field(default_factory=threading.Event)
    refused: set[str] = field(default_factory=set)  # node keys that the SuperLink takes only when it is started anew
    troubles: dict[str, str] = field(default_factory=dict)  # that were logged and are not over, by what they are of

    def open(self) -> None:
        """Start the API, then the gateway; returns when that answers. Raises RunError where one does not start."""
        gateway = Gateway(self.hub)
        gateway.socket.unlink(missing_ok=True)  # a killed one's
        for service, ready in zip(self.services, (gateway.socket.is_socket, gateway.answers), strict=True):
            service.start()
            deadline = time.monotonic() + START_LIMIT_S
            while not ready():
                assert service.process is not None
                if service.process.poll() is not None or time.monotonic() > deadline:
                    raise RunError(f"the {service.name} does not start; see {service.output}")
                time.sleep(LOOK_S)

    def keep(self) -> None:
        """Look after both until the block is over."""
        upkeep, quota = time.monotonic() + UPKEEP_S, settings_of(self.hub).bulk_mib * 2**20
        with self.hub.store() as store:
            while not self.over.wait(LOOK_S):
                with self._logged("what ended is not started again yet"):  # on a full disk
                    for service in self.services:
                        service.watch()
                with self._logged("what sites put here is not looked after"):
                    bulk.tidy(self.hub.folder, (row.run for row in store.unfinished(ENGINE)), quota)
                with self._logged("the gateway's logs are not begun anew"):
                    Gateway(self.hub).turn_logs()
                if time.monotonic() >= upkeep:
                    upkeep = time.monotonic() + UPKEEP_S
                    with self._logged("what is over is not cleared away"):
                        Register(store).prune(datetime.now(UTC) - timedelta(days=LIST_DAYS))
                        People(store).tidy()
                    with self._logged("the gateway is not brought in line"):
                        bring_gateway_in_line(self.hub)
                    with self._logged("not every site is let in"):
                        self._let_in(store)

    def _let_in(self, store: Store) -> None:
        """Bring the SuperLink in line where a site was approved and that did not succeed. Raises RunError in words."""
        without = {row.node_key for row in store.sites().values() if row.node_id is None}
        if without <= self.refused or not self.hub.link.healthy():
            return
        troubles = bring_in_line(self.hub)
        self.refused = {row.node_key for row in store.sites().values() if row.node_id is None}
        if troubles:
            raise RunError("; ".join(troubles))

    @contextmanager
    def _logged(self, what: str) -> Iterator[None]:
        """Log what fails, once, and go on: it is done again, and the hub is up meanwhile."""
        try:
            yield
        except Exception as error:  # whatever it is: nobody else starts again what ends
            if self.troubles.get(what) != repr(error):
                self.troubles[what] = repr(error)
                if isinstance(error, FedwardError | OSError):
                    log.error("%s: %s", what, error)  # noqa: TRY400 - the sentence says it all
                else:
                    log.exception("%s", what)
        else:
            self.troubles.pop(what, None)


@contextmanager
def entrance(hub: Hub) -> Iterator[None]:
    """Open a hub's entrance while the block runs; nothing for a hub of one machine.

    Raises SettingsError or RunError where it does not open.
    """
    if hub.gateway is None:
        yield
        return
    gateway = Gateway(hub)
    for section, listens in hub.settings.listening().items():
        _check_free(section, listens)
    bring_gateway_in_line(hub)
    gateway.check()
    api = [sys.executable, "-m", "fedward_server.api", str(hub.folder)]
    opened = _Entrance(
        hub,
        [
            _Service("hub's API", api, hub.folder, hub.logs / "api.log"),
            _Service("gateway", gateway.command(), hub.folder, hub.logs / "gateway-errors.log"),
        ],
    )
    keeper = threading.Thread(target=opened.keep, name="entrance", daemon=True)
    try:
        opened.open()
        keeper.start()
        log.info("the gateway is open at %s, for %s", settings_of(hub).listen, hub.address)
        yield
    finally:
        opened.over.set()
        if keeper.ident is not None:
            keeper.join()
        for service in reversed(opened.services):
            service.end()


def _check_free(section: str, listens: str) -> None:
    """Raise SettingsError where a part of the hub cannot listen at what its section says."""
    try:
        listener(listens).close()
    except OSError as error:
        raise SettingsError(
            f"the hub cannot listen at {listens} ({error.strerror}): stop the program that does, or set another "
            f"[{section}] listen in {SETTINGS}; a port below 1024 needs the right to bind it (CAP_NET_BIND_SERVICE)"
        ) from None
