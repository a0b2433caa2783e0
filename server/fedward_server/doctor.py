"""`fedward doctor --hub`: whether a hub's folder is whole and private, and its SuperLink up and well.

It starts nothing and renews nothing. Like everything that opens the hub's database, it brings it up to date.
"""

import ctypes
import errno
import os
import shutil
import socket
import ssl
import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from importlib import metadata
from pathlib import Path

from fedward_common import __version__, certificates, pki
from fedward_common.audit import survey
from fedward_common.cards import HubCard
from fedward_common.doctor import Finding, disk
from fedward_common.errors import AuditError, FedwardError, SettingsError
from fedward_common.joining import SHOWN_AHEAD
from fedward_server.gateway import Gateway
from fedward_server.hub import RENEW_BEFORE, ROOT, Hub
from fedward_server.hub_settings import SETTINGS, listener, read_file
from fedward_server.issuing import ENDS_SOON, ROOT_KEY
from fedward_server.marked import marked
from fedward_server.superlink import HOST

PROGRAMS = ("flower-superexec", "flwr")

_NOT_SYNCHRONISED = 5  # TIME_ERROR, adjtimex(2)
_TIMEX_BYTES = 512  # struct timex has 208 at most
_TIMESYNCD = Path("/run/systemd/timesync/synchronized")

Check = Callable[[str, Hub], Finding]  # the finding's name, the hub


def examine(folder: Path) -> Iterator[Finding]:
    """Every check of a hub's folder."""
    try:
        hub = Hub.open(folder)
    except SettingsError as error:
        yield Finding.refused("hub settings", error)
        return
    yield Finding(name="hub settings", status="ok", found=f"hub '{hub.name}' on {HOST}:{hub.port}")
    checks = CHECKS if hub.gateway is None else {**CHECKS, **GATEWAY_CHECKS}
    for name, check in checks.items():
        try:
            yield check(name, hub)
        except FedwardError as error:
            yield Finding.refused(name, error)
        except OSError as error:
            yield Finding(
                name=name,
                status="fail",
                found=f"it cannot be looked at ({error.strerror})",
                advice="run this as the user whom the hub runs as",
            )


# Its folder ----------------------------------------------------------------------------------------------------------


def private_folders(name: str, hub: Hub) -> Finding:
    """Whether the hub's folder and its keys' are its user's alone. Raises SettingsError where others can enter."""
    hub.check_private()
    for folder in (hub.folder, hub.keys):
        owner = folder.stat().st_uid
        if os.geteuid() not in {owner, 0}:
            advice = "run the hub as that user, or give the folder to the one who runs it"
            return Finding(name=name, status="fail", found=f"it belongs to user {owner}", advice=advice)
    return Finding(name=name, status="ok", found="mode 0700, its keys' too")


def keys(name: str, hub: Hub) -> Finding:
    """Whether every key is there, private and of its certificate. Raises SettingsError."""
    certificates.load_authority(pki.read_private(hub.keys / "ca.key"), read_file(hub.tls.authority))
    pki.load_signing_key(hub.keys / "hub.key")
    pki.read_private(hub.tls.key)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(hub.tls.certificate, hub.tls.key)
    except ssl.SSLError:
        advice = f"remove {hub.tls.certificate.name}, then start the hub again, which makes both anew"
        found = f"{hub.tls.key.name} and {hub.tls.certificate.name} do not belong together"
        return Finding(name=name, status="fail", found=found, advice=advice)
    return Finding(name=name, status="ok", found="they are whole, private and belong together")


def card(name: str, hub: Hub) -> Finding:
    """Whether the card that sites get is this hub's. Raises SettingsError for one that is damaged."""
    found, address = HubCard.read(hub.card), hub.address
    if found.ca.encode() != read_file(hub.tls.authority if hub.gateway is None else hub.issuing.root):
        advice = "restore both from the same backup: a site with this card refuses the hub"
        return Finding(name=name, status="fail", found=f"{hub.card.name} names another authority", advice=advice)
    if found.address != address:
        advice = f"start the hub again, which makes it anew for {address}, and give it to every site"
        return Finding(name=name, status="warn", found=f"it sends sites to {found.address}", advice=advice)
    return Finding(name=name, status="ok", found=f"it sends sites to {address}")


def certificate(name: str, hub: Hub) -> Finding:
    """Whether the server's certificate lasts."""
    advice = "start the hub again between two runs: `fedward hub up` renews it"
    return _lasts(name, hub.certificate_ends(), RENEW_BEFORE, advice)


