"""A hospital's folds: who is trained on, what is kept at home, and what leaves when all folds are scored."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedward_client.cohort_minimum import require
from fedward_client.evaluation import predict
from fedward_client.freezing import from_catalog
from fedward_client.handlers import Hospital, network
from fedward_client.out_of_fold import WITHHELD
from fedward_client.scored import scoring
from fedward_client.source import SiteSource
from fedward_client.training.device import pick_device
from fedward_client.training.local import load_state
from fedward_common import models
from fedward_common.errors import DataError
from fedward_common.events import ignore
from fedward_common.metrics import Evaluation, evaluate_scores, pooled
from fedward_common.records import Arrays, Question, model_sha256
from fedward_common.study import StudySpec
from fedward_common.testing import tiny_study
from fedward_simulations.phantoms import PhantomSource

FOLDS = 4
PATIENTS = 50  # of two labels: 14, 12, 12 and 12 are tested


def study(**sections: Any) -> StudySpec:
    split = {"kind": "folds", "folds": FOLDS, "shares": [0.6, 0.2, 0.2]}
    return tiny_study(**{"split": split, "training": {"rounds": 1, "batch_size": 16}, **sections})


STUDY = study()
START = dict(models.initial_state(STUDY, STUDY.training.seed))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def question(kind: str, spec: StudySpec = STUDY, **more: object) -> Question:
    return Question.model_validate({"kind": kind, "study": spec, "run": "run-1", **more})


def hospital(folder: Path | None, **more: Any) -> Hospital:
    return Hospital(
        PhantomSource(**{"name": "north", "patients": PATIENTS, "signal": 1.0, "min_cell": 5, **more, "folder": folder})
    )


def models_of_folds(at: Hospital) -> list[Arrays]:
    return [at.train(question("train"), START, round_number=fold + 1)[1] for fold in range(FOLDS)]


def test_prepare_tells_how_many_train_in_each_fold(tmp_path: Path) -> None:
    prepared = hospital(tmp_path).prepare(question("prepare"))
    assert prepared.folds == (24, 26, 26, 24)
    assert (prepared.patients, prepared.total) == ({"train": 50, "validation": 0, "test": 0}, 50)
    assert [prepared.learn_from(fold) for fold in (0, 3, 4, None)] == [24, 24, 0, 50]


def test_a_fold_trains_on_nobody_whom_it_tests_or_who_validates(tmp_path: Path) -> None:
    """Their images can be anything: the update has the same bits. In the last rounds it has not."""

    class Spoilt(PhantomSource):
        def load(self, *args: Any, **more: Any) -> Any:
            data = super().load(*args, **more)
            assert data.folds is not None
            data.images[np.isin(data.folds, (1, 2))] = 7.0
            return data

    spoilt = Hospital(Spoilt("north", PATIENTS, 1.0, 5, tmp_path))
    updates = [
        [model_sha256(at.train(question("train"), START, round_number=number)[1]) for number in (1, 2, FOLDS + 1)]
        for at in (hospital(tmp_path), spoilt)
    ]
    assert [one == other for one, other in zip(*updates, strict=True)] == [False, True, False]
    trained, _ = spoilt.train(question("train"), START, round_number=2)
    assert trained.patients == 26


def scored(at: Hospital, updates: list[Arrays]) -> None:
    for fold, update in enumerate(updates):
        kept = at.evaluate(question("evaluate", side="test", fold=fold), update)
        assert kept.evaluation == Evaluation(patients=0, loss=None, withheld=WITHHELD)


def by_hand(updates: list[Arrays], side: str) -> np.ndarray:
    """Each patient's score by the one model that tests them, or that they validate."""
    data = PhantomSource("north", PATIENTS, 1.0, 5).load(STUDY, "", ignore)
    assert data.folds is not None
    found = np.full((PATIENTS, 2), np.nan)
    for fold, update in enumerate(updates):
        model = network(STUDY.canonical_json())
        load_state(model, update)
        rows = np.flatnonzero(data.folds == (fold if side == "test" else (fold + 1) % FOLDS))
        found[rows] = predict(scoring(model, data, site="", device=pick_device(), listener=ignore), rows, STUDY)
    return found


