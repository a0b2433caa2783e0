"""A hub's folder: its settings, keys, card, database, audit log, and the sites that it knows.

    hub.toml      its settings
    hub.json      the hub's card, which sites need
    keys/         the authorities, the servers' certificates, the key that signs the audit log
    store.sqlite  runs, rounds, sites, certificates
    gateway/      what nginx is told, where hospitals reach this hub
    flower/       the SuperLink's own
    runs/RUN/     study.json, events.jsonl, checkpoints, run.json
    models/       trained models with which a study may begin
    bulk/         models on their way, in chunks that nginx serves and takes
    cache/        which fonts there are, for pictures
    logs/         hub.log, superlink.log; of the gateway api.log, gateway.log and gateway-errors.log
    audit.jsonl   who was enrolled, which run was started, how it ended
    hub.lock      held by `fedward hub up`

The SuperLink listens on loopback only, with an authority of its own (`keys/ca.*`) that this machine trusts. Without
[gateway] in its settings that is all there is, for sites on the same machine; with it, nginx faces hospitals, with
certificates below the hub's root (`issuing`). The folder is its owner's alone (0700).
"""

import re
import shutil
import stat
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from fedward_common import certificates, pki
from fedward_common.audit import NAME as AUDIT
from fedward_common.audit import AuditLog
from fedward_common.cards import HubCard, SiteCard
from fedward_common.errors import AuditError, FedwardError, SettingsError, UsageError
from fedward_server.hub_settings import (
    DEFAULT_PORT,
    LOOPBACK,
    SETTINGS,
    GatewaySection,
    Settings,
    checked,
    read_file,
    read_settings,
)
from fedward_server.issuing import ROOT_KEY, Issuing
from fedward_server.locks import holder
from fedward_server.people import People
from fedward_server.register import Register
from fedward_server.store import SiteRow, Store
from fedward_server.superlink import HOST, SuperLink, Tls

CARD = "hub.json"
LOCK = "hub.lock"
ROOT = "root"
RENEW_BEFORE = timedelta(days=30)
GATEWAY_DAYS = 90


