"""The two cards that a hospital's steward and a hub's operator hand each other: who a site is, where a hub is.

A card is public, one small JSON file, and signed: the site's by its signing key, the hub's by its authority. So whoever
compares the card's fingerprint with its maker, by telephone for example, knows that the whole card is theirs. Nothing
in a card proves that without the comparison. A card that was changed or cut is refused on reading.
"""

import base64
import ipaddress
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, ClassVar, Self

import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from fedward_common import __version__, certificates, pki
from fedward_common.certificates import Authority
from fedward_common.errors import FedwardError, SettingsError
from fedward_common.study_faults import printable
from fedward_common.study_section import Fingerprint, Slug, Version

MAX_CARD_BYTES = 2**16
_SHOWN = 40  # characters of a key that no card has
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")


def checked_address(text: str) -> str:
    """A text that is a "host:port", an IPv6 address in brackets; ValueError for any other."""
    host, port = _split(text)
    if not host or "://" in text:
        raise ValueError("give HOST:PORT, for example hub.example:8443")
    if re.fullmatch(r"\[[0-9a-fA-F:.]+\]", host):
        ipaddress.IPv6Address(host[1:-1])
    elif not _HOST.fullmatch(host):
        raise ValueError("its host is neither a DNS name nor an IP address")
    if not re.fullmatch(r"[1-9][0-9]{0,4}", port) or int(port) > 65535:
        raise ValueError("its port is no number from 1 to 65535")
    return text


def _split(address: str) -> tuple[str, str]:
    host, _, port = address.rpartition(":")
    return host, port


def _read_with(parse: Callable[[str], object]) -> AfterValidator:
    """A check that a text is one which `parse` takes."""

    def check(text: str) -> str:
        try:
            parse(text)
        except FedwardError as error:
            raise ValueError(str(error).partition(":")[0]) from None  # its advice is not for who reads a card
        return text

    return AfterValidator(check)


def _one_authority(text: str) -> None:
    certificate = certificates.load_certificate(text.encode())
    alone = certificate.public_bytes(Encoding.PEM).decode() == text  # a second one would be trusted as well
    if not alone or not isinstance(certificate.public_key(), ec.EllipticCurvePublicKey):
        raise SettingsError("the certificate is not one authority's alone")


def _a_list(text: str) -> None:
    certificates.load_revocations(text.encode())


Signature = Annotated[str, Field(max_length=256)]  # base64, over the RFC 8785 JSON of the rest of the card


