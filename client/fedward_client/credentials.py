"""A site's certificate for a hub with a gateway: asked for, kept in its link folder, renewed there in time.

`tls.pem` holds the private key, which was made here and never leaves, and the certificate with its chain: one file, so
that they always belong together. `asked.key` is the key of a request that was not answered yet, `asked-node.key` the
new node key in it, if any: until a hub lets the site in, what there is stays as it is. A hub of this machine only has
no gateway and wants no certificate.
"""

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import httpx
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from pydantic import BaseModel, ValidationError

from fedward_client.hub_api import LIMIT_S, NOT_AGREED, HubApi
from fedward_client.member import HUB_CARD, NODE, NODE_KEY, TLS, meet
from fedward_client.probe import context, untrusting
from fedward_client.reach import explain
from fedward_common import certificates, pki
from fedward_common.cards import MAX_CARD_BYTES, HubCard, SiteCard
from fedward_common.errors import LinkError, SettingsError
from fedward_common.joining import CERTIFICATE, JOIN, Invitation, Joined, JoinRequest, Renewal, Renewed, digest

ASKED, ASKED_NODE = "asked.key", "asked-node.key"
Answer = TypeVar("Answer", bound=BaseModel)
RENEWED_AT = 1 / 3  # of a certificate's life, still to come


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a link folder holds to show the hub's gateway."""

    link: Path

    @property
    def file(self) -> Path:
        """Key and certificate."""
        return self.link / TLS

    def certificate(self) -> x509.Certificate | None:
        """The certificate; None where there is none. Raises SettingsError where the file cannot be used."""
        return certificates.load_certificate(pki.read_private(self.file)) if self.file.exists() else None

    def is_due(self) -> bool:
        """Whether the certificate is to be renewed now."""
        own = self.certificate()
        if own is None:
            return False
        life = own.not_valid_after_utc - own.not_valid_before_utc
        return datetime.now(UTC) > own.not_valid_after_utc - life * RENEWED_AT

    def show(self, trust: ssl.SSLContext) -> ssl.SSLContext:
        """Have TLS show the certificate, where there is one, in connections that it makes from now on."""
        if self.file.exists():
            pki.read_private(self.file)
            try:
                trust.load_cert_chain(self.file)
            except ssl.SSLError:
                raise SettingsError(
                    f"{self.file.name} is damaged: ask the hub's operator for a code, then `fedward site join`"
                ) from None
        return trust

    # Asking for one --------------------------------------------------------------------------------------------------

    def with_node_key(self, site: SiteCard, key: Ed25519PrivateKey, secret: str, *, anew: bool) -> SiteCard:
        """The site's card to ask with: with a new node key where one is wanted, or was when this code asked before."""
        path, mark = self.link / ASKED_NODE, f"# {digest(secret)}\n".encode()
        if not path.exists() or not pki.read_private(path).startswith(mark):
            path.unlink(missing_ok=True)  # another code's, which the last question has overtaken
            if not anew:
                return site
            pki.write_private(path, mark + pki.make_node_key())
        return SiteCard.make(site.site, pki.node_public_line(pki.load_node_key(path)), key)

    def ask(self, card: HubCard, site: SiteCard, key: Ed25519PrivateKey, secret: str) -> bool:
        """Ask a hub to let this site in; whether it has, with all that belongs to it then in its place.

        The same question is asked again until the hub's operator has answered. Raises LinkError in words.
        """
        asked = self.asking(card, site, key, secret)
        return self.take(card, _call(card, JOIN, asked, Joined, context(card.ca, card.distrusted)))

    def asking(self, card: HubCard, site: SiteCard, key: Ed25519PrivateKey, secret: str) -> JoinRequest:
        """What this site asks a hub; the same until it is answered."""
        return JoinRequest.make(site, self._request(site.site, card)[1], secret, key)

    def take(self, card: HubCard, answer: Joined) -> bool:
        """Take the hub's answer to what was asked; whether it let this site in. Raises LinkError for a false one.

        Cut off on its way, it is done by the same question asked again.
        """
        if answer.certificate is None:
            return False
        own, _ = self._request("", card)
        held = _held(card, own, answer.certificate)
        meet(self.link, card)
        node = self.link / ASKED_NODE
        if node.exists():
            pki.write_private(self.link / NODE_KEY, pki.read_private(node).partition(b"\n")[2], replace=True)
            (self.link / NODE).unlink(missing_ok=True)
        pki.write_private(self.file, held, replace=True)
        node.unlink(missing_ok=True)
        (self.link / ASKED).unlink()
        return True

    def renew(self, card: HubCard, site: str) -> None:
        """Take the next certificate, with a new key, in the place of the one there is. Raises LinkError."""
        own, request = certificates.make_request(site)
        answer = _call(
            card, CERTIFICATE, Renewal(request=request.decode()), Renewed, self.show(context(card.ca, card.distrusted))
        )
        pki.write_private(self.file, _held(card, own, answer.certificate), replace=True)

    def newer(self, card: HubCard) -> HubCard:
        """The hub's card as the hub shows it now, kept, where its root took more authorities back; else the same.

        Shows no certificate, which may be one of theirs. Raises LinkError.
        """
        shown = _card_at(card.address, context(card.ca, card.distrusted))
        if (shown.fingerprint, shown.address) != (card.fingerprint, card.address):
            return card
        if not shown.distrusted > card.distrusted:  # whoever holds such an authority may show an older one
            return card
        shown.write(self.link / HUB_CARD)
        return shown

    def _request(self, site: str, card: HubCard) -> tuple[bytes, str]:
        """The key of the last request and the request; made anew where there is none, or it was another hub's."""
        path, mark = self.link / ASKED, f"# {card.fingerprint}\n".encode()
        if path.exists():
            data = pki.read_private(path)
            if data.startswith(mark):
                own, begin, request = data.removeprefix(mark).partition(b"-----BEGIN CERTIFICATE REQUEST-----")
                return own, (begin + request).decode()
        own, made = certificates.make_request(site)
        pki.write_private(path, mark + own + made, replace=True)
        return own, made.decode()