@pytest.mark.parametrize("side", ["validation", "test"])
def test_when_all_folds_are_scored_every_patient_counts_once(tmp_path: Path, side: str) -> None:
    at = hospital(tmp_path)
    updates = models_of_folds(at)
    scored(at, updates)
    points = {"malignant": 0.5} if side == "test" else None
    again = hospital(tmp_path)  # after a restart
    found = again.evaluate(question("evaluate", side=side, thresholds=points), START).evaluation
    labels = np.arange(PATIENTS) % 2
    exact = evaluate_scores(
        by_hand(updates, side), labels, np.arange(PATIENTS), study=STUDY, thresholds=points, min_cell=5
    )
    assert (found.patients, found.sketches) == (PATIENTS, exact.sketches)
    assert exact.loss is not None
    assert found.loss == round(exact.loss, 2) != exact.loss, "a sum of labels by folds could be read from all digits"
    own, whole = found.figures["malignant"], exact.figures["malignant"]
    area, all_digits = own.roc_auc, whole.roc_auc
    assert own.brier == round(whole.brier, 2) != whole.brier
    assert (area.value, area.low, area.high) == tuple(
        round(each, 2) for each in (all_digits.value, all_digits.low, all_digits.high)
    )
    counted = {"patients", "positives", "negatives", "sensitivity", "specificity", "precision", "threshold"}
    assert own.model_dump(include=counted) == whole.model_dump(include=counted)


def test_a_hospital_of_fewer_patients_than_folds_tests_nobody_in_the_last(tmp_path: Path) -> None:
    """Folds of 2, 2, 2 and nobody: the others are scored and told, and so is what it reaches alone."""
    at = hospital(tmp_path, patients=6, min_cell=1)
    scored(at, models_of_folds(at))
    points = {"malignant": 0.5}
    for side in ("validation", "test"):
        found = at.evaluate(question("evaluate", side=side, thresholds=points), START).evaluation
        assert (found.patients, found.figures["malignant"].positives) == (6, 3)
    alone, _ = at.alone(question("evaluate", side="test", model="alone"), START)
    assert alone.evaluation.patients == 6


def test_nothing_leaves_before_the_last_fold(tmp_path: Path) -> None:
    at = hospital(tmp_path)
    scored(at, models_of_folds(at)[:-1])
    with pytest.raises(DataError, match="north was not there when fold 4 of 4 was scored, and nothing leaves of the"):
        at.evaluate(question("evaluate", side="test", thresholds={"malignant": 0.5}), START)


def test_folds_of_other_images_are_not_put_together(tmp_path: Path) -> None:
    at = hospital(tmp_path)
    scored(at, models_of_folds(at))
    with pytest.raises(DataError, match="images went or came between two folds"):
        hospital(tmp_path, patients=PATIENTS - 1).evaluate(question("evaluate", side="test"), START)


def test_as_many_others_are_other_images_too(tmp_path: Path) -> None:
    """One went, and one that was gone came back: their scores would stand beside others' labels."""

    class Swapped(PhantomSource):
        def load(self, *args: Any, **more: Any) -> Any:
            return replace(super().load(*args, **more), rows_digest="of others")

    at = hospital(tmp_path)
    scored(at, models_of_folds(at))
    with pytest.raises(DataError, match="images went or came between two folds"):
        Hospital(Swapped("north", PATIENTS, 1.0, 5, tmp_path)).evaluate(question("evaluate", side="test"), START)


def test_a_small_hospital_tells_nothing_of_all_folds_either(tmp_path: Path) -> None:
    at = hospital(tmp_path, min_cell=26)
    scored(at, models_of_folds(at))
    found = at.evaluate(question("evaluate", side="test"), START).evaluation
    assert (found.sketches, found.figures) == ({}, {})


def test_a_hospital_that_keeps_nothing_cannot_take_part() -> None:
    with pytest.raises(DataError, match="keeps nothing between rounds: the study's strategy, batch_norm or folds need"):
        hospital(None).train(question("train"), START, round_number=1)


def test_a_fold_is_scored_by_one_model(site_folder: Callable[..., Path]) -> None:
    """By another one it would tell, all other folds alike, what its few patients are."""
    labels = {f"PID-{number:03}": "malignant" if number % 2 else "benign" for number in range(24)}
    folder = site_folder(labels, shape=(16, 16))
    at = Hospital(SiteSource.open(folder))
    asked = question("evaluate", side="test", fold=1)
    for _ in range(2):
        at.evaluate(asked, START)
    other = {name: np.ones_like(array) for name, array in START.items()}
    with pytest.raises(DataError, match="scored fold 2 of this run by another model"):
        at.evaluate(asked, other)


