"""What a run asks its sites, for how long it waits, and what it tells of it."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy.typing as npt
from flwr.app import ArrayRecord, Message, MessageType
from flwr.serverapp import Grid

from fedward_common.errors import RecordError
from fedward_common.metrics import Evaluation
from fedward_common.records import Evaluated, Question, arrays_in, from_array_record, question_record, to_array_record
from fedward_common.study import Scale, StudySpec
from fedward_server.events import EventKind, Listener, RunEvent
from fedward_server.exchange import Connected, Trip, read_reply
from fedward_server.roster import Participant

log = logging.getLogger(__name__)

State = dict[str, npt.NDArray[Any]]


class Scored(NamedTuple):
    """A site's answer to a question of kind "evaluate", and the arrays beside it: none but where a model was asked."""

    site: Participant
    evaluated: Evaluated
    arrays: ArrayRecord


@dataclass(kw_only=True, slots=True)
class Inquiry:
    """The questions of one run over its grid."""

    grid: Grid
    study: StudySpec
    run: str
    scale: Scale | None = None  # that the run's sites measured, where the study leaves it to them
    listener: Listener
    connected: Connected | None = None  # in a deployment: the study's sites that are connected now, and their nodes
    deadline_s: float
    lets_go: bool = True  # of sites that are gone; not in a first round after a resume, when they may be coming back
    gone: set[str] = field(default_factory=set)  # the sites that were gone in the last trip

    def question(self, kind: Literal["prepare", "train", "evaluate"], **details: Any) -> Question:
        """A question of this run."""
        return Question(kind=kind, study=self.study, run=self.run, scale=self.scale, **details)

    def trip(self, questions: Mapping[str, Message], number: int, **options: Any) -> Trip:
        """A question to several sites, by their names, in or after round `number`."""
        return Trip(
            carrier=self.grid,
            questions=questions,
            lets_go=self.study.strategy.deadline == "adaptive" and self.lets_go,
            connected=self.connected,
            long_gone=self.gone,
            tell=lambda site, note: self.tell("waiting", number, site=site, note=note),
            **options,
        )

    def ended(self, trip: Trip, number: int) -> None:
        """Tell who did not answer, and remember who is gone."""
        self.gone = trip.gone()
        for site, reason in trip.silent().items():
            self.tell("refused", number, site=site, note=reason)

    def scores(
        self, question: Question, arrays: State, sites: Sequence[Participant], after: int, *, rounds: int = 1
    ) -> Iterator[Scored]:
        """Sites' figures of a model, as they come, after round `after`. What is not theirs or not asked is refused.

        A site is given as much time as `rounds` have.
        """
        content = question_record(question, to_array_record(arrays))
        questions = {site.name: Message(content, site.node_id, MessageType.EVALUATE) for site in sites}
        trip = self.trip(questions, after, hard_s=self.deadline_s * rounds)
        for came in trip.replies():
            site = next(site for site in sites if site.name == came.site)
            try:
                evaluated = read_reply(came.reply, Evaluated)
                _check_scores(site, evaluated, None if question.model == "alone" else question.thresholds or {})
                for evaluation in filter(None, (evaluated.evaluation, evaluated.personal)):
                    check_labels(site.name, evaluation, self.study)
                sent = arrays_in(came.reply.content)
                from_array_record(sent)
            except RecordError as error:
                self.tell("refused", after, site=came.site, note=str(error))
                continue
            yield Scored(site, evaluated, sent)
        self.ended(trip, after)

    def tell(self, kind: EventKind, number: int, *, site: str = "", note: str = "") -> None:
        """Tell who watches the run, and its log."""
        rounds = self.study.rounds
        words = " ".join(word for word in (kind, site, note) if word)
        log.info("%s, round %d of %d: %s", self.run, number, rounds, words)
        self.listener(RunEvent(kind=kind, run=self.run, round=number, rounds=rounds, site=site, note=note))


def check_labels(site: str, evaluation: Evaluation, study: StudySpec) -> None:
    """Raise RecordError for figures of a label that is none of the study's: the primary metric would count them."""
    told = (
        evaluation.sketches,
        evaluation.figures,
        evaluation.overlaps,
        evaluation.unregistered,
        evaluation.detections,
    )
    if not set().union(*told) <= set(study.cohort.labels):
        raise RecordError(f"{site} sent figures of a label that the study does not have")


def _check_scores(site: Participant, evaluated: Evaluated, thresholds: Mapping[str, float] | None) -> None:
    """Raise unless the scores are this site's, about its frozen cohort, at the operating points asked for.

    Without `thresholds` they are at the site's own.
    """
    if evaluated.site != site.name or evaluated.cohort != site.prepared.cohort:
        raise RecordError(f"{site.name}'s node sent scores of {evaluated.site} on another cohort than it froze")
    if thresholds is None:
        return
    for evaluation in (evaluated.evaluation, evaluated.personal):
        for label, figures in evaluation.figures.items() if evaluation is not None else ():
            if figures.threshold != thresholds.get(label):
                raise RecordError(f"{site.name} scored {label!r} at another operating point than it was asked to")
