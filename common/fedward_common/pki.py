"""Keys, certificates and the files they live in: made here, read here, checked on reading.

A hub is its own certificate authority (P-256) and issues the certificate that its server shows; a site proves itself to
Flower with a node key (P-384) and signs what it says with a signing key (Ed25519). No key is sealed with a password: a
private key is a file that nobody but its owner can read, and one that others can read is refused, never used.
"""

import hashlib
import ipaddress
import os
import re
import secrets
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedward_common.disk import sync
from fedward_common.errors import RecordError, SettingsError

MAX_KEY_BYTES = 2**16
_HEX_KEY = re.compile(r"[0-9a-f]{64}")
_CLOCKS_DIFFER = timedelta(days=1)  # a certificate is valid at once on a machine whose clock is behind
_Key = TypeVar("_Key")
# what cryptography raises for bytes that are no such key; the last one for a compressed point
_UNREADABLE = (ValueError, TypeError, UnsupportedAlgorithm, NotImplementedError)


# The hub's authority and its server ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Authority:
    """What issues a hub's certificates."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate


def make_authority(name: str, *, days: int = 3650) -> Authority:
    """A new authority (P-256) that issues server certificates and no further authorities.

    `name` is the hub's, 1 to 64 characters; a person reads it as the issuer.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _subject(name)
    now = datetime.now(UTC)
    certificate = (
        _certificate(subject, subject, key.public_key())
        .not_valid_before(now - _CLOCKS_DIFFER)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return Authority(key, certificate)


def authority_pem(authority: Authority) -> tuple[bytes, bytes]:
    """The authority's private key (PKCS8 PEM) and its certificate (PEM)."""
    return _private_pem(authority.key), authority.certificate.public_bytes(serialization.Encoding.PEM)


def load_authority(key_pem: bytes, cert_pem: bytes) -> Authority:
    """The authority that `authority_pem` gave. Raises SettingsError when the two are not one, or it has expired."""
    certificate = load_certificate(cert_pem)
    try:
        key = serialization.load_pem_private_key(key_pem, password=None)
    except _UNREADABLE:
        raise SettingsError("the authority's key is no private key: restore the hub's keys from a backup") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise SettingsError(
            "the authority's key and certificate do not belong together: restore both from the same backup"
        )
    if certificate.not_valid_after_utc <= datetime.now(UTC):
        raise SettingsError(
            f"the authority's certificate expired on {certificate.not_valid_after_utc.date()}: "
            "make a new authority, and give its card to every site"
        )
    return Authority(key, certificate)


def issue_server(
    authority: Authority, hosts: Sequence[str], *, days: int = 825, starts: datetime | None = None
) -> tuple[bytes, bytes]:
    """A new private key (P-256, PKCS8 PEM) and a server's certificate (PEM) for DNS names and IP addresses.

    It is valid for `days` from `starts`, without which from now, and never longer than the authority. Raises
    SettingsError for a host that is neither a DNS name nor an IP address.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = authority.certificate
    identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    begin = starts or datetime.now(UTC)
    certificate = (
        _certificate(_subject("Fedward hub's server"), issuer.subject, key.public_key())
        .not_valid_before(begin if starts else begin - _CLOCKS_DIFFER)
        .not_valid_after(min(begin + timedelta(days=days), issuer.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_host(host) for host in hosts]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        .sign(authority.key, hashes.SHA256())
    )
    return _private_pem(key), certificate.public_bytes(serialization.Encoding.PEM)


def expires(cert_pem: bytes) -> datetime:
    """The last moment (UTC) of a certificate; SettingsError when it is none."""
    return load_certificate(cert_pem).not_valid_after_utc


def load_certificate(cert_pem: bytes) -> x509.Certificate:
    """The first certificate of a PEM text whose key can be used; SettingsError when there is none."""
    try:
        certificate = x509.load_pem_x509_certificate(cert_pem)
        certificate.public_key()
    except (*_UNREADABLE, x509.InvalidVersion):
        raise SettingsError(
            "the certificate is no PEM certificate: restore it from a backup, or issue it anew"
        ) from None
    return certificate


def certificate_fingerprint(certificate: x509.Certificate) -> str:
    """Hex SHA-256 of a certificate's DER, as `openssl x509 -fingerprint -sha256` shows it but for colons and case."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def _subject(name: str) -> x509.Name:
    return x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Fedward"), x509.NameAttribute(NameOID.COMMON_NAME, name)]
    )


