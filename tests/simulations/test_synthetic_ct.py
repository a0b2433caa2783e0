"""Synthetic CT: what is planted is in the voxels where the masks and the table say, through DICOM's geometry."""

import csv
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from pydicom import dcmread

from fedward_client.intake.dicom import read_slices
from fedward_client.intake.segmentation import read_masks
from fedward_client.volume import Volume
from fedward_simulations.synthetic import abdomen, chest

SHAPE = (16, 48, 48)


def slices(folder: Path) -> list[Path]:
    return sorted(folder.glob("0*.dcm"), key=lambda path: float(dcmread(path).ImagePositionPatient[2]))


def places(volume: Volume) -> npt.NDArray[np.float64]:
    """Where each voxel is, in DICOM's mm [3, slices, rows, columns]."""
    assert volume.affine is not None
    frames, _, rows, columns = volume.pixels.shape
    frame, row, column = np.mgrid[:frames, :rows, :columns]
    found = np.einsum("ij,j...->i...", volume.affine, np.stack([column, row, frame, np.ones_like(frame)]))
    return np.asarray(found[:3] * np.array([-1, -1, 1])[:, None, None, None])


@pytest.mark.parametrize("hospital", list(abdomen.SCANNERS))
def test_a_tumour_is_darker_than_its_liver_by_what_was_planted(tmp_path: Path, hospital: str) -> None:
    scanner = abdomen.SCANNERS[hospital]
    abdomen.write(tmp_path, scanner, 1, shape=SHAPE)
    abdomen.write(tmp_path, scanner, 2, shape=SHAPE, strength=0.0)
    differences = []
    for patient in ("P0001", "P0002"):
        paths = slices(tmp_path / patient)
        hounsfield, masks = read_slices(paths).pixels[:, 0], read_masks(tmp_path / patient / "segmentation.dcm", paths)
        liver, tumour = masks["liver"] > 0, masks["tumour"] > 0
        assert list(masks) == list(abdomen.STRUCTURES)
        assert 0.03 < liver.mean() < 0.2
        assert tumour.sum() >= 4
        assert not (tumour & ~liver).any()
        assert np.median(hounsfield[liver]) == pytest.approx(abdomen.LIVER, abs=20)
        differences.append(np.median(hounsfield[liver & ~tumour]) - np.median(hounsfield[tumour]))
    planted, none = differences
    assert planted == pytest.approx(abdomen.DARKER, abs=15)
    assert none == pytest.approx(0, abs=15)


@pytest.mark.parametrize("hospital", list(chest.SCANNERS))
def test_a_nodule_is_where_the_table_says(tmp_path: Path, hospital: str) -> None:
    chest.write(tmp_path, chest.SCANNERS[hospital], 2, shape=SHAPE)
    with (tmp_path / "annotations.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(chest.COLUMNS)
    for patient in ("P0000", "P0001"):
        paths = slices(tmp_path / patient)
        volume = read_slices(paths)
        own = [row for row in rows if row["seriesuid"] == dcmread(paths[0]).SeriesInstanceUID]
        assert own
        for row in own:
            middle = np.array([float(row[f"coord{axis}"]) for axis in "XYZ"])
            away = np.linalg.norm(places(volume) - middle[:, None, None, None], axis=0)
            diameter, hounsfield = float(row["diameter_mm"]), volume.pixels[:, 0]
            assert diameter >= chest.LEAST_MM
            around = hounsfield[(away > diameter * 0.8) & (away < diameter * 1.3)]
            assert hounsfield.ravel()[away.argmin()] > np.median(around) + 300


def test_every_fourth_chest_has_no_nodule_and_strength_0_shows_none(tmp_path: Path) -> None:
    scanner = chest.SCANNERS["north"]
    found = chest.write(tmp_path, scanner, 4, shape=SHAPE, strength=0.0)
    assert dcmread(tmp_path / "P0003" / "0001.dcm").SeriesInstanceUID not in {nodule.series for nodule in found}
    volume = read_slices(slices(tmp_path / "P0000"))
    nodule = found[0]
    away = np.linalg.norm(places(volume) - np.array(nodule.centre)[:, None, None, None], axis=0)
    assert np.median(volume.pixels[:, 0][away < nodule.diameter_mm / 2]) < -700


@pytest.mark.long
def test_makers_differ_and_the_same_patient_is_the_same(tmp_path: Path) -> None:
    headers = []
    for hospital, scanner in abdomen.SCANNERS.items():
        (tmp_path / hospital).mkdir()
        abdomen.write(tmp_path / hospital, scanner, 0, shape=SHAPE)
        headers.append(dcmread(tmp_path / hospital / "P0000" / "0001.dcm"))
        assert (headers[-1].Modality, headers[-1].RescaleIntercept, headers[-1].RescaleSlope) == ("CT", -1024, 1)
    for keyword in ("Manufacturer", "ConvolutionKernel", "SliceThickness", "PixelSpacing", "SeriesInstanceUID"):
        assert len({str(header[keyword].value) for header in headers}) == 3
    before = (tmp_path / "north" / "P0000" / "0001.dcm").read_bytes()
    abdomen.write(tmp_path / "north", abdomen.SCANNERS["north"], 0, shape=SHAPE)
    assert (tmp_path / "north" / "P0000" / "0001.dcm").read_bytes() == before
