"""[masks] of site.toml: which files show where structures are, of which image each, and what their values mean."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from fedward_common.errors import SettingsError

_Text = Annotated[str, Field(min_length=1)]
_Value = Annotated[int, Field(ge=1, le=2**31 - 1)]
Shown = bool | int | tuple[int, ...] | str  # every value but 0; a value; several; the label of a DICOM segment


class MasksSection(BaseModel):
    """The section as it is written; "" stands for "none"."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    files: str = ""
    image: str = ""
    structures: dict[
        _Text, bool | _Value | Annotated[tuple[_Value, ...], Field(strict=False, min_length=1)] | _Text
    ] = {}


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskSettings:
    """Files of masks, by a regular expression on their paths, and the path of the image that each is of.

    `structures` are what the site's annotators look for in every image that has a mask, by the study's names for them.
    Where two masks are of one image, a structure is wherever either shows it.
    """

    files: re.Pattern[str] | None = None  # None: DICOM segmentations only
    image: str = ""  # with \\1 for the first group of `files`
    structures: Mapping[str, Shown]

    def image_of(self, path: str) -> str | None:
        """The path of the image that a file (its path below the data folder, with "/") masks; None where it is none."""
        found = self.files.fullmatch(path) if self.files is not None else None
        return None if found is None else found.expand(self.image)


def checked(section: MasksSection, source: str) -> MaskSettings | None:
    """The settings of a site; None where it has no masks. Raises SettingsError, which begins with `source`."""
    if section == MasksSection():
        return None
    where = f"{source}: [masks]"
    if not section.structures:
        raise SettingsError(f"{where} structures is missing; name each structure and its value, as {{ liver = 1 }}")
    if never := [name for name, shown in section.structures.items() if shown is False]:
        raise SettingsError(
            f"{where} structures.{never[0]} is false; give its value, true for all but 0, or the label of a segment"
        )
    if bool(section.files) != bool(section.image):
        missing = "image" if section.files else "files"
        raise SettingsError(
            f"{where} {missing} is missing; files is a regular expression on a mask's path, image the path of its "
            r"image: files = 'labels/(.+)', image = 'images/\1'"
        )
    return MaskSettings(files=_pattern(section, where), image=section.image, structures=section.structures)


def _pattern(section: MasksSection, where: str) -> re.Pattern[str] | None:
    if not section.files:
        return None
    try:
        files = re.compile(section.files)
    except re.error as error:
        raise SettingsError(f"{where} files is no regular expression: {error}") from None
    if not files.groups:
        raise SettingsError(
            f"{where} files has no group: put the part of the path that an image shares with its mask in parentheses"
        )
    try:
        re.compile(f"{section.files}|").sub(section.image, "")  # matches, so that the image's groups are looked up
    except (re.error, IndexError) as error:
        raise SettingsError(f"{where} image is no path with groups of files: {error}") from None
    return files
