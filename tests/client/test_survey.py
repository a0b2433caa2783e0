"""What a site says of its patients before training, and what it keeps home."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedward_client.cache import load
from fedward_client.catalog import paths, scan
from fedward_client.desk import Desk, Reply
from fedward_client.freezing import freeze
from fedward_client.handlers import Hospital
from fedward_client.harmonize import recipe
from fedward_client.intake.files import read_volume
from fedward_client.member import Member
from fedward_client.site import Site
from fedward_client.source import SiteSource
from fedward_client.steward import approve
from fedward_client.survey import survey
from fedward_common import audit
from fedward_common.cohort_statistics import MISSING, OTHER, UNIT, Statistics, Wanted, pooled
from fedward_common.errors import DataError
from fedward_common.events import Event, ignore
from fedward_common.landmarks import site_sums, standard_scale
from fedward_common.records import Prepared, Question, question_record
from fedward_common.study import StudySpec
from fedward_common.testing import images_of, tiny_study

LABELS = {f"PID-{number:03}": ("benign", "malignant")[number % 2] for number in range(24)}
SURVEYED = '[site]\nname = "north"\n[policy]\noutputs = ["counts", "statistics", "update", "evaluation"]\n'
STUDY = tiny_study(split={"shares": [1.0, 0.0, 0.0]})
MEASURING = tiny_study(input={"intensity": "landmarks"}, split={"shares": [0.6, 0.2, 0.2]})


def said(site: Site, study: StudySpec | None = None, wanted: Wanted = "catalog") -> Statistics:
    return survey(site, study or STUDY, "run-1", wanted, ignore).statistics


@pytest.fixture
def mixed(site_folder: Callable[..., Path], write_dicom: Callable[..., Path]) -> Site:
    """24 patients of one maker and size, and 9 of others, of some of whom no age is known; 7 more without a label."""
    folder = site_folder(LABELS, images=1, PatientSex="F", PatientAge="045Y", PixelSpacing=[0.25, 0.25])
    labels = (folder / "labels.csv").read_text()
    (folder / "labels.csv").write_text(labels + "".join(f"MORE-{number},benign\n" for number in range(9)))
    for number in range(16):
        age = {"PatientAge": f"06{number}Y"} if number < 7 else {}
        array = np.full((96, 80), number, np.uint8)
        maker = "Beta" if number < 7 else f"Sole Maker {number}"
        path = folder / f"more-{number}.dcm"
        write_dicom(path, patient_id=f"MORE-{number}", array=array, Manufacturer=maker, **age)
    return Site.open(folder)


def test_tables_of_patients(mixed: Site) -> None:
    found = said(mixed)
    assert (found.patients, found.images) == (33, 33)
    assert found.unusable == 7
    assert found.tables["label"] == {"benign": 21, "malignant": 12, MISSING: 0}
    assert found.tables["sex"] == {"F": 24, "M": 0, "O": 0, MISSING: 9}
    ages = {cell: count for cell, count in found.tables["age"].items() if count != 0}
    assert ages == {"40 to 50": 24, "60 to 70": None, MISSING: None}
    assert found.tables["modality"] == {"US": 33, MISSING: 0}
    assert found.tables["manufacturer"] == {"Acme": 24, "Beta": None, MISSING: 0, OTHER: None}
    assert {cell: count for cell, count in found.tables["rows"].items() if count} == {"0 to 64": 24, "64 to 128": 9}
    assert {cell: count for cell, count in found.tables["spacing_mm"].items() if count} == {
        "0.2 to 0.3": 24,
        MISSING: 9,
    }
    assert found.grey_values is None
    assert "PID" not in found.model_dump_json()
    assert "Sole" not in found.model_dump_json()


def test_a_patient_counts_once_however_many_images(site_folder: Callable[..., Path]) -> None:
    found = said(Site.open(site_folder(LABELS, images=3)))
    assert (found.patients, found.images) == (24, 72)
    assert found.tables["modality"]["US"] == 24


def test_those_whom_the_cohort_does_not_take_are_not_in_it(mixed: Site) -> None:
    assert said(mixed, tiny_study(cohort={"sex": "F"}, split={"shares": [1.0, 0.0, 0.0]})).patients == 24
    (mixed.folder / "opt-out.txt").write_text("PID-001\nPID-002\n")
    assert (
        said(Site.open(mixed.folder), tiny_study(cohort={"sex": "F"}, split={"shares": [1.0, 0.0, 0.0]})).patients == 22
    )


def test_a_few_without_a_label_are_kept_home_and_hide_nothing_else(
    site_folder: Callable[..., Path], write_dicom: Callable[..., Path]
) -> None:
    folder = site_folder(LABELS, images=1)
    write_dicom(folder / "more.dcm", patient_id="MORE", array=np.zeros((24, 32), np.uint8))
    found = said(Site.open(folder))
    assert (found.patients, found.unusable) == (24, None)
    assert found.tables["label"] == {"benign": 12, "malignant": 12, MISSING: 0}


def test_few_patients_say_nothing(site_folder: Callable[..., Path]) -> None:
    site = Site.open(site_folder({f"P{n}": ("benign", "malignant")[n % 2] for n in range(4)}))
    with pytest.raises(DataError, match="north has fewer than 5 patients that this study takes"):
        said(site)


def test_grey_values_are_those_of_an_average_patient(site_folder: Callable[..., Path]) -> None:
    events: list[Event] = []
    site = Site.open(site_folder(LABELS, images=1, shape=(64, 64)))
    found = survey(site, STUDY, "run-1", "pixels", events.append).statistics
    assert found.grey_values is not None
    assert abs(sum(share for _, _, share in found.grey_values.groups) - UNIT) < 100
    values = np.concatenate([read_volume(path, voi=None, stack=False).pixels.ravel() for path in paths(site).values()])
    for share, exact in (("25 %", np.quantile(values, 0.25)), ("75 %", np.quantile(values, 0.75))):
        low, high = pooled([found]).grey_values[share]
        assert low is not None
        assert high is not None
        assert low <= exact <= high
    assert [(event.done, event.total) for event in events if event.stage == "measure"][-1] == (24, 24)


def test_an_image_that_cannot_be_read_is_left_out(site_folder: Callable[..., Path]) -> None:
    folder = site_folder(LABELS, images=1)
    scan(Site.open(folder))
    broken = folder / "PID-000" / "image0.dcm"
    broken.write_bytes(broken.read_bytes()[:-200])
    found = said(Site.open(folder), wanted="pixels")
    assert found.patients == 23, "it was decoded before the cohort was chosen"
    assert found.grey_values is not None
    assert abs(sum(share for _, _, share in found.grey_values.groups) - UNIT) < 100, "and nobody can tell that one was"


def test_sums_for_a_scale_are_of_those_who_train(site_folder: Callable[..., Path]) -> None:
    """By hand: each training patient's mean of `Recipe.measure`, as `site_sums` adds it."""
    site = Site.open(site_folder(LABELS, images=2))
    found = said(site, MEASURING, "scale")
    how, where = recipe(images_of(MEASURING)), paths(site)
    items = [item for item in freeze(site, MEASURING, "run-1").items if item.side == "train"]
    measured = [how.measure(read_volume(where[item.files[0]], voi=None, stack=False)) for item in items]
    assert found.landmarks == site_sums(measured, [item.patient for item in items], min_cell=5)
    assert found.patients == len({item.patient for item in items}) < 24
    assert found.tables == {}


