"""A hospital's answers, without Flower and without a network."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedward_client.handlers import Hospital
from fedward_client.source import SiteSource
from fedward_common import models
from fedward_common.errors import DataError, RecordError
from fedward_common.metrics import pooled
from fedward_common.records import Question, model_sha256
from fedward_common.study import StudySpec
from fedward_common.testing import tiny_study
from fedward_simulations.phantoms import PhantomSource

STUDY = tiny_study(training={"local_epochs": 6, "optimizer": {"name": "adamw", "lr": 0.01}})


def hospital(patients: int = 80, min_cell: int = 5) -> Hospital:
    return Hospital(PhantomSource("north", patients, 2.0, min_cell))


def question(kind: str, study: StudySpec = STUDY, **more: object) -> Question:
    return Question.model_validate({"kind": kind, "study": study, "run": "run-1", **more})


def arrays(study: StudySpec = STUDY) -> dict[str, np.ndarray]:
    return dict(models.initial_state(study, study.training.seed))


def test_prepare_tells_counts_but_no_small_ones() -> None:
    prepared = hospital(patients=32).prepare(question("prepare"))
    assert prepared.patients == {"train": 16, "validation": 8, "test": 8}
    few = hospital(patients=32, min_cell=10).prepare(question("prepare"))
    assert few.patients == {"train": 16, "validation": None, "test": None}


@pytest.mark.parametrize(
    ("sections", "train"), [({}, 16), ({"split": {"kind": "folds", "folds": 3, "shares": [0.6, 0.2, 0.2]}}, 32)]
)
def test_who_only_evaluates_tells_no_small_count(sections: dict[str, object], train: int) -> None:
    roster = ({"name": "north", "role": "evaluate"}, {"name": "south"})
    study = StudySpec.model_validate({**tiny_study(**sections).model_dump(), "sites": roster})  # type: ignore[arg-type]
    many = hospital(patients=32).prepare(question("prepare", study))
    assert (many.patients["train"], many.folds) == (train, ())
    few = hospital(patients=32, min_cell=33).prepare(question("prepare", study))
    assert few.total is None
    assert set(few.patients.values()) <= {None, 0}


def test_train_gives_an_update_and_scores_the_model_as_it_came() -> None:
    at = hospital()
    before = arrays()
    trained, update = at.train(question("train", score_incoming=True), before, round_number=1)
    assert trained.patients == trained.images == 40
    assert trained.incoming is not None
    assert trained.incoming.patients == 20
    assert update.keys() == before.keys()
    assert any(not np.array_equal(update[name], before[name]) for name in before)
    scored = at.evaluate(question("evaluate", side="validation"), before)
    assert scored.evaluation == trained.incoming
    after = at.evaluate(question("evaluate", side="test", thresholds={"malignant": 0.5}), update)
    assert after.evaluation.figures["malignant"].roc_auc.value > 0.9
    assert after.evaluation.figures["malignant"].threshold == 0.5


def test_evaluating_changes_nothing() -> None:
    at, before = hospital(), arrays()
    copy = {name: array.copy() for name, array in before.items()}
    first, _ = at.train(question("train"), before, round_number=1)
    at.evaluate(question("evaluate"), before)
    second, _ = at.train(question("train"), before, round_number=1)
    assert first.train_loss == second.train_loss
    assert all(np.array_equal(before[name], copy[name]) for name in before)


def test_a_run_gets_figures_at_one_set_of_operating_points(site_folder: Callable[..., Path]) -> None:
    labels = {f"PID-{number:03}": "malignant" if number % 2 else "benign" for number in range(60)}
    folder = site_folder(labels, shape=(16, 16))
    for at in (Hospital(SiteSource.open(folder)), Hospital(SiteSource.open(folder))):  # also after a restart
        first = at.evaluate(question("evaluate", side="test", thresholds={"malignant": 0.5}), arrays())
        assert first == at.evaluate(
            question("evaluate", side="test", thresholds={"malignant": 0.5}), arrays()
        ).model_copy(update={"seconds": first.seconds})
        with pytest.raises(DataError, match="one set of them"):
            at.evaluate(question("evaluate", side="test", thresholds={"malignant": 0.6}), arrays())


def test_a_run_gets_figures_on_test_patients_of_one_model(site_folder: Callable[..., Path]) -> None:
    """By groups of patients, figures of many models would add up to single patients' scores."""
    labels = {f"PID-{number:03}": "malignant" if number % 2 else "benign" for number in range(60)}
    folder, sent = site_folder(labels, images=1, shape=(16, 16)), arrays()
    other = {name: np.ones_like(array) for name, array in sent.items()}
    asked = question("evaluate", side="test")
    for at in (Hospital(SiteSource.open(folder)), Hospital(SiteSource.open(folder))):  # also after a restart
        assert at.evaluate(asked, sent).evaluation.patients > 0
        with pytest.raises(DataError, match="scored the test patients of this run by another model: start a new one"):
            at.evaluate(asked, other)
    at.evaluate(question("evaluate", side="validation"), other)
    at.evaluate(asked.model_copy(update={"model": "other"}), other)
    at.alone(asked.model_copy(update={"model": "alone"}), sent)
    assert at.evaluate(asked.model_copy(update={"run": "run-2"}), other).evaluation.patients > 0


