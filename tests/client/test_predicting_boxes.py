"""`fedward model predict` of a detector: findings where they lie in the patient or the picture, as rows and reports."""

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from highdicom.sr import MeasurementReport, srread
from PIL import Image
from pydicom import dcmread
from pydicom.uid import UltrasoundMultiFrameImageStorage
from safetensors.numpy import save_file
from typer.testing import CliRunner

from fedward_client.boxing import boxes_of
from fedward_client.findings import Finding
from fedward_client.harmonize.recipe import Recipe
from fedward_client.intake.dicom import read_slices
from fedward_client.intake.pictures import read_pixels
from fedward_client.training.detection import decoded
from fedward_client.volume import Volume
from fedward_common import cli, models
from fedward_common.models import trained
from fedward_common.models.retinanet import RetinaNet
from fedward_common.models.trained import Trained
from fedward_common.records import model_sha256
from fedward_common.study import Input, StudySpec
from fedward_common.testing import tiny_study
from fedward_simulations.synthetic import chest

LABELS = ["nodule", "cyst"]
Rows = Sequence[dict[str, str]]


def study(size: list[int], modality: str, **given: Any) -> StudySpec:
    return tiny_study(
        study={"task": "detection"},
        cohort={"modality": modality, "labels": LABELS, "positive": None},
        input={"size": size, "intensity": "percentile", **given},
        model={"name": "retinanet", "options": {"width": 4, "levels": 2, "anchor": 4}},
        evaluation={"primary": "froc"},
    )


CT = study([16, 16, 16], "CT", spacing=[2.5, 15.0, 15.0], orientation="RPS")  # within the image: no box is cut
FLAT = study([32, 32], "US")


def model(spec: StudySpec, path: Path, *, finds: bool = True) -> Path:
    """A network that was not trained: it finds nothing, or a few things where its scores are raised to the least."""
    arrays = models.initial_state(spec, 7)
    if finds:
        arrays["classification.12.bias"][:] = -4.05
    about = Trained(study=spec, thresholds={}, model_sha256=model_sha256(arrays), limits=("One seed only",))
    save_file(arrays, path, metadata=about.header)
    return path


def predict(file: Path, source: Path, out: Path, form: str = "csv", *, code: int = 0) -> str:
    command = ["model", "predict", str(file), str(source), "--out", str(out), "--format", form]
    done = CliRunner().invoke(cli.app, command)
    assert done.exit_code == code, done.output
    return " ".join(done.output.split())


def table(path: Path) -> Rows:
    return list(csv.DictReader(line for line in path.read_text("utf-8").splitlines() if not line.startswith("# ")))


def numbers(row: dict[str, str], *columns: str) -> npt.NDArray[np.float64]:
    return np.array([float(row[column]) for column in columns])


def check_as_trained(rows: Rows, axes: str, volume: Volume, file: Path) -> None:
    """The rows, as a hospital's own table of findings, are in training the boxes that the network found."""
    about, network = trained.read(file)
    assert isinstance(about.input, Input)
    assert isinstance(network, RetinaNet)
    tensor, grid = Recipe(about.input).gridded(volume)
    with torch.no_grad():
        [found] = decoded(network(torch.from_numpy(np.stack([tensor]))), network.anchors, about.input.size)
    assert len(rows) == len(found.scores) > 3
    for row, box, kind, score in zip(rows, found.boxes, found.classes, found.scores, strict=True):
        middle, half = numbers(row, *axes), numbers(row, *(f"size {axis}" for axis in axes)) / 2
        corners = (float(LABELS.index(row["label"])), *(middle - half), *(middle + half))
        again = boxes_of(volume, grid, [corners], about.input.size)[0]
        np.testing.assert_allclose(again, [*box.tolist(), float(kind)], atol=1e-3)
        assert float(row["score"]) == pytest.approx(float(score), abs=1e-6)


def content(path: Path) -> MeasurementReport:
    found = srread(path).content
    assert isinstance(found, MeasurementReport)
    return found


def slices(folder: Path) -> list[Path]:
    return sorted(folder.glob("0*.dcm"), key=lambda path: float(dcmread(path).ImagePositionPatient[2]))


def test_rows_are_a_table_of_findings_as_training_reads_it(tmp_path: Path) -> None:
    folder = tmp_path / "scans"
    chest.write(folder, chest.SCANNERS["north"], 2, shape=(16, 32, 32))
    file = model(CT, tmp_path / "model.safetensors")
    said = predict(file, folder, tmp_path / "found.csv")
    assert "2 searched, 0 without" in said
    assert "P000" not in said
    text = (tmp_path / "found.csv").read_text("utf-8")
    assert "# score orders findings" in text
    assert "# One seed only" in text
    rows = table(tmp_path / "found.csv")
    assert {row["unit"] for row in rows} == {"mm"}
    for patient in ("P0000", "P0001"):
        own = [row for row in rows if row["file"].startswith(patient)]
        check_as_trained(own, "xyz", read_slices(slices(folder / patient)), file)


