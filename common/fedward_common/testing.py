"""Fakes that ship with Fedward, for tests of a hub without hospitals: a grid in memory, and sites that answer on it.

They speak the real records; only training is replaced, by a function from arrays to arrays.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from fedward_common import __version__, feature_scale
from fedward_common.batch_norm import returned_names
from fedward_common.cohort_statistics import EDGES, MISSING, VARIABLES, Statistics, bins, table
from fedward_common.landmarks import site_sums
from fedward_common.metrics import Evaluation
from fedward_common.records import (
    Arrays,
    Evaluated,
    Prepared,
    Question,
    Trained,
    answer_record,
    from_array_record,
    read_question,
    to_array_record,
)
from fedward_common.study import Input, StudySpec, TableInput
from fedward_common.testing_evaluations import MIN_CELL, invented

Answerer = Callable[[Message], Message | None]  # None: stays silent


def images_of(study: StudySpec) -> Input:
    """The [input] of a study of images."""
    assert isinstance(study.input, Input)
    return study.input


def unchanged(arrays: Arrays) -> Arrays:
    """The update of a site that learned nothing."""
    return arrays


@dataclass(kw_only=True)
class FakeSite:
    """Answers like a hospital of `patients` patients whose training is `update`; scores hang on name and side."""

    name: str
    patients: int = 40
    update: Callable[[Arrays], Arrays] = unchanged
    cohort: str = ""
    fedward: str = __version__
    local_model: bool = False  # its policy lets the model leave that it trains without the others
    quality: float = 0.0  # 0 to 1, of the common model at the end; what sites train alone has a half of it

    def __call__(self, message: Message) -> Message | None:
        """The answer to a hub's message."""
        question, numbers = read_question(message.content)
        if question.kind == "stats":
            return Message(answer_record(self._statistics(question)), reply_to=message)
        if question.kind == "prepare":
            return Message(answer_record(self._prepared(question.study)), reply_to=message)
        if question.kind == "evaluate":
            evaluated = Evaluated(
                site=self.name,
                cohort=self._digest,
                evaluation=self._evaluation(
                    question.study, question.thresholds, question.side, 1.0 if question.model == "sent" else 0.5
                ),
                seconds=0.1,
            )
            own = None
            if question.hand_over:
                own = to_array_record(self.update(from_array_record(message.content.array_records["arrays"])))
            return Message(answer_record(evaluated, own), reply_to=message)
        learned = (int(numbers["server-round"]) - 1) / question.study.rounds  # by the model as it came
        trained = Trained(
            site=self.name,
            study=question.study.digest,
            round=int(numbers["server-round"]),
            cohort=self._digest,
            patients=self.patients,
            images=self.patients,
            steps=1,
            train_loss=0.5,
            incoming=self._evaluation(question.study, None, learned=learned) if question.score_incoming else None,
            train_seconds=0.1,
            seconds=0.2,
        )
        arrays = self.update(from_array_record(message.content.array_records["arrays"]))
        returned = {name: arrays[name] for name in returned_names(question.study, arrays, trained.round)}
        return Message(answer_record(trained, to_array_record(returned)), reply_to=message)

    @property
    def _digest(self) -> str:
        return self.cohort or hashlib.sha256(self.name.encode()).hexdigest()

    def _statistics(self, question: Question) -> Statistics:
        """Of patients of whom only the label is known, in turns; landmarks are the deciles, features drawn."""
        measures = question.statistics == "scale"
        names = question.study.cohort.labels
        turns = Counter(names[number % len(names)] for number in range(self.patients))
        foreseen = {name: (*bins(name),) if name in EDGES else () for name in VARIABLES}
        tables = {name: table({MISSING: self.patients}, foreseen[name], min_cell=MIN_CELL) for name in VARIABLES}
        tables["label"] = table(turns, names, min_cell=MIN_CELL)
        people, section = np.arange(self.patients), question.study.input
        deciles = np.tile(np.arange(1, 10) / 10, (self.patients, 1))
        landmarks = site_sums(deciles, people, min_cell=MIN_CELL) if measures and isinstance(section, Input) else None
        features = None
        if measures and isinstance(section, TableInput):
            values = np.random.default_rng(len(self.name)).normal(size=(self.patients, section.channels))
            features = feature_scale.site_sums(values, people, section, min_cell=MIN_CELL)
        return Statistics(
            site=self.name,
            fedward=self.fedward,
            wanted=question.statistics,
            patients=self.patients,
            images=self.patients,
            unusable=None if measures else 0,
            tables={} if measures else tables,
            landmarks=landmarks,
            features=features,
            seconds=0.1,
        )

    def _prepared(self, study: StudySpec) -> Prepared:
        return Prepared(
            site=self.name,
            fedward=self.fedward,
            cohort=self._digest,
            total=3 * self.patients,
            patients={"train": self.patients, "validation": self.patients, "test": self.patients},
            folds=(self.patients,) * (study.split.folds or 0),
            local_model=self.local_model,
            seconds=0.1,
        )

    def _evaluation(
        self, study: StudySpec, thresholds: Mapping[str, float] | None, side: str = "validation", learned: float = 1.0
    ) -> Evaluation:
        seed = [len(self.name), *side.encode()]
        return invented(study, self.patients, self.quality * learned, seed, thresholds)


