"""`fedward hub up`: keeps a hub's SuperLink running, and leaves nothing behind when it ends, however it ends.

One supervisor a hub: it holds hub.lock. It ends what a killed one left, renews the server's certificate, opens the
entrance for hospitals where there is to be one (`entrance`), starts the SuperLink, lets the enrolled sites in and
nobody else, starts it again when it dies, and lets runs that died go on (`revival`). As a program it prints "ready", or
why it is not, as one line, and logs to the hub's hub.log:

    python -m fedward_server.supervisor FOLDER
"""

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from fedward_common.errors import FedwardError, RunError, SettingsError, UsageError
from fedward_common.logs import fedward_to, process_to, to_file, to_terminal
from fedward_server.enrolment import bring_in_line
from fedward_server.entrance import entrance
from fedward_server.hub import Hub
from fedward_server.hub_settings import SETTINGS
from fedward_server.locks import held
from fedward_server.marked import end_marked
from fedward_server.revival import HUB_DIED, HUB_STOPPED, SUPERLINK_DIED, Revival
from fedward_server.superlink import HOST

READY = "ready"
LOG = "hub.log"
LOOK_S = 0.5  # at the SuperLink, and at the runs
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0  # before a SuperLink that died is started again

log = logging.getLogger("fedward_server.supervisor")  # also where it is a program


@dataclass(kw_only=True)
class Supervisor:
    """Supervises one hub until `stopping` is set; calls `ready` when the SuperLink first lets sites in."""

    hub: Hub
    ready: Callable[[], None]
    stopping: threading.Event = field(default_factory=threading.Event)

    def __call__(self) -> None:
        """Supervise. Raises UsageError where another does, SettingsError or RunError where the hub cannot start."""
        try:
            with held(self.hub.lock):
                end_marked(self.hub.link.mark)
                self._prepare()
                with entrance(self.hub), self.hub.store() as store:
                    self._keep_running(Revival(self.hub, store))
        except BlockingIOError:
            raise UsageError(
                f"the hub is up already (process {self.hub.pid()}): stop it with `fedward hub down {self.hub.folder}`"
            ) from None

    def _prepare(self) -> None:
        self.hub.check_private()
        self.hub.audit()
        _check_port(self.hub.port)
        if self.hub.renew_certificate():
            log.info("the server's certificate is new; it ends on %s", self.hub.certificate_ends().date())
        if self.hub.renew_card():
            log.warning("the hub's card is new: give %s to every site that was given the one before", self.hub.card)

    def _keep_running(self, revival: Revival) -> None:
        revival.all_ended("died", HUB_DIED)  # with a supervisor that was killed
        pause = SHORTEST_PAUSE_S
        started = time.monotonic()
        self._run_once(revival, self.ready)
        while not self.stopping.is_set():
            pause = (
                SHORTEST_PAUSE_S if time.monotonic() - started > LONGEST_PAUSE_S else min(2 * pause, LONGEST_PAUSE_S)
            )
            log.warning("it is started again in %g s", pause)
            if not self.stopping.wait(pause):
                started = time.monotonic()
                try:
                    self._run_once(revival, lambda: None)
                except RunError as error:
                    log.error("%s", error)  # noqa: TRY400 - the sentence says it all

    def _run_once(self, revival: Revival, ready: Callable[[], None]) -> None:
        try:
            with self.hub.link.running() as process:
                log.info("the SuperLink is up at %s:%d (process %d)", HOST, self.hub.port, process.pid)
                for trouble in bring_in_line(self.hub):
                    log.warning("%s", trouble)
                ready()
                self._watch(process, revival)
        finally:
            if self.stopping.is_set():
                revival.all_ended("interrupted", HUB_STOPPED)
            else:
                revival.all_ended("died", SUPERLINK_DIED)
        log.info("the SuperLink has ended")

    def _watch(self, process: "subprocess.Popen[bytes]", revival: Revival) -> None:
        while not self.stopping.wait(LOOK_S):
            if process.poll() is not None:
                log.error("the SuperLink died (exit code %d); see %s", process.returncode, self.hub.link.log_file)
                return
            revival.look()


def supervise(hub: Hub, ready: Callable[[], None]) -> None:
    """Supervise a hub until a signal ends it: SIGTERM, Ctrl-C, a terminal that closes."""
    supervisor = Supervisor(hub=hub, ready=ready)

    def stop(_number: int, _frame: FrameType | None) -> None:
        supervisor.stopping.set()

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    try:
        hub.logs.mkdir(mode=0o700, exist_ok=True)
        with fedward_to(to_file(hub.logs / LOG, hub.settings.log.format)):
            supervisor()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise SettingsError(
                f"port {port} of {HOST} cannot be used ({error.strerror}): stop the program that has it, or set "
                f"another [hub] port in {SETTINGS}"
            ) from None


def _main(folder: str) -> int:
    try:
        hub = Hub.open(Path(folder))
        process_to(to_terminal(hub.settings.log.format))  # which is the same file
        supervise(hub, lambda: _say(READY))
    except FedwardError as error:
        log.error("%s", error)  # noqa: TRY400 - the sentence says it all
        _say(str(error))
        return error.exit_code
    return 0


def _say(line: str) -> None:
    with suppress(BrokenPipeError):  # whoever started it has gone
        os.write(sys.stdout.fileno(), f"{line}\n".encode())


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1]))
