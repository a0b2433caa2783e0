"""A run as people watch it: its rounds, each site's part in them, who waits for whom, why. For who may see what of it.

It is read from the run's events and from the database, and read on from where the last look ended; a thousand looks a
second cost no more than a few. A steward's view holds his own site and what is of all sites together.
"""

import json
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from fedward_common.site_messages import ApprovalState
from fedward_common.study import StudySpec
from fedward_server.approvals import Approvals
from fedward_server.events import EventKind, RunEvent
from fedward_server.figures.blocks import coarse
from fedward_server.hub import Hub
from fedward_server.journal import Standing, Tail
from fedward_server.pausing import is_paused
from fedward_server.people import Person
from fedward_server.statuses import Statuses
from fedward_server.store import RoundRow, RunRow, RunStatus, Store

LOOK_S = 0.2  # two looks are never closer
REWRITTEN = 2  # of the last rounds: their figures come later than they do
LOGGED = 300  # lines that are kept of what happened
HELD = 32  # runs that have ended and are kept

_ROUTINE: frozenset[EventKind] = frozenset({"round", "answered", "aggregated"})  # drawn, not told


@dataclass(slots=True)
class Round:
    """One round. Times are seconds since 1970; `answered` are seconds after it began."""

    number: int
    began: float
    ended: float | None = None
    note: str = ""
    changed: int = 0  # in which version it was last
    answered: dict[str, float] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    figures: RoundRow | None = None
    loss: dict[str, float] = field(default_factory=dict)  # of training, by site
    primary: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class LiveRun:
    """One run, read on by `look`. `version` grows with each change."""

    hub: Hub
    store: Store
    row: RunRow
    version: int = 0
    paused: bool = False
    approvals: dict[str, ApprovalState] = field(default_factory=dict)  # of stewards, by site
    percents: dict[str, int] = field(default_factory=dict)  # of the training in hand, by site
    standing: Standing = field(default_factory=Standing)
    rounds: dict[int, Round] = field(default_factory=dict)
    log: "deque[tuple[int, RunEvent]]" = field(default_factory=lambda: deque(maxlen=LOGGED))  # with their versions
    halted: float | None = None  # since when nothing works on it, in seconds since 1970
    _left_out: set[str] = field(default_factory=set)  # sites of which nothing is asked any more
    _training: list[str] | None = None  # sites that train
    _tail: Tail | None = None
    _texts: dict[tuple[str | None, int], bytes] = field(default_factory=dict)  # of one version
    _texts_of: int = -1
    _looked: float = -LOOK_S
    _lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.hub.runs / self.row.run

    @property
    def sites(self) -> list[str]:
        """The sites of the run, in the order of their names."""
        return sorted(self.row.sites)

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return not self.row.unfinished

    @property
    def shown(self) -> RunStatus | Literal["paused"]:
        """How it stands, in a word: its status in the database, or that a person has paused it."""
        return "paused" if self.paused else self.row.status

    # Reading on ------------------------------------------------------------------------------------------------------

    def look(self) -> int:
        """Read what is new, unless somebody has a moment ago; the version."""
        with self._lock:
            turned = self.row.unfinished and is_paused(self.folder) != self.paused
            if turned or time.monotonic() - self._looked >= LOOK_S:
                self._read()
                self._looked = time.monotonic()
            return self.version

    def _read(self) -> None:
        self._tail = self._tail or Tail(self.folder)
        row = self.store.run(self.row.run)  # before its events: so the last of them are read too
        changed = {self._take(event) for event in self._tail.new()}
        if changed or row.unfinished or row != self.row:
            changed |= self._read_figures()
        paused = row.unfinished and is_paused(self.folder)
        told = self._approvals(), self._percents() if row.unfinished else {}
        if changed or (row, paused, *told) != (self.row, self.paused, self.approvals, self.percents):
            self.row, self.paused, (self.approvals, self.percents) = row, paused, told
            self.version += 1
            for number in changed & self.rounds.keys():
                self.rounds[number].changed = self.version

    def _approvals(self) -> dict[str, ApprovalState]:
        return {site: row.state for site, row in Approvals(self.store).of(self.row.study_digest).items()}

    def _percents(self) -> dict[str, int]:
        works = {site: row.status.work for site, row in Statuses(self.store).all().items()}
        return {
            site: work.percent
            for site, work in works.items()
            if work is not None and work.run == self.row.run and work.percent is not None
        }

    def _take(self, event: RunEvent) -> int:
        """Go on by an event; the round that it changes."""
        if event.note:  # most have none, and there are very many
            event = replace(event, note=self.hub.without_folder(event.note))
        self.standing.take(event)
        if event.kind in ("died", "interrupted", "failed", "stopped"):
            self.halted = _seconds(event)
        elif event.kind == "round":
            self.halted = None
        if event.kind not in _ROUTINE:
            self.log.append((self.version + 1, event))
        if event.kind == "left-out":
            self._left_out.add(event.site)
        elif event.kind in ("prepared", "answered"):
            self._left_out.discard(event.site)
        told = self.rounds.get(event.round)
        if event.kind == "round":
            self.rounds[event.round] = Round(event.round, _seconds(event), note=event.note)
        elif told is not None and event.kind == "answered":
            told.answered[event.site] = round(_seconds(event) - told.began, 2)
        elif told is not None and event.kind == "refused" and told.ended is None:  # later: of what closes a run
            told.refused[event.site] = event.note
        elif told is not None and event.kind == "aggregated":
            told.ended = _seconds(event)
        return event.round

    def _read_figures(self) -> set[int]:
        """Read the figures of rounds that may have new ones; those that have."""
        known = [number for number, held in self.rounds.items() if held.figures is not None]
        since = max(known, default=0) - REWRITTEN
        changed: set[int] = set()
        for figures in self.store.rounds(self.row.run, since=since):
            held = self.rounds.get(figures.round)
            if held is not None and held.figures != figures:
                held.figures = figures
                held.loss, held.primary = {}, {}
                changed.add(figures.round)
        if changed:
            for number, site, loss, primary in self.store.site_figures(self.row.run, since=min(changed)):
                if number in changed:
                    self.rounds[number].loss.update({} if loss is None else {site: _short(loss)})
                    self.rounds[number].primary.update({} if primary is None else {site: _short(primary)})
        return changed

    # What of it is shown ---------------------------------------------------------------------------------------------

    def news(self, person: Person, since: int) -> tuple[int, bytes | None, bool]:
        """The version now, what is new to somebody who has another, and whether nothing more will come."""
        with self._lock:
            version = self.look()
            return version, self.text(person, since) if version != since else None, self.ended

    def text(self, person: Person, since: int = -1) -> bytes:
        """What `state` says, as JSON; made once for all who ask the same."""
        with self._lock:
            if self._texts_of != self.version:
                self._texts, self._texts_of = {}, self.version
            scope = person.site, since
            if scope not in self._texts:
                self._texts[scope] = json.dumps(self.state(person, since), separators=(",", ":")).encode()
            return self._texts[scope]

    def state(self, person: Person, since: int = -1) -> dict[str, Any]:
        """How the run stands, as JSON; with the version that somebody has, the rounds and lines that are new to him.

        Rows of `answered`, `loss` and `primary` are rounds, their columns `sites`; seconds are after the round began.
        """
        with self._lock:
            sites = [name for name in self.sites if person.sees(name)]
            first = min((number for number, held in self.rounds.items() if held.changed > since), default=None)
            shown = [held for number, held in sorted(self.rounds.items()) if first is not None and number >= first]
            return {
                "version": self.version,
                "whole": since < 0,
                **self._head(person),
                "sites": sites,
                "states": [self._state_of(name) for name in sites],
                "rounds": [_round(held, person) for held in shown],
                "answered": [[held.answered.get(name) for name in sites] for held in shown],
                "loss": [[held.loss.get(name) for name in sites] for held in shown],
                "primary": [[held.primary.get(name) for name in sites] for held in shown],
                "refused": [
                    [held.number, name, reason]
                    for held in shown
                    for name, reason in sorted(held.refused.items())
                    if person.sees(name)
                ],
                "log": [_line(event) for version, event in self.log if version > since and _tells(person, event)],
            }

    def _head(self, person: Person) -> dict[str, Any]:
        row, now, awaited = self.row, self.standing, self.awaited()
        return {
            "run": row.run,
            "study": row.study_id,
            "status": row.status,
            "paused": self.paused,
            "kind": now.kind,
            "reason": reason_for(person, row, self.hub),
            "started": row.started,
            "ended": row.ended,
            "halted": self.halted,
            "round": now.round,
            "of": now.rounds,
            "awaited": [name for name in awaited if person.sees(name)],
            "awaited_others": sum(not person.sees(name) for name in awaited),
        }

    def awaited(self) -> list[str]:
        """The sites that are asked to train in the round in hand and have neither answered nor were refused."""
        with self._lock:
            at_work = self.rounds.get(self.standing.round)
            if at_work is None or at_work.ended is not None or self.ended:
                return []
            over = at_work.answered.keys() | at_work.refused.keys() | self._left_out
            return [name for name in self._trainers() if name not in over]

    def _trainers(self) -> list[str]:
        if self._training is None:  # a run's study stays what it is
            study = StudySpec.from_json(json.dumps(self.row.study_json))
            self._training = [site for site in self.sites if not study.only_evaluates(site)]
        return self._training

    def _state_of(self, site: str) -> list[str | int | None]:
        """What was heard of it last, why, its steward's answer, and how far its training is, in percent."""
        kind, note = self.standing.sites.get(site, ("", ""))
        # a hub without a gateway is told nothing of approvals
        untold: ApprovalState | None = "awaiting" if self.hub.gateway is not None and self.row.unfinished else None
        return [kind, note, self.approvals.get(site, untold), self.percents.get(site)]


