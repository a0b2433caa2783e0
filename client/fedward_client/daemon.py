"""A site's daemon: one small process that keeps the data side and the network side running, each behind its walls.

Beside them, where the settings ask for it, the process that writes metrics (`monitoring`). The daemon reads no patient
and speaks to no network itself. A process that ends is started again, with growing pauses; one whose settings cannot be
used says so and is tried again only when a minute has passed. Under systemd these processes are units of their own, and
this is not needed.
"""

import ctypes
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from fedward_client import isolation, locks
from fedward_client.isolation import Walls
from fedward_client.member import HUB_CARD, NODE_KEY, SIGNING_KEY, make_folders, private_paths, write_link_settings
from fedward_client.site import SETTINGS, Site
from fedward_common import pki
from fedward_common.errors import FedwardError, SettingsError
from fedward_common.logs import Format, process_to, to_file, to_terminal

log = logging.getLogger(__name__)

PATIENCE_S = 15.0
FIRST_PAUSE_S, LONGEST_PAUSE_S, WELL_S = 0.5, 60.0, 30.0
LOOK_S = 0.2


def executor_walls(site: Site) -> Walls:
    """No network, and nothing of the network side's own folder."""
    return Walls(network=False, hidden=(site.link,))


def supernode_walls(link: Path, spool: Path, hidden: Iterable[Path]) -> Walls:
    """The network, and nothing of the hospital but the network side's folder and the spool, where alone it may write.

    Whoever puts the walls up takes `hidden` from the site: the network side could have changed what its folder says.
    """
    return Walls(network=True, hidden=tuple(sorted(hidden)), kept=(link, spool), read_only=True)


def monitor_walls(textfiles: Path) -> Walls:
    """No network, and nowhere to write but the folder of metrics."""
    return Walls(network=False, hidden=(), kept=(textfiles,), read_only=True)


def textfiles(site: Site) -> Path:
    """The folder that metrics are written into. Raises SettingsError in words where they cannot be."""
    folder = site.metrics
    if folder is None:
        raise SettingsError(f"site '{site.name}' tells no metrics: name a folder with [metrics] textfile in {SETTINGS}")
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise SettingsError(
            f"{SETTINGS}: [metrics] textfile is no folder that this user may write to: make it, outside of the "
            "hospital's, for node_exporter to read"
        )
    if any(folder.resolve().is_relative_to(path.resolve()) for path in private_paths(site)):
        raise SettingsError(
            f"{SETTINGS}: [metrics] textfile is a folder of the hospital's, which node_exporter must not enter: name "
            "one outside of it"
        )
    return folder


def require_walls(walls: Walls, *, unsafe: bool) -> None:
    """Raise SettingsError in a process that is not behind its walls, unless it is told to go on without."""
    if found := isolation.missing(walls):
        if not unsafe:
            raise SettingsError(f"this process is not isolated: {'; '.join(found)}; start it with `fedward site up`")
        log.warning("NOT ISOLATED: %s", "; ".join(found))


@dataclass(slots=True)
class _Side:
    """One of the processes."""

    name: str
    command: Sequence[str]
    walls: Walls | None
    process: "subprocess.Popen[bytes] | None" = None
    started: float = 0.0
    pause_s: float = FIRST_PAUSE_S
    next_start: float = 0.0

    def watch(self) -> None:
        """Start the process where it is not running and its pause is over."""
        now = time.monotonic()
        if self.process is not None and (code := self.process.poll()) is not None:
            self.pause_s = FIRST_PAUSE_S if now - self.started > WELL_S else min(2 * self.pause_s, LONGEST_PAUSE_S)
            self.next_start = now + (LONGEST_PAUSE_S if code == EXIT_UNUSABLE else self.pause_s)
            self.process = None
            log.warning("the %s ended (%s); it is started again", self.name, _how(code))
        if (
            self.process is not None
            and self.walls is not None
            and (found := isolation.reopened(self.walls, self.process.pid))
        ):
            log.warning("the %s is ended: %s", self.name, "; ".join(found))
            self.process.kill()
        if self.process is None and now >= self.next_start:
            self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL)
            self.started = now

    def end(self) -> None:
        """Ask the process to end."""
        if self.process is not None:
            self.process.terminate()

    def wait(self) -> None:
        """Wait for the end, and make it one."""
        if self.process is None:
            return
        try:
            self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


