"""[pacs] of site.toml: where the hospital's archive is, how it is spoken to, and what is asked of it at most.

One peer: a DIMSE one (`host`, `ae_title`) or a DICOMweb one (`url`). With neither, a site can still listen. Nothing
here opens a connection, and no file that is named here is read before it is needed.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field

from fedward_client.pace import Window, read_window
from fedward_common.errors import SettingsError

Retrieve = Literal["get", "move"]

_AE_TITLE = re.compile(r"(?=.*[^ ])[ -\[\]-~]{1,16}")  # PS3.5 6.2: no backslash, no control character, not all spaces
_WHERE = "site.toml: [pacs]"
_LOCAL = ("127.0.0.1", "::1", "localhost")

_Port = Annotated[int, Field(ge=1, le=65535)]


class PacsSection(BaseModel):
    """The section as it is written; "" and 0 stand for "none"."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    host: str = ""
    port: _Port = 104
    ae_title: str = ""
    retrieve: Retrieve = "get"
    url: str = ""
    token_file: str = ""
    ca: str = ""
    certificate: str = ""
    key: str = ""
    own_ae_title: str = "FEDWARD"
    listen_host: str = ""
    listen_port: _Port = 11112
    allowed: Annotated[tuple[str, ...], Field(strict=False)] = ()  # TOML has lists, no tuples
    max_associations: Annotated[int, Field(ge=1, le=64)] = 4
    window: str = ""
    mib_per_minute: Annotated[int, Field(ge=0)] = 0
    max_object_mib: Annotated[int, Field(ge=1)] = 2048
    min_free_mib: Annotated[int, Field(ge=1)] = 4096
    timeout_s: Annotated[int, Field(ge=1, le=3600)] = 60


@dataclass(frozen=True, kw_only=True, slots=True)
class PacsSettings:
    """What [pacs] says, checked. At most one of `host` and `url` is set; files are absolute and existed when read."""

    host: str = ""
    port: int = 104
    ae_title: str = ""
    retrieve: Retrieve = "get"
    url: str = ""
    token_file: Path | None = field(default=None, repr=False)
    ca: Path | None = field(default=None, repr=False)
    certificate: Path | None = field(default=None, repr=False)
    key: Path | None = field(default=None, repr=False)
    own_ae_title: str = "FEDWARD"
    listen_host: str = ""  # "" where nothing may connect to this machine
    listen_port: int = 11112
    allowed: frozenset[str] = frozenset()  # AE titles that may send here; the peer's own is one of them
    max_associations: int = 4
    window: Window | None = None
    bytes_per_minute: int | None = None
    max_object_bytes: int = 2048 * 2**20
    min_free_bytes: int = 4096 * 2**20
    timeout_s: float = 60.0


def checked(section: PacsSection, folder: Path) -> PacsSettings:
    """The settings of a section; paths are relative to the hospital's `folder`. Raises SettingsError in words."""
    _check_peer(section)
    _check_tls(section)
    allowed = {_ae_title("allowed", title) for title in section.allowed}
    if section.ae_title:
        allowed.add(_ae_title("ae_title", section.ae_title))
    return PacsSettings(
        host=section.host,
        port=section.port,
        ae_title=section.ae_title.strip(),
        retrieve=section.retrieve,
        url=section.url.rstrip("/"),
        token_file=_file("token_file", section.token_file, folder),
        ca=_file("ca", section.ca, folder),
        certificate=_file("certificate", section.certificate, folder),
        key=_file("key", section.key, folder),
        own_ae_title=_ae_title("own_ae_title", section.own_ae_title),
        listen_host=section.listen_host,
        listen_port=section.listen_port,
        allowed=frozenset(allowed),
        max_associations=section.max_associations,
        window=read_window(section.window, _WHERE),
        bytes_per_minute=section.mib_per_minute * 2**20 or None,
        max_object_bytes=section.max_object_mib * 2**20,
        min_free_bytes=section.min_free_mib * 2**20,
        timeout_s=float(section.timeout_s),
    )


def _check_peer(section: PacsSection) -> None:
    if section.host and section.url:
        raise _wrong("host and url are both set; name the archive once: host for DIMSE, url for DICOMweb")
    if section.host and not section.ae_title:
        raise _wrong("ae_title is missing; give the archive's AE title")
    if section.host and section.retrieve == "move" and not section.listen_host:
        raise _wrong('retrieve = "move" needs listen_host, the address of this machine that the archive sends to')
    if section.url:
        _check_url(section)


def _check_url(section: PacsSection) -> None:
    try:
        parts = urlsplit(section.url)
        host = parts.hostname
        _ = parts.port
    except ValueError:
        host = None
    if host is None or parts.scheme not in ("http", "https"):
        raise _wrong(f"url must be http://… or https://…, the root of the DICOMweb service, not {section.url!r}")
    if parts.username or parts.query or parts.fragment:
        raise _wrong("url holds a user name, a query or a fragment; give the root alone, and a token_file for a login")
    if section.token_file and parts.scheme == "http" and host not in _LOCAL:
        raise _wrong("token_file with a url of http:// would send the token in clear; use https://")


def _check_tls(section: PacsSection) -> None:
    if bool(section.certificate) != bool(section.key):
        raise _wrong("certificate and key go together; give both, or neither")
    if section.ca and section.listen_host and not section.certificate:
        raise _wrong("ca and listen_host are set, so this machine serves TLS: it needs certificate and key as well")


def _ae_title(key: str, title: str) -> str:
    if not _AE_TITLE.fullmatch(title):
        raise _wrong(f"{key} {title!r} is no AE title: 1 to 16 ASCII characters, no backslash, not spaces alone")
    return title.strip()


def _file(key: str, name: str, folder: Path) -> Path | None:
    if not name:
        return None
    path = folder / name
    if not path.is_file():
        raise _wrong(f"{key} names no file that exists")
    return path


def _wrong(words: str) -> SettingsError:
    return SettingsError(f"{_WHERE} {words}")
