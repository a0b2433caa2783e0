"""A hub's `hub.toml`: its name, where it listens, and how hospitals reach it. What cannot work is refused in words.

[hub]
name = "north-alliance"
host = "127.0.0.1"
port = 9092

[gateway]
address = "hub.example:8443"
listen = "0.0.0.0:8443"
certificate_days = 90
bulk_mib = 8192

[dashboard], [metrics] and [log] are in docs/hub.md and docs/monitoring.md.
"""

import os
import socket
import tomllib
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from fedward_common.cards import checked_address
from fedward_common.errors import SettingsError
from fedward_common.logs import Format
from fedward_common.study import Slug

SETTINGS = "hub.toml"
LOOPBACK = ("127.0.0.1", "localhost")
DEFAULT_PORT, METRICS_PORT = 9092, 9464


def host_and_port(address: str) -> tuple[str, int]:
    """The two parts of a checked address; an IPv6 address without its brackets."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def listener(address: str) -> socket.socket:
    """A socket that listens at a checked address. Raises OSError where it cannot."""
    host, port = host_and_port(address)
    return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def _reachable(address: str) -> str:
    """A checked address that somebody else can connect to."""
    host = host_and_port(checked_address(address))[0]
    try:
        everywhere = ip_address(host).is_unspecified
    except ValueError:  # a DNS name
        return address
    if everywhere:
        raise ValueError("nobody can connect to an address that stands for all of a machine's: give the hub's own")
    return address


class HubSection(_Section):
    """[hub]."""

    name: Slug
    host: str = LOOPBACK[0]
    port: Annotated[int, Field(ge=1, le=65535)] = DEFAULT_PORT


class GatewaySection(_Section):
    """[gateway]: where hospitals reach the hub, where it listens for them, and how long their certificates last."""

    address: Annotated[str, AfterValidator(_reachable)]
    listen: Annotated[str, AfterValidator(checked_address)]
    certificate_days: Annotated[int, Field(ge=1, le=398)] = 90
    bulk_mib: Annotated[int, Field(ge=1)] = 8192

    @property
    def host(self) -> str:
        """The host of its address, without brackets."""
        return host_and_port(self.address)[0]


class DashboardSection(_Section):
    """[dashboard]: where people reach its pages, and, where browsers trust another issuer, its certificate and key."""

    address: Annotated[str, AfterValidator(_reachable)]
    listen: Annotated[str, AfterValidator(checked_address)]
    certificate: str = ""  # PEM, with its chain; "" for one below the hub's own root
    key: str = ""

    @property
    def host(self) -> str:
        """The host of its address, without brackets."""
        return host_and_port(self.address)[0]


class MetricsSection(_Section):
    """[metrics]: where Prometheus asks for the hub's, on this machine."""

    listen: Annotated[str, AfterValidator(checked_address)]


class LogSection(_Section):
    """[log]: how the lines of its logs are written."""

    format: Format = "text"


class Settings(_Section):
    """All of it; without [gateway] the hub serves its own machine only, and has neither dashboard nor metrics."""

    hub: HubSection
    gateway: GatewaySection | None = None
    dashboard: DashboardSection | None = None
    metrics: MetricsSection | None = None
    log: LogSection = LogSection()

    def listening(self) -> dict[str, str]:
        """By section, where else than at its own port it has the hub listen."""
        sections = {"gateway": self.gateway, "dashboard": self.dashboard, "metrics": self.metrics}
        return {name: section.listen for name, section in sections.items() if section is not None}

    def toml(self) -> str:
        """What `fedward hub init` writes: what it asks for, and some of what has a default."""
        hub = f'[hub]\nname = "{self.hub.name}"\nhost = "{self.hub.host}"\nport = {self.hub.port}\n'
        if self.gateway is None:
            return hub
        own = self.gateway
        gateway = f'address = "{own.address}"\nlisten = "{own.listen}"\ncertificate_days = {own.certificate_days}\n'
        gateway += f"bulk_mib = {own.bulk_mib}\n"
        text = f"{hub}\n[gateway]\n{gateway}"
        if self.dashboard is not None:
            text += f'\n[dashboard]\naddress = "{self.dashboard.address}"\nlisten = "{self.dashboard.listen}"\n'
        return text


