"""The round engine: asks sites, checks what comes back, and steers any flwr Strategy through a run's rounds.

Sampling, waiting, quorum and refusals are decided here, on the roster of sites; a strategy sees only a façade of the
grid whose nodes are the sites of this round, in the order of their names. Updates are added in that order whatever the
order of arrival, so the bits depend on who took part and on nothing else. After each round the state is on disk;
`resume` goes on from there.

A round's model is scored on validation patients in the next round's trip. Two trips close a run: the last model on
validation patients, from which the operating point is fixed, then on test patients at that point.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedward_common import models
from fedward_common.batch_norm import MEAN, VARIANCE, layers, returned_names
from fedward_common.compression import decode_update, encode_model
from fedward_common.errors import RecordError, RunError
from fedward_common.metrics import Evaluation, pooled, primary_value
from fedward_common.records import (
    CONTROL,
    Evaluated,
    Prepared,
    Question,
    Trained,
    array_bytes,
    from_array_record,
    json_bytes,
    model_sha256,
    plain,
    question_record,
    record_of,
    to_array_record,
)
from fedward_common.study import StudySpec
from fedward_common.study_strategy import SHIPPED
from fedward_server.batch_norm import disagreement
from fedward_server.checkpoints import BEST, Checkpoint, latest, of_round, save
from fedward_server.checks import Gate
from fedward_server.events import EventKind, Listener, RunEvent
from fedward_server.exchange import Came, Connected, Trip, read_reply
from fedward_server.facade import RosterGrid
from fedward_server.outliers import outliers
from fedward_server.quarantine import Quarantine
from fedward_server.result import RoundHistory, RunResult, SiteResult, SiteRound
from fedward_server.roster import Gathering, Participant
from fedward_server.selection import Selection, Standing
from fedward_server.strategies import make_strategy, only_averages, restore_state, strategy_state, takes
from fedward_server.strategies.scaffold import ROSTER_EXAMPLES
from fedward_server.updates import Updates, lower_median

log = logging.getLogger(__name__)

State = dict[str, npt.NDArray[Any]]

UPDATES = ".updates"  # there too: updates that wait for others
SHORTEST_LIMIT_S, TIMES_USUAL, USUAL_OF = 20.0, 3.0, 5  # a site's own limit: of the longest of its last rounds

# flwr's strategies read arrays through numpy's .npy parser, and so through Python's ast, which in CPython 3.11 fails
# when several threads are in it: the engines of one process take turns
_FLOWER = Lock()


@dataclass(kw_only=True)
class RoundEngine:
    """One run of one study over a grid."""

    grid: Grid
    study: StudySpec
    run: str
    engine: str
    folder: Path  # of this run: checkpoints and run.json
    deadline_s: float | None = None  # instead of the study's; infinite where hospitals share one machine's cores
    on_round: Callable[[RoundHistory], None]  # called when a round is on disk, and again when its model was scored
    listener: Listener
    connected: Connected | None = None  # in a deployment: the study's sites that are connected now, and their nodes
    wait_s: float = 0.0  # in a deployment: for sites that are not connected, or wait for approval, before round 1
    compares: bool = False  # at the end each site also trains alone, where the study lets it: what did it gain?

    _state: State = field(default_factory=dict, init=False, repr=False)
    _parameters: frozenset[str] = field(default=frozenset(), init=False, repr=False)
    _sent_back: dict[str, None] = field(default_factory=dict, init=False, repr=False)  # names, in order
    _history: list[RoundHistory] = field(default_factory=list, init=False, repr=False)
    _sites: list[Participant] = field(default_factory=list, init=False, repr=False)
    _left_out: list[str] = field(default_factory=list, init=False, repr=False)
    _gone: set[str] = field(default_factory=set, init=False, repr=False)  # sites that were gone in the last trip
    _quarantine: Quarantine = field(default_factory=Quarantine, init=False, repr=False)
    _selection: Selection = field(init=False, repr=False)
    _warned: bool = field(default=False, init=False, repr=False)  # of BatchNorm statistics
    _resumed: bool = field(default=False, init=False, repr=False)  # sites may still be coming back

    def __post_init__(self) -> None:
        self._selection = Selection(self.study.evaluation)

    def __call__(self, *, resume: bool = False) -> RunResult:
        """Run the study to its end; with `resume`, from the last checkpoint in the folder."""
        started = time.perf_counter()
        strategy = make_strategy(self.study)
        self._state, self._parameters = models.initial_model(self.study, self.folder)
        self._sent_back = dict.fromkeys(returned_names(self.study, self._state))
        checkpoint = latest(self.folder, study_digest=self.study.digest) if resume else None
        if checkpoint is not None:
            self._resumed = True
            self._restore(checkpoint, strategy)
        if not self._sites:
            self._prepare()
        for number in range(len(self._history) + 1, self.study.training.rounds + 1):
            self._round(number, strategy)
            self._resumed = False
            if self._selection.stalled(number - 1):
                self._tell("stopping", number, note=self._why_it_stops(number - 1))
                break
        return self._close(started)

    # Before round 1 --------------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        """Ask sites who they are and to freeze their cohorts; the roster decides who takes part."""
        gathering = Gathering(
            grid=self.grid,
            study=self.study,
            run=self.run,
            tell=lambda kind, site, note: self._tell(kind, 0, site=site, note=note),
        )
        if self.connected is None:
            gathering.ask_every_node()
        else:
            gathering.ask_roster(self.connected, wait_s=self.wait_s)
        self._left_out = gathering.left_out
        self._sites = gathering.quorum()

    def _trip(self, questions: Mapping[str, Message], number: int, **options: Any) -> Trip:
        """A question to several sites, by their names."""
        return Trip(
            carrier=self.grid,
            questions=questions,
            lets_go=self.study.strategy.deadline == "adaptive" and not self._resumed,
            connected=self.connected,
            long_gone=self._gone,
            tell=lambda site, note: self._tell("waiting", number, site=site, note=note),
            **options,
        )

    # Rounds ----------------------------------------------------------------------------------------------------------

    def _round(self, number: int, strategy: Strategy) -> None:
        started = time.perf_counter()
        self._tell("round", number)
        messages = self._configure(number, strategy)
        updates, rows = self._collect(number, messages)
        if len(updates.accepted) < self.study.strategy.min_sites:
            updates.clear()
            reasons = "; ".join(f"{site}: {reason}" for site, reason in sorted(updates.refused.items()))
            raise RunError(
                f"round {number} has updates of {len(updates.accepted)} sites, the study asks for at least "
                f"{self.study.strategy.min_sites} ({reasons}); the run can be resumed from round {number - 1}"
            )
        self._score(number - 1, {t.site: t.incoming for t in updates.accepted.values() if t.incoming is not None})
        self._aggregate(number, strategy, updates, messages)
        messages.clear()  # a model's memory
        updates.clear()
        self._history.append(
            RoundHistory(
                round=number,
                seconds=time.perf_counter() - started,
                train_loss=updates.train_loss,
                sites={site: rows[site] for site in updates.accepted},
                refused=updates.refused,
            )
        )
        self._save(number, strategy, updates)
        self._tell("aggregated", number)

    def _configure(self, number: int, strategy: Strategy) -> dict[str, Message]:
        """The strategy's messages by site, with the whole state (buffers too) and the question in them."""
        trainers = [site for site in self._sites if site.trains and not self._quarantine.is_out(site.name)]
        if len(trainers) < self.study.strategy.min_sites:
            raise RunError(
                f"{len(trainers)} sites are left to train in round {number}, the study asks for at least "
                f"{self.study.strategy.min_sites} ({'; '.join(self._left_out)})"
            )
        by_node = dict(enumerate(trainers, start=1))
        everything = to_array_record(self._state)
        self._state = from_array_record(everything)  # the same in the message's own memory: it is held once
        sent = record_of({name: array for name, array in everything.items() if self._is_the_strategys(name)})
        with _FLOWER:
            given = self._given(sent)
            messages = list(strategy.configure_train(number, given, ConfigRecord(), RosterGrid(by_node, self.grid)))
        question = Question(kind="train", study=self.study, run=self.run, score_incoming=number > 1)
        coded: dict[int, ArrayRecord] = {}  # strategies give all sites one record
        questions = {}
        for message in messages:
            site = by_node[message.metadata.dst_node_id]
            config = message.content.config_records["config"]
            arrays = message.content.array_records["arrays"]
            if id(arrays) not in coded:
                extra = {name: array for name, array in arrays.items() if name.startswith(CONTROL)}
                coded[id(arrays)] = self._coded(
                    record_of({**{name: arrays.get(name, array) for name, array in everything.items()}, **extra})
                )
            asked = question.model_copy(update={"notice": self._quarantine.notice(site.name, number)})
            content = question_record(asked, coded[id(arrays)], config)
            questions[site.name] = Message(content, site.node_id, message.metadata.message_type)
        return questions

    def _coded(self, model: ArrayRecord) -> ArrayRecord:
        """The model as it travels: the hub keeps it at full precision."""
        if self.study.update.compression == "none":
            return model
        return to_array_record(encode_model(from_array_record(model), self.study.update))

    def _collect(self, number: int, messages: Mapping[str, Message]) -> tuple[Updates, dict[str, SiteRound]]:
        """Wait for updates; each is checked as it comes, and added in site order."""
        rules = self.study.strategy
        names = sorted(messages)
        kept = takes(rules) == "all" or rules.min_cosine is not None
        updates = Updates(order=names, folder=self.folder / UPDATES, kept=kept)
        trip = self._trip(
            messages,
            number,
            hard_s=self._deadline_s,
            soft_s=self._limits(names),
            enough=lambda: len(updates.accepted) >= rules.min_sites,
            closed=lambda: rules.quorum != "all" and len(updates.accepted) >= rules.quorum,
        )
        reference = self._expected(next(iter(messages.values())))
        gate = Gate(reference, max_update_norm=rules.max_update_norm)
        rows: dict[str, SiteRound] = {}
        statistics: dict[str, State] = {}  # of BatchNorm layers
        for came in trip.replies():
            try:
                trained, record, sent = self._admitted(number, came, gate)
            except RecordError as error:
                self._refuse(number, came.site, str(error), updates, offence=not came.reply.has_error())
                continue
            down = messages[came.site].content
            rows[came.site] = SiteRound(
                train_loss=trained.train_loss,
                patients=trained.patients,
                train_seconds=trained.train_seconds,
                seconds=trained.seconds,
                waited_s=came.seconds,
                notes=trip.notes(came.site),
                bytes_up=array_bytes(sent) + json_bytes(came.reply.content),
                bytes_down=array_bytes(down.array_records["arrays"]) + json_bytes(down),
            )
            statistics[came.site] = _statistics(record)
            updates.accept(trained, record)
            self._tell("answered", number, site=came.site)
        self._gone = trip.gone()
        for site, reason in trip.silent().items():
            self._tell("refused", number, site=site, note=reason)
        self._compare_statistics(number, statistics)
        if rules.min_cosine is not None:
            self._leave_outliers_out(number, rules.min_cosine, reference, updates)
        updates.close(trip.silent())
        return updates, rows

    def _given(self, record: ArrayRecord) -> ArrayRecord:
        """Arrays as a strategy may be given them: ours take views, a plug-in may not."""
        return record if self.study.strategy.name in SHIPPED else plain(record)

    def _is_the_strategys(self, name: str) -> bool:
        """Whether a strategy makes the next one of an array that sites send back: of parameters, or of real numbers.

        The latter where it takes all, so that a robust one protects BatchNorm's statistics too.
        """
        if name not in self._sent_back:
            return False
        everything = takes(self.study.strategy) == "all"
        return self._state[name].dtype.kind == "f" if everything else name in self._parameters

    def _expected(self, question: Message) -> State:
        """What a site is to send back, as it was sent: its part of the state, and what the strategy added."""
        sent = from_array_record(question.content.array_records["arrays"])
        return {**self._returned, **{name: array for name, array in sent.items() if name.startswith(CONTROL)}}

    @property
    def _returned(self) -> State:
        """The part of the state that sites send back."""
        return {name: self._state[name] for name in self._sent_back}

    def _compare_statistics(self, number: int, statistics: Mapping[str, State]) -> None:
        """Warn, once a run, where the sites' BatchNorm statistics disagree."""
        if not self._warned and (found := disagreement(statistics)):
            self._warned = True
            self._tell("warning", number, note=found.warning)

    def _limits(self, names: list[str]) -> dict[str, float]:
        """Each site's own limit, from what it has needed in its last rounds; none before it has answered once."""
        if self.study.strategy.deadline == "fixed":
            return {}
        needed = {name: [row.sites[name].waited_s for row in self._history if name in row.sites] for name in names}
        return {
            name: max(SHORTEST_LIMIT_S, TIMES_USUAL * max(seconds[-USUAL_OF:]))
            for name, seconds in needed.items()
            if seconds
        }

    def _admitted(self, number: int, came: Came, gate: Gate) -> tuple[Trained, ArrayRecord, ArrayRecord]:
        """The site's update, and its arrays as they were sent; RecordError unless it is one that may be aggregated."""
        site = next(site for site in self._sites if site.name == came.site)
        trained = read_reply(came.reply, Trained)
        sent = came.reply.content.array_records.get("arrays", ArrayRecord())
        arrays = from_array_record(sent)
        coded = self.study.update.compression != "none"
        if coded:
            arrays = decode_update(arrays, self._returned, self.study.update)
        if trained.site != site.name:
            raise RecordError(f"{site.name}'s node answered as {trained.site}")
        if (trained.study, trained.round) != (self.study.digest, number):
            raise RecordError(f"it answered another question: of round {trained.round}, study {trained.study[:12]}…")
        if trained.cohort != site.prepared.cohort:
            raise RecordError("its cohort changed during the run: finish or stop this run, then start a new one")
        if trained.patients != site.prepared.patients["train"]:
            raise RecordError("it says another number of training patients than when its cohort was frozen")
        if reason := gate.check(site.name, arrays):
            raise RecordError(reason)
        return trained, to_array_record(arrays) if coded else sent, sent

    def _refuse(self, number: int, site: str, reason: str, updates: Updates, *, offence: bool) -> None:
        updates.refuse(site, reason)
        self._tell("refused", number, site=site, note=reason)
        if offence and self._quarantine.offend(site, number, reason):
            sentence = self._quarantine.sentence(site)
            self._left_out.append(sentence)
            self._tell("left-out", number, site=site, note=sentence)

    def _leave_outliers_out(self, number: int, bound: float, reference: State, updates: Updates) -> None:
        arrays = {site: from_array_record(record) for site, record in updates.all()}
        model = {name: array for name, array in reference.items() if not name.startswith(CONTROL)}
        for site, cosine in outliers(arrays, model, bound).items():
            reason = (
                f"the update of {site} points elsewhere than the others': its cosine to their mean direction is "
                f"{cosine:.2f}, the study asks for at least {bound:g}"
            )
            self._refuse(number, site, reason, updates, offence=True)

    def _aggregate(self, number: int, strategy: Strategy, updates: Updates, asked: Mapping[str, Message]) -> None:
        """The next state: what the strategy makes of the updates."""
        if only_averages(strategy):
            learned, others = updates.mean(), State()
        else:
            everything = takes(self.study.strategy) == "all"
            replies, others = self._all(updates, asked) if everything else self._averaged(updates, asked)
            with _FLOWER:
                arrays, _ = strategy.aggregate_train(number, replies)
            if arrays is None:
                raise RunError(
                    f"strategy {self.study.strategy.name} made no model of the {len(updates.accepted)} updates of "
                    f"round {number}: see the hub's log of the run"
                )
            learned = from_array_record(arrays)
        if wrong := next((name for name, array in learned.items() if not np.isfinite(array).all()), None):
            raise RunError(
                f"strategy {self.study.strategy.name} made numbers that are none of the updates of round {number} "
                f"(array {wrong}): lower its learning rate, or choose another strategy; the run can be resumed"
            )
        self._state = {
            name: learned[name].astype(old.dtype, copy=False) if name in learned else others.get(name, old)
            for name, old in self._state.items()
        }

    def _averaged(self, updates: Updates, asked: Mapping[str, Message]) -> tuple[list[Message], State]:
        """One pre-averaged reply: a mean-based strategy computes the same from it as from all. Then the buffers."""
        mean = updates.mean()
        taken = {name for name in mean if name in self._parameters or name.startswith(CONTROL)}
        arrays = to_array_record({name: mean[name] for name in mean if name in taken})
        reply = _reply(self._given(arrays), updates.patients, updates.train_loss, next(iter(asked.values())))
        reply.content.metric_records["metrics"][ROSTER_EXAMPLES] = self._training_patients
        return [reply], {name: array for name, array in mean.items() if name not in taken}

    def _all(self, updates: Updates, asked: Mapping[str, Message]) -> tuple[list[Message], State]:
        """Each site's reply, of its arrays of real numbers. Then the integers, which no strategy averages."""
        order = [name for name in self._state if self._is_the_strategys(name)]  # by place, as flwr's q-FedAvg does
        order += sorted({name for _, record in updates.all() for name in record if name.startswith(CONTROL)})
        counts: dict[str, list[npt.NDArray[Any]]] = {}
        replies = []
        for site, record in updates.all():
            trained = updates.accepted[site]
            whole = from_array_record(record)
            floats = {name: record[name] for name in order if name in record}
            replies.append(_reply(self._given(record_of(floats)), trained.patients, trained.train_loss, asked[site]))
            for name in whole.keys() - floats.keys():
                counts.setdefault(name, []).append(whole[name])
        return replies, {name: lower_median(values) for name, values in counts.items()}

    @property
    def _training_patients(self) -> int:
        """Of all sites that train, whether they answered or not."""
        return sum(site.prepared.patients["train"] or 0 for site in self._sites if site.trains)

    def _score(self, number: int, evaluations: Mapping[str, Evaluation]) -> None:
        """Add the validation figures of round `number`'s model, which is the present state, to its history."""
        if number < 1:
            return
        held = [evaluations[site] for site in sorted(evaluations)]
        losses = [(e.loss, e.patients) for e in held if e.loss is not None]
        figures = {site: _primary_of_site(evaluation) for site, evaluation in sorted(evaluations.items())}
        primary = primary_value(held, self.study) if held else None
        if held:
            self._history[number - 1] = self._history[number - 1].model_copy(
                update={
                    "validation_loss": sum(v * n for v, n in losses) / sum(n for _, n in losses) if losses else None,
                    "primary": primary,
                    "site_primary": {site: value for site, value in figures.items() if value is not None},
                }
            )
            self.on_round(self._history[number - 1])
        self._select(number, primary)

    def _select(self, number: int, primary: float | None) -> None:
        rules = self.study.evaluation
        if rules.keep == "last" and rules.early_stopping is None:
            return
        if primary is None and self._selection.standing.best is None:
            raise RunError(
                f"the study goes by {rules.primary}, and nothing of it leaves the sites: let their policies name "
                "'evaluation', give the split more validation patients, or take keep and early_stopping out"
            )
        if self._selection.score(number, primary) and rules.keep == "best":
            save(self.folder / BEST, self._checkpoint(number, {}, []))

    def _why_it_stops(self, number: int) -> str:
        standing = self._selection.standing
        return (
            f"{self.study.evaluation.primary} of {standing.mark:.4f} in round {standing.mark_round} has not become "
            f"better for {number - standing.mark_round} rounds"
        )

    # What a resume needs ---------------------------------------------------------------------------------------------

    def _save(self, number: int, strategy: Strategy, updates: Updates) -> None:
        save(self.folder, self._checkpoint(number, strategy_state(strategy), sorted(updates.accepted)))
        self.on_round(self._history[-1])

    def _checkpoint(
        self, number: int, remembered: Mapping[str, npt.NDArray[Any]], participation: list[str]
    ) -> Checkpoint:
        return Checkpoint(
            run=self.run,
            study_digest=self.study.digest,
            round=number,
            arrays=self._state,
            strategy_state=remembered,
            participation=participation,
            metrics={
                "history": [row.model_dump(mode="json") for row in self._history],
                "sites": {site.name: site.prepared.model_dump(mode="json") for site in self._sites},
                "left_out": self._left_out,
                "offences": {
                    site: {str(n): why for n, why in of.items()} for site, of in self._quarantine.offences.items()
                },
                "selection": self._selection.standing.model_dump(mode="json"),
            },
        )

    def _restore(self, checkpoint: Checkpoint, strategy: Strategy) -> None:
        metrics = checkpoint.metrics
        self._state = dict(checkpoint.arrays)
        self._history = [RoundHistory.model_validate(row) for row in metrics["history"]]
        restore_state(strategy, checkpoint.strategy_state)
        offences = {site: {int(n): why for n, why in of.items()} for site, of in metrics["offences"].items()}
        self._quarantine = Quarantine(offences)
        self._selection.standing = Standing.model_validate(metrics["selection"])
        if self.connected is not None:  # elsewhere nodes have no names but what they answer
            self._left_out = list(metrics["left_out"])
            found = {site: Prepared.model_validate(prepared) for site, prepared in metrics["sites"].items()}
            self._sites = [
                Participant(site, 0, not self.study.only_evaluates(site), found[site]) for site in sorted(found)
            ]
        log.info("run %s goes on after round %d", self.run, checkpoint.round)

    # After the last round --------------------------------------------------------------------------------------------

    def _close(self, started: float) -> RunResult:
        last = len(self._history)
        self._tell("closing", last)
        validation = self._evaluate("validation", None)
        trained_on = {site.name for site in self._sites if site.trains}
        self._score(last, {site: v.evaluation for site, v in validation.items() if site in trained_on})
        kept = self._keep(last)
        if kept != last:
            validation = self._evaluate("validation", None)
        thresholds = self._operating_points(
            [v.evaluation for site, v in sorted(validation.items()) if site in trained_on]
        )
        test = self._evaluate("test", thresholds)
        alone = self._alone() if self.compares and self.study.evaluation.local_baseline else {}
        result = RunResult(
            run=self.run,
            engine=self.engine,
            study=self.study,
            sites={
                site.name: _site_result(site, *(each.get(site.name) for each in (validation, test, alone)))
                for site in self._sites
            },
            history=tuple(self._history),
            kept_round=kept,
            left_out=tuple(sorted(self._left_out)),
            thresholds=thresholds,
            model_sha256=model_sha256(self._state),
            wall_s=time.perf_counter() - started,
        )
        result.write(self.folder)
        self._tell("finished", last)
        return result

    def _keep(self, last: int) -> int:
        """Take the model that the study keeps; gives its round."""
        best = self._selection.standing.best_round
        if self.study.evaluation.keep == "last" or best in (0, last):
            return last
        self._state = dict(of_round(self.folder, best, study_digest=self.study.digest).arrays)
        return best

    def _evaluate(
        self, side: Literal["validation", "test"], thresholds: dict[str, float] | None
    ) -> dict[str, Evaluated]:
        question = Question(kind="evaluate", study=self.study, run=self.run, side=side, thresholds=thresholds)
        return self._evaluated(question, self._state, self._sites, self._deadline_s)

    def _alone(self) -> dict[str, Evaluated]:
        """What each hospital that trains would have reached without the others, on its own test patients.

        It takes as long as all rounds together, at all of them at once.
        """
        self._tell("comparing", len(self._history))
        question = Question(kind="evaluate", study=self.study, run=self.run, side="test", model="alone")
        start, _ = models.initial_model(self.study, self.folder)
        trainers = [site for site in self._sites if site.trains]
        return self._evaluated(question, start, trainers, self._deadline_s * (self.study.training.rounds + 1))

    def _evaluated(
        self, question: Question, arrays: State, sites: list[Participant], deadline_s: float
    ) -> dict[str, Evaluated]:
        content = question_record(question, to_array_record(arrays))
        number = len(self._history)
        questions = {site.name: Message(content, site.node_id, MessageType.EVALUATE) for site in sites}
        evaluations: dict[str, Evaluated] = {}
        trip = self._trip(questions, number, hard_s=deadline_s)
        for came in trip.replies():
            try:
                evaluated = read_reply(came.reply, Evaluated)
                site = next(site for site in self._sites if site.name == came.site)
                _check_scores(site, evaluated, None if question.model == "alone" else question.thresholds or {})
                evaluations[came.site] = evaluated
            except RecordError as error:
                self._tell("refused", number, site=came.site, note=str(error))
        self._gone = trip.gone()
        for name, reason in trip.silent().items():
            self._tell("refused", number, site=name, note=reason)
        return evaluations

    def _operating_points(self, evaluations: list[Evaluation]) -> dict[str, float]:
        """A threshold for each label whose merged validation sketch is there."""
        merged = {label: pooled(evaluations, label) for label in self.study.asked_labels}
        rule = self.study.evaluation.operating_point
        return {label: histogram.threshold(rule) for label, histogram in merged.items() if histogram is not None}

    @property
    def _deadline_s(self) -> float:
        return self.study.strategy.round_deadline_s if self.deadline_s is None else self.deadline_s

    def _tell(self, kind: EventKind, number: int, *, site: str = "", note: str = "") -> None:
        words = " ".join(word for word in (kind, site, note) if word)
        log.info("%s, round %d of %d: %s", self.run, number, self.study.training.rounds, words)
        self.listener(
            RunEvent(kind=kind, run=self.run, round=number, rounds=self.study.training.rounds, site=site, note=note)
        )


def _reply(arrays: ArrayRecord, patients: int, train_loss: float, asked: Message) -> Message:
    metrics = MetricRecord({"num-examples": patients, "train-loss": train_loss})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=asked)


def _site_result(
    site: Participant, validation: Evaluated | None, test: Evaluated | None, alone: Evaluated | None
) -> SiteResult:
    return SiteResult(
        alone=alone.evaluation if alone is not None else None,
        prepared=site.prepared,
        validation=validation.evaluation if validation is not None else None,
        test=test.evaluation if test is not None else None,
        personal=test.personal if test is not None else None,
    )


def _statistics(record: ArrayRecord) -> State:
    """Copies of the running statistics in an update; they are small."""
    names = {layer + kind for layer in layers(record) for kind in (MEAN, VARIANCE)}
    return {name: array.copy() for name, array in from_array_record(record).items() if name in names} if names else {}


def _primary_of_site(evaluation: Evaluation) -> float | None:
    values = [figures.roc_auc.value for figures in evaluation.figures.values()]
    return float(np.mean(values)) if values else None


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
