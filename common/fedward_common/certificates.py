"""Authorities, the certificates that they issue, requests for them and lists of those that were taken back (X.509).

A hub that faces hospitals has a root, which is kept offline, and an intermediate authority, which the root issued and
which issues everything else: the gateway's certificate and each site's. All keys are of P-256. Profiles are those of
RFC 5280; a certificate is for a server or for a client, never for both.
"""

import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedward_common.errors import RecordError, SettingsError
from fedward_common.pki import UNREADABLE, private_pem

CLOCKS_DIFFER = timedelta(days=1)
"""So long before it is issued a certificate begins: it is valid at once on a machine whose clock is behind."""

# Authorities ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Authority:
    """What issues a hub's certificates."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate


def make_authority(name: str, *, days: int = 3650, below: int = 0) -> Authority:
    """A new authority that nobody else vouches for, with at most `below` further authorities in a chain below it.

    `name` is the hub's, 1 to 64 characters; a person reads it as the issuer.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _subject(name)
    builder = _authority(_certificate(subject, subject, key.public_key()), below)
    return Authority(key, _lasting(builder, datetime.now(UTC), days).sign(key, hashes.SHA256()))


def issue_authority(root: Authority, name: str, *, days: int = 1095) -> Authority:
    """A new authority of this name below a root, which issues no further ones and does not outlive the root."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _authority(_issued(root, _subject(name), key.public_key()), 0)
    lasting = _lasting(builder, datetime.now(UTC), days, within=root)
    return Authority(key, lasting.sign(root.key, hashes.SHA256()))


def authority_pem(authority: Authority) -> tuple[bytes, bytes]:
    """The authority's private key (PKCS8 PEM) and its certificate (PEM)."""
    return private_pem(authority.key), authority.certificate.public_bytes(serialization.Encoding.PEM)


def load_authority(key_pem: bytes, cert_pem: bytes) -> Authority:
    """The authority that `authority_pem` gave. Raises SettingsError when the two are not one, or it has expired."""
    certificate = load_certificate(cert_pem)
    try:
        key = serialization.load_pem_private_key(key_pem, password=None)
    except UNREADABLE:
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


# Servers and sites ---------------------------------------------------------------------------------------------------


def issue_server(
    authority: Authority, hosts: Sequence[str], *, days: int = 825, starts: datetime | None = None
) -> tuple[bytes, bytes]:
    """A new private key (PKCS8 PEM) and a server's certificate (PEM) for DNS names and IP addresses.

    It is valid for `days` from `starts`, without which from now, and never longer than the authority. Raises
    SettingsError for a host that is neither a DNS name nor an IP address.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    names = x509.SubjectAlternativeName([_host(host) for host in hosts])
    builder = _issued(authority, _subject("Fedward hub's server"), key.public_key()).add_extension(
        names, critical=False
    )
    certificate = _leaf(authority, builder, ExtendedKeyUsageOID.SERVER_AUTH, days, starts)
    return private_pem(key), certificate.public_bytes(serialization.Encoding.PEM)


def make_request(site: str) -> tuple[bytes, bytes]:
    """A new private key (PKCS8 PEM) of a site and the request (PKCS #10 PEM) for its certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(_subject(site)).sign(key, hashes.SHA256())
    return private_pem(key), request.public_bytes(serialization.Encoding.PEM)


def read_request(pem: str) -> ec.EllipticCurvePublicKey:
    """The key in a request, which its maker holds; RecordError for anything but a signed request for a P-256 key.

    Nothing else of it counts: whose it is, its sender's other proofs say.
    """
    try:
        request = x509.load_pem_x509_csr(pem.encode())
        key, signed = request.public_key(), request.is_signature_valid
    except (*UNREADABLE, x509.InvalidVersion):
        key, signed = None, False
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1) or not signed:
        raise RecordError("the request for a certificate is not one that the holder of a P-256 key signed")
    return key


def issue_client(
    authority: Authority, site: str, key: ec.EllipticCurvePublicKey, *, days: int, starts: datetime | None = None
) -> x509.Certificate:
    """A certificate with which a site shows who it is, for `days` from `starts`, without which from now."""
    builder = _issued(authority, _subject(site), key)
    return _leaf(authority, builder, ExtendedKeyUsageOID.CLIENT_AUTH, days, starts)


def pem(*certificates: x509.Certificate) -> bytes:
    """Certificates as one PEM text: a chain, the first of them its end."""
    return b"".join(each.public_bytes(serialization.Encoding.PEM) for each in certificates)


def issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether an authority's key signed a certificate in its name."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


# What was taken back -------------------------------------------------------------------------------------------------


def revocations(authority: Authority, revoked: Mapping[int, datetime], *, ends: datetime) -> bytes:
    """The authority's list (PEM) of certificates taken back, by serial number and when; it counts until `ends`.

    Lists are numbered by the second in which they are made (RFC 5280, 5.2.3).
    """
    now = datetime.now(UTC)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.certificate.subject)
        .last_update(now - CLOCKS_DIFFER)
        .next_update(ends)
        .add_extension(x509.CRLNumber(int(now.timestamp())), critical=False)
        .add_extension(_identifier(authority), critical=False)
    )
    for serial, when in sorted(revoked.items()):
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(when).build()
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(authority.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def load_revocations(crl_pem: bytes) -> x509.CertificateRevocationList:
    """A list in PEM; SettingsError where it is none."""
    try:
        found = x509.load_pem_x509_crl(crl_pem)
        _ = found.issuer, [each.serial_number for each in found]  # which are read only when they are asked for
    except (x509.InvalidVersion, *UNREADABLE):
        raise SettingsError("the list of certificates taken back is none: ask for it again") from None
    return found


def revoked_by(found: x509.CertificateRevocationList, issuer: x509.Certificate) -> bool:
    """Whether an authority's key signed a list in its name."""
    key = issuer.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    try:
        return found.issuer == issuer.subject and found.is_signature_valid(key)
    except UNREADABLE:  # an algorithm that is none
        return False


# Reading -------------------------------------------------------------------------------------------------------------


def expires(cert_pem: bytes) -> datetime:
    """The last moment (UTC) of a certificate; SettingsError when it is none."""
    return load_certificate(cert_pem).not_valid_after_utc


def load_certificate(cert_pem: bytes) -> x509.Certificate:
    """The first certificate of a PEM text whose key can be used; SettingsError when there is none."""
    try:
        certificate = x509.load_pem_x509_certificate(cert_pem)
        certificate.public_key()
    except (*UNREADABLE, x509.InvalidVersion):
        raise SettingsError(
            "the certificate is no PEM certificate: restore it from a backup, or issue it anew"
        ) from None
    return certificate


def load_chain(cert_pem: bytes) -> list[x509.Certificate]:
    """The certificates of a PEM text, in their order; SettingsError where there is none."""
    try:
        return x509.load_pem_x509_certificates(cert_pem)
    except (*UNREADABLE, x509.InvalidVersion):
        raise SettingsError("there is no PEM certificate: ask for it again") from None


def is_for(certificate: x509.Certificate, host: str) -> bool:
    """Whether a server's certificate names a host, a DNS name or an IP address."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return False
    return _host(host) in names


def is_authority(certificate: x509.Certificate) -> bool:
    """Whether a certificate is of one that may issue others."""
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, ValueError):
        return False


def fingerprint(certificate: x509.Certificate) -> str:
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


def _issued(authority: Authority, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    """What every certificate has that an authority issues."""
    return _certificate(subject, authority.certificate.subject, key).add_extension(
        _identifier(authority), critical=False
    )


def _identifier(authority: Authority) -> x509.AuthorityKeyIdentifier:
    own = authority.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)


def _authority(builder: x509.CertificateBuilder, below: int) -> x509.CertificateBuilder:
    return builder.add_extension(x509.BasicConstraints(ca=True, path_length=below), critical=True).add_extension(
        _usage(key_cert_sign=True, crl_sign=True), critical=True
    )


def _leaf(
    authority: Authority,
    builder: x509.CertificateBuilder,
    purpose: x509.ObjectIdentifier,
    days: int,
    starts: datetime | None,
) -> x509.Certificate:
    """A certificate that issues none itself."""
    builder = (
        _lasting(builder, starts or datetime.now(UTC), days, within=authority, at_once=starts is None)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    )
    return builder.sign(authority.key, hashes.SHA256())


def _lasting(
    builder: x509.CertificateBuilder,
    begin: datetime,
    days: int,
    *,
    within: Authority | None = None,
    at_once: bool = True,
) -> x509.CertificateBuilder:
    """Valid for `days` from `begin`, but no longer than the authority it is `within`."""
    end = begin + timedelta(days=days)
    if within is not None:
        end = min(end, within.certificate.not_valid_after_utc)
    return builder.not_valid_before(begin - CLOCKS_DIFFER if at_once else begin).not_valid_after(end)


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
