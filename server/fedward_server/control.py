"""What the `fedward hub` commands do: the hub's process is started and ended, sites are let in and shut out."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedward_common.cards import SiteCard
from fedward_common.certificates import fingerprint as fingerprint_of
from fedward_common.errors import RunError, UsageError
from fedward_server.enrolment import bring_in_line
from fedward_server.gateway import bring_gateway_in_line
from fedward_server.hub import Hub
from fedward_server.joining import Joining
from fedward_server.presence import seen
from fedward_server.register import Register
from fedward_server.statuses import Statuses, described
from fedward_server.store import SiteRow
from fedward_server.supervisor import LOG, READY
from fedward_server.watch import summary

END_LIMIT_S = 60.0
LOOK_S = 0.2


def start_detached(hub: Hub) -> None:
    """Start the hub's supervisor as a process of its own; returns when sites can connect.

    Raises RunError with its words where it does not come up, UsageError where it is up already.
    """
    hub.logs.mkdir(mode=0o700, exist_ok=True)
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
        kind = UsageError if process.wait() == UsageError.exit_code else RunError
        raise kind(line or f"the hub ended at its start; see {hub.logs / LOG}")


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
    _let_through(hub, row)
    return row


def approve(hub: Hub, site: str, fingerprint: str, *, by: str | None = None) -> SiteRow:
    """Let a site in that asked to join with this fingerprint; where the hub is up, it can connect from now on."""
    with hub.store() as store:
        joining = Joining(hub, store, by)
        row = joining.approve(joining.asked_by(site, fingerprint)[0])
    _let_through(hub, row)
    return row


def _let_through(hub: Hub, row: SiteRow) -> None:
    try:
        troubles = bring_in_line(hub) if _up(hub) else []
    finally:
        bring_gateway_in_line(hub)
    if troubles:
        raise RunError(f"{row.site} is enrolled, but {'; '.join(troubles)}")


def shut_out(hub: Hub, site: str, *, by: str | None = None) -> list[str]:
    """Forget a site; where the hub is up, it is disconnected now. Gives the names of its stewards, who went with it.

    Raises RunError where that did not succeed; the same call may then be made again, also of a site that is forgotten.
    """
    with ExitStack() as both:  # whatever fails before
        both.callback(lambda: bring_in_line(hub) if _up(hub) else [])
        both.callback(bring_gateway_in_line, hub)  # first: a certificate that was stolen gets no further
        return hub.forget(site, by=by)


def rotate(hub: Hub, root: Path, *, distrust: bool) -> datetime:
    """Make a new authority below the root, whose key is in the folder `root`; gives when it ends (UTC).

    With `distrust`, the ones before count no more, and every site has to join anew.
    """
    made = hub.issuing.begin_next(hub.name, root, distrust=distrust)
    ends = made.certificate.not_valid_after_utc
    hub.audit().append("authority made", {"ends": ends.isoformat(), "distrusts": distrust})
    if distrust:
        with hub.store() as store:
            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            Register(store).revoke_all_but(fingerprint_of(made.certificate), now)
    hub.renew_card()
    bring_gateway_in_line(hub)
    return ends


def survey(hub: Hub) -> dict[str, Any]:
    """How a hub stands, as JSON."""
    up, ends_shown = _up(hub), hub.shown_ends()
    with hub.store() as store:
        present = seen(hub, store) if up else {}
        joining = Joining(hub, store)
        ends, told = joining.register.ends(), Statuses(store).all()
        return {
            "hub": hub.name,
            "folder": str(hub.folder),
            "address": hub.address,
            "gateway": hub.gateway is not None,
            "up": up,
            "pid": hub.pid(),
            "certificate_ends": None if ends_shown is None else ends_shown.isoformat(),
            "waiting": joining.asking(),
            "sites": [
                described(row, present.get(name), ends.get(name), told.get(name)) for name, row in store.sites().items()
            ],
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
