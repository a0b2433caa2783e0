"""What the `fedward hub` commands do: the hub's process is started and ended, sites are let in and shut out."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from fedward_common.cards import SiteCard
from fedward_common.errors import RunError
from fedward_server.enrolment import Presence, bring_in_line, presences
from fedward_server.hub import Hub
from fedward_server.store import SiteRow
from fedward_server.supervisor import LOG, READY
from fedward_server.watch import summary

END_LIMIT_S = 60.0
LOOK_S = 0.2


def start_detached(hub: Hub) -> None:
    """Start the hub's supervisor as a process of its own; returns when sites can connect.

    Raises RunError with its words where it does not come up.
    """
    with (hub.logs / LOG).open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "fedward_server.supervisor", str(hub.folder)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
    assert process.stdout is not None
    try:
        line = process.stdout.readline().decode().strip()
    except KeyboardInterrupt:
        process.terminate()
        raise
    finally:
        process.stdout.close()
    if line != READY:
        process.wait()
        raise RunError(line or f"the hub ended at its start; see {hub.logs / LOG}")


def take_down(hub: Hub) -> None:
    """End the hub's process and what it started; returns when all of it has ended."""
    pid = hub.pid()
    if pid is None:
        raise RunError("the hub is not up")
    os.kill(pid, signal.SIGTERM)
    started = time.monotonic()
    while hub.pid() == pid:
        if time.monotonic() - started > END_LIMIT_S:
            raise RunError(f"the hub (process {pid}) has not ended within {END_LIMIT_S:g} s; see {hub.logs / LOG}")
        time.sleep(LOOK_S)


def let_in(hub: Hub, card: SiteCard) -> SiteRow:
    """Enrol a site; where the hub is up, it can connect from now on."""
    row = hub.enrol(card)
    troubles = bring_in_line(hub) if _up(hub) else []
    if troubles:
        raise RunError(f"{row.site} is enrolled, but {'; '.join(troubles)}")
    return row


def shut_out(hub: Hub, site: str) -> None:
    """Forget a site; where the hub is up, it is disconnected now."""
    hub.forget(site)
    if _up(hub):
        bring_in_line(hub)


def survey(hub: Hub) -> dict[str, Any]:
    """How a hub stands, as JSON."""
    up = _up(hub)
    with hub.store() as store:
        present = presences(hub, store) if up else {}
        return {
            "hub": hub.name,
            "folder": str(hub.folder),
            "address": f"127.0.0.1:{hub.port}",
            "up": up,
            "pid": hub.pid(),
            "certificate_ends": hub.certificate_ends().isoformat(),
            "sites": [_site(row, present.get(name)) for name, row in store.sites().items()],
            "runs": [summary(hub, row) for row in store.runs()],
        }


def lines(hub: Hub, *, follow: bool) -> Iterator[str]:
    """The lines of the hub's log; with `follow`, also those to come, without end."""
    path = hub.logs / LOG
    if not path.exists():
        raise RunError(f"the hub has not been up yet: start it with `fedward hub up {hub.folder}`")
    with path.open(encoding="utf-8", errors="replace") as file:
        rest = ""
        while True:
            rest += file.readline()
            if rest.endswith("\n"):
                yield rest[:-1]
                rest = ""
            elif follow:
                time.sleep(LOOK_S)
            else:
                return


def _up(hub: Hub) -> bool:
    return hub.pid() is not None and hub.link.healthy()


def _site(row: SiteRow, presence: Presence | None) -> dict[str, Any]:
    return {
        "name": row.site,
        "fingerprint": row.fingerprint,
        "added": row.added,
        "connection": "unknown" if presence is None else presence.connection,
        "since": None if presence is None else presence.since,
    }
