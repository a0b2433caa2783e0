"""From the files that show where structures are to masks on the grid that a network sees."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from fedward_client import catalog
from fedward_client.cache import load
from fedward_client.catalog import Catalog
from fedward_client.dry_run import dry_run
from fedward_client.freezing import freeze, from_catalog
from fedward_client.harmonize import recipe
from fedward_client.site import Site
from fedward_client.site_data import SiteData
from fedward_client.volume import Volume
from fedward_common.errors import DataError, SettingsError, UnfitImage
from fedward_common.study import Input, StudySpec
from fedward_common.testing import tiny_study
from fedward_simulations.synthetic import abdomen

AFFINE = np.diag([2.0, 3.0, 4.0, 1.0])
SETTINGS = """[data]
patient = "(P[0-9]+)"
modality = "MR"
[privacy]
min_cell = 1
[masks]
files = 'labels/(.+)'
image = 'images/\\1'
structures = { liver = [1, 2], tumour = 2 }
"""


def study(**sections: Mapping[str, Any]) -> StudySpec:
    own: dict[str, Mapping[str, Any]] = {
        "study": {"task": "segmentation"},
        "cohort": {"modality": "MR", "labels": ["liver", "tumour"], "positive": None, "min_patients": 1},
        "split": {"shares": [1.0, 0.0, 0.0]},
        "input": {"size": [8, 8, 8], "spacing": [4.0, 3.0, 2.0]},
        "model": {"name": "unet", "options": {"width": 4, "depth": 1}},
        "evaluation": {"primary": "dice"},
    }
    return tiny_study(**own | sections)


def nifti(path: Path, values: npt.NDArray[Any], affine: npt.NDArray[np.float64] = AFFINE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values.astype(np.int16), affine), path)


def hospital(folder: Path, patients: int = 4, text: str = SETTINGS) -> Site:
    """Images [8, 8, 8] of noise, and in each a liver with a tumour at a place of its own."""
    random = np.random.default_rng(0)
    for number in range(patients):
        truth = np.zeros((8, 8, 8))
        truth[1 + number % 3 : 6, 2:6, 3:7] = 1
        truth[4, 3:5, 4] = 2
        nifti(folder / "images" / f"P{number}.nii.gz", 100 * random.random((8, 8, 8)) + 500 * (truth > 0))
        nifti(folder / "labels" / f"P{number}.nii.gz", truth)
    (folder / "site.toml").write_text(text)
    return Site.open(folder)


def loaded(site: Site, spec: StudySpec) -> SiteData:
    return load(site, spec, "run")


def test_a_mask_is_no_image_and_lies_where_its_image_does(tmp_path: Path) -> None:
    site = hospital(tmp_path)
    counts = catalog.scan(site).counts
    assert (counts.images, counts.masks, counts.files) == (4, 4, 8)
    assert (counts.labels, counts.patients_without_label) == ({"liver": 4, "tumour": 4}, 0)
    data = loaded(site, study())
    assert data.targets is not None
    assert data.targets.shape == (4, 2, 8, 8, 8)
    assert data.targets.dtype == np.uint8
    assert (data.labels == 1).all()
    inside = data.images[:, 0][data.targets[:, 0] == 1].mean()
    assert inside > data.images[:, 0][data.targets[:, 0] == 0].mean() + 0.5
    assert (data.targets[:, 1] <= data.targets[:, 0]).all(), "a tumour is part of its liver here: 2 is of both"
    assert data.targets[:, 1].sum() == 4 * 2
    again = loaded(Site.open(tmp_path), study())
    np.testing.assert_array_equal(again.targets, data.targets)


def test_a_structure_that_a_site_does_not_draw_is_not_known(tmp_path: Path) -> None:
    site = hospital(tmp_path, text=SETTINGS.replace("liver = [1, 2], ", ""))
    data = loaded(site, study())
    assert data.targets is not None
    assert data.labels.tolist() == [[-1, 1]] * 4
    assert not data.targets[:, 0].any()
    assert from_catalog(site, study()).label_counts() == {"liver": 0, "tumour": 4}


def test_an_image_without_a_mask_takes_no_part(tmp_path: Path) -> None:
    site = hospital(tmp_path)
    (tmp_path / "labels" / "P1.nii.gz").unlink()
    assert len(loaded(site, study()).images) == 3
    whole = from_catalog(site, study())
    assert whole.left_out["patients without a label, or with two that differ"] == 1


def test_registration_needs_no_mask_where_no_structure_is_named(tmp_path: Path) -> None:
    site = hospital(tmp_path, text=SETTINGS.partition("[masks]")[0])
    for path in (tmp_path / "labels").iterdir():
        path.unlink()
    spec = study(
        study={"task": "registration"},
        cohort={"modality": "MR", "labels": [], "positive": None, "min_patients": 1},
        model={"name": "voxelmorph", "options": {"width": 4, "depth": 1}},
        evaluation={"primary": "loss"},
    )
    data = loaded(site, spec)
    assert (data.targets, len(data.indices("train"))) == (None, 4)


def test_what_changes_a_mask_builds_the_cache_anew(tmp_path: Path) -> None:
    site = hospital(tmp_path)
    before = loaded(site, study())
    (tmp_path / "site.toml").write_text(SETTINGS.replace("tumour = 2", "tumour = 1"))
    other = Site.open(tmp_path)
    after = load(other, study(), "another")
    assert before.targets is not None
    assert after.targets is not None
    assert after.targets[:, 1].sum() > before.targets[:, 1].sum()
    assert after.cohort_digest != before.cohort_digest


@pytest.mark.parametrize(
    ("values", "affine"),
    [
        (np.zeros((8, 8, 7)), AFFINE),
        (np.zeros((8, 8, 8)), np.diag([2.0, 3.0, 5.0, 1.0])),
        (np.full((8, 8, 8), 0.5), AFFINE),
    ],
    ids=["size", "place", "no labels"],
)
def test_a_mask_that_does_not_fit_leaves_its_image_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, values: npt.NDArray[Any], affine: npt.NDArray[np.float64]
) -> None:
    site = hospital(tmp_path)
    path = tmp_path / "labels" / "P1.nii.gz"
    nibabel.save(nibabel.Nifti1Image(values.astype(np.float32), affine), path)
    before = dry_run(site, study())
    assert before.images == 3, "the steward sees before a run what it would not take"
    [(reason, count)] = before.left_out.items()
    assert (reason.startswith("images that could not be read: its mask"), count) == (True, 1)
    assert len(loaded(site, study()).images) == 3
    assert "its mask" in caplog.text
    assert "P1" not in caplog.text
    with Catalog.open(site) as opened:
        assert not opened.quarantine(), "the image is as it was, and another study can take it"


@pytest.mark.parametrize(("tumour", "taken"), [((4, 3, 4), 4), ((7, 3, 4), 3)], ids=["inside", "outside"])
def test_a_structure_outside_of_the_size_leaves_its_image_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, tumour: tuple[int, int, int], taken: int
) -> None:
    """An empty truth would be false. The liver is cut, and stays; an image without a tumour has none."""
    site, truth = hospital(tmp_path), np.zeros((8, 8, 8))
    truth[0:6, 2:6, 3:7] = 1
    nifti(tmp_path / "labels" / "P2.nii.gz", truth)
    truth[tumour] = 2
    nifti(tmp_path / "labels" / "P1.nii.gz", truth)
    spec = study(input={"size": [8, 8, 8], "spacing": [2.0, 1.5, 1.0]})  # the middle of the image
    assert dry_run(site, spec).images == taken, "the steward sees it before a run"
    assert len(loaded(site, spec).images) == taken
    assert ("images that this study cannot take: 1; a structure lies outside" in caplog.text) == (taken == 3)
    assert "P1" not in caplog.text


def test_a_mask_that_is_away_leaves_its_image_out_until_it_is_back(tmp_path: Path) -> None:
    site, mask = hospital(tmp_path), tmp_path / "labels" / "P1.nii.gz"
    freeze(site, study(), "run")
    content = mask.read_bytes()
    nifti(mask, np.ones((8, 8, 8)))
    assert (loaded(site, study()).gone, len(loaded(site, study()).images)) == (1, 3)
    mask.write_bytes(content)
    assert (loaded(site, study()).gone, len(loaded(site, study()).images)) == (0, 4)
    with Catalog.open(site) as opened:
        assert not opened.quarantine()


@pytest.mark.parametrize("structures", ['liver = "Liver"', 'liver = 1, tumour = "Tumour"'])
def test_the_label_of_a_segment_is_no_value_of_a_label_map(tmp_path: Path, structures: str) -> None:
    site = hospital(tmp_path, text=SETTINGS.replace("liver = [1, 2], tumour = 2", structures))
    with pytest.raises(DataError, match=r"it is a label map, whose structures have values: correct \[masks\]"):
        loaded(site, study())


def test_a_twin_of_an_image_has_its_mask(tmp_path: Path) -> None:
    hospital(tmp_path)
    for number in range(4):
        shutil.copy(tmp_path / "images" / f"P{number}.nii.gz", tmp_path / f"P{number}.nii.gz")
    site = Site.open(tmp_path)
    counts = catalog.scan(site).counts
    assert (counts.images, counts.duplicates) == (4, 4)
    assert len(loaded(site, study()).images) == 4


def test_pictures_may_have_several_masks(tmp_path: Path) -> None:
    for number in range(3):
        for name, rows in (("", slice(0, 0)), ("_mask", slice(0, 4)), ("_mask_1", slice(8, 12))):
            picture = np.zeros((16, 16), np.uint8)
            picture[rows] = 255
            Image.fromarray(picture + 9 * (name == "")).save(tmp_path / f"P{number}{name}.png")
    (tmp_path / "site.toml").write_text(
        '[data]\npatient = "(P[0-9]+)"\nmodality = "US"\n[privacy]\nmin_cell = 1\n'
        "[masks]\nfiles = '(.+)_mask(_[0-9]+)?\\.png'\nimage = '\\1.png'\nstructures = { lesion = true }\n"
    )
    spec = study(
        cohort={"modality": "US", "labels": ["lesion"], "positive": None, "min_patients": 1}, input={"size": [16, 16]}
    )
    data = loaded(Site.open(tmp_path), spec)
    assert data.targets is not None
    assert data.targets[:, 0].mean(axis=(0, 2)).tolist() == [1] * 4 + [0] * 4 + [1] * 4 + [0] * 4


def test_a_dicom_segmentation_is_found_by_the_series_that_it_was_drawn_on(tmp_path: Path) -> None:
    for number in range(3):
        abdomen.write(tmp_path, abdomen.SCANNERS["north"], number, shape=(10, 32, 32))
    (tmp_path / "site.toml").write_text(
        "[privacy]\nmin_cell = 1\n[masks]\nstructures = { liver = 'Liver', tumour = 'Tumour' }\n"
    )
    site = Site.open(tmp_path)
    counts = catalog.scan(site).counts
    assert (counts.images, counts.masks) == (30, 3)
    spec = study(
        cohort={"modality": "CT", "labels": ["tumour", "liver"], "positive": None, "min_patients": 1},
        input={"size": [10, 32, 32], "intensity": "window", "window": [40.0, 400.0]},
    )
    data = loaded(site, spec)
    assert data.targets is not None
    hounsfield = data.images[:, 0] * 400 - 160
    tumour, liver = (data.targets[:, index].astype(bool) for index in (0, 1))
    assert liver.any()
    assert hounsfield[liver & ~tumour].mean() == pytest.approx(abdomen.LIVER, abs=15)


@pytest.mark.parametrize(
    ("structures", "says"),
    [("liver = 1", "whose structures have the labels of segments"), ("liver = 'Lever'", "has no segment of a label")],
)
def test_a_dicom_segmentation_has_labels_of_segments(tmp_path: Path, structures: str, says: str) -> None:
    abdomen.write(tmp_path, abdomen.SCANNERS["north"], 0, shape=(10, 32, 32))
    (tmp_path / "site.toml").write_text(f"[privacy]\nmin_cell = 1\n[masks]\nstructures = {{ {structures} }}\n")
    spec = study(
        cohort={"modality": "CT", "labels": ["liver"], "positive": None, "min_patients": 1},
        input={"size": [10, 32, 32]},
    )
    with pytest.raises(DataError, match=says):
        loaded(Site.open(tmp_path), spec)


def test_a_site_without_masks_is_told_what_to_do(tmp_path: Path) -> None:
    site = hospital(tmp_path, text=SETTINGS.partition("[masks]")[0])
    with pytest.raises(DataError, match=r"looks for liver, tumour in masks.*\[masks\] in site.toml"):
        from_catalog(site, study())


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ("files = 'labels/(.+)'\nimage = 'images/\\1'", "structures is missing"),
        ("files = 'labels/(.+)'\nstructures = { liver = 1 }", "image is missing"),
        ("image = 'images/\\1'\nstructures = { liver = 1 }", "files is missing"),
        ("files = 'labels/.+'\nimage = 'a'\nstructures = { liver = 1 }", "has no group"),
        ("files = 'labels/(.+'\nimage = 'a'\nstructures = { liver = 1 }", "is no regular expression"),
        (
            "files = '(?i)(.+)'\nimage = 'images/\\2'\nstructures = { liver = 1 }",
            "image is no path with groups of files",
        ),
        ("structures = { liver = false }", "structures.liver is false"),
        ("structures = { liver = 0 }", "structures.liver"),
        ("structures = { liver = [] }", "structures.liver"),
    ],
)
def test_wrong_settings_are_refused(tmp_path: Path, section: str, says: str) -> None:
    (tmp_path / "site.toml").write_text(f"[masks]\n{section}\n")
    with pytest.raises(SettingsError) as refused:
        Site.open(tmp_path)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_mask_goes_where_its_image_goes(data: st.DataObject) -> None:
    """Of an image that is its own mask, every step that moves pixels moves the mask by as much."""
    size = data.draw(st.sampled_from([[12, 12, 12], [8, 20, 9], [9, 9]]))
    letters = data.draw(st.sampled_from(["LPS", "RAS", "SAR", None])) if len(size) == 3 else None
    crop = data.draw(st.sampled_from([None, "foreground"]))
    spacing = data.draw(st.sampled_from([None, [2.0] * len(size)]))
    shape = data.draw(st.tuples(*[st.integers(5, 14)] * 3))
    mask = np.zeros(shape, np.uint8)
    lower = [data.draw(st.integers(0, length - 4)) for length in shape]
    mask[tuple(slice(low, low + 4) for low in lower)] = 1
    section = Input.model_validate(
        {"size": tuple(size), "orientation": letters, "crop": crop, "spacing": spacing and tuple(spacing),
         "intensity": "window", "window": (0.5, 1.0)}
    )  # fmt: skip
    volume = Volume(mask[:, None].astype(np.float32), np.diag([2.0, -3.0, 4.0, 1.0]))
    shown = mask if len(size) == 3 else mask[len(mask) // 2]
    if shown.any() and not (recipe(section).apply(volume) >= 0.5 - 1e-6).any():
        with pytest.raises(UnfitImage, match="a structure lies outside of what the study sees"):
            recipe(section).masked(volume, mask[None])
        return
    image, (placed,) = recipe(section).masked(volume, mask[None])
    assert placed.shape == tuple(size)
    np.testing.assert_array_equal(placed, image[0] >= 0.5 - 1e-6)
    np.testing.assert_array_equal(image, recipe(section).apply(volume))


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_the_grid_says_where_each_pixel_comes_from(data: st.DataObject) -> None:
    """Of an image whose value at each place is its place along an axis; edges, where filters have no room, left out."""
    size = data.draw(st.sampled_from([(12, 12, 12), (8, 20, 9), (16, 9)]))
    shape = data.draw(st.tuples(*[st.integers(9, 20)] * 3))
    section = Input(
        size=size,
        orientation=data.draw(st.sampled_from(["LPS", "RAS", "SAR", None])) if len(size) == 3 else None,
        spacing=data.draw(st.sampled_from([None, (3.0,) * len(size)])),
        intensity="window",
        window=(0.5, 1.0),
    )
    for axis, length in enumerate(shape):
        ramp = np.moveaxis(np.broadcast_to(np.arange(length), (*shape[:axis], *shape[axis + 1 :], length)), -1, axis)
        volume = Volume(ramp[:, None].astype(np.float32) / length, np.diag([2.0, -3.0, 4.0, 1.0]))
        image, grid = recipe(section).gridded(volume)
        places = np.stack(np.meshgrid(*map(np.arange, (1,) * (3 - len(size)) + size), indexing="ij"), axis=-1)
        expected = (places @ grid[:3, :3].T + grid[:3, 3]).reshape(*size, 3)
        inner = ((expected >= 3) & (expected <= np.array(shape) - 4)).all(axis=-1)
        np.testing.assert_allclose(image[0][inner] * length, expected[inner][:, axis], atol=0.15)
