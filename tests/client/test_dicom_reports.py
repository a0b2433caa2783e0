"""`fedward model predict --format sr`: structured reports of DICOM images, with the numbers of the CSV file."""

import csv
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from highdicom.sr import MeasurementReport, srread
from PIL import Image
from pydicom import dcmread
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import ComprehensiveSRStorage, EnhancedMRImageStorage
from safetensors.numpy import save_file
from typer.testing import CliRunner

from fedward_common import cli, models
from fedward_common.models.trained import RESEARCH_USE, Trained
from fedward_common.records import model_sha256
from fedward_common.study import StudySpec
from fedward_common.testing import tiny_study
from fedward_simulations.synthetic import brain, chest

MR = tiny_study(cohort={"modality": "MR"})
LIMIT = "One seed only; 只用于研究."


@pytest.fixture
def model(tmp_path: Path) -> Callable[[StudySpec], Path]:
    def make(study: StudySpec) -> Path:
        arrays = models.initial_state(study, 7)
        about = Trained(
            study=study,
            thresholds={study.cohort.labels[1]: 0.5},
            model_sha256=model_sha256(arrays),
            limits=(LIMIT,),
        )
        save_file(arrays, tmp_path / "model.safetensors", metadata=about.header)
        return tmp_path / "model.safetensors"

    return make


def predict(model: Path, source: Path, out: Path, form: str, *, code: int = 0) -> str:
    command = ["model", "predict", str(model), str(source), "--out", str(out), "--format", form]
    done = CliRunner().invoke(cli.app, command)
    assert done.exit_code == code, done.output
    return " ".join(done.output.split())


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(line for line in path.read_text("utf-8").splitlines() if not line.startswith("# ")))


def reports(out: Path) -> list[Dataset]:
    found = [dcmread(path) for path in out.iterdir()]
    assert {f"{each.SOPInstanceUID}.dcm" for each in found} == {path.name for path in out.iterdir()}
    return sorted(found, key=lambda each: str(each.PatientID))


def items(item: Dataset) -> Iterator[Dataset]:
    for each in item.get("ContentSequence", []):
        yield each
        yield from items(each)


def named(report: Dataset, name: str) -> list[Dataset]:
    """The items of a report whose concept has a code or a meaning."""
    return [
        item
        for item in items(report)
        for concept in item.get("ConceptNameCodeSequence", [])
        if name in (concept.CodeValue, concept.CodeMeaning)
    ]


def probability(report: Dataset, label: str) -> float:
    [item] = named(report, f"probability {label}")
    [measured] = item.MeasuredValueSequence
    assert measured.MeasurementUnitsCodeSequence[0].CodeValue == "1"
    assert float(measured.NumericValue) == pytest.approx(measured.FloatingPointValue, abs=1e-12)
    return float(measured.FloatingPointValue)


def instances(evidence: Any) -> set[str]:
    return {
        sop.ReferencedSOPInstanceUID
        for study in evidence
        for series in study.ReferencedSeriesSequence
        for sop in series.ReferencedSOPSequence
    }


def test_reports_say_what_the_table_says(model: Callable[[StudySpec], Path], tmp_path: Path) -> None:
    folder, file = tmp_path / "scans", model(MR)
    folder.mkdir()
    for number, label in enumerate(brain.NIGRA):
        brain.write(folder, brain.SCANNERS["north"], number, label)
    predict(file, folder, tmp_path / "found.csv", "csv")
    said = predict(file, folder, tmp_path / "reports", "sr")
    assert "3 with probabilities, 0 without" in said
    assert "P000" not in said
    for row, report in zip(table(tmp_path / "found.csv"), reports(tmp_path / "reports"), strict=True):
        image = dcmread(folder / row["file"])
        for label in MR.cohort.labels:
            assert probability(report, label) == float(row[f"probability {label}"])
        [called] = named(report, "called malignant")
        assert called.ConceptCodeSequence[0].CodeMeaning.casefold() == row["called malignant"]
        for keyword in ("PatientID", "PatientName", "PatientBirthDate", "StudyInstanceUID", "AccessionNumber"):
            assert report[keyword] == image[keyword]
        assert report.SOPClassUID == ComprehensiveSRStorage
        assert report.SeriesInstanceUID != image.SeriesInstanceUID
        assert instances(report.CurrentRequestedProcedureEvidenceSequence) == {image.SOPInstanceUID}
        comments = [item.TextValue for item in named(report, "Comment")]
        assert {RESEARCH_USE, LIMIT} < set(comments)
        [serial] = named(report, "Device Observer Serial Number")
        assert serial.TextValue == report.DeviceSerialNumber
        assert any(serial.TextValue in comment and MR.digest in comment for comment in comments)
        assert report.SeriesDescription.startswith("Research use only")
        assert (report.CompletionFlag, report.VerificationFlag) == ("COMPLETE", "UNVERIFIED")
        content = srread(tmp_path / "reports" / f"{report.SOPInstanceUID}.dcm").content
        assert isinstance(content, MeasurementReport)
        [group] = content.get_image_measurement_groups()
        assert [each.value for each in group.get_measurements()] == [
            float(row[f"probability {label}"]) for label in MR.cohort.labels
        ]


