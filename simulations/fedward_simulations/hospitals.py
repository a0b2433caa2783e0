"""Three invented hospitals on disk, as a PACS would have exported them: real DICOM, full of planted identifiers.

Every patient, name and number is invented; the images are public (see data/busi_128). The exports differ the way real
ones do: folders, character sets, scanners, pixel encodings, transfer syntaxes, columns of the label table (all of it in
data/hospitals.toml), and each has a few faults. What was planted is returned, so that a test can ask of any output
whether an identifier got into it, and of any report whether each fault was counted.

The same call writes the same bytes. Nothing here is taken from a real patient or a real hospital.
"""

import csv
import hashlib
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO, StringIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    UltrasoundImageStorage,
)

from fedward_common.errors import UsageError
from fedward_common.streams import stream
from fedward_simulations import busi
from fedward_simulations.partition import SEED
from fedward_simulations.people import Person
from fedward_simulations.plans import EXPORT, Plan, Shot, Style, make_plans, make_uid, styles

Progress = Callable[[int, int], None]
Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]

_ENCODERS = {RLELossless: "pydicom", JPEG2000Lossless: "pylibjpeg", JPEGLSLossless: "pyjpegls"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Faults:
    """What is wrong with a hospital's export, beside its good patients."""

    truncated: int = 1  # image files whose transfer broke off; unreadable in their header or in their pixels
    texts: int = 1  # files in the export that are no DICOM
    labels_without_images: int = 1  # patients in the label table only
    patients_without_label: int = 1  # patients in the export only
    images_without_label: int = 1  # their images


@dataclass(frozen=True, kw_only=True, slots=True)
class PlantedHospital:
    """One hospital on disk and what a correct reader finds there."""

    name: str
    folder: Path
    patients: int  # with a label and at least one readable image
    images: int  # readable, of those patients
    positives: int  # of those patients, the malignant ones
    identifiers: frozenset[str]  # everything that must never leave: names, numbers, dates of birth, UIDs, folder names
    faults: Faults


def identifiers_in(data: bytes, identifiers: Iterable[str]) -> set[str]:
    """Which identifiers a file holds, in either of the encodings that hospitals use.

    Those of digits count as whole words: long numbers hold short ones by chance.
    """
    forms = {one: _forms(one) for one in identifiers}
    every = [form for each in forms.values() for form in each]
    letters = re.escape(bytes({*b"".join(every), *_OF_WORDS}))
    text = b"\n".join(re.findall(rb"[%b]{%d,}" % (letters, min(map(len, every), default=1)), data))  # few of weights
    return {one for one, own in forms.items() if any(_holds(text, form) for form in own)}


_OF_WORDS = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz.^-"


def _forms(identifier: str) -> set[bytes]:
    with suppress(UnicodeEncodeError):
        return {identifier.encode(), identifier.encode("latin-1")}
    return {identifier.encode()}


def _holds(data: bytes, form: bytes) -> bool:
    if form not in data:
        return False
    if not form[:1].isdigit():
        return True
    inside = rb"[0-9A-Za-z.^-]"
    return re.search(rb"(?<!%b)[.-]*%b[.-]*(?!%b)" % (inside, re.escape(form), inside), data) is not None


def plant(folder: Path, *, limit: int | None = None, progress: Progress | None = None) -> list[PlantedHospital]:
    """Write the hospitals north, harbour and valley under `folder` and say what was planted.

    `limit` plants at most so many good patients a hospital, of both labels (so 2 at least). `progress` is told how many
    images of how many are written. Raises UsageError where one of the hospitals' folders exists already.
    """
    if limit is not None and limit < 2:
        raise UsageError(f"a limit of {limit} patients cannot hold both labels; give 2 or more")
    if any((folder / style.name).exists() for style in styles()):
        raise UsageError("a planted hospital stands here already; give an empty folder, or remove what is there")
    plans = make_plans(folder, limit)
    files = [(plan.style, shot) for plan in plans for shot in plan.shots]
    for done, (style, shot) in enumerate(files, start=1):
        _write_bytes(shot.path, _image_file(style, shot))
        if progress is not None:
            progress(done, len(files))
    return [_finish(plan) for plan in plans]


def _image_file(style: Style, shot: Shot) -> bytes:
    """The bytes of one DICOM file: Ultrasound Image Storage (PS3.3 A.6)."""
    dataset = Dataset()
    dataset.SpecificCharacterSet = style.charset
    _add_patient(dataset, shot.person)
    _add_study(dataset, style, shot)
    _add_equipment(dataset, style)
    _add_image(dataset, style)
    dataset.file_meta = _file_meta(shot)
    _set_pixels(dataset, _pixels(style, shot), UID(shot.syntax))
    file = BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def _file_meta(shot: Shot) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UltrasoundImageStorage
    meta.MediaStorageSOPInstanceUID = UID(shot.uid)
    meta.TransferSyntaxUID = UID(shot.syntax)
    meta.ImplementationClassUID = UID(make_uid("implementation"))  # else pydicom writes its own version
    meta.ImplementationVersionName = "INVENTED_PACS"
    return meta


def _add_patient(dataset: Dataset, person: Person) -> None:
    dataset.PatientName = person.dicom_name
    dataset.PatientID = person.patient_id
    dataset.PatientBirthDate = f"{person.birth:%Y%m%d}"
    dataset.PatientSex = "F"
    dataset.PatientAge = f"{(person.examined - person.birth).days // 365:03d}Y"
    dataset.PatientTelephoneNumbers = person.phone
    dataset.PatientComments = f"Please call {person.written_name} on {person.phone}"
    private = dataset.private_block(0x0009, "INVENTED PACS 1.0", create=True)
    private.add_new(0x01, "LO", person.written_name)  # vendors copy names into private elements


def _add_study(dataset: Dataset, style: Style, shot: Shot) -> None:
    person = shot.person
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SOPInstanceUID = shot.study, shot.series, shot.uid
    dataset.SOPClassUID = UltrasoundImageStorage
    dataset.StudyDate = dataset.SeriesDate = dataset.ContentDate = f"{person.examined:%Y%m%d}"
    dataset.StudyTime = dataset.SeriesTime = dataset.ContentTime = person.clock
    dataset.StudyID, dataset.SeriesNumber, dataset.InstanceNumber = "1", 1, shot.number
    dataset.AccessionNumber = person.accession
    dataset.ReferringPhysicianName = style.physicians[person.birth.day % len(style.physicians)]
    dataset.StudyDescription = "Breast ultrasound"
    dataset.Modality = "US"


def _add_equipment(dataset: Dataset, style: Style) -> None:
    dataset.Manufacturer = style.scanner.manufacturer
    dataset.ManufacturerModelName = style.scanner.model
    dataset.DeviceSerialNumber = f"{style.name.upper()}-0001"
    dataset.InstitutionName = style.institution


def _add_image(dataset: Dataset, style: Style) -> None:
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "BREAST", "0001"]
    dataset.BodyPartExamined = "BREAST"
    dataset.PatientOrientation = ""
    dataset.BurnedInAnnotation = "NO"
    dataset.LossyImageCompression = "00"
    dataset.UltrasoundColorDataPresent = 0
    if style.window is not None:
        dataset.WindowCenter, dataset.WindowWidth = style.window
    dataset.Rows = dataset.Columns = style.scanner.size
    dataset.SamplesPerPixel = 3 if style.pixels == "rgb" else 1
    dataset.PhotometricInterpretation = "RGB" if style.pixels == "rgb" else "MONOCHROME2"
    if style.pixels == "rgb":
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated, dataset.BitsStored = (16, 12) if style.pixels == "12-bit" else (8, 8)
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = 0