EXIT_UNUSABLE = 1  # what `fedward` ends with when settings cannot be used


def _how(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


@dataclass(slots=True)
class Daemon:
    """The processes of a site, until SIGTERM or SIGINT."""

    site: Site
    unsafe: bool = False
    _stopping: threading.Event = field(default_factory=threading.Event)

    def require(self) -> None:
        """Raise SettingsError for a site without a hub or with keys that cannot be used; where walls cannot be made."""
        if not (self.site.link / HUB_CARD).exists():
            raise SettingsError("this site has no hub yet: run `fedward site join` with the code of the hub's operator")
        _ = self.site.key
        pki.load_signing_key(self.site.state / SIGNING_KEY)
        pki.load_node_key(self.site.link / NODE_KEY)
        if self.site.metrics is not None:
            textfiles(self.site)
        if not self.unsafe and (reason := isolation.impossible()):
            raise SettingsError(reason)

    def __call__(self) -> None:
        """Run. Raises SettingsError where another daemon serves the site."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._stop)
        with locks.claimed(self.site.ensure_state(), self.site.name, locks.DAEMON):
            make_folders(self.site)  # a lost spool is no harm
            write_link_settings(self.site)
            sides = self._sides()
            try:
                while not self._stopping.is_set():
                    for side in sides:
                        side.watch()
                    self._stopping.wait(LOOK_S)
            finally:
                for side in sides:
                    side.end()
                for side in sides:
                    side.wait()

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stopping.set()

    def _sides(self) -> list[_Side]:
        site, flags = self.site, ["--supervised"] + (["--unsafe-no-walls"] if self.unsafe else [])
        program = [sys.executable, "-m", "fedward_common", "site"]
        executor = [*program, "executor", str(site.folder), "--state", str(site.state), *flags]
        supernode = [*program, "supernode", str(site.link), *flags]
        outside = supernode_walls(site.link, site.spool, private_paths(site))
        sides = [("executor", executor, executor_walls(site)), ("supernode", supernode, outside)]
        if site.metrics is not None:
            monitor = [*program, "metrics", str(site.folder), "--state", str(site.state), *flags]
            sides.append(("monitor", monitor, monitor_walls(textfiles(site))))
        if self.unsafe:
            return [_Side(name, command, None) for name, command, _ in sides]
        return [_Side(name, isolation.behind(walls, command), walls) for name, command, walls in sides]


def pid(site: Site) -> int | None:
    """The process id of a site's daemon; None where none runs."""
    return locks.holder(site.state, locks.DAEMON)


def is_up(site: Site) -> bool:
    """Whether a daemon serves a site, or systemd's units do, of which the data side holds a lock."""
    return pid(site) is not None or locks.holder(site.state, locks.EXECUTOR) is not None


def end_with_parent(supervised: bool) -> None:
    """Ask the kernel to end this process with the daemon that made it, however that ends (prctl(2))."""
    if supervised:
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGTERM)


def ending() -> threading.Event:
    """What SIGTERM and SIGINT set from now on: for the main thread of a process that is to end by itself then."""
    stopping = threading.Event()

    def stop(_number: int, _frame: FrameType | None) -> None:
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    return stopping


@contextmanager
def told() -> Iterator[None]:
    """Write into the log too what ends a process, for the terminal that it is told to may be gone."""
    try:
        yield
    except FedwardError as error:
        log.error("%s", error)  # noqa: TRY400 - the sentence says it all
        raise


def log_to(path: Path, form: Format, private: Iterable[Path]) -> None:
    """Log to a file that is begun anew at 10 MiB, and warnings to stderr too; no path below `private` is told."""
    hidden = list(private)
    process_to(to_file(path, form, hidden, turned=True), to_terminal(form, hidden))
