"""Groups of patients, from headers to what leaves: real folders of DICOM files."""

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pydicom
import pytest

from fedward_client import cache
from fedward_client.catalog import Catalog, scan
from fedward_client.catalog_rows import ImageRow
from fedward_client.choosing import Unit
from fedward_client.freezing import freeze, from_catalog
from fedward_client.grouping import groups_of
from fedward_client.handlers import Hospital
from fedward_client.intake.labels import AGE, SEX, Row, read_labels
from fedward_client.site import Site
from fedward_client.source import SiteSource
from fedward_common import models
from fedward_common.errors import FedwardError
from fedward_common.records import Question
from fedward_common.study import StudySpec
from fedward_common.study_subgroups import NOT_KNOWN
from fedward_common.testing import tiny_study
from fedward_simulations.synthetic import freezing

LABELS = {f"PID-{number:03}": "malignant" if number % 2 else "benign" for number in range(60)}
UNIT = Unit(key="u", patient="p", files=("u",), content="", names=())
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

    def group(*images: ImageRow, said: Sequence[Row] = ()) -> tuple[str, ...]:
        rows = [replace(row, patient="p") for row in images]
        return groups_of([UNIT], rows, {UNIT.key: said}, ("sex", "age", "vendor"))["p"]

    woman, man = replace(one, sex="F", age=39, manufacturer="GE"), replace(one, sex="M", age=61, manufacturer="X-Ray")
    nothing = replace(one, sex="", age=None, manufacturer="")
    assert group(woman, woman, man) == ("F", "under 40", "GE")
    assert group(woman, man, man) == ("M", "60 to 74", "other")
    assert group(woman, man) == ("F", "under 40", "GE")
    assert group(nothing, man) == ("M", "60 to 74", "other")
    assert group(nothing) == (NOT_KNOWN,) * 3
    assert groups_of([UNIT], [woman], {}, ()) == {}
    told: Row = {AGE: "75", SEX: "O"}
    assert group(nothing, said=[told]) == ("O", "75 and over", NOT_KNOWN)
    assert group(replace(woman, age=None), said=[told]) == ("F", "75 and over", "GE"), "the header comes first"
    assert group(said=[{"label": "benign"}]) == (NOT_KNOWN,) * 3, "of recordings there is no header"


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


WORDS = '[labels]\nsex = { column = "Geschlecht", words = { w = "F", m = "M" } }\nage = "Alter"\n'


def test_the_label_table_says_sex_and_age_where_headers_do_not(site_folder: Callable[..., Path]) -> None:
    cells = dict(zip(LABELS, 15 * ["w", "m", "", "divers"], strict=True))
    years = dict(zip(LABELS, 20 * ["39", "82.5", "unknown"], strict=True))
    folder = site_folder(
        LABELS, images=1, shape=(16, 16), settings=WORDS, columns={"Geschlecht": cells, "Alter": years}, PatientSex=""
    )
    site = Site.open(folder)
    study = tiny_study(cohort={"min_patients": 5}, evaluation={"subgroups": ("sex", "age")})
    of = {item.patient: item.groups for item in from_catalog(site, study).items}
    sexes = {"w": "F", "m": "M"}
    bands = {"39": "under 40", "82.5": "75 and over"}
    for patient in LABELS:
        expected = (sexes.get(cells[patient], NOT_KNOWN), bands.get(years[patient], NOT_KNOWN))
        assert of[site.pseudonym("patient", patient)] == expected
    with closing(sqlite3.connect(site.state / "catalog.sqlite")) as connection:
        held = "\n".join(connection.iterdump())
    assert "82" not in {row.get(AGE) for row in read_labels(site).rows.values()}, "of the last band the least is kept"
    assert "Geschlecht" not in held


def test_a_table_without_labels_says_of_whom_recordings_are(tmp_path: Path) -> None:
    """Recordings say themselves what they show; a row of the table is then no label of nobody's image."""
    for subject in range(12):
        freezing.write(tmp_path, "north", subject, 1.0, seconds=30.0)
    rows = [f"S{subject:02d},{'wm'[subject % 2]},{50 + subject}\n" for subject in range(20)]
    (tmp_path / "subjects.csv").write_text("id,Geschlecht,Alter\n" + "".join(rows))
    (tmp_path / "site.toml").write_text(WORDS + 'file = "subjects.csv"\npatient = "id"\nlabel = ""\n')
    site = Site.open(tmp_path)
    scan(site)
    study = tiny_study(
        cohort={"labels": ["no freeze", "freeze"], "positive": "freeze", "min_patients": 1},
        input={
            "kind": "series",
            "signals": ["trunk lateral", "ankle forward"],
            "unit": "mg",
            "rate_hz": 64,
            "window_s": 4,
        },
        model={"name": "cnn-1d"},
        split={"shares": [1.0, 0.0, 0.0]},
        evaluation={"subgroups": ("sex", "age")},
    )
    cohort = from_catalog(site, study)
    assert {item.groups for item in cohort.items} == {
        ("F", "40 to 59"),
        ("M", "40 to 59"),
        ("F", "60 to 74"),
        ("M", "60 to 74"),
    }
    with Catalog.open(site) as catalog:
        counts = catalog.counts()
    assert (counts.labelled_patients, counts.labels_without_images, counts.label_rows_left_out) == (12, 0, {})
    assert not any("labelled patients without images" in reason for reason in cohort.left_out)


def test_rows_that_differ_in_sex_say_none(site_folder: Callable[..., Path]) -> None:
    folder = site_folder(LABELS, images=1, shape=(16, 16), settings=WORDS)
    patient = next(iter(LABELS))
    rows = [f"{patient},benign,{sex},{age}\n" for sex, age in (("w", 50), ("m", 50), ("w", 50))]
    (folder / "labels.csv").write_text("patient_id,label,Geschlecht,Alter\n" + "".join(rows))
    (row,) = read_labels(Site.open(folder)).rows.values()
    assert row == {"label": "benign", AGE: "50"}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ('age = "label"\n', "names the column 'label' twice"),
        ('sex = { column = "sex", words = { w = "X" } }\n', "sex.words.w"),
        ('age = "years"\n', "the label table has no column 'years'"),
    ],
)
def test_a_column_of_sex_or_age_that_cannot_be_is_refused(
    site_folder: Callable[..., Path], settings: str, said: str
) -> None:
    folder = site_folder(LABELS, images=1, shape=(16, 16), settings="[labels]\n" + settings)
    with pytest.raises(FedwardError, match=said):
        read_labels(Site.open(folder))