def _round(held: Round, person: Person) -> list[Any]:
    """Number, began, ended, loss, primary metric, bytes up, bytes down, note."""
    row = held.figures
    if row is None:
        return [held.number, held.began, held.ended, None, None, None, None, held.note]
    loss = row.loss if _pools(person, held.loss) else None
    primary = row.primary if _pools(person, held.loss) and _pools(person, held.primary) else None
    if person.role == "steward":
        primary = coarse(primary)  # all digits would tell of how many patients it is
    return [held.number, held.began, held.ended, loss, primary, row.bytes_up, row.bytes_down, held.note]


def _pools(person: Person, known: Mapping[str, float]) -> bool:
    """Whether a person may see a figure of all, of whom these are known: a steward, with two others in it at least.

    A site whose part is not known, or not yet, does not count: of one other the figure would be that one's.
    """
    return person.role != "steward" or len({*known} - {person.site}) > 1


def reason_for(person: Person, row: RunRow, hub: Hub) -> str | None:
    """Why a run ended: not for a steward, because it may name other sites."""
    return None if row.reason is None or person.role == "steward" else hub.without_folder(row.reason)


def _short(value: float) -> float:
    return round(value, 5)


def _line(event: RunEvent) -> list[Any]:
    """Time, kind, round, site, note."""
    return [event.time, event.kind, event.round, event.site, event.note]


def _tells(person: Person, event: RunEvent) -> bool:
    """Whether an event is a person's to know: what is said of a run as a whole may name sites."""
    return person.sees(event.site) if event.site else person.role != "steward" or not event.note


def _seconds(event: RunEvent) -> float:
    return datetime.fromisoformat(event.time).timestamp() if event.time else 0.0


class LiveRuns:
    """The runs of a hub that somebody has looked at: those that have not ended, and of the others the last few."""

    def __init__(self, hub: Hub, store: Store) -> None:
        self._hub, self._store = hub, store
        self._held: OrderedDict[str, LiveRun] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, row: RunRow) -> LiveRun:
        """A run, as it is now."""
        with self._lock:
            if row.run not in self._held:
                self._let_go()
                self._held[row.run] = LiveRun(self._hub, self._store, row)
            self._held.move_to_end(row.run)
            found = self._held[row.run]
        found.look()
        return found

    def _let_go(self) -> None:
        unfinished = {row.run for row in self._store.unfinished()}
        ended = [run for run in self._held if run not in unfinished]
        for run in ended[:-HELD]:
            del self._held[run]
