"""`fedward model predict --onto`: images brought onto one by a model that registers, held against SimpleITK."""

import csv
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its own name for itself
import torch
from PIL import Image
from safetensors.numpy import save_file
from scipy.spatial.transform import Rotation  # type: ignore[import-untyped]
from typer.testing import CliRunner

from fedward_client.harmonize.recipe import Recipe
from fedward_client.intake import nifti
from fedward_client.training.registration_loss import registration_loss
from fedward_common import cli, models
from fedward_common.models import trained
from fedward_common.models.trained import Trained
from fedward_common.models.warp import jacobian_determinant
from fedward_common.records import model_sha256
from fedward_common.study import StudySpec
from fedward_common.testing import tiny_study
from fedward_simulations.synthetic import abdomen


def turned(degrees: float, spacing: tuple[float, float, float], corner: tuple[float, float, float]) -> Any:
    """An affine turned about an oblique axis: ITK takes no sheared one."""
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_rotvec(np.array([0.6, 0.0, 0.8]) * degrees, degrees=True).as_matrix() * spacing
    affine[:3, 3] = corner
    return affine


def study(size: tuple[int, ...] = (12, 16, 20), modality: str | None = "MR", **options: int) -> StudySpec:
    section: dict[str, Any] = {"size": size, "intensity": "percentile"}
    if len(size) == 3:
        section |= {"spacing": [1.5, 1.0, 1.0], "orientation": "LPS"}
    return tiny_study(
        study={"task": "registration"},
        cohort={"modality": modality, "labels": [], "positive": None},
        input=section,
        model={"name": "voxelmorph", "options": {"width": 4, "depth": 2, **options}},
        evaluation={"primary": "loss"},
    )


def model(spec: StudySpec, folder: Path, strength: float = 0.3) -> Path:
    """One that deforms: the last layer begins near zero, and would move nothing."""
    arrays = dict(models.initial_state(spec, 7))
    dims, random = len(spec.input.size), np.random.default_rng(3)
    [last] = [name for name, array in arrays.items() if name.endswith("weight") and array.shape[0] == dims]
    arrays[last] = random.normal(scale=strength, size=arrays[last].shape).astype(np.float32)
    arrays[last.replace("weight", "bias")] = np.linspace(-1.5, 2, dims, dtype=np.float32)
    about = Trained(study=spec, thresholds={}, model_sha256=model_sha256(arrays), limits=("One seed.",))
    save_file(arrays, folder / "model.safetensors", metadata=about.header)
    return folder / "model.safetensors"


def predict(*arguments: str | Path, code: int = 0) -> str:
    done = CliRunner().invoke(cli.app, ["model", "predict", *map(str, arguments)])
    assert done.exit_code == code, done.output
    return " ".join(done.output.split())


def rows(path: Path) -> dict[str, dict[str, str]]:
    lines = path.read_text("utf-8").splitlines()
    return {row["file"]: row for row in csv.DictReader(line for line in lines if not line.startswith("# "))}


@pytest.fixture
def brains(tmp_path: Path) -> Path:
    """Files of other sizes, turned and straight; `atlas.nii` beside them."""
    folder, random = tmp_path / "imagesTs", np.random.default_rng(1)
    folder.mkdir()
    for name, shape, affine in (
        ("imagesTs/h_1.nii.gz", (22, 24, 13), turned(100, (1.1, 0.9, 1.5), (-9, 16, -4))),
        ("imagesTs/h_2.nii", (18, 20, 12), np.diag([-1.0, -1.0, 2.0, 1.0])),
        ("atlas.nii", (20, 17, 14), turned(-20, (1.2, 1.0, 1.4), (5, -8, 3))),
    ):
        nibabel.save(nibabel.Nifti1Image(random.normal(100, 20, shape).astype(np.float32), affine), tmp_path / name)
    return folder


