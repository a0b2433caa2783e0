"""One DICOM file in, the bytes of one without identifiers out. Nothing here writes.

What cannot be cleaned is refused with its reason: reports and documents, whose content is text; an image whose pixels
cannot be looked at though they may hold text; an overlay in the unused bits of pixels.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Literal

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filereader import dcmread
from pydicom.uid import MediaStorageDirectoryStorage

from fedward_client.deidentify import burned_in, codes, pseudonyms
from fedward_client.deidentify.attributes import Cleaner
from fedward_client.deidentify.rules import Profile
from fedward_client.intake import elements, part10
from fedward_client.intake.bounds import opened
from fedward_client.intake.quiet import DICOM_ERRORS, quiet
from fedward_client.site import Site
from fedward_common.errors import UnreadableFile

UNDEFINED = 0xFFFFFFFF  # a length: the value ends with a delimiter (PS3.5 7.1)

NotCopied = Literal["not DICOM", "DICOMDIR"]

_PLACE = ("SOPClassUID", "PatientID", "SeriesInstanceUID", "SOPInstanceUID")


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where an instance goes: pseudonyms of its patient, its series and itself."""

    patient: str
    series: str
    instance: str

    @property
    def path(self) -> Path:
        """Relative to the folder that is written."""
        return Path(self.patient, self.series, f"{self.instance}.dcm")


@dataclass(frozen=True, kw_only=True, slots=True)
class Cleaned:
    """A file as it may be written: its bytes, and whether pixels of it were blanked."""

    data: bytes
    blanked: bool


def place_of(site: Site, path: Path) -> Place | NotCopied:
    """Where a file's instance goes, or what the file is instead. Raises UnreadableFile for one that has no place."""
    with _careful():
        with opened(path) as file:
            if not part10.is_dicom(file):
                return "not DICOM"
            part10.parse(file, pixels=False)  # measures what is deflated before anything inflates it
        dataset = dcmread(path, stop_before_pixels=True, force=True, specific_tags=list(_PLACE))
        kind = elements.text(dataset, "SOPClassUID") or elements.text(dataset.file_meta, "MediaStorageSOPClassUID")
        if kind == MediaStorageDirectoryStorage:
            return "DICOMDIR"
        if not kind:
            raise UnreadableFile("its header does not say what it is")
        patient, series, instance = (elements.text(dataset, keyword) for keyword in _PLACE[1:])
        if not patient:
            raise UnreadableFile("no patient id")
        if not instance:
            raise UnreadableFile("no SOP instance UID")
        return Place(
            patient=pseudonyms.patient(site, patient),
            series=site.pseudonym("series", series),
            instance=site.pseudonym("instance", instance),
        )


def cleaned(site: Site, path: Path, profile: Profile) -> Cleaned:
    """A DICOM file without identifiers, in its own transfer syntax where no pixels are blanked.

    Raises UnreadableFile with a reason in words, which hold no identifier.
    """
    with _careful():
        with opened(path) as file:
            dataset = part10.parse(file, pixels=True)
        _refuse(dataset)
        finding = _look(site, dataset, profile)
        blanked = finding is not None and profile.burned_in == "blank" and burned_in.blank(dataset, finding)
        days = pseudonyms.days(site, elements.text(dataset, "PatientID"))
        out = Cleaner(site=site, profile=profile, days=days).clean(dataset)
        _declare(out, profile, finding)
        return Cleaned(data=_written(out, dataset), blanked=blanked)


@contextmanager
def _careful() -> Iterator[None]:
    """Whatever pydicom makes of a damaged file is an UnreadableFile, and none of its texts is passed on."""
    with quiet():
        try:
            yield
        except DICOM_ERRORS:
            raise UnreadableFile("its header is damaged") from None
        except OSError as error:
            raise UnreadableFile(f"the file system refuses it: {error.strerror}") from error


def _refuse(dataset: Dataset) -> None:
    """Raise for what has no form without identifiers, and for what cannot be written again."""
    if not pseudonyms.is_standard(part10.syntax(dataset)):
        raise UnreadableFile("its transfer syntax is private or unknown")
    pixels = dataset.get_item("PixelData")
    if isinstance(pixels, RawDataElement) and pixels.length != UNDEFINED and len(pixels.value or b"") < pixels.length:
        raise UnreadableFile("the pixel data ends early")
    if "ContentSequence" in dataset or "EncapsulatedDocument" in dataset:
        raise UnreadableFile("it is a report or a document, whose text cannot be cleaned")
    for tag in sorted(dataset.keys()):
        # PS3.3 C.9.2 before 2004: an overlay's bits may be those that the pixels do not use
        if tag.group & 0xFF00 == 0x6000 and tag.element == 0x0102 and (tag.group << 16 | 0x3000) not in dataset:
            raise UnreadableFile("an overlay is in the unused bits of its pixels")


def _look(site: Site, dataset: Dataset, profile: Profile) -> burned_in.Finding | None:
    """What an image under suspicion holds; None for others, and where the site keeps what is burned in."""
    if profile.burned_in == "keep" or "PixelData" not in dataset or not burned_in.is_suspicious(dataset):
        return None
    finding = burned_in.look(dataset, site.ensure_state())
    if profile.burned_in == "quarantine" and finding.text:
        raise UnreadableFile("text is burned into it")
    return finding


def _declare(out: Dataset, profile: Profile, finding: burned_in.Finding | None) -> None:
    """Say what was done (PS3.3 C.7.1.1, C.12.1)."""
    methods = [codes.BASIC, codes.SAFE_PRIVATE, *(codes.METHODS[option] for option in sorted(profile.retain))]
    if finding is not None and profile.burned_in == "blank":
        methods.append(codes.CLEAN_PIXELS)
    out.PatientIdentityRemoved = "YES"
    out.DeidentificationMethod = [meaning for _, meaning in methods]
    out.DeidentificationMethodCodeSequence = [_code(*method) for method in methods]
    out.LongitudinalTemporalInformationModified = "MODIFIED" if "dates" in profile.retain else "REMOVED"
    if finding is not None:
        out.BurnedInAnnotation = "NO"


def _code(value: str, meaning: str) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, "DCM", meaning
    return code


def _written(out: Dataset, source: Dataset) -> bytes:
    """The file's bytes: a zeroed preamble, meta information of our own."""
    out.file_meta = FileMetaDataset()
    out.file_meta.TransferSyntaxUID = part10.syntax(source)
    if "SOPClassUID" not in out:
        out.SOPClassUID = elements.text(source.file_meta, "MediaStorageSOPClassUID")
    file = BytesIO()
    out.save_as(file, enforce_file_format=True)
    return file.getvalue()
