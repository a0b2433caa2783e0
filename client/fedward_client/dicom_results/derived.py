"""What every object that a model makes of images has: their patient and study, a series of its own, the model.

New UIDs are the operating system's random numbers (PS3.5 B.2).
"""

import hashlib
import io
from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime
from typing import Self

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.coding import Code
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

from fedward_client.intake import elements
from fedward_client.intake.quiet import DICOM_ERRORS, quiet
from fedward_client.intake.segmentation import MAKER
from fedward_common import __version__
from fedward_common.errors import UnreadableFile
from fedward_common.models.trained import Trained

SCHEME = "99FEDWARD"  # of codes for a study's labels, which no standard has (PS3.16 8.2: "99" is for private ones)
_SERIES_NUMBER = 9001  # far from those of scanners
# Of the patient and study modules (PS3.3 C.7.1.1, C.7.2.1, C.7.2.2) what must be there, if empty, and what may be.
_PRESENT = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyInstanceUID", "StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber"),
)
_OPTIONAL = (
    *("IssuerOfPatientID", "TypeOfPatientID", "PatientAge", "PatientSize", "PatientWeight", "StudyDescription"),
    *("PatientIdentityRemoved", "DeidentificationMethod", "DeidentificationMethodCodeSequence"),
    "LongitudinalTemporalInformationModified",
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


def new_uid() -> UID:
    """A UID that nothing has yet."""
    return generate_uid(prefix=None)


def new_object(image: Dataset, device: Device, *, sop_class: UID, modality: str) -> Dataset:
    """A new object, alone in a new series of the study of `image`. Raises UnreadableFile for one without UIDs."""
    found = _of_patient_and_study(image)
    found.file_meta = FileMetaDataset()
    found.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    found.SOPClassUID = found.file_meta.MediaStorageSOPClassUID = sop_class
    found.SOPInstanceUID = found.file_meta.MediaStorageSOPInstanceUID = new_uid()
    found.SeriesInstanceUID = new_uid()
    found.Modality, found.SeriesDescription = modality, short(f"Research use only: {device.title}")
    found.SeriesNumber, found.InstanceNumber = _SERIES_NUMBER, 1
    now = datetime.now()  # local, as DICOM's times are
    date, time = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    for kind in ("Series", "Content", "InstanceCreation"):
        setattr(found, f"{kind}Date", date)
        setattr(found, f"{kind}Time", time)
    found.Manufacturer, found.ManufacturerModelName = MAKER, short(device.model)
    found.SoftwareVersions, found.DeviceSerialNumber = __version__, device.serial
    return found


def _of_patient_and_study(image: Dataset) -> Dataset:
    """Their elements in UTF-8, for labels come in any script."""
    found = Dataset()
    found.SpecificCharacterSet = "ISO_IR 192"
    with quiet():
        if not all(elements.text(image, name) for name in ("StudyInstanceUID", "SOPInstanceUID", "SOPClassUID")):
            raise UnreadableFile("it lacks the UIDs by which a DICOM object refers to it")
        try:
            for name in (*_PRESENT, *_OPTIONAL):
                if name in image:
                    found[name] = deepcopy(image[name])
                elif name in _PRESENT:
                    setattr(found, name, "")
        except DICOM_ERRORS:
            raise UnreadableFile("its header is damaged") from None
    return found


def short(text: str) -> str:
    """Text as a value of VR LO has it: one, at most 64 characters (PS3.5 6.2)."""
    return " ".join(text.replace("\\", "/").split())[:64].strip()


def own(label: str) -> Code:
    """A code of ours for a label of a study; the same label has the same code everywhere."""
    return Code(hashlib.sha256(label.encode()).hexdigest()[:16], SCHEME, short(label))


def coded(code: Code) -> Dataset:
    """An item of a code sequence (PS3.3 8.8)."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code[:3]
    return item


def reference(image: Dataset) -> Dataset:
    """An item that refers to an instance (PS3.3 10.8)."""
    item = Dataset()
    item.ReferencedSOPClassUID = elements.text(image, "SOPClassUID")
    item.ReferencedSOPInstanceUID = elements.text(image, "SOPInstanceUID")
    return item


def by_series(images: Iterable[Dataset]) -> dict[tuple[str, str], list[Dataset]]:
    """Images by their study's and series' UIDs, in the order in which they come."""
    found: dict[tuple[str, str], list[Dataset]] = {}
    for image in images:
        uids = elements.text(image, "StudyInstanceUID"), elements.text(image, "SeriesInstanceUID")
        found.setdefault(uids, []).append(image)
    return found


def evidence(images: Sequence[Dataset]) -> list[Dataset]:
    """References to images by study and series (PS3.3 C.17.2.1)."""
    studies: dict[str, Dataset] = {}
    for (study, series), members in by_series(images).items():
        item = Dataset()
        item.SeriesInstanceUID, item.ReferencedSOPSequence = series, [reference(image) for image in members]
        if study not in studies:
            studies[study] = Dataset()
            studies[study].StudyInstanceUID, studies[study].ReferencedSeriesSequence = study, []
        studies[study].ReferencedSeriesSequence.append(item)
    return list(studies.values())


def encoded(found: Dataset) -> bytes:
    """The file of an object (PS3.10). Raises UnreadableFile where what the images say of their patient is no DICOM."""
    file = io.BytesIO()
    with quiet():
        try:
            found.save_as(file, enforce_file_format=True)
        except DICOM_ERRORS:
            raise UnreadableFile("what it says of its patient or study cannot be written again") from None
    return file.getvalue()