def test_alone_goes_through_the_same_folds(tmp_path: Path) -> None:
    """The same bits as folds by hand, at the operating point of its own validation scores; also after a kill."""
    asked = question("evaluate", side="test", model="alone")
    alone, own = hospital(tmp_path).alone(asked, START)
    at = hospital(tmp_path / "by-hand")
    updates = models_of_folds(at)
    scored(at, updates)
    merged = pooled([at.evaluate(question("evaluate", side="validation"), START).evaluation], "malignant")
    assert merged is not None
    points = {"malignant": merged.threshold("youden")}
    assert alone.evaluation == at.evaluate(question("evaluate", side="test", thresholds=points), START).evaluation
    assert model_sha256(own) == model_sha256(at.train(question("train"), START, round_number=FOLDS + 1)[1])
    again, _ = hospital(tmp_path).alone(asked, {})
    assert again.evaluation == alone.evaluation, "all is on the disk: nothing is trained again"


def test_another_hospitals_model_is_scored_on_everybody(tmp_path: Path) -> None:
    found = hospital(tmp_path).evaluate(question("evaluate", side="test", model="other"), START).evaluation
    assert found.patients == PATIENTS


def test_another_hospitals_statistics_are_measured_anew(tmp_path: Path) -> None:
    """Where the study has it so: whatever running means came with the model, its figures are the same."""
    spec = study(
        input={"size": [32, 32]},
        model={"name": "resnet10", "options": {"norm": "batch"}},
        training={"rounds": 1, "batch_size": 16, "batch_norm": "recalibrate"},
    )
    start = dict(models.initial_state(spec, spec.training.seed))
    astray = {name: array + 3 if name.endswith("running_mean") else array for name, array in start.items()}
    assert any(name.endswith("running_mean") for name in start)
    asked = question("evaluate", spec, side="test", model="other")
    one, other = (
        hospital(tmp_path, patients=8, min_cell=1).evaluate(asked, each).evaluation for each in (start, astray)
    )
    assert one == other


def test_a_hospital_whose_folds_leave_too_few_is_refused(site_folder: Callable[..., Path]) -> None:
    labels = {f"PID-{number:03}": "malignant" if number % 4 == 0 else "benign" for number in range(20)}
    site = SiteSource.open(site_folder(labels, shape=(16, 16))).site
    cohort = from_catalog(site, STUDY)
    assert [cohort.patients(side) for side in ("train", "validation", "test")] == [20, 20, 20]
    require(cohort, STUDY, site)
    few = study(cohort={"min_patients": 11})
    with pytest.raises(DataError, match="too few training patients in fold 1 of 4, or none of a label: give"):
        require(cohort, few, site)
    one = replace(site, min_cell=1)
    [ill, *_] = [item.fold for item in cohort.items if item.label == 1]
    in_one = cohort.model_copy(update={"items": tuple(i for i in cohort.items if i.label == 0 or i.fold == ill)})
    with pytest.raises(DataError, match=r"too few training patients in fold \d of 4, or none of a label"):
        require(in_one, STUDY, one)


def test_patients_who_have_none_of_several_labels_train_in_folds_too(site_folder: Callable[..., Path]) -> None:
    labels = {f"PID-{number:03}": "malignant" if number % 2 else "benign" for number in range(20)}
    site = SiteSource.open(site_folder(labels, shape=(16, 16))).site
    several = study(cohort={"positive": None, "multi_label": True})
    cohort = from_catalog(site, STUDY)
    nothing_found = tuple(item.model_copy(update={"label": (0, 0)}) for item in cohort.items)
    healthy = cohort.model_copy(update={"items": nothing_found})
    require(healthy, several, site)
    assert (healthy.patients("train"), set(healthy.label_counts().values())) == (20, {0})


@pytest.mark.parametrize("role", ["train", "evaluate"])
def test_a_hospital_refuses_folds_of_fewer_than_its_small_cell_limit(
    site_folder: Callable[..., Path], role: str
) -> None:
    """Folds of 5, 5, 5 and 5 pass with k = 5; one fewer patient, and the last is a small cell. k = 1 takes any."""
    labels = {f"PID-{number:03}": "malignant" if number % 2 else "benign" for number in range(20)}
    site = SiteSource.open(site_folder(labels, shape=(16, 16))).site
    roster = ({"name": "north", "role": role}, {"name": "south"})
    spec = StudySpec.model_validate({**STUDY.model_dump(), "sites": roster})
    cohort = from_catalog(site, spec)
    require(cohort, spec, site)
    fewer = cohort.without({item.image for item in cohort.items if item.patient == cohort.people[0]}, "gone")
    with pytest.raises(DataError, match=r"north would test fewer than 5 patients at a time.* give \[split\] kind"):
        require(fewer, spec, site)
    require(fewer, spec, replace(site, min_cell=1))
    empty = cohort.model_copy(update={"items": tuple(item for item in cohort.items if item.fold != 3)})
    require(empty, spec, site)  # a fold that tests nobody tells of nobody