OWN: dict[str, dict[str, Any]] = {
    "layers": {
        "model": {"name": "resnet10", "options": {"norm": "batch"}},
        "training": {"rounds": 2, "batch_norm": "local"},
        "strategy": {"name": "fedbn"},
    },
    "model": {"training": {"rounds": 2}, "strategy": {"name": "ditto"}},
}


@pytest.mark.parametrize("own", OWN)
def test_what_is_the_sites_own_makes_it_another_model(site_folder: Callable[..., Path], own: str) -> None:
    labels = {f"PID-{number:03}": "malignant" if number % 2 else "benign" for number in range(24)}
    study = tiny_study(cohort={"min_patients": 5}, input={"size": [32, 32]}, **OWN[own])
    at = Hospital(SiteSource.open(site_folder(labels, images=1, shape=(32, 32))))
    sent = dict(models.initial_state(study, study.training.seed))
    asked = question("evaluate", study, side="test")
    at.train(question("train", study), sent, round_number=1)
    at.evaluate(asked, sent)
    at.train(question("train", study), sent, round_number=2)
    with pytest.raises(DataError, match="scored the test patients of this run by another model"):
        at.evaluate(asked, sent)


@pytest.mark.parametrize("change", ["missing", "extra", "shape"])
def test_arrays_that_do_not_fit_are_refused(change: str) -> None:
    state = arrays()
    name = next(iter(state))
    match change:
        case "missing":
            del state[name]
        case "extra":
            state["odd"] = np.zeros(3, np.float32)
        case "shape":
            state[name] = state[name].reshape(-1)
    with pytest.raises(RecordError, match="odd" if change == "extra" else name.replace(".", r"\.")):
        hospital().evaluate(question("evaluate"), state)


def test_nothing_that_leaves_names_a_patient() -> None:
    trained, _ = hospital().train(question("train", score_incoming=True), arrays(), round_number=1)
    assert set(trained.model_dump()) == {
        "site", "study",
        "round",
        "cohort", "patients", "images", "steps", "train_loss", "incoming", "train_seconds", "seconds",
    }  # fmt: skip


# Alone ---------------------------------------------------------------------------------------------------------------


def test_what_a_hospital_makes_of_it_alone_is_what_a_federation_of_one_makes(tmp_path: Path) -> None:
    """The same bits as rounds of training handed on by hand, at the operating point of its own validation patients."""
    folder = tmp_path / "state"
    source = PhantomSource("north", 60, 1.0, 5, folder)
    study = tiny_study(training={"rounds": 3, "batch_size": 8})
    asked = Question(kind="evaluate", study=study, run="run-1", side="test", model="alone")
    start = models.initial_state(study, study.training.seed)
    alone, own = Hospital(source).alone(asked, start)
    by_hand, state = Hospital(PhantomSource("north", 60, 1.0, 5)), start
    for number in (1, 2, 3):
        _, state = by_hand.train(Question(kind="train", study=study, run="run-2"), state, round_number=number)
    validation = by_hand.evaluate(asked.model_copy(update={"side": "validation", "model": "sent"}), state).evaluation
    merged = pooled([validation], "malignant")
    assert merged is not None
    points = {"malignant": merged.threshold("youden")}
    test = by_hand.evaluate(asked.model_copy(update={"thresholds": points, "model": "sent"}), state)
    assert alone.evaluation == test.evaluation
    assert model_sha256(own) == model_sha256(state)
    again, _ = Hospital(source).alone(asked, {})
    assert again.evaluation == alone.evaluation, "all rounds are on the disk: nothing is trained again"


def test_another_hospitals_model_is_scored_as_it_came_whatever_this_one_keeps_for_itself(tmp_path: Path) -> None:
    """Layers of its own do not come in."""
    study = tiny_study(
        model={"name": "resnet10", "options": {"norm": "batch"}}, input={"size": [32, 32]},
        training={"rounds": 1, "batch_norm": "local"}, strategy={"name": "fedbn"},
    )  # fmt: skip
    at = Hospital(PhantomSource("north", 60, 1.0, 5, tmp_path / "state"))
    sent = dict(models.initial_state(study, study.training.seed))
    at.train(Question(kind="train", study=study, run="run-1"), sent, round_number=1)
    other = Hospital(PhantomSource("valley", 60, 1.0, 5, tmp_path / "valley"))
    _, theirs = other.alone(Question(kind="evaluate", study=study, run="run-1", model="alone", side="test"), sent)
    asked = Question(kind="evaluate", study=study, run="run-1", side="test", model="other")
    found = at.evaluate(asked, theirs)
    fresh = Hospital(PhantomSource("north", 60, 1.0, 5, tmp_path / "fresh"))
    assert found.evaluation == fresh.evaluate(asked, theirs).evaluation
    assert found.evaluation != at.evaluate(asked.model_copy(update={"model": "sent"}), theirs).evaluation


def test_a_personal_model_is_not_scored_beside_another_hospitals(tmp_path: Path) -> None:
    study = tiny_study(training={"rounds": 1}, strategy={"name": "ditto"})
    at, sent = Hospital(PhantomSource("north", 60, 1.0, 5, tmp_path)), dict(models.initial_state(study, 1))
    at.train(Question(kind="train", study=study, run="run-1"), sent, round_number=1)
    asked = Question(kind="evaluate", study=study, run="run-1", side="test")
    assert at.evaluate(asked, sent).personal is not None
    assert at.evaluate(asked.model_copy(update={"model": "other"}), sent).personal is None