def _pixels(style: Style, shot: Shot) -> Pixels:
    """What the hospital's scanner stored: [rows, columns] or, for RGB, [rows, columns, 3]."""
    random = stream(SEED, "scanner", style.name, shot.source)
    shown = style.scanner.show(busi.read_image(shot.source), random)
    if style.pixels == "12-bit":  # more than PS3.3 C.8.5.6.1 foresees for ultrasound; some exporters do it all the same
        return np.rint(shown * 4095).astype("<u2")
    grey = np.rint(shown * 255).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2) if style.pixels == "rgb" else grey


def _set_pixels(dataset: Dataset, pixels: Pixels, syntax: UID) -> None:
    if syntax.is_encapsulated:
        # named, so that another encoder that happens to be installed does not change the bytes
        dataset.compress(syntax, pixels, encoding_plugin=_ENCODERS[syntax], generate_instance_uid=False)
    else:
        dataset.PixelData = pixels.tobytes()
        dataset["PixelData"].VR = "OW" if pixels.itemsize == 2 or syntax.is_implicit_VR else "OB"


def _finish(plan: Plan) -> PlantedHospital:
    """Write what is not an image: faults, label table, settings, key."""
    style, folder = plan.style, plan.folder
    whole = _image_file(style, plan.broken)
    _write_bytes(plan.broken.path, whole[: int(len(whole) * style.broken_at)])
    note = f"{plan.unlabelled.written_name} ({plan.unlabelled.phone}): result not in yet\n"
    _write_bytes(folder / EXPORT / "notes.txt", note.encode())
    _write_bytes(folder / "labels.csv", _label_table(plan).encode())
    _write_bytes(folder / "site.toml", _settings(style).encode())
    _write_key(folder, style.name)
    good = [shot for shot in plan.shots if shot.person != plan.unlabelled]
    return PlantedHospital(
        name=style.name,
        folder=folder,
        patients=len(plan.labels),
        images=len(good),
        positives=sum(label == "malignant" for label in plan.labels.values()),
        identifiers=plan.identifiers,
        faults=Faults(images_without_label=len(plan.shots) - len(good)),
    )


