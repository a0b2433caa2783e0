"""Slices of MR series of invented patients, with the usual header."""

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.uid import MRImageStorage

from fedward_simulations import dicom_slices


def slice_of(series: int, index: int, pixels: npt.NDArray[np.uint16]) -> Dataset:
    """One slice of 12-bit `pixels` [rows, columns], with a header of some forty elements."""
    uid = f"1.2.826.0.1.3680043.8.498.{series + 1}"
    dataset = dicom_slices.slice_of(pixels, index, kind=MRImageStorage, modality="MR", uid=uid, patient=series)
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND"]
    dataset.Manufacturer, dataset.ManufacturerModelName = "SIEMENS", "Skyra"
    dataset.StudyDescription, dataset.SeriesDescription, dataset.ProtocolName = "Brain", "t1_mprage_sag", "t1_mprage"
    dataset.SoftwareVersions, dataset.DeviceSerialNumber = "VE11", "12345"
    dataset.BodyPartExamined, dataset.MagneticFieldStrength = "BRAIN", 3.0
    dataset.EchoTime, dataset.RepetitionTime, dataset.FlipAngle = 2.5, 2300.0, 9.0
    dataset.SliceThickness, dataset.PixelSpacing = 1.0, [1.0, 1.0]
    dataset.ImagePositionPatient = [0.0, 0.0, float(index)]
    return dataset
