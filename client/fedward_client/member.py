"""A site as a member of a federation: its keys, its hub, its ledger and log, and the desk that these make.

`join` makes the keys, on this machine, and the two folders of the network side; nothing here talks to a network.
"""

import json
import os
import shutil
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import BaseModel, ConfigDict, ValidationError

from fedward_client.ledger import Asked, Ledger
from fedward_client.outbox import QUARANTINED, Outbox
from fedward_client.pace import Window
from fedward_client.policy import of_site
from fedward_client.site import SETTINGS, Site
from fedward_client.site_state import FOLDER, RunState
from fedward_client.spool import IN, OUT, Parcel
from fedward_common import audit, pki
from fedward_common.audit import AuditLog
from fedward_common.cards import HubCard, SiteCard
from fedward_common.errors import SettingsError, UsageError
from fedward_common.logs import Format

SIGNING_KEY = "signing.key"
AUDIT = "audit.jsonl"
WORK_SOCKET, CONTROL_SOCKET = "work.sock", "control.sock"
NODE_KEY, HUB_CARD, LINK_SETTINGS, LINK_STATUS = "node.key", "hub.json", "link.json", "status.json"
TLS = "tls.pem"  # key and certificate for the hub's gateway
NODE, PENDING = "node.json", "pending"
TRAFFIC = "traffic.json"  # what the network side counts
SHOWN = 5  # of the updates that a hub refused, the last

_SITE_TOML = """\
# This hospital. Every key and its default: docs/site.md

[site]
name = {name}

[policy]
# What may leave: counts of patients, updates of models, evaluations under the small-cell rule. With none, nothing does.
outputs = ["counts", "update", "evaluation"]
"""


class LinkSettings(BaseModel):
    """What the network side is told: its site's name, the paths it must not see, what its spool and its hours allow."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    site: str
    spool: Path
    spool_bytes: int
    hidden: tuple[Path, ...]
    window: Window | None = None  # in which models travel; None: at all hours
    bytes_per_minute: int | None = None
    log_format: Format = "text"

    @classmethod
    def read(cls, link: Path) -> Self:
        """The settings in a link folder. Raises SettingsError where there are none."""
        try:
            return cls.model_validate_json((link / LINK_SETTINGS).read_bytes())
        except FileNotFoundError:
            raise SettingsError(f"{link.name} is no link folder of a site: run `fedward site init` first") from None
        except (OSError, ValidationError):
            raise SettingsError(f"{LINK_SETTINGS} is damaged: run `fedward site init` again; keys are kept") from None


def join(
    folder: Path,
    hub: HubCard | None,
    *,
    name: str | None = None,
    state: Path | None = None,
    new_node_key: bool = False,
) -> tuple[Site, SiteCard]:
    """Make a hospital's folder a member: settings where there are none, keys where there are none, the hub's card.

    Gives the site and the card for the hub's operator. What is there already is kept, keys above all; only the node's
    key is made anew where that is asked for, since a hub that forgot a site never takes its node's key again.
    """
    if folder.is_dir() and not (folder / SETTINGS).exists():
        _write_settings(folder, name)
    site = Site.open(folder, state=state)
    if name is not None and site.name != name:
        raise UsageError(f"{SETTINGS} already names this site '{site.name}': change it there, or leave --name out")
    site.ensure_state()
    make_folders(site)
    _ = site.key  # first: beside a signing key it is never made
    if not (site.state / SIGNING_KEY).exists():
        pki.write_private(site.state / SIGNING_KEY, pki.make_signing_key())
    if new_node_key or not (site.link / NODE_KEY).exists():
        pki.write_private(site.link / NODE_KEY, pki.make_node_key(), replace=new_node_key)
        (site.link / NODE).unlink(missing_ok=True)
    key = pki.load_signing_key(site.state / SIGNING_KEY)
    if hub is not None:
        meet(site.link, hub)
    write_link_settings(site)
    AuditLog(site.state / AUDIT, key, site.name)
    node = pki.node_public_line(pki.load_node_key(site.link / NODE_KEY))
    return site, SiteCard.make(site.name, node, key)


def make_folders(site: Site) -> None:
    """The folders of the network side, made where they are not there."""
    for path in (site.link, site.spool, site.spool / IN, site.spool / OUT):
        path.mkdir(mode=0o700, exist_ok=True)


def meet(link: Path, card: HubCard) -> None:
    """Take a hub's card; what belongs to another goes: its id of the node, its certificate, its questions."""
    known = HubCard.read(link / HUB_CARD) if (link / HUB_CARD).exists() else None
    if known is not None and known.fingerprint != card.fingerprint:
        (link / NODE).unlink(missing_ok=True)
        (link / TLS).unlink(missing_ok=True)
        shutil.rmtree(link / PENDING, ignore_errors=True)
    card.write(link / HUB_CARD)