def _certificate(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    """What every certificate of ours has; RFC 5280 4.2.1.2 wants a subject key identifier in an authority's."""
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?", host):
        raise SettingsError(f"{host!r} is neither a DNS name nor an IP address: name the host that sites connect to")
    return x509.DNSName(host)


def _private_pem(key: ec.EllipticCurvePrivateKey | Ed25519PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


# A site's node key, with which Flower knows it -----------------------------------------------------------------------


def make_node_key() -> bytes:
    """A new P-384 private key in OpenSSH's PEM, as Flower's nodes take it."""
    return ec.generate_private_key(ec.SECP384R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )


def load_node_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The node key in a file; SettingsError when it is not there, not private, or no P-384 key without a password."""
    key = _load(path, lambda data: serialization.load_ssh_private_key(data, password=None))
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP384R1):
        raise SettingsError(f"{path.name} is no P-384 key in OpenSSH's format: restore it from a backup")
    return key


def node_public_line(key: ec.EllipticCurvePrivateKey) -> str:
    """The public half as one OpenSSH line without a comment, as `flwr supernode register` takes it."""
    return _public_line(key.public_key())


def node_public_from_line(line: str) -> ec.EllipticCurvePublicKey:
    """The key that `node_public_line` wrote; RecordError for anything else, a comment behind the key included."""
    try:
        key = serialization.load_ssh_public_key(line.encode())
    except _UNREADABLE:
        key = None
    if (
        not isinstance(key, ec.EllipticCurvePublicKey)
        or not isinstance(key.curve, ec.SECP384R1)
        or _public_line(key) != line
    ):
        raise RecordError("the node key is no line of an OpenSSH P-384 public key")
    return key


def _public_line(key: ec.EllipticCurvePublicKey) -> str:
    return key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()


# Signing keys --------------------------------------------------------------------------------------------------------


def make_signing_key() -> bytes:
    """A new Ed25519 private key, PKCS8 PEM."""
    return _private_pem(Ed25519PrivateKey.generate())


def load_signing_key(path: Path) -> Ed25519PrivateKey:
    """The signing key in a file; SettingsError when it is not there, not private, or no Ed25519 key."""
    key = _load(path, lambda data: serialization.load_pem_private_key(data, password=None))
    if not isinstance(key, Ed25519PrivateKey):
        raise SettingsError(f"{path.name} is no Ed25519 key: restore it from a backup")
    return key


def public_hex(key: Ed25519PublicKey) -> str:
    """The raw key as 64 hexadecimal digits."""
    return key.public_bytes_raw().hex()


def public_from_hex(text: str) -> Ed25519PublicKey:
    """The key that `public_hex` wrote; RecordError for anything else."""
    if not _HEX_KEY.fullmatch(text):
        raise RecordError("a public key is 64 lower-case hexadecimal digits")
    return Ed25519PublicKey.from_public_bytes(bytes.fromhex(text))


def fingerprint(key: Ed25519PublicKey) -> str:
    """Hex SHA-256 of the 32 raw bytes: what people compare, and what a study's roster names."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()


def grouped(digits: str) -> str:
    """A fingerprint in groups of four digits, as two people read it to each other."""
    return " ".join(digits[start : start + 4] for start in range(0, len(digits), 4))


def _load(path: Path, load: Callable[[bytes], _Key]) -> _Key:
    try:
        return load(read_private(path))
    except _UNREADABLE:
        raise SettingsError(f"{path.name} holds no private key that can be read: restore it from a backup") from None


# Files ---------------------------------------------------------------------------------------------------------------


def write_private(path: Path, data: bytes, *, replace: bool = False) -> None:
    """Write a file that only its owner can read, whole or not at all, and on disk when this returns.

    Raises SettingsError when it cannot be written, or is there already and is not to be replaced: of two processes
    that make a key at once, one wins.
    """
    _place(path, data, mode=0o600, replace=replace)


def write_public(path: Path, data: bytes) -> None:
    """Write a file that everybody may read, or replace it, whole or not at all. SettingsError when that fails."""
    _place(path, data, mode=0o644, replace=True)


def read_private(path: Path) -> bytes:
    """The bytes of a file that nobody but its owner can read.

    Raises SettingsError when it is missing, cannot be read, is longer than `MAX_KEY_BYTES`, or can be read by others.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO must not hold us up
        with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor: what is checked is what is read
            found = os.fstat(descriptor).st_mode
            if not stat.S_ISREG(found):
                raise SettingsError(f"{path.name} is no file: put the key there")
            if found & 0o077:
                raise SettingsError(f"{path.name} can be read by others: chmod 600 it")
            data = file.read(MAX_KEY_BYTES + 1)
    except FileNotFoundError:
        raise SettingsError(f"{path.name} is missing: restore it from a backup") from None
    except OSError as error:
        raise SettingsError(f"{path.name} cannot be read ({error.strerror}): put that right") from None
    if len(data) > MAX_KEY_BYTES:
        raise SettingsError(f"{path.name} is too long for a key: restore it from a backup")
    return data


def _place(path: Path, data: bytes, *, mode: int, replace: bool) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor: private from its first moment
                os.fchmod(descriptor, mode)  # whatever the umask
                file.write(data)
                file.flush()
                os.fsync(descriptor)
            if replace:
                temporary.replace(path)
            else:
                path.hardlink_to(temporary)  # unlike a rename, this never replaces
        finally:
            temporary.unlink(missing_ok=True)
        sync(path.parent)
    except FileExistsError:
        raise SettingsError(f"{path.name} is there already and was left as it is: move it away first") from None
    except OSError as error:
        raise SettingsError(f"{path.name} cannot be written ({error.strerror}): put that right") from None
