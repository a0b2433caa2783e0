"""Keys and the files they live in: made here, read here, checked on reading.

A site proves itself to Flower with a node key (P-384) and signs what it says with a signing key (Ed25519); TLS has keys
of its own (`certificates`). No key is sealed with a password: a private key is a file that nobody but its owner can
read, and one that others can read is refused, never used.
"""

import hashlib
import os
import re
import secrets
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedward_common.disk import sync
from fedward_common.errors import RecordError, SettingsError

MAX_KEY_BYTES = 2**16
_HEX_KEY = re.compile(r"[0-9a-f]{64}")
_Key = TypeVar("_Key")
# what cryptography raises for bytes that are no such key; the last one for a compressed point
UNREADABLE = (ValueError, TypeError, UnsupportedAlgorithm, NotImplementedError)


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
    except UNREADABLE:
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
    return private_pem(Ed25519PrivateKey.generate())


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
    except UNREADABLE:
        raise SettingsError(f"{path.name} holds no private key that can be read: restore it from a backup") from None


def private_pem(key: ec.EllipticCurvePrivateKey | Ed25519PrivateKey) -> bytes:
    """A private key as PKCS8 PEM without a password."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


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
