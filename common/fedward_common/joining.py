"""How a site joins a hub that faces hospitals: the code that it is given, what it sends, what it gets.

A code is a secret that counts once, with the hub's address and the fingerprint of its root in it, so that whoever got
it unchanged cannot be led to another hub, and how many authorities that root had taken back, so that whoever
stole one of these cannot pass for the hub. It shows that a site was invited, not who used it: that is what the two
people compare by telephone, the fingerprint of the key which signed what was sent.
"""

import base64
import binascii
import hashlib
import re
import secrets
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Annotated, Literal, Self

import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from fedward_common import certificates, pki
from fedward_common.cards import SiteCard, checked_address
from fedward_common.errors import RecordError, UsageError

JOIN, CERTIFICATE = "/v1/join", "/v1/site/certificate"
SHOWN_AHEAD = timedelta(days=30)  # of a site's certificate's end
_VERSION = 2
_SECRET_BYTES, _FINGERPRINT_BYTES, _CHECK_BYTES = 16, 32, 4
_SITE = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_NO_CODE = "this is no code of `fedward hub invite`: copy it whole, or ask the hub's operator for a new one"


@dataclass(frozen=True, kw_only=True, slots=True)
class Invitation:
    """What a code says: to whom, where the hub is, the fingerprint of its root (64 hex digits), and the secret.

    `taken_back` is how many authorities the root had taken back, 0 to 255: its list only ever grows.
    """

    site: str
    address: str
    fingerprint: str
    taken_back: int
    secret: str = field(repr=False)  # 32 hex digits

    @classmethod
    def make(cls, site: str, address: str, fingerprint: str, *, taken_back: int) -> Self:
        """A new invitation; its secret comes from the operating system. Raises UsageError for a name no site has."""
        if not is_site_name(site):
            raise UsageError(f"a site's name is 1 to 63 of a-z, 0-9 and '-', the first of them no '-'; not {site!r}")
        secret = secrets.token_hex(_SECRET_BYTES)
        return cls(site=site, address=address, fingerprint=fingerprint, taken_back=taken_back, secret=secret)

    def code(self) -> str:
        """The invitation as one word of letters, digits, '-' and '_', with a check against typing errors in it."""
        text = f"{self.site}@{self.address}".encode()
        fixed = bytes([_VERSION]) + bytes.fromhex(self.fingerprint) + bytes.fromhex(self.secret)
        body = fixed + bytes([self.taken_back]) + text
        return base64.urlsafe_b64encode(body + _check(body)).decode().rstrip("=")

    @classmethod
    def read(cls, code: str) -> Self:
        """The invitation of a code, which mail may have broken into lines. Raises UsageError where it is none."""
        plain = "".join(code.split())
        try:
            data = base64.b64decode(plain + "=" * (-len(plain) % 4), altchars=b"-_", validate=True)
        except (ValueError, binascii.Error):
            raise UsageError(_NO_CODE) from None
        body, check = data[:-_CHECK_BYTES], data[-_CHECK_BYTES:]
        begin = 1 + _FINGERPRINT_BYTES
        count = begin + _SECRET_BYTES
        site, at, address = body[count + 1 :].decode("ascii", "replace").partition("@")
        if not body or check != _check(body):
            raise UsageError(_NO_CODE)
        if body[0] != _VERSION:
            raise UsageError("this code is of another version of Fedward: install the hub's")
        try:
            checked_address(address)
        except ValueError:
            raise UsageError(_NO_CODE) from None
        if not at or not _SITE.fullmatch(site):
            raise UsageError(_NO_CODE)
        return cls(
            site=site,
            address=address,
            fingerprint=body[1:begin].hex(),
            taken_back=body[count],
            secret=body[begin:count].hex(),
        )


def is_site_name(text: str) -> bool:
    """Whether a site, or a person, may have this name."""
    return _SITE.fullmatch(text) is not None


def digest(secret: str) -> str:
    """By what a hub knows a secret that it does not keep: its SHA-256 (hex)."""
    return hashlib.sha256(bytes.fromhex(secret)).hexdigest()


def _check(body: bytes) -> bytes:
    return hashlib.sha256(body).digest()[:_CHECK_BYTES]


# What is sent --------------------------------------------------------------------------------------------------------


def _a_request(pem: str) -> str:
    try:
        certificates.read_request(pem)
    except RecordError as error:
        raise ValueError(str(error)) from None
    return pem


CertificateRequest = Annotated[str, Field(max_length=4096), AfterValidator(_a_request)]  # PKCS #10, PEM


class _Sent(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class JoinRequest(_Sent):
    """A site asks to be let in: who it is, the request for its certificate, and the code's secret.

    The signature is by the card's signing key, so that the fingerprint which people compare vouches for all of it.
    """

    card: SiteCard
    request: CertificateRequest
    secret: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$", repr=False)]
    signature: Annotated[str, Field(max_length=128)]  # base64

    @classmethod
    def make(cls, card: SiteCard, request: str, secret: str, key: Ed25519PrivateKey) -> Self:
        """What a site sends."""
        asked = cls(card=card, request=request, secret=secret, signature="")
        return asked.model_copy(update={"signature": base64.b64encode(key.sign(asked.signed())).decode()})

    def signed(self) -> bytes:
        """What the signature is over."""
        return rfc8785.dumps(self.model_dump(exclude={"signature"}))

    def intact(self) -> bool:
        """Whether the card is its maker's, and its key signed the whole."""
        try:
            key = pki.public_from_hex(self.card.signing_key)
            key.verify(base64.b64decode(self.signature, validate=True), self.signed())
        except (InvalidSignature, ValueError):
            return False
        return self.card.intact()


class Joined(_Sent):
    """A hub's answer to a request: whether its operator approved it yet, and then the certificate with its chain."""

    status: Literal["waiting", "approved"]
    certificate: str | None = None  # PEM: the site's, then the authority's below the root


class Renewal(_Sent):
    """A site that is in asks for its next certificate."""

    request: CertificateRequest


class Renewed(_Sent):
    """The next certificate with its chain."""

    certificate: str
