"""A DICOM file as bytes (PS3.10, PS3.5): is it one, what data set is in it, and are its pixels all there.

Nothing is allocated on a header's word: lengths are compared with the file, and deflated data are measured before use.
"""

import os
import struct
import zlib
from dataclasses import dataclass
from functools import cache
from typing import Any, BinaryIO

from pydicom import dcmread
from pydicom.datadict import dictionary_has_tag
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag, Tag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from fedward_client.intake import elements, header_scan
from fedward_client.intake.quiet import DICOM_ERRORS
from fedward_common.errors import UnreadableFile

MAX_INFLATED = 2**31  # bytes of a deflated data set

_PREAMBLE = 128
_META = 2**16  # bytes in which meta information names its transfer syntax, at most; it is 200 as a rule
_UNDEFINED = 0xFFFFFFFF
_HEADER = (
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "AccessionNumber"),
    *("StudyDate", "SeriesDate", "AcquisitionDate"),
    *("PatientID", "PatientBirthDate", "PatientSex", "PatientAge"),
    *("Modality", "Manufacturer", "ManufacturerModelName", "BodyPartExamined", "MagneticFieldStrength"),
    *("ImageType", "SeriesDescription", "ProtocolName", "SequenceName", "PulseSequenceName", "BurnedInAnnotation"),
    *("ConversionType", "PixelPaddingValue"),
    *("TemporalPositionIdentifier", "AcquisitionNumber", "EchoTime", "DiffusionBValue", "InstanceNumber"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"),
    *("SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns", "BitsAllocated"),
    "SharedFunctionalGroupsSequence",
    (0x0019, 0x100A),  # see `mosaic`
)
_OF_PIXELS = range(0x00280000, 0x00290000)  # a group
_IMAGE = ("PerFrameFunctionalGroupsSequence", "ExtendedOffsetTable", "ExtendedOffsetTableLengths")
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


@dataclass(frozen=True, slots=True)
class Stored:
    """The pixel data in a file: how many bytes are there, and whether they are encapsulated (compressed)."""

    bytes: int
    encapsulated: bool


def is_dicom(file: BinaryIO) -> bool:
    """Whether a file begins as DICOM does: with the prefix (PS3.10 7.1), or bare, with an element of group 2 or 8."""
    head = file.read(_PREAMBLE + 4)
    file.seek(0)
    if not head:
        raise UnreadableFile("the file is empty")
    return head[_PREAMBLE:] == b"DICM" or _is_element(head[:8])


def _is_element(head: bytes) -> bool:
    """Whether 8 bytes are the head of a group 2 or group 8 element, in any of the three uncompressed encodings."""
    if len(head) < 8:
        return False
    for order in "<>":
        group, element, vr, implicit_length = struct.unpack(f"{order}HH2s2x", head) + struct.unpack("<4xI", head)
        if group in (2, 8) and element < 0x3000 and ((vr.isalpha() and vr.isupper()) or implicit_length < 2**16):
            return True
    return False


def parse(file: BinaryIO, *, pixels: bool) -> Dataset:
    """The data set (without `pixels`, its header), in the transfer syntax that its meta information says or it has."""
    if not pixels and (scanned := scan(file)) is not None:
        return dataset_of(scanned)
    return by_pydicom(file, pixels=pixels)


def image_of(file: BinaryIO) -> tuple[header_scan.Scanned, Dataset] | None:
    """Of a whole file what an image is made of; None where it is not as nearly all are, and for `parse` to read."""
    try:
        scanned = header_scan.scan(file, _image_tags())
        if scanned is None:
            return None
        dataset = scanned.dataset()
        dataset.update(read_dataset(file, is_implicit_VR=scanned.implicit, is_little_endian=True))
    except DICOM_ERRORS:
        raise UnreadableFile("its header is damaged") from None
    return scanned, dataset


def dataset_of(scanned: header_scan.Scanned) -> Dataset:
    """What was scanned, for pydicom."""
    try:
        return scanned.dataset()
    except DICOM_ERRORS:
        raise UnreadableFile("its header is damaged") from None


def scan(file: BinaryIO) -> header_scan.Scanned | None:
    """The header where it is as nearly all are, None where it is `by_pydicom`'s to read."""
    try:
        return header_scan.scan(file, header_tags())
    except DICOM_ERRORS:
        raise UnreadableFile("its header is damaged") from None


def by_pydicom(file: BinaryIO, *, pixels: bool) -> Dataset:
    """`parse`, whatever the header is like."""
    try:
        file.seek(0)
        deflated = _inflates(file)
        file.seek(0)
        wanted: list[Any] | None = None if pixels else [*_HEADER, *(_PIXELS if deflated else ())]
        dataset = dcmread(file, stop_before_pixels=not (pixels or deflated), force=True, specific_tags=wanted)
        if "TransferSyntaxUID" not in dataset.file_meta:
            dataset.file_meta.TransferSyntaxUID = _syntax_found(dataset)
    except DICOM_ERRORS:
        raise UnreadableFile("its header is damaged") from None
    return dataset