def _label_table(plan: Plan) -> str:
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(plan.style.columns)
    labels = {**plan.labels, plan.ghost: "benign"}
    for person in sorted(labels, key=lambda person: person.patient_id):
        writer.writerow((person.patient_id, labels[person], person.written_name, person.birth.isoformat()))
    return text.getvalue()


def _settings(style: Style) -> str:
    patient, label, _, _ = style.columns
    return (
        f'[site]\nname = "{style.name}"\n\n[data]\nfolder = "{EXPORT}"\n\n'
        f'[labels]\nfile = "labels.csv"\npatient = "{patient}"\nlabel = "{label}"\n\n'
        '[policy]\noutputs = ["counts", "statistics", "update", "evaluation"]\n\n'
        "[limits]\nthreads = 1\n"  # the same bits on every engine
    )


def _write_key(folder: Path, name: str) -> None:
    """The site's key, derived from its name so that the demo's splits are the same everywhere.

    This protects no secret: the patients are invented, the images are public. A real site draws its key from the
    operating system.
    """
    state = folder / ".fedward"
    state.mkdir(mode=0o700)
    path = state / "site.key"
    path.touch(mode=0o600)
    path.write_bytes(hashlib.sha256(f"planted site key of {name}".encode()).digest())


def _write_bytes(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def write_plain(path: Path, pixels: npt.NDArray[np.uint8], *, patient: str) -> None:
    """Write a grey image [rows, columns] as a plain DICOM file of an invented patient, with what it must have."""
    dataset = Dataset()
    dataset.PatientName, dataset.PatientID, dataset.Modality = f"Invented^{patient}", patient, "US"
    dataset.SOPClassUID = UltrasoundImageStorage
    dataset.SOPInstanceUID, dataset.SeriesInstanceUID, dataset.StudyInstanceUID = (
        make_uid(f"{what} of {patient}") for what in ("image", "series", "study")
    )
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PixelRepresentation = 1, "MONOCHROME2", 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = UltrasoundImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = UID(dataset.SOPInstanceUID)
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    _set_pixels(dataset, pixels, ExplicitVRLittleEndian)
    dataset.save_as(path, enforce_file_format=True)