@pytest.mark.parametrize("name", ["h_1.nii.gz", "h_2.nii"])
def test_the_written_field_brings_the_image_where_the_warped_one_is(brains: Path, tmp_path: Path, name: str) -> None:
    file, out = model(study(), tmp_path), tmp_path / "out"
    said = predict(file, brains, "--onto", tmp_path / "atlas.nii", "--out", out, "--format", "nifti")
    assert "2 brought onto the image, 0 without" in said
    stem = name.partition(".")[0]
    warped, field = (sitk.ReadImage(out / kind / f"{stem}.nii.gz") for kind in ("warped", "displacement"))
    assert field.GetNumberOfComponentsPerPixel() == 3
    assert np.abs(sitk.GetArrayFromImage(field)).max() > 2, "nothing is shown by a field of zeros"

    image = sitk.Cast(sitk.ReadImage(brains / name), sitk.sitkFloat32)
    lowest = float(sitk.GetArrayFromImage(image).min())
    transform = sitk.DisplacementFieldTransform(sitk.Cast(field, sitk.sitkVectorFloat64))
    expected = sitk.GetArrayFromImage(sitk.Resample(image, warped, transform, sitk.sitkLinear, lowest))
    found = sitk.GetArrayFromImage(warped)
    inside = (expected != lowest) & (found != lowest)
    assert inside.mean() > 0.3
    assert (inside == ((expected != lowest) | (found != lowest))).mean() > 0.98, "but where rounding decides at an edge"
    np.testing.assert_allclose(found[inside], expected[inside], atol=0.02)  # of values from 0 to 200


def test_the_field_is_the_network_s_between_the_grids_of_both(brains: Path, tmp_path: Path) -> None:
    spec = study(integration=0)
    file, out, table = model(spec, tmp_path, strength=3.0), tmp_path / "out", tmp_path / "table.csv"
    onto = ("--onto", tmp_path / "atlas.nii")
    predict(file, brains, *onto, "--out", out, "--format", "nifti")
    predict(file, brains, *onto, "--out", table)
    assert "# One seed.\n" in table.read_text()
    network, recipe = trained.read(file)[1], Recipe(spec.input)  # type: ignore[arg-type]  # it is of images
    own, other = (nifti.read_pixels(path) for path in (brains / "h_2.nii", tmp_path / "atlas.nii"))
    (moving, back), (fixed, front) = recipe.gridded(own), recipe.gridded(other)
    pair = torch.from_numpy(np.stack([moving])), torch.from_numpy(np.stack([fixed]))
    with torch.no_grad():
        shift = network(torch.cat(pair, dim=1))
        before, after = (
            float(registration_loss(*pair, each, smoothness=0.0)) for each in (torch.zeros_like(shift), shift)
        )
    row = rows(table)["h_2.nii"]
    assert row["note"] == "40 % of the image lies outside of what the model sees"
    assert float(row["unlike before"]) == pytest.approx(before, abs=1e-5)
    assert float(row["unlike after"]) == pytest.approx(after, abs=1e-5)
    folded = float((jacobian_determinant(shift) <= 0).float().mean())
    assert 0 < folded < 1, "nothing is shown by what does not fold"
    assert float(row["percent folded"]) == pytest.approx(100 * folded)
    place = np.array([5.0, 7.0, 11.0])  # frame, row, column
    assert own.affine is not None
    assert other.affine is not None
    start = other.affine @ [*(front @ [*place, 1.0])[2::-1], 1.0]
    end = own.affine @ [*(back @ [*(place + shift[0, :, 5, 7, 11].numpy()), 1.0])[2::-1], 1.0]
    written = nibabel.Nifti1Image.from_filename(out / "displacement" / "h_2.nii.gz")
    np.testing.assert_allclose(written.affine @ [11, 7, 5, 1], start, atol=1e-4)
    vector = np.asarray(written.dataobj)[11, 7, 5, 0]
    np.testing.assert_allclose(vector * [-1, -1, 1], (end - start)[:3], atol=1e-3)  # ITK's x and y point the other way
    assert "One seed." in written.header.extensions[0].text


def test_pictures_have_no_millimetres(tmp_path: Path) -> None:
    folder, out = tmp_path / "slices", tmp_path / "out"
    folder.mkdir()
    for name in ("a", "b"):
        noise = np.random.default_rng(len(name)).integers(0, 255, (40, 30), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{name}.png")
    file = model(study((24, 16), None), tmp_path)
    predict(file, folder, "--onto", folder / "a.png", "--out", out, "--format", "nifti")
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*.gz")) == [
        "warped/a.png.nii.gz",
        "warped/b.png.nii.gz",
    ]
    assert nibabel.Nifti1Image.from_filename(out / "warped" / "b.png.nii.gz").shape == (16, 24, 1)


