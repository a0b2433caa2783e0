"""What happens to an attribute: PS3.15 Table E.1-1, and a rule for all that the table does not name.

The basic profile is the table of dicom-anonymizer (BSD-3-Clause, Kitware), edition 2026c; none of its code runs. Where
the table leaves the choice to the attribute's type in its object, as in X/Z/D, the choice that is valid for every type
is taken: the last. options.csv holds the columns of the options, by attribute or VR; an empty action is the basic one.

The table lists what is known to identify, and only that. So outside of it free text and bulk data are kept only where
kept.csv says that devices write them; names of persons never; what the dictionary does not know never.
"""

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from typing import Literal

from pydicom.datadict import dictionary_has_tag, dictionary_VR, tag_for_keyword
from pydicom.tag import BaseTag

from fedward_common.errors import UsageError

Action = Literal["X", "Z", "D", "U", "C", "K"]  # remove, empty, dummy, map the UID, clean, keep (PS3.15 E.1)
Option = Literal["dates", "device", "patient"]
BurnedIn = Literal["blank", "quarantine", "keep"]

OPTIONS: tuple[Option, ...] = ("dates", "device", "patient")

_GRAPHICS = (0x5000, 0x6000)  # curves and overlays: groups 50xx and 60xx
_NO_DATA_SET = frozenset({0x0000, 0x0002, 0x0004})  # commands, meta information, directories
_TEXT = frozenset({"AE", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"})
_BULK = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A site's choices: which options of Table E.1-1 it takes, and what it does with burned-in text."""

    retain: frozenset[Option] = frozenset(OPTIONS)
    burned_in: BurnedIn = "blank"

    @classmethod
    def without(cls, dropped: Iterable[str], *, burned_in: BurnedIn = "blank") -> "Profile":
        """All options but those of these names. Raises UsageError for a name that is none."""
        if unknown := sorted(set(dropped) - set(OPTIONS)):
            raise UsageError(f"'{unknown[0]}' is nothing that can be dropped; {', '.join(OPTIONS)} can")
        return cls(retain=frozenset(option for option in OPTIONS if option not in set(dropped)), burned_in=burned_in)

    def action(self, tag: BaseTag) -> Action:
        """The action for an attribute of the standard; a private one is removed here, see `SAFE_PRIVATE`."""
        if tag.is_private or tag.group in _NO_DATA_SET or tag.element == 0 or tag.group & 0xFF00 in _GRAPHICS:
            return "X"
        if not dictionary_has_tag(tag):
            return "X"
        return self._options.get(tag) or self._by_vr(tag) or _basic().get(tag) or _unlisted(tag)

    def _by_vr(self, tag: BaseTag) -> Action | None:
        if tag in self._options:  # it is an exception, with no action of its own
            return None
        return self._vrs.get(dictionary_VR(tag))

    @cached_property
    def _options(self) -> Mapping[int, Action | None]:
        rows = (row for row in _options() if row[0] in self.retain and len(row[1]) > 2)
        return {_tag(attribute): action for _, attribute, action in rows}

    @cached_property
    def _vrs(self) -> Mapping[str, Action | None]:
        return {name: action for option, name, action in _options() if option in self.retain and len(name) == 2}


def _unlisted(tag: BaseTag) -> Action:
    """The action for an attribute that Table E.1-1 does not name."""
    vr = dictionary_VR(tag)
    if tag in _kept():
        return "K"
    if vr == "UI":
        return "U"
    if vr in ("DA", "DT", "TM"):
        return "Z"
    return "X" if vr in _TEXT or _BULK & set(vr.split(" or ")) else "K"


@cache
def _basic() -> Mapping[int, Action]:
    # imported here: its package imports more than the table
    from dicomanonymizer.dicom_anonymization_databases import dicomfields_2026c as table  # type: ignore[import-untyped]

    groups: dict[Action, tuple[list[tuple[int, ...]], ...]] = {
        "X": (table.X_TAGS,),
        "Z": (table.Z_TAGS, table.X_Z_TAGS),
        "D": (table.D_TAGS, table.Z_D_TAGS, table.X_D_TAGS, table.X_Z_D_TAGS),
        "U": (table.U_TAGS, table.X_Z_U_STAR_TAGS),
    }
    # those of four numbers are masks for groups 50xx and 60xx, which are removed as a whole
    return {
        tag[0] << 16 | tag[1]: action
        for action, lists in groups.items()
        for tags in lists
        for tag in tags
        if len(tag) == 2
    }


@cache
def _options() -> tuple[tuple[str, str, Action | None], ...]:
    return tuple((row["option"], row["attribute"], row["action"] or None) for row in _rows("options.csv"))  # type: ignore[misc]  # the file's words are actions


@cache
def _kept() -> frozenset[int]:
    return frozenset(_tag(row["attribute"]) for row in _rows("kept.csv"))


@cache
def safe_private() -> Mapping[tuple[int, int, str], str]:
    """The private elements that are kept, by group, low byte of the element and creator: their VR.

    Those of PS3.15 Table E.3.10-1 that are numbers or code strings; what could hold free text was left out.
    """
    return {
        (int(row["group"], 16), int(row["element"], 16), row["creator"]): row["vr"] for row in _rows("safe_private.csv")
    }


def _tag(keyword: str) -> int:
    tag = tag_for_keyword(keyword)
    assert tag is not None, keyword
    return tag


def _rows(name: str) -> list[dict[str, str]]:
    text = files(__package__).joinpath(name).read_text("utf-8")
    return list(csv.DictReader(text.splitlines()))
