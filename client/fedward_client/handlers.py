"""A site's answers: study and arrays in, update and sketches out. Knows no Flower and no network.

`Hospital` is what answers; its `Source` is where its tensors come from: a site's own catalog, or, in a simulation's
pooled baseline, several sites' at once.
"""

import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
from torch import nn

from fedward_client.evaluation import evaluate, predict
from fedward_client.fixed import fix_model, fix_operating_points, fix_scale
from fedward_client.measuring import Surveyed
from fedward_client.out_of_fold import OutOfFold, nothing_yet
from fedward_client.scored import scoring
from fedward_client.site_data import SiteData
from fedward_client.site_state import RunState
from fedward_client.source import Source
from fedward_client.split import SIDES, Side
from fedward_client.training import local
from fedward_client.training.device import pick_device
from fedward_client.training.epochs import EpochJournal
from fedward_client.training.local import load_state
from fedward_client.training.loop import TrainResult, journaled, train
from fedward_client.training.pseudo_labels import pseudo_labelled
from fedward_client.training.recalibrate import recalibrated
from fedward_client.training.rules import Rule
from fedward_common import __version__, models
from fedward_common.compression import decode_model
from fedward_common.errors import DataError
from fedward_common.events import Listener, ignore
from fedward_common.metrics import Evaluation, pooled, told, told_total
from fedward_common.records import CONTROL, Arrays, Evaluated, Prepared, Question, Trained, model_sha256
from fedward_common.study import Scale, StudySpec

ALONE = "alone"  # of what is kept in a run's state: the model that the site trains without the others
_ROUND = "round/number"  # beside its arrays, whose names hold no "/"


