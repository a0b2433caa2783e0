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
from collections.abc import Callable, Iterator, Mapping
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
from fedward_common.errors import RecordError, RunError
from fedward_common.metrics import Evaluation, pooled, primary_value
from fedward_common.records import (
    Evaluated,
    Question,
    Trained,
    array_bytes,
    from_array_record,
    json_bytes,
    model_sha256,
    question_record,
    to_array_record,
)
from fedward_common.study import StudySpec
from fedward_server.aggregation import StreamingMean
from fedward_server.checkpoints import Checkpoint, latest, save
from fedward_server.checks import Gate
from fedward_server.events import EventKind, Listener, RunEvent
from fedward_server.exchange import missing, read_reply, replies
from fedward_server.facade import RosterGrid
from fedward_server.result import RoundHistory, RunResult, SiteResult, SiteRound
from fedward_server.roster import Connected, Gathering, Participant
from fedward_server.strategies import make_strategy, restore_state, strategy_state

log = logging.getLogger(__name__)

State = dict[str, npt.NDArray[Any]]

# flwr's strategies read arrays through numpy's .npy parser, and so through Python's ast, which in CPython 3.11 fails
# when several threads are in it: the engines of one process take turns
_FLOWER = Lock()


@dataclass(slots=True)
class _Updates:
    """The updates of one round: added in site order, an early one waiting for those before it."""

    order: list[str]
    mean: StreamingMean = field(default_factory=StreamingMean)
    accepted: dict[str, Trained] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    _waiting: dict[str, Mapping[str, npt.NDArray[Any]]] = field(default_factory=dict)
    _next: int = 0

    def accept(self, trained: Trained, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        self.accepted[trained.site] = trained
        self._waiting[trained.site] = arrays
        self._drain(lambda name: name in self.refused)

    def refuse(self, site: str, reason: str) -> None:
        self.refused[site] = reason
        self._drain(lambda name: name in self.refused)

    def close(self, silent: Mapping[str, str]) -> None:
        self.refused.update(silent)
        self._drain(lambda _name: True)

    def _drain(self, skip: Callable[[str], bool]) -> None:
        while self._next < len(self.order):
            name = self.order[self._next]
            if name in self._waiting:
                self.mean.add(self._waiting.pop(name), self.accepted[name].patients)
            elif not skip(name):
                return
            self._next += 1

    @property
    def patients(self) -> int:
        return sum(trained.patients for trained in self.accepted.values())

    @property
    def train_loss(self) -> float:
        return sum(trained.train_loss * trained.patients for trained in self.accepted.values()) / self.patients


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

    _state: State = field(default_factory=dict, init=False, repr=False)
    _history: list[RoundHistory] = field(default_factory=list, init=False, repr=False)
    _sites: list[Participant] = field(default_factory=list, init=False, repr=False)
    _left_out: list[str] = field(default_factory=list, init=False, repr=False)

    def __call__(self, *, resume: bool = False) -> RunResult:
        """Run the study to its end; with `resume`, from the last checkpoint in the folder."""
        started = time.perf_counter()
        strategy = make_strategy(self.study.strategy)
        self._state, parameters = models.initial_model(self.study)
        checkpoint = latest(self.folder, study_digest=self.study.digest) if resume else None
        if checkpoint is not None:
            self._state = dict(checkpoint.arrays)
            self._history = [RoundHistory.model_validate(row) for row in checkpoint.metrics["history"]]
            restore_state(strategy, checkpoint.strategy_state)
            log.info("run %s goes on after round %d", self.run, checkpoint.round)
        self._sites = self._prepare()
        for number in range(len(self._history) + 1, self.study.training.rounds + 1):
            self._round(number, strategy, parameters)
        return self._close(started)

    # Before round 1 --------------------------------------------------------------------------------------------------

    def _prepare(self) -> list[Participant]:
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
        return gathering.quorum()

    def _replies(self, messages: list[Message]) -> Iterator[tuple[Participant, Message]]:
        """Send, and give each reply, after its site, until the deadline."""
        by_node = {site.node_id: site for site in self._sites}
        nodes = None if self.connected is None else self._connected_nodes
        for node, reply in replies(self.grid, messages, deadline_s=self._deadline_s, connected=nodes):
            yield by_node[node], reply

    def _connected_nodes(self) -> set[int]:
        assert self.connected is not None
        return set(self.connected().values())

    # Rounds ----------------------------------------------------------------------------------------------------------

    def _round(self, number: int, strategy: Strategy, parameters: frozenset[str]) -> None:
        started = time.perf_counter()
        self._tell("round", number)
        messages = self._configure(number, strategy, parameters)
        updates, rows = self._collect(number, messages)
        if len(updates.accepted) < self.study.strategy.min_sites:
            reasons = "; ".join(f"{site}: {reason}" for site, reason in sorted(updates.refused.items()))
            raise RunError(
                f"round {number} has updates of {len(updates.accepted)} sites, the study asks for at least "
                f"{self.study.strategy.min_sites} ({reasons}); the run can be resumed from round {number - 1}"
            )
        self._aggregate(number, strategy, parameters, updates, messages[0])
        self._score(number - 1, {t.site: t.incoming for t in updates.accepted.values() if t.incoming is not None})
        self._history.append(
            RoundHistory(
                round=number,
                seconds=time.perf_counter() - started,
                train_loss=updates.train_loss,
                sites=rows,
                refused=updates.refused,
            )
        )
        self._save(number, strategy, updates)
        self._tell("aggregated", number)

    def _configure(self, number: int, strategy: Strategy, parameters: frozenset[str]) -> list[Message]:
        """The strategy's messages, with the whole state (buffers too) and the question in them."""
        trainers = [site.node_id for site in self._sites if site.trains]
        everything = to_array_record(self._state)
        sent = ArrayRecord({name: array for name, array in everything.items() if name in parameters})
        question = Question(kind="train", study=self.study, run=self.run, score_incoming=number > 1)
        with _FLOWER:
            messages = list(strategy.configure_train(number, sent, ConfigRecord(), RosterGrid(trainers, self.grid)))
        for message in messages:
            config = message.content.config_records["config"]
            arrays = message.content.array_records["arrays"]
            whole = ArrayRecord({name: arrays.get(name, array) for name, array in everything.items()})
            message.content = question_record(question, whole, config)
        return messages

    def _collect(self, number: int, messages: list[Message]) -> tuple[_Updates, dict[str, SiteRound]]:
        """Wait for updates until the round's deadline; each is checked as it comes, and added in site order."""
        by_node = {site.node_id: site for site in self._sites}
        asked = [by_node[message.metadata.dst_node_id] for message in messages]
        bytes_down = {
            by_node[m.metadata.dst_node_id].name: array_bytes(m.content.array_records["arrays"]) + json_bytes(m.content)
            for m in messages
        }
        updates = _Updates(order=sorted(site.name for site in asked))
        gate = Gate(self._state, max_update_norm=self.study.strategy.max_update_norm)
        rows: dict[str, SiteRound] = {}
        for site, reply in self._replies(messages):
            try:
                trained = read_reply(reply, Trained)
                record = reply.content.array_records.get("arrays", ArrayRecord())
                arrays = from_array_record(record)
                self._admit(site, trained, arrays, gate)
            except RecordError as error:
                updates.refuse(site.name, str(error))
                self._tell("refused", number, site=site.name, note=str(error))
                continue
            rows[site.name] = SiteRound(
                train_loss=trained.train_loss,
                patients=trained.patients,
                train_seconds=trained.train_seconds,
                seconds=trained.seconds,
                bytes_up=array_bytes(record) + json_bytes(reply.content),
                bytes_down=bytes_down[site.name],
            )
            updates.accept(trained, arrays)
            self._tell("answered", number, site=site.name)
        updates.close(missing(updates.order, {**updates.accepted, **updates.refused}, self._deadline_s))
        return updates, rows

    @staticmethod
    def _admit(site: Participant, trained: Trained, arrays: Mapping[str, npt.NDArray[Any]], gate: Gate) -> None:
        """Raise unless the reply is this site's, about its frozen cohort, and an update that may be aggregated."""
        if trained.site != site.name:
            raise RecordError(f"{site.name}'s node answered as {trained.site}")
        if trained.cohort != site.prepared.cohort:
            raise RecordError("its cohort changed during the run: finish or stop this run, then start a new one")
        if trained.patients != site.prepared.patients["train"]:
            raise RecordError("it says another number of training patients than when its cohort was frozen")
        if reason := gate.check(site.name, arrays):
            raise RecordError(reason)

    def _aggregate(
        self, number: int, strategy: Strategy, parameters: frozenset[str], updates: _Updates, asked: Message
    ) -> None:
        """One pre-averaged reply to the strategy: a mean-based one computes the same from it as from all."""
        mean = updates.mean.result()
        content = RecordDict(
            {
                "arrays": to_array_record({name: mean[name] for name in self._state if name in parameters}),
                "metrics": MetricRecord({"num-examples": updates.patients, "train-loss": updates.train_loss}),
            }
        )
        with _FLOWER:
            arrays, _ = strategy.aggregate_train(number, [Message(content, reply_to=asked)])
        if arrays is None:
            raise RunError(f"strategy {self.study.strategy.name} made no model in round {number}")
        learned = from_array_record(arrays)
        self._state = {
            name: learned[name].astype(old.dtype, copy=False) if name in parameters else mean[name]
            for name, old in self._state.items()
        }

    def _score(self, number: int, evaluations: Mapping[str, Evaluation]) -> None:
        """Add the validation figures of round `number`'s model to its history."""
        if number < 1 or not evaluations:
            return
        held = [evaluations[site] for site in sorted(evaluations)]
        losses = [(e.loss, e.patients) for e in held if e.loss is not None]
        figures = {site: _primary_of_site(evaluation) for site, evaluation in sorted(evaluations.items())}
        self._history[number - 1] = self._history[number - 1].model_copy(
            update={
                "validation_loss": sum(v * n for v, n in losses) / sum(n for _, n in losses) if losses else None,
                "primary": primary_value(held, self.study),
                "site_primary": {site: value for site, value in figures.items() if value is not None},
            }
        )
        self.on_round(self._history[number - 1])

    def _save(self, number: int, strategy: Strategy, updates: _Updates) -> None:
        save(
            self.folder,
            Checkpoint(
                run=self.run,
                study_digest=self.study.digest,
                round=number,
                arrays=self._state,
                strategy_state=strategy_state(strategy),
                participation=sorted(updates.accepted),
                metrics={"history": [row.model_dump(mode="json") for row in self._history]},
            ),
        )
        self.on_round(self._history[-1])

    # After the last round --------------------------------------------------------------------------------------------

    def _close(self, started: float) -> RunResult:
        self._tell("closing", self.study.training.rounds)
        validation = self._evaluate("validation", None)
        trained_on = {site.name for site in self._sites if site.trains}
        self._score(len(self._history), {site: v for site, v in validation.items() if site in trained_on})
        thresholds = self._operating_points([v for site, v in sorted(validation.items()) if site in trained_on])
        test = self._evaluate("test", thresholds)
        result = RunResult(
            run=self.run,
            engine=self.engine,
            study=self.study,
            sites={
                site.name: SiteResult(
                    prepared=site.prepared, validation=validation.get(site.name), test=test.get(site.name)
                )
                for site in self._sites
            },
            history=tuple(self._history),
            left_out=tuple(sorted(self._left_out)),
            thresholds=thresholds,
            model_sha256=model_sha256(self._state),
            wall_s=time.perf_counter() - started,
        )
        result.write(self.folder)
        self._tell("finished", self.study.training.rounds)
        return result

    def _evaluate(
        self, side: Literal["validation", "test"], thresholds: dict[str, float] | None
    ) -> dict[str, Evaluation]:
        question = Question(kind="evaluate", study=self.study, run=self.run, side=side, thresholds=thresholds)
        arrays = to_array_record(self._state)
        messages = [
            Message(question_record(question, arrays), site.node_id, MessageType.EVALUATE) for site in self._sites
        ]
        evaluations: dict[str, Evaluation] = {}
        for site, reply in self._replies(messages):
            try:
                evaluated = read_reply(reply, Evaluated)
                _check_scores(site, evaluated, thresholds or {})
                evaluations[site.name] = evaluated.evaluation
            except RecordError as error:
                self._tell("refused", self.study.training.rounds, site=site.name, note=str(error))
        return evaluations

    def _operating_points(self, evaluations: list[Evaluation]) -> dict[str, float]:
        """A threshold for each label whose merged validation sketch is there."""
        labels = self.study.cohort.labels if self.study.cohort.positive is None else (self.study.cohort.positive,)
        merged = {label: pooled(evaluations, label) for label in labels}
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


def _primary_of_site(evaluation: Evaluation) -> float | None:
    values = [figures.roc_auc.value for figures in evaluation.figures.values()]
    return float(np.mean(values)) if values else None


def _check_scores(site: Participant, evaluated: Evaluated, thresholds: Mapping[str, float]) -> None:
    """Raise unless the scores are this site's, about its frozen cohort, at the operating points asked for."""
    if evaluated.site != site.name or evaluated.cohort != site.prepared.cohort:
        raise RecordError(f"{site.name}'s node sent scores of {evaluated.site} on another cohort than it froze")
    for label, figures in evaluated.evaluation.figures.items():
        if figures.threshold != thresholds.get(label):
            raise RecordError(f"{site.name} scored {label!r} at another operating point than it was asked to")