class FakeGrid(Grid):
    """A grid in memory: `sites` answer by node id as soon as they are asked, and replies come last first."""

    def __init__(self, sites: Mapping[int, Answerer]) -> None:
        self._sites = dict(sites)
        self._replies: dict[str, Message] = {}
        self._sent = 0
        self._run = Run.create_empty(run_id=1)
        TaskIdentity.task_id = TaskIdentity.run_id = 1
        TaskIdentity.node_id = 0

    @property
    def run(self) -> Run:
        """An empty run."""
        return self._run

    def set_run(self, run: Run) -> None:
        """Take a run as the current one."""
        self._run = run

    def get_node_ids(self) -> list[int]:
        """Every site's node."""
        return sorted(self._sites)

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """A message to a node."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Ask at once; a site that raises answers with an error, as a Flower node does."""
        ids = []
        for message in messages:
            self._sent += 1
            message.metadata.__dict__["_message_id"] = f"fake-{self._sent}"
            ids.append(message.metadata.message_id)
            reply = self._ask(message)
            if reply is not None:
                self._replies[message.metadata.message_id] = reply
        return ids

    def _ask(self, message: Message) -> Message | None:
        try:
            return self._sites[message.metadata.dst_node_id](message)
        except ArithmeticError as error:
            return Message(Error(code=1, reason=str(error)), reply_to=message)

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """What is there, in the reverse of the order asked: order of arrival must not matter."""
        there = sorted((one for one in message_ids if one in self._replies), reverse=True)
        return [self._replies.pop(one) for one in there]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Push, then pull."""
        del timeout  # nothing takes any time here
        return self.pull_messages(self.push_messages(messages))


def tiny_study(phases: Sequence[Mapping[str, Any]] = (), /, **sections: Mapping[str, Any]) -> StudySpec:
    """A valid study of two labels and a small network, with `phases`; `sections` are merged into its sections."""
    base: dict[str, dict[str, Any]] = {
        "study": {"id": "tiny", "task": "classification"},
        "cohort": {"modality": "US", "labels": ["benign", "malignant"], "positive": "malignant", "min_patients": 5},
        "split": {"shares": [0.5, 0.25, 0.25]},
        "input": {"size": [16, 16]},
        "model": {"name": "small-cnn"},
        "training": {"rounds": 2, "batch_size": 8},
        "strategy": {"min_sites": 1, "round_deadline_s": 60.0},
    }
    if sections.get("split", {}).get("kind") == "column":
        del base["split"]["shares"]
    if "kind" in sections.get("input", {}):  # of no images
        del base["input"], base["cohort"]["modality"]
    merged = {name: {**base.get(name, {}), **sections.get(name, {})} for name in {**base, **sections}}
    return StudySpec.model_validate_json(json.dumps({**merged, "phases": list(phases)}))