def test_the_scale_of_a_run_is_what_its_tensors_are_on(site_folder: Callable[..., Path]) -> None:
    site = Site.open(site_folder(LABELS, images=1))
    sums = said(site, MEASURING, "scale").landmarks
    assert sums is not None
    scale = standard_scale(sums)
    there = load(site, MEASURING, "run-1", scale=scale).images
    fixed = MEASURING.model_copy(update={"input": MEASURING.input.on_scale(scale)})
    np.testing.assert_array_equal(there, load(site, fixed, "run-2").images)
    hospital = Hospital(SiteSource(site))
    hospital.prepare(Question(kind="prepare", study=MEASURING, run="run-1", scale=scale))
    other = Question(kind="prepare", study=MEASURING, run="run-1", scale=(0.5,) * 9)
    with pytest.raises(DataError, match="on another scale already: start a new run"):
        Hospital(SiteSource(site)).prepare(other)


# Through the door ----------------------------------------------------------------------------------------------------


def at_the_desk(member: Member) -> Desk:
    outbox = member.outbox(spool=True)
    return Desk(Hospital(SiteSource(member.site), outbox.tell), outbox, member.ledger)


def asked(desk: Desk, study: StudySpec, run: str = "run-1", **more: Any) -> Reply:
    question = Question.model_validate({"kind": "stats", "study": study, "run": run, **more})
    config = question_record(question, None).config_records["config"]
    return desk.answer(dict(config), dict, kind="query")


