"""Identifiers in pixels: which images may hold them, and what is blanked (PS3.15 E.3.1, Clean Pixel Data Option).

Ultrasound that says where its regions are (PS3.3 C.8.5.5) keeps these and nothing around them. Inside, and in other
images under suspicion, lines of text are looked for (`fedward_client.deidentify.text`). An image whose header says that
it holds text is not let through when none is found. Faces in volumes of a head are not looked for.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from fedward_client.deidentify.text import Box, find_text
from fedward_client.intake import elements, part10
from fedward_client.intake.dicom import read_volume
from fedward_common.errors import UnreadableFile

Stored = npt.NDArray[np.float32]  # [frames, channels, rows, columns]: integers, exact up to 24 bits

MOST_FRAMES = 16  # of a film that are looked at, evenly spaced; what they show is blanked in all

# Modalities (PS3.3 C.7.3.1.1.1) whose images are what a screen or a camera showed, not what a detector measured.
_SCREENS = frozenset(
    {"BI", "DG", "DOC", "ECG", "EPS", "ES", "GM", "HC", "HD", "IO", "IVUS", "OP", "OPT", "OT", "PX", "RF"}
    | {"SC", "SM", "SMR", "TG", "US", "VF", "XA", "XC"}
)
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"  # and its multi-frame kinds below it
_BARE = (
    "Rows",
    "Columns",
    "NumberOfFrames",
    "SamplesPerPixel",
    "PlanarConfiguration",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelData",
)
_AS_STORED = {"PALETTE COLOR": "MONOCHROME2", "MONOCHROME1": "MONOCHROME2"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What an image's pixels hold: lines of text, and the region outside of which all may be text."""

    stored: Stored
    text: tuple[Box, ...]
    regions: tuple[Box, ...]


def is_suspicious(dataset: Dataset) -> bool:
    """Whether an image may have text in its pixels: its header says so, or it is a picture of a screen or a camera."""
    return (
        _says(dataset, "YES")
        or is_screen(elements.code(dataset, "Modality"))
        or elements.text(dataset, "SOPClassUID").startswith(_SECONDARY_CAPTURE)
        or elements.text(dataset, "ConversionType") != ""
        or "SCREEN SAVE" in elements.text(dataset, "ImageType")
    )


def is_screen(modality: str) -> bool:
    """Whether images of a modality are pictures of a screen or a camera."""
    return modality in _SCREENS


def _says(dataset: Dataset, word: str) -> bool:
    return elements.text(dataset, "BurnedInAnnotation").upper() == word


def look(dataset: Dataset, folder: Path) -> Finding:
    """Decode an image's pixels and look for text. Raises UnreadableFile where they do not decode.

    `folder` is for a passing copy of the pixels, without anything else of the header.
    """
    stored = _stored(dataset, folder)
    regions = _regions(dataset, stored.shape[-2:])
    found = lines(stored)
    if not found and not regions and _says(dataset, "YES"):
        raise UnreadableFile("its header says that text is burned into it, and none was found to blank")
    return Finding(stored=stored, text=tuple(sorted(found)), regions=regions)


def lines(pixels: Stored) -> set[Box]:
    """The lines of text in up to `MOST_FRAMES` of an image's frames."""
    return {box for frame in evenly(len(pixels), MOST_FRAMES) for box in find_text(pixels[frame])}


def evenly(count: int, most: int) -> list[int]:
    """At most so many of 0 to `count` - 1, evenly spaced, both ends among them."""
    return sorted({round(place) for place in np.linspace(0, count - 1, min(count, most))})


def _stored(dataset: Dataset, folder: Path) -> Stored:
    """The values as they are stored, colors as RGB. Decoded where a damaged file can end nothing but a worker."""
    bare = Dataset()
    for keyword in _BARE:
        if keyword in dataset:
            bare[keyword] = dataset[keyword]
    photometric = elements.text(dataset, "PhotometricInterpretation")
    # of a palette its indices, and inverted values, as they are
    bare.PhotometricInterpretation = _AS_STORED.get(photometric, photometric)
    bare.file_meta = FileMetaDataset()
    bare.file_meta.TransferSyntaxUID = part10.syntax(dataset)
    bare.PatientID, bare.Modality, bare.SOPClassUID = "-", "OT", SecondaryCaptureImageStorage
    implicit, little = dataset.original_encoding
    bare.set_original_encoding(implicit, little, dataset.original_character_set)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".pixels-") as passing:
        path = Path(passing) / "pixels"
        bare.save_as(path)
        return read_volume(path, voi=False).pixels


def _regions(dataset: Dataset, shape: tuple[int, ...]) -> tuple[Box, ...]:
    """The regions of an ultrasound image that hold its echoes and curves; none where the header has none that are."""
    boxes = []
    for item in elements.items(dataset, "SequenceOfUltrasoundRegions"):
        left, top, right, bottom = (
            elements.integer(item, f"RegionLocation{corner}") or 0 for corner in ("MinX0", "MinY0", "MaxX1", "MaxY1")
        )
        box = Box(max(0, top), max(0, left), min(shape[0], bottom + 1), min(shape[1], right + 1))
        if box.top < box.bottom and box.left < box.right:
            boxes.append(box)
    return tuple(boxes)


def blank(dataset: Dataset, finding: Finding) -> bool:
    """Fill what is outside of the regions and what is text with the least value, in place, uncompressed.

    For MONOCHROME1 that is the greatest, which is shown as black. False where there is nothing to fill. Raises
    UnreadableFile for pixels that are not of 8 or 16 bits.
    """
    mask = np.full(finding.stored.shape[-2:], bool(finding.regions))
    for box, value in (*((box, False) for box in finding.regions), *((box, True) for box in finding.text)):
        mask[box.top : box.bottom, box.left : box.right] = value
    if not mask.any():
        return False
    dark = finding.stored.max if _is_inverted(dataset) else finding.stored.min
    finding.stored[..., mask] = dark()
    _store(dataset, finding.stored)
    return True


def _is_inverted(dataset: Dataset) -> bool:
    return elements.text(dataset, "PhotometricInterpretation") == "MONOCHROME1"


def _store(dataset: Dataset, pixels: Stored) -> None:
    """Put pixels into a data set, uncompressed, in its byte order; color as RGB by pixel."""
    bits = elements.integer(dataset, "BitsAllocated")
    if bits not in (8, 16):
        raise UnreadableFile("text is burned into it, and its pixels are not of 8 or 16 bits")
    syntax = part10.syntax(dataset)
    if syntax.is_encapsulated:
        syntax = ExplicitVRLittleEndian
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    kind = "i" if elements.integer(dataset, "PixelRepresentation") else "u"
    data = _by_pixel(pixels).astype(f"{order}{kind}{bits // 8}").tobytes()
    if pixels.shape[1] == 3:
        dataset.PhotometricInterpretation, dataset.PlanarConfiguration = "RGB", 0
    for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
        if keyword in dataset:
            del dataset[keyword]
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = data + b"\0" * (len(data) % 2)
    dataset["PixelData"].VR = "OB" if bits == 8 and not syntax.is_implicit_VR else "OW"
    dataset["PixelData"].is_undefined_length = False


def _by_pixel(pixels: Stored) -> npt.NDArray[Any]:
    """[frames, rows, columns] or [frames, rows, columns, 3]."""
    return pixels[:, 0] if pixels.shape[1] == 1 else np.moveaxis(pixels, 1, -1)
