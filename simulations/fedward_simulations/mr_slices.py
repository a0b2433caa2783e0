"""Slices of MR series of invented patients, with the usual header."""

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage


def slice_of(series: int, index: int, pixels: npt.NDArray[np.uint16]) -> Dataset:
    """One slice of 12-bit `pixels` [rows, columns], with a header of some forty elements."""
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
    dataset.PixelData = pixels.tobytes()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    return dataset
