"""Values of a DICOM data set as plain types, or `UnreadableFile` with the attribute's name and never its value."""

import math
import re
import struct
from collections.abc import Iterable
from functools import cache
from typing import Any

from pydicom.datadict import dictionary_description, dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag

from fedward_client.intake.bounds import one_line
from fedward_client.intake.quiet import DICOM_ERRORS
from fedward_common.errors import UnreadableFile

_PADDING = "\0 \t\r\n"
_NUMBERS = {"DS": "", "IS": "", "US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d"}  # struct's codes


def value(dataset: Dataset, keyword: str) -> object:
    """The value of an attribute, None where it is not there or empty."""
    if tag_of(keyword) not in dataset._dict:
        return None
    try:
        found = dataset.get(keyword)
    except (OSError, *DICOM_ERRORS):  # pydicom's OSError for a sequence that ends early; it is read from memory
        raise unreadable(keyword) from None
    return None if found is None or (isinstance(found, str | bytes | MultiValue) and not len(found)) else found


def unreadable(keyword: str) -> UnreadableFile:
    """The error for an attribute whose value is not what the standard says."""
    return UnreadableFile(f"its attribute {dictionary_description(keyword)} cannot be read")


def text(dataset: Dataset, keyword: str) -> str:
    """The value of an attribute as text without white space or padding around it, "" where there is none."""
    raw = _raw(dataset, keyword)
    if raw is not None and (data := bytes(raw.value or b"")).isascii():
        if b"\\" not in data:
            return data.decode("ascii").strip(_PADDING)
        return "\\".join(part.strip(_PADDING) for part in data.decode("ascii").split("\\")).strip(_PADDING)
    found = value(dataset, keyword)
    try:
        parts = [str(part) for part in found] if isinstance(found, MultiValue) else [str(found or "")]
    except DICOM_ERRORS:
        raise unreadable(keyword) from None
    return "\\".join(part.strip(_PADDING) for part in parts).strip(_PADDING)


def _raw(dataset: Dataset, keyword: str) -> RawDataElement | None:
    """An attribute as it stands in the file, where pydicom has not made an element of it yet.

    To make one of each takes several times what reading the file does, and a scan looks at forty a file.
    """
    found = dataset._dict.get(tag_of(keyword))  # `get_item` takes longer than to make a text of what it gives
    return found if isinstance(found, RawDataElement) and isinstance(found.value, bytes) else None


@cache
def tag_of(keyword: str) -> BaseTag:
    """The tag of an attribute of the standard."""
    tag = tag_for_keyword(keyword)
    assert tag is not None
    return BaseTag(tag)


@cache
def vr_of(keyword: str) -> str:
    """The VR of an attribute of the standard."""
    return dictionary_VR(tag_of(keyword))


def label(dataset: Dataset, keyword: str) -> str:
    """Text for a table of makers and devices: one line, at most 64 characters."""
    return one_line(text(dataset, keyword))


def code(dataset: Dataset, keyword: str) -> str:
    """A code string (VR CS), "" unless it is one."""
    found = text(dataset, keyword)
    return found if re.fullmatch(r"[A-Z0-9_ ]{1,16}", found) else ""


def integer(dataset: Dataset, keyword: str) -> int | None:
    """A whole number, None where there is none."""
    found = number(dataset, keyword)
    if found is None:
        return None
    if found != int(found):
        raise unreadable(keyword)
    return int(found)


def number(dataset: Dataset, keyword: str) -> float | None:
    """A finite number, the first where there are several (PS3.3 C.11.2.1.2 allows several windows); None for none."""
    raw = _raw(dataset, keyword)
    if raw is not None and (vr := raw.VR if raw.VR not in {None, "UN"} else vr_of(keyword)) in _NUMBERS:
        return _first_number(raw, vr, keyword)
    found = value(dataset, keyword)
    try:
        first = found[0] if isinstance(found, MultiValue | list) else found
        if first is None:
            return None
        if isinstance(first, bytes):
            raise unreadable(keyword)
        result = float(first)  # type: ignore[arg-type]  # what is no number raises
    except DICOM_ERRORS:
        raise unreadable(keyword) from None
    if not math.isfinite(result):
        raise unreadable(keyword)
    return result


def _first_number(raw: RawDataElement, vr: str, keyword: str) -> float | None:
    data, code = bytes(raw.value or b""), _NUMBERS[vr]
    try:
        if code:
            size = struct.calcsize(code)
            if not data:
                return None
            result = float(struct.unpack(("<" if raw.is_little_endian else ">") + code, data[:size])[0])
        else:
            first = data.split(b"\\")[0].strip(_PADDING.encode())
            if not first:
                return None
            result = float(first)
    except DICOM_ERRORS:
        raise unreadable(keyword) from None
    if not math.isfinite(result):
        raise unreadable(keyword)
    return result


def numbers(dataset: Dataset, keyword: str) -> tuple[float, ...]:
    """All numbers of an attribute; none where it is missing or holds something else."""
    raw = _raw(dataset, keyword)
    parts: Iterable[Any]
    if raw is not None and vr_of(keyword) == "DS":
        parts = bytes(raw.value or b"").split(b"\\")
    else:
        found = value(dataset, keyword)
        parts = found if isinstance(found, MultiValue | list) else [] if found is None else [found]
    try:
        return tuple(float(part) for part in parts)
    except DICOM_ERRORS:
        return ()


def items(dataset: Dataset, keyword: str) -> list[Dataset]:
    """The items of a sequence, none where it is not there."""
    found = value(dataset, keyword)
    try:
        sequence = list(found) if found is not None else []  # type: ignore[call-overload]  # what cannot be walked raises
    except DICOM_ERRORS:
        raise unreadable(keyword) from None
    if not all(isinstance(item, Dataset) for item in sequence):
        raise unreadable(keyword)
    return sequence