@dataclass(slots=True)
class Hospital:
    """Answers a hub's questions. Keeps the last run's tensors mapped between rounds, nothing else."""

    source: Source
    listener: Listener = ignore
    _data: tuple[tuple[str, str, Scale | None], SiteData] | None = field(default=None, repr=False)

    def survey(self, question: Question) -> Surveyed:
        """What may be told of the study's patients before training."""
        return self.source.survey(question.study, question.run, question.statistics, self.listener)

    def check_opted_out(self, question: Question) -> None:
        """Raise DataError where a patient of the question's run has opted out since it began, and let go of tensors."""
        try:
            self.source.check_opted_out(question.run)
        except DataError:
            self._data = None
            raise

    def prepare(self, question: Question) -> Prepared:
        """Freeze the cohort and fill the cache, so that round 1 starts training at once."""
        started = time.perf_counter()
        data = self._load(question)
        study, k = question.study, self.source.min_cell
        learning = data.indices("train", unlabelled=True)
        sides: dict[Side, int] = {side: len(np.unique(data.patients[data.indices(side)])) for side in SIDES}
        trains = not study.only_evaluates(self.source.name)
        dealt = range(study.split.folds or 0) if trains else ()
        folds = [data.in_fold(fold, study.split.folds).indices("train") for fold in dealt]
        # training patients are the update's weight; of the other sides, files may have gone since there were enough
        shown = told(sides, k, known=["train"] if trains else [])
        return Prepared(
            site=self.source.name,
            fedward=__version__,
            cohort=data.cohort_digest,
            total=told_total(sides, shown, k),
            patients=shown,
            unlabelled=len(np.unique(data.patients[learning])) - sides["train"],
            folds=tuple(len(np.unique(data.patients[rows])) for rows in folds),
            seconds=time.perf_counter() - started,
        )

    def train(self, question: Question, arrays: Arrays, *, round_number: int) -> tuple[Trained, dict[str, np.ndarray]]:
        """Score the model as it came where that is asked, train it, and give the update with its numbers."""
        started = time.perf_counter()
        study = question.study
        data = self._load(question).in_fold(study.fold(round_number), study.split.folds)
        model, state = network(study.canonical_json()), self._state(question)
        if state is not None and question.counted is not None:
            state.drop(local.OWN_CONTROL, after=question.counted)

        def held(part: str) -> dict[str, np.ndarray]:
            return state.load(part, before=round_number) if state is not None else {}

        sent = {name: array for name, array in arrays.items() if not name.startswith(CONTROL)}
        layers = self._layers(study, state, before=round_number)
        load_state(model, {**sent, **layers})
        incoming = None
        if question.score_incoming:
            incoming = self._evaluate(model, data, question, "validation", None, own_layers=bool(layers))
        learned = self._learned_from(model, data, study, round_number, own_layers=bool(layers))
        outcome = local.train(
            local.Round(
                study=study,
                number=round_number,
                model=model,
                start={**sent, **layers},
                control={name.removeprefix(CONTROL): arrays[name] for name in arrays if name not in sent},
                held=held,
                fit=self._fit(question, learned, state, arrays, round_number),
            )
        )
        for part, kept in outcome.kept.items():
            assert state is not None
            state.save(part, round_number, kept)
        result = outcome.result
        indices = data.indices("train", unlabelled=study.takes_unlabelled(round_number))
        trained = Trained(
            site=self.source.name,
            study=study.digest,
            round=round_number,
            cohort=data.cohort_digest,
            patients=len(np.unique(data.patients[indices])),
            images=len(indices),
            steps=result.steps,
            train_loss=result.loss,
            incoming=incoming,
            train_seconds=result.seconds,
            seconds=time.perf_counter() - started,
        )
        return trained, outcome.returned

    def evaluate(self, question: Question, arrays: Arrays) -> Evaluated:
        """Score a model on the asked side of the split, and beside it the site's own where the strategy has one."""
        started = time.perf_counter()
        data = self._load(question)
        fix_operating_points(self.source, question)
        study, state = question.study, self._state(question)
        whole = question.model == "other"  # it comes with all that its site trained
        model = network(study.canonical_json())
        layers = {} if whole else self._layers(study, state)
        load_state(model, {**arrays, **layers})
        own = {} if whole or state is None else state.load(local.PERSONAL) or {}
        if question.fold is not None:
            fix_model(self.source, question, f"fold {question.fold + 1}", arrays)
            self._score_fold(model, data, question, question.fold)
        elif question.side == "test" and not whole:
            personally = {f"personal/{name}": values for name, values in own.items()}
            fix_model(self.source, question, "the test patients", {**arrays, **layers, **personally})

        def scored(*, own_layers: bool, grouped: bool = False) -> Evaluation:
            if question.fold is not None:
                return nothing_yet()
            return self._evaluate(
                model, data, question, question.side, question.thresholds, own_layers=own_layers, grouped=grouped
            )

        evaluation = scored(own_layers=whole or bool(layers), grouped=not whole and question.side == "test")
        personal = None
        if own:
            load_state(model, own)
            personal = scored(own_layers=True)
        return Evaluated(
            site=self.source.name,
            cohort=data.cohort_digest,
            evaluation=evaluation,
            personal=personal,
            seconds=time.perf_counter() - started,
        )

    def alone(self, question: Question, arrays: Arrays) -> tuple[Evaluated, dict[str, np.ndarray]]:
        """Train from the arrays that were sent on this site's patients only, as long as the study does, and score that.

        The operating point is the site's own, from its validation patients. Goes on after the last whole round. Gives
        the figures and the model.
        """
        started = time.perf_counter()
        study, data, state = question.study, self._load(question), self._state(question)
        model = network(study.canonical_json())
        held = state.load(ALONE) if state is not None else {}
        done = int(held.pop(_ROUND, np.array(0)))
        load_state(model, held or arrays)
        for number in range(done + 1, study.rounds + 1):
            if study.ends_fold(number - 1):
                load_state(model, arrays)
            within = data.in_fold(study.fold(number), study.split.folds)
            train(
                model,
                self._learned_from(model, within, study, number, own_layers=True),
                study,
                site=self.source.name,
                round_number=number,
                device=pick_device(),
                listener=self.listener,
            )
            if (fold := study.fold(number)) is not None and study.ends_fold(number):
                self._score_fold(model, data, question, fold)
            if state is not None:
                state.save(ALONE, number, {**local.state_arrays(model), _ROUND: np.array(number)})
        validation = self._evaluate(model, data, question, "validation", None, own_layers=True)
        points = {label: pooled([validation], label) for label in study.asked_labels}
        rule = study.evaluation.operating_point
        thresholds = {label: merged.threshold(rule) for label, merged in points.items() if merged is not None}
        evaluated = Evaluated(
            site=self.source.name,
            cohort=data.cohort_digest,
            evaluation=self._evaluate(model, data, question, question.side, thresholds, own_layers=True),
            seconds=time.perf_counter() - started,
        )
        return evaluated, local.state_arrays(model)

    def settle(self, question: Question, round_number: int) -> None:
        """A round's answer is where it can be asked for again: what was written down to go on from can go."""
        if (state := self.source.state(question.study, question.run)) is not None:
            state.settle(round_number)

    def let_go(self, study: str) -> None:
        """Unmap a study's tensors (its digest)."""
        if (held := self._data) is not None and held[0][0] == study:  # another thread may change it
            self._data = None

    def _state(self, question: Question) -> RunState | None:
        state = self.source.state(question.study, question.run)
        if state is None and local.needs_state(question.study):
            raise DataError(
                f"{self.source.name} keeps nothing between rounds: the study's strategy, batch_norm or folds need it"
            )
        return state

    @staticmethod
    def _layers(study: StudySpec, state: RunState | None, *, before: int | None = None) -> dict[str, np.ndarray]:
        """The site's own BatchNorm arrays; none where they travel, or before the site has trained."""
        if state is None or study.training.batch_norm != "local":
            return {}
        return state.load(local.LAYERS, before=before)

    def _learned_from(
        self, model: nn.Module, data: SiteData, study: StudySpec, round_number: int, *, own_layers: bool
    ) -> SiteData:
        """What a round learns from: with pseudo-labels, where it takes some, of the model that it begins with."""
        if not study.pseudo_labelled(round_number):
            return data
        with self._measured(model, data, study, own_layers=own_layers):
            scored = scoring(model, data, site=self.source.name, device=pick_device(), listener=self.listener)
            return pseudo_labelled(scored, study)

    def _fit(
        self, question: Question, data: SiteData, state: RunState | None, arrays: Arrays, round_number: int
    ) -> local.Fit:
        """The training loop of this round, with a journal where it takes more than one epoch."""
        study = question.study
        began_with = ""
        if state is not None and journaled(study, data, round_number):
            began_with = f"{model_sha256(arrays)} {data.cohort_digest}"

        def fit(model: nn.Module, rule: Rule, part: str = "model", *, more_follows: bool = False) -> TrainResult:
            journal = None
            if state is not None and began_with:
                journal = EpochJournal(
                    journal=state.journal(part, round_number), began_with=began_with, last_too=more_follows
                )
            return train(
                model,
                data,
                study,
                site=self.source.name,
                round_number=round_number,
                device=pick_device(),
                listener=self.listener,
                rule=rule,
                journal=journal,
            )

        return fit

    def _evaluate(
        self,
        model: nn.Module,
        data: SiteData,
        question: Question,
        side: Side,
        thresholds: dict[str, float] | None,
        *,
        own_layers: bool,
        grouped: bool = False,
    ) -> Evaluation:
        """Score a model; in a study with folds put together what the folds' models gave, but for another site's own.

        Groups of patients are told of only where it is `grouped`: what nobody looks at does not leave.
        """
        study, device = question.study, pick_device()
        data = data if grouped else replace(data, groups={})
        if study.split.folds is not None and question.model != "other":
            return self._out_of_fold(question, data).evaluation(
                study, side, thresholds=thresholds, min_cell=self.source.min_cell
            )
        scored = data  # BatchNorm statistics are of those who train
        if study.split.folds is not None:  # it has trained on none of them
            scored = replace(data, sides=np.full_like(data.sides, SIDES.index(side)))
        with self._measured(model, data, study, own_layers=own_layers):
            return evaluate(
                model,
                scored,
                study,
                side,
                site=self.source.name,
                thresholds=thresholds,
                min_cell=self.source.min_cell,
                device=device,
                listener=self.listener,
            )

    @staticmethod
    def _measured(
        model: nn.Module, data: SiteData, study: StudySpec, *, own_layers: bool
    ) -> AbstractContextManager[None]:
        """While BatchNorm statistics are measured anew, where the policy says so or nobody trained them here yet."""
        policy = study.training.batch_norm
        anew = policy == "recalibrate" or (policy == "local" and not own_layers)
        return recalibrated(model, data, dims=len(study.input.size), device=pick_device()) if anew else nullcontext()

    def _score_fold(self, model: nn.Module, data: SiteData, question: Question, fold: int) -> None:
        """Score the patients whom a fold tests, and those who validate in it; the scores stay here."""
        study = question.study
        within = data.in_fold(fold, study.split.folds)
        sides: tuple[Side, ...] = ("validation", "test")
        with self._measured(model, within, study, own_layers=True):
            scored = scoring(model, within, site=self.source.name, device=pick_device(), listener=self.listener)
            scores = {side: predict(scored, within.indices(side), study) for side in sides}
        self._out_of_fold(question, within).keep(fold, scores)

    def _out_of_fold(self, question: Question, data: SiteData) -> OutOfFold:
        state = self._state(question)
        assert state is not None  # folds need one
        part = f"{ALONE}-fold" if question.model == "alone" else "fold"
        return OutOfFold(state, self.source.name, data, part)

    def _load(self, question: Question) -> SiteData:
        key = (question.study.digest, question.run, question.scale)
        if self._data is None or self._data[0] != key:
            self._data = None  # so that its cache may go where there is no room for the next one
            fix_scale(self.source, question)
            self._data = (key, self.source.load(question.study, question.run, self.listener, question.scale))
        self.check_opted_out(question)
        return self._data[1]


@lru_cache(maxsize=1)  # a large network stays warm between rounds, and there is one of it in a process
def network(study_json: bytes) -> nn.Module:
    """The network of a study (its canonical JSON), weights to be loaded."""
    return models.network(StudySpec.from_json(study_json))


def model_sent(question: Question, arrays: Arrays) -> Arrays:
    """The model in a question. To be trained it comes as the study's [update] says, to be evaluated as it is."""
    if question.kind != "train" or question.study.update.compression == "none":
        return arrays
    state = network(question.study.canonical_json()).state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items() if str(tensor.dtype) == "torch.float32"}
    return decode_model(arrays, shapes, question.study.update)