def _write_settings(folder: Path, name: str | None) -> None:
    text = _SITE_TOML.format(name=json.dumps(name or Site.open(folder).name))
    try:
        (folder / SETTINGS).write_text(text, "utf-8")
        Site.open(folder)
    except OSError as error:
        raise SettingsError(f"{SETTINGS} cannot be written into the hospital's folder: {error.strerror}") from None
    except SettingsError:
        (folder / SETTINGS).unlink()
        raise


def write_link_settings(site: Site) -> None:
    """Tell the network side what it must not see: the folders of images, labels and state."""
    settings = LinkSettings(
        site=site.name,
        spool=site.spool,
        spool_bytes=site.spool_bytes,
        hidden=tuple(sorted(private_paths(site))),
        window=site.link_window,
        bytes_per_minute=site.link_bytes_per_minute,
        log_format=site.log_format,
    )
    path = site.link / LINK_SETTINGS
    text = settings.model_dump_json(indent=1)
    if not path.exists() or path.read_text("utf-8") != text:
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_text(text, "utf-8")
        temporary.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """What the network side wrote into one of its files; empty where it has not, or a crash damaged it."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def private_paths(site: Site) -> set[Path]:
    """What only the data side may see: the hospital's folder, its data, its labels and its state."""
    paths = {site.folder, site.data, site.state}
    return paths | ({site.labels.file} if site.labels.file is not None else set())


@dataclass(frozen=True, slots=True)
class Member:
    """A site with its keys, ledger and log, opened."""

    site: Site
    key: Ed25519PrivateKey
    ledger: Ledger
    log: AuditLog

    @classmethod
    def open(cls, site: Site) -> Self:
        """Open a site that has joined. Raises SettingsError where it has not, or where its keys cannot be used."""
        if not (site.state / SIGNING_KEY).exists():
            raise SettingsError(
                f"site '{site.name}' has no keys yet: let it join a hub first, with `fedward site join`"
            )
        key = pki.load_signing_key(site.state / SIGNING_KEY)
        return cls(site, key, Ledger.open(site.state), AuditLog(site.state / AUDIT, key, site.name))

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the site's Ed25519 key: what a study's roster names."""
        return pki.fingerprint(self.key.public_key())

    def outbox(self, *, spool: bool) -> Outbox:
        """The site's door: towards the spool, or (a stock node's) towards this process."""
        outbox = Outbox(
            site=self.site.name,
            rules=of_site(self.site, self.ledger, self.fingerprint),
            max_update_norm=self.site.max_update_norm,
            log=self.log,
            spool=self.site.spool if spool else None,
            spool_bytes=self.site.spool_bytes,
            state=lambda study, run: RunState.of(self.site.state / FOLDER, study, run),
            ledger=self.ledger,
            min_cell=self.site.min_cell,
            tells_status=self.site.tells_status and bool(self.site.outputs),
        )
        outbox.tidy({Parcel.model_validate_json(text).sha256 for text in self.ledger.parcels()})
        return outbox

    def status(self) -> dict[str, Any]:
        """What a steward wants to see, as JSON; what a daemon does now is not in it."""
        declined = self.ledger.declined()
        return {
            "site": self.site.name,
            "fingerprint": self.fingerprint,
            "paused": self.ledger.paused(),
            "outputs": sorted(self.site.outputs),
            "approved": [
                {"study": a.study_id, "digest": a.digest, "until": a.until.isoformat(), "given": a.given}
                for a in self.ledger.approvals()
            ],
            "waiting": [
                {"study": asked.study_id, "digest": asked.digest, "asked": asked.asked} for asked in self.waiting()
            ],
            "declined": [
                {"study": d.study_id, "digest": d.digest, "state": d.state, "since": d.since, "reason": d.reason}
                for d in declined
            ],
            "quarantined": [{**entry.data, "time": entry.time} for entry in deque(self._refused(), maxlen=SHOWN)],
            "disk_free": shutil.disk_usage(self.site.state).free,
        }

    def waiting(self) -> list[Asked]:
        """The studies that a hub asked for and the steward has neither approved nor refused."""
        answered = {each.digest for each in self.ledger.approvals()}
        answered |= {each.digest for each in self.ledger.declined() if each.state == "refused"}
        return [asked for asked in self.ledger.studies() if asked.digest not in answered]

    def _refused(self) -> Iterator[audit.Entry]:
        """What the hub refused, from the audit log; nothing where there is none yet."""
        path = self.site.state / AUDIT
        return audit.entries(path, event=QUARANTINED) if path.exists() else iter(())
