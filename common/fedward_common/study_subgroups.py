"""[evaluation] subgroups: into which groups test patients are put, the same ones at every site.

A maker's name in a header is free text, so only words of the list here leave a site; one that is not in it is `OTHER`.
"""

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Literal

from fedward_common.study_faults import Fault

Subgroups = Literal["sex", "age", "vendor"]

NOT_KNOWN, OTHER = "not known", "other"
SEXES = ("F", "M", "O")  # PS3.3 C.7.1.1
YEARS = (40, 60, 75)  # in which the second band, the third and the last begin
BANDS = (f"under {YEARS[0]}", *(f"{low} to {high - 1}" for low, high in pairwise(YEARS)), f"{YEARS[-1]} and over")
VENDORS: Mapping[str, str] = {  # by the first word of a maker's name, in small letters
    "siemens": "Siemens",
    "ge": "GE",
    "general": "GE",
    "philips": "Philips",
    "canon": "Canon",
    "toshiba": "Toshiba",
    "hitachi": "Hitachi",
    "fujifilm": "Fujifilm",
    "fuji": "Fujifilm",
    "uih": "United Imaging",
    "united": "United Imaging",
    "neusoft": "Neusoft",
    "shimadzu": "Shimadzu",
    "agfa": "Agfa",
    "carestream": "Carestream",
    "kodak": "Kodak",
    "konica": "Konica Minolta",
    "hologic": "Hologic",
    "lorad": "Hologic",
    "samsung": "Samsung",
    "medison": "Samsung",
    "aloka": "Aloka",
    "esaote": "Esaote",
    "mindray": "Mindray",
    "supersonic": "SuperSonic Imagine",
    "bruker": "Bruker",
    "leica": "Leica",
    "hamamatsu": "Hamamatsu",
    "zeiss": "Zeiss",
    "carl": "Zeiss",
    "heidelberg": "Heidelberg Engineering",
    "topcon": "Topcon",
    "canfield": "Canfield",
}
GROUPS: Mapping[Subgroups, tuple[str, ...]] = {
    "sex": (*SEXES, NOT_KNOWN),
    "age": (*BANDS, NOT_KNOWN),
    "vendor": (*dict.fromkeys(VENDORS.values()), OTHER, NOT_KNOWN),
}
"""The groups of each partition, in the order in which they are shown; a patient is in one of each."""


def band_of(years: int) -> str:
    """The age band of so many whole years."""
    return BANDS[sum(years >= first for first in YEARS)]


def vendor_of(manufacturer: str) -> str:
    """The maker that DICOM Manufacturer (0008,0070) begins with: "SIEMENS" and "Siemens Healthineers" are one."""
    words = manufacturer.replace("_", " ").replace(",", " ").casefold().split()
    return VENDORS.get(words[0], OTHER) if words else NOT_KNOWN


def subgroup_faults(kind: str, subgroups: tuple[Subgroups, ...]) -> Iterator[Fault]:
    """What a study cannot ask for: groups named twice, or of patients of whom nothing is known to group them by."""
    key = ("evaluation", "subgroups")
    if len(set(subgroups)) < len(subgroups):
        yield Fault(key, "names one twice; name each once")
    if subgroups and kind not in {"image", "table", "series"}:
        yield Fault(key, 'needs [input] kind = "image", "table" or "series": others are of no sex or age; remove it')
    elif kind != "image" and "vendor" in subgroups:
        yield Fault(key, 'has "vendor", the maker of a scanner, and only images come from one; remove it')
