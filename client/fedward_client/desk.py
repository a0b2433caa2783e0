"""A site's desk: a hub's question comes in, what may leave goes out, and nothing is raised past it.

Every engine and every transport uses it. The text of a `FedwardError` travels to the hub, except a `SettingsError`'s
(settings are folders of this machine); of anything else only the type does. One question is worked on at a time.
"""

import hashlib
import json
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fedward_client.handlers import Hospital, model_sent
from fedward_client.ledger import Answered, Ledger
from fedward_client.measuring import Records
from fedward_client.outbox import Answer, Outbox, Outgoing
from fedward_client.spool import Parcel
from fedward_client.tally import Tally
from fedward_common.cohort_statistics import Statistics
from fedward_common.errors import FedwardError, PolicyError, RecordError, RunError, SettingsError
from fedward_common.events import Event
from fedward_common.records import WAITS, Arrays, Evaluated, Prepared, Question, Trained, read_config

SETTINGS_UNUSABLE = "the site's settings cannot be used; its log says why"
RUNS = 10  # of a study that get figures of its patients

log = logging.getLogger(__name__)

_ANSWERS: dict[str, type[Answer]] = {
    "stats": Statistics,
    "prepare": Prepared,
    "train": Trained,
    "evaluate": Evaluated,
}
_QUERIES = {"stats", "prepare"}  # kinds of question that come without a model


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What leaves: an answer with its arrays (in memory, or as a parcel in the spool), or a refusal in words."""

    answer: Answer | None = None
    arrays: Arrays = field(default_factory=dict)
    parcel: Parcel | None = None
    refusal: str = ""


def guarded(work: Callable[[], Reply], refuse: Callable[[str], str] = str) -> Reply:
    """The site's edge: `work`'s reply, or a refusal in words that may travel."""
    try:
        return work()
    except SettingsError:
        log.exception("the site's settings cannot be used")
        return Reply(refusal=refuse(SETTINGS_UNUSABLE))
    except FedwardError as error:
        return Reply(refusal=refuse(str(error)))
    except Exception as error:
        log.exception("the site failed to answer")
        return Reply(refusal=refuse(f"{type(error).__name__} at the site; its log says where"))


@dataclass(slots=True)
class Desk:
    """Answers for one hospital. With a ledger, a question asked again gets the stored bytes."""

    hospital: Hospital
    outbox: Outbox
    ledger: Ledger | None = None
    tally: Tally = field(default_factory=Tally)
    _busy: threading.Lock = field(default_factory=threading.Lock)
    _door: threading.Lock = field(default_factory=threading.Lock)
    _hands: list[str] = field(default_factory=list)  # digests of the studies of admitted questions
    at_work: tuple[Question, int] | None = None  # the question in hand, and its round

    def answer(
        self, config: Mapping[str, Any], arrays: Callable[[], Arrays], sha256: str = "", *, kind: str | None = None
    ) -> Reply:
        """The reply to a question: its config, its arrays, and (where there is one) the digest of their parcel.

        `kind` is what the transport says that it is ("query" for those without a model); a question that says
        otherwise is refused.
        """
        asked: list[Question] = []

        def refuse(reason: str) -> str:
            self.tally.refuse()
            return self.outbox.refuse(asked[0] if asked else None, reason)

        def work() -> Reply:
            question, numbers = read_config(config)
            if kind not in {None, "query" if question.kind in _QUERIES else question.kind}:
                raise RecordError(f"a question of kind '{question.kind}' came as '{kind}'")
            asked.append(question)
            number = int(numbers.get("server-round", 0)) if question.kind == "train" else 0
            with self._in_hand(question):
                if question.notice is not None:
                    study = question.study.digest
                    self.outbox.quarantined(study, question.run, number - 1, "refused", question.notice)
                with self._turn(question, number), self.tally.working():
                    return self._answer(question, number, arrays, _digest(config, sha256))

        reply = guarded(work, refuse)
        if reply.answer is not None:
            self.tally.answer(asked[0].kind, reply.answer)
        return reply

    @contextmanager
    def without(self, study: str) -> Iterator[None]:
        """While nothing is admitted, and nothing of a study (by its digest) is in hand. Raises RunError where it is."""
        with self._door:
            if study in self._hands:
                raise RunError(
                    f"site '{self.hospital.source.name}' is at work for a round of this study: wait until it is over "
                    "(`fedward site watch`), or `fedward site down` ends it"
                )
            self.hospital.let_go(study)
            yield

    @contextmanager
    def _in_hand(self, question: Question) -> Iterator[None]:
        with self._door:
            self._admit(question)
            self._hands.append(question.study.digest)
        try:
            yield
        finally:
            self._hands.remove(question.study.digest)

    def _admit(self, question: Question) -> None:
        try:
            self.outbox.admit(question)
        except PolicyError as error:
            if self.ledger is not None and str(error).startswith(WAITS):
                self.ledger.asked(question.study)  # so that the steward can read it
            raise

    @contextmanager
    def _turn(self, question: Question, number: int) -> Iterator[None]:
        """First come, first served; who waits is told why."""
        if not self._busy.acquire(blocking=False):
            note = f"{question.run} waits: this site works for another run"
            self.outbox.tell(Event(site=self.hospital.source.name, stage="wait", done=0, total=1, note=note))
            self._busy.acquire()
        self.at_work = question, number
        try:
            yield
        finally:
            self.at_work = None
            self._busy.release()

    def _answer(self, question: Question, number: int, arrays: Callable[[], Arrays], digest: str) -> Reply:
        self.hospital.check_opted_out(question)  # a stored answer may not have left yet
        if stored := self._stored(question, number, digest):
            return stored
        self._count_run(question)
        reference = model_sent(question, arrays()) if question.kind not in _QUERIES else {}
        answer, update, records = self._work(question, number, reference)
        self.hospital.check_opted_out(question)  # somebody may have asked while it was worked on
        released = self.outbox.release(
            Outgoing(
                site=self.hospital.source.name,
                question=question,
                round=number,
                answer=answer,
                arrays=update,
                reference=reference,
                records=records,
            )
        )
        parcel = self.outbox.ship(released)
        self._keep(question, number, digest, released.answer, parcel)
        if question.kind == "train":
            self.hospital.settle(question, number)
        return Reply(answer=released.answer, arrays=released.arrays, parcel=parcel)

    def _count_run(self, question: Question) -> None:
        """Raise PolicyError where a study's patients were scored by `RUNS` runs before.

        A run gets figures at one set of operating points; those of very many would add up to patients' scores.
        """
        if self.ledger is None or question.kind != "evaluate":
            return
        for place in range(RUNS):
            if self.ledger.once(question.study.digest, f"scored by run {place}", question.run) == question.run:
                return
        raise PolicyError(
            f"{self.hospital.source.name} has given {RUNS} runs figures of this study: begin it with another "
            "[training] seed, which its steward reads and approves as another study"
        )

    def _work(self, question: Question, number: int, arrays: Arrays) -> tuple[Answer, dict[str, np.ndarray], Records]:
        """The answer, the arrays beside it, and the records of the patients whom statistics are of."""
        if question.kind == "stats":
            surveyed = self.hospital.survey(question)
            return surveyed.statistics, {}, surveyed.records
        if question.kind == "prepare":
            prepared = self.hospital.prepare(question)
            return prepared.model_copy(update={"local_model": self.outbox.lends_model(question.study)}), {}, {}
        if question.kind == "evaluate":
            if question.model == "alone":
                evaluated, own = self.hospital.alone(question, arrays)
                return evaluated, own if question.hand_over else {}, {}
            if question.model == "other" and not self.outbox.lends_model(question.study):
                raise PolicyError(f"{self.hospital.source.name} scores others' models only where it lends its own")
            return self.hospital.evaluate(question, arrays), {}, {}
        return *self.hospital.train(question, arrays, round_number=number), {}

    def _keeps(self, question: Question) -> bool:
        """Answers are kept where their arrays are: in the spool."""
        return self.outbox.spool is not None and question.kind != "prepare"

    def _stored(self, question: Question, number: int, digest: str) -> Reply | None:
        """The stored answer to exactly this question, while its parcel is still there."""
        if self.ledger is None or not self._keeps(question):
            return None
        held = self.ledger.answered(
            study=question.study.digest, run=question.run, kind=question.kind, number=number, side=_side(question)
        )
        if held is None or held.question != digest:
            return None
        parcel = Parcel.model_validate_json(held.parcel) if held.parcel else None
        if not self.outbox.holds(parcel):
            return None
        return Reply(answer=_ANSWERS[question.kind].model_validate_json(held.answer), parcel=parcel)

    def _keep(self, question: Question, number: int, digest: str, answer: Answer, parcel: Parcel | None) -> None:
        if self.ledger is None or not self._keeps(question):
            return
        dropped = self.ledger.keep(
            Answered(
                study=question.study.digest,
                run=question.run,
                kind=question.kind,
                round=number,
                side=_side(question),
                question=digest,
                answer=answer.model_dump_json(),
                parcel=parcel.model_dump_json() if parcel else None,
            )
        )
        for text in dropped:
            self.outbox.drop(Parcel.model_validate_json(text))


def _side(question: Question) -> str:
    """What tells an evaluation, or statistics, from the run's others."""
    if question.kind == "stats":
        return question.statistics
    if question.fold is not None:
        return f"fold {question.fold}"
    return question.side if question.model == "sent" else f"{question.side} {question.model}"


def _digest(config: Mapping[str, Any], sha256: str) -> str:
    """What names a whole question, its arrays included."""
    text = json.dumps([dict(config), sha256], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