@dataclass(frozen=True, kw_only=True, slots=True)
class Hub:
    """One hub. `folder` is absolute."""

    folder: Path
    settings: Settings

    @property
    def name(self) -> str:
        """Its name."""
        return self.settings.hub.name

    @property
    def port(self) -> int:
        """The port of loopback where its SuperLink listens."""
        return self.settings.hub.port

    @property
    def gateway(self) -> GatewaySection | None:
        """Where hospitals reach it; None for a hub of this machine only."""
        return self.settings.gateway

    @classmethod
    def init(
        cls,
        folder: Path,
        *,
        name: str | None = None,
        port: int | None = None,
        address: str | None = None,
        listen: str | None = None,
        root: Path | None = None,
        dashboard: str | None = None,
    ) -> Self:
        """Make a new hub in a folder that is empty or not there. Raises SettingsError in words.

        With an `address`, "host:port", hospitals reach it there; the key of its root is then put into the folder
        `root`, FOLDER/root if none is named. With `dashboard`, "host:port", people reach its pages there.
        """
        folder = folder.resolve()
        document: dict[str, dict[str, object]] = {
            "hub": {
                "name": _slug(folder.name) if name is None else name,
                "port": DEFAULT_PORT if port is None else port,
            }
        }
        if address is not None:
            everywhere = f"0.0.0.0:{address.rpartition(':')[2]}"
            document["gateway"] = {"address": address, "listen": everywhere if listen is None else listen}
        if dashboard is not None:
            document["dashboard"] = {"address": dashboard, "listen": f"0.0.0.0:{dashboard.rpartition(':')[2]}"}
        hub = cls(folder=folder, settings=checked(document))
        root = folder / ROOT if root is None else root.resolve()
        try:
            _claim(folder)
            if hub.gateway is not None:
                _claim_root(root)
            with _undone(folder, root):
                hub._fill(root)
        except OSError as error:
            raise SettingsError(
                f"no hub can be made in {folder} ({error.strerror}): put that right, or name another folder"
            ) from None
        return hub

    @classmethod
    def open(cls, folder: Path) -> Self:
        """The hub of a folder. Raises SettingsError in words; writes nothing."""
        folder = folder.resolve()
        return cls(folder=folder, settings=read_settings(folder))

    def _fill(self, root: Path) -> None:
        """Write everything, the settings last: without them the folder is no hub."""
        for path in (self.keys, self.runs, self.logs, self.home):
            path.mkdir(mode=0o700)
        key, certificate = certificates.authority_pem(certificates.make_authority(self.name))
        pki.write_private(self.keys / "ca.key", key)
        pki.write_public(self.tls.authority, certificate)
        pki.write_private(self.keys / "hub.key", pki.make_signing_key())
        if self.gateway is not None:
            self.issuing.make(self.name, root)
        self.renew_certificate()
        self.renew_card()
        Store.open(self.store_file).close()
        self.audit_file.touch(mode=0o600)
        self.audit()
        pki.write_public(self.folder / SETTINGS, self.settings.toml().encode())

    # What is where ---------------------------------------------------------------------------------------------------

    @property
    def keys(self) -> Path:
        """The folder of its keys."""
        return self.folder / "keys"

    @property
    def gateway_pem(self) -> Path:
        """Key and certificate, with its chain, of what hospitals connect to."""
        return self.keys / "gateway.pem"

    @property
    def dashboard_pem(self) -> Path:
        """The same, of what people's browsers connect to."""
        return self.keys / "dashboard.pem"

    @property
    def issuing(self) -> Issuing:
        """Its authorities below the root, where hospitals reach it."""
        return Issuing(self.keys)

    @property
    def address(self) -> str:
        """Where sites reach it, "host:port"."""
        return f"{HOST}:{self.port}" if self.gateway is None else self.gateway.address

    @property
    def card(self) -> Path:
        """Its card's file."""
        return self.folder / CARD

    @property
    def store_file(self) -> Path:
        """Its database's file."""
        return self.folder / "store.sqlite"

    @property
    def audit_file(self) -> Path:
        """Its audit log's file."""
        return self.folder / AUDIT

    @property
    def audit_key(self) -> Ed25519PublicKey:
        """The key by which its audit log is checked."""
        return pki.load_signing_key(self.keys / "hub.key").public_key()

    @property
    def home(self) -> Path:
        """The SuperLink's folder."""
        return self.folder / "flower"

    @property
    def runs(self) -> Path:
        """The folder of its runs' folders."""
        return self.folder / "runs"

    @property
    def logs(self) -> Path:
        """The folder of its logs."""
        return self.folder / "logs"

    @property
    def lock(self) -> Path:
        """What `fedward hub up` holds."""
        return self.folder / LOCK

    @property
    def tls(self) -> Tls:
        """The server's certificate and what belongs to it."""
        return Tls(certificate=self.keys / "server.pem", key=self.keys / "server.key", authority=self.keys / "ca.pem")

    @property
    def link(self) -> SuperLink:
        """Its SuperLink."""
        return SuperLink(
            home=self.home,
            port=self.port,
            log_file=self.logs / "superlink.log",
            options=("--enable-supernode-auth",),
            tls=self.tls,
            log_level="WARNING",  # at INFO it writes lines for every look of every site
        )

    def store(self) -> Store:
        """Its database, opened. Raises SettingsError where it is missing: a new one would know no site and no run."""
        if not self.store_file.exists():
            raise SettingsError(f"{self.store_file.name} is missing: restore it from a backup")
        return Store.open(self.store_file)

    def audit(self) -> AuditLog:
        """Its audit log. Raises AuditError where it is missing: one begun anew would hide that it is gone."""
        if not self.audit_file.exists():
            raise AuditError(
                f"{AUDIT} is missing: restore it from a backup, or, where there is none, begin a new one with "
                f"`touch {self.audit_file}`"
            )
        return AuditLog(self.audit_file, pki.load_signing_key(self.keys / "hub.key"), self.name)

    def pid(self) -> int | None:
        """The process of its `fedward hub up`, None where it is not up."""
        return holder(self.lock)

    def check_private(self) -> None:
        """Raises SettingsError where others can enter its folder or its keys', or read the pages' key."""
        if not self.keys.exists():
            raise SettingsError(f"{self.keys.name} is missing: restore it from a backup")
        for folder in (self.folder, self.keys):
            if (mode := stat.S_IMODE(folder.stat().st_mode)) & 0o077:
                raise SettingsError(
                    f"others can enter '{folder.name}' (mode {mode:04o}): chmod 700 it, for it holds what no other "
                    "user of this machine may read"
                )
        brought = self.settings.dashboard.key if self.settings.dashboard else ""
        with suppress(OSError):  # nginx says so, who reads it
            if brought and self._brought(brought).stat().st_mode & 0o007:  # its group may be that of such keys
                raise SettingsError(f"everybody can read what [dashboard] key of {SETTINGS} names: chmod 640 it")

    def _brought(self, name: str) -> Path:
        """A file of somebody else's that the settings name, as nginx finds it."""
        return (self.folder / "gateway" / name).resolve()

    def without_folder(self, words: str) -> str:
        """A sentence, without where on its machine the hub lies."""
        return words.replace(f"{self.folder}/", "").replace(str(self.folder), "HUB")

    # Certificate and card --------------------------------------------------------------------------------------------

    def certificate_ends(self) -> datetime:
        """When the server's certificate ends (UTC)."""
        return certificates.expires(read_file(self.tls.certificate))

    def renew_certificate(self) -> bool:
        """Issue the server's certificate anew where there is none or it ends within 30 days; whether it did."""
        tls = self.tls
        if tls.certificate.exists() and self.certificate_ends() > datetime.now(UTC) + RENEW_BEFORE:
            return False
        key, certificate = certificates.issue_server(self._authority(), LOOPBACK)
        tls.certificate.unlink(missing_ok=True)  # so that a certificate which is there belongs to the key
        pki.write_private(tls.key, key, replace=True)
        pki.write_public(tls.certificate, certificate)
        return True

    def renew_gateway(self) -> bool:
        """Issue the gateway's certificate anew where there is none, it ends soon, or its name or issuer is another.

        Whether it did.
        """
        assert self.gateway is not None
        return self._renew_facing(self.gateway_pem, self.gateway.host)

    def renew_dashboard(self) -> bool:
        """The same for the dashboard's; nothing where it has none, or one of somebody else's."""
        pages = self.settings.dashboard
        return pages is not None and not pages.certificate and self._renew_facing(self.dashboard_pem, pages.host)

    def gateway_ends(self) -> datetime:
        """When the certificate that hospitals see ends (UTC)."""
        return certificates.load_chain(pki.read_private(self.gateway_pem))[0].not_valid_after_utc

    def shown_ends(self) -> datetime | None:
        """When the certificate ends (UTC) that sites are shown; None for one that is still to be made, at the start."""
        if self.gateway is None:
            return self.certificate_ends()
        return self.gateway_ends() if self.gateway_pem.exists() else None

    def pages_ends(self) -> datetime:
        """When the certificate that people's browsers see ends (UTC), one of its own or of somebody else's."""
        assert self.settings.dashboard is not None
        brought = self.settings.dashboard.certificate
        path = self._brought(brought) if brought else self.dashboard_pem
        return certificates.load_chain(read_file(path))[0].not_valid_after_utc

    def _renew_facing(self, path: Path, host: str) -> bool:
        """One file holds key and chain, so that they always belong together."""
        issuer = self.issuing.current().certificate
        if path.exists():
            own, above = certificates.load_chain(pki.read_private(path))[:2]
            ends, until = own.not_valid_after_utc, issuer.not_valid_after_utc  # beyond which none would last
            lasts = ends == until or ends > datetime.now(UTC) + RENEW_BEFORE
            if lasts and above == issuer and certificates.is_for(own, host):
                return False
        key, chain = self.issuing.for_server([host], days=GATEWAY_DAYS)
        pki.write_private(path, key + chain, replace=True)
        return True

    def renew_card(self) -> bool:
        """Write the hub's card where there is none, or its address or its root's list is another; whether it did.

        With every authority the root makes its list anew.
        """
        taken_back = None if self.gateway is None else read_file(self.issuing.root_list)
        if self.card.exists():
            known = HubCard.read(self.card)
            if (known.address, known.taken_back) == (self.address, taken_back and taken_back.decode()):
                return False
        signing = pki.load_signing_key(self.keys / "hub.key")
        if self.gateway is None:
            card = HubCard.make(self.name, self.address, self._authority(), signing)
        else:
            root = read_file(self.issuing.root)
            card = HubCard.make(self.name, self.address, self.issuing.current(), signing, root, taken_back=taken_back)
        card.write(self.card)
        return True

    def _authority(self) -> certificates.Authority:
        return certificates.load_authority(pki.read_private(self.keys / "ca.key"), read_file(self.tls.authority))

    # Sites -----------------------------------------------------------------------------------------------------------

    def enrol(self, card: SiteCard) -> SiteRow:
        """Let a site take part; one that is known by this card already stays as it is.

        Raises SettingsError where its name or a key of it is another's.
        """
        with self.store() as store:
            known = store.sites()
            row = self.row_of(card, known)
            if row not in known.values():
                self.audit().append("site enrolled", {"site": row.site, "fingerprint": row.fingerprint})
                store.add_site(row)
        return row

    def row_of(self, card: SiteCard, known: Mapping[str, SiteRow], *, again: bool = False) -> SiteRow:
        """What the database is to hold of a site, or holds; `again` lets a known one bring a new node key.

        Raises SettingsError where its name or a key of it is another's.
        """
        row = SiteRow(
            site=card.site,
            fingerprint=card.fingerprint,
            node_key=card.node_key,
            signing_key=card.signing_key,
            added=datetime.now(UTC).isoformat(timespec="milliseconds"),
        )
        own = known.get(row.site)
        if own is not None and own.signing_key == row.signing_key and own.node_key == row.node_key:
            return own
        if own is not None and not (again and own.signing_key == row.signing_key):
            raise SettingsError(
                f"{row.site} is enrolled with other keys (fingerprint {own.fingerprint}): if the site made new ones, "
                f"forget it first, with `fedward hub forget {self.folder} {row.site}`"
            )
        for other in known.values():
            if other.site != row.site and (row.signing_key == other.signing_key or row.node_key == other.node_key):
                raise SettingsError(f"the card of {row.site} holds a key of {other.site}: each site makes its own")
        return row if own is None else replace(row, added=own.added)

    def forget(self, site: str, *, by: str | None = None) -> list[str]:
        """Let a site take part no more, take its certificates back, and let its stewards log in no more; their names.

        `by` is the person who says so, None at the hub's own terminal.
        Raises UsageError for one that is not enrolled.
        """
        with self.store() as store:
            row = enrolled(store.sites(), site)
            self.audit().append("site forgotten", {"site": site, "fingerprint": row.fingerprint, "by": by})
            Register(store).revoke(site, datetime.now(UTC).isoformat(timespec="milliseconds"))
            stewards = People(store).remove_stewards(site)
            for steward in stewards:
                self.audit().append("person removed", {"person": steward, "by": by})
            store.remove_site(site)  # last: whatever fails before, the same call goes on
        return stewards