def test_every_item_has_a_relationship_that_the_class_allows(
    model: Callable[[StudySpec], Path], tmp_path: Path
) -> None:
    """PS3.3 A.35.3.3.2: who observed and what is modified belong to containers, which contain the rest."""
    folder = tmp_path / "scans"
    folder.mkdir()
    brain.write(folder, brain.SCANNERS["north"], 0, "msa")
    predict(model(MR), folder / "P0000.dcm", tmp_path / "reports", "sr")
    [report] = reports(tmp_path / "reports")
    assert (report.ValueType, report.ContentTemplateSequence[0].TemplateIdentifier) == ("CONTAINER", "1500")
    assert [item.ConceptNameCodeSequence[0].CodeMeaning for item in report.ContentSequence][:9] == [
        "Language of Content Item and Descendants",
        "Observer Type",
        "Device Observer UID",
        "Device Observer Name",
        "Device Observer Manufacturer",
        "Device Observer Model Name",
        "Device Observer Serial Number",
        "Procedure reported",
        "Imaging Measurements",
    ]
    allowed = {
        "CONTAINS": {"CONTAINER", "TEXT", "NUM", "CODE", "IMAGE"},
        "HAS OBS CONTEXT": {"TEXT", "CODE", "UIDREF"},
        "HAS CONCEPT MOD": {"TEXT", "CODE"},
    }
    for item in items(report):
        assert item.ValueType in allowed[item.RelationshipType]


def test_a_volume_s_report_refers_to_every_slice(model: Callable[[StudySpec], Path], tmp_path: Path) -> None:
    folder, study = tmp_path / "scans", tiny_study(cohort={"modality": "CT"}, input={"size": [8, 16, 16]})
    folder.mkdir()
    chest.write(folder, chest.SCANNERS["north"], 1, shape=(6, 16, 16))
    (folder / "annotations.csv").unlink()
    predict(model(study), folder, tmp_path / "reports", "sr")
    [report] = reports(tmp_path / "reports")
    slices = {dcmread(path).SOPInstanceUID for path in folder.rglob("*.dcm")}
    assert len(slices) == 6
    assert instances(report.CurrentRequestedProcedureEvidenceSequence) == slices
    sources = [item.ReferencedSOPSequence[0] for item in items(report) if item.ValueType == "IMAGE"]
    assert {one.ReferencedSOPInstanceUID for one in sources} == slices


def test_of_several_frames_the_one_that_was_looked_at_is_named(
    write_dicom: Callable[..., Path], model: Callable[[StudySpec], Path], tmp_path: Path
) -> None:
    """In the file's own count, though the frames lie from the head on."""
    frames = []
    for number in range(6):
        frame, position = Dataset(), Dataset()
        position.ImagePositionPatient = [0, 0, -2.0 * number]
        frame.PlanePositionSequence = [position]
        frames.append(frame)
    shared, orientation, measures = Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient, measures.PixelSpacing = [1, 0, 0, 0, 1, 0], [1, 1]
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [orientation], [measures]
    write_dicom(
        tmp_path / "scans" / "mr.dcm",
        patient_id="P1",
        array=np.random.default_rng(0).integers(0, 99, (6, 20, 20), np.uint8),
        Modality="MR",
        SOPClassUID=EnhancedMRImageStorage,
        StudyInstanceUID="1.2",
        SeriesInstanceUID="1.2.3",
        SharedFunctionalGroupsSequence=[shared],
        PerFrameFunctionalGroupsSequence=frames,
    )
    file = model(MR)
    predict(file, tmp_path / "scans", tmp_path / "found.csv", "csv")
    assert [row["note"] for row in table(tmp_path / "found.csv")] == ["the middle one of 6 frames"]
    said = predict(file, tmp_path / "scans", tmp_path / "reports", "sr")
    assert "1 with probabilities: the middle one of 6 frames" in said
    [report] = reports(tmp_path / "reports")
    [image] = [item.ReferencedSOPSequence[0] for item in items(report) if item.ValueType == "IMAGE"]
    assert image.ReferencedFrameNumber == 3, "the fourth from the feet on"
    assert "the middle one of 6 frames" in [item.TextValue for item in named(report, "Comment")]


