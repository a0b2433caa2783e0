"""What a site tells its hub around rounds, made here and nowhere else: its steward's answers, and how the site is.

Beside it, what it does with what the hub says, which came through the network side and is read as a stranger's words:
a study that names this site with its key waits for the steward, and why a run went on without this site is written
down. Nothing that is heard approves anything. Nothing that is told names a patient, a path or a host, or counts
patients or images; the outbox has the last word.
"""

import logging
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from fedward_client import cache_room
from fedward_client.desk import Desk
from fedward_client.ledger import Approval as Given
from fedward_client.ledger import Declined
from fedward_client.member import Member
from fedward_client.policy import Departure, on_roster
from fedward_client.training.device import gpu
from fedward_common import __version__
from fedward_common.errors import RecordError
from fedward_common.records import bound, printable
from fedward_common.site_messages import (
    MAX_LINE,
    Approval,
    AskedStudy,
    Gpu,
    HubNews,
    Notice,
    SiteReport,
    SiteState,
    SiteStatus,
    Work,
)
from fedward_common.study import StudySpec

GIB = 2**30
_STATES: dict[str, SiteState] = {
    "stats": "preparing",
    "prepare": "preparing",
    "train": "training",
    "evaluate": "evaluating",
}

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Reporter:
    """Hears and reports for one member. Times are UTC."""

    member: Member
    desk: Desk
    _news: str = ""  # heard last
    _since: dict[str, datetime] = field(default_factory=dict)  # by digest of a study that a run asks for: when heard
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, news: str) -> SiteReport:
        """What the hub may be told, once its `news` (the JSON of a HubNews; "" for none yet) are heard.

        Raises RecordError where they are none, SettingsError or AuditError where they cannot be written down.
        """
        with self._lock:
            if news not in {"", self._news}:
                self._hear(news)
                self._news = news
            report = SiteReport(approvals=tuple(self._approvals()), status=self._status())
            return self.desk.outbox.report(report)

    # What is heard ---------------------------------------------------------------------------------------------------

    def _hear(self, text: str) -> None:
        try:
            news = HubNews.model_validate_json(text)
        except ValidationError:
            raise RecordError("the hub says something that is not agreed: install the same Fedward") from None
        known = {each.digest for each in self.member.ledger.studies()}
        studies = {study.digest: study for asked in news.studies if (study := self._study(asked)) is not None}
        for digest, study in studies.items():
            if digest not in known:
                self.member.ledger.asked(study)
                log.info("the hub asks for study '%s' (digest %s…)", study.study.id, digest[:12])
        now = datetime.now(UTC)
        self._since = {digest: self._since.get(digest, now) for digest in studies}
        for notice in news.notices:
            if notice.digest in known | studies.keys():
                self._write_down(notice)

    def _study(self, asked: AskedStudy) -> StudySpec | None:
        """The study that a hub asks for, if it is what its digest says and its steward can let it run here."""
        try:
            study = bound(StudySpec.from_json(asked.study))
        except ValueError:
            log.warning("the hub asks for a study that this Fedward, %s, does not read: install the hub's", __version__)
            return None
        departure = Departure(site=self.member.site.name, study=study, kind="prepare")
        ours = on_roster(self.member.fingerprint)(departure) is None
        today = datetime.now(UTC).date()
        return study if study.digest == asked.digest and ours and not study.ended(today) else None

    def _write_down(self, notice: Notice) -> None:
        outbox = self.desk.outbox
        if outbox.said(notice.reason):
            return
        what = f"round {notice.round}" if notice.kind == "refused" else "the run"
        sentence = f"{what} went on without this site: {notice.reason}"
        outbox.quarantined(notice.digest, notice.run, notice.round, notice.kind, sentence)

    # What is told ----------------------------------------------------------------------------------------------------

    def _approvals(self) -> Iterator[Approval]:
        """The steward's answers to the studies that the hub's runs ask for."""
        given = {each.digest: each for each in self.member.ledger.approvals()}
        declined = {each.digest: each for each in self.member.ledger.declined()}
        for digest, since in self._since.items():
            if digest in given:
                yield _given(given[digest])
            elif digest in declined:
                yield _declined(declined[digest])
            else:
                yield Approval(digest=digest, state="awaiting", time=since)

    def _status(self) -> SiteStatus:
        site, found = self.member.site, gpu()
        spool, cache = _free(site.spool), _free(cache_room.root_of(site))
        work = self.desk.at_work
        state = "idle" if work is None else _STATES[work[0].kind]
        scarce = f"less than {site.min_free_bytes // 2**20} MiB is free on a disk of this site"
        return SiteStatus(
            fedward=__version__,
            state="paused" if self.member.ledger.paused() else state,
            gpu=None if found is None else Gpu(name=printable(found[0], MAX_LINE), memory_gib=found[1] // GIB),
            spool_free_gib=spool // GIB,
            cache_free_gib=cache // GIB,
            work=None if work is None else Work(run=work[0].run, round=work[1], percent=self._percent(work[0].kind)),
            faults=(scarce,) if min(spool, cache) < site.min_free_bytes else (),
        )

    def _percent(self, kind: str) -> int | None:
        """How much of a training is done; of all else it would tell how many patients there are."""
        events = [each for each in self.desk.outbox.latest() if kind == each.stage == "train"]
        return next((100 * each.done // each.total for each in events if each.done < each.total), None)


def _given(given: Given) -> Approval:
    time = datetime.fromisoformat(given.given)
    if datetime.now(UTC).date() <= given.until:
        return Approval(digest=given.digest, state="approved", time=time, until=given.until)
    return Approval(digest=given.digest, state="awaiting", time=time, reason=f"the approval ended on {given.until}")


def _declined(declined: Declined) -> Approval:
    time = datetime.fromisoformat(declined.since)
    return Approval(digest=declined.digest, state=declined.state, time=time, reason=declined.reason or None)


def _free(path: Path) -> int:
    """Bytes that are free where a folder is or will be."""
    there = next(each for each in (path, *path.parents) if each.exists())
    return shutil.disk_usage(there).free
