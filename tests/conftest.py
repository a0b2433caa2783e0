"""For all tests: what the place where they are started would otherwise change, and which of them begin.

Beside that the certificates of a hospital's own network.
"""

import signal
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from hypothesis import settings

# these machines are shared, so no example of a property has a time limit of its own; `make test-all` tries many more
settings.register_profile("quick", deadline=None, max_examples=40)
settings.register_profile("thorough", deadline=None, max_examples=200)
settings.load_profile("quick")

# a shell starts what it puts into the background with Ctrl-C ignored, and so would everything be that a test starts
signal.signal(signal.SIGINT, signal.default_int_handler)

WHOLE_SYSTEMS = {"e2e", "integration", "simulations"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest: at the end one of them would keep a single worker busy."""
    items.sort(key=lambda item: item.path.parent.name not in WHOLE_SYSTEMS)


@pytest.fixture(scope="session")
def certificates() -> Callable[[Path], Path]:
    """`certificates(folder)`: an authority (ca.pem), what it signed for 127.0.0.1 (own.pem and own.key, peer.pem and
    peer.key), and an authority that signed nothing (other-ca.pem); gives the folder."""

    def write(folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        # RSA: archives of some age take no other
        authority = rsa.generate_private_key(65537, 2048)
        for name, key in (("ca.pem", authority), ("other-ca.pem", rsa.generate_private_key(65537, 2048))):
            (folder / name).write_bytes(_certificate("hospital", key.public_key(), key, authority=True))
        for name in ("own", "peer"):
            key = rsa.generate_private_key(65537, 2048)
            (folder / f"{name}.pem").write_bytes(_certificate(name, key.public_key(), authority, authority=False))
            pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            (folder / f"{name}.key").write_bytes(pem)
        return folder

    return write


def _certificate(name: str, key: rsa.RSAPublicKey, signer: rsa.RSAPrivateKey, *, authority: bool) -> bytes:
    now = datetime.now(UTC)
    signs = x509.KeyUsage(not authority, False, not authority, False, False, authority, authority, False, False)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hospital")]))
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=2))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(signs, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
    )
    return builder.sign(signer, SHA256()).public_bytes(Encoding.PEM)