def authority(name: str, hub: Hub) -> Finding:
    """Whether the hub's own authority lasts."""
    advice = "make a new hub in another folder in time, and give its card to every site"
    return _lasts(name, certificates.expires(read_file(hub.tls.authority)), ENDS_SOON, advice)


def _lasts(name: str, end: datetime, ahead: timedelta, advice: str) -> Finding:
    now = datetime.now(UTC)
    if end - now > ahead:
        return Finding(name=name, status="ok", found=f"good until {end:%Y-%m-%d}")
    if end > now:
        return Finding(name=name, status="warn", found=f"it ends on {end:%Y-%m-%d}", advice=advice)
    return Finding(name=name, status="fail", found=f"it expired on {end:%Y-%m-%d}", advice=advice)


def root_key(name: str, hub: Hub) -> Finding:
    """Whether the root's key is away from this machine."""
    path = hub.folder / ROOT / ROOT_KEY
    if not path.exists():
        return Finding(name=name, status="ok", found="not in the hub's folder")
    advice = "move the folder to a medium that is locked away: whoever has it can make any certificate"
    return Finding(name=name, status="warn", found=f"it is in {ROOT}/ of the hub's folder", advice=advice)


def issuing(name: str, hub: Hub) -> Finding:
    """Whether the authority below the root lasts, and its lists are whole. Raises SettingsError."""
    end, now = hub.issuing.current().certificate.not_valid_after_utc, datetime.now(UTC)
    if end - now > ENDS_SOON:
        return Finding(name=name, status="ok", found=f"good until {end:%Y-%m-%d}")
    advice = "fetch the root's key, then `fedward hub rotate`"
    return Finding(name=name, status="warn", found=f"it ends on {end:%Y-%m-%d}", advice=advice)


def gateway(name: str, hub: Hub) -> Finding:
    """Whether nginx is there, and answers where the hub is up, or can listen where it is not.

    Raises SettingsError where it is not installed.
    """
    opened = Gateway(hub)
    program = opened.command()[0]
    if hub.pid() is None:
        for section, listens in hub.settings.listening().items():
            if _is_taken(listens):
                advice = f"end that program, or set another [{section}] listen in {SETTINGS}"
                return Finding(name=name, status="fail", found=f"another program holds {listens}", advice=advice)
        return Finding(name=name, status="ok", found=f"{program} is there; it is not up")
    if opened.answers():
        return Finding(name=name, status="ok", found=f"it answers for {hub.address}, with the hub's own certificate")
    advice = "logs/gateway-errors.log and logs/api.log in the hub's folder say why not"
    return Finding(name=name, status="fail", found="`fedward hub up` runs, its gateway does not answer", advice=advice)


def _is_taken(listens: str) -> bool:
    """Whether somebody listens there; a port below 1024 may be the hub's alone to bind (CAP_NET_BIND_SERVICE)."""
    try:
        with listener(listens):
            return False
    except OSError as error:
        return error.errno == errno.EADDRINUSE


def pages(name: str, hub: Hub) -> Finding:
    """Whether the certificate that people's browsers see lasts. Raises SettingsError where it cannot be read."""
    dashboard = hub.settings.dashboard
    if dashboard is None:
        return Finding(name=name, status="ok", found="this hub has none")
    if not dashboard.certificate:
        return Finding(name=name, status="ok", found=f"{dashboard.address}, with the hub's own certificate")
    end, now = hub.pages_ends(), datetime.now(UTC)
    if end - now > SHOWN_AHEAD:
        return Finding(name=name, status="ok", found=f"{dashboard.address}, certificate good until {end:%Y-%m-%d}")
    advice = f"bring a new one: the hub does not renew what [dashboard] certificate of {SETTINGS} names"
    if end > now:
        return Finding(name=name, status="warn", found=f"its certificate ends on {end:%Y-%m-%d}", advice=advice)
    return Finding(name=name, status="fail", found=f"its certificate expired on {end:%Y-%m-%d}", advice=advice)


def hub_disk(name: str, hub: Hub) -> Finding:
    """Whether there is room for checkpoints, and for models on their way."""
    return disk(hub.folder, name=name, where="the hub's folder")


