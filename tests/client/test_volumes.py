"""From files to volumes: a series of slices, an enhanced object, a mosaic; each as it lies in the patient."""

import sqlite3
import struct
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import generate_uid

from fedward_client import catalog
from fedward_client.catalog import Catalog
from fedward_client.catalog_rows import ImageRow
from fedward_client.choosing import chosen, units
from fedward_client.cohort import CohortItem
from fedward_client.freezing import freeze, from_catalog
from fedward_client.harmonize import recipe
from fedward_client.intake.dicom import Header, read_header, read_slices, read_volume
from fedward_client.opening import Images
from fedward_client.site import Site
from fedward_common.errors import UnreadableFile
from fedward_common.testing import images_of, tiny_study

Write = Callable[..., Path]
BRAIN = np.arange(5 * 6 * 8, dtype=np.int16).reshape(5, 6, 8)
STEP = 4.0


def place(number: float) -> dict[str, Any]:
    """Coronal: rows run to the patient's left, columns down to the feet."""
    return {
        "ImageOrientationPatient": [1, 0, 0, 0, 0, -1],
        "ImagePositionPatient": [-50.0, 10.0 + STEP * number, 70.0],
        "PixelSpacing": [2.0, 1.5],
    }


@pytest.fixture
def series(write_dicom: Write, tmp_path: Path) -> Callable[..., list[Path]]:
    """`series(folder, patient, volume)`: one file a slice, names in no order."""

    def write(folder: Path, patient: str, volume: np.ndarray[Any, Any] = BRAIN, **tags: Any) -> list[Path]:
        uid, study = generate_uid(), generate_uid()
        return [
            write_dicom(
                folder / f"{(number * 7) % 11:02}.dcm",
                patient_id=patient,
                array=image,
                **{
                    "Modality": "MR",
                    "SeriesInstanceUID": uid,
                    "StudyInstanceUID": study,
                    "InstanceNumber": 1,
                    **place(number),
                    **tags,
                },
            )
            for number, image in enumerate(volume)
        ]

    return write


def rows_of(folder: Path) -> list[ImageRow]:
    site = Site.open(folder)
    catalog.scan(site)
    with Catalog.open(site) as opened:
        return opened.images()


def test_slices_become_a_volume_where_they_lie(series: Callable[..., list[Path]], tmp_path: Path) -> None:
    paths = series(tmp_path / "a", "P1")
    volume = read_slices(paths)  # along the normal, which here runs to the back
    np.testing.assert_array_equal(volume.pixels[:, 0], BRAIN)
    assert volume.affine is not None
    assert volume.spacing == pytest.approx((STEP, 2.0, 1.5))
    for frame, row, column in ((0, 0, 0), (4, 5, 7), (2, 3, 1)):
        x, y, z = -50.0 + 1.5 * column, 10.0 + STEP * frame, 70.0 - 2.0 * row
        np.testing.assert_allclose(volume.affine @ [column, row, frame, 1], [-x, -y, z, 1])


def test_a_study_of_volumes_finds_them_in_the_catalog(series: Callable[..., list[Path]], tmp_path: Path) -> None:
    series(tmp_path / "a", "P1")
    series(tmp_path / "b", "P2", BRAIN[:4] * 2)
    study = tiny_study(cohort={"modality": "MR"}, input={"size": [8, 8, 8]})
    left_out: Counter[str] = Counter()
    rows = rows_of(tmp_path)
    found = units(chosen(rows, study.cohort, left_out), images_of(study), study.cohort, left_out)
    assert sorted(len(unit.files) for unit in found) == [4, 5]
    where = catalog.paths(Site.open(tmp_path))
    (whole,) = [unit for unit in found if len(unit.files) == 5]
    np.testing.assert_array_equal(read_slices([where[key] for key in whole.files]).pixels[:, 0], BRAIN)


def test_a_missing_slice_leaves_its_volume_out_with_the_reason(
    series: Callable[..., list[Path]], tmp_path: Path
) -> None:
    series(tmp_path / "a", "P1")[2].unlink()
    study = tiny_study(cohort={"modality": "MR"}, input={"size": [8, 8, 8]})
    left_out: Counter[str] = Counter()
    assert units(chosen(rows_of(tmp_path), study.cohort, left_out), images_of(study), study.cohort, left_out) == []
    assert +left_out == Counter({"slices of volumes with a gap": 4})


