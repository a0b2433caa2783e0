"""A hub's folder: its settings, keys, card, database, audit log, and the sites that it knows.

    hub.toml      [hub] name, host, port
    hub.json      the hub's card, which sites need
    keys/         the authority, the server's certificate, the key that signs the audit log
    store.sqlite  runs, rounds, sites
    flower/       the SuperLink's own
    runs/RUN/     study.json, events.jsonl, checkpoints, run.json
    models/       trained models with which a study may begin
    logs/         hub.log, superlink.log
    audit.jsonl   who was enrolled, which run was started, how it ended
    hub.lock      held by `fedward hub up`

The hub listens on loopback only: what faces hospitals is a gateway's to do. The folder is its owner's alone (0700).
"""

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

from fedward_common import pki
from fedward_common.audit import NAME as AUDIT
from fedward_common.audit import AuditLog
from fedward_common.cards import HubCard, SiteCard
from fedward_common.errors import SettingsError, UsageError
from fedward_server.hub_settings import DEFAULT_PORT, LOOPBACK, SETTINGS, checked, read_file, read_settings
from fedward_server.locks import holder
from fedward_server.store import SiteRow, Store
from fedward_server.superlink import HOST, SuperLink, Tls

CARD = "hub.json"
LOCK = "hub.lock"
RENEW_BEFORE = timedelta(days=30)


@dataclass(frozen=True, kw_only=True, slots=True)
class Hub:
    """One hub. `folder` is absolute."""

    folder: Path
    name: str
    port: int

    @classmethod
    def init(cls, folder: Path, *, name: str | None = None, port: int | None = None) -> Self:
        """Make a new hub in a folder that is empty or not there. Raises SettingsError in words."""
        folder = folder.resolve()
        port = DEFAULT_PORT if port is None else port
        settings = checked({"hub": {"name": _slug(folder.name) if name is None else name, "port": port}})
        hub = cls(folder=folder, name=settings.name, port=settings.port)
        try:
            _claim(folder)
            hub._fill()
        except OSError as error:
            raise SettingsError(
                f"no hub can be made in {folder} ({error.strerror}): put that right, or name another folder"
            ) from None
        return hub

    @classmethod
    def open(cls, folder: Path) -> Self:
        """The hub of a folder. Raises SettingsError in words; writes nothing."""
        folder = folder.resolve()
        settings = read_settings(folder)
        return cls(folder=folder, name=settings.name, port=settings.port)

    def _fill(self) -> None:
        """Write everything, the settings last: without them the folder is no hub."""
        for path in (self.keys, self.runs, self.logs, self.home):
            path.mkdir(mode=0o700)
        authority = pki.make_authority(self.name)
        key, certificate = pki.authority_pem(authority)
        pki.write_private(self.keys / "ca.key", key)
        pki.write_public(self.tls.authority, certificate)
        pki.write_private(self.keys / "hub.key", pki.make_signing_key())
        self.renew_certificate()
        self.renew_card()
        self.store().close()
        self.audit()
        text = f'[hub]\nname = "{self.name}"\nhost = "{HOST}"\nport = {self.port}\n'
        pki.write_public(self.folder / SETTINGS, text.encode())

    # What is where ---------------------------------------------------------------------------------------------------

    @property
    def keys(self) -> Path:
        """The folder of its keys."""
        return self.folder / "keys"

    @property
    def card(self) -> Path:
        """Its card's file."""
        return self.folder / CARD

    @property
    def store_file(self) -> Path:
        """Its database's file."""
        return self.folder / "store.sqlite"

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
        """Its database, opened."""
        return Store.open(self.store_file)

    def audit(self) -> AuditLog:
        """Its audit log."""
        return AuditLog(self.folder / AUDIT, pki.load_signing_key(self.keys / "hub.key"), self.name)

    def pid(self) -> int | None:
        """The process of its `fedward hub up`, None where it is not up."""
        return holder(self.lock)

    # Certificate and card --------------------------------------------------------------------------------------------

    def certificate_ends(self) -> datetime:
        """When the server's certificate ends (UTC)."""
        return pki.expires(read_file(self.tls.certificate))

    def renew_certificate(self) -> bool:
        """Issue the server's certificate anew where there is none or it ends within 30 days; whether it did."""
        tls = self.tls
        if tls.certificate.exists() and self.certificate_ends() > datetime.now(UTC) + RENEW_BEFORE:
            return False
        key, certificate = pki.issue_server(self._authority(), LOOPBACK)
        tls.certificate.unlink(missing_ok=True)  # so that a certificate which is there belongs to the key
        pki.write_private(tls.key, key, replace=True)
        pki.write_public(tls.certificate, certificate)
        return True

    def renew_card(self) -> bool:
        """Write the hub's card where there is none or its address is another; whether it did."""
        address = f"{HOST}:{self.port}"
        if self.card.exists() and HubCard.read(self.card).address == address:
            return False
        signing = pki.load_signing_key(self.keys / "hub.key")
        HubCard.make(self.name, address, self._authority(), signing).write(self.card)
        return True

    def _authority(self) -> pki.Authority:
        return pki.load_authority(pki.read_private(self.keys / "ca.key"), read_file(self.tls.authority))

    # Sites -----------------------------------------------------------------------------------------------------------

    def enrol(self, card: SiteCard) -> SiteRow:
        """Let a site take part; one that is known by this card already stays as it is.

        Raises SettingsError where its name or a key of it is another's.
        """
        row = SiteRow(
            site=card.site,
            fingerprint=card.fingerprint,
            node_key=card.node_key,
            signing_key=card.signing_key,
            added=datetime.now(UTC).isoformat(timespec="milliseconds"),
        )
        with self.store() as store:
            for known in store.sites().values():
                if (known.site, known.signing_key, known.node_key) == (row.site, row.signing_key, row.node_key):
                    return known
                if known.site == row.site:
                    raise SettingsError(
                        f"{row.site} is enrolled with other keys (fingerprint {known.fingerprint}): if the site made "
                        f"new ones, forget it first, with `fedward hub forget {self.folder} {row.site}`"
                    )
                if row.signing_key == known.signing_key or row.node_key == known.node_key:
                    raise SettingsError(f"the card of {row.site} holds a key of {known.site}: each site makes its own")
            self.audit().append("site enrolled", {"site": row.site, "fingerprint": row.fingerprint})
            store.add_site(row)
        return row

    def forget(self, site: str) -> SiteRow:
        """Let a site take part no more; what it was. Raises UsageError for one that is not enrolled."""
        with self.store() as store:
            row = enrolled(store.sites(), site)
            self.audit().append("site forgotten", {"site": site, "fingerprint": row.fingerprint})
            store.remove_site(site)
        return row


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


def _slug(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:63].rstrip("-") or "hub"
