"""Certificates as the programs that use them see them: OpenSSL and Python's ssl."""

import ipaddress
import socket
import ssl
import subprocess
import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from fedward_common import certificates, pki
from fedward_common.certificates import Authority
from fedward_common.errors import RecordError, SettingsError

HOSTS = ["localhost", "127.0.0.1", "::1", "hub.example.org"]

# An authority and its servers -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority() -> Authority:
    return certificates.make_authority("west-hub")


@contextmanager
def server(folder: Path, key_pem: bytes, cert_pem: bytes) -> Iterator[int]:
    """A TLS server on loopback that takes one connection; its port."""
    pki.write_private(folder / "server.key", key_pem, replace=True)
    pki.write_public(folder / "server.pem", cert_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(20)

    def serve() -> None:
        plain, _ = listener.accept()
        with plain:
            plain.settimeout(20)
            try:
                with context.wrap_socket(plain, server_side=True) as secure:
                    secure.sendall(b"hello")
            except OSError:
                pass  # the client refused us: that is its test

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with listener:
            yield listener.getsockname()[1]
            thread.join(20)
    finally:
        thread.join(20)
    assert not thread.is_alive()


def greeting(port: int, authority: Authority, host: str) -> bytes:
    """What the server says to a client that trusts the authority alone, as strict as Python 3.13 is by default."""
    context = ssl.create_default_context(cadata=certificates.authority_pem(authority)[1].decode())
    context.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
    with (
        socket.create_connection(("127.0.0.1", port), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname=host) as secure,
    ):
        return secure.recv(5)


@pytest.mark.parametrize("host", HOSTS)
def test_a_strict_client_takes_the_server(tmp_path: Path, authority: Authority, host: str) -> None:
    with server(tmp_path, *certificates.issue_server(authority, HOSTS)) as port:
        assert greeting(port, authority, host) == b"hello"


def test_another_name_is_refused(tmp_path: Path, authority: Authority) -> None:
    with (
        server(tmp_path, *certificates.issue_server(authority, HOSTS)) as port,
        pytest.raises(ssl.SSLCertVerificationError, match=r"doesn't match|not valid for"),
    ):
        greeting(port, authority, "hub.example.com")


def test_another_authority_of_the_same_name_is_refused(tmp_path: Path, authority: Authority) -> None:
    other = certificates.make_authority("west-hub")
    with (
        server(tmp_path, *certificates.issue_server(other, HOSTS)) as port,
        pytest.raises(ssl.SSLCertVerificationError, match=r"unable to get local issuer|signature failure"),
    ):
        greeting(port, authority, "localhost")


def test_an_expired_certificate_is_refused(tmp_path: Path, authority: Authority) -> None:
    issued = certificates.issue_server(authority, HOSTS, days=30, starts=datetime.now(UTC) - timedelta(days=31))
    with server(tmp_path, *issued) as port, pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        greeting(port, authority, "localhost")


def test_a_server_cannot_issue_certificates(tmp_path: Path, authority: Authority) -> None:
    own_key, own_pem = certificates.issue_server(authority, HOSTS)
    key_pem, cert_pem = certificates.issue_server(certificates.load_authority(own_key, own_pem), HOSTS)
    with (
        server(tmp_path, key_pem, cert_pem + own_pem) as port,
        pytest.raises(ssl.SSLCertVerificationError, match="invalid CA certificate"),
    ):
        greeting(port, authority, "localhost")


def test_openssl_agrees(tmp_path: Path, authority: Authority) -> None:
    ca, leaf = tmp_path / "ca.pem", tmp_path / "server.pem"
    ca.write_bytes(certificates.authority_pem(authority)[1])
    leaf.write_bytes(certificates.issue_server(authority, HOSTS)[1])
    command = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", str(ca), str(leaf)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == f"{leaf}: OK\n"
    shown = subprocess.run(
        ["openssl", "x509", "-in", str(ca), "-noout", "-fingerprint", "-sha256"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    told = shown.strip().partition("=")[2].replace(":", "").lower()
    assert told == certificates.fingerprint(authority.certificate)


def test_a_certificate_says_what_it_is_for(authority: Authority) -> None:
    certificate = x509.load_pem_x509_certificate(certificates.issue_server(authority, HOSTS)[1])
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost", "hub.example.org"]
    assert names.get_values_for_type(x509.IPAddress) == [ipaddress.ip_address(ip) for ip in ("127.0.0.1", "::1")]
    assert certificate.issuer.rfc4514_string() == "CN=west-hub,O=Fedward"
    constraints = authority.certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert constraints.value == x509.BasicConstraints(ca=True, path_length=0)


def test_a_certificate_is_valid_where_the_clock_is_behind_and_ends_when_it_says(
    authority: Authority,
) -> None:
    now = datetime.now(UTC)
    cert_pem = certificates.issue_server(authority, ["localhost"], days=10)[1]
    certificate = x509.load_pem_x509_certificate(cert_pem)
    assert certificate.not_valid_before_utc < now - timedelta(hours=23)
    assert abs(certificates.expires(cert_pem) - now - timedelta(days=10)) < timedelta(minutes=5)


def test_a_server_does_not_outlive_its_authority() -> None:
    short = certificates.make_authority("short", days=5)
    issued = certificates.issue_server(short, ["localhost"])[1]
    assert certificates.expires(issued) == short.certificate.not_valid_after_utc


@pytest.mark.parametrize("host", ["", "a b", "hub.example.org:9092", "häb", "-a", "a/../b", "*", "x" * 300])
def test_a_host_that_is_none_is_refused(authority: Authority, host: str) -> None:
    with pytest.raises(SettingsError, match="neither a DNS name nor an IP address"):
        certificates.issue_server(authority, [host])


def test_an_authority_comes_back_from_its_files(authority: Authority) -> None:
    again = certificates.load_authority(*certificates.authority_pem(authority))
    assert again.certificate == authority.certificate
    assert again.key.private_numbers() == authority.key.private_numbers()


def test_an_authority_that_does_not_belong_together_is_refused(authority: Authority) -> None:
    key_pem, cert_pem = certificates.authority_pem(authority)
    other = certificates.authority_pem(certificates.make_authority("west-hub"))[0]
    for wrong in (other, pki.make_signing_key()):
        with pytest.raises(SettingsError, match="do not belong together"):
            certificates.load_authority(wrong, cert_pem)
    with pytest.raises(SettingsError, match="is no private key"):
        certificates.load_authority(cert_pem, cert_pem)
    with pytest.raises(SettingsError, match="is no PEM certificate"):
        certificates.load_authority(key_pem, key_pem)
    with pytest.raises(SettingsError, match="is no PEM certificate"):
        certificates.expires(b"")


def test_an_expired_authority_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"expired on \d{4}-\d\d-\d\d: make a new authority"):
        certificates.load_authority(*certificates.authority_pem(certificates.make_authority("old", days=0)))


# A root, an authority below it, and sites ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Family:
    root: Authority
    issuing: Authority
    folder: Path

    def write(self, name: str, *parts: bytes) -> str:
        (self.folder / name).write_bytes(b"".join(parts))
        return str(self.folder / name)

    def lists(self, revoked: dict[int, datetime], taken_back: dict[int, datetime] | None = None) -> bytes:
        ends = datetime.now(UTC) + timedelta(days=1)
        return b"".join(
            certificates.revocations(authority, numbers, ends=ends)
            for authority, numbers in ((self.root, taken_back or {}), (self.issuing, revoked))
        )

    def verify(self, leaf: x509.Certificate, lists: bytes, purpose: str = "sslclient") -> str:
        """What OpenSSL says of a certificate that comes with its authority's, under the root alone."""
        pem = certificates.pem
        command = ["openssl", "verify", "-x509_strict", "-purpose", purpose, "-crl_check_all"]
        command += ["-CAfile", self.write("root.pem", pem(self.root.certificate))]
        command += ["-untrusted", self.write("issuing.pem", pem(self.issuing.certificate))]
        command += ["-CRLfile", self.write("lists.pem", lists), self.write("leaf.pem", pem(leaf))]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return "OK" if done.returncode == 0 else done.stderr


@pytest.fixture
def family(tmp_path: Path) -> Family:
    root = certificates.make_authority("alliance root", below=1)
    return Family(root, certificates.issue_authority(root, "alliance 2026-11-30"), tmp_path)


def client(family: Family, **options: Any) -> x509.Certificate:
    key = certificates.read_request(certificates.make_request("north")[1].decode())
    return certificates.issue_client(family.issuing, "north", key, **{"days": 90, **options})


def test_openssl_takes_a_sites_certificate_for_a_client_and_for_nothing_else(family: Family) -> None:
    site = client(family)
    assert family.verify(site, family.lists({})) == "OK"
    assert "unsuitable certificate purpose" in family.verify(site, family.lists({}), "sslserver")
    assert site.subject.rfc4514_string() == "CN=north,O=Fedward"


def test_openssl_refuses_what_was_taken_back(family: Family) -> None:
    site, other, now = client(family), client(family), datetime.now(UTC)
    lists = family.lists({site.serial_number: now})
    assert "certificate revoked" in family.verify(site, lists)
    assert family.verify(other, lists) == "OK"
    taken_back = family.lists({}, {family.issuing.certificate.serial_number: now})
    assert "certificate revoked" in family.verify(other, taken_back)


def test_an_authority_without_a_list_is_not_trusted(family: Family) -> None:
    ends = datetime.now(UTC) + timedelta(days=1)
    alone = certificates.revocations(family.root, {}, ends=ends)
    assert "unable to get certificate CRL" in family.verify(client(family), alone)
    old = certificates.revocations(family.issuing, {}, ends=datetime.now(UTC) - timedelta(seconds=5))
    assert "CRL has expired" in family.verify(client(family), alone + old)


def test_an_authority_below_the_root_makes_no_further_ones(family: Family) -> None:
    third = certificates.issue_authority(family.issuing, "alliance third")
    deeper = Family(family.root, third, family.folder)
    key = certificates.read_request(certificates.make_request("north")[1].decode())
    site = certificates.issue_client(third, "north", key, days=9)
    ends = datetime.now(UTC) + timedelta(days=1)
    lists = deeper.lists({}) + certificates.revocations(family.issuing, {}, ends=ends)
    root = certificates.pem(family.root.certificate)
    above = certificates.pem(third.certificate, family.issuing.certificate)
    command = ["openssl", "verify", "-crl_check_all", "-CAfile", deeper.write("root.pem", root)]
    command += ["-untrusted", deeper.write("both.pem", above)]
    command += ["-CRLfile", deeper.write("lists.pem", lists), deeper.write("leaf.pem", certificates.pem(site))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "path length constraint exceeded" in done.stderr


def test_nothing_outlives_what_issued_it(family: Family) -> None:
    assert certificates.issue_authority(family.root, "long", days=99999).certificate.not_valid_after_utc == (
        family.root.certificate.not_valid_after_utc
    )
    assert client(family, days=99999).not_valid_after_utc == family.issuing.certificate.not_valid_after_utc


def test_a_list_is_numbered_and_names_its_authority(family: Family) -> None:
    now = datetime.now(UTC)
    made = x509.load_pem_x509_crl(certificates.revocations(family.issuing, {7: now}, ends=now))
    number = made.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    assert abs(number - datetime.now(UTC).timestamp()) < 60
    assert made.issuer == family.issuing.certificate.subject
    assert [each.serial_number for each in made] == [7]


def test_only_a_request_that_its_key_signed_is_one() -> None:
    key, request = certificates.make_request("north")
    assert certificates.read_request(request.decode()) == load_pem_private_key(key, None).public_key()
    forged = bytearray(x509.load_pem_x509_csr(request).public_bytes(Encoding.DER))
    forged[-1] ^= 1
    for wrong in (
        b64_pem(bytes(forged)),
        request.decode().replace("CERTIFICATE REQUEST", "CERTIFICATE"),
        request_of(ec.generate_private_key(ec.SECP384R1())),
        request_of(rsa.generate_private_key(65537, 2048)),
        "",
    ):
        with pytest.raises(RecordError, match="is not one that the holder of a P-256 key signed"):
            certificates.read_request(wrong)


@given(st.text(max_size=200))
def test_no_text_crashes_the_reader_of_requests(text: str) -> None:
    with pytest.raises(RecordError):
        certificates.read_request(text)


def b64_pem(der: bytes) -> str:
    return f"-----BEGIN CERTIFICATE REQUEST-----\n{b64encode(der).decode()}\n-----END CERTIFICATE REQUEST-----\n"


def request_of(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> str:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "north")])
    made = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return made.public_bytes(Encoding.PEM).decode()


def test_a_file_of_key_and_chain_gives_the_chain(family: Family) -> None:
    key, leaf = certificates.issue_server(family.issuing, ["hub.example"])
    found = certificates.load_chain(key + leaf + certificates.pem(family.issuing.certificate))
    assert found == [x509.load_pem_x509_certificate(leaf), family.issuing.certificate]
    assert certificates.issued_by(found[0], found[1])
    assert not certificates.issued_by(found[1], found[0])
    assert not certificates.issued_by(found[0], family.root.certificate)
    assert certificates.is_for(found[0], "hub.example")
    assert not certificates.is_for(found[0], "other.example")
    assert not certificates.is_for(family.root.certificate, "hub.example")
    with pytest.raises(SettingsError, match="no PEM certificate"):
        certificates.load_chain(key)