def test_slices_of_a_series_are_one_image(tmp_path: Path) -> None:
    for number, name in enumerate(("one", "two")):
        abdomen.write(tmp_path / name, abdomen.SCANNERS["north"], number, shape=(24, 96, 96))
    file, table = model(study(modality="CT"), tmp_path), tmp_path / "table.csv"
    predict(file, tmp_path / "one", "--onto", tmp_path / "two", "--out", table)
    [row] = rows(table).values()
    assert float(row["unlike before"]) > 0


def test_the_image_may_be_a_part_of_a_hospital_s_folder(tmp_path: Path) -> None:
    """Its settings, here whose pictures are, and its opt-out list hold."""
    folder = tmp_path / "hospital"
    for name, numbers in (("hospital", (0, 1)), ("alone", (1,))):
        for number in numbers:
            abdomen.write(tmp_path / name, abdomen.SCANNERS["north"], number, shape=(24, 96, 96))
    (folder / "site.toml").write_text("[masks]\nstructures = { liver = 'Liver' }\n")
    file = model(study(modality="CT"), tmp_path)
    for name, onto in (("part", folder / "P0001"), ("alone", tmp_path / "alone")):
        predict(file, folder, "--onto", onto, "--out", tmp_path / f"{name}.csv")
    assert len(rows(tmp_path / "part.csv")) == 2
    assert rows(tmp_path / "part.csv") == rows(tmp_path / "alone.csv")
    (folder / "opt-out.txt").write_text("P0001\n")
    assert "has no image to bring others onto" in predict(
        file, folder, "--onto", folder / "P0001", "--out", tmp_path / "out.csv", code=2
    )


@pytest.mark.parametrize(
    ("onto", "words"),
    [
        ([], "the model brings images onto another: say onto which with --onto"),
        (["--onto", "imagesTs"], "is not one image to bring others onto, it holds more than one: give another --onto"),
        (["--onto", "broken.nii"], "is not one image to bring others onto, none of its files can be taken: "),
        (["--onto", "empty"], "empty has no image to bring others onto: "),
        (["--onto", "tilted.nii"], "has axes that are not at right angles, as CT of a tilted gantry has"),
        (["--onto", "nowhere.nii"], "does not exist"),
        (["--onto", "atlas.nii", "--format", "seg"], "take --format csv or --format nifti"),
    ],
)
def test_what_is_not_one_image_is_refused(brains: Path, tmp_path: Path, onto: list[str], words: str) -> None:
    (tmp_path / "broken.nii").write_bytes((tmp_path / "atlas.nii").read_bytes()[:-500])
    (tmp_path / "empty").mkdir()
    tilted = turned(30, (1.0, 1.2, 1.5), (5, -8, 3)) @ [[1, 0, 0, 0], [0, 1, 0.01, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    nibabel.save(nibabel.Nifti1Image(np.random.default_rng(1).random((20, 17, 14)), tilted), tmp_path / "tilted.nii")
    places = [str(tmp_path / each) if (tmp_path / each).exists() else each for each in onto]
    assert words in predict(model(study(), tmp_path), brains, *places, "--out", tmp_path / "out", code=2)
    assert not (tmp_path / "out").exists()


def test_the_image_is_not_overwritten(brains: Path, tmp_path: Path) -> None:
    atlas = tmp_path / "atlas.nii"
    assert "in the input" in predict(model(study(), tmp_path), brains, "--onto", atlas, "--out", atlas, code=2)


def test_other_models_bring_nothing_onto_anything(brains: Path, tmp_path: Path) -> None:
    spec = tiny_study()
    arrays = models.initial_state(spec, 7)
    about = Trained(study=spec, thresholds={}, model_sha256=model_sha256(arrays), limits=())
    save_file(arrays, tmp_path / "model.safetensors", metadata=about.header)
    command = (tmp_path / "model.safetensors", brains, "--onto", tmp_path / "atlas.nii", "--out", tmp_path / "out")
    assert "of a study of classification, which brings no image onto another" in predict(*command, code=2)
