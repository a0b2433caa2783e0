"""The one door out of a site. Everything that leaves goes through `Outbox`: a list of links with one signature.

policy, difference, clip, noise, quantise, mask, receipt, in that order, in code, whatever a study says; the site has
the last word. Noise and mask pass things on as they are in this version. The outbox alone writes to the spool towards
the hub and to the stream of events that the site's own tools watch (an import contract and a test hold it).
"""

import hashlib
import logging
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedward_client import difference as difference_rule
from fedward_client import spool_writer
from fedward_client.ledger import Ledger
from fedward_client.policy import Departure, Policy
from fedward_client.site_state import RunState
from fedward_client.spool import OUT, Parcel
from fedward_common.audit import AuditLog
from fedward_common.cohort_statistics import Statistics
from fedward_common.distance import update_norm
from fedward_common.errors import AuditError, PolicyError
from fedward_common.events import Event
from fedward_common.records import (
    Arrays,
    Evaluated,
    Prepared,
    Question,
    Trained,
    model_sha256,
    printable,
)
from fedward_common.site_messages import NoticeKind, SiteReport
from fedward_common.study import StudySpec

if TYPE_CHECKING:
    from fedward_common.compression import Coded

log = logging.getLogger(__name__)

Answer = Statistics | Prepared | Trained | Evaluated
RECEIPT = "left"  # the audit log's event of a receipt
REFUSED = "refused"
QUARANTINED = "quarantined"  # the hub went on without this site's answer, or without this site
MOST_NAMES = 1000  # of arrays, in a receipt
_RESIDUAL = "residual"
_BELOW = 1 - 2**-8  # of a site's norm: what a coding rounds up stays below it
_BACKLOG = 1000  # events that a slow watcher may lag behind; then it misses some, and nobody waits for it


@dataclass(frozen=True, kw_only=True, slots=True)
class Outgoing:
    """An answer at the door. `reference` is the model that came with the question: an update is the difference.

    `norm` is the L2 norm of the update where its arrays are coded and no longer tell it. `records` are those of the
    patients whom statistics are of (`survey.Records`); they stay here.
    """

    site: str
    question: Question
    round: int
    answer: Answer
    arrays: Arrays = field(default_factory=dict)
    reference: Arrays = field(default_factory=dict)
    norm: float | None = None
    records: Mapping[str, str] = field(default_factory=dict)

    @property
    def departure(self) -> Departure:
        """What the policy looks at."""
        return _departure(self.site, self.question)


def _departure(site: str, question: Question) -> Departure:
    return Departure(site=site, study=question.study, kind=question.kind, hand_over=question.hand_over)


Link = Callable[[Outgoing], Outgoing]
States = Callable[[StudySpec, str], RunState | None]


def policy(rules: Policy) -> Link:
    """Raises PolicyError for what may not leave, whatever it took to compute.

    Validation figures ride on an update; where the policy lets no evaluation leave they stay, and the update goes.
    """

    def link(outgoing: Outgoing) -> Outgoing:
        rules.check(outgoing.departure)
        if isinstance(outgoing.answer, Trained) and outgoing.answer.incoming is not None:
            try:
                rules.check(replace(outgoing.departure, kind="evaluate"))
            except PolicyError:
                return replace(outgoing, answer=outgoing.answer.model_copy(update={"incoming": None}))
        return outgoing

    return link


def difference(ledger: Ledger | None, min_cell: int) -> Link:
    """Raises PolicyError for statistics of nearly the patients of an earlier answer; remembers whom the others are of.

    Tables and sums for a scale are held against their like: one says nothing of what the other would at its patients.
    """

    def link(outgoing: Outgoing) -> Outgoing:
        if ledger is None or not isinstance(outgoing.answer, Statistics):
            return outgoing
        patients = difference_rule.as_bytes(outgoing.records)

        def check(before: Iterable[bytes]) -> None:
            difference_rule.check(patients, before, site=outgoing.site, min_cell=min_cell)

        ledger.cover("scale" if outgoing.answer.wanted == "scale" else "tables", patients, check)
        return outgoing

    return link


def clip(max_norm: float | None) -> Link:
    """Scales an update down to an L2 norm of `max_norm` over all its float arrays; None leaves it as it is.

    The model that a site trains without the others is no update: it leaves whole, where the policy names it, or stays.
    """

    def link(outgoing: Outgoing) -> Outgoing:
        if max_norm is None or not isinstance(outgoing.answer, Trained):
            return outgoing
        norm = update_norm(outgoing.arrays, outgoing.reference)
        if norm <= max_norm:
            return outgoing
        return replace(outgoing, arrays=_shrunk(outgoing, max_norm / norm))

    return link


