"""The few elements of a header that a catalog needs, without looking at the others: what a first scan spends most on.

For files as nearly all are: with meta information, little endian, not deflated, every element as long as it says
(PS3.5 7.1). Of anything else `scan` gives None, and pydicom judges the file.
"""

import struct
from collections.abc import Container, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import BinaryIO

from pydicom.charset import convert_encodings
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.tag import BaseTag
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

_CHUNK, _MOST = 2**14, 2**22  # bytes of a header that are read at once, and at most
_PREFIX, _META = 128, 132  # where DICM stands, and where meta information begins: PS3.10 7.1
_PIXELS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
_ITEM, _ITEM_ENDS, _SEQUENCE_END = 0xFFFEE000, frozenset({0xFFFEE00D}), 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF
_TRANSFER_SYNTAX, _CHARACTER_SET = 0x00020010, BaseTag(0x00080005)
_META_TAGS = {tag: BaseTag(tag) for tag in (0x00020002, _TRANSFER_SYNTAX)}
_NONE: Mapping[int, BaseTag] = {}
_LONG = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
_SHORT = frozenset({b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN", b"SH"})
_SHORT |= {b"SL", b"SS", b"ST", b"TM", b"UI", b"UL", b"US"}
_head = struct.Struct("<HH2sH").unpack_from
_item_head = struct.Struct("<HHI").unpack_from
_length = struct.Struct("<I").unpack_from


Elements = dict[BaseTag, tuple[bytes | None, bytes]]  # VR (None: implicit) and value, as they stand in the file


@dataclass(frozen=True, slots=True)
class Scanned:
    """The wanted elements of a file, in the order of their tags."""

    syntax: UID
    implicit: bool
    meta: Elements
    elements: Elements

    def dataset(self) -> Dataset:
        """All of it for pydicom, which makes values of it when they are asked for."""
        dataset = Dataset(_raw(self.elements, implicit=self.implicit))
        dataset.file_meta = FileMetaDataset(_raw(self.meta, implicit=False))
        charset = self.elements.get(_CHARACTER_SET, (None, b""))[1]
        dataset.set_original_encoding(self.implicit, True, _encodings(charset) if charset else None)
        return dataset


def _raw(found: Elements, *, implicit: bool) -> dict[BaseTag, DataElement | RawDataElement]:
    return {
        tag: RawDataElement(tag, None if vr is None else vr.decode(), len(value), value, 0, implicit, True)
        for tag, (vr, value) in found.items()
    }


class _Unusual(Exception):  # noqa: N818 - it never leaves this module
    """The file is not as nearly all are."""


class _NotMeta:
    """The tags of all groups but that of meta information."""

    def __contains__(self, tag: object) -> bool:
        return isinstance(tag, int) and tag >> 16 != 2


class _Cut(Exception):  # noqa: N818 - it never leaves this module
    """The bytes end within the header."""


def scan(file: BinaryIO, wanted: Mapping[int, BaseTag]) -> Scanned | None:
    """The `wanted` elements up to the pixels, at which the file then stands; None for pydicom to judge.

    It is pydicom's where there are no pixels. Keys and values of `wanted` are the same tags: plain numbers are compared
    far faster.
    """
    size = _CHUNK
    data = file.read(size)
    while True:
        try:
            scanned, at = _scanned(data, wanted)
        except _Unusual:
            return None
        except _Cut:
            if len(data) < size or size >= _MOST:
                return None
            size *= 4
            data += file.read(size - len(data))
            continue
        file.seek(at)
        return scanned


def _scanned(data: bytes, wanted: Mapping[int, BaseTag]) -> tuple[Scanned, int]:
    """The wanted elements, and where the pixels' element begins."""
    if data[_PREFIX:_META] != b"DICM":
        raise _Unusual
    meta: Elements = {}
    at = _elements(data, _META, _META_TAGS, meta, stop=_NotMeta(), implicit=False)
    syntax = _syntax(meta.get(_META_TAGS[_TRANSFER_SYNTAX], (None, b""))[1])
    if not syntax.is_transfer_syntax or syntax in (DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian):
        raise _Unusual
    found: Elements = {}
    implicit = syntax == ImplicitVRLittleEndian
    at = _elements(data, at, wanted, found, stop=_PIXELS, implicit=implicit)
    return Scanned(syntax, implicit, meta, found), at


@lru_cache
def _syntax(value: bytes) -> UID:
    return UID(value.decode("ascii", "replace").rstrip("\0 "))


@lru_cache
def _encodings(value: bytes) -> list[str]:
    """Python's names of the character sets that an element names."""
    return convert_encodings(value.decode("ascii", "replace").rstrip("\0 ").split("\\"))


def _elements(
    data: bytes,
    at: int,
    wanted: Mapping[int, BaseTag],
    found: Elements,
    *,
    stop: Container[int],
    implicit: bool,
) -> int:
    """Put the wanted elements from `at` on into `found`; where the first one of `stop` begins."""
    end = len(data)
    while at + 8 <= end:
        group, element, vr, length = _head(data, at)
        tag = group << 16 | element
        if tag in stop:
            return at
        start = at + 8
        if implicit:
            if vr in _SHORT or vr in _LONG:  # what it says it is, it is not
                raise _Unusual
            vr = None
            (length,) = _length(data, at + 4)
        elif vr in _LONG:
            if at + 12 > end:
                raise _Cut
            (length,) = _length(data, start)
            start += 4
        elif vr not in _SHORT:
            raise _Unusual
        if length == _UNDEFINED:
            if vr != b"SQ" or tag in wanted:
                raise _Unusual
            at = _after_sequence(data, start)
            continue
        at = start + length
        if tag in wanted:
            if at > end:
                raise _Cut
            if vr == b"SQ":
                raise _Unusual
            found[wanted[tag]] = (vr, data[start:at])
    raise _Cut


def _after_sequence(data: bytes, at: int) -> int:
    """Where an explicit sequence of undefined length ends (PS3.5 7.5.2)."""
    while True:
        if at + 8 > len(data):
            raise _Cut
        group, element, length = _item_head(data, at)
        tag, at = group << 16 | element, at + 8
        if tag == _SEQUENCE_END:
            return at
        if tag != _ITEM:
            raise _Unusual
        at = (
            at + length if length != _UNDEFINED else 8 + _elements(data, at, _NONE, {}, stop=_ITEM_ENDS, implicit=False)
        )
