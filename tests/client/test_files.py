"""NIfTI files and pictures in a hospital's folder: whose they are stands in their names, as site.toml says how."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image

from fedward_client import catalog
from fedward_client.cache import load
from fedward_client.catalog import Catalog
from fedward_client.catalog_counts import Counts
from fedward_client.catalog_rows import ImageRow
from fedward_client.intake.files import read_volume
from fedward_client.site import Site
from fedward_common.errors import SettingsError
from fedward_common.testing import tiny_study

Write = Callable[..., Path]
AFFINE = np.array([[2.0, 0, 0, -10], [0, 3.0, 0, -20], [0, 0, 4.0, 5], [0, 0, 0, 1.0]])


def nifti(path: Path, values: np.ndarray[Any, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values.astype(np.int16), AFFINE), path)


def picture(path: Path, values: np.ndarray[Any, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint8)).save(path)


def scanned(folder: Path) -> tuple[Counts, list[ImageRow]]:
    site = Site.open(folder)
    counts = catalog.scan(site).counts
    with Catalog.open(site) as opened:
        return counts, opened.images()


def test_a_bids_folder_needs_no_settings_but_its_modality(tmp_path: Path) -> None:
    nifti(tmp_path / "sub-01" / "anat" / "sub-01_T1w.nii.gz", np.arange(60).reshape(3, 4, 5))
    (tmp_path / "site.toml").write_text('[data]\nmodality = "MR"\n')
    counts, rows = scanned(tmp_path)
    site = Site.open(tmp_path)
    (row,) = rows
    assert (row.patient, row.modality, row.sequence) == (site.pseudonym("patient", "01"), "MR", "T1")
    assert (row.columns, row.rows, row.frames, row.row_mm, row.column_mm) == (3, 4, 5, 3.0, 2.0)
    assert counts.transfer_syntaxes == {"NIfTI": 1}
    (path,) = catalog.paths(site).values()
    volume = read_volume(path, voi=None, stack=True)
    assert volume.spacing == pytest.approx((4.0, 3.0, 2.0))


def test_pictures_are_a_patients_where_the_site_says_whose(tmp_path: Path) -> None:
    picture(tmp_path / "P7" / "left.png", np.full((6, 8), 9))
    picture(tmp_path / "stray.png", np.full((6, 8), 9))
    counts, rows = scanned(tmp_path)
    assert (counts.not_dicom, rows) == (2, [])
    (tmp_path / "site.toml").write_text("[data]\npatient = '^([^/]+)/'\nmodality = \"US\"\n")
    counts, rows = scanned(tmp_path)
    assert [row.patient for row in rows] == [Site.open(tmp_path).pseudonym("patient", "P7")]
    assert counts.not_dicom == 1, "a picture whose path does not say whose it is is no patient's"


def test_a_nifti_file_that_does_not_say_whose_it_is_is_in_quarantine(tmp_path: Path) -> None:
    nifti(tmp_path / "brain.nii", np.zeros((3, 4, 5)))
    counts, _ = scanned(tmp_path)
    (reason,) = counts.quarantine
    assert reason.endswith("say how it does, with [data] patient in site.toml")


def test_a_run_trains_on_pictures(tmp_path: Path) -> None:
    chance, rows = np.random.default_rng(0), ["patient_id,label"]
    for number in range(24):
        label = "malignant" if number % 2 else "benign"
        picture(tmp_path / f"P{number:02}" / "a.png", chance.integers(0, 100, (12, 12)) + 100 * (number % 2))
        rows.append(f"P{number:02},{label}")
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "site.toml").write_text("[data]\npatient = '^([^/]+)/'\nmodality = \"US\"\n")
    data = load(
        Site.open(tmp_path),
        tiny_study(input={"size": [8, 8]}, cohort={"min_patients": 5}, split={"shares": [1.0, 0.0, 0.0]}),
        "run-1",
    )
    assert data.images.shape == (24, 1, 8, 8)
    assert (data.unreadable, data.gone) == (0, 0)


def test_volumes_in_time_are_no_image(tmp_path: Path) -> None:
    nifti(tmp_path / "sub-01" / "func" / "sub-01_bold.nii", np.zeros((3, 4, 5, 7)))
    counts, _ = scanned(tmp_path)
    assert counts.quarantine == {"it holds 7 volumes in time; an image is one": 1}


@pytest.mark.parametrize(
    ("pattern", "says"), [("^[^/]+/", "has no group"), ("(", "is no regular expression"), ("", "patient")]
)
def test_a_pattern_that_says_nothing_is_refused(tmp_path: Path, pattern: str, says: str) -> None:
    (tmp_path / "site.toml").write_text(f"[data]\npatient = '{pattern}'\n")
    with pytest.raises(SettingsError, match=says):
        Site.open(tmp_path)
