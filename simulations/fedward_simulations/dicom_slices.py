"""What slices of every modality of invented patients have in their headers."""

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian


def slice_of(
    pixels: npt.NDArray[np.uint16], index: int, *, kind: UID, modality: str, uid: str, patient: int
) -> Dataset:
    """Slice `index` of the series `uid`: 12-bit `pixels` [rows, columns] and the elements of any modality."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = kind
    name(dataset, f"{uid}.{index + 1}")
    dataset.StudyInstanceUID = dataset.SeriesInstanceUID = uid
    for keyword in ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate"):
        setattr(dataset, keyword, "20190302")
    for keyword in ("StudyTime", "SeriesTime", "AcquisitionTime", "ContentTime"):
        setattr(dataset, keyword, "101112.000000")
    dataset.AccessionNumber, dataset.Modality = f"A{patient:06}", modality
    dataset.InstitutionName, dataset.StationName = "General Hospital", f"{modality}1"
    dataset.ReferringPhysicianName, dataset.OperatorsName = "Doe^Jane", "Roe^Richard"
    dataset.PatientName, dataset.PatientID = f"Name^{patient}", f"P{patient:04}"
    dataset.PatientBirthDate, dataset.PatientSex, dataset.PatientAge = "19600101", "F", "059Y"
    dataset.SeriesNumber, dataset.AcquisitionNumber, dataset.InstanceNumber = 2, 1, index + 1
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.PixelData = pixels.tobytes()
    return dataset


def name(dataset: Dataset, uid: str) -> None:
    """Give an object its UID, and its file."""
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = UID(uid)
