"""What every object that a model makes of images has: their patient and study, a series of its own, the model.

highdicom encodes the objects. It refuses headers that are not as the standard says (no accession number, a sex beside
M, F and O, a birth date with dots), and hospitals have those: so it is given headers that were made of theirs, and what
the images say of their patient and study is copied as it stands. New UIDs are random numbers of the operating system.
"""

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from highdicom import UID
from highdicom.base import SOPClass
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from fedward_client.intake import elements
from fedward_client.intake.quiet import DICOM_ERRORS, quiet
from fedward_client.intake.segmentation import MAKER
from fedward_common import __version__
from fedward_common.errors import UnreadableFile
from fedward_common.models.trained import Trained

SCHEME = "99FEDWARD"  # of codes for a study's labels, which no standard has (PS3.16 8.2: "99" is for private ones)
_SERIES_NUMBER = 9001  # far from those of scanners
_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
_EMPTY = (  # what highdicom looks for, and what stays empty where an image lacks it (PS3.3 C.7.1.1, C.7.2.1: type 2)
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex"),
    *("AccessionNumber", "StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName"),
)
_COPIED = (
    *("Rows", "Columns", "FrameOfReferenceUID", "PositionReferenceIndicator"),
    *("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """What made an object: for DICOM a model is a device."""

    title: str  # of the study that it was trained in
    model: str  # the network's name
    serial: str  # the SHA-256 of its arrays (hex)

    @classmethod
    def of(cls, about: Trained) -> Self:
        """A trained model."""
        study = about.study
        return cls(title=study.study.title or study.study.id, model=study.model.name, serial=about.model_sha256)


def new_series(device: Device) -> dict[str, Any]:
    """What highdicom asks of an object alone in a new series; its text in UTF-8, for labels come in any script."""
    now = datetime.now()  # local, as DICOM's times are
    return {
        "series_instance_uid": UID(),
        "series_number": _SERIES_NUMBER,
        "series_description": short(f"Research use only: {device.title}"),
        "series_date": now.date(),
        "series_time": now.time(),
        "sop_instance_uid": UID(),
        "instance_number": 1,
        "manufacturer": MAKER,
        "manufacturer_model_name": short(device.model),
        "software_versions": __version__,
        "device_serial_number": device.serial,
        "specific_character_set": "ISO_IR 192",
    }


def header(image: Dataset) -> Dataset:
    """An image for highdicom, without its patient. Raises UnreadableFile for one without UIDs."""
    found = Dataset()
    for name in _UIDS:
        if not (uid := elements.text(image, name)):
            raise UnreadableFile("it lacks the UIDs by which a DICOM object refers to it")
        setattr(found, name, uid)
    for name in _EMPTY:
        setattr(found, name, None)
    for name in _COPIED:
        if name in image:
            found[name] = image[name]
    return found


@contextmanager
def encoding() -> Iterator[None]:
    """Inside, pydicom is quiet; what it or highdicom cannot make of an image is an UnreadableFile without values."""
    with quiet():
        try:
            yield
        except (OSError, *DICOM_ERRORS):  # pydicom's of a sequence that ends early; nothing is read from a disk here
            raise UnreadableFile(
                "its header is damaged, or of a class of images that the DICOM standard does not have"
            ) from None


def encoded(found: SOPClass) -> bytes:
    """The file of an object (PS3.10). Raises UnreadableFile where what the images say of their patient is no DICOM."""
    file = io.BytesIO()
    with encoding():
        found.save_as(file, enforce_file_format=True)
    return file.getvalue()


def short(text: str) -> str:
    """Text as a value of VR LO has it: one, at most 64 characters (PS3.5 6.2)."""
    return " ".join(text.replace("\\", "/").split())[:64].strip()


def own(label: str) -> Code:
    """A code of ours for a label of a study; the same label has the same code everywhere."""
    return Code(hashlib.sha256(label.encode()).hexdigest()[:16], SCHEME, short(label))
