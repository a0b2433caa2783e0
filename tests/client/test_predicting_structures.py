"""`fedward model predict --format nifti` and `csv`, of a model that finds structures: masks and their sizes."""

import csv
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from click.testing import Result
from PIL import Image
from pydicom import dcmread
from safetensors.numpy import save_file
from typer.testing import CliRunner

from fedward_client.harmonize.grid import restored
from fedward_client.harmonize.recipe import Recipe
from fedward_client.intake import nifti
from fedward_client.intake.dicom import read_slices
from fedward_common import cli, models
from fedward_common.models import trained
from fedward_common.models.trained import RESEARCH_USE, Trained
from fedward_common.records import model_sha256
from fedward_common.study import StudySpec
from fedward_common.testing import tiny_study
from fedward_simulations.synthetic import abdomen

PARTS = ("anterior", "posterior")
TILTED = np.array([[0.0, 1.1, 0.1, -90], [-0.9, 0, 0.2, 60], [0.1, 0, 1.5, -40], [0, 0, 0, 1]], np.float32)


def study(size: tuple[int, ...] = (8, 16, 16), modality: str | None = "MR", pixel_mm: float = 1.0) -> StudySpec:
    section: dict[str, Any] = {"size": size, "intensity": "percentile"}
    if len(size) == 3:
        section |= {"spacing": [2.0, pixel_mm, pixel_mm], "orientation": "LPS"}
    return tiny_study(
        study={"task": "segmentation"},
        cohort={"modality": modality, "labels": list(PARTS), "positive": None},
        input=section,
        model={"name": "unet", "options": {"width": 8, "depth": 2}},
        evaluation={"primary": "dice"},
    )


def model(spec: StudySpec, path: Path) -> Path:
    arrays = models.initial_state(spec, 7)
    about = Trained(study=spec, thresholds={}, model_sha256=model_sha256(arrays), limits=("One seed.",))
    save_file(arrays, path, metadata=about.header)
    return path


def predict(file: Path, source: Path, out: Path, form: str) -> Result:
    command = ["model", "predict", str(file), str(source), "--out", str(out), "--format", form]
    return CliRunner().invoke(cli.app, command)


def rows(path: Path) -> list[dict[str, str]]:
    lines = path.read_text("utf-8").splitlines()
    return list(csv.DictReader(line for line in lines if not line.startswith("# ")))


def written(out: Path) -> list[str]:
    return sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())


@pytest.fixture
def brains(tmp_path: Path) -> Path:
    """Two files of other sizes: one tilted, one with the quaternion alone."""
    folder, random = tmp_path / "imagesTs", np.random.default_rng(1)
    folder.mkdir()
    (folder / "more").mkdir()
    nibabel.save(nibabel.Nifti1Image(random.integers(0, 99, (12, 14, 9), np.int16), TILTED), folder / "h_1.nii.gz")
    image = nibabel.Nifti1Image(random.integers(0, 99, (15, 11, 10), np.int16), None)
    image.header.set_qform(np.diag([-1.0, -1.0, 2.0, 1.0]), "scanner")
    nibabel.save(image, folder / "more" / "h_2.nii")
    return folder


def test_a_mask_of_each_structure_lies_on_the_voxels_of_its_image(brains: Path, tmp_path: Path) -> None:
    spec, out, table = study(), tmp_path / "masks", tmp_path / "sizes.csv"
    file = model(spec, tmp_path / "model.safetensors")
    done = predict(file, brains, out, "nifti")
    assert done.exit_code == 0, done.output
    assert "2 segmented, 0 without" in done.stdout
    assert written(out) == [f"{part}/{name}.nii.gz" for part in PARTS for name in ("h_1", "more/h_2")]
    assert predict(file, brains, table, "csv").exit_code == 0
    told = {(row["file"], row["structure"]): row for row in rows(table)}
    assert len(told) == 4
    assert f"# {RESEARCH_USE}\n" in table.read_text()
    assert "# One seed.\n" in table.read_text()
    network, recipe = trained.read(file)[1], Recipe(spec.input)  # type: ignore[arg-type]  # it is of images
    for source in ("h_1.nii.gz", "more/h_2.nii"):
        volume = nifti.read_pixels(brains / source)
        tensor, back = recipe.gridded(volume)
        with torch.no_grad():
            found = network(torch.from_numpy(np.stack([tensor]))).sigmoid()[0].numpy()
        expected = restored(found, back, volume.pixels[:, 0].shape) >= 0.5
        for part, mask in zip(PARTS, expected, strict=True):
            path = out / part / f"{source.partition('.')[0]}.nii.gz"
            read = nifti.read_mask(path)
            np.testing.assert_array_equal(read.labels, mask)
            np.testing.assert_array_equal(read.affine, volume.affine)
            image, original = map(nibabel.Nifti1Image.from_filename, (path, brains / source))
            np.testing.assert_array_equal(image.affine, original.affine)
            assert (image.shape, int(image.header["xyzt_units"])) == (original.shape, 2)  # of millimetres
            assert "One seed." in image.header.extensions[0].text
            millilitres = mask.sum() * abs(np.linalg.det(original.affine)) / 1000
            assert told[source, part]["unit"] == "ml"
            assert float(told[source, part]["size"]) == pytest.approx(millilitres, rel=1e-6)
        assert 0 < expected.mean() < 1
    assert told["more/h_2.nii", "anterior"]["note"] == "20 % of the image lies outside of what the model sees"
    assert "1 segmented: 20 % of the image lies outside" in " ".join(done.stderr.split())

    again = tmp_path / "again"
    assert predict(file, brains, again, "nifti").exit_code == 0
    assert all((again / path).read_bytes() == (out / path).read_bytes() for path in written(out))
    assert "is not an empty folder" in " ".join(predict(file, brains, out, "nifti").output.split())