def enrolled(sites: Mapping[str, SiteRow], site: str) -> SiteRow:
    """An enrolled site by its name; UsageError for one that is not."""
    try:
        return sites[site]
    except KeyError:
        known = ", ".join(sites) or "none yet"
        raise UsageError(f"{site} is not enrolled at this hub; enrolled are: {known}") from None


def _claim(folder: Path) -> None:
    if (folder / SETTINGS).exists():
        raise SettingsError(f"{folder} is a hub already: name another folder")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise SettingsError(f"{folder} holds something else: name an empty folder, or one that is not there")
    folder.chmod(0o700)


def _claim_root(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        taken = (folder / ROOT_KEY).exists()
    except OSError as error:
        raise SettingsError(
            f"the root's key cannot be put into {folder} ({error.strerror}): name another folder with --root"
        ) from None
    if taken:
        raise SettingsError(f"{folder} holds the key of a root already: name another folder with --root")


@contextmanager
def _undone(folder: Path, root: Path) -> Iterator[None]:
    """What the block makes in a hub's folder and its root's is removed where it fails: a second try finds it empty."""
    try:
        yield
    except (OSError, FedwardError):
        for path in folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        with suppress(OSError):
            (root / ROOT_KEY).unlink()
        raise


def _slug(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:63].rstrip("-") or "hub"
