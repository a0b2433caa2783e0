"""How a federation stands, as a person at the hub sees it at one look; a steward sees what is his own site's."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from fedward_common.errors import SettingsError
from fedward_common.joining import SHOWN_AHEAD
from fedward_common.site_messages import SiteState
from fedward_server.hub import Hub
from fedward_server.issuing import ENDS_SOON
from fedward_server.joining import Joining
from fedward_server.live import LiveRun, LiveRuns, reason_for
from fedward_server.people import Person
from fedward_server.presence import Presence
from fedward_server.statuses import Statuses, described
from fedward_server.store import RunRow, Store

SHOWN_RUNS = 20
FAILED_SHOWN = timedelta(days=2)


@dataclass(frozen=True, slots=True)
class Overview:
    """Reads how one hub stands."""

    hub: Hub
    store: Store
    live: LiveRuns

    def __call__(self, person: Person, presence: Mapping[str, Presence] | None) -> dict[str, Any]:
        """All of it, as JSON. `presence` is of each site; None where the SuperLink does not answer."""
        at_work = [row for row in self.store.unfinished() if sees(person, row)]
        live = {row.run: self.live.of(row) for row in at_work}
        rows = {row.run: row for row in (*self.store.newest(SHOWN_RUNS, site=person.asked_as), *reversed(at_work))}
        ends, told = Joining(self.hub, self.store).register.ends(), Statuses(self.store).all()
        sites = [
            described(site, _presence(name, presence), ends.get(name), told.get(name))
            for name, site in self.store.sites().items()
            if person.sees(name)
        ]
        return {
            "hub": self.hub.name,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "sites": [{**site, "doing": list(_doing(site, live))} for site in sites],
            "alive": sum(site["connection"] == "online" for site in sites),
            "runs": [_run(row, live.get(run)) for run, row in rows.items()],
            "at_work": len(live),
            "needs": list(self._needs(person, sites, live)),
        }

    def waiting(self, person: Person) -> list[dict[str, Any]]:
        """Who asks to join."""
        return [each for each in Joining(self.hub, self.store).asking() if person.sees(each["name"])]

    def _needs(
        self, person: Person, sites: list[dict[str, Any]], at_work: Mapping[str, LiveRun]
    ) -> Iterator[dict[str, Any]]:
        for each in self.waiting(person):
            yield {"what": "asks_to_join", "site": each["name"]}
        for site in sites:
            for fault in site["status"]["faults"] if site["status"] else ():
                yield {"what": "site_fault", "site": site["name"], "why": fault}
            if site["certificate_ends_soon"]:
                what = "certificate_over" if site["certificate_over"] else "certificate_soon"
                yield {"what": what, "site": site["name"], "date": site["certificate_ends"][:10]}
        for run, live in at_work.items():
            for name, (kind, note) in sorted(live.standing.sites.items()):
                if kind == "waiting" and person.sees(name):
                    yield {"what": "run_waits", "site": name, "run": run, "why": note}
        if person.role == "steward":
            return
        with suppress(SettingsError):  # which `fedward doctor` tells
            yield from self._own_certificates()
        lately = (datetime.now(UTC) - FAILED_SHOWN).isoformat()
        for row in self.store.newest(SHOWN_RUNS, statuses=("failed",), ended_since=lately):
            yield {"what": "run_failed", "site": "", "run": row.run, "why": reason_for(person, row, self.hub) or ""}

    def _own_certificates(self) -> Iterator[dict[str, Any]]:
        """The hub's that end soon and are not renewed without a person."""
        if self.hub.gateway is None:
            return
        ends = {"authority_soon": (self.hub.issuing.current().certificate.not_valid_after_utc, ENDS_SOON)}
        if self.hub.settings.dashboard is not None and self.hub.settings.dashboard.certificate:
            ends["pages_certificate_soon"] = (self.hub.pages_ends(), SHOWN_AHEAD)
        for what, (end, ahead) in ends.items():
            if end < datetime.now(UTC) + ahead:
                yield {"what": what, "site": "", "date": end.date().isoformat()}


def _presence(site: str, of_all: Mapping[str, Presence] | None) -> Presence | None:
    return None if of_all is None else of_all.get(site, Presence(connection="never"))


def _doing(site: Mapping[str, Any], at_work: Mapping[str, LiveRun]) -> Iterator[dict[str, Any]]:
    """What a site does of itself, and in each run that is at work.

    `state` is its own word while it is connected, "awaited" where it has yet to answer a round and has not told more;
    without one, `kind` and `note` are what was heard of it last. `run` is empty where it tells of none at work here.
    """
    says = site["status"] if site["connection"] == "online" else None  # else it is of long ago
    state: SiteState = says["state"] if says else "idle"
    work = (says["work"] if says and state not in ("paused", "silent") else None) or {"run": None, "percent": None}
    nothing = {"run": "", "round": None, "state": None, "percent": None, "kind": None, "note": ""}
    if state != "idle" and work["run"] not in at_work:
        yield {**nothing, "state": state}
    for run, live in at_work.items():
        now = live.standing
        kind, note = now.sites.get(site["name"], (None, ""))
        found = {**nothing, "run": run, "round": now.round}
        if run == work["run"]:
            yield {**found, "state": state, "percent": work["percent"]}
        elif kind != "waiting" and site["name"] in live.awaited():
            yield {**found, "state": "awaited"}
        elif kind is not None:
            yield {**found, "kind": kind, "note": note}


def sees(person: Person, row: RunRow) -> bool:
    """Whether a person may know of a run: a steward of those that ask his site, by its key."""
    own = person.asked_as
    return own is None or row.fingerprint_of(own[0]) == own[1]


def _run(row: RunRow, live: LiveRun | None) -> dict[str, Any]:
    return {
        "run": row.run,
        "study": row.study_id,
        "status": row.status if live is None else live.shown,
        "started": row.started,
        "round": None if live is None else live.standing.round,
        "rounds": None if live is None else live.standing.rounds,
    }
