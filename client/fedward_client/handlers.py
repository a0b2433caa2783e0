"""A site's answers: study and arrays in, update and sketches out. Knows no Flower and no network.

`Hospital` is what answers; `Source` is where its tensors come from: a site's own catalog, or, in a simulation's pooled
baseline, several sites' at once.
"""

import json
import time
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import nn

from fedward_client import cache
from fedward_client.cache import SiteData
from fedward_client.evaluation import evaluate
from fedward_client.ledger import Ledger
from fedward_client.site import Site
from fedward_client.split import SIDES, Side
from fedward_client.training.device import pick_device
from fedward_client.training.loop import train
from fedward_common import __version__, models
from fedward_common.errors import DataError, RecordError
from fedward_common.events import Listener, ignore
from fedward_common.metrics import Evaluation, told, told_total
from fedward_common.records import Arrays, Evaluated, Prepared, Question, Trained
from fedward_common.study import StudySpec


class Source(Protocol):
    """Where tensors come from."""

    @property
    def name(self) -> str:
        """The site's name."""

    @property
    def min_cell(self) -> int:
        """Counts below this never leave."""

    def load(self, study: StudySpec, run: str, listener: Listener) -> SiteData:
        """The run's frozen cohort as tensors."""

    def once(self, run: str, name: str, value: str) -> str:
        """Remember `value` under `name` for a run, unless something is remembered already; gives what is remembered."""


@dataclass(frozen=True, slots=True)
class SiteSource:
    """One hospital's folder."""

    site: Site

    @classmethod
    def open(cls, folder: Path) -> "SiteSource":
        """The source of a site's folder."""
        return cls(Site.open(folder))

    @property
    def name(self) -> str:
        """The site's name."""
        return self.site.name

    @property
    def min_cell(self) -> int:
        """Counts below this never leave."""
        return self.site.min_cell

    def load(self, study: StudySpec, run: str, listener: Listener) -> SiteData:
        """The run's frozen cohort as tensors, from the cache where they are there already."""
        return cache.load(self.site, study, run, listener)

    def once(self, run: str, name: str, value: str) -> str:
        """Remembered in the site's ledger."""
        with Ledger.open(self.site.ensure_state()) as ledger:
            return ledger.once(run, name, value)


@dataclass(slots=True)
class Hospital:
    """Answers a hub's questions. Keeps the last run's tensors mapped between rounds, nothing else."""

    source: Source
    listener: Listener = ignore
    _data: tuple[tuple[str, str], SiteData] | None = field(default=None, repr=False)

    def prepare(self, question: Question) -> Prepared:
        """Freeze the cohort and fill the cache, so that round 1 starts training at once."""
        started = time.perf_counter()
        data = self._load(question)
        study = question.study
        trained = data.indices("train")
        sides: dict[Side, int] = {side: len(np.unique(data.patients[data.indices(side)])) for side in SIDES}
        labels = {
            label: len(np.unique(data.patients[trained][data.labels[trained] == index]))
            for index, label in enumerate(study.cohort.labels)
        }
        shown = told(sides, self.source.min_cell, known=["train"])  # training patients are the update's weight
        return Prepared(
            site=self.source.name,
            fedward=__version__,
            cohort=data.cohort_digest,
            total=told_total(sides, shown, self.source.min_cell),
            patients=shown,
            labels=told(labels, self.source.min_cell),
            seconds=time.perf_counter() - started,
        )

    def train(
        self, question: Question, arrays: Arrays, *, round_number: int, proximal_mu: float = 0.0
    ) -> tuple[Trained, dict[str, np.ndarray]]:
        """Score the model as it came where that is asked, train it, and give the update with its numbers."""
        started = time.perf_counter()
        study, data = question.study, self._load(question)
        model = network(study.canonical_json())
        load_state(model, arrays)
        incoming = self._evaluate(model, data, question, "validation", None) if question.score_incoming else None
        result = train(
            model,
            data,
            study,
            site=self.source.name,
            round_number=round_number,
            device=pick_device(),
            listener=self.listener,
            proximal_mu=proximal_mu,
        )
        indices = data.indices("train")
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
        return trained, state_arrays(model)

    def evaluate(self, question: Question, arrays: Arrays) -> Evaluated:
        """Score a model on the asked side of the split."""
        started = time.perf_counter()
        data = self._load(question)
        self._fix_operating_points(question)
        model = network(question.study.canonical_json())
        load_state(model, arrays)
        evaluation = self._evaluate(model, data, question, question.side, question.thresholds)
        return Evaluated(
            site=self.source.name,
            cohort=data.cohort_digest,
            evaluation=evaluation,
            seconds=time.perf_counter() - started,
        )

    def _evaluate(
        self, model: nn.Module, data: SiteData, question: Question, side: Side, thresholds: dict[str, float] | None
    ) -> Evaluation:
        return evaluate(
            model,
            data,
            question.study,
            side,
            site=self.source.name,
            thresholds=thresholds,
            min_cell=self.source.min_cell,
            device=pick_device(),
            listener=self.listener,
        )

    def _fix_operating_points(self, question: Question) -> None:
        """A run gets figures at one set of operating points: those of many would add up to single patients' scores."""
        if question.thresholds is None:
            return
        points = json.dumps(question.thresholds, sort_keys=True)
        if self.source.once(question.run, f"operating points, {question.side}", points) != points:
            raise DataError(
                f"{self.source.name} has scored this run's {question.side} patients at other operating points already; "
                "a run gets one set of them"
            )

    def _load(self, question: Question) -> SiteData:
        key = (question.study.digest, question.run)
        if self._data is None or self._data[0] != key:
            self._data = (key, self.source.load(question.study, question.run, self.listener))
        return self._data[1]


@lru_cache(maxsize=1)  # a large network stays warm between rounds, and there is one of it in a process
def network(study_json: bytes) -> nn.Module:
    """The network of a study (its canonical JSON), weights to be loaded."""
    return models.network(StudySpec.from_json(study_json))


def load_state(model: nn.Module, arrays: Arrays) -> None:
    """Copy arrays into a network, in place; anything but its exact keys and shapes is a `RecordError`."""
    state = model.state_dict()
    if state.keys() != arrays.keys():
        odd = sorted(state.keys() ^ arrays.keys())
        raise RecordError(f"the arrays do not fit the study's network: {', '.join(odd[:3])} on one side only")
    with torch.no_grad():
        for name, tensor in state.items():
            array = arrays[name]
            if tuple(tensor.shape) != array.shape:
                raise RecordError(f"array '{name}' has shape {array.shape}, the network wants {tuple(tensor.shape)}")
            # torch warns of read-only memory although nothing here writes to it
            tensor.copy_(torch.from_numpy(array if array.flags.writeable else array.copy()))


def state_arrays(model: nn.Module) -> dict[str, np.ndarray]:
    """A network's parameters and buffers as arrays on the CPU, in order; copies, for the network is used again."""
    return {name: tensor.detach().cpu().clone().numpy() for name, tensor in model.state_dict().items()}
