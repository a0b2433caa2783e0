"""[series] and [table] of site.toml: which files of the data folder these are, and the map of their columns.

A map is a TOML file beside site.toml, or one that Fedward brings, by its name. Recordings of the published collections
(`intake.wearable`) are known by the names of their files and need no section.
"""

import hashlib
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib import resources
from pathlib import Path, PurePath
from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from fedward_client.intake.columns import TableMap
from fedward_client.intake.series_map import SeriesMap
from fedward_common.errors import SettingsError

_Text = Annotated[str, Field(min_length=1)]

Map = TypeVar("Map")


class ColumnsSection(BaseModel):
    """Either section as it is written; "" stands for "none"."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    files: _Text = "*.csv"
    map: str = ""


@dataclass(frozen=True, kw_only=True)
class ColumnSettings(Generic[Map]):
    """Files whose names match `files` (as of `fnmatch`, case kept), read by `columns`; `digest` names the two."""

    files: str
    columns: Map
    digest: str

    def reads(self, path: PurePath) -> bool:
        """Whether a file is one of them."""
        return fnmatchcase(path.name, self.files)


def series(section: ColumnsSection, folder: Path, source: str) -> ColumnSettings[SeriesMap] | None:
    """The site's own recordings; None where it names no map. Raises SettingsError, which begins with `source`."""
    return _checked(section, folder, f"{source}: [series] map", SeriesMap.of)


def table(section: ColumnsSection, folder: Path, source: str) -> ColumnSettings[TableMap] | None:
    """The site's tables; None where it names no map. Raises SettingsError, which begins with `source`."""
    return _checked(section, folder, f"{source}: [table] map", TableMap.of)


def shipped_maps() -> list[str]:
    """The names of the maps that Fedward brings."""
    return sorted(each.name.removesuffix(".toml") for each in _shipped().iterdir() if each.name.endswith(".toml"))


def shipped(name: str) -> str:
    """The text of a map that Fedward brings."""
    found: str = _shipped().joinpath(f"{name}.toml").read_text("utf-8")
    return found


def _shipped() -> Any:
    return resources.files("fedward_client.intake").joinpath("maps")


def _checked(
    section: ColumnsSection, folder: Path, source: str, make: Callable[[dict[str, Any]], Map]
) -> ColumnSettings[Map] | None:
    if not section.map:
        return None
    text = _text(section.map, folder, source)
    try:
        columns = make(tomllib.loads(text))
    except (tomllib.TOMLDecodeError, SettingsError) as error:
        raise SettingsError(f"{source} = '{section.map}' cannot be used: {error}") from None
    digest = hashlib.sha256("\0".join((section.files, text)).encode()).hexdigest()
    return ColumnSettings(files=section.files, columns=columns, digest=digest)


def _text(name: str, folder: Path, source: str) -> str:
    if name in shipped_maps():
        return shipped(name)
    try:
        return (folder / name).read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        raise SettingsError(
            f"{source} = '{name}' is no file of UTF-8 text in the site's folder; give one, or one of Fedward's own: "
            f"{', '.join(shipped_maps())}"
        ) from None
