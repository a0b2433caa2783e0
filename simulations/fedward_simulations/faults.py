"""Failures of a real federation, made on purpose: which process to kill, and at which point of a round.

Processes are found from what the federation's person started, by their ancestry and by the files they hold; points of a
round by what anybody can read: the run's events and checkpoints, the site's messages in hand, its steward's events. A
point that would pass in a moment is held by stopping (SIGSTOP) the process that would end it, which on the way there
goes on for a moment at a time, so that it is not past the point when the point is seen, however busy the machine is.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from fedward_client.pending import PendingFolder
from fedward_common.errors import RunError
from fedward_common.events import Event
from fedward_server import runs
from fedward_server.events import RunEvent
from fedward_server.journal import Tail
from fedward_server.locks import holder
from fedward_server.store import UNFINISHED, RunRow
from fedward_simulations.benchmarks._processes import family
from fedward_simulations.federation import HUB, Federation

Victim = Literal["serverapp", "superlink", "hub", "supernode", "executor"]
Point = Literal["asked", "training", "one answered", "saving", "saved"]
VICTIMS, POINTS = get_args(Victim), get_args(Point)

LIMIT_S = 120.0
LOOK_S = 0.001  # points pass quickly
STEP_S, SETTLE_S = 0.003, 0.02  # a process in steps: goes on for the one, and stands while what it told arrives


class MissedError(Exception):
    """A point had passed before it could be held; the next round has it too."""


@dataclass(slots=True)
class Watched:
    """A run at work, watched closely. `early` is the site whose point it is, `late` one that works with it."""

    federation: Federation
    run: str
    early: str
    late: str
    seen: list[RunEvent] = field(default_factory=list)  # since it last began
    lives: int = 0  # how often it began
    deaths: int = 0
    training: dict[str, Event] = field(default_factory=dict)  # the last of each site
    _tail: Tail = field(init=False)

    def __post_init__(self) -> None:
        self._tail = Tail(self.folder)

    @property
    def folder(self) -> Path:
        """The run's."""
        return self.federation.hub.runs / self.run

    def listen(self, event: Event) -> None:
        """Take what a site tells its steward (`Federation.watching`)."""
        if event.stage == "train":
            self.training[event.site] = event

    def has(self, kind: str, number: int, site: str = "") -> bool:
        """Whether the run has told of it since it began, or began again."""
        for event in self._tail.new():
            if event.kind == "began":
                self.lives += 1
                self.seen.clear()
            self.deaths += event.kind == "died"
            self.seen.append(event)
        return any((each.kind, each.round, each.site) == (kind, number, site) for each in self.seen)

    def status(self) -> RunRow:
        """How the run stands."""
        with self.federation.hub.store() as store:
            return store.run(self.run)

    def end(self, limit_s: float = LIMIT_S) -> RunRow:
        """How the run ended, over deaths of the hub too."""
        wait_until(lambda: self.status().status not in UNFINISHED, f"the end of {self.run}", limit_s, look_s=0.1)
        return self.status()

    def pid(self, victim: Victim, site: str) -> int:
        """The process of a victim now; of a site where it is a site's."""
        if victim == "serverapp":
            pid = holder(self.folder / runs.LOCK)
        elif victim == "hub":
            pid = self.federation.hub.pid()
        elif victim == "superlink":
            pid = _descendant(self.federation.hub.pid() or self.federation.pids[HUB], victim)
        else:
            pid = _descendant(self.federation.pids[site], victim)
        if pid is None:
            raise MissedError(f"there is no {victim}")
        return pid

    # Points ----------------------------------------------------------------------------------------------------------

    @contextmanager
    def held(self, point: Point, number: int) -> Iterator[None]:
        """Wait for a point of a round, and hold it while the block runs. Raises MissedError where it had passed."""
        hold = {
            "asked": self._asked,
            "training": self._training,
            "one answered": self._one_answered,
            "saving": self._saving,
            "saved": self._saved,
        }[point]
        wait_until(lambda: any(self.has("round", each) for each in (number - 1, number)), f"round {number - 1}")
        with hold(number):
            yield

    @contextmanager
    def _asked(self, number: int) -> Iterator[None]:
        """The question is at the site, whose data side has not begun: it was stopped before the question came."""
        before = number - 1
        wait_until(lambda: self.has("answered", before, self.early), f"round {before} of {self.early}")
        with stopped(self.pid("executor", self.early)):
            folder = PendingFolder(self.federation.sites[self.early].link)
            wait_until(lambda: any(each.kind == "train" and each.config for each in folder.all()), "a question")
            wait_until(lambda: self.has("round", number), f"round {number}")
            _require(not self._begun(self.early, number), "it had begun")
            yield

    @contextmanager
    def _training(self, number: int) -> Iterator[None]:
        """The site is in the middle of its training."""
        with self._in_the_middle(self.early, number):
            yield

    @contextmanager
    def _one_answered(self, number: int) -> Iterator[None]:
        """One site's answer is at the hub, the other is at work."""
        with self._in_the_middle(self.late, number):
            wait_until(lambda: self.has("answered", number, self.early), f"the answer of {self.early}")
            yield

    @contextmanager
    def _saving(self, number: int) -> Iterator[None]:
        """Every answer is at the hub, and the round is not on disk."""
        pid = self.pid("serverapp", "")
        wait_until(lambda: self.has("round", number), f"round {number}")
        with in_steps(pid, lambda: all(self.has("answered", number, site) for site in (self.early, self.late))):
            _require(not (self.folder / f"round-{number:06d}.json").exists(), "it was saved")
            yield

    @contextmanager
    def _saved(self, number: int) -> Iterator[None]:
        """The round has just come to be on disk."""
        wait_until((self.folder / f"round-{number:06d}.json").exists, f"round {number} on disk")
        yield

    @contextmanager
    def _in_the_middle(self, site: str, number: int) -> Iterator[None]:
        before = number - 1
        wait_until(lambda: self.has("answered", before, site) or self.has("round", number), f"round {before} of {site}")
        with in_steps(self.pid("executor", site), lambda: self._begun(site, number)):
            last = self.training[site]
            _require(last.note == f"round {number}" and last.done < last.total, "it had ended")
            yield

    def _begun(self, site: str, number: int) -> bool:
        return site in self.training and self.training[site].note == f"round {number}"


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process stands still while the block runs; it may be killed meanwhile."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


@contextmanager
def in_steps(pid: int, there: Callable[[], bool]) -> Iterator[None]:
    """Let a process go on for a moment at a time until it is there; it stands still while the block runs."""
    deadline = time.monotonic() + LIMIT_S
    with stopped(pid):
        time.sleep(SETTLE_S)
        while not there():
            if time.monotonic() > deadline:
                raise RunError(f"process {pid} did not get there in {LIMIT_S:g} s")
            os.kill(pid, signal.SIGCONT)
            time.sleep(STEP_S)
            os.kill(pid, signal.SIGSTOP)
            time.sleep(SETTLE_S)
        yield


def wait_until(there: Callable[[], bool], what: str, limit_s: float = LIMIT_S, look_s: float = LOOK_S) -> None:
    """Look until it is there; RunError when it is not after `limit_s`."""
    deadline = time.monotonic() + limit_s
    while not there():
        if time.monotonic() > deadline:
            raise RunError(f"waited {limit_s:g} s in vain for {what}")
        time.sleep(look_s)


def _descendant(pid: int, role: str) -> int | None:
    return next((each for each, its_role in family(pid, "").items() if its_role == role), None)


def _require(there: bool, otherwise: str) -> None:
    if not there:
        raise MissedError(otherwise)
