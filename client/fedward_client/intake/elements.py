"""Values of a DICOM data set as plain types, or `UnreadableFile` with the attribute's name and never its value."""

import math
import re

from pydicom.datadict import dictionary_description
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from fedward_client.intake.quiet import DICOM_ERRORS
from fedward_common.errors import UnreadableFile


def value(dataset: Dataset, keyword: str) -> object:
    """The value of an attribute, None where it is not there or empty."""
    try:
        found = dataset.get(keyword)
    except DICOM_ERRORS:
        raise unreadable(keyword) from None
    return None if found is None or (isinstance(found, str | bytes | MultiValue) and not len(found)) else found


def unreadable(keyword: str) -> UnreadableFile:
    """The error for an attribute whose value is not what the standard says."""
    return UnreadableFile(f"its attribute {dictionary_description(keyword)} cannot be read")


def text(dataset: Dataset, keyword: str) -> str:
    """The value of an attribute as text without white space or padding around it, "" where there is none."""
    found = value(dataset, keyword)
    try:
        parts = [str(part) for part in found] if isinstance(found, MultiValue) else [str(found or "")]
    except DICOM_ERRORS:
        raise unreadable(keyword) from None
    return "\\".join(parts).strip("\0 \t\r\n")


def label(dataset: Dataset, keyword: str) -> str:
    """Text for a table of makers and devices: one line, at most 64 characters."""
    return " ".join(re.sub(r"[^\w .,()/+&-]", " ", text(dataset, keyword)).split())[:64]


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


def numbers(dataset: Dataset, keyword: str) -> tuple[float, ...]:
    """All numbers of an attribute; none where it is missing or holds something else."""
    found = value(dataset, keyword)
    parts = found if isinstance(found, MultiValue | list) else [] if found is None else [found]
    try:
        return tuple(float(part) for part in parts)  # type: ignore[arg-type]  # what is no number raises
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