def test_it_leaves_only_where_the_policy_names_it_and_with_a_receipt(
    member: Callable[..., Member], roster_study: Callable[..., StudySpec]
) -> None:
    at = member(SURVEYED)
    study = roster_study(at)
    assert asked(at_the_desk(at), study).refusal.startswith("waits for approval")
    approve(at, study, datetime.now(UTC).date())
    reply = asked(at_the_desk(at), study)
    assert isinstance(reply.answer, Statistics), reply.refusal
    assert reply.answer.patients == 24
    [receipt] = audit.entries(at.site.state / "audit.jsonl", event="left")
    assert (receipt.data["kind"], receipt.data["round"], receipt.data["array_count"]) == ("stats", 0, 0)
    again = asked(at_the_desk(at), study)
    assert again.answer == reply.answer, "asked again, the stored answer leaves"
    assert len(list(audit.entries(at.site.state / "audit.jsonl", event="left"))) == 1
    silent = Member(replace(at.site, outputs=frozenset({"counts"})), at.key, at.ledger, at.log)
    assert asked(at_the_desk(silent), study, "run-2").refusal == (
        "north's policy does not let 'statistics' leave ([policy] outputs in site.toml)"
    )


def test_a_question_that_would_tell_of_few_patients_is_refused_after_a_restart_too(
    member: Callable[..., Member], roster_study: Callable[..., StudySpec], write_dicom: Callable[..., Path]
) -> None:
    at = member(SURVEYED)
    study = roster_study(at)
    approve(at, study, datetime.now(UTC).date())
    assert asked(at_the_desk(at), study).answer is not None
    image = np.zeros((24, 32), np.uint8)
    for number in range(6):
        write_dicom(at.site.folder / f"new-{number}.dcm", patient_id=f"NEW-{number}", array=image + number)
        scan(at.site)
        reply = asked(at_the_desk(Member.open(at.site)), study, f"run-{number + 2}")
        if number < 4:
            assert "nearly the same patients" in reply.refusal
        else:
            assert isinstance(reply.answer, Statistics) == (number == 4), reply.refusal
    refused = list(audit.entries(at.site.state / "audit.jsonl", event="refused"))
    assert len(refused) == 5
    assert "NEW" not in (at.site.state / "audit.jsonl").read_text()


def test_a_corrected_label_of_an_image_counts_as_well(site_folder: Callable[..., Path]) -> None:
    folder = site_folder(LABELS, images=1, settings='[labels]\npath = "file"\n')
    table = folder / "labels.csv"
    rows = [f"{name}/image0.dcm,{label}" for name, label in LABELS.items()]
    table.write_text("\n".join(["file,label", *rows]) + "\n")
    site = Site.open(folder)
    scan(site)
    before = survey(site, STUDY, "run-1", "catalog", ignore).records
    table.write_text(table.read_text().replace("PID-000/image0.dcm,benign", "PID-000/image0.dcm,malignant"))
    scan(site)
    after = survey(site, STUDY, "run-2", "catalog", ignore).records
    assert len(before) == 24
    assert sum(before[patient] != record for patient, record in after.items()) == 1


def test_a_corrected_label_counts_as_a_patient_who_changed(
    member: Callable[..., Member], roster_study: Callable[..., StudySpec]
) -> None:
    at = member(SURVEYED)
    study = roster_study(at)
    approve(at, study, datetime.now(UTC).date())
    assert asked(at_the_desk(at), study).answer is not None
    table = at.site.folder / "labels.csv"
    table.write_text(table.read_text().replace("P0,benign", "P0,malignant"))
    scan(at.site)
    assert "nearly the same patients" in asked(at_the_desk(at), study, "run-2").refusal


def test_a_prepare_that_comes_as_statistics_is_answered_as_what_it_is(
    member: Callable[..., Member], roster_study: Callable[..., StudySpec]
) -> None:
    at = member(SURVEYED)
    study = roster_study(at)
    approve(at, study, datetime.now(UTC).date())
    question = Question(kind="prepare", study=study, run="run-1")
    config = question_record(question, None).config_records["config"]
    assert isinstance(at_the_desk(at).answer(dict(config), dict, kind="query").answer, Prepared)
    assert "came as 'train'" in at_the_desk(at).answer(dict(config), dict, kind="train").refusal
