"""The round engine: asks sites, checks what comes back, and steers any flwr Strategy through a run's rounds.

Sampling, waiting, quorum and refusals are decided here, on the roster of sites; `steering` works the strategy. Updates
are added in the order of the sites' names whatever the order of arrival, so the bits depend on who took part and on
nothing else. A round's state goes to the disk as soon as the next questions are out, so that sites work meanwhile;
`resume` goes on from there. A round's model is scored on validation patients in the next round's trip, and the last
one's in `closing`.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy.typing as npt
from flwr.app import ArrayRecord, Message
from flwr.serverapp import Grid

from fedward_common import models
from fedward_common.batch_norm import MEAN, VARIANCE, layers
from fedward_common.errors import RecordError, RunError
from fedward_common.metrics import Evaluation, mean_loss, primary_value, site_primary
from fedward_common.records import (
    CONTROL,
    Prepared,
    Trained,
    array_bytes,
    arrays_in,
    from_array_record,
    json_bytes,
    model_sha256,
)
from fedward_common.study import StudySpec
from fedward_server.batch_norm import disagreement
from fedward_server.checkpoints import Checkpoint, keep_best, latest, of_round, save
from fedward_server.checks import Gate
from fedward_server.closing import Closing, operating_points
from fedward_server.events import Listener
from fedward_server.exchange import Came, Connected, read_reply
from fedward_server.inquiry import Inquiry, State, check_labels
from fedward_server.outliers import outliers
from fedward_server.pausing import LOOK_S, is_paused
from fedward_server.quarantine import Quarantine
from fedward_server.result import RoundHistory, RunResult, SiteRound
from fedward_server.roster import Gathering, Participant, quorum
from fedward_server.scale import measured
from fedward_server.selection import Selection, Standing
from fedward_server.shelf import IN_MEMORY_BYTES, Shelf
from fedward_server.steering import Steering
from fedward_server.strategies import restore_state, strategy_state, takes
from fedward_server.updates import Updates

log = logging.getLogger(__name__)

UPDATES = ".updates"  # in a run's folder: updates that wait for others
SHORTEST_LIMIT_S, TIMES_USUAL, USUAL_OF = 20.0, 3.0, 5  # a site's own limit: of the longest of its last rounds


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
    waiting_bytes: int = IN_MEMORY_BYTES  # of updates that wait for others; more wait on the disk
    compares: bool = False  # at the end each site also trains alone, where the study lets it: what did it gain?

    _ask: Inquiry = field(init=False, repr=False)
    _steering: Steering = field(init=False, repr=False)
    _history: list[RoundHistory] = field(default_factory=list, init=False, repr=False)
    _sites: list[Participant] = field(default_factory=list, init=False, repr=False)
    _left_out: list[str] = field(default_factory=list, init=False, repr=False)
    _quarantine: Quarantine = field(default_factory=Quarantine, init=False, repr=False)
    _selection: Selection = field(init=False, repr=False)
    _unsaved: Checkpoint | None = field(default=None, init=False, repr=False)
    _warned: bool = field(default=False, init=False, repr=False)  # of BatchNorm statistics

    def __post_init__(self) -> None:
        self._selection = Selection(self.study.evaluation)
        self._ask = Inquiry(
            grid=self.grid,
            study=self.study,
            run=self.run,
            listener=self.listener,
            connected=self.connected,
            deadline_s=self.study.strategy.round_deadline_s if self.deadline_s is None else self.deadline_s,
        )

    def __call__(self, *, resume: bool = False) -> RunResult:
        """Run the study to its end; with `resume`, from the last checkpoint in the folder."""
        started = time.perf_counter()
        checkpoint = latest(self.folder, study_digest=self.study.digest) if resume else None
        begins = checkpoint.round if checkpoint is not None else 1
        self._steering = Steering(self.study, self.grid, *models.initial_model(self.study, self.folder), begins)
        if self.study.input.measures_scale:
            self._ask.scale = measured(self._ask, self.folder, wait_s=self.wait_s, resume=resume)
        if checkpoint is not None:
            self._ask.lets_go = False
            self._restore(checkpoint)
        if not self._sites:
            self._hold(0)
            self._prepare()
        try:
            self._rounds()
            self._hold(len(self._history))
        finally:
            self._save()
        return self._close(started)

    # Before round 1 --------------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        """Ask sites who they are and to freeze their cohorts; the roster decides who takes part."""
        gathering = Gathering(
            grid=self.grid,
            question=self._ask.question("prepare"),
            answer=Prepared,
            tell=lambda kind, site, note: self._ask.tell(kind, 0, site=site, note=note),
        )
        gathering.ask(self.connected, [site.name for site in self.study.sites], wait_s=self.wait_s)
        self._left_out = gathering.left_out
        self._sites = quorum(self.study, gathering)

    # Rounds ----------------------------------------------------------------------------------------------------------

    def _rounds(self) -> None:
        for number in range(len(self._history) + 1, self.study.rounds + 1):
            scored = number - 2  # the last round whose model is: it is in the next one's trip
            if self._is_scored(scored) and self._selection.stalled(scored):
                self._save()
                self._ask.tell("stopping", number - 1, note=self._why_it_stops(scored))
                return
            self._hold(number - 1)
            if self.study.ends_fold(number - 1):
                self._close_fold(number - 1)
            self._round(number)
            self._ask.lets_go = True

    def _hold(self, last: int) -> None:
        """Ask nothing for as long as a person has paused the run; its last round is then on the disk."""
        if not is_paused(self.folder):
            return
        self._save()
        self._ask.tell("paused", last)
        while is_paused(self.folder):
            time.sleep(LOOK_S)
        self._ask.tell("continued", last)

    def _close_fold(self, last: int) -> None:
        """Have the fold's patients scored, by the model as it is on the disk; then the first weights again."""
        self._save()
        fold = self.study.fold(last)
        assert fold is not None
        closing = Closing(inquiry=self._ask, sites=self._sites, folder=self.folder, after=last)
        lets_go, self._ask.lets_go = self._ask.lets_go, False  # a site that misses this has no figures
        kept = closing.keep_fold(self._steering.state, fold)
        self._ask.lets_go = lets_go
        if kept < self.study.strategy.min_sites:  # else all the other folds would be trained for nothing
            raise RunError(
                f"{kept} sites scored fold {fold + 1} after round {last}, the study asks for at least "
                f"{self.study.strategy.min_sites}; the run can be resumed from there"
            )
        self._steering.state = models.initial_model(self.study, self.folder)[0]

    def _round(self, number: int) -> None:
        started = time.perf_counter()
        messages = self._questions(number)
        updates, rows = self._collect(number, messages)
        if len(updates.accepted) < self.study.strategy.min_sites:
            updates.clear()
            reasons = "; ".join(f"{site}: {reason}" for site, reason in sorted(updates.refused.items()))
            raise RunError(
                f"round {number} has updates of {len(updates.accepted)} sites, the study asks for at least "
                f"{self.study.strategy.min_sites} ({reasons}); the run can be resumed from round {number - 1}"
            )
        self._score(number - 1, {t.site: t.incoming for t in updates.accepted.values() if t.incoming is not None})
        self._steering.step(number, updates, messages, self._training_patients(number))
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
        self._unsaved = self._checkpoint(number, strategy_state(self._steering.strategy), sorted(updates.accepted))

    def _questions(self, number: int) -> dict[str, Message]:
        """What is asked of each site that trains."""
        learning = [site for site in self._sites if site.trains and self._learn_from(site, number)]
        trainers = [site for site in learning if not self._quarantine.is_out(site.name)]
        if len(trainers) < self.study.strategy.min_sites:
            raise RunError(
                f"{len(trainers)} sites are left to train in round {number}, the study asks for at least "
                f"{self.study.strategy.min_sites} ({'; '.join(self._left_out)})"
            )
        question = self._ask.question("train", score_incoming=self._is_scored(number - 1))

        def told(site: str) -> dict[str, object]:
            return {"notice": self._quarantine.notice(site, number), "counted": self._counted(site, number)}

        asked = self._steering.questions(number, trainers, question, told)
        if self._unsaved is not None:  # the same model, where the messages have it: it is held once
            self._unsaved = replace(self._unsaved, arrays=self._steering.state)
        return asked

    def _counted(self, site: str, number: int) -> int:
        """The last round whose strategy took an update of a site's, 0 for none since it began anew."""
        before = number - self.study.round_of_strategy(number)
        return max((row.round for row in self._history[before:] if site in row.sites), default=0)

    def _collect(self, number: int, messages: Mapping[str, Message]) -> tuple[Updates, dict[str, SiteRound]]:
        """Wait for updates; each is checked as it comes, and added in site order."""
        rules = self.study.strategy
        names = sorted(messages)
        kept = takes(rules) == "all" or rules.min_cosine is not None
        updates = Updates(order=names, shelf=Shelf(self.folder / UPDATES, self.waiting_bytes), kept=kept)

        def asked() -> None:
            self._save()
            self._ask.tell("round", number, note=self.study.stage(number))

        trip = self._ask.trip(
            messages,
            number,
            meanwhile=asked,
            hard_s=self._ask.deadline_s,
            soft_s=self._limits(names),
            enough=lambda: len(updates.accepted) >= rules.min_sites,
            closed=lambda: rules.quorum != "all" and len(updates.accepted) >= rules.quorum,
        )
        reference = self._steering.expected(next(iter(messages.values())))
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
                bytes_down=array_bytes(arrays_in(down)) + json_bytes(down),
            )
            statistics[came.site] = _statistics(record)
            updates.accept(trained, record)
            self._ask.tell("answered", number, site=came.site)
        self._ask.ended(trip, number)
        self._compare_statistics(number, statistics)
        if rules.min_cosine is not None:
            self._leave_outliers_out(number, rules.min_cosine, reference, updates)
        updates.close(trip.silent())
        return updates, rows

    def _compare_statistics(self, number: int, statistics: Mapping[str, State]) -> None:
        """Warn, once a run, where the sites' BatchNorm statistics disagree."""
        if not self._warned and (found := disagreement(statistics)):
            self._warned = True
            self._ask.tell("warning", number, note=found.warning)

    def _limits(self, names: list[str]) -> dict[str, float]:
        """Each site's own limit, from what it has needed in its last rounds; none before it has answered once.

        None in a simulation: how busy its machines are would say which hospitals count.
        """
        if self.study.strategy.deadline == "fixed" or self.connected is None:
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
        sent = arrays_in(came.reply.content)
        record = self._steering.decoded(sent)
        if trained.site != site.name:
            raise RecordError(f"{site.name}'s node answered as {trained.site}")
        if (trained.study, trained.round) != (self.study.digest, number):
            raise RecordError(f"it answered another question: of round {trained.round}, study {trained.study[:12]}…")
        if trained.cohort != site.prepared.cohort:
            raise RecordError("its cohort changed during the run: finish or stop this run, then start a new one")
        if trained.patients != self._learn_from(site, number):
            raise RecordError("it says another number of training patients than when its cohort was frozen")
        if trained.incoming is not None:
            check_labels(site.name, trained.incoming, self.study)
        if reason := gate.check(site.name, from_array_record(record)):
            raise RecordError(reason)
        return trained, record, sent

    def _refuse(self, number: int, site: str, reason: str, updates: Updates, *, offence: bool) -> None:
        updates.refuse(site, reason)
        self._ask.tell("refused", number, site=site, note=reason)
        if offence and self._quarantine.offend(site, number, reason):
            sentence = self._quarantine.sentence(site)
            self._left_out.append(sentence)
            self._ask.tell("left-out", number, site=site, note=sentence)

    def _leave_outliers_out(self, number: int, bound: float, reference: State, updates: Updates) -> None:
        arrays = {site: from_array_record(record) for site, record in updates.all()}
        model = {name: array for name, array in reference.items() if not name.startswith(CONTROL)}
        for site, cosine in outliers(arrays, model, bound).items():
            reason = (
                f"the update of {site} points elsewhere than the others': its cosine to their mean direction is "
                f"{cosine:.2f}, the study asks for at least {bound:g}"
            )
            self._refuse(number, site, reason, updates, offence=True)

    def _training_patients(self, number: int) -> int:
        """Of all sites that train in a round, whether they answered or not."""
        return sum(self._learn_from(site, number) for site in self._sites if site.trains)

    def _learn_from(self, site: Participant, number: int) -> int:
        return site.prepared.learn_from(self.study.fold(number), unlabelled=self.study.takes_unlabelled(number))

    def _score(self, number: int, evaluations: Mapping[str, Evaluation]) -> None:
        """Add the validation figures of round `number`'s model, which is the present state, to its history."""
        if not self._is_scored(number):
            return
        held = [evaluations[site] for site in sorted(evaluations)]
        figures = {site: site_primary(evaluation, self.study) for site, evaluation in sorted(evaluations.items())}
        primary = primary_value(held, self.study) if held else None
        if held:
            self._history[number - 1] = self._history[number - 1].model_copy(
                update={
                    "validation_loss": mean_loss(held),
                    "primary": primary,
                    "site_primary": {site: value for site, value in figures.items() if value is not None},
                }
            )
            self.on_round(self._history[number - 1])
        self._select(number, primary)

    def _is_scored(self, number: int) -> bool:
        """Whether a round's model is: it is one that learned from labels, and no fold's."""
        return number > 0 and self.study.layer(number) is None and self.study.split.folds is None

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
            keep_best(self.folder, number)

    def _why_it_stops(self, number: int) -> str:
        standing = self._selection.standing
        return (
            f"{self.study.evaluation.primary} of {standing.mark:.4f} in round {standing.mark_round} has not become "
            f"better for {number - standing.mark_round} rounds"
        )

    # What a resume needs ---------------------------------------------------------------------------------------------

    def _save(self) -> None:
        """Put the last round on the disk, where it is not there yet."""
        checkpoint, self._unsaved = self._unsaved, None
        if checkpoint is None:
            return
        save(self.folder, checkpoint)
        self.on_round(self._history[checkpoint.round - 1])
        self._ask.tell("aggregated", checkpoint.round)

    def _checkpoint(
        self, number: int, remembered: Mapping[str, npt.NDArray[Any]], participation: list[str]
    ) -> Checkpoint:
        return Checkpoint(
            run=self.run,
            study_digest=self.study.digest,
            round=number,
            arrays=self._steering.state,
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

    def _restore(self, checkpoint: Checkpoint) -> None:
        metrics = checkpoint.metrics
        self._steering.state = dict(checkpoint.arrays)
        self._history = [RoundHistory.model_validate(row) for row in metrics["history"]]
        restore_state(self._steering.strategy, checkpoint.strategy_state)
        offences = {site: {int(n): why for n, why in of.items()} for site, of in metrics["offences"].items()}
        self._quarantine = Quarantine(offences)
        self._selection.standing = Standing.model_validate(metrics["selection"])
        if self.connected is not None:  # elsewhere nodes have no names but what they answer
            self._left_out = list(metrics["left_out"])
            # from JSON, which has lists for tuples
            found = {
                site: Prepared.model_validate(prepared, strict=False) for site, prepared in metrics["sites"].items()
            }
            self._sites = [
                Participant(site, 0, not self.study.only_evaluates(site), found[site]) for site in sorted(found)
            ]
        log.info("run %s goes on after round %d", self.run, checkpoint.round)

    # After the last round --------------------------------------------------------------------------------------------

    def _close(self, started: float) -> RunResult:
        last = len(self._history)
        self._ask.tell("closing", last)
        closing = Closing(inquiry=self._ask, sites=self._sites, folder=self.folder, after=last)
        closing.validate(self._steering.state)
        self._score(last, closing.of_trainers())
        kept = self._keep(last)
        if kept != last:
            closing.validate(self._steering.state)
        thresholds = operating_points(self.study, closing.of_trainers().values())
        closing.evaluate(self._steering.state, thresholds)
        if self.compares and self.study.evaluation.local_baseline:
            self._hold(last)
            closing.compare(models.initial_model(self.study, self.folder)[0])
        result = RunResult(
            run=self.run,
            engine=self.engine,
            study=self.study,
            scale=self._ask.scale,
            sites={site.name: closing.result(site) for site in self._sites},
            history=tuple(self._history),
            kept_round=kept,
            left_out=tuple(sorted(self._left_out)),
            thresholds=thresholds,
            model_sha256=model_sha256(self._steering.state),
            wall_s=time.perf_counter() - started,
        )
        result.write(self.folder)
        self._ask.tell("finished", last)
        return result

    def _keep(self, last: int) -> int:
        """Take the model that the study keeps; gives its round."""
        best = self._selection.standing.best_round
        if self.study.evaluation.keep == "last" or best in (0, last):
            return last
        self._steering.state = dict(of_round(self.folder, best, study_digest=self.study.digest).arrays)
        return best


def _statistics(record: ArrayRecord) -> State:
    """Copies of the running statistics in an update; they are small."""
    names = {layer + kind for layer in layers(record) for kind in (MEAN, VARIANCE)}
    return {name: array.copy() for name, array in from_array_record(record).items() if name in names} if names else {}