def read_settings(folder: Path) -> Settings:
    """The settings in a hub's folder. Raises SettingsError in words."""
    path = folder / SETTINGS
    if not os.path.lexists(path):
        if {"https:", "http:"} & set(folder.parts):
            raise SettingsError(
                "a hub elsewhere is not reached by this command, which works on the hub's own machine: give its folder"
            )
        raise SettingsError(f"{folder} is no hub: make one there with `fedward hub init {folder}`")
    try:
        return checked(tomllib.loads(read_file(path).decode()))
    except UnicodeDecodeError:
        raise SettingsError(f"{SETTINGS} is not UTF-8 text; save it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{SETTINGS} is not TOML: {error}") from None


def checked(document: Mapping[str, Any]) -> Settings:
    """The settings in a document. Raises SettingsError in words."""
    try:
        settings = Settings.model_validate(document)
    except ValidationError as error:
        raise SettingsError(f"{SETTINGS}: {_in_words(error)}") from None
    _check_hub(settings)
    listening = settings.listening()
    if settings.gateway is None and listening:
        name = min(listening)
        raise SettingsError(f"{SETTINGS}: [{name}] needs a [gateway]: {_BEHIND_GATEWAY[name]}")
    dashboard, metrics = settings.dashboard, settings.metrics
    if dashboard is not None and bool(dashboard.certificate) != bool(dashboard.key):
        raise SettingsError(f"{SETTINGS}: [dashboard] certificate and key come together: give both, or neither")
    if metrics is not None and not _is_loopback(host_and_port(metrics.listen)[0]):
        raise SettingsError(
            f"{SETTINGS}: [metrics] listen is {metrics.listen}, but metrics are told on loopback only, where nobody is "
            f'asked who he is; set listen = "{LOOPBACK[0]}:{METRICS_PORT}", and have Prometheus or its agent here'
        )
    taken = {settings.hub.port}
    for name, listen in listening.items():
        if (port := host_and_port(listen)[1]) in taken:
            raise SettingsError(f"{SETTINGS}: [{name}] listen has a port that the hub uses already: choose another")
        taken.add(port)
    return settings


_BEHIND_GATEWAY = {"dashboard": "nginx shows its pages", "metrics": "the process behind it tells them"}


def _check_hub(settings: Settings) -> None:
    hub, gateway = settings.hub, settings.gateway
    if hub.host not in LOOPBACK:
        raise SettingsError(
            f"{SETTINGS}: [hub] host is {hub.host}, but the hub may listen on loopback only: the gateway faces the "
            f'hospitals; set host = "{LOOPBACK[0]}", and [gateway] address'
        )
    if gateway is not None and host_and_port(gateway.listen)[1] == hub.port:
        raise SettingsError(
            f"{SETTINGS}: [hub] port and the gateway's are both {hub.port}: choose another [hub] port, which only "
            "this machine uses"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host in LOOPBACK


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
        if rest:
            return f"{key} is not a setting; [{section}] takes {', '.join(_SECTIONS[section].model_fields)}"
        return f"{key} is not a setting; known are {', '.join(f'[{known}]' for known in _SECTIONS)}"
    if first["type"] == "missing":
        return f"{key} is missing: give it"
    if rest == ["name"]:
        wanted = "1 to 63 of a-z, 0-9 and '-', the first of them no '-'"
        return f"{key} is {wanted}; now it is {first['input']!r}"
    return f"{key}: {first['msg'].removeprefix('Value error, ')}, not {first['input']!r}"


_SECTIONS: dict[str, type[_Section]] = {
    "hub": HubSection,
    "gateway": GatewaySection,
    "dashboard": DashboardSection,
    "metrics": MetricsSection,
    "log": LogSection,
}
