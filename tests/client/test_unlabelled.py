"""Patients without a label, and sites of such patients alone: who learns in studies that take them, what is told."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fedward_client.cohort import Cohort
from fedward_client.cohort_choice import NOT_LEARNING, SMALL_SIDE, TOO_FEW
from fedward_client.cohort_minimum import require
from fedward_client.freezing import freeze
from fedward_client.handlers import Hospital
from fedward_client.labelling import UNLABELLED
from fedward_client.report.survey import survey
from fedward_client.site import Site
from fedward_client.source import SiteSource
from fedward_common import models
from fedward_common.errors import DataError, StudyError
from fedward_common.records import Question
from fedward_common.study import SiteEntry, StudySpec, resolved
from fedward_common.testing import tiny_study

PATIENTS = 60
SPLIT = {"shares": [0.4, 0.3, 0.3]}
Build = Callable[..., Path]


def study(**cohort: object) -> StudySpec:
    return tiny_study(
        [{"rounds": 1, "batch_size": 8}],
        cohort={"unlabelled": True, **cohort},
        model={"name": "rbm", "options": {"hidden": [8]}},
        training={"rounds": 1},
        split=SPLIT,
    )


def labels(labelled: int, patients: int = PATIENTS) -> dict[str, str]:
    """The first ones have a label, in turns."""
    return {f"PID-{n:03d}": ("benign", "malignant")[n % 2] if n < labelled else "" for n in range(patients)}


def sides(cohort: Cohort, *, labelled: bool) -> dict[str, int]:
    found = {item.patient: item.side for item in cohort.items if item.labelled == labelled}
    return {side: list(found.values()).count(side) for side in ("train", "validation", "test")}


def test_who_has_no_label_learns_on_the_side_of_training(site_folder: Build) -> None:
    site = Site.open(site_folder(labels(40), shape=(16, 16)))
    cohort, plain = freeze(site, study(), "run-1"), freeze(site, tiny_study(split=SPLIT), "run-2")
    assert sides(cohort, labelled=True) == sides(plain, labelled=True)
    without = sides(cohort, labelled=False)
    assert (without["validation"], without["test"]) == (0, 0), "nobody is tested who may have been learned from"
    assert cohort.unlabelled() == without["train"] >= site.min_cell
    assert cohort.left_out == {NOT_LEARNING: 20 - without["train"]}
    assert plain.left_out == {UNLABELLED: 20}


def test_who_has_no_label_takes_no_part_in_rounds_with_labels(site_folder: Build) -> None:
    source, spec = SiteSource.open(site_folder(labels(40), shape=(16, 16))), study()
    hospital = Hospital(source)

    def question(kind: str, **more: object) -> Question:
        return Question.model_validate({"kind": kind, "study": spec, "run": "run-1", **more})

    prepared, state = hospital.prepare(question("prepare")), models.initial_state(spec, 42)
    with_label = prepared.patients["train"]
    assert with_label is not None
    assert prepared.unlabelled > 0
    alone, _ = hospital.train(question("train"), state, round_number=1)
    together, _ = hospital.train(question("train", score_incoming=True), state, round_number=2)
    assert (alone.patients, together.patients) == (with_label + prepared.unlabelled, with_label)
    assert together.incoming is not None
    assert together.incoming.patients == sides(freeze(source.site, spec, "run-1"), labelled=True)["validation"]


@pytest.mark.parametrize("labelled", [0, 8])
def test_a_site_with_too_few_labels_learns_from_all_without_them(site_folder: Build, labelled: int) -> None:
    site = Site.open(site_folder(labels(labelled), shape=(16, 16)))
    cohort = freeze(site, study(min_patients=10), "run-1")
    assert sum(sides(cohort, labelled=True).values()) == 0
    left_out = [cohort.left_out.get(reason, 0) for reason in (NOT_LEARNING, TOO_FEW, SMALL_SIDE)]
    assert cohort.unlabelled() == sides(cohort, labelled=False)["train"] == PATIENTS - sum(left_out) >= 10
    assert (0 < sum(left_out[1:]) < labelled) == (labelled > 0), "those on the side of training are there"
    with pytest.raises(
        DataError, match="training patients" if labelled else "no patient has a label|training patients"
    ):
        freeze(site, tiny_study(cohort={"min_patients": 10}), "run-2")


@pytest.mark.parametrize(
    ("labelled", "asked"),
    [(0, "At least 10 training patients, without a label"), (40, "At least 10 training patients")],
)
def test_the_report_says_what_the_study_asks(site_folder: Build, labelled: int, asked: str) -> None:
    site = Site.open(site_folder(labels(labelled), shape=(16, 16)))
    cohort = freeze(site, study(min_patients=10), "run-1")
    found = survey(site, study(min_patients=10), lambda _event: None).contract
    assert found is not None
    assert found.passes
    counted = cohort.patients("train") if labelled else cohort.unlabelled()
    assert {line.asked: line.found for line in found.lines}[asked] == f"{counted} training patients"


def test_fewer_than_k_without_a_label_stay_out(site_folder: Build) -> None:
    """Their number would travel as the weight of the update."""
    site = Site.open(site_folder(labels(57), shape=(16, 16)))
    cohort = freeze(site, study(), "run-1")
    assert cohort.unlabelled() == 0
    assert cohort.left_out == {NOT_LEARNING: 3}


@pytest.mark.parametrize("labelled", [0, 40])
def test_fewer_than_k_that_are_left_of_them_end_the_run(site_folder: Build, labelled: int) -> None:
    """Files can go, or turn out unreadable, after the cohort was frozen."""
    site, spec = Site.open(site_folder(labels(labelled), shape=(16, 16))), study()
    cohort = freeze(site, spec, "run-1")
    learning = sorted({item.patient for item in cohort.items if not item.labelled})
    gone = [item.image for item in cohort.items if item.patient in learning[2:]]
    require(cohort, spec, site)
    with pytest.raises(DataError, match="fewer than 5 patients without a label left"):
        require(cohort.without(gone, "images gone since the run began"), spec, site)


def test_who_only_evaluates_learns_from_nobody(site_folder: Build) -> None:
    site = Site.open(site_folder(labels(30), shape=(16, 16), settings="[privacy]\nmin_cell = 1\n"))
    spec = resolved(study(), sites=(SiteEntry(name=site.name, role="evaluate"), SiteEntry(name="other")), seed=42)
    cohort = freeze(site, spec, "run-1")
    assert cohort.unlabelled() == 0
    assert len({item.patient for item in cohort.items}) == 30


def test_without_phases_nobody_learns_without_a_label() -> None:
    with pytest.raises((StudyError, ValueError), match=r"has no effect without \[\[phases\]\]"):
        tiny_study(cohort={"unlabelled": True})


def test_classes_are_weighed_by_labels_alone(site_folder: Build) -> None:
    data = SiteSource.open(site_folder(labels(40), shape=(16, 16))).load(study(), "run-1", lambda _event: None)
    assert set(data.labels.tolist()) == {-1, 0, 1}
    with_label, everybody = data.indices("train"), data.indices("train", unlabelled=True)
    assert (data.labels[with_label] >= 0).all()
    assert set(with_label) < set(everybody)
    assert np.array_equal(everybody, np.flatnonzero(data.sides == 0))
