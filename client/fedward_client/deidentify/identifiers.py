"""What identifies the patients of a source folder: every value that must not be in what is written.

Read from the source again, by its own rules: all names of persons, all UIDs that are not the standard's, all dates, all
texts that the profile does not keep, private ones, names of files and folders. Not looked for, because they would be
found everywhere: what has fewer than 4 bytes (private texts: 8) and what consists of the standard's own words, but for
whole names of persons; a description, a UID or a file's name that a kept attribute of the source holds as well, such as
a sequence's name; times of day and ages, which are kept. Strings of fewer than 8 bytes and dates are looked for in the
patient's own files.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from pydicom.charset import encode_string
from pydicom.datadict import dictionary_description, dictionary_has_tag, keyword_for_tag
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag, Tag

from fedward_client.deidentify import pseudonyms
from fedward_client.deidentify.attributes import DUMMY, DUMMY_DATE
from fedward_client.deidentify.codes import known_code
from fedward_client.deidentify.rules import Profile, safe_private
from fedward_client.deidentify.search import LEAST, WHOLE, Needles
from fedward_client.deidentify.terms import is_standard_term
from fedward_client.intake.quiet import DICOM_ERRORS

LEAST_UID = 12  # characters
LEAST_PRIVATE = 8  # bytes
LONGEST_DATE = 10  # characters
LONGEST_BYTES = 256  # of a binary private value that may be text

_TEXTS = frozenset({"AE", "LO", "LT", "SH", "ST", "UC", "UR", "UT"})
# attributes whose values name somebody or something, as opposed to describing it
_NAMING = re.compile(r"(ID|IDs|Numbers?|Identifier|Address|TelecomInformation|CertificationNumber)$")
_DATE = re.compile(r"(\d{4})[.-]?(\d{2})[.-]?(\d{2})")
_CODE = frozenset(Tag(keyword) for keyword in ("CodeValue", "CodeMeaning", "CodingSchemeDesignator"))
_PRIVATE, _FILE = "a private attribute", "a file's or folder's name"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Source:
    """Whose a value is: the patient's pseudonym, how far dates move, the character sets that it was read with."""

    patient: str
    days: int = 0
    encodings: tuple[str, ...] = ()


_NOBODY = _Source(patient="")


@dataclass(slots=True)
class Identifiers:
    """Byte strings with the attributes that they are from: those of the whole source, and those of each patient."""

    everywhere: dict[bytes, str] = field(default_factory=dict, repr=False)
    of_patient: dict[str, dict[bytes, str]] = field(default_factory=dict, repr=False)

    _doubtful: dict[bytes, set[bytes]] = field(default_factory=dict, repr=False)  # by text
    _kept: set[str] = field(default_factory=set, repr=False)
    _kept_uids: set[str] = field(default_factory=set, repr=False)
    _dates: dict[tuple[str, int], dict[str, str]] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.everywhere) + sum(map(len, self.of_patient.values()))

    def add_path(self, parts: tuple[str, ...]) -> None:
        """The names of a file and of the folders above it."""
        for part in parts:
            for text in {part, part.rpartition(".")[0]}:
                self._add(_NOBODY, text, _FILE, doubtful=True)

    def add(self, dataset: Dataset, profile: Profile, patient: str, days: int) -> None:
        """All of a data set, of the patient with that pseudonym, whose dates move by that many days."""
        source = _Source(patient=patient, days=days)
        for keyword in ("MediaStorageSOPInstanceUID", "SourceApplicationEntityTitle"):
            if keyword in dataset.file_meta:
                self._take(source, dataset.file_meta[keyword], "X")
        for tag, item in _walk(dataset):
            try:
                self._take(replace(source, encodings=_character_sets(item)), item[tag], _action(profile, item, tag))
            except DICOM_ERRORS:
                continue  # what does not decode is not written either

    def settle(self, *, moved: bool) -> None:
        """After the last data set: drop what is kept as well, and choose the dates.

        With `moved` dates, one that another of the same patient was moved to is not looked for.
        """
        kept = "\n".join(sorted(self._kept)).encode("utf-8", "surrogatepass")
        for found in Needles(dict.fromkeys(self._doubtful, "")).found_in(kept):
            self._drop(self._doubtful[found])
        self._drop({uid.encode() for uid in self._kept_uids})
        for (patient, days), dates in self._dates.items():
            written = {pseudonyms.moved_date(text, days) for text in dates} if moved else {DUMMY_DATE}
            for text, name in dates.items():
                if text not in written:
                    self.of_patient.setdefault(patient, {}).update(dict.fromkeys(_date_forms(text), name))

    def _drop(self, strings: set[bytes]) -> None:
        for needles in (self.everywhere, *self.of_patient.values()):
            for string in strings & needles.keys():
                del needles[string]

    def _take(self, source: _Source, element: DataElement, action: str) -> None:
        """One element, of which the profile makes `action`."""
        name, private = _name(element.tag), element.tag.is_private
        texts = [text for text in _texts(element) if text]
        if element.VR == "PN":
            self._add_persons(source, texts, name)
        elif element.VR in ("DA", "DT"):
            self._add_dates(source, texts, name)
        elif element.VR == "UI":
            self._add_uids(source, texts, name, kept=action == "K")
        elif action in ("K", "C"):
            self._kept.update(text.lower() for text in texts if len(text) >= LEAST)
        elif element.VR in _TEXTS or (private and isinstance(element.value, bytes)):
            doubtful = private or not _NAMING.search(keyword_for_tag(element.tag))
            for text in texts:
                if not private or len(text.encode("utf-8", "replace")) >= LEAST_PRIVATE:
                    self._add(source, text, name, doubtful=doubtful)

    def _add_uids(self, source: _Source, texts: list[str], name: str, *, kept: bool) -> None:
        if kept:
            self._kept_uids.update(texts)
        for text in texts:
            if not kept and len(text) >= LEAST_UID and not pseudonyms.is_standard(text):
                self._add(source, text, name)

    def _add_persons(self, source: _Source, texts: list[str], name: str) -> None:
        """Names of persons: each representation as a whole in the usual forms, its parts in the patient's files."""
        for representation in (part for text in texts for part in text.split("=")):
            parts = [part for part in representation.split("^") if part.strip()]
            written = representation.strip("^ ")
            for form in {written, " ".join(parts), " ".join(parts[::-1]), ", ".join(parts)}:
                self._add(source, form, name, whole=form == written and len(parts) > 1)
            for word in {*parts, *(word for part in parts for word in part.split())}:
                self._add(source, word, name, own=True)

    def _add_dates(self, source: _Source, texts: list[str], name: str) -> None:
        """Dates, and moments as a whole."""
        for text in texts:
            if found := _DATE.match(text):
                self._dates.setdefault((source.patient, source.days), {})["".join(found.groups())] = name
            if len(text) > LONGEST_DATE:
                self._add(source, text, name, own=True)

    def _add(
        self, source: _Source, text: str, name: str, *, doubtful: bool = False, own: bool = False, whole: bool = False
    ) -> None:
        """One text: in all files, or where it is short, or `own`, in those of the source's patient.

        What consists of the standard's words is passed over, but for a `whole` name as DICOM writes it.
        """
        text = text.strip("\0 \t\r\n")
        if text == DUMMY or (not whole and is_standard_term(text, short_words=doubtful)):
            return
        for needle in _encoded(text, source.encodings):
            short = own or len(needle) < WHOLE
            place = self.of_patient.setdefault(source.patient, {}) if short and source.patient else self.everywhere
            place.setdefault(needle, name)
            if doubtful:
                self._doubtful.setdefault(text.lower().encode("utf-8", "surrogatepass"), set()).add(needle)


