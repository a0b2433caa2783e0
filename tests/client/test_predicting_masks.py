"""`fedward model predict --format seg`: what a model finds, on the voxels of the hospital's own images."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from click.testing import Result
from pydicom import dcmread
from safetensors.numpy import save_file
from typer.testing import CliRunner

from fedward_client.harmonize.grid import restored
from fedward_client.harmonize.recipe import Recipe
from fedward_client.intake.dicom import read_slices
from fedward_client.intake.segmentation import read_masks
from fedward_common import cli, models
from fedward_common.models import trained
from fedward_common.models.trained import Trained
from fedward_common.records import model_sha256
from fedward_common.study import Input, StudySpec
from fedward_common.testing import tiny_study
from fedward_simulations.synthetic import abdomen

LIVER = tiny_study(
    study={"task": "segmentation"},
    cohort={"modality": "CT", "labels": list(abdomen.STRUCTURES), "positive": None},
    input={"size": [8, 16, 16], "spacing": [6.0, 20.0, 20.0], "orientation": "LPS", "intensity": "percentile"},
    model={"name": "unet", "options": {"width": 8, "depth": 2}},
    evaluation={"primary": "dice"},
)


def model(study: StudySpec, path: Path) -> Path:
    arrays = models.initial_state(study, 7)
    about = Trained(study=study, thresholds={}, model_sha256=model_sha256(arrays))
    save_file(arrays, path, metadata=about.header)
    return path


def predict(file: Path, source: Path, out: Path, form: str = "seg") -> Result:
    command = ["model", "predict", str(file), str(source), "--out", str(out), "--format", form]
    return CliRunner().invoke(cli.app, command)


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Two patients; one series is written from the head on. What a radiologist drew lies beside."""
    folder = tmp_path / "scans"
    for number, hospital in enumerate(("harbour", "north")):
        abdomen.write(folder, abdomen.SCANNERS[hospital], number, shape=(10, 32, 32))
    return folder


def slices(folder: Path) -> list[Path]:
    return sorted(folder.glob("0*.dcm"), key=lambda path: float(dcmread(path).ImagePositionPatient[2]))


def test_a_segmentation_of_each_image_lies_on_its_voxels(scans: Path, tmp_path: Path) -> None:
    file, out = model(LIVER, tmp_path / "model.safetensors"), tmp_path / "found"
    done = predict(file, scans, out)
    assert done.exit_code == 0, done.output
    assert "2 segmented, 0 without" in done.stdout
    assert "P000" not in done.output
    written = {dcmread(path).ReferencedSeriesSequence[0].SeriesInstanceUID: path for path in out.iterdir()}
    network = trained.read(file)[1]
    assert isinstance(LIVER.input, Input)
    for patient in ("P0000", "P0001"):
        paths = slices(scans / patient)
        first = dcmread(paths[0])
        path = written.pop(first.SeriesInstanceUID)
        recipe, volume = Recipe(LIVER.input), read_slices(paths)
        with torch.no_grad():
            found = network(torch.from_numpy(np.stack([recipe.apply(volume)]))).sigmoid()[0].numpy()
        expected = restored(found, recipe.gridded(volume)[1], (10, 32, 32)) >= 0.5
        assert 0 < expected.mean() < 1
        masks = read_masks(path, paths)
        assert list(masks) == list(abdomen.STRUCTURES)
        np.testing.assert_array_equal(np.stack(list(masks.values())), expected)
        made = dcmread(path)
        assert (made.PatientID, made.FrameOfReferenceUID) == (patient, first.FrameOfReferenceUID)
        assert made.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0].AlgorithmVersion == (
            model_sha256(models.initial_state(LIVER, 7))
        )
    assert not written


def test_what_cannot_be_segmented_is_told_and_the_rest_is_written(scans: Path, tmp_path: Path) -> None:
    values = np.random.default_rng(1).integers(0, 99, (12, 11, 10)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([20.0, 20.0, 6.0, 1.0])), scans / "liver.nii.gz")
    out = tmp_path / "found"
    done = predict(model(LIVER, tmp_path / "model.safetensors"), scans, out)
    assert done.exit_code == 1, done.output
    assert "2 segmented, 1 without" in done.stdout
    assert "of it, use --format nifti or csv: it is not DICOM" in " ".join(done.stderr.split())
    assert len(list(out.iterdir())) == 2


def test_a_model_says_what_its_task_is(scans: Path, tmp_path: Path) -> None:
    done = predict(model(LIVER, tmp_path / "model.safetensors"), scans, tmp_path / "found", "sr")
    assert done.exit_code == 2
    assert "the model is of a study of segmentation: take --format csv or --format seg or --format nifti" in " ".join(
        done.output.split()
    )
    assert not (tmp_path / "found").exists()
