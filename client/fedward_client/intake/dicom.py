"""One DICOM file: what its header says (`read_header`), and its pixels (`read_volume`). Nothing else opens DICOM.

Files are judged, never trusted: a header that promises more pixels than the file holds, or more than fit in memory, is
refused before anything is allocated. Identifiers stay in the `Header`, whose repr hides them; no error holds one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.pixels.decoders.base import Decoder, get_decoder
from pydicom.uid import (
    UID,
    JPEG2000TransferSyntaxes,
    JPEGLSTransferSyntaxes,
    JPEGTransferSyntaxes,
    MediaStorageDirectoryStorage,
    SegmentationStorage,
)

from fedward_client.intake import describe, elements, geometry, jpeg12, mosaic, part10, render, siblings, worker
from fedward_client.intake.bounds import MAX_VALUES, opened
from fedward_client.intake.header_scan import Scanned
from fedward_client.intake.quiet import DICOM_ERRORS, quiet
from fedward_client.volume import Pixels, Volume
from fedward_common.errors import UnreadableFile

NotAnImage = Literal["not DICOM", "DICOMDIR", "no pixels", "segmentation"]


# PS3.4 B.5; the second, of label maps, is not pydicom's yet
SEGMENTATIONS = (SegmentationStorage, UID("1.2.840.10008.5.1.4.1.1.66.7"))
_GRAY = ("MONOCHROME1", "MONOCHROME2")
_PALETTE = "PALETTE COLOR"
_COLOR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_FRAMES = elements.tag_of("PerFrameFunctionalGroupsSequence")
_RISKY = frozenset({*JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes, *JPEG2000TransferSyntaxes})
_SAMPLES = {**dict.fromkeys((*_GRAY, _PALETTE), 1), **dict.fromkeys(_COLOR, 3)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """What an image's header says; "" or None for what it does not.

    `transfer_syntax` is the syntax's name, or the format of a file that is not DICOM; `channels` is 1 or 3, as pixels
    are read; `orientation` is of a single frame, both directions to three digits; `turn` sorts the slices of a series
    that lie at one place.
    """

    rows: int
    columns: int
    frames: int
    channels: int
    transfer_syntax: str
    patient_id: str = field(default="", repr=False)
    instance_uid: str = field(default="", repr=False)
    study_uid: str = field(default="", repr=False)
    series_uid: str = field(default="", repr=False)
    accession: str = field(default="", repr=False)
    modality: str = ""
    manufacturer: str = ""
    device: str = ""
    body_part: str = ""
    sequence: str = ""  # kinds of MR sequence, e.g. "FLAIR T2"
    tesla: float | None = None
    sex: str = ""
    age: int | None = None  # years, 90 for more
    month: str = ""  # of the study, "2019-03"
    flags: str = ""  # separated by ", ": see `describe.flags`
    row_mm: float | None = None  # from row to row
    column_mm: float | None = None
    orientation: str = ""
    place_mm: float | None = None  # of a single frame, along its normal
    turn: str = ""


def read_header(path: Path) -> Header | NotAnImage:
    """What a file's header says, or what it is instead of an image. Reads no pixels.

    Raises UnreadableFile, with a reason in words, for an image that cannot be used.
    """
    with quiet(), opened(path) as file:
        return header_of(file)


def header_of(file: BinaryIO) -> Header | NotAnImage:
    """`read_header` of an open file, which stands at its beginning."""
    if not part10.is_dicom(file):
        return "not DICOM"
    scanned = part10.scan(file)
    if scanned is None:
        dataset = part10.by_pydicom(file, pixels=False)
        return "DICOMDIR" if _is_directory(dataset) else _judged(dataset, part10.stored(file, dataset))
    stored = part10.stored_here(file, implicit=scanned.implicit, little=True)
    if stored is None:
        return _judged(part10.dataset_of(scanned), None)
    key = siblings.key_of(scanned, part10.header_tags(), encapsulated=stored.encapsulated)
    if (known := _of_series(key, scanned, stored)) is not None:
        return known
    dataset = part10.dataset_of(scanned)
    header = _judged(dataset, stored)
    if isinstance(header, Header):
        _remember(key, header, dataset)
    return header


def _of_series(key: siblings.Key, scanned: Scanned, stored: part10.Stored) -> Header | None:
    """The header of a slice of whose series another one was read, None where none was."""
    sibling = siblings.find(key)
    if sibling is None or (own := siblings.own_of(scanned, sibling)) is None:
        return None
    _check_stored(stored, sibling.needed)
    return replace(sibling.header, **own)


def _remember(key: siblings.Key, header: Header, dataset: Dataset) -> None:
    """Keep a header for its series, where it is what `read_header` and `decode` both say.

    Of an enhanced object, `decode` alone sees the groups of each frame.
    """
    if header.patient_id and describe.MOSAIC not in header.flags and _FRAMES not in dataset:
        siblings.remember(key, siblings.Sibling(header, describe.planes(dataset, 1)[0], _needed(dataset)))


def _judged(dataset: Dataset, stored: part10.Stored | None) -> Header | NotAnImage:
    if _is_directory(dataset):
        return "DICOMDIR"
    if elements.text(dataset, "SOPClassUID") in SEGMENTATIONS:
        return "segmentation"
    if stored is None:
        return _without_pixels(dataset)
    header = _header(dataset, stored)
    if not header.patient_id:
        raise UnreadableFile("no patient id")
    slices = mosaic.tiles(dataset)
    if slices is None:
        return header
    rows, columns = mosaic.tile_size(header.rows, header.columns, slices)
    return replace(header, rows=rows, columns=columns, frames=slices)


def read_volume(path: Path, *, voi: bool | None = None, stack: bool = False) -> Volume:
    """An image: float32 [frames, channels, rows, columns], channels 1 (gray) or 3 (red, green, blue), and its place.

    Gray goes through the modality LUT or rescale (PS3.3 C.11.1). With `voi` it goes on to what a viewer shows: the
    first VOI LUT or window (C.11.2) gives [0, 1], and MONOCHROME1 is turned so that more is brighter (C.7.6.3.1.2);
    an image without VOI keeps its modality units. Without `voi` it stays in modality units (Hounsfield units for CT),
    whatever its photometric interpretation. None: VOI for all but CT and PT, whose units mean something. Padding
    (C.7.5.1.1.2) takes the image's least value. Palette and YBR become RGB (C.7.6.3.1.2), without rescale or window.

    Frames that say where they lie come in the order of their places where they are one stack; with `stack`, those that
    are none are refused. Compressed pixels are decoded in a worker process (`fedward_client.intake.worker`). Raises
    UnreadableFile with a reason in words.
    """
    with quiet(), opened(path) as file:
        if not (part10.is_dicom(file) and part10.syntax_of(file) in _RISKY):
            file.seek(0)
            return _decode(file, voi=voi, stack=stack)
    return worker.read_volume(path, voi=voi, stack=stack)


def read_slices(paths: Sequence[Path]) -> Volume:
    """Files of a frame each, in order along their normal, as one volume. Raises UnreadableFile where they are none.

    Their windows are each file's own and would tear the volume apart, so it stays in modality units.
    """
    slices = [read_volume(path, voi=False) for path in paths]
    if any(one.affine is None or len(one.pixels) != 1 for one in slices):
        raise UnreadableFile("its slices do not say where they lie")
    if len({one.pixels.shape for one in slices}) > 1:
        raise UnreadableFile("its slices are of different sizes")
    planes = [geometry.plane_of(one.affine) for one in slices if one.affine is not None]
    return Volume(np.concatenate([one.pixels for one in slices]), geometry.affine(planes))


def decode(path: Path, *, voi: bool | None = None, stack: bool = False) -> Volume:
    """`read_volume` in this process, which a damaged compressed file can end."""
    with quiet(), opened(path) as file:
        return _decode(file, voi=voi, stack=stack)


def _decode(file: BinaryIO, *, voi: bool | None, stack: bool) -> Volume:
    if not part10.is_dicom(file):
        raise UnreadableFile("it is not DICOM")
    dataset, header = _whole(file)
    try:
        out = np.empty((header.frames, header.channels, header.rows, header.columns), np.float32)
        render.frames(dataset, _decoded(dataset, header), out, voi=_shows(header) if voi is None else voi)
    except DICOM_ERRORS:
        raise UnreadableFile(f"its pixels ({header.transfer_syntax}) do not decode") from None
    planes = describe.planes(dataset, header.frames)
    whole = mosaic.tiles(dataset) is None
    volume = _placed(out, planes, stack=stack) if whole else mosaic.unfolded(dataset, out)
    return replace(volume, pixel_mm=_pixel_mm(dataset, planes))


def _pixel_mm(dataset: Dataset, planes: Sequence[geometry.Plane | None]) -> tuple[float, float] | None:
    """Millimetres from row to row and from column to column of the middle frame, which a 2-D size takes."""
    middle = planes[len(planes) // 2]
    row_mm, column_mm = describe.spacing(dataset) if middle is None else middle.spacing
    return None if row_mm is None or column_mm is None else (row_mm, column_mm)


def _whole(file: BinaryIO) -> tuple[Dataset, Header]:
    """A data set with its pixels, and its header as it stands: a mosaic is one image."""
    found = part10.image_of(file)
    if found is not None:
        scanned, dataset = found
        stored = part10.stored_in(dataset)
        key = siblings.key_of(scanned, part10.header_tags(), encapsulated=stored.encapsulated)
        header = _of_series(key, scanned, stored)
        if header is None:
            header = _header(dataset, stored)
            _remember(key, header, dataset)
        if describe.MOSAIC not in header.flags:
            return dataset, header
        file.seek(0)
    dataset = part10.parse(file, pixels=True)
    return dataset, _header(dataset, part10.stored_in(dataset))


def _placed(pixels: Pixels, planes: Sequence[geometry.Plane | None], *, stack: bool) -> Volume:
    """Pixels with their affine, frames sorted; as they came where they do not say where they lie, or are no stack."""
    known = [plane for plane in planes if plane is not None]
    if len(known) < len(planes):
        return Volume(pixels)
    order = geometry.in_order(known)
    if order is None:
        if stack:
            raise UnreadableFile("its frames are not one stack of evenly spaced slices")
        return Volume(pixels)
    return Volume(pixels[order] if order != sorted(order) else pixels, geometry.affine([known[i] for i in order]))


def _shows(header: Header) -> bool:
    return header.modality not in ("CT", "PT")


def _is_directory(dataset: Dataset) -> bool:
    kinds = (elements.text(dataset.file_meta, "MediaStorageSOPClassUID"), elements.text(dataset, "SOPClassUID"))
    return MediaStorageDirectoryStorage in kinds


def _without_pixels(dataset: Dataset) -> NotAnImage:
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


def _header(dataset: Dataset, stored: part10.Stored) -> Header:
    """The header of an image, once it is certain that its pixels can be there and can be read."""
    photometric = elements.text(dataset, "PhotometricInterpretation")
    header = Header(
        patient_id=elements.text(dataset, "PatientID"),
        instance_uid=elements.text(dataset, "SOPInstanceUID"),
        modality=elements.code(dataset, "Modality"),
        rows=_positive(dataset, "Rows"),
        columns=_positive(dataset, "Columns"),
        frames=_frames(dataset),
        channels=1 if photometric in _GRAY else 3,
        manufacturer=elements.label(dataset, "Manufacturer"),
        device=elements.label(dataset, "ManufacturerModelName"),
        transfer_syntax=_readable_syntax(part10.syntax(dataset), stored),
        study_uid=elements.text(dataset, "StudyInstanceUID"),
        series_uid=elements.text(dataset, "SeriesInstanceUID"),
        accession=elements.text(dataset, "AccessionNumber"),
        **_described(dataset),
    )
    if photometric not in _SAMPLES:
        raise UnreadableFile("its photometric interpretation is missing or not one that can be read")
    samples = _samples(dataset)
    if samples != _SAMPLES[photometric]:
        raise UnreadableFile(f"{samples} samples per pixel do not go with photometric interpretation {photometric}")
    if header.rows * header.columns * header.frames * header.channels > MAX_VALUES:
        raise UnreadableFile(
            f"{header.frames} frames of {header.rows} x {header.columns} pixels are more than can be read at once"
        )
    _check_stored(stored, _needed(dataset))
    return header


def _described(dataset: Dataset) -> dict[str, Any]:
    """What an image can be found by, beside its modality and device."""
    where = describe.planes(dataset, 1)[0]
    row_mm, column_mm = where.spacing if where is not None else describe.spacing(dataset)
    return {
        "body_part": elements.code(dataset, "BodyPartExamined"),
        "sequence": describe.sequences(dataset),
        "tesla": describe.tesla(dataset),
        "sex": describe.sex(dataset),
        "age": describe.age(dataset),
        "month": describe.month(dataset),
        "flags": describe.flags(dataset),
        "row_mm": row_mm,
        "column_mm": column_mm,
        "orientation": where.orientation if where is not None else "",
        "place_mm": round(where.place_mm, 4) if where is not None else None,
        "turn": describe.turn(dataset),
    }


def _samples(dataset: Dataset) -> int:
    return elements.integer(dataset, "SamplesPerPixel") or 1


def _frames(dataset: Dataset) -> int:
    return max(1, elements.integer(dataset, "NumberOfFrames") or 1)


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


def _needed(dataset: Dataset) -> int | None:
    """How many bytes of pixels there must be; None where they are compressed."""
    if part10.syntax(dataset).is_encapsulated:
        return None
    subsampled = elements.text(dataset, "PhotometricInterpretation") == "YBR_FULL_422"
    samples = _samples(dataset) * (2 / 3 if subsampled else 1)
    pixels = _positive(dataset, "Rows") * _positive(dataset, "Columns") * _frames(dataset)
    return math.ceil(pixels * samples * _positive(dataset, "BitsAllocated") / 8)


def _check_stored(stored: part10.Stored, needed: int | None) -> None:
    if needed is not None and stored.bytes < needed:
        raise UnreadableFile("the pixel data ends early")


def _decoded(dataset: Dataset, header: Header) -> npt.NDArray[Any]:
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