def _walk(dataset: Dataset) -> Iterator[tuple[BaseTag, Dataset]]:
    """Every element, those of the items of sequences included, and the data set that it is in."""
    for tag in sorted(dataset.keys()):
        yield tag, dataset
        try:
            element = dataset[tag]
            items = list(element.value) if element.VR == "SQ" else []
        except DICOM_ERRORS:
            continue
        for item in items:
            yield from _walk(item)


def _action(profile: Profile, dataset: Dataset, tag: BaseTag) -> str:
    """What the profile does with an element; K for the private ones of the safe list, and for codes that are known."""
    if tag in _CODE and known_code(dataset) is not None:
        return "K"
    if not tag.is_private:
        return profile.action(tag)
    owner = dataset.get(BaseTag(tag.group << 16 | tag.element >> 8))
    creator = str(owner.value).strip("\0 ") if owner is not None else ""
    return "K" if (tag.group, tag.element & 0xFF, creator) in safe_private() or tag.is_private_creator else "X"


def _character_sets(item: Dataset) -> tuple[str, ...]:
    """The character sets that a data set was read with, as Python names them."""
    found = item.original_character_set
    return (found,) if isinstance(found, str) else tuple(found or ())


def _texts(element: DataElement) -> list[str]:
    """The parts of a value that are text; a few bytes that print count as text."""
    value = element.value
    if isinstance(value, bytes):
        text = value.strip(b"\0 ").decode("latin-1")
        return [text] if len(value) <= LONGEST_BYTES and text.isprintable() else []
    if element.VR == "SQ" or value is None:
        return []
    parts = list(value) if isinstance(value, MultiValue) else [value]  # a person's name is iterable too
    return [str(part).strip("\0 \t\r\n") for part in parts]


def _name(tag: BaseTag) -> str:
    """The attribute's name in the standard."""
    if tag.is_private:
        return _PRIVATE
    return dictionary_description(tag) if dictionary_has_tag(tag) else "an unknown attribute"


def _encoded(text: str, encodings: tuple[str, ...]) -> set[bytes]:
    """A text as bytes, as files may hold it: in UTF-8, in Latin-1, in the character sets that its own file declares."""
    forms = {text, text.lower()}
    found = {form.encode("utf-8", "surrogatepass") for form in forms}
    if not text.isascii():
        for form in forms:
            found.add(form.encode("latin-1", "ignore") if _is_latin(form) else form.encode("utf-8", "surrogatepass"))
            if encodings:
                found.add(encode_string(form, list(encodings)))
    return {form.lower() for form in found}


def _is_latin(text: str) -> bool:
    return all(ord(char) < 256 for char in text)


def _date_forms(text: str) -> list[bytes]:
    """A date, YYYYMMDD, as it may be written in text."""
    year, month, day = text[:4], text[4:6], text[6:]
    forms = (text, f"{year}-{month}-{day}", f"{year}/{month}/{day}", f"{day}.{month}.{year}", f"{day}/{month}/{year}")
    return [form.encode() for form in (*forms, f"{month}/{day}/{year}", f"{day}-{month}-{year}")]
