"""[boxes] of site.toml: the table of where findings are, a row each, and what its columns are."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from fedward_common.errors import SettingsError

_Text = Annotated[str, Field(min_length=1)]
_Columns = Annotated[tuple[_Text, ...], Field(strict=False)]  # TOML has lists, no tuples


class BoxesSection(BaseModel):
    """The section as it is written; "" and () stand for "none"."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    file: str = ""
    image: _Text = "seriesuid"
    by: Literal["series", "file"] = "series"
    kind: str = ""
    label: str = ""
    centre: _Columns = ()
    diameter: str = ""
    corner: _Columns = ()
    size: _Columns = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class BoxSettings:
    """A table of findings; columns by name. An image of which it has no row was read too, and has no finding.

    Column `image` says of which image a row is: the UID of its series, or (`by` is "file") its path in the data folder.
    Column `kind` says what the finding is; without it all are a `label`. A finding is a ball, in millimetres of the
    patient as DICOM counts them (to the left, to the back, to the head: PS3.3 C.7.6.2.1.1), as in LUNA16's table: the
    columns of its `centre` and of its `diameter`. Or it is a box in pixels of a picture: the columns of its upper left
    `corner` and of its `size`, column before row.
    """

    file: Path
    image: str
    by: Literal["series", "file"]
    kind: str
    label: str
    centre: tuple[str, ...]
    diameter: str
    corner: tuple[str, ...]
    size: tuple[str, ...]

    @property
    def in_mm(self) -> bool:
        """Whether findings are balls in the patient; else boxes in a picture."""
        return bool(self.centre)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of numbers."""
        return (*self.centre, self.diameter) if self.in_mm else (*self.corner, *self.size)

    @property
    def wanted(self) -> tuple[str, ...]:
        """The columns that the table must have."""
        return (self.image, *filter(None, [self.kind]), *self.columns)


def checked(section: BoxesSection, folder: Path, source: str) -> BoxSettings | None:
    """The settings of a site's folder; None where it has none. Raises SettingsError, which begins with `source`."""
    if section == BoxesSection():
        return None
    where = f"{source}: [boxes]"
    file = folder / section.file
    if not section.file or not file.is_file():
        raise SettingsError(f"{where} file names no file that exists; give the table of findings")
    if bool(section.kind) == bool(section.label):
        raise SettingsError(f"{where} needs kind, the column that says what a finding is, or label, what all are")
    ball = len(section.centre) == 3 and section.diameter and not (section.corner or section.size)
    box = len(section.corner) == len(section.size) == 2 and not (section.centre or section.diameter)
    if not (ball or box):
        raise SettingsError(
            f"{where} needs the columns of centre (three) and diameter, in millimetres, or of corner and size (two "
            "each), in pixels"
        )
    found = BoxSettings(**{**dict(section), "file": file})
    if len(set(found.wanted)) < len(found.wanted):
        raise SettingsError(f"{where} names one column twice; a column says one thing")
    return found
