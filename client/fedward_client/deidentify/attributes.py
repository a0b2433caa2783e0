"""A data set without identifiers: a new one, to which only what the profile lets through is copied.

What cannot be decided on, because it does not decode or is not what its VR says, is left out. Kept values are copied
as the bytes that they are; nothing is written that was not looked at.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag, Tag

from fedward_client.deidentify import pseudonyms
from fedward_client.deidentify.codes import known_code
from fedward_client.deidentify.formats import fits
from fedward_client.deidentify.rules import Profile, safe_private
from fedward_client.intake import elements
from fedward_client.intake.quiet import DICOM_ERRORS
from fedward_client.site import Site

OLDEST = 90  # years: those who are older are 90, of whom there are enough (45 CFR 164.514(b)(2)(i)(C))
DUMMY, DUMMY_DATE = "REMOVED", "19000101"

_PATIENT_ID, _PATIENT_NAME = Tag("PatientID"), Tag("PatientName")
_DUMMIES = {
    **dict.fromkeys(("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UT"), DUMMY),
    **dict.fromkeys(("DS", "IS"), "0"),
    **dict.fromkeys(("DA", "DT"), DUMMY_DATE),
    "AS": "000Y",
    "TM": "000000",
    **dict.fromkeys(("FD", "FL", "SL", "SS", "SV", "UL", "US", "UV"), 0),
    **dict.fromkeys(("OB", "OW", "UN"), b"\0\0"),
}

Item = DataElement | RawDataElement


@dataclass(frozen=True, kw_only=True, slots=True)
class Cleaner:
    """Cleans the data sets of one patient at one site; `days` is how far the patient's dates move back."""

    site: Site
    profile: Profile
    days: int

    def clean(self, source: Dataset) -> Dataset:
        """A new data set in the encoding of `source`, without identifiers, nor meta information.

        Decoding errors of pydicom pass through where the data set as a whole cannot be walked.
        """
        # the same character set as read, or pydicom would decode and encode what is to stay as it is
        out = Dataset(parent_encoding=source.original_character_set)
        implicit, little = source.original_encoding
        out.set_original_encoding(implicit, little, source.original_character_set)
        for tag in sorted(source.keys()):
            for element in self._elements(source, tag):
                out[element.tag] = element
        if "CodeValue" in source and (code := known_code(source)) is not None:
            out.update(code)
        return out

    def _elements(self, source: Dataset, tag: BaseTag) -> Iterator[Item]:
        """What comes of one element: nothing, or one; of a safe private one also the creator."""
        if tag.is_private:
            yield from _safe_private(source, tag)
            return
        try:
            element = self._element(source, tag)
        except DICOM_ERRORS:
            return
        if element is not None:
            yield element

    def _element(self, source: Dataset, tag: BaseTag) -> Item | None:
        action = self.profile.action(tag)
        if action == "X":
            return None
        if tag in (_PATIENT_ID, _PATIENT_NAME):
            return self._patient(source, tag)
        vr = dictionary_VR(tag)
        if action == "Z" or (action == "D" and vr != "UI"):
            return _replaced(tag, vr, dummy=action == "D")
        if vr == "SQ":
            return DataElement(tag, "SQ", Sequence(self.clean(item) for item in source[tag].value))
        if action == "K":
            return _kept(source, tag)
        return self._mapped(source[tag]) if vr == "UI" else self._cleaned(source[tag], vr)

    def _patient(self, source: Dataset, tag: BaseTag) -> DataElement:
        """Patient ID and, where there is one, Patient's Name: the pseudonym; label tables are read under it too."""
        patient_id = elements.text(source, "PatientID")
        return DataElement(tag, dictionary_VR(tag), pseudonyms.patient(self.site, patient_id) if patient_id else "")

    def _mapped(self, element: DataElement) -> DataElement:
        parts = [part.strip("\0 ") for part in _texts(element)]
        mapped = [
            part if not part or pseudonyms.is_standard(part) else pseudonyms.uid(self.site, part) for part in parts
        ]
        return DataElement(element.tag, "UI", mapped if len(mapped) > 1 else "".join(mapped))

    def _cleaned(self, element: DataElement, vr: str) -> DataElement:
        """What action C means here: dates moved, ages capped, an offset of the time zone that is one."""
        cleaners: dict[str, Callable[[str], str]] = {
            "AS": _capped,
            "DA": partial(pseudonyms.moved_date, back=self.days),
            "DT": partial(pseudonyms.moved_moment, back=self.days),
            "SH": _offset,
        }
        parts = [cleaners[vr](part) for part in _texts(element)]
        return DataElement(element.tag, vr, parts if len(parts) > 1 else "".join(parts))


def _replaced(tag: BaseTag, vr: str, *, dummy: bool) -> DataElement:
    """No value, or a dummy that says nothing: for a sequence one empty item, for a VR without a dummy no value."""
    if vr == "SQ":
        return DataElement(tag, "SQ", Sequence([Dataset()] if dummy else []))
    return DataElement(tag, vr, _DUMMIES.get(vr) if dummy else None)


def _capped(age: str) -> str:
    """An age (VR AS) of at most `OLDEST` years."""
    if not fits("AS", age.encode("latin-1", "replace")):
        return ""
    return f"{OLDEST:03}Y" if age.strip().endswith("Y") and int(age[:3]) > OLDEST else age.strip()


def _offset(text: str) -> str:
    """A time zone's offset (PS3.3 C.12.1.1.8), "" for what is none."""
    return text if re.fullmatch(r"[+-]\d{4} ?", text) else ""


def _kept(source: Dataset, tag: BaseTag) -> Item | None:
    """An element as it is, None where it is not what the standard says it is."""
    element = source.get_item(tag)
    expected = dictionary_VR(tag)
    if not isinstance(element, RawDataElement) or element.value is None or not _is_as_in_dictionary(element, expected):
        element = source[tag]
        return element if element.VR in expected and fits(expected, _bytes(element)) else None
    return element if fits(expected, element.value) else None


def _is_as_in_dictionary(element: RawDataElement, expected: str) -> bool:
    """Whether an element's VR is that of the dictionary, which may name several; implicit encodings name none."""
    return element.VR is None or element.VR in expected.split(" or ")


def _bytes(element: DataElement) -> bytes:
    """A decoded value as text for the check of its format; numbers were checked by their decoding."""
    return (
        "\\".join(_texts(element)).encode("latin-1", "replace")
        if element.VR in ("AS", "CS", "DS", "IS", "TM", "UI")
        else b""
    )


def _texts(element: DataElement) -> list[str]:
    """The parts of a value as text; one empty part where there is none."""
    value = element.value
    if value is None:
        return [""]
    parts = list(value) if isinstance(value, MultiValue) else [value]  # a person's name is iterable too
    return [str(getattr(part, "original_string", part)) for part in parts] or [""]


def _safe_private(source: Dataset, tag: BaseTag) -> Iterator[Item]:
    """A private element that is on the safe list, with the element that names its creator."""
    owner = Tag(tag.group, tag.element >> 8)
    if tag.element < 0x1000 or owner not in source:
        return
    try:
        creator = "".join(_texts(source[owner])).strip("\0 ")
        vr = safe_private().get((tag.group, tag.element & 0xFF, creator))
        raw = source.get_item(tag)
    except DICOM_ERRORS:
        return
    if vr is None or not isinstance(raw, RawDataElement) or raw.value is None or raw.VR not in (None, "UN", vr):
        return
    if fits(vr, raw.value):
        yield DataElement(owner, "LO", creator)
        yield raw._replace(VR=vr)