def store(name: str, hub: Hub) -> Finding:
    """Whether the database opens and is up to date. Raises SettingsError where it does not."""
    with hub.store() as opened:
        sites, runs = len(opened.sites()), len(opened.runs())
    return Finding(name=name, status="ok", found=f"it opens; sites enrolled: {sites}, runs: {runs}")


def audit_log(name: str, hub: Hub) -> Finding:
    """Whether the whole audit log is as this hub wrote it. Raises AuditError where it is missing."""
    if not hub.audit_file.exists():
        hub.audit()  # which says so
    key = hub.audit_key
    try:
        found = survey(hub.audit_file, fingerprint=pki.fingerprint(key))
    except AuditError as error:
        advice = "keep it, ask who did it, and restore it from a backup"
        return Finding(name=name, status="fail", found=str(error), advice=advice)
    return Finding(name=name, status="ok", found=f"whole; entries: {found.entries}, the first of {found.first[:10]}")


# Its server ----------------------------------------------------------------------------------------------------------


def programs(name: str, _hub: Hub) -> Finding:
    """Whether Flower's programs are beside this Python."""
    folder = Path(sys.executable).parent
    missing = [program for program in PROGRAMS if shutil.which(program, path=str(folder)) is None]
    if missing:
        advice = "pip install 'fedward[hub]' into the environment that runs `fedward`"
        return Finding(name=name, status="fail", found=f"{' and '.join(missing)} missing", advice=advice)
    found = f"{' and '.join(PROGRAMS)} of Flower {metadata.version('flwr')}; Fedward {__version__}"
    return Finding(name=name, status="ok", found=found)


def port(name: str, hub: Hub) -> Finding:
    """Whether the hub's port is free for it, or its own already."""
    if (pid := hub.pid()) is not None:
        return Finding(name=name, status="ok", found=f"{hub.port} is for process {pid}, which is `fedward hub up`")
    try:
        with socket.create_server((HOST, hub.port)):
            return Finding(name=name, status="ok", found=f"{hub.port} is free")
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            found, advice = f"{hub.port} may not be used ({error.strerror})", f"set another [hub] port in {SETTINGS}"
            return Finding(name=name, status="fail", found=found, advice=advice)
    if hub.link.healthy() and not marked(hub.link.mark):
        found, advice = f"another copy of this hub is up, and holds {hub.port}", "never let two copies be up at a time"
        return Finding(name=name, status="fail", found=found, advice=advice)
    if hub.link.healthy():
        found, advice = f"a SuperLink that a killed hub left holds {hub.port}", "`fedward hub up` ends it first"
        return Finding(name=name, status="warn", found=found, advice=advice)
    advice = f"end that program, or set another [hub] port in {SETTINGS}"
    return Finding(name=name, status="fail", found=f"another program holds {hub.port}", advice=advice)


def superlink(name: str, hub: Hub) -> Finding:
    """Whether the SuperLink answers with a certificate of the hub's authority."""
    if hub.pid() is None:
        return Finding(name=name, status="warn", found="it is not up", advice="start it with `fedward hub up`")
    if hub.link.healthy():
        return Finding(name=name, status="ok", found="it answers, with the hub's own certificate")
    advice = f"wait a moment; {hub.link.log_file.name} in the hub's logs says why not"
    return Finding(
        name=name, status="fail", found="`fedward hub up` runs, its SuperLink does not answer", advice=advice
    )


def clock(name: str, _hub: Hub) -> Finding:
    """Whether somebody keeps this machine's clock right: its time is what every site signs with."""
    state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    if 0 <= state < _NOT_SYNCHRONISED or _TIMESYNCD.exists():
        return Finding(name=name, status="ok", found="synchronised")
    found = "not synchronised, says the kernel" if state == _NOT_SYNCHRONISED else "nobody says whether it is right"
    advice = "run an NTP client (timedatectl set-ntp true); sites whose clocks differ go by the hub's"
    return Finding(name=name, status="warn", found=found, advice=advice)


CHECKS: Mapping[str, Check] = {
    "hub folder": private_folders,
    "hub keys": keys,
    "hub card": card,
    "hub certificate": certificate,
    "hub authority": authority,
    "hub disk": hub_disk,
    "hub database": store,
    "audit log": audit_log,
    "programs": programs,
    "port": port,
    "SuperLink": superlink,
    "clock": clock,
}

GATEWAY_CHECKS: Mapping[str, Check] = {
    "root key": root_key,
    "issuing authority": issuing,
    "gateway": gateway,
    "pages": pages,
}