def _shrunk(outgoing: Outgoing, scale: float) -> dict[str, np.ndarray]:
    return {name: _scaled(array, outgoing.reference[name], scale) for name, array in outgoing.arrays.items()}


def _scaled(array: np.ndarray, reference: np.ndarray, scale: float) -> np.ndarray:
    if array.dtype.kind != "f":
        return array
    return np.asarray(reference + (array - reference) * scale, dtype=array.dtype)


def noise(outgoing: Outgoing) -> Outgoing:
    """Differential privacy's noise: none in this version, and a study that asks for it is refused when it is read."""
    return outgoing


def quantise(state: States, max_norm: float | None) -> Link:
    """Codes an update as the study says; what the coding leaves out waits in the run's `state` for the next round.

    What waited before is added first, so the sum is held to the site's `max_norm` once more; what that cuts is gone.
    The same update of the same round gives the same bits, however often it is asked for. Where a site keeps no state,
    what is left out is lost.
    """

    def link(outgoing: Outgoing) -> Outgoing:
        study = outgoing.question.study
        if study.update.compression == "none" or not isinstance(outgoing.answer, Trained):
            return outgoing
        held = state(study, outgoing.question.run)
        layer, fold = study.layer(outgoing.round), study.fold(outgoing.round)
        part = _RESIDUAL if layer is None else f"{_RESIDUAL}-{layer}"  # of other arrays
        part = part if fold is None else f"{part}-fold-{fold}"  # of other patients
        residual = held.load(part, before=outgoing.round) if held is not None else {}
        coded = _coded(outgoing, residual)
        if max_norm is not None and coded.norm > max_norm:
            scale = _BELOW * max_norm / coded.norm
            coded = _coded(replace(outgoing, arrays=_shrunk(outgoing, scale)), residual, weight=scale)
        if held is not None and coded.residual:
            held.save(part, outgoing.round, coded.residual)
        return replace(outgoing, arrays=coded.arrays, norm=coded.norm)

    return link


def _coded(outgoing: Outgoing, residual: Arrays, *, weight: float = 1) -> "Coded":
    from fedward_common.compression import encode_update, rounding  # torch, which a command line does without

    study = outgoing.question.study
    random = rounding(study, outgoing.site, outgoing.round)
    return encode_update(
        outgoing.arrays, outgoing.reference, study.update, residual=residual, weight=weight, random=random
    )


def mask(outgoing: Outgoing) -> Outgoing:
    """Secure aggregation's masks: none in this version; receipts say so."""
    return outgoing


def receipt(log: AuditLog | None) -> Link:
    """Writes down what leaves, signed and chained, before it leaves; a log that cannot be written keeps it here."""

    def link(outgoing: Outgoing) -> Outgoing:
        if log is not None:
            log.append(RECEIPT, _receipt(outgoing))
        return outgoing

    return link


def _receipt(outgoing: Outgoing) -> dict[str, Any]:
    text = outgoing.answer.model_dump_json()
    data: dict[str, Any] = {
        "study": outgoing.question.study.digest,
        "study_id": outgoing.question.study.study.id,
        "run": outgoing.question.run,
        "kind": outgoing.question.kind,
        "round": outgoing.round,
        "fields": sorted(outgoing.answer.model_fields_set),
        "answer_bytes": len(text.encode()),
        "answer_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "arrays": sorted(outgoing.arrays)[:MOST_NAMES],
        "array_count": len(outgoing.arrays),
        "array_bytes": sum(array.nbytes for array in outgoing.arrays.values()),
        "masked": False,
    }
    if outgoing.arrays:
        norm = update_norm(outgoing.arrays, outgoing.reference) if outgoing.norm is None else outgoing.norm
        data["model_sha256"] = model_sha256(outgoing.arrays)
        data["update_norm"] = float(f"{norm:.6g}")
        data["compression"] = outgoing.question.study.update.compression
    return data


