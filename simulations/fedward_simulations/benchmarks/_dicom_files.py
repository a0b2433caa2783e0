"""A tree of small DICOM files, as a hospital exports it: a folder a series, a file a slice."""

from pathlib import Path

import numpy as np
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage

SLICES = 100  # of a series
SIZE = 32  # rows and columns


def write(folder: Path, files: int, *, size: int = SIZE, syntax: UID = ExplicitVRLittleEndian) -> None:
    """Write `files` MR slices of a kilobyte of pixels and the usual header; labels.csv beside them."""
    noise = np.random.default_rng(0).integers(0, 4096, (size, size), np.uint16)
    for number in range(files):
        series, index = divmod(number, SLICES)
        path = folder / f"patient-{series:04}" / f"{index:04}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        dataset = slice_of(series, index, noise)
        if syntax.is_encapsulated:
            dataset.compress(syntax, generate_instance_uid=False)
        dcmwrite(path, dataset, enforce_file_format=True)
    rows = (f"P{series:04},{'malignant' if series % 2 else 'benign'}\n" for series in range(-(-files // SLICES)))
    (folder / "labels.csv").write_text("patient_id,label\n" + "".join(rows))


def slice_of(series: int, index: int, pixels: "np.ndarray[tuple[int, int], np.dtype[np.uint16]]") -> Dataset:
    """One slice with a header of some forty elements."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND"]
    dataset.SOPClassUID = MRImageStorage
    dataset.SOPInstanceUID = f"1.2.826.0.1.3680043.8.498.{series + 1}.{index + 1}"
    dataset.StudyInstanceUID = dataset.SeriesInstanceUID = f"1.2.826.0.1.3680043.8.498.{series + 1}"
    for keyword in ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate"):
        setattr(dataset, keyword, "20190302")
    for keyword in ("StudyTime", "SeriesTime", "AcquisitionTime", "ContentTime"):
        setattr(dataset, keyword, "101112.000000")
    dataset.AccessionNumber, dataset.Modality, dataset.Manufacturer = f"A{series:06}", "MR", "SIEMENS"
    dataset.InstitutionName, dataset.StationName = "General Hospital", "MR1"
    dataset.ReferringPhysicianName, dataset.OperatorsName = "Doe^Jane", "Roe^Richard"
    dataset.StudyDescription, dataset.SeriesDescription, dataset.ProtocolName = "Brain", "t1_mprage_sag", "t1_mprage"
    dataset.ManufacturerModelName, dataset.SoftwareVersions, dataset.DeviceSerialNumber = "Skyra", "VE11", "12345"
    dataset.PatientName, dataset.PatientID = f"Name^{series}", f"P{series:04}"
    dataset.PatientBirthDate, dataset.PatientSex, dataset.PatientAge = "19600101", "F", "059Y"
    dataset.BodyPartExamined, dataset.MagneticFieldStrength = "BRAIN", 3.0
    dataset.EchoTime, dataset.RepetitionTime, dataset.FlipAngle = 2.5, 2300.0, 9.0
    dataset.SliceThickness, dataset.PixelSpacing = 1.0, [1.0, 1.0]
    dataset.SeriesNumber, dataset.AcquisitionNumber, dataset.InstanceNumber = 2, 1, index + 1
    dataset.ImagePositionPatient, dataset.ImageOrientationPatient = [0.0, 0.0, float(index)], [1, 0, 0, 0, 1, 0]
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.PixelData = np.roll(pixels, series * SLICES + index).tobytes()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    return dataset