@pytest.mark.parametrize("tilt_mm", [0.0, 1.5], ids=["upright", "tilted gantry"])
def test_a_report_has_a_group_for_each_finding(tmp_path: Path, tilt_mm: float) -> None:
    folder = tmp_path / "scans"
    chest.write(folder, chest.SCANNERS["north"], 1, shape=(16, 32, 32))
    for number, path in enumerate(slices(folder / "P0000")):
        tilted = dcmread(path)
        tilted.ImagePositionPatient[1] += number * tilt_mm
        tilted.save_as(path)
    file = model(CT, tmp_path / "model.safetensors")
    predict(file, folder, tmp_path / "found.csv")
    predict(file, folder, tmp_path / "reports", "sr")
    [path] = (tmp_path / "reports").iterdir()
    report, image = dcmread(path), dcmread(next((folder / "P0000").glob("0*.dcm")))
    assert (report.PatientID, report.StudyInstanceUID) == (image.PatientID, image.StudyInstanceUID)
    said, rows = content(path), table(tmp_path / "found.csv")
    groups = said.get_volumetric_roi_measurement_groups()
    for group, row in zip(groups, rows, strict=True):
        assert group.finding_type is not None
        assert group.finding_type.meaning == row["label"]
        [score] = group.get_measurements()
        assert score.value == float(row["score"])
        [surface] = [item for item in group[0].ContentSequence if item.ValueType == "SCOORD3D"]
        assert surface.ReferencedFrameOfReferenceUID == image.FrameOfReferenceUID
        ends = surface.value.reshape(3, 2, 3)
        np.testing.assert_allclose(ends.mean(axis=1), [numbers(row, *"xyz")] * 3, atol=1e-3)
        half = (ends[:, 0] - ends[:, 1]) / 2
        np.testing.assert_allclose(half @ half.T, np.diag((half**2).sum(axis=1)), atol=1e-2)  # at right angles
        sizes = 2 * np.linalg.norm(half, axis=0)
        np.testing.assert_allclose(sizes, numbers(row, "size x", "size y", "size z"), atol=1e-3)
    [count] = said.get_image_measurement_groups()[0].get_measurements()
    assert count.value == len(rows)


def test_boxes_end_where_the_image_does(tmp_path: Path) -> None:
    """A network that sees more than the image finds nothing beside it."""
    chest.write(tmp_path / "scans", chest.SCANNERS["north"], 1, shape=(16, 32, 32))
    wide = study([16, 32, 32], "CT", spacing=[4.0, 20.0, 20.0])
    predict(model(wide, tmp_path / "model.safetensors"), tmp_path / "scans", tmp_path / "found.csv")
    first = dcmread(slices(tmp_path / "scans" / "P0000")[0])
    least = np.array(first.ImagePositionPatient, float) - [350 / 64, 350 / 64, 1.25]
    for row in table(tmp_path / "found.csv"):
        middle, half = numbers(row, *"xyz"), numbers(row, "size x", "size y", "size z") / 2
        assert (middle - half >= least - 1e-3).all()
        assert (middle + half <= np.add(least, [350, 350, 40]) + 1e-3).all()


def test_pictures_have_findings_in_pixels_and_no_report(tmp_path: Path) -> None:
    folder = tmp_path / "scans"
    folder.mkdir()
    values = np.random.default_rng(1).integers(0, 256, (40, 80), np.uint8)
    Image.fromarray(values).save(folder / "a.png")
    file = model(FLAT, tmp_path / "model.safetensors")
    predict(file, folder, tmp_path / "found.csv")
    rows = table(tmp_path / "found.csv")
    assert {row["unit"] for row in rows} == {"pixels"}
    check_as_trained(rows, "xy", read_pixels(folder / "a.png"), file)
    said = predict(file, folder, tmp_path / "reports", "sr", code=1)
    assert "0 searched, 1 without" in said
    assert "no DICOM report can be made of it, use --format csv: it is not DICOM" in said


def test_findings_of_a_slice_are_rectangles_on_it(write_dicom: Callable[..., Path], tmp_path: Path) -> None:
    """Of an ultrasound's frames a 2-D study takes the middle one."""
    array = np.random.default_rng(1).integers(0, 256, (3, 40, 80), np.uint8)
    image = write_dicom(
        tmp_path / "scans" / "us.dcm",
        patient_id="P1",
        array=array,
        SOPClassUID=UltrasoundMultiFrameImageStorage,
        StudyInstanceUID="1.2",
        SeriesInstanceUID="1.2.3",
    )
    file = model(FLAT, tmp_path / "model.safetensors")
    predict(file, tmp_path / "scans", tmp_path / "found.csv")
    predict(file, tmp_path / "scans", tmp_path / "reports", "sr")
    [path] = (tmp_path / "reports").iterdir()
    groups, rows = content(path).get_planar_roi_measurement_groups(), table(tmp_path / "found.csv")
    assert {row["note"] for row in rows} == {"the middle one of 3 frames"}
    [whole] = content(path).get_image_measurement_groups()
    assert [each.referenced_frame_numbers for each in whole.source_images] == [[2]]
    for group, row in zip(groups, rows, strict=True):
        assert group.roi is not None
        low, _, high, _, _ = group.roi.value
        np.testing.assert_allclose((low + high) / 2, numbers(row, *"xy"), atol=1e-3)
        np.testing.assert_allclose(high - low, numbers(row, "size x", "size y"), atol=1e-3)
        [origin] = group.roi.ContentSequence[0].ReferencedSOPSequence
        assert origin.ReferencedSOPInstanceUID == dcmread(image).SOPInstanceUID
        assert origin.ReferencedFrameNumber == 2