def _held(card: HubCard, own: bytes, chain: str) -> bytes:
    """Key and certificate as one file. Raises LinkError unless they are one pair, below the hub's root."""
    try:
        found = certificates.load_chain(chain.encode())
        above = [*found[1:], certificates.load_certificate(card.ca.encode())]
    except SettingsError:
        found, above = [], []
    linked = all(certificates.issued_by(one, issuer) for one, issuer in zip(found, above, strict=True))
    if not found or not linked or found[0].public_key() != load_pem_private_key(own, None).public_key():
        raise LinkError("the hub sent a certificate that is not for this site's key: tell its operator")
    return own + certificates.pem(*found)


def hub_of(invitation: Invitation) -> HubCard:
    """The card of the hub that a code names: taken over a connection that proves nothing, proved by its fingerprint.

    Raises LinkError where it cannot be had or is another hub's.
    """
    card = _card_at(invitation.address, untrusting())
    if (card.fingerprint, card.address) != (invitation.fingerprint, invitation.address):
        raise LinkError(
            f"whoever answers at {invitation.address} is not the hub that made this code: somebody stands between, or "
            "the hub was made anew; ask its operator, by telephone"
        )
    if len(card.distrusted) < invitation.taken_back:
        raise LinkError(
            f"whoever answers at {invitation.address} shows a card from before the hub took back what was stolen: "
            "somebody stands between; tell its operator, by telephone"
        )
    return card


def _card_at(address: str, trust: ssl.SSLContext) -> HubCard:
    try:
        with httpx.Client(verify=trust, timeout=LIMIT_S) as client:
            answer = client.get(f"https://{address}{JOIN}").raise_for_status()
    except (httpx.HTTPError, OSError) as error:
        raise LinkError(explain(error, address)) from error
    try:
        return HubCard.parse(answer.content[: MAX_CARD_BYTES + 1], f"the card of the hub {address}")
    except SettingsError as error:
        raise LinkError(str(error)) from None


def _call(card: HubCard, path: str, said: BaseModel, answer: type[Answer], trust: ssl.SSLContext) -> Answer:
    with HubApi(card, trust) as hub:
        try:
            return answer.model_validate_json(hub.post(path, said))
        except ValidationError:
            raise LinkError(NOT_AGREED) from None
