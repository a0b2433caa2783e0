"""Runs that died without a word: noticed, and recorded as failed with what to do.

A run's process holds a lock in the run's folder for as long as it lives, and records its end before it lets go of it.
"""

import time
from datetime import datetime
from pathlib import Path

from fedward_server.hub import Hub
from fedward_server.locks import holder
from fedward_server.runs import ENGINE, LOCK, ROSTER, end_run
from fedward_server.store import RunRow, Store
from fedward_server.superlink import CONNECTION

GRACE_S = 30.0  # until a run's process has its lock
LONGEST_GRACE_S = 300.0  # until a run has been handed over

_GO_ON = "`fedward study resume` goes on after the last checkpoint"
HUB_DIED = f"the hub was stopped during the run; {_GO_ON}"
PROCESS_DIED = f"the run's process was killed; {_GO_ON}"
NEVER_HANDED_OVER = f"whoever started it was killed; {_GO_ON}"


def fail_unfinished(hub: Hub) -> None:
    """Record every unfinished run as failed: the SuperLink is not up, and nothing is left of what did them."""
    with hub.store() as store:
        for row in _unfinished(store):
            end_run(hub, store, row.run, "failed", HUB_DIED)


def fail_dead(hub: Hub) -> None:
    """Record unfinished runs whose process is gone as failed."""
    with hub.store() as store:
        for row in _unfinished(store):
            reason = _death(hub, row)
            if reason and store.run(row.run).status == "running":  # it may have ended while we looked
                end_run(hub, store, row.run, "failed", reason)


def _unfinished(store: Store) -> list[RunRow]:
    return [row for row in store.runs() if row.engine == ENGINE and row.status == "running"]


def _death(hub: Hub, row: RunRow) -> str:
    """Why nothing works on a run, empty where something does or may yet."""
    folder = hub.runs / row.run
    if holder(folder / LOCK) is not None:
        return ""
    if (folder / LOCK).exists():
        return PROCESS_DIED
    age = _age_s(folder / ROSTER, row)
    if row.flower_run is None:
        return NEVER_HANDED_OVER if age > LONGEST_GRACE_S else ""
    if age < GRACE_S:
        return ""
    status = str(hub.link.flwr("list", CONNECTION, "--run-id", row.flower_run)["runs"][0]["status"])
    return (
        f"its process ended before it began ({status}); `fedward doctor` may tell why" if "finished" in status else ""
    )


def _age_s(roster: Path, row: RunRow) -> float:
    """Seconds since a run was last started or resumed."""
    began = roster.stat().st_mtime if roster.exists() else datetime.fromisoformat(row.started).timestamp()
    return time.time() - began
