"""Rounds in which one layer learns alone: what is asked, what comes back, what is scored, and a resume between them."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message

from fedward_common import models
from fedward_common.records import Arrays, from_array_record, read_answer, read_question
from fedward_common.records import Trained as TrainedAnswer
from fedward_common.study import StudySpec
from fedward_common.testing import Answerer, FakeGrid, FakeSite, tiny_study
from fedward_server.checkpoints import of_round
from fedward_server.result import RunResult
from fedward_server.rounds import RoundEngine

ADAM = {"name": "fedadam", "options": {"eta": 0.01, "beta_1": 0.9, "beta_2": 0.99, "tau": 0.001}}
LAYERS = [0, 0, 1, 1, None, None, None]  # that learns alone, by round


def study(**sections: Any) -> StudySpec:
    model = {"name": "dbn", "options": {"hidden": [6, 4]}}
    return tiny_study([{"rounds": 2}, {"rounds": 2}], **{"model": model, "training": {"rounds": 3}, **sections})


def shift(arrays: Arrays) -> Arrays:
    return {name: array + np.float32(0.5) for name, array in arrays.items()}


def run(site: Answerer, spec: StudySpec, folder: Path, *, resume: bool = False) -> RunResult:
    return RoundEngine(
        grid=FakeGrid({1: site}),
        study=spec,
        run="run-1",
        engine="embedded",
        folder=folder,
        on_round=lambda _row: None,
        listener=lambda _event: None,
    )(resume=resume)


def changed(before: Arrays, after: Arrays) -> set[str]:
    return {name for name in before if not np.array_equal(before[name], after[name])}


def of_layer(spec: StudySpec, layer: int | None) -> set[str]:
    names = models.initial_state(spec, 42)
    return {name for name in names if layer is None or models.of_layer(name, layer)}


@pytest.mark.parametrize("strategy", [{}, ADAM], ids=["fedavg", "fedadam"])
def test_each_phase_changes_its_layer_and_nothing_else(tmp_path: Path, strategy: dict[str, Any]) -> None:
    """Also where the strategy remembers: FedAdam's moments of one layer would move it while another one learns."""
    spec = study(strategy=strategy)
    states: list[dict[str, np.ndarray[Any, Any]]] = []
    sent_back: list[set[str]] = []

    def site(message: Message) -> Message | None:
        reply = FakeSite(name="a", update=shift)(message)
        if message.metadata.message_type == "train" and reply is not None:
            sent = from_array_record(message.content.array_records["arrays"])
            states.append({name: array.copy() for name, array in sent.items()})
            sent_back.append(set(reply.content.array_records["arrays"]))
        return reply

    run(site, spec, tmp_path)
    states.append(dict(of_round(tmp_path, len(LAYERS), study_digest=spec.digest).arrays))
    assert sent_back == [of_layer(spec, layer) for layer in LAYERS]
    for (before, after), layer in zip(pairwise(states), LAYERS, strict=True):
        assert changed(before, after) == of_layer(spec, layer)


def test_only_rounds_with_labels_are_scored(tmp_path: Path) -> None:
    asked: list[bool] = []

    def site(message: Message) -> Message | None:
        question, _ = read_question(message.content)
        if question.kind == "train":
            asked.append(question.score_incoming)
        return FakeSite(name="a", update=shift)(message)

    stopping = {"keep": "best", "early_stopping": {"patience": 1}}
    result = run(site, study(evaluation=stopping), tmp_path)
    assert asked[:5] == [False] * 5, "round 5 gets the model of the last layer, whose classifier is as it was drawn"
    assert [row.primary is not None for row in result.history] == [number > 4 for number in range(1, len(asked) + 1)]
    assert len(asked) > 5, "patience counts rounds with labels"
    assert result.kept_round > 4


def test_a_strategy_that_needs_the_rate_gets_the_phases(tmp_path: Path) -> None:
    """q-FedAvg's Lipschitz constant is one over the rate at which sites learn."""
    made: list[float] = []

    class Seen(RoundEngine):
        def _questions(self, number: int) -> dict[str, Message]:
            asked = super()._questions(number)
            made.append(vars(self._steering.strategy)["client_learning_rate"])
            return asked

    rates = {"rounds": 1, "optimizer": {"name": "sgd", "lr": 0.25, "momentum": 0.0}}
    spec = tiny_study(
        [rates],
        model={"name": "rbm", "options": {"hidden": [4]}},
        training={"rounds": 2, "optimizer": {"name": "sgd", "lr": 0.5, "momentum": 0.0}},
        strategy={"name": "qfedavg", "options": {"q": 0.1}},
    )
    Seen(
        grid=FakeGrid({1: FakeSite(name="a", update=shift)}),
        study=spec,
        run="run-1",
        engine="embedded",
        folder=tmp_path,
        on_round=lambda _row: None,
        listener=lambda _event: None,
    )()
    assert made == [0.25, 0.5, 0.5]


@pytest.mark.parametrize("dies_in", [2, 3, 5])
def test_resume_ends_with_the_same_bits(tmp_path: Path, dies_in: int) -> None:
    spec = study(strategy=ADAM)
    undisturbed = run(FakeSite(name="a", update=shift), spec, tmp_path / "whole")
    asked = 0

    def dies(message: Message) -> Message | None:
        nonlocal asked
        asked += message.metadata.message_type == "train"
        if asked == dies_in:
            raise KeyboardInterrupt
        return FakeSite(name="a", update=shift)(message)

    with pytest.raises(KeyboardInterrupt):
        run(dies, spec, tmp_path / "broken")
    resumed = run(FakeSite(name="a", update=shift), spec, tmp_path / "broken", resume=True)
    assert resumed.model_sha256 == undisturbed.model_sha256


def test_what_another_layer_sends_is_refused(tmp_path: Path) -> None:
    """A site that answers with the whole network in a round of one layer."""

    def site(message: Message) -> Message | None:
        if message.metadata.message_type != "train":
            return FakeSite(name="b", update=shift)(message)
        reply = FakeSite(name="b", update=shift)(message)
        assert reply is not None
        read_answer(reply.content, TrainedAnswer)
        reply.content.array_records["arrays"] = message.content.array_records["arrays"]
        return reply

    grid = FakeGrid({1: FakeSite(name="a", update=shift), 2: site})
    engine = RoundEngine(
        grid=grid,
        study=study(),
        run="run-1",
        engine="embedded",
        folder=tmp_path,
        on_round=lambda _row: None,
        listener=lambda _event: None,
    )
    result = engine()
    assert ["b" in row.refused for row in result.history[:3]] == [True] * 3, "then it is left out"
