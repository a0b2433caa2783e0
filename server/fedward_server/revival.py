"""Runs that died without a word: noticed, and let go on after their last checkpoint, without anybody's doing.

A run's process holds a lock in the run's folder for as long as it lives, and records its end before it lets go of it.
So a run that is recorded as running, and whose lock nobody holds, has died. It becomes "interrupted", and is handed to
Flower once more as soon as the SuperLink is up. What failed by itself, or was stopped, is left alone.

A run that dies `MOST_DEATHS` times without another round on disk has failed. Deaths are counted in the run's own
events, each of which says which round was the last one on disk; after a person resumed the run they count anew.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal

from fedward_common.errors import FedwardError, SettingsError, UsageError
from fedward_server.checkpoints import newest
from fedward_server.hub import Hub
from fedward_server.journal import Tail
from fedward_server.locks import holder
from fedward_server.runs import ENGINE, LOCK, ROSTER, WAIT_S, end_run, go_on, interrupt
from fedward_server.store import RunRow, Store
from fedward_server.superlink import CONNECTION

MOST_DEATHS = 3
GRACE_S = 30.0  # until a run's process has its lock
LONGEST_GRACE_S = 300.0  # until a run has been handed over
RETRY_S = 10.0  # before a run that Flower did not take is handed over again

# how long a run waits for sites that are not there: they have lost the hub too, and pause up to a minute between tries
BACK_S = 120.0

HUB_STOPPED = "the hub was stopped"
HUB_DIED = "the hub was killed"
SUPERLINK_DIED = "the SuperLink died"
PROCESS_DIED = "the run's process was killed"
NEVER_HANDED_OVER = "whoever started it was killed"

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Revival:
    """Watches over the runs of a hub that is up."""

    hub: Hub
    store: Store
    _not_before: dict[str, float] = field(default_factory=dict)  # by run; monotonic
    _trouble: str = ""

    def all_ended(self, kind: Literal["died", "interrupted"], reason: str) -> None:
        """Record that nothing works on any run any more: with the SuperLink everything ends that does one."""
        with self._logged():
            for row in self.store.unfinished(ENGINE):
                if row.status == "running":
                    self._interrupt(row, kind, reason)

    def look(self) -> None:
        """Notice runs that have died, and let those go on that can. The SuperLink must be up."""
        with self._logged():
            for row in self.store.unfinished(ENGINE):
                if row.status == "running":
                    reason = self._death(row)
                    if reason and self.store.run(row.run).status == "running":  # it may have ended while we looked
                        self._interrupt(row, "died", reason)
                elif time.monotonic() >= self._not_before.get(row.run, 0.0) and self.hub.link.healthy():
                    self._revive(row)

    def _interrupt(self, row: RunRow, kind: Literal["died", "interrupted"], reason: str) -> None:
        log.warning("run %s is interrupted: %s", row.run, reason)
        interrupt(self.hub, self.store, row, kind, reason)
        folder = self.hub.runs / row.run
        if deaths(folder) >= MOST_DEATHS:
            words = (
                f"it died {MOST_DEATHS} times in a row after round {newest(folder)}, the last time because {reason}; "
                "its run.log and the hub's logs may tell more: put that right, then `fedward study resume` goes on"
            )
            log.error("run %s fails: %s", row.run, words)
            end_run(self.hub, self.store, row.run, "failed", words)

    def _revive(self, row: RunRow) -> None:
        """Hand an interrupted run to Flower again; one that cannot go on as it was has failed."""
        log.info("run %s goes on after round %d", row.run, newest(self.hub.runs / row.run))
        try:
            go_on(self.hub, self.store, row, wait_s=self._wait_s(row), by="the hub")
        except (SettingsError, UsageError) as error:
            end_run(self.hub, self.store, row.run, "failed", str(error))
        except FedwardError as error:
            self._not_before[row.run] = time.monotonic() + RETRY_S
            log.warning("run %s is not at work yet: %s", row.run, error)
            if self.store.run(row.run).status == "running":  # in vain
                self._interrupt(row, "died", str(error))

    def _wait_s(self, row: RunRow) -> float:
        deadline = float(row.study_json["strategy"]["round_deadline_s"])
        return max(deadline, BACK_S if newest(self.hub.runs / row.run) else WAIT_S)

    @contextmanager
    def _logged(self) -> Iterator[None]:
        """What goes wrong with runs is no reason to leave the SuperLink alone: a full disk, a locked database."""
        try:
            yield
            self._trouble = ""
        except (FedwardError, OSError) as error:
            if str(error) != self._trouble:  # once, not at every look
                self._trouble = str(error)
                log.warning("the runs cannot be looked after: %s", error)

    def _death(self, row: RunRow) -> str:
        """Why nothing works on a run, empty where something does or may yet."""
        folder = self.hub.runs / row.run
        if holder(folder / LOCK) is not None:
            return ""
        if (folder / LOCK).exists():
            return PROCESS_DIED
        age = _age_s(folder / ROSTER, row)
        if row.flower_run is None:
            return NEVER_HANDED_OVER if age > LONGEST_GRACE_S else ""
        if age < GRACE_S:
            return ""
        status = str(self.hub.link.flwr("list", CONNECTION, "--run-id", row.flower_run)["runs"][0]["status"])
        return f"its process ended before it began ({status})" if "finished" in status else ""


def deaths(folder: Path) -> int:
    """How often a run has died in a row, by its events: after the same round, and after a person let it go on."""
    count, after = 0, newest(folder)
    for event in Tail(folder).new():
        if event.kind in ("failed", "stopped"):
            count = 0
        elif event.kind == "died" and event.round == after:
            count += 1
    return count


def _age_s(roster: Path, row: RunRow) -> float:
    """Seconds since a run was last started or resumed."""
    began = roster.stat().st_mtime if roster.exists() else datetime.fromisoformat(row.started).timestamp()
    return time.time() - began
