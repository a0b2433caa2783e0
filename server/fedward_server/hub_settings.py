"""A hub's `hub.toml`: its name, and where it listens. An unknown key or a public address is refused in words.

[hub]
name = "north-alliance"
host = "127.0.0.1"
port = 9092
"""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedward_common.errors import SettingsError
from fedward_common.study import Slug

SETTINGS = "hub.toml"
LOOPBACK = ("127.0.0.1", "localhost")
DEFAULT_PORT = 9092


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class HubSection(_Section):
    """[hub]."""

    name: Slug
    host: str = LOOPBACK[0]
    port: Annotated[int, Field(ge=1, le=65535)] = DEFAULT_PORT


class _Settings(_Section):
    hub: HubSection


def read_settings(folder: Path) -> HubSection:
    """The settings in a hub's folder. Raises SettingsError in words."""
    path = folder / SETTINGS
    if not os.path.lexists(path):
        raise SettingsError(f"{folder} is no hub: make one there with `fedward hub init {folder}`")
    try:
        return checked(tomllib.loads(read_file(path).decode()))
    except UnicodeDecodeError:
        raise SettingsError(f"{SETTINGS} is not UTF-8 text; save it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{SETTINGS} is not TOML: {error}") from None


def checked(document: Mapping[str, Any]) -> HubSection:
    """The settings in a document. Raises SettingsError in words."""
    try:
        settings = _Settings.model_validate(document).hub
    except ValidationError as error:
        raise SettingsError(f"{SETTINGS}: {_in_words(error)}") from None
    if settings.host not in LOOPBACK:
        raise SettingsError(
            f"{SETTINGS}: [hub] host is {settings.host}, but the hub may listen on loopback only: a gateway faces the "
            f'hospitals; set host = "{LOOPBACK[0]}"'
        )
    return settings


def read_file(path: Path) -> bytes:
    """The bytes of a file of the hub's. Raises SettingsError in words."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{path.name} cannot be read ({error.strerror}): restore it from a backup") from None


def _in_words(error: ValidationError) -> str:
    """One sentence on the first thing that is wrong: the key, and what would be valid."""
    first: Any = error.errors(include_url=False)[0]
    section, *rest = (str(part) for part in first["loc"])
    key = " ".join([f"[{section}]", *rest])
    if first["type"] == "extra_forbidden":
        known = f"[hub] takes {', '.join(HubSection.model_fields)}" if rest else "known is [hub]"
        return f"{key} is not a setting; {known}"
    if first["type"] == "missing":
        return f"{key} is missing: give it"
    if rest == ["name"]:
        wanted = "1 to 63 of a-z, 0-9 and '-', the first of them no '-'"
        return f"{key} is {wanted}; now it is {first['input']!r}"
    return f"{key}: {first['msg']}, not {first['input']!r}"
