"""What a hub has for one site: the studies that ask for it, and why runs went on without it. Nothing of other runs.

Runs tell the second in their events, which are read once, each look going on where the last one ended.
"""

import threading
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import rfc8785

from fedward_common.site_messages import MAX_NOTICES, MAX_REASON, MAX_RUNS, AskedStudy, HubNews, Notice, NoticeKind
from fedward_common.study_faults import printable
from fedward_server.approvals import Approvals
from fedward_server.events import EventKind
from fedward_server.hub import Hub
from fedward_server.journal import Tail
from fedward_server.runs import ENGINE
from fedward_server.store import RunRow, Store

TOLD_AFTER = timedelta(days=1)  # a run has ended: a reason may be what ended it
MAX_STUDIES = 4 * 2**20  # characters of studies in one answer
MAX_KEPT = 20  # reasons of a site in a run, the last
NOTICED = 32  # runs of a site whose events are read for it: those at work, then the newest
HELD = 8 * NOTICED  # runs whose events are read on, of all sites
_KINDS: dict[EventKind, NoticeKind] = {"refused": "refused", "left-out": "left-out", "unsurveyed": "left-out"}


@dataclass(slots=True)
class SiteNews:
    """Looks for sites, from any number of threads, in the database and the runs of one hub."""

    hub: Hub
    store: Store
    _told: "OrderedDict[str, _Told]" = field(default_factory=OrderedDict)  # by run, the last that were looked at
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def of(self, site: str) -> HubNews:
        """All that there is for an enrolled site, the newest run first."""
        runs = self._runs(site)
        approvals = Approvals(self.store).of_site(site)
        studies, size = list[AskedStudy](), 0
        for row in runs:
            if not row.unfinished or len(studies) == MAX_RUNS:
                continue
            text = rfc8785.dumps(row.study_json).decode()
            size += len(text)
            if size <= MAX_STUDIES:
                told = approvals.get(row.study_digest)
                approval = None if told is None else told.state
                studies.append(AskedStudy(run=row.run, digest=row.study_digest, study=text, approval=approval))
        noticed = sorted(runs, key=lambda row: not row.unfinished)[:NOTICED]
        notices = [notice for row in noticed for notice in self._notices(site, row)]
        return HubNews(studies=tuple(studies), notices=tuple(notices[:MAX_NOTICES]))

    def asks(self, site: str, digests: Collection[str]) -> bool:
        """Whether each of these studies asks for a site in a run that is at work, or was a day ago."""
        return {row.study_digest for row in self._runs(site)}.issuperset(digests)

    def _runs(self, site: str) -> list[RunRow]:
        """The runs whose roster holds a site, by its key too: a name may have been another hospital's before."""
        own = self.store.sites().get(site)
        recent = self.store.recent(ENGINE, site, datetime.now(UTC) - TOLD_AFTER)
        return [row for row in recent if own is not None and row.fingerprint_of(site) == own.fingerprint]

    def _notices(self, site: str, row: RunRow) -> list[Notice]:
        with self._lock:
            told = self._told.setdefault(row.run, _Told(Tail(self.hub.runs / row.run)))
            self._told.move_to_end(row.run)
            while len(self._told) > HELD:
                self._told.popitem(last=False)
            return told.of(site, row)


@dataclass(slots=True)
class _Told:
    """What a run's events say of its sites: by site, and by round and kind, the reason."""

    tail: Tail
    reasons: dict[str, dict[tuple[int, NoticeKind], str]] = field(default_factory=dict)
    done: int = 0  # rounds; what is refused of a round later is of what closes a run

    def of(self, site: str, row: RunRow) -> list[Notice]:
        for event in self.tail.new():
            kind = _KINDS.get(event.kind)
            if event.kind == "aggregated":
                self.done = max(self.done, event.round)
            late = event.kind == "refused" and 0 < event.round <= self.done
            if kind is not None and event.site and not late:
                found = self.reasons.setdefault(event.site, {})
                found[event.round, kind] = printable(event.note)[:MAX_REASON]
                if len(found) > MAX_KEPT:
                    del found[next(iter(found))]
        return [
            Notice(run=row.run, digest=row.study_digest, round=number, kind=kind, reason=reason)
            for (number, kind), reason in self.reasons.get(site, {}).items()
        ]
