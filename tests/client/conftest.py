"""Real hospitals in small: DICOM files written by pydicom, a label table, a site.toml where asked for."""

import csv
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, UltrasoundImageStorage, generate_uid

Array = npt.NDArray[Any]


def dicom_dataset(*, patient_id: str, array: Array, **tags: Any) -> Dataset:
    """An ultrasound image of `array`: [rows, columns], [frames, rows, columns] or [rows, columns, 3], integers.

    `tags` are DICOM keywords that win over what follows from the array; a value of None removes the element. Besides
    them: `syntax`, the transfer syntax (uncompressed little endian ones and deflated are written as they are).
    """
    syntax = UID(tags.pop("syntax", ExplicitVRLittleEndian))
    color = array.ndim == 3 and array.shape[-1] == 3
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.SOPClassUID = UltrasoundImageStorage
    dataset.SOPInstanceUID = generate_uid(prefix=None)
    dataset.Modality = "US"
    dataset.Manufacturer = "Acme"
    dataset.ManufacturerModelName = "Sono 1"
    dataset.PatientID = patient_id
    dataset.PatientName = f"Name^{patient_id}"
    dataset.Rows, dataset.Columns = array.shape[:2] if color else array.shape[-2:]
    if array.ndim == 3 and not color:
        dataset.NumberOfFrames = array.shape[0]
    dataset.SamplesPerPixel = 3 if color else 1
    dataset.PhotometricInterpretation = "RGB" if color else "MONOCHROME2"
    if color:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = dataset.BitsStored = array.dtype.itemsize * 8
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(array.dtype.kind == "i")
    data = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False)).tobytes()
    dataset.PixelData = data + b"\0" * (len(data) % 2)
    dataset["PixelData"].VR = "OW" if dataset.BitsAllocated > 8 else "OB"
    for keyword, value in tags.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.get("SOPInstanceUID") or generate_uid(prefix=None)
    return dataset


def _write_dicom(path: Path, *, patient_id: str, array: Array, **tags: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    dicom_dataset(patient_id=patient_id, array=array, **tags).save_as(path, enforce_file_format=True)
    return path


def _write_labels(folder: Path, labels: Mapping[str, str], **columns: Mapping[str, str]) -> Path:
    path = folder / "labels.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["patient_id", "label", *columns])
        for patient, label in labels.items():
            writer.writerow([patient, label, *(column.get(patient, "") for column in columns.values())])
    return path


@pytest.fixture
def make_dicom() -> Callable[..., Dataset]:
    """`make_dicom(patient_id=, array=, **tags)`: a data set that was not written yet; see `dicom_dataset`."""
    return dicom_dataset


@pytest.fixture
def write_dicom() -> Callable[..., Path]:
    """`write_dicom(path, patient_id=, array=, **tags)`: one real DICOM file; see `dicom_dataset`."""
    return _write_dicom


@pytest.fixture
def write_labels() -> Callable[..., Path]:
    """`write_labels(folder, {patient: label}, split={patient: word})`: the folder's labels.csv."""
    return _write_labels


@pytest.fixture
def site_folder(tmp_path: Path) -> Callable[..., Path]:
    """`site_folder({patient: label}, ...)`: a new hospital's folder with images and labels.csv.

    `images` a patient of shape `shape`, 8-bit, noise whose mean rises with the label's place among the labels; `name`
    is the folder's; `columns` are further columns of the label table; `settings` is the text of site.toml; `tags` go
    to every file.
    """

    def build(
        labels: Mapping[str, str],
        *,
        images: int = 2,
        shape: tuple[int, ...] = (24, 32),
        name: str = "north",
        columns: Mapping[str, Mapping[str, str]] | None = None,
        settings: str | None = None,
        **tags: Any,
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        ranks = {label: rank for rank, label in enumerate(sorted(set(labels.values())))}
        rng = np.random.default_rng(7)
        for patient, label in labels.items():
            for number in range(images):
                array = rng.integers(0, 100, shape).astype(np.uint8) + np.uint8(100 * ranks[label] // len(ranks))
                _write_dicom(folder / patient / f"image{number}.dcm", patient_id=patient, array=array, **tags)
        _write_labels(folder, labels, **(columns or {}))
        if settings is not None:
            (folder / "site.toml").write_text(settings, "utf-8")
        return folder

    return build


@pytest.fixture
def every_log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Everything that is logged, at the finest level."""
    with caplog.at_level("DEBUG"):
        yield caplog