@dataclass(slots=True)
class Outbox:
    """A site's door. `spool` is where arrays go to the network side; None where the engine carries them itself."""

    site: str
    rules: Policy
    max_update_norm: float | None = None
    log: AuditLog | None = None
    spool: Path | None = None
    spool_bytes: int = 0
    state: States = lambda _study, _run: None  # where a run keeps what its next round needs
    ledger: Ledger | None = None  # of whom statistics have left, what was heard; None where nothing leaves this machine
    min_cell: int = 1
    _watchers: list["queue.Queue[Event]"] = field(default_factory=list)
    tells_status: bool = False  # whether the hub hears how the site is
    reported: SiteReport | None = None  # what it was let to hear last
    _refused: dict[str, str] = field(default_factory=dict)
    _heard: set[tuple[str, int, NoticeKind]] = field(default_factory=set)  # runs, rounds and kinds of what is logged
    _hearing: threading.Lock = field(default_factory=threading.Lock)
    _last: dict[str, Event] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def links(self) -> tuple[Link, ...]:
        """What everything passes through, in this order."""
        coding = quantise(self.state, self.max_update_norm)
        apart = difference(self.ledger, self.min_cell)
        return (policy(self.rules), apart, clip(self.max_update_norm), noise, coding, mask, receipt(self.log))

    def admit(self, question: Question) -> None:
        """Raise PolicyError for a question whose answer may not leave: before any work is done for it."""
        self.rules.check(_departure(self.site, question))

    def lends_model(self, study: StudySpec) -> bool:
        """Whether the model may leave that the site trains without the others."""
        try:
            self.rules.check(Departure(site=self.site, study=study, kind="evaluate", hand_over=True))
        except PolicyError:
            return False
        return True

    def release(self, outgoing: Outgoing) -> Outgoing:
        """What may leave of an answer. Raises PolicyError where nothing may, AuditError where it cannot be logged."""
        for link in self.links:
            outgoing = link(outgoing)
        return outgoing

    def ship(self, outgoing: Outgoing) -> Parcel | None:
        """Write a released answer's arrays into the spool; None where it has none."""
        if self.spool is None or not outgoing.arrays:
            return None
        return spool_writer.write(self.spool, OUT, outgoing.arrays, limit=self.spool_bytes)

    def holds(self, parcel: Parcel | None) -> bool:
        """Whether an answer's arrays are still in the spool."""
        return parcel is None or (self.spool is not None and (self.spool / OUT / parcel.sha256).is_file())

    def drop(self, parcel: Parcel) -> None:
        """Remove an answer's arrays that nobody will ask for again."""
        if self.spool is not None:
            spool_writer.remove(self.spool, OUT, parcel.sha256)

    def tidy(self, kept: set[str]) -> None:
        """Remove from the spool what no kept answer names: what a killed process left."""
        if self.spool is not None:
            spool_writer.tidy(self.spool, OUT, kept)

    def refuse(self, question: Question | None, reason: str) -> str:
        """A refusal as it leaves: one printable line, and an entry in the log; said again, it is not logged again."""
        reason = printable(reason)
        data = {"reason": reason}
        if question is not None:
            data |= {"study": question.study.digest, "run": question.run, "kind": question.kind}
        if data != self._refused:  # a hub that waits for an approval asks every few seconds
            self._refused = data
            log.warning("refused: %s", reason)
            if self.log is not None:
                with suppress(AuditError):  # no refusal is held back because the log is full
                    self.log.append(REFUSED, data)
        return reason

    def quarantined(self, study: str, run: str, number: int, kind: NoticeKind, sentence: str) -> None:
        """Write down why the hub went on without this site's update of a round; told again, it is not written again."""
        with self._hearing:  # two ways bring the same
            if (run, number, kind) in self._heard:
                return
            name = f"heard, round {number}: {kind}"
            if self.ledger is None or not self.ledger.remembers(run, name):  # from before a restart
                data = {"study": study, "run": run, "round": number, "kind": kind, "reason": printable(sentence)}
                log.warning("the hub says of %s: %s", run, data["reason"])
                if self.log is not None:
                    self.log.append(QUARANTINED, data)
                if self.ledger is not None:
                    self.ledger.once(run, name, printable(sentence))
            self._heard.add((run, number, kind))

    def said(self, reason: str) -> bool:
        """Whether a reason is this site's own, which a hub gave back."""
        return reason == self._refused.get("reason")

    def report(self, report: SiteReport) -> SiteReport:
        """What the hub may hear around rounds: answers of the steward, and how the site is where the policy lets it."""
        self.reported = report if self.tells_status else report.model_copy(update={"status": None})
        return self.reported

    # Events ----------------------------------------------------------------------------------------------------------

    def tell(self, event: Event) -> None:
        """Tell the site's own people how far something is. Holds no identifier: `Event` has no field for one."""
        with self._lock:
            self._last[event.stage] = event
            for watcher in self._watchers:
                with suppress(queue.Full):
                    watcher.put_nowait(event)

    def latest(self) -> list[Event]:
        """The last event of every stage."""
        with self._lock:
            return list(self._last.values())

    @contextmanager
    def watching(self) -> Iterator["queue.Queue[Event]"]:
        """A queue that gets every event from now on."""
        watcher: queue.Queue[Event] = queue.Queue(_BACKLOG)
        with self._lock:
            self._watchers.append(watcher)
        try:
            yield watcher
        finally:
            with self._lock:
                self._watchers.remove(watcher)
