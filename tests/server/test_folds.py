"""Folds of a cross-validation in one run: each begins again, is scored when it ends, and is gone through once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message

from fedward_common import models
from fedward_common.errors import RunError
from fedward_common.records import Arrays, Question, from_array_record, model_sha256, read_question
from fedward_common.study import StudySpec
from fedward_common.testing import Answerer, FakeGrid, FakeSite, tiny_study
from fedward_server.events import RunEvent
from fedward_server.result import RunResult
from fedward_server.rounds import RoundEngine

ADAM = {"name": "fedadam", "options": {"eta": 0.01, "beta_1": 0.9, "beta_2": 0.99, "tau": 0.001}}
STAGES = ["fold 1 of 3", "fold 1 of 3", "fold 2 of 3", "fold 2 of 3", "fold 3 of 3", "fold 3 of 3"]
STAGES += ["all patients", "all patients"]


def study(**sections: Any) -> StudySpec:
    split = {"kind": "folds", "folds": 3, "shares": [0.6, 0.2, 0.2]}
    return tiny_study(**{"split": split, "strategy": ADAM, **sections})


def shift(arrays: Arrays) -> Arrays:
    return {name: array + np.float32(0.5) for name, array in arrays.items()}


def run(
    site: Answerer,
    spec: StudySpec,
    folder: Path,
    *,
    resume: bool = False,
    listener: Callable[[RunEvent], None] = lambda _event: None,
) -> RunResult:
    return RoundEngine(
        grid=FakeGrid({1: site}),
        study=spec,
        run="run-1",
        engine="embedded",
        folder=folder,
        on_round=lambda _row: None,
        listener=listener,
    )(resume=resume)


class Seen:
    """A site that writes down what it is asked, and the digest of the model in it; `dies_at` a question's number."""

    def __init__(self, dies_at: int = -1) -> None:
        self.asked: list[tuple[Question, str]] = []
        self.dies_at = dies_at

    def __call__(self, message: Message) -> Message | None:
        question, _ = read_question(message.content)
        if question.kind != "prepare":
            model = model_sha256(from_array_record(message.content.array_records["arrays"]))
            self.asked.append((question, model))
        if len(self.asked) == self.dies_at:
            raise KeyboardInterrupt
        return FakeSite(name="a", update=shift)(message)

    def trained(self) -> list[str]:
        return [model for question, model in self.asked if question.kind == "train"]


def test_each_fold_begins_with_the_first_weights_and_a_new_strategy(tmp_path: Path) -> None:
    """FedAdam's moments of one fold would move the next one: by the same updates all folds make the same models."""
    spec, site = study(), Seen()
    result = run(site, spec, tmp_path)
    first, second = site.trained()[:2]
    assert first == model_sha256(models.initial_state(spec, spec.training.seed))
    assert first != second
    assert site.trained() == [first, second] * 4
    assert (len(result.history), result.kept_round) == (8, 8)


def test_a_folds_last_model_is_scored_before_the_next_begins_and_nothing_else_is(tmp_path: Path) -> None:
    spec, site = study(), Seen()
    events: list[RunEvent] = []
    result = run(site, spec, tmp_path, listener=events.append)
    kinds = [question.kind if question.fold is None else f"fold {question.fold}" for question, _ in site.asked]
    train = ["train", "train"]
    assert kinds == [*train, "fold 0", *train, "fold 1", *train, "fold 2", *train, "evaluate", "evaluate"]
    assert not any(question.score_incoming for question, _ in site.asked)
    scored = {model for question, model in site.asked if question.fold is not None}
    assert scored == {result.model_sha256}, "by the same updates each fold ends with the same model"
    assert all(row.primary is None and row.validation_loss is None for row in result.history)
    assert [(e.round, e.note) for e in events if e.kind == "round"] == list(enumerate(STAGES, start=1))
    assert result.thresholds.keys() == {"malignant"}
    assert result.sites["a"].test is not None


@pytest.mark.parametrize("dies_at", range(1, 14))
def test_a_run_that_dies_at_any_question_ends_with_the_same_bits(tmp_path: Path, dies_at: int) -> None:
    spec, whole, dies, after = study(), Seen(), Seen(dies_at), Seen()
    undisturbed = run(whole, spec, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(dies, spec, tmp_path / "broken")
    resumed = run(after, spec, tmp_path / "broken", resume=True)
    assert resumed.model_sha256 == undisturbed.model_sha256
    scored = [{q.fold: model for q, model in site.asked if q.fold is not None} for site in (whole, dies, after)]
    assert scored[0] == scored[1] | scored[2], "also a fold that is scored again is scored by the same model"


def test_a_fold_that_too_few_score_ends_the_run_until_it_is_resumed(tmp_path: Path) -> None:
    spec = study()

    def forgetful(message: Message) -> Message | None:
        question, _ = read_question(message.content)
        failed = FakeSite(name="b", update=shift)(message) if question.fold == 1 else None
        return failed or FakeSite(name="a", update=shift)(message)

    with pytest.raises(RunError, match=r"^0 sites scored fold 2 after round 4, the study asks for at least 1; the run"):
        run(forgetful, spec, tmp_path / "broken")
    whole = run(Seen(), spec, tmp_path / "whole")
    assert run(Seen(), spec, tmp_path / "broken", resume=True).model_sha256 == whole.model_sha256


def test_an_update_of_another_number_of_patients_than_the_folds_is_refused(tmp_path: Path) -> None:
    def site(message: Message) -> Message | None:
        question, numbers = read_question(message.content)
        fold = question.study.fold(int(numbers.get("server-round", 0)))
        return FakeSite(name="b", patients=40 if fold != 1 else 39, update=shift)(message)

    engine = RoundEngine(
        grid=FakeGrid({1: FakeSite(name="a", update=shift), 2: site}),
        study=study(),
        run="run-1",
        engine="embedded",
        folder=tmp_path,
        on_round=lambda _row: None,
        listener=lambda _event: None,
    )
    refused = ["b" in row.refused for row in engine().history]
    assert refused == [False, False, True, True, False, False, False, False]