@pytest.mark.parametrize("shape", [(8, 6), (8, 6, 1)])
def test_a_nifti_file_of_one_slice_stands_alone(tmp_path: Path, shape: tuple[int, ...]) -> None:
    nibabel.save(nibabel.Nifti1Image(np.ones(shape, np.int16), np.eye(4)), tmp_path / "sub-01_T1w.nii")
    (tmp_path / "site.toml").write_text('[data]\nmodality = "MR"\n')
    study = tiny_study(cohort={"modality": "MR"}, input={"size": [8, 8, 8]})
    left_out: Counter[str] = Counter()
    assert units(rows_of(tmp_path), images_of(study), study.cohort, left_out) == []
    assert +left_out == Counter({"slices that stand alone": 1})


def test_a_run_trains_on_volumes_of_slices(series: Callable[..., list[Path]], tmp_path: Path) -> None:
    from fedward_client.cache import load

    chance = np.random.default_rng(0)
    labels = {f"P{number:02}": "malignant" if number % 2 else "benign" for number in range(24)}
    for patient, label in labels.items():
        series(tmp_path / patient, patient, chance.integers(0, 99, (5, 6, 8), np.int16) + 50 * (label == "malignant"))
    (tmp_path / "labels.csv").write_text(
        "patient_id,label\n" + "".join(f"{patient},{label}\n" for patient, label in labels.items())
    )
    site, study = (
        Site.open(tmp_path),
        tiny_study(
            cohort={"modality": "MR", "min_patients": 5},
            input={"size": [8, 8, 8]},
            split={"shares": [1.0, 0.0, 0.0]},
        ),
    )
    data = load(site, study, "run-1")
    assert data.images.shape == (24, 1, 8, 8, 8)
    assert {len(item.files) for item in freeze(site, study, "run-1").items} == {5}
    assert data.unreadable == data.gone == 0
    changed = next((tmp_path / "P03").glob("*.dcm"))
    changed.write_bytes(changed.read_bytes()[:-1] + b"\1")
    for folder in (site.state / "cache").glob("*-*"):
        (folder / "index.json").unlink()
    again = load(site, study, "run-1")
    assert (again.gone, len(again.images)) == (1, 23), "a volume with a changed slice is not the one that was frozen"