class _Card(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    kind: ClassVar[str]

    def signed(self) -> bytes:
        """What the signature is over."""
        return rfc8785.dumps(self.model_dump(exclude={"signature"}, exclude_none=True))

    def write(self, path: Path) -> None:
        """Write the card (UTF-8 JSON, mode 0644), in the place of an older one; SettingsError when that fails."""
        pki.write_public(path, f"{self.model_dump_json(indent=2, exclude_none=True)}\n".encode())

    @classmethod
    def read(cls, path: Path) -> Self:
        """The card in a file; SettingsError when it cannot be read, is no such card, or was changed."""
        try:
            with path.open("rb") as file:
                data = file.read(MAX_CARD_BYTES + 1)
        except OSError as error:
            raise SettingsError(f"{path.name} cannot be read ({error.strerror}): ask for it again") from None
        return cls.parse(data, path.name)

    @classmethod
    def parse(cls, data: bytes, name: str = "the card") -> Self:
        """The card in bytes that came otherwise; `name` stands for it in a SettingsError."""
        if len(data) > MAX_CARD_BYTES:
            raise SettingsError(f"{name} is too long for a card: ask for it again")
        try:
            card = cls.model_validate_json(data)
        except ValidationError as error:
            raise SettingsError(f"{name} is no {cls.kind} ({_first_fault(error)}): ask for it again") from None
        if not card.intact():
            raise SettingsError(
                f"{name} was changed after it was made, or is forged: ask for the card again, and compare its "
                "fingerprint by telephone"
            )
        return card

    def intact(self) -> bool:
        """Whether the card is as its maker signed it."""
        raise NotImplementedError


class SiteCard(_Card):
    """Who a site is: what an operator needs to enrol it."""

    kind = "site's card"

    site: Slug
    node_key: Annotated[str, _read_with(pki.node_public_from_line)]  # one line, OpenSSH, P-384
    signing_key: Annotated[str, _read_with(pki.public_from_hex)]  # 64 hex digits, Ed25519
    fedward: Version  # the version that made the card
    signature: Signature

    @classmethod
    def make(cls, site: str, node_key: str, signing_key: Ed25519PrivateKey) -> Self:
        """A site's card; `node_key` is the public line of its node key."""
        public = pki.public_hex(signing_key.public_key())
        card = cls(site=site, node_key=node_key, signing_key=public, fedward=__version__, signature="")
        return card.model_copy(update={"signature": base64.b64encode(signing_key.sign(card.signed())).decode()})

    @property
    def fingerprint(self) -> str:
        """Of the signing key, 64 hex digits: what people compare, and what a study's roster names."""
        return pki.fingerprint(pki.public_from_hex(self.signing_key))

    def intact(self) -> bool:
        """Whether the site's signing key signed the card."""
        try:
            pki.public_from_hex(self.signing_key).verify(base64.b64decode(self.signature, validate=True), self.signed())
        except (InvalidSignature, ValueError):
            return False
        return True


class HubCard(_Card):
    """Where a hub is, and how a site knows it: what a steward needs to link a site.

    A hub that faces hospitals keeps its root offline; `issuer` is then the authority below it that signed the card, and
    `taken_back` the root's list of those that count no more, which only ever grows.
    """

    kind = "hub's card"

    hub: Slug
    address: Annotated[str, AfterValidator(checked_address)]  # host:port; an IPv6 address stands in brackets
    ca: Annotated[str, _read_with(_one_authority)]  # the root's certificate, PEM: what a site trusts, and nothing else
    fingerprint: Fingerprint  # of that certificate's DER: what people compare
    issuer: Annotated[str, _read_with(_one_authority)] | None = None  # PEM, issued by the root
    taken_back: Annotated[str, _read_with(_a_list)] | None = None  # PEM, signed by the root
    signing_key: Annotated[str, _read_with(pki.public_from_hex)]  # 64 hex digits, Ed25519: the hub's audit log's
    signature: Signature

    @classmethod
    def make(
        cls,
        hub: str,
        address: str,
        authority: Authority,
        signing_key: Ed25519PrivateKey,
        root: bytes | None = None,
        *,
        taken_back: bytes | None = None,
    ) -> Self:
        """A hub's card, signed by its authority; `root` is the certificate (PEM) that this stands below, if any.

        `taken_back` is that root's list (PEM).
        """
        own = certificates.pem(authority.certificate).decode()
        ca = own if root is None else root.decode()
        card = cls(
            hub=hub,
            address=address,
            ca=ca,
            fingerprint=certificates.fingerprint(certificates.load_certificate(ca.encode())),
            issuer=None if root is None else own,
            taken_back=None if taken_back is None else taken_back.decode(),
            signing_key=pki.public_hex(signing_key.public_key()),
            signature="",
        )
        signature = authority.key.sign(card.signed(), ec.ECDSA(hashes.SHA256()))
        return card.model_copy(update={"signature": base64.b64encode(signature).decode()})

    @property
    def host(self) -> str:
        """The address without its port and without brackets."""
        return _split(self.address)[0].strip("[]")

    @property
    def port(self) -> int:
        """The address's port, 1 to 65535."""
        return int(_split(self.address)[1])

    @property
    def distrusted(self) -> frozenset[int]:
        """The serial numbers of the authorities that the root took back."""
        if self.taken_back is None:
            return frozenset()
        return frozenset(each.serial_number for each in certificates.load_revocations(self.taken_back.encode()))

    def intact(self) -> bool:
        """Whether the fingerprint is the root's, and it, or an authority that it issued and stands by, signed the card.

        What an older list of the root's does not name yet, a card cannot tell.
        """
        root = signer = certificates.load_certificate(self.ca.encode())
        if self.issuer is not None:
            signer = certificates.load_certificate(self.issuer.encode())
            if not certificates.issued_by(signer, root) or not certificates.is_authority(signer):
                return False
        if self.taken_back is not None:
            found = certificates.load_revocations(self.taken_back.encode())
            if not certificates.revoked_by(found, root) or signer.serial_number in self.distrusted:
                return False
        key = signer.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        try:
            key.verify(base64.b64decode(self.signature, validate=True), self.signed(), ec.ECDSA(hashes.SHA256()))
        except (InvalidSignature, ValueError):
            return False
        return self.fingerprint == certificates.fingerprint(root)


def _first_fault(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    key = printable("".join(map(str, first["loc"][:1]))[:_SHOWN])
    reason = first["msg"].removeprefix("Value error, ")
    return f"{key}: {reason}" if key else reason
