"""Keys and certificates as the programs that use them see them: OpenSSL, OpenSSH, Flower, Python's ssl."""

import ipaddress
import os
import socket
import ssl
import stat
import subprocess
import sys
import threading
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key
from flwr.supercore.primitives.asymmetric import uses_nist_ec_curve
from hypothesis import given
from hypothesis import strategies as st

from fedward_common import pki
from fedward_common.errors import RecordError, SettingsError

HOSTS = ["localhost", "127.0.0.1", "::1", "hub.example.org"]

# Certificates --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority() -> pki.Authority:
    return pki.make_authority("west-hub")


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


def greeting(port: int, authority: pki.Authority, host: str) -> bytes:
    """What the server says to a client that trusts the authority alone, as strict as Python 3.13 is by default."""
    context = ssl.create_default_context(cadata=pki.authority_pem(authority)[1].decode())
    context.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
    with (
        socket.create_connection(("127.0.0.1", port), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname=host) as secure,
    ):
        return secure.recv(5)


@pytest.mark.parametrize("host", HOSTS)
def test_a_strict_client_takes_the_server(tmp_path: Path, authority: pki.Authority, host: str) -> None:
    with server(tmp_path, *pki.issue_server(authority, HOSTS)) as port:
        assert greeting(port, authority, host) == b"hello"


def test_another_name_is_refused(tmp_path: Path, authority: pki.Authority) -> None:
    with (
        server(tmp_path, *pki.issue_server(authority, HOSTS)) as port,
        pytest.raises(ssl.SSLCertVerificationError, match=r"doesn't match|not valid for"),
    ):
        greeting(port, authority, "hub.example.com")


def test_another_authority_of_the_same_name_is_refused(tmp_path: Path, authority: pki.Authority) -> None:
    other = pki.make_authority("west-hub")
    with (
        server(tmp_path, *pki.issue_server(other, HOSTS)) as port,
        pytest.raises(ssl.SSLCertVerificationError, match=r"unable to get local issuer|signature failure"),
    ):
        greeting(port, authority, "localhost")


def test_an_expired_certificate_is_refused(tmp_path: Path, authority: pki.Authority) -> None:
    issued = pki.issue_server(authority, HOSTS, days=30, starts=datetime.now(UTC) - timedelta(days=31))
    with server(tmp_path, *issued) as port, pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        greeting(port, authority, "localhost")


def test_a_server_cannot_issue_certificates(tmp_path: Path, authority: pki.Authority) -> None:
    own_key, own_pem = pki.issue_server(authority, HOSTS)
    key_pem, cert_pem = pki.issue_server(pki.load_authority(own_key, own_pem), HOSTS)
    with (
        server(tmp_path, key_pem, cert_pem + own_pem) as port,
        pytest.raises(ssl.SSLCertVerificationError, match="invalid CA certificate"),
    ):
        greeting(port, authority, "localhost")


