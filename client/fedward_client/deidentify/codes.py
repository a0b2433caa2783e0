"""Coded terms (PS3.3 8.8): kept where the standard's context groups know the code, with the standard's own meaning.

A meaning is free text, and a local coding scheme's value can be anything, a patient's number among them. What is not
known is left out; the item stays, without its code.
"""

from collections.abc import Mapping
from functools import cache

from pydicom.dataset import Dataset

from fedward_client.intake import elements
from fedward_common.errors import UnreadableFile

MOST_MEANING = 64  # characters of VR LO

# PS3.16 CID 7050, of which each option adds its own
BASIC = ("113100", "Basic Application Confidentiality Profile")
METHODS = {
    "dates": ("113107", "Retain Longitudinal Temporal Information Modified Dates Option"),
    "device": ("113109", "Retain Device Identity Option"),
    "patient": ("113108", "Retain Patient Characteristics Option"),
}
CLEAN_PIXELS = ("113101", "Clean Pixel Data Option")
SAFE_PRIVATE = ("113111", "Retain Safe Private Option")


def known_code(item: Dataset) -> Dataset | None:
    """The code of a code sequence's item as the standard writes it, None where there is none or it is not known."""
    try:
        scheme, value = elements.text(item, "CodingSchemeDesignator"), elements.text(item, "CodeValue")
    except UnreadableFile:
        return None
    meaning = _meanings().get((scheme, value))
    if meaning is None:
        return None
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, scheme, meaning[:MOST_MEANING]
    return code


@cache
def _meanings() -> Mapping[tuple[str, str], str]:
    """By scheme and value, the meaning; SNOMED's old identifiers (scheme SRT) have the meanings of the new."""
    from pydicom.sr._concepts_dict import concepts  # heavy: half a second
    from pydicom.sr._snomed_dict import mapping

    known: Mapping[str, Mapping[str, Mapping[str, tuple[str, list[int]]]]] = concepts  # type: ignore[assignment]
    meanings = {
        (scheme, value): meaning
        for scheme, keywords in known.items()
        for codes in keywords.values()
        for value, (meaning, _) in codes.items()
    }
    old = {("SRT", value): meanings["SCT", new] for value, new in mapping["SRT"].items() if ("SCT", new) in meanings}
    return meanings | old