@pytest.mark.parametrize("degrees", [0, 30])
def test_findings_of_a_slice_have_no_length_across_it(
    write_dicom: Callable[..., Path], tmp_path: Path, degrees: int
) -> None:
    up, across = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    write_dicom(
        tmp_path / "scans" / "ct.dcm",
        patient_id="P1",
        array=np.random.default_rng(1).integers(0, 99, (40, 80), np.uint8),
        Modality="CT",
        ImagePositionPatient=[1, 2, 3],
        ImageOrientationPatient=[1, 0, 0, 0, up, across],
        PixelSpacing=[0.5, 0.5],
    )
    predict(model(study([32, 32], "CT"), tmp_path / "m.safetensors"), tmp_path / "scans", tmp_path / "found.csv")
    for row in table(tmp_path / "found.csv"):
        _, y, z = numbers(row, "size x", "size y", "size z")
        assert row["unit"] == "mm"
        assert (z * up, y > 0) == (pytest.approx(y * across, abs=1e-6), True)


@pytest.mark.parametrize("form", ["csv", "sr"])
def test_that_nothing_was_found_is_said(tmp_path: Path, form: str) -> None:
    chest.write(tmp_path / "scans", chest.SCANNERS["north"], 1, shape=(16, 32, 32))
    out = tmp_path / "found"
    predict(model(CT, tmp_path / "model.safetensors", finds=False), tmp_path / "scans", out, form)
    if form == "csv":
        [row] = table(out)
        assert (row["score"], row["note"]) == (
            "",
            "nothing found; 53 % of the image lies outside of what the model sees",
        )
    else:
        [path] = out.iterdir()
        [group] = content(path).get_image_measurement_groups()
        assert [each.value for each in group.get_measurements()] == [0]


def test_an_image_that_was_not_searched_is_told_beside_those_that_were(tmp_path: Path) -> None:
    chest.write(tmp_path / "scans", chest.SCANNERS["north"], 1, shape=(16, 32, 32))
    alone = dcmread(tmp_path / "scans" / "P0000" / "0001.dcm")
    alone.SeriesInstanceUID, alone.SOPInstanceUID = "1.2.3", "1.2.3.4"
    alone.save_as(tmp_path / "scans" / "P0000" / "alone.dcm")
    said = predict(model(CT, tmp_path / "m.safetensors", finds=False), tmp_path / "scans", tmp_path / "found")
    assert "1 searched, 0 without" in said
    [row] = table(tmp_path / "found")
    assert row["note"].startswith("nothing found; ")
    assert row["note"].endswith("; left out: 1 slices that stand alone")


def test_a_volume_without_a_place_has_rows_and_no_report(write_dicom: Callable[..., Path], tmp_path: Path) -> None:
    array = np.random.default_rng(1).integers(0, 256, (16, 16, 16), np.uint8)
    uids = {"StudyInstanceUID": "1.2", "SeriesInstanceUID": "1.2.3"}
    write_dicom(tmp_path / "scans" / "us.dcm", patient_id="P1", array=array, **uids)
    file = model(study([16, 16, 16], "US"), tmp_path / "model.safetensors")
    said = predict(file, tmp_path / "scans", tmp_path / "reports", "sr", code=1)
    assert "no DICOM report can be made of it, use --format csv: the image does not say where it lies" in said


def test_the_ellipsoid_of_an_oblique_image_goes_along_its_voxels() -> None:
    affine = np.array([[0.8, -1.2, 0, 5], [0.6, 1.6, 0, 6], [0, 0, 3, 7], [0, 0, 0, 1.0]])
    finding = Finding(label="cyst", score=0.5, lower=(1, 2, 3), upper=(3, 6, 9), affine=affine)
    middle, axes = finding.ellipsoid
    to_voxels = np.linalg.inv(affine) @ np.diag([-1.0, -1.0, 1.0, 1.0])  # DICOM's x and y point the other way
    ends = [(to_voxels @ [*(middle + axis), 1.0])[2::-1] + 0.5 for axis in axes]  # (frame, row, column)
    np.testing.assert_allclose(ends, [(2, 4, 9), (2, 6, 6), (3, 4, 6)])
