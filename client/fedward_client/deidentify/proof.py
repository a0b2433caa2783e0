"""The proof: everything that was written is searched for everything that identified the source.

Both folders are read from disk again. Searched are the elements as they decode, the raw bytes (inflated where they are
deflated), the pixels, the names of files and folders. A find tells the attribute of the standard that the value is
from and how many files hold it, and never the value.
"""

import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from io import BytesIO
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.filereader import dcmread
from pydicom.uid import DeflatedExplicitVRLittleEndian

from fedward_client.deidentify import pseudonyms
from fedward_client.deidentify.identifiers import Identifiers
from fedward_client.deidentify.rules import Profile
from fedward_client.deidentify.search import WHOLE, Needles
from fedward_client.intake import elements, part10
from fedward_client.intake.bounds import opened
from fedward_client.intake.quiet import DICOM_ERRORS, quiet
from fedward_client.intake.walk import walk
from fedward_client.site import PSEUDONYM_HEX, Site
from fedward_common.errors import UnreadableFile

Tell = Callable[[str, int, int], None]

DEFERRED = 2**16  # bytes: longer values of the source, pixels above all, are not read
VARIED = 4  # different bytes that a string needs to be looked for in pixels: even areas are runs of one

_TEXTS = frozenset({"AE", "CS", "DA", "DT", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"})
_PSEUDONYM = re.compile(rf"[0-9a-f]{{{PSEUDONYM_HEX}}}")
_META = 132 + 12  # bytes before what the first element of the meta information counts (PS3.10 7.1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Leak:
    """Values of an attribute of the source that are in what was written: in how many files."""

    attribute: str
    files: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Proof:
    """How much was looked for where, what was found, and the files, relative to their folder, that must go."""

    identifiers: int
    files: int
    leaks: tuple[Leak, ...]
    unclean: tuple[Path, ...]


def prove(
    site: Site,
    source: Path,
    target: Path,
    profile: Profile,
    tell: Tell = lambda _stage, _done, _total: None,
) -> Proof:
    """Search `target` for every identifier of `source`; see `fedward_client.deidentify.identifiers` for what is one.

    A file that was not written by `deidentify`, or cannot be read, is unclean too.
    """
    site = replace(site, data=source.resolve())
    identifiers = _collected(site, profile, tell)
    haystack = _Haystack(identifiers)
    paths = sorted(path for path in target.rglob("*") if path.is_file() and not path.name.startswith("."))
    attributes: Counter[str] = Counter()
    unclean: list[Path] = []
    for done, path in enumerate(paths):
        tell("Proving", done, len(paths))
        found = haystack.found_in(path, path.relative_to(target))
        attributes.update(found)
        unclean += [path.relative_to(target)] if found else []
    leaks = tuple(Leak(attribute=name, files=count) for name, count in sorted(attributes.items()))
    return Proof(identifiers=len(identifiers), files=len(paths), leaks=leaks, unclean=tuple(unclean))


def _collected(site: Site, profile: Profile, tell: Tell) -> Identifiers:
    identifiers = Identifiers()
    entries = list(walk(site))
    for done, entry in enumerate(entries):
        tell("Collecting identifiers", done, len(entries))
        identifiers.add_path(entry.path.relative_to(site.data).parts)
        if entry.link or entry.refused:
            continue
        with quiet():
            try:
                dataset = _read(entry.path)
                if dataset is not None:
                    patient_id = elements.text(dataset, "PatientID")
                    patient, days = pseudonyms.patient(site, patient_id), pseudonyms.days(site, patient_id)
                    identifiers.add(dataset, profile, patient, days)
            except (UnreadableFile, OSError, *DICOM_ERRORS):
                continue  # it was not copied either
    identifiers.settle(moved="dates" in profile.retain)
    return identifiers


def _read(path: Path) -> Dataset | None:
    """All of a DICOM file but its long values, None for another file."""
    with opened(path) as file:
        if not part10.is_dicom(file):
            return None
        part10.parse(file, pixels=False)  # measures what is deflated before anything inflates it
    return dcmread(path, defer_size=DEFERRED, force=True)


class _Haystack:
    """Looks for identifiers in the files of a folder, patient by patient."""

    def __init__(self, identifiers: Identifiers) -> None:
        self._everywhere = _Kinds(identifiers.everywhere)
        # the folder is walked in the order of patients
        self._of_patient = lru_cache(4)(lambda patient: _Kinds(identifiers.of_patient.get(patient, {})))

    def found_in(self, path: Path, relative: Path) -> set[str]:
        """The attributes whose values a file holds."""
        data = path.read_bytes()
        kinds = (self._everywhere, self._of_patient(relative.parts[0]))
        with quiet():
            try:
                text, raw, pixels = _parted(data) if path.suffix == ".dcm" else (data, data, b"")
            except DICOM_ERRORS:
                return {"nothing: the file cannot be read again"}
        # the digits of a pseudonym may be some patient's number by chance; one that is an identifier as a whole stays
        pseudonyms = [name.encode() for name in relative.with_suffix("").parts if _PSEUDONYM.fullmatch(name)]
        for pseudonym in pseudonyms:
            if not any(kind.has(pseudonym) for kind in kinds):
                text, raw = text.replace(pseudonym, b" "), raw.replace(pseudonym, b" ")
        names = " ".join(part for part in relative.with_suffix("").parts if part.encode() not in pseudonyms)
        text += b"\n" + " ".join((names, relative.suffix)).lower().encode("utf-8", "surrogatepass")
        return {name for kind in kinds for name in kind.found_in(text, raw, pixels)}


class _Kinds:
    """Needles for decoded text, for raw bytes, and for pixels, where short or uniform strings are there by chance."""

    def __init__(self, names: dict[bytes, str]) -> None:
        long = {needle: name for needle, name in names.items() if len(needle) >= WHOLE}
        varied = {needle: name for needle, name in long.items() if len(set(needle)) >= VARIED}
        self._text, self._raw, self._pixels = Needles(names), Needles(long), Needles(varied)

    def has(self, string: bytes) -> bool:
        """Whether a string is one of them."""
        return string in self._text.names

    def found_in(self, text: bytes, raw: bytes, pixels: bytes) -> set[str]:
        """The attributes of what was found in the three."""
        pairs = ((self._text, text), (self._raw, raw), (self._pixels, pixels))
        return {needles.names[needle] for needles, data in pairs for needle in needles.found_in(data)}


def _texts(dataset: Dataset) -> Iterator[str]:
    """Every text of a data set as it decodes, those of the items of sequences included."""
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                yield from _texts(item)
        elif element.VR in _TEXTS and element.value is not None:
            yield str(element.value)


def _parted(data: bytes) -> tuple[bytes, bytes, bytes]:
    """A DICOM file's texts as they decode, its bytes without its pixels, inflated, and its pixels."""
    dataset = dcmread(BytesIO(data))
    text = "\n".join(_texts(dataset)).lower().encode("utf-8", "replace")
    if dataset.file_meta.TransferSyntaxUID == DeflatedExplicitVRLittleEndian:
        start = _META + dataset.file_meta.FileMetaInformationGroupLength
        data = data[:start] + zlib.decompress(data[start:], -zlib.MAX_WBITS)
    pixels = dataset.get("PixelData") or b""
    before, _, after = data.partition(pixels) if pixels else (data, b"", b"")
    return text, before + b"\n" + after, pixels