def test_a_patient_of_two_studies_has_one_report_in_the_later(
    write_dicom: Callable[..., Path], model: Callable[[StudySpec], Path], tmp_path: Path
) -> None:
    """Text in any script survives: the images' own character set is another than the report's."""
    folder, labels = tmp_path / "scans", ["良性", "恶性"]
    schaedel = Dataset()
    schaedel.CodeValue, schaedel.CodingSchemeDesignator, schaedel.CodeMeaning = "1", "99LOCAL", "Schädel"
    for number, year in enumerate((2021, 2019)):
        write_dicom(
            folder / f"{number}.dcm",
            patient_id="P1",
            array=np.random.default_rng(number).integers(0, 99, (20, 20), np.uint8),
            SpecificCharacterSet="ISO_IR 100",
            PatientName="Müller^Jörg",
            ProcedureCodeSequence=[schaedel],
            StudyInstanceUID=f"1.2.{year}",
            SeriesInstanceUID=f"1.2.{year}.1",
            SOPInstanceUID=f"1.2.{year}.1.1",
            StudyDate=f"{year}0101",
        )
    study = tiny_study(cohort={"labels": labels, "positive": labels[1]})
    predict(model(study), folder, tmp_path / "reports", "sr")
    [report] = reports(tmp_path / "reports")
    assert (report.StudyInstanceUID, report.StudyDate, str(report.PatientName)) == (
        "1.2.2021",
        "20210101",
        "Müller^Jörg",
    )
    assert report.ProcedureCodeSequence[0].CodeMeaning == "Schädel"
    assert instances(report.CurrentRequestedProcedureEvidenceSequence) == {"1.2.2021.1.1"}
    assert instances(report.PertinentOtherEvidenceSequence) == {"1.2.2019.1.1"}
    assert sum(probability(report, label) for label in labels) == pytest.approx(1)


def test_what_is_not_dicom_is_refused_and_nothing_written(model: Callable[[StudySpec], Path], tmp_path: Path) -> None:
    Image.fromarray(np.zeros((20, 20), np.uint8)).save(tmp_path / "a.png")
    file, out = model(tiny_study()), tmp_path / "reports"
    said = predict(file, tmp_path / "a.png", out, "sr", code=1)
    assert "1 without: no DICOM report can be made of it, use --format csv: it is not DICOM" in said
    assert not out.exists()


def test_an_image_that_can_have_no_report_is_refused_by_itself(
    write_dicom: Callable[..., Path], model: Callable[[StudySpec], Path], tmp_path: Path
) -> None:
    """What the standard does not allow, and hospitals have, is copied; UIDs and a class of the standard are needed."""
    uids = {"StudyInstanceUID": "1.2", "SeriesInstanceUID": "1.2.3"}
    odd = {"PatientSex": "W", "PatientBirthDate": "1.2.1970", "StudyDate": "2021-01-01", "PatientAge": "51"}
    changes: list[dict[str, str]] = [{}, uids, uids | odd, uids | {"SOPClassUID": "1.3.46.670589.5.0.1"}]
    for number, tags in enumerate(changes):
        with warnings.catch_warnings(action="ignore"):  # pydicom's, of such values
            array = np.full((20, 20), number, np.uint8)
            write_dicom(tmp_path / "scans" / f"{number}.dcm", patient_id=f"P{number}", array=array, **tags)
    cut = dcmread(tmp_path / "scans" / "1.dcm")
    cut.PatientID, cut.SOPInstanceUID = "P4", "1.2.3.4"
    ends_early = Tag("ProcedureCodeSequence")
    cut[ends_early] = RawDataElement(ends_early, "SQ", 4, b"\xfe\xff\x00\xe0", 0, False, True)
    cut.save_as(tmp_path / "scans" / "4.dcm")
    said = predict(model(tiny_study()), tmp_path / "scans", tmp_path / "reports", "sr", code=1)
    assert "2 with probabilities, 3 without" in said
    assert "1 without: no DICOM report can be made of it, use --format csv: it lacks the UIDs" in said
    assert "its header is damaged, or of a class of images that the DICOM standard does not have" in said
    with warnings.catch_warnings(action="ignore"):
        _, found = reports(tmp_path / "reports")
        assert {keyword: found[keyword].value for keyword in odd} == odd


def test_a_folder_with_something_in_it_is_left_alone(model: Callable[[StudySpec], Path], tmp_path: Path) -> None:
    out = tmp_path / "reports"
    out.mkdir()
    (out / "old.dcm").write_text("old")
    (tmp_path / "scans").mkdir()
    said = predict(model(MR), tmp_path / "scans", out, "sr", code=2)
    assert "is not an empty folder: choose another --out" in said
