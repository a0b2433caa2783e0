"""Groups of patients, from headers to what leaves: real folders of DICOM files."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pydicom
import pytest

from fedward_client import cache
from fedward_client.catalog import Catalog, scan
from fedward_client.catalog_rows import ImageRow
from fedward_client.freezing import freeze
from fedward_client.grouping import groups_of
from fedward_client.handlers import Hospital
from fedward_client.site import Site
from fedward_client.source import SiteSource
from fedward_common import models
from fedward_common.records import Question
from fedward_common.study import StudySpec
from fedward_common.study_subgroups import NOT_KNOWN
from fedward_common.testing import tiny_study

LABELS = {f"PID-{number:03}": "malignant" if number % 2 else "benign" for number in range(60)}
STUDY = tiny_study(
    cohort={"min_patients": 5}, split={"shares": (0.2, 0.1, 0.7)}, evaluation={"subgroups": ("sex", "age", "vendor")}
)


@pytest.fixture
def site(site_folder: Callable[..., Path]) -> Site:
    """60 patients of 52 years: women, but for every third; examined by one maker, but for one of them."""
    folder = site_folder(LABELS, images=1, shape=(16, 16), PatientAge="052Y", Manufacturer="SIEMENS")
    for number, patient in enumerate(LABELS):
        for file in (folder / patient).iterdir():
            dataset = pydicom.dcmread(file)
            dataset.PatientSex = "M" if number % 3 == 0 else "F"
            if number == 4:
                dataset.Manufacturer = "Philips"
            dataset.save_as(file)
    return Site.open(folder)


def test_groups_are_frozen_with_the_cohort_and_their_figures_leave_once_at_the_end(site: Site) -> None:
    cohort = freeze(site, STUDY, "run-1")
    of = {item.patient: item.groups for item in cohort.items}
    for number, patient in enumerate(LABELS):
        expected = ("M" if number % 3 == 0 else "F", "40 to 59", "Philips" if number == 4 else "Siemens")
        assert of[site.pseudonym("patient", patient)] == expected
    data = cache.load(site, STUDY, "run-1")
    assert [tuple(row) for row in zip(*data.groups.values(), strict=True)] == [item.groups for item in cohort.items]
    hospital = Hospital(SiteSource(site))
    arrays = dict(models.initial_state(STUDY, 1))

    def asked(study: StudySpec = STUDY, **more: object) -> Question:
        return Question.model_validate({"kind": "evaluate", "study": study, "run": "run-1", "side": "test", **more})

    found = hospital.evaluate(asked(thresholds={"malignant": 0.5}), arrays).evaluation
    assert found.subgroups.keys() == {"sex", "age"}, "by maker, one patient would be the difference"
    assert found.subgroups["sex"].keys() == {"F", "M"}
    assert found.subgroups["age"].keys() == {"40 to 59"}
    whole, women, men = found.figures, *(found.subgroups["sex"][word].figures for word in "FM")
    assert women["malignant"].positives + men["malignant"].positives == whole["malignant"].positives
    assert women["malignant"].threshold == 0.5
    assert not hospital.evaluate(asked(side="validation"), arrays).evaluation.subgroups
    assert not hospital.evaluate(asked(model="other"), arrays).evaluation.subgroups


def test_a_patients_group_is_that_of_most_images_and_what_is_not_known_is_left_out(site: Site) -> None:
    scan(site)
    with Catalog.open(site) as catalog:
        one = catalog.images()[0]

    def group(*images: ImageRow) -> tuple[str, ...]:
        return groups_of([replace(row, patient="p") for row in images], ("sex", "age", "vendor"))["p"]

    woman, man = replace(one, sex="F", age=39, manufacturer="GE"), replace(one, sex="M", age=61, manufacturer="X-Ray")
    nothing = replace(one, sex="", age=None, manufacturer="")
    assert group(woman, woman, man) == ("F", "under 40", "GE")
    assert group(woman, man, man) == ("M", "60 to 74", "other")
    assert group(woman, man) == ("F", "under 40", "GE")
    assert group(nothing, man) == ("M", "60 to 74", "other")
    assert group(nothing) == (NOT_KNOWN,) * 3
    assert groups_of([woman], ()) == {}


def test_of_folds_the_groups_of_all_scores_together_leave(site: Site) -> None:
    study = tiny_study(
        cohort={"min_patients": 5},
        training={"rounds": 1},
        split={"kind": "folds", "folds": 3, "shares": (0.6, 0.2, 0.2)},
        evaluation={"subgroups": ("sex",)},
    )
    hospital = Hospital(SiteSource(site))
    arrays = dict(models.initial_state(study, 1))
    question = {"kind": "evaluate", "study": study, "run": "run-1", "side": "test"}
    for fold in range(3):
        kept = hospital.evaluate(Question.model_validate({**question, "fold": fold}), arrays)
        assert not kept.evaluation.subgroups
    found = hospital.evaluate(Question.model_validate(question), arrays).evaluation
    assert {word: group.patients for word, group in found.subgroups["sex"].items()} == {"F": 40, "M": 20}
