"""One DICOM file: what its header says (`read_header`), and its pixels (`read_pixels`). Nothing else opens DICOM.

Files are judged, never trusted: a header that promises more pixels than the file holds, or more than fit in memory, is
refused before anything is allocated. Identifiers stay in the `Header`, whose repr hides them; no error holds one.
"""

import math
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileDataset
from pydicom.pixels.decoders.base import Decoder, get_decoder
from pydicom.uid import (
    UID,
    JPEG2000TransferSyntaxes,
    JPEGLSTransferSyntaxes,
    JPEGTransferSyntaxes,
    MediaStorageDirectoryStorage,
)

from fedward_client.intake import elements, jpeg12, part10, render, worker
from fedward_client.intake.quiet import DICOM_ERRORS, quiet
from fedward_common.errors import UnreadableFile

Pixels = npt.NDArray[np.float32]
NotAnImage = Literal["not DICOM", "DICOMDIR", "no pixels"]

MAX_VALUES = 2**29  # pixels times channels times frames: 2 GiB as float32

_GRAY = ("MONOCHROME1", "MONOCHROME2")
_PALETTE = "PALETTE COLOR"
_COLOR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_RISKY = frozenset({*JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes, *JPEG2000TransferSyntaxes})
_SAMPLES = {**dict.fromkeys((*_GRAY, _PALETTE), 1), **dict.fromkeys(_COLOR, 3)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """What an image's header says. `transfer_syntax` is the syntax's name; `channels` is 1 or 3, as pixels are read."""

    patient_id: str = field(repr=False)
    instance_uid: str = field(repr=False)  # "" where there is none
    modality: str
    rows: int
    columns: int
    frames: int
    channels: int
    manufacturer: str
    device: str
    transfer_syntax: str


def read_header(path: Path) -> Header | NotAnImage:
    """What a file's header says, or what it is instead of an image. Reads no pixels.

    Raises UnreadableFile, with a reason in words, for an image that cannot be used.
    """
    with quiet(), part10.opened(path) as file:
        if not part10.is_dicom(file):
            return "not DICOM"
        dataset = part10.parse(file, pixels=False)
        if _is_directory(dataset):
            return "DICOMDIR"
        stored = part10.stored(file, dataset)
        if stored is None:
            return _without_pixels(dataset)
        header = _header(dataset, stored)
        if not header.patient_id:
            raise UnreadableFile("no patient id")
        return header


def read_pixels(path: Path, *, voi: bool | None = None) -> Pixels:
    """The pixels of an image: float32 [frames, channels, rows, columns], channels 1 (gray) or 3 (red, green, blue).

    Gray goes through the modality LUT or rescale (PS3.3 C.11.1). With `voi` it goes on to what a viewer shows: the
    first VOI LUT or window (C.11.2) gives [0, 1], and MONOCHROME1 is turned so that more is brighter (C.7.6.3.1.2);
    an image without VOI keeps its modality units. Without `voi` it stays in modality units (Hounsfield units for CT),
    whatever its photometric interpretation. None: VOI for all but CT and PT, whose units mean something. Padding
    (C.7.5.1.1.2) takes the image's least value. Palette and YBR become RGB (C.7.6.3.1.2), without rescale or window.

    Compressed pixels are decoded in a worker process (`fedward_client.intake.worker`). Raises UnreadableFile with a
    reason in words.
    """
    with quiet(), part10.opened(path) as file:
        risky = part10.is_dicom(file) and part10.syntax(part10.parse(file, pixels=False)) in _RISKY
    return worker.read_pixels(path, voi=voi) if risky else decode(path, voi=voi)


def decode(path: Path, *, voi: bool | None = None) -> Pixels:
    """`read_pixels` in this process, which a damaged compressed file can end."""
    with quiet(), part10.opened(path) as file:
        if not part10.is_dicom(file):
            raise UnreadableFile("it is not DICOM")
        dataset = part10.parse(file, pixels=True)
        header = _header(dataset, part10.stored_in(dataset))
        try:
            out = np.empty((header.frames, header.channels, header.rows, header.columns), np.float32)
            render.frames(dataset, _decoded(dataset, header), out, voi=_shows(header) if voi is None else voi)
        except DICOM_ERRORS:
            raise UnreadableFile(f"its pixels ({header.transfer_syntax}) do not decode") from None
        return out


def _shows(header: Header) -> bool:
    return header.modality not in ("CT", "PT")


def _is_directory(dataset: FileDataset) -> bool:
    kinds = (elements.text(dataset.file_meta, "MediaStorageSOPClassUID"), elements.text(dataset, "SOPClassUID"))
    return MediaStorageDirectoryStorage in kinds


def _without_pixels(dataset: FileDataset) -> NotAnImage:
    """An object without pixels is none of ours; an image without them was cut off."""
    if "Rows" in dataset or "Image Storage" in _known(elements.text(dataset, "SOPClassUID")):
        raise UnreadableFile("the file ends before the pixel data")
    if not elements.text(dataset, "SOPClassUID") and "MediaStorageSOPClassUID" not in dataset.file_meta:
        raise UnreadableFile("its header does not say what it is")
    return "no pixels"


def _known(uid: str) -> str:
    """The standard's name of a UID, "" for one that is not the standard's."""
    name = UID(uid).name
    return name if name != uid else ""


def _header(dataset: FileDataset, stored: part10.Stored) -> Header:
    """The header of an image, once it is certain that its pixels can be there and can be read."""
    photometric = elements.text(dataset, "PhotometricInterpretation")
    header = Header(
        patient_id=elements.text(dataset, "PatientID"),
        instance_uid=elements.text(dataset, "SOPInstanceUID"),
        modality=elements.code(dataset, "Modality"),
        rows=_positive(dataset, "Rows"),
        columns=_positive(dataset, "Columns"),
        frames=max(1, elements.integer(dataset, "NumberOfFrames") or 1),
        channels=1 if photometric in _GRAY else 3,
        manufacturer=elements.label(dataset, "Manufacturer"),
        device=elements.label(dataset, "ManufacturerModelName"),
        transfer_syntax=_readable_syntax(part10.syntax(dataset), stored),
    )
    if photometric not in _SAMPLES:
        raise UnreadableFile("its photometric interpretation is missing or not one that can be read")
    samples = _samples(dataset)
    if samples != _SAMPLES[photometric]:
        raise UnreadableFile(f"{samples} samples per pixel do not go with photometric interpretation {photometric}")
    _check_size(dataset, header, stored, samples=samples * (2 / 3 if photometric == "YBR_FULL_422" else 1))
    return header


def _samples(dataset: Dataset) -> int:
    return elements.integer(dataset, "SamplesPerPixel") or 1


def _positive(dataset: Dataset, keyword: str) -> int:
    found = elements.integer(dataset, keyword)
    if found is None or found < 1:
        raise UnreadableFile(f"no {keyword.lower()}")
    return found


def _readable_syntax(syntax: UID, stored: part10.Stored) -> str:
    """The name of a transfer syntax that there is a decoder for."""
    name = _known(syntax)
    if not name:
        raise UnreadableFile("its transfer syntax is private or unknown")
    try:
        available = _decoder(syntax).is_available
    except NotImplementedError:
        available = False
    if not available:
        raise UnreadableFile(f"transfer syntax {name} is not supported")
    if stored.encapsulated and not syntax.is_encapsulated:
        raise UnreadableFile(f"compressed pixel data although its transfer syntax is {name}")
    return name


def _check_size(dataset: FileDataset, header: Header, stored: part10.Stored, *, samples: float) -> None:
    values = header.rows * header.columns * header.frames * header.channels
    if values > MAX_VALUES:
        raise UnreadableFile(
            f"{header.frames} frames of {header.rows} x {header.columns} pixels are more than can be read at once"
        )
    if part10.syntax(dataset).is_encapsulated:
        return
    allocated = _positive(dataset, "BitsAllocated")
    needed = math.ceil(header.rows * header.columns * header.frames * samples * allocated / 8)
    if stored.bytes < needed:
        raise UnreadableFile("the pixel data ends early")


def _decoded(dataset: FileDataset, header: Header) -> npt.NDArray[Any]:
    """The stored values, [frames, rows, columns] or [frames, rows, columns, 3]; YBR turned to RGB.

    Decoding errors pass through; fewer frames than the header says are one of them.
    """
    samples = (3,) if _samples(dataset) == 3 else ()
    array, _ = _decoder(part10.syntax(dataset)).as_array(dataset, raw=False)
    # where there are more fragments than frames, pydicom gives the rest as frames too
    frames: npt.NDArray[Any] = array.reshape(-1, header.rows, header.columns, *samples)[: header.frames]
    return frames


@lru_cache
def _decoder(syntax: UID) -> Decoder:
    """The decoder of a transfer syntax, with our plug-in where that helps; NotImplementedError for none."""
    decoder = get_decoder(syntax)
    if jpeg12.is_available(syntax) and jpeg12.LABEL not in decoder.available_plugins:
        decoder.add_plugin(jpeg12.LABEL, (jpeg12.__name__, jpeg12.decode_frame.__name__))
    return decoder