def test_of_dicom_too(tmp_path: Path) -> None:
    abdomen.write(tmp_path / "scans", abdomen.SCANNERS["north"], 0, shape=(10, 32, 32))
    file, out = model(study(modality="CT", pixel_mm=20.0), tmp_path / "model.safetensors"), tmp_path / "masks"
    done = predict(file, tmp_path / "scans", out, "nifti")
    assert done.exit_code == 0, done.output
    first, second = written(out)
    assert (first.split("/")[:2], second.split("/")[:2]) == (["anterior", "P0000"], ["posterior", "P0000"])
    mask = nifti.read_mask(out / first)
    slices = sorted(
        (tmp_path / "scans" / "P0000").glob("0*.dcm"), key=lambda path: dcmread(path).ImagePositionPatient[2]
    )
    volume = read_slices(slices)
    assert mask.affine is not None
    assert volume.affine is not None
    np.testing.assert_allclose(mask.affine, volume.affine, rtol=1e-6)
    assert mask.labels.shape == volume.pixels[:, 0].shape
    assert predict(file, tmp_path / "scans", tmp_path / "sizes.csv", "csv").exit_code == 0
    told = rows(tmp_path / "sizes.csv")
    millilitres = mask.labels.sum() * abs(np.linalg.det(mask.affine)) / 1000
    assert (told[0]["structure"], told[0]["unit"]) == ("anterior", "ml")
    assert float(told[0]["size"]) == pytest.approx(millilitres, rel=1e-5)


def test_of_a_picture_or_a_slice(tmp_path: Path) -> None:
    """A picture does not say how large its pixels are; a slice has an area."""
    folder, random = tmp_path / "in", np.random.default_rng(0)
    folder.mkdir()
    Image.fromarray(random.integers(0, 255, (20, 30), np.uint8)).save(folder / "a.png")
    slice_ = nibabel.Nifti1Image(random.integers(0, 99, (30, 20, 1), np.int16), np.diag([0.5, 0.8, 5.0, 1.0]))
    nibabel.save(slice_, folder / "b.nii")
    file, out = model(study((16, 16), None), tmp_path / "model.safetensors"), tmp_path / "masks"
    assert predict(file, folder, out, "nifti").exit_code == 0
    assert predict(file, folder, tmp_path / "sizes.csv", "csv").exit_code == 0
    picture, _, area, _ = rows(tmp_path / "sizes.csv")
    one, two = nifti.read_mask(out / "anterior" / "a.png.nii.gz"), nifti.read_mask(out / "anterior" / "b.nii.gz")
    assert (one.labels.shape, one.affine) == ((1, 20, 30), None)
    assert (float(picture["size"]), picture["unit"]) == (one.labels.sum(), "voxels")
    assert float(area["size"]) == pytest.approx(two.labels.sum() * 0.4)
    assert area["unit"] == "mm2"


def test_what_has_no_answer_is_told(brains: Path, tmp_path: Path) -> None:
    """Two images of one name, but for the ending, and a file that is cut."""
    nibabel.save(nibabel.Nifti1Image.from_filename(brains / "h_1.nii.gz"), brains / "h_1.nii")
    (brains / "more" / "h_2.nii").write_bytes((brains / "more" / "h_2.nii").read_bytes()[:-9])
    file, out = model(study(), tmp_path / "model.safetensors"), tmp_path / "masks"
    done = predict(file, brains, out, "nifti")
    assert done.exit_code == 1
    assert "1 segmented, 2 without" in done.stdout
    assert "1 without: its masks would have the name of another image's" in " ".join(done.stderr.split())
    assert "h_" not in done.output
    assert len(written(out)) == 2
    assert predict(file, brains, tmp_path / "sizes.csv", "csv").exit_code == 1
    *_, cut = rows(tmp_path / "sizes.csv")
    assert (cut["file"], cut["size"], cut["note"]) == ("more/h_2.nii", "", "the voxels end early")


def test_other_models_have_no_masks(tmp_path: Path) -> None:
    arrays = models.initial_state(tiny_study(), 7)
    about = Trained(study=tiny_study(), thresholds={}, model_sha256=model_sha256(arrays))
    save_file(arrays, tmp_path / "model.safetensors", metadata=about.header)
    (tmp_path / "in").mkdir()
    done = predict(tmp_path / "model.safetensors", tmp_path / "in", tmp_path / "masks", "nifti")
    assert done.exit_code == 2
    assert "a study of classification: take --format csv or --format sr" in " ".join(done.output.split())
