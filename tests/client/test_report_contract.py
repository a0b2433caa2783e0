"""A study's data contract at a site: every line with its figure, and what a run would say itself."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.uid import MRImageStorage

from fedward_client.cache import load
from fedward_client.catalog import paths, scan
from fedward_client.dry_run import resolved
from fedward_client.intake.files import read_volume
from fedward_client.report.contract import LOW, WRONG_PART, Contract
from fedward_client.report.survey import Survey, survey
from fedward_client.site import Site
from fedward_common.errors import DataError
from fedward_common.study import StudySpec
from fedward_common.testing import tiny_study

Folder = Callable[..., Path]
LABELS = {f"PID-{number:03}": "malignant" if number % 2 else "benign" for number in range(12)}
SPLIT = {patient: "test" if patient > "PID-007" else "train" for patient in LABELS}
MR = {"Modality": "MR", "SOPClassUID": MRImageStorage}  # in which no text is looked for: that takes its time


@pytest.fixture
def hospital(site_folder: Folder) -> Folder:
    """`hospital(labels, ...)`: a folder of MR images, one a patient; eight of the twelve patients train."""

    def build(labels: dict[str, str] = LABELS, **rest: Any) -> Path:
        return site_folder(labels, images=1, columns={"split": SPLIT}, **{**MR, **rest})

    return build


def study(**sections: Any) -> StudySpec:
    cohort = {"modality": "MR", **sections.pop("cohort", {})}
    return tiny_study(**{"split": {"kind": "column", "column": "split"}, **sections, "cohort": cohort})


def surveyed(folder: Path, spec: StudySpec) -> Survey:
    site = Site.open(folder)
    scan(site)
    return survey(site, spec)


def contract(folder: Path, spec: StudySpec) -> Contract:
    found = surveyed(folder, spec).contract
    assert found is not None
    return found


def lines(found: Contract) -> Iterator[tuple[str, str, bool]]:
    return ((line.asked, line.found, line.passes) for line in found.lines)


def test_a_site_that_serves_passes_every_line(hospital: Folder) -> None:
    spec = study(cohort={"body_part": "BREAST", "vendors": ["acme", "GE"]})
    found = contract(hospital(BodyPartExamined="BREAST"), spec)
    assert list(lines(found)) == [
        ("Modality MR", "12 of 12 images", True),
        ("Body part BREAST", "12 of 12 images", True),
        ("Scanner made by acme or GE", "12 of 12 images", True),
        ("No scout images", "12 of 12 images", True),
        ("At least 5 training patients", "8 training patients", True),
        ("At least 1 training patient labelled benign", "4 training patients", True),
        ("At least 1 training patient labelled malignant", "4 training patients", True),
        ("At least 5 training patients with images of at least 16 x 16 pixels", "8 training patients", True),
        ("At least 5 training patients with images that are not blank", "8 training patients", True),
    ]
    assert found.passes
    assert (found.refusal, found.digest) == ("", spec.digest)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"modality": "CT"}, "Modality CT"),
        ({"sequence": ["T2", "FLAIR"]}, "MR sequence T2 and FLAIR"),
        ({"sex": "F"}, "Sex F"),
        ({"age": [20, 60]}, "Age 20 to 60 years"),
        ({"months": ["2015-01", "2019-12"]}, "Examined from 2015-01 to 2019-12"),
    ],
)
def test_what_no_image_has_fails_with_the_reason_that_a_run_gives(
    hospital: Folder, asked: dict[str, Any], told: str
) -> None:
    folder, spec = hospital(), study(cohort=asked)
    found = contract(folder, spec)
    assert (told, "0 of 12 images", False) in lines(found)
    assert ("At least 5 training patients", "0 training patients", False) in lines(found)
    assert found.refusal == resolved(Site.open(folder), spec)[1]
    assert found.refusal
    assert not found.passes


def test_too_few_patients_and_a_label_that_nobody_has(hospital: Folder) -> None:
    found = contract(hospital(dict.fromkeys(LABELS, "benign")), study(cohort={"min_patients": 9}))
    failed = {line.asked for line in found.lines if not line.passes}
    assert "At least 9 training patients" in failed
    assert "At least 1 training patient labelled malignant" in failed
    assert "At least 1 training patient labelled benign" not in failed


def test_the_sites_own_least_count_holds_too(hospital: Folder) -> None:
    folder = hospital(settings="[privacy]\nmin_cell = 30\n")
    assert "At least 30 training patients" in {line.asked for line in contract(folder, study()).lines}


def test_images_too_small_or_blank_do_not_count(hospital: Folder, write_dicom: Folder) -> None:
    folder = hospital()
    small = contract(folder, study(input={"size": [25, 16]}))
    assert small.lines[-2].asked == "At least 5 training patients with images of at least 25 x 16 pixels"
    assert (small.lines[-2].found, small.lines[-2].passes) == ("0 training patients", False)
    assert not small.passes
    for path in folder.glob("PID-*/*.dcm"):
        write_dicom(path, patient_id=path.parent.name, array=np.full((24, 32), 9, np.uint8), **MR)
    blank = contract(folder, study())
    assert (blank.lines[-1].found, blank.lines[-1].passes) == ("0 training patients", False)


def test_spacing_is_that_which_resampling_takes(hospital: Folder) -> None:
    folder = hospital(PixelSpacing=[0.9, 0.8])
    fine = {"size": [16, 16], "spacing": [0.45, 0.4], "max_upsampling": 2.0}
    [line] = [line for line in contract(folder, study(input=fine)).lines if " mm" in line.asked]
    assert line.asked == "At least 5 training patients with images of at most 0.9 x 0.8 mm a pixel"
    assert (line.found, line.passes) == ("8 training patients", True)
    coarse = surveyed(folder, study(input={**fine, "max_upsampling": 1.9}))
    assert coarse.contract is not None
    assert not coarse.contract.passes
    assert coarse.judged()[LOW] == 12


def test_projections_that_pass_are_taken(hospital: Folder) -> None:
    folder = hospital(Modality="CR", PixelSpacing=[0.9, 0.8], ImagerPixelSpacing=[1.8, 1.6])  # without a position
    spec = study(cohort={"modality": "CR"}, input={"size": [16, 16], "spacing": [0.9, 0.8]})
    assert contract(folder, spec).passes
    assert load(Site.open(folder), spec, "run").unreadable == 0
    for path in paths(Site.open(folder)).values():
        assert read_volume(path, voi=None, stack=False).pixel_mm == (0.9, 0.8)


def test_the_pixels_of_a_detector_are_not_those_of_the_patient(hospital: Folder) -> None:
    folder = hospital(Modality="CR", ImagerPixelSpacing=[0.9, 0.8])
    spec = study(cohort={"modality": "CR"}, input={"size": [16, 16], "spacing": [0.9, 0.8]})
    [line] = [line for line in contract(folder, spec).lines if " mm" in line.asked]
    assert (line.found, line.passes) == ("0 training patients", False)
    with pytest.raises(DataError, match="how large its pixels are"):
        load(Site.open(folder), spec, "run")


def test_a_site_that_only_evaluates_needs_as_many_as_may_be_told_of(hospital: Folder) -> None:
    folder = hospital(dict.fromkeys("ABCDE", "benign"))
    spec = study(split={"kind": "leave-site-out", "site": "north"})
    found = contract(folder, spec)
    assert list(lines(found))[2:] == [
        ("At least 5 patients", "5 patients", True),
        ("At least 5 patients with images of at least 16 x 16 pixels", "5 patients", True),
        ("At least 5 patients with images that are not blank", "5 patients", True),
    ]
    assert found.passes


def test_flags_against_a_study(hospital: Folder, write_dicom: Folder) -> None:
    folder, array = hospital(BodyPartExamined="BREAST"), np.arange(96, dtype=np.uint8).reshape(8, 12)
    write_dicom(folder / "arm.dcm", patient_id="PID-001", array=array, BodyPartExamined="ARM", **MR)
    write_dicom(folder / "none.dcm", patient_id="PID-001", array=array, **MR)
    write_dicom(folder / "ct.dcm", patient_id="PID-001", array=array, BodyPartExamined="ARM", Modality="CT")
    found = surveyed(folder, study(cohort={"body_part": "BREAST"}))
    judged = found.judged()
    assert (judged[WRONG_PART], judged[LOW]) == (1, 2)
    anywhere = surveyed(folder, study()).judged()
    assert (WRONG_PART in anywhere, anywhere[LOW]) == (False, 2)


def test_a_study_that_takes_hospitals_without_a_label_asks_for_none(hospital: Folder) -> None:
    found = contract(hospital(dict.fromkeys(LABELS, "benign")), study(cohort={"every_label": False}))
    assert not any("labelled" in line.asked for line in found.lines)
    assert found.passes