def test_a_volume_that_was_sent_twice_is_taken_once(series: Callable[..., list[Path]], tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    labels = {f"P{number:02}": ("benign", "malignant")[number % 2] for number in range(8)}
    for patient in labels:
        volume = chance.integers(0, 99, (5, 24, 24), np.int16)
        series(tmp_path / patient, patient, volume)
        if patient == "P03":
            series(tmp_path / "again", patient, volume)  # under other UIDs
            series(tmp_path / "shorter", patient, volume[1:4])
    rows = "".join(f"{patient},{label}\n" for patient, label in labels.items())
    (tmp_path / "labels.csv").write_text(f"patient_id,label\n{rows}")
    study = tiny_study(cohort={"modality": "MR"}, input={"size": [8, 8, 8]}, split={"shares": [1.0, 0.0, 0.0]})
    cohort = from_catalog(Site.open(tmp_path), study)
    assert sorted(len(item.files) for item in cohort.items) == [3] + [5] * 8
    assert cohort.left_out == {"copies of another image of the same patient": 1}


# [cohort] ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cohort", "tags", "reason"),
    [
        ({"body_part": "BRAIN"}, {"BodyPartExamined": "KNEE"}, "images of another body part"),
        ({"sequence": ["T2", "FLAIR"]}, {"SeriesDescription": "ax t2 tse"}, "images of another sequence"),
        ({"vendors": ["siemens"]}, {"Manufacturer": "GE MEDICAL SYSTEMS"}, "images of another maker"),
        ({"sex": "F"}, {"PatientSex": "M"}, "images of patients of another sex"),
        ({"age": [50, 90]}, {"PatientAge": "049Y"}, "images of patients of another age"),
        ({"age": [50, 90]}, {}, "images of patients of another age"),
        ({"months": ["2015-01", "2016-12"]}, {"StudyDate": "20170101"}, "images of other months"),
        ({"slices": [6, 9]}, {}, "images with another number of slices"),
        ({}, {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localizers"),
        ({}, {"SeriesDescription": "3-plane localizer"}, "localizers"),
    ],
)
def test_what_a_cohort_does_not_name_is_left_out(
    series: Callable[..., list[Path]], tmp_path: Path, cohort: dict[str, Any], tags: dict[str, Any], reason: str
) -> None:
    series(tmp_path / "a", "P1", **tags)
    study = tiny_study(cohort={"modality": "MR", **cohort}, input={"size": [8, 8, 8]})
    left_out: Counter[str] = Counter()
    assert units(chosen(rows_of(tmp_path), study.cohort, left_out), images_of(study), study.cohort, left_out) == []
    assert list(+left_out) == [reason]


def test_what_a_cohort_names_is_taken(series: Callable[..., list[Path]], tmp_path: Path) -> None:
    series(
        tmp_path / "a",
        "P1",
        BodyPartExamined="BRAIN",
        SeriesDescription="AX T2_FLAIR dark-fluid Dr. Miller",
        Manufacturer="SIEMENS Healthineers",
        PatientSex="F",
        PatientBirthDate="19300101",
        StudyDate="20251201",
    )
    cohort = {
        "modality": "MR",
        "body_part": "BRAIN",
        "sequence": ["T2", "FLAIR"],
        "vendors": ["Siemens"],
        "sex": "F",
        "age": [60, 90],
        "months": ["2025-12", "2025-12"],
        "slices": [5, 5],
    }
    study = tiny_study(cohort=cohort, input={"size": [8, 8, 8]})
    left_out: Counter[str] = Counter()
    rows = rows_of(tmp_path)
    assert len(units(chosen(rows, study.cohort, left_out), images_of(study), study.cohort, left_out)) == 1
    assert {(row.age, row.sex, row.month, row.sequence) for row in rows} == {(90, "F", "2025-12", "FLAIR T2")}
    with closing(sqlite3.connect(tmp_path / ".fedward" / "catalog.sqlite")) as connection:
        held = "\n".join(connection.iterdump())
    assert rows[0].series in held
    for secret in ("Miller", "19300101", "20251201", "P1", rows[0].series.upper()):
        assert secret not in held


# One file that is a volume -------------------------------------------------------------------------------------------


def enhanced(numbers: list[float]) -> dict[str, Any]:
    frames = []
    for number in numbers:
        where, frame = place(number), Dataset()
        frame.PlanePositionSequence = Sequence([Dataset()])
        frame.PlanePositionSequence[0].ImagePositionPatient = where["ImagePositionPatient"]
        frames.append(frame)
    shared, where = Dataset(), place(0)
    shared.PlaneOrientationSequence = Sequence([Dataset()])
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = where["ImageOrientationPatient"]
    shared.PixelMeasuresSequence = Sequence([Dataset()])
    shared.PixelMeasuresSequence[0].PixelSpacing = where["PixelSpacing"]
    return {
        "Modality": "MR",
        "SharedFunctionalGroupsSequence": Sequence([shared]),
        "PerFrameFunctionalGroupsSequence": Sequence(frames),
    }


def test_frames_of_an_enhanced_object_are_sorted(write_dicom: Write, tmp_path: Path, series: Any) -> None:
    order = [3, 0, 4, 1, 2]
    path = write_dicom(tmp_path / "e.dcm", patient_id="P", array=BRAIN[order], **enhanced([float(n) for n in order]))
    volume, expected = read_volume(path), read_slices(series(tmp_path / "s", "P"))
    np.testing.assert_array_equal(volume.pixels, expected.pixels)
    assert volume.affine is not None
    assert expected.affine is not None
    np.testing.assert_allclose(volume.affine, expected.affine)


def test_a_scan_is_one_tensor_as_slices_and_as_one_file(write_dicom: Write, series: Any, tmp_path: Path) -> None:
    widths = [4.0, 9.0, 40.0, 300.0, 2.0]  # of each slice's own window
    for path, width in zip(series(tmp_path / "slices", "P"), widths, strict=True):
        dataset = dcmread(path)
        dataset.WindowCenter, dataset.WindowWidth = 100.0, width
        dataset.save_as(path)
    tags = enhanced([0.0, 1.0, 2.0, 3.0, 4.0])
    for frame, width in zip(tags["PerFrameFunctionalGroupsSequence"], widths, strict=True):
        frame.FrameVOILUTSequence = Sequence([Dataset()])
        frame.FrameVOILUTSequence[0].WindowCenter, frame.FrameVOILUTSequence[0].WindowWidth = 100.0, width
    write_dicom(tmp_path / "one" / "e.dcm", patient_id="P", array=BRAIN, **tags)
    study = tiny_study(cohort={"modality": "MR"}, input={"size": [8, 8, 8]})
    tensors = []
    for folder in (tmp_path / "slices", tmp_path / "one"):
        (unit,) = units(rows_of(folder), images_of(study), study.cohort, Counter())
        item = CohortItem(
            image=unit.key, files=unit.files, patient=unit.patient, label=0, side="train", content=unit.content
        )
        tensors.append(Images(recipe(images_of(study)), catalog.paths(Site.open(folder))).tensor(item))
    slices, one = tensors
    assert slices is not None
    assert one is not None
    np.testing.assert_array_equal(slices, one)


def test_an_enhanced_object_of_two_volumes_is_no_volume(write_dicom: Write, tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "e.dcm", patient_id="P", array=BRAIN[:4], **enhanced([0, 1, 0, 1]))
    assert read_volume(path).affine is None, "a study of single images may still take a frame"
    with pytest.raises(UnreadableFile, match="not one stack"):
        read_volume(path, stack=True)


def csa(normal: tuple[float, float, float]) -> bytes:
    """A CSA header of version 2 with the one element that says which way the slices run."""
    items = [f"{value:.8f}".encode() for value in normal]
    head = b"SV10\4\3\2\1" + struct.pack("<2I", 1, 77)
    tag = struct.pack("<64si4s3i", b"SliceNormalVector", 3, b"FD", 4, 6, 77)
    body = b""
    for item in [*items, b"", b"", b""]:
        body += struct.pack("<4i", len(item), len(item), 77, len(item)) + item + b"\0" * (-len(item) % 4)
    return head + tag + body


@pytest.mark.parametrize("normal", [(0.0, 1.0, 0.0), (0.0, -1.0, 0.0)])
def test_a_mosaic_is_taken_apart(write_dicom: Write, tmp_path: Path, normal: tuple[float, float, float]) -> None:
    tiles = np.zeros((3 * 6, 3 * 8), np.int16)
    for number, image in enumerate(BRAIN):
        row, column = divmod(number, 3)
        tiles[6 * row : 6 * row + 6, 8 * column : 8 * column + 8] = image
    path = tmp_path / "m.dcm"
    where = place(0)
    corner = np.array(where["ImagePositionPatient"]) - [8 * 1.5, 0, -6 * 2.0]  # of a mosaic around the same centre
    write_dicom(
        path,
        patient_id="P",
        array=tiles,
        Modality="MR",
        ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"],
        SpacingBetweenSlices=STEP,
        **{**where, "ImagePositionPatient": corner.tolist()},
    )
    add_private(path, csa(normal))
    header = read_header(path)
    assert isinstance(header, Header)
    assert (header.rows, header.columns, header.frames) == (6, 8, 5)
    volume = read_volume(path)
    forwards = normal[1] > 0
    np.testing.assert_array_equal(volume.pixels[:, 0], BRAIN if forwards else BRAIN[::-1])
    assert volume.affine is not None
    first = np.array([-50.0, 10.0, 70.0]) if forwards else np.array([-50.0, 10.0 - 4 * STEP, 70.0])
    np.testing.assert_allclose(volume.affine[:3, 3] * [-1, -1, 1], first)
    assert volume.spacing == pytest.approx((STEP, 2.0, 1.5))


def add_private(path: Path, header: bytes) -> None:
    dataset = dcmread(path)
    dataset.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0A, "US", len(BRAIN))
    dataset.private_block(0x0029, "SIEMENS CSA HEADER", create=True).add_new(0x10, "OB", header)
    dataset.save_as(path)


def test_a_mosaic_that_does_not_say_how_many_is_left_out_of_volumes(write_dicom: Write, tmp_path: Path) -> None:
    kind = ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]
    write_dicom(tmp_path / "m.dcm", patient_id="P", array=BRAIN[0], Modality="MR", ImageType=kind, **place(0))
    study = tiny_study(cohort={"modality": "MR"}, input={"size": [8, 8, 8]})
    left_out: Counter[str] = Counter()
    assert chosen(rows_of(tmp_path), study.cohort, left_out) == []
    assert list(left_out) == ["mosaics that do not say how many slices they hold"]