@cache
def header_tags() -> dict[int, BaseTag]:
    """What a header is made of, and the character set of its text."""
    names = (*_HEADER, "SpecificCharacterSet")
    tags = [Tag(name) if isinstance(name, tuple) else elements.tag_of(name) for name in names]
    return {int(tag): tag for tag in tags}


@cache
def _image_tags() -> dict[int, BaseTag]:
    """Of the header, of all that PS3.3 has of pixels and their lookup tables, and of where frames lie."""
    tags = [BaseTag(tag) for tag in _OF_PIXELS if dictionary_has_tag(tag)]
    tags += [elements.tag_of(name) for name in _IMAGE]
    return {**{int(tag): tag for tag in tags}, **header_tags()}


def _syntax_found(dataset: Dataset) -> UID:
    implicit, little = dataset.original_encoding
    if implicit:
        return ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if little else ExplicitVRBigEndian


def _inflates(file: BinaryIO) -> bool:
    """Whether the data set is deflated. A kilobyte can inflate to a megabyte, so it is measured, in constant memory."""
    head = file.read(_META)
    if head[_PREAMBLE : _PREAMBLE + 4] != b"DICM" or DeflatedExplicitVRLittleEndian.encode() not in head:
        return False
    file.seek(_PREAMBLE + 4)
    meta = read_dataset(file, is_implicit_VR=False, is_little_endian=True, stop_when=lambda tag, *_: tag.group != 2)
    if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return False
    inflater, inflated = zlib.decompressobj(-zlib.MAX_WBITS), 0
    while chunk := inflater.unconsumed_tail or file.read(2**16):
        inflated += len(inflater.decompress(chunk, 2**20))
        if inflated > MAX_INFLATED:
            raise UnreadableFile(f"it inflates to more than {MAX_INFLATED} bytes")
    return True


def stored(file: BinaryIO, dataset: Dataset) -> Stored | None:
    """The pixel data at which header reading stopped, None where it came to the end of the file."""
    if syntax(dataset) == DeflatedExplicitVRLittleEndian:
        return stored_in(dataset) if any(keyword in dataset for keyword in _PIXELS) else None
    implicit, little = dataset.original_encoding
    return stored_here(file, implicit=bool(implicit), little=bool(little))


def stored_here(file: BinaryIO, *, implicit: bool, little: bool) -> Stored | None:
    """The pixel data whose element begins where the file stands, None at its end."""
    order = "<" if little else ">"
    head = file.read(8)
    if len(head) < 8:
        return None
    length: int
    if implicit or not head[4:6].isalpha():
        (length,) = struct.unpack(f"{order}4xI", head)
    elif head[4:6] in (b"OB", b"OW", b"OF", b"OD", b"UN"):
        (length,) = struct.unpack(f"{order}I", file.read(4).ljust(4, b"\0"))
    else:
        (length,) = struct.unpack(f"{order}6xH", head)
    start = file.tell()
    there = os.fstat(file.fileno()).st_size - start
    if length != _UNDEFINED:
        return Stored(min(length, there), encapsulated=False)
    _check_fragments(file, start, there)
    return Stored(there, encapsulated=True)


def _check_fragments(file: BinaryIO, start: int, there: int) -> None:
    """Walk the fragments (PS3.5 A.4) from head to head, up to the delimiter or what the decoder has to judge."""
    at = 0
    while at + 8 <= there:
        file.seek(start + at)
        group, element, length = struct.unpack("<HHI", file.read(8))
        if (group, element) != (0xFFFE, 0xE000):
            return
        at += 8 + length
    raise UnreadableFile("the pixel data ends early")


def stored_in(dataset: Dataset) -> Stored:
    """The pixel data of a data set in memory."""
    for keyword in _PIXELS:
        if keyword in dataset:
            try:
                element = dataset[keyword]
            except DICOM_ERRORS:
                raise elements.unreadable(keyword) from None
            length = len(element.value) if isinstance(element.value, bytes) else 0
            return Stored(length, encapsulated=element.is_undefined_length)
    raise UnreadableFile("it holds no pixel data")


def syntax_of(file: BinaryIO) -> UID:
    """The transfer syntax's UID of an open file, which stands at its beginning."""
    scanned = scan(file)
    return syntax(by_pydicom(file, pixels=False)) if scanned is None else scanned.syntax


def syntax(dataset: Dataset) -> UID:
    """The transfer syntax's UID."""
    return UID(elements.text(dataset.file_meta, "TransferSyntaxUID"))