def test_openssl_agrees(tmp_path: Path, authority: pki.Authority) -> None:
    ca, leaf = tmp_path / "ca.pem", tmp_path / "server.pem"
    ca.write_bytes(pki.authority_pem(authority)[1])
    leaf.write_bytes(pki.issue_server(authority, HOSTS)[1])
    command = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", str(ca), str(leaf)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == f"{leaf}: OK\n"
    shown = subprocess.run(
        ["openssl", "x509", "-in", str(ca), "-noout", "-fingerprint", "-sha256"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    told = shown.strip().partition("=")[2].replace(":", "").lower()
    assert told == pki.certificate_fingerprint(authority.certificate)


def test_a_certificate_says_what_it_is_for(authority: pki.Authority) -> None:
    certificate = x509.load_pem_x509_certificate(pki.issue_server(authority, HOSTS)[1])
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost", "hub.example.org"]
    assert names.get_values_for_type(x509.IPAddress) == [ipaddress.ip_address(ip) for ip in ("127.0.0.1", "::1")]
    assert certificate.issuer.rfc4514_string() == "CN=west-hub,O=Fedward"
    constraints = authority.certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert constraints.value == x509.BasicConstraints(ca=True, path_length=0)


def test_a_certificate_is_valid_where_the_clock_is_behind_and_ends_when_it_says(authority: pki.Authority) -> None:
    now = datetime.now(UTC)
    cert_pem = pki.issue_server(authority, ["localhost"], days=10)[1]
    certificate = x509.load_pem_x509_certificate(cert_pem)
    assert certificate.not_valid_before_utc < now - timedelta(hours=23)
    assert abs(pki.expires(cert_pem) - now - timedelta(days=10)) < timedelta(minutes=5)


def test_a_server_does_not_outlive_its_authority() -> None:
    short = pki.make_authority("short", days=5)
    assert pki.expires(pki.issue_server(short, ["localhost"])[1]) == short.certificate.not_valid_after_utc


@pytest.mark.parametrize("host", ["", "a b", "hub.example.org:9092", "häb", "-a", "a/../b", "*", "x" * 300])
def test_a_host_that_is_none_is_refused(authority: pki.Authority, host: str) -> None:
    with pytest.raises(SettingsError, match="neither a DNS name nor an IP address"):
        pki.issue_server(authority, [host])


def test_an_authority_comes_back_from_its_files(authority: pki.Authority) -> None:
    again = pki.load_authority(*pki.authority_pem(authority))
    assert again.certificate == authority.certificate
    assert again.key.private_numbers() == authority.key.private_numbers()


def test_an_authority_that_does_not_belong_together_is_refused(authority: pki.Authority) -> None:
    key_pem, cert_pem = pki.authority_pem(authority)
    other = pki.authority_pem(pki.make_authority("west-hub"))[0]
    for wrong in (other, pki.make_signing_key()):
        with pytest.raises(SettingsError, match="do not belong together"):
            pki.load_authority(wrong, cert_pem)
    with pytest.raises(SettingsError, match="is no private key"):
        pki.load_authority(cert_pem, cert_pem)
    with pytest.raises(SettingsError, match="is no PEM certificate"):
        pki.load_authority(key_pem, key_pem)
    with pytest.raises(SettingsError, match="is no PEM certificate"):
        pki.expires(b"")


def test_an_expired_authority_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"expired on \d{4}-\d\d-\d\d: make a new authority"):
        pki.load_authority(*pki.authority_pem(pki.make_authority("old", days=0)))


# Keys ----------------------------------------------------------------------------------------------------------------


def test_flower_takes_the_node_key(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    pki.write_private(path, pki.make_node_key())
    key = pki.load_node_key(path)
    stock = load_ssh_private_key(path.read_bytes(), None)  # as flower-supernode reads it
    assert uses_nist_ec_curve(key.public_key())
    assert stock.public_key() == key.public_key()
    line = pki.node_public_line(key)
    assert line.startswith("ecdsa-sha2-nistp384 ")
    assert load_ssh_public_key(line.encode()) == key.public_key()
    assert pki.node_public_from_line(line) == key.public_key()


def test_openssh_takes_the_node_key(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    pki.write_private(path, pki.make_node_key())
    shown = subprocess.run(["ssh-keygen", "-y", "-f", str(path)], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == pki.node_public_line(pki.load_node_key(path))


@pytest.mark.parametrize("change", ["{} comment", "{}\n", " {}", "{} \n{}", "", "ssh-ed25519 AAAA", "{}é", "--help"])
def test_a_line_that_is_no_node_key_is_refused(tmp_path: Path, change: str) -> None:
    pki.write_private(tmp_path / "node.key", pki.make_node_key())
    line = pki.node_public_line(pki.load_node_key(tmp_path / "node.key"))
    with pytest.raises(RecordError, match="no line of an OpenSSH P-384 public key"):
        pki.node_public_from_line(change.format(line, line))


def test_a_node_key_whose_point_is_compressed_is_refused(tmp_path: Path) -> None:
    pki.write_private(tmp_path / "node.key", pki.make_node_key())
    kind, text = pki.node_public_line(pki.load_node_key(tmp_path / "node.key")).split()
    key = bytearray(b64decode(text))
    assert key[-97] == 4  # of an uncompressed point of P-384: SEC 1, 2.3.3
    key[-97] = 2
    with pytest.raises(RecordError, match="no line of an OpenSSH P-384 public key"):
        pki.node_public_from_line(f"{kind} {b64encode(key).decode()}")


def test_signing_keys(tmp_path: Path) -> None:
    pki.write_private(tmp_path / "signing.key", pki.make_signing_key())
    key = pki.load_signing_key(tmp_path / "signing.key").public_key()
    assert pki.public_from_hex(pki.public_hex(key)) == key
    assert len(pki.fingerprint(key)) == 64
    other = Ed25519PrivateKey.generate().public_key()
    assert pki.fingerprint(other) != pki.fingerprint(key)


def test_a_fingerprint_is_the_sha256_of_the_raw_key() -> None:
    key = pki.public_from_hex("00" * 31 + "01")
    assert pki.fingerprint(key) == "ec4916dd28fc4c10d78e287ca5d9cc51ee1ae73cbfde08c6b37324cbfaac8bc5"


@given(st.text(max_size=70))
def test_only_64_digits_are_a_public_key(text: str) -> None:
    for wrong in (text, "0A" * 32, "0" * 63, "0" * 64 + "\n"):
        with pytest.raises(RecordError, match="64 lower-case hexadecimal digits"):
            pki.public_from_hex(wrong)


def test_the_wrong_kind_of_key_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "secret-folder"
    folder.mkdir()
    pki.write_private(folder / "node.key", pki.make_signing_key())
    pki.write_private(folder / "signing.key", pki.authority_pem(pki.make_authority("x"))[0])
    pki.write_private(folder / "rubbish.key", os.urandom(64))
    ed25519 = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "ed25519.key")]
    sealed = ["ssh-keygen", "-q", "-t", "ecdsa", "-b", "384", "-N", "a password", "-f", str(folder / "sealed.key")]
    short = ["ssh-keygen", "-q", "-t", "ecdsa", "-b", "256", "-N", "", "-f", str(folder / "short.key")]
    for command in (ed25519, sealed, short):
        subprocess.run(command, check=True)
    for load, name in (
        (pki.load_node_key, "node.key"),
        (pki.load_node_key, "rubbish.key"),
        (pki.load_node_key, "ed25519.key"),
        (pki.load_node_key, "sealed.key"),
        (pki.load_node_key, "short.key"),
        (pki.load_signing_key, "signing.key"),
        (pki.load_signing_key, "rubbish.key"),
        (pki.load_signing_key, "sealed.key"),
    ):
        with pytest.raises(SettingsError, match=f"^{name} .*restore it from a backup$") as refused:
            load(folder / name)
        assert "secret-folder" not in str(refused.value)


# Files ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [0, 0o077, 0o777])
def test_modes_do_not_hang_on_the_umask(tmp_path: Path, mask: int) -> None:
    writing = (
        "import os, sys; from pathlib import Path; from fedward_common import pki; os.umask(int(sys.argv[1])); "
        "pki.write_private(Path('private'), b'a'); pki.write_public(Path('public'), b'b')"
    )
    subprocess.run([sys.executable, "-c", writing, str(mask)], cwd=tmp_path, check=True)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {"private": 0o600, "public": 0o644}
    assert pki.read_private(tmp_path / "private") == b"a"


def test_a_private_file_is_not_replaced_by_accident(tmp_path: Path) -> None:
    path = tmp_path / "signing.key"
    pki.write_private(path, b"one")
    with pytest.raises(SettingsError, match=r"^signing\.key is there already and was left as it is"):
        pki.write_private(path, b"two")
    assert pki.read_private(path) == b"one"
    pki.write_private(path, b"three", replace=True)
    assert pki.read_private(path) == b"three"
    assert [file.name for file in tmp_path.iterdir()] == ["signing.key"]


def test_of_several_that_make_a_key_at_once_one_wins(tmp_path: Path) -> None:
    path = tmp_path / "signing.key"
    ready = threading.Barrier(8)
    won: list[bytes] = []

    def make(data: bytes) -> None:
        ready.wait(20)
        try:
            pki.write_private(path, data)
        except SettingsError:
            return
        won.append(data)

    threads = [threading.Thread(target=make, args=(bytes([number]),)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert won == [pki.read_private(path)]
    assert [file.name for file in tmp_path.iterdir()] == ["signing.key"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o610, 0o666])
def test_a_key_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "node.key"
    pki.write_private(path, pki.make_node_key())
    path.chmod(mode)
    for read in (pki.read_private, pki.load_node_key):
        with pytest.raises(SettingsError, match=r"^node\.key can be read by others: chmod 600 it$"):
            read(path)
    path.chmod(0o400)
    pki.load_node_key(path)


def test_what_is_no_private_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir(mode=0o700)
    os.mkfifo(tmp_path / "fifo", 0o600)
    pki.write_private(tmp_path / "long", b"x" * (pki.MAX_KEY_BYTES + 1))
    (tmp_path / "loop").symlink_to("loop")
    for name, reason in {
        "nothing": "is missing",
        "folder": "cannot be read",
        "fifo": "is no file",
        "long": "is too long for a key",
        "loop": "cannot be read",
    }.items():
        with pytest.raises(SettingsError, match=f"^{name} {reason}"):
            pki.read_private(tmp_path / name)


def test_a_folder_that_takes_no_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"^ca\.key cannot be written \(No such file or directory\)"):
        pki.write_private(tmp_path / "nothing" / "ca.key", b"")
    (tmp_path / "ca.pem").mkdir()
    with pytest.raises(SettingsError, match=r"^ca\.pem cannot be written \(Is a directory\)"):
        pki.write_public(tmp_path / "ca.pem", b"")
    assert [file.name for file in tmp_path.iterdir()] == ["ca.pem"]


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    writing = (
        "import resource; from pathlib import Path; from fedward_common import pki, errors\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))\n"
        "try:\n    pki.write_private(Path('a.key'), b'x' * 100)\n"
        "except errors.SettingsError as error:\n    print(error)"
    )
    result = subprocess.run([sys.executable, "-c", writing], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert result.stdout == "a.key cannot be written (File too large): put that right\n"
    assert list(tmp_path.iterdir()) == []
