"""From a hospital's table of findings to boxes on the voxels that a network sees."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedward_client import catalog
from fedward_client.boxing import boxes_of
from fedward_client.cache import load
from fedward_client.catalog import Catalog
from fedward_client.freezing import from_catalog
from fedward_client.harmonize import recipe
from fedward_client.labelling import UNUSABLE_PATIENTS
from fedward_client.site import Site
from fedward_client.site_data import SiteData
from fedward_client.volume import Volume
from fedward_common.errors import DataError, SettingsError, UnfitImage
from fedward_common.study import Input, StudySpec
from fedward_common.testing import tiny_study
from fedward_simulations.synthetic import chest

BALLS = (
    '[boxes]\nfile = "annotations.csv"\nlabel = "nodule"\n'
    'centre = ["coordX", "coordY", "coordZ"]\ndiameter = "diameter_mm"\n'
)
PICTURES = (
    '[data]\npatient = "(P[0-9]+)"\nmodality = "US"\n[privacy]\nmin_cell = 1\n[labels]\nwords = { b = "bleeding" }\n'
    '[boxes]\nfile = "boxes.csv"\nby = "file"\nimage = "path"\nkind = "what"\ncorner = ["x", "y"]\nsize = ["w", "h"]\n'
)


def study(size: list[int], labels: list[str], modality: str = "US") -> StudySpec:
    return tiny_study(
        study={"task": "detection"},
        cohort={"modality": modality, "labels": labels, "positive": None, "min_patients": 1},
        split={"shares": [1.0, 0.0, 0.0]},
        input={"size": size, "intensity": "window", "window": [-600.0, 1500.0] if modality == "CT" else [128.0, 256.0]},
        model={"name": "retinanet", "options": {"width": 4, "levels": 2, "anchor": 4}},
        evaluation={"primary": "froc"},
    )


def ct(folder: Path, patients: int = 4) -> list[chest.Nodule]:
    nodules = chest.write(folder, chest.SCANNERS["north"], patients, shape=(24, 128, 128))
    (folder / "site.toml").write_text(f"[privacy]\nmin_cell = 1\n{BALLS}")
    return nodules


def loaded(folder: Path, spec: StudySpec) -> SiteData:
    return load(Site.open(folder), spec, "run")


def real(data: SiteData) -> list[np.ndarray]:
    """The boxes of each image."""
    assert data.targets is not None
    return [rows[rows[:, -1] >= 0] for rows in data.targets]


def test_nodules_in_millimetres_are_bright_where_their_boxes_are(tmp_path: Path) -> None:
    nodules = ct(tmp_path)
    data = loaded(tmp_path, study([24, 128, 128], ["nodule"], "CT"))
    found = real(data)
    assert sum(map(len, found)) == len(nodules)
    assert min(map(len, found)) == 0, "every fourth patient has none"
    assert [bool(len(boxes)) for boxes in found] == (data.labels[:, 0] == 1).tolist()
    for image, boxes in zip(data.images[:, 0], found, strict=True):
        for box in boxes:
            middle = tuple(((box[:3] + box[3:6]) / 2 - 0.5).round().astype(int))
            assert image[middle] > image.mean() + 0.1, "a nodule is denser than the lung around it"


def test_boxes_of_pictures_are_in_pixels(tmp_path: Path) -> None:
    for number in range(3):
        Image.fromarray(np.full((16, 32), 9 + number, np.uint8)).save(tmp_path / f"P{number}.png")
    rows = [
        "path,what,x,y,w,h,radiologist",
        "P0.png,b,4,2,8,4,Dr No",
        "P0.png,Polyp,0,0,32,16,Dr No",
        "P1.png,b,1,1,0,5,x",
    ]
    (tmp_path / "boxes.csv").write_text("\n".join([*rows, "P1.png,b,one,1,1,5,x", ""]))
    (tmp_path / "site.toml").write_text(PICTURES)
    spec = study([32, 32], ["polyp", "bleeding"])
    data = loaded(tmp_path, spec)
    whole = next(boxes for boxes in real(data) if len(boxes))
    assert sorted(whole.tolist()) == [[0, 0, 32, 32, 0], [4, 4, 12, 12, 1]], "rows are stretched by two"
    assert sorted(data.labels.tolist()) == [[0, 0], [1, 1]], "of one whose rows say nothing it is not known"
    assert from_catalog(Site.open(tmp_path), spec).label_counts() == {"polyp": 1, "bleeding": 1}
    site = Site.open(tmp_path)
    assert catalog.scan(site).counts.not_dicom == 0, "the table is no image"
    with Catalog.open(site) as opened:
        assert "Dr" not in repr(opened.images())


def test_a_changed_table_builds_the_cache_anew(tmp_path: Path) -> None:
    ct(tmp_path)
    before = loaded(tmp_path, study([24, 128, 128], ["nodule"], "CT"))
    table = tmp_path / "annotations.csv"
    table.write_text("\n".join([*table.read_text().split()[:-1], ""]))
    site = Site.open(tmp_path)
    catalog.scan(site)
    after = load(site, study([24, 128, 128], ["nodule"], "CT"), "another")
    assert sum(map(len, real(after))) == sum(map(len, real(before))) - 1


def test_a_ball_is_where_its_voxels_are_however_the_image_is_turned() -> None:
    """A ball painted into a volume that lies askew in the patient; its box by millimetres and by its voxels."""
    affine = np.array([[0, 0, -2.5, 40], [-1.5, 0, 0, 30], [0, -1.0, 0, 20], [0, 0, 0, 1.0]])
    frames, rows, columns = np.mgrid[:20, :30, :25]
    mm = np.einsum("ij,jfrc->ifrc", affine[:3, :3], np.stack([columns, rows, frames])) + affine[:3, 3, None, None, None]
    centre = (affine @ [12, 14, 9, 1])[:3]
    inside = np.linalg.norm(mm - centre[:, None, None, None], axis=0) < 6
    volume = Volume(inside[:, None].astype(np.float32), affine)
    section = Input(
        size=(30, 30, 30), spacing=(1.0, 1.0, 1.0), orientation="RAS", intensity="window", window=(0.5, 1.0)
    )
    image, grid = recipe(section).gridded(volume)
    left_back = centre * [-1, -1, 1]  # as DICOM counts
    found = boxes_of(volume, grid, [(0.0, *(left_back - 6), *(left_back + 6))], section.size)[0]
    places = np.argwhere(image[0] > 0.5)
    np.testing.assert_allclose(found[:6], [*places.min(axis=0), *(places.max(axis=0) + 1)], atol=1.6)
    assert boxes_of(volume, grid, [(0.0, 500, 0, 0, 510, 10, 10)], section.size)[0, -1] == -1, "it lies elsewhere"
    with pytest.raises(UnfitImage, match="does not say where it lies"):
        boxes_of(Volume(volume.pixels), grid, [(0.0, 0, 0, 0, 1, 1, 1)], section.size)


def test_a_table_of_other_images_is_no_sign_that_these_have_no_finding(tmp_path: Path) -> None:
    ct(tmp_path)
    table = tmp_path / "annotations.csv"
    table.write_text(re.sub(r"(?m)^([0-9.]+),", r"\g<1>.9,", table.read_text()))
    with pytest.raises(DataError, match="no row of the table of findings is of an image that the study takes"):
        from_catalog(Site.open(tmp_path), study([24, 32, 32], ["nodule"], "CT"))


def test_a_row_that_cannot_be_used_is_the_reason_why_its_image_takes_no_part(tmp_path: Path) -> None:
    ct(tmp_path)
    table = tmp_path / "annotations.csv"
    header, first, *others = table.read_text().splitlines()
    cells = first.split(",")
    table.write_text("\n".join([header, ",".join([cells[0], "x", *cells[2:]]), *others]) + "\n")
    cohort = from_catalog(Site.open(tmp_path), study([24, 32, 32], ["nodule"], "CT"))
    assert cohort.left_out == {UNUSABLE_PATIENTS: 1}


def test_a_site_without_a_table_is_told_what_to_do(tmp_path: Path) -> None:
    ct(tmp_path)
    (tmp_path / "site.toml").write_text("[privacy]\nmin_cell = 1\n")
    with pytest.raises(DataError, match=r"looks for nodule.*\[boxes\] in site.toml"):
        from_catalog(Site.open(tmp_path), study([24, 32, 32], ["nodule"], "CT"))


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ('file = "b.csv"', "needs kind"),
        ('file = "none.csv"\nlabel = "a"', "names no file"),
        ('file = "b.csv"\nlabel = "a"\nkind = "k"', "needs kind"),
        ('file = "b.csv"\nlabel = "a"', "needs the columns of centre"),
        ('file = "b.csv"\nlabel = "a"\ncentre = ["x", "y"]\ndiameter = "d"', "needs the columns of centre"),
        ('file = "b.csv"\nlabel = "a"\ncentre = ["x", "y", "x"]\ndiameter = "d"', "names one column twice"),
        ('file = "b.csv"\nlabel = "a"\ncorner = ["x", "y"]\nsize = ["w"]', "needs the columns of centre"),
    ],
)
def test_wrong_settings_are_refused(tmp_path: Path, section: str, says: str) -> None:
    (tmp_path / "b.csv").write_text("x\n")
    (tmp_path / "site.toml").write_text(f"[boxes]\n{section}\n")
    with pytest.raises(SettingsError) as refused:
        Site.open(tmp_path)
    assert says in str(refused.value)


@pytest.mark.parametrize("text", ["", "seriesuid,coordX\n"], ids=["empty", "a column is missing"])
def test_a_table_that_cannot_be_used_is_told_before_the_scan(tmp_path: Path, text: str) -> None:
    ct(tmp_path, patients=1)
    (tmp_path / "annotations.csv").write_text(text)
    with pytest.raises(DataError, match="the table of findings"):
        catalog.scan(Site.open(tmp_path))
