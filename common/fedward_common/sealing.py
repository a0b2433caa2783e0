"""A stream under a passphrase: encrypted as it is written, and read again only where not a bit of it was changed.

    "fedward sealed 1"    and a line feed; the number is the format's
    log2 of scrypt's N    1 byte
    salt                  16 bytes from the operating system, new for each stream
    chunks                64 KiB of the stream each, the last one at most so much, and 16 bytes of AES-GCM's tag each

The key is scrypt's (RFC 7914; N = 2^17, r = 8, p = 1: OWASP's Password Storage Cheat Sheet, 128 MiB of memory for each
guess). Chunks are AES-256-GCM (NIST SP 800-38D) as in the STREAM construction (Hoang, Reyhanitabar, Rogaway and Vizár,
ePrint 2015/189): chunk i has the nonce i, big-endian in 11 bytes, then 1 in the last chunk and 0 in the others. So what
is cut off, moved or put behind is found; what is read was checked first. The head is each chunk's associated data.
"""

import io
import secrets
import unicodedata
from typing import IO, Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from fedward_common.errors import SettingsError

MAGIC, VERSION = b"fedward sealed ", b"1"
CHUNK = 2**16
COST, MOST_COST = 17, 18  # log2 N; a file that asks for more than 256 MiB of memory is none of ours
_SALT, _TAG = 16, 16
_HEAD = len(MAGIC + VERSION) + 1 + 1 + _SALT


class Sealer(io.RawIOBase):
    """Writes a stream sealed into `file`. It is whole only when this is closed without an error."""

    def __init__(self, file: IO[bytes], passphrase: str, *, cost: int = COST) -> None:
        self._file = file
        self._head = MAGIC + VERSION + b"\n" + bytes([cost]) + secrets.token_bytes(_SALT)
        self._cipher = _cipher(passphrase, self._head)
        self._chunk = bytearray()
        self._number = 0
        file.write(self._head)

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, data: Any) -> int:
        """Take bytes."""
        self._chunk += data
        while len(self._chunk) > CHUNK:  # a full one may be the last
            self._put(bytes(self._chunk[:CHUNK]), last=False)
            del self._chunk[:CHUNK]
        return len(data)

    def finish(self) -> None:
        """Write the last chunk."""
        self._put(bytes(self._chunk), last=True)

    def _put(self, chunk: bytes, *, last: bool) -> None:
        self._file.write(self._cipher.encrypt(_nonce(self._number, last=last), chunk, self._head))
        self._number += 1


class Unsealer(io.RawIOBase):
    """Reads the stream in `file` back. Raises SettingsError where it is none, was changed, or is cut off."""

    def __init__(self, file: IO[bytes], passphrase: str) -> None:
        self._file = file
        self._head = _checked(file.read(_HEAD))
        self._cipher = _cipher(passphrase, self._head)
        self._next = file.read(CHUNK + _TAG)
        self._chunk = b""
        self._number = 0
        self._ended = False

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Give bytes that were checked."""
        while not self._chunk and not self._ended:
            self._open()
        count = min(len(buffer), len(self._chunk))
        buffer[:count] = self._chunk[:count]
        self._chunk = self._chunk[count:]
        return count

    def _open(self) -> None:
        sealed, self._next = self._next, self._file.read(CHUNK + _TAG)
        self._ended = not self._next
        try:
            self._chunk = self._cipher.decrypt(_nonce(self._number, last=self._ended), sealed, self._head)
        except InvalidTag:
            first = "it was sealed with another passphrase, or its beginning was changed: type the passphrase again"
            later = f"it was changed or cut off behind its first {self._number * CHUNK // 1024} KiB"
            raise SettingsError(f"{later if self._number else first}; if that is right, use another copy") from None
        self._number += 1


def _checked(head: bytes) -> bytes:
    """The head of a sealed stream of this version. Raises SettingsError for anything else."""
    if not head.startswith(MAGIC) or len(head) < _HEAD:
        raise SettingsError("it is nothing that Fedward sealed, or only the beginning of it: name another file")
    if head[len(MAGIC) :].split(b"\n")[0] != VERSION:
        raise SettingsError("it was sealed by a newer Fedward than this one, or its beginning was changed: use that")
    if not 1 <= head[len(MAGIC) + 2] <= MOST_COST:
        raise SettingsError("its beginning was changed, or a newer Fedward sealed it: use another copy, or that")
    return head


def _cipher(passphrase: str, head: bytes) -> AESGCM:
    text = unicodedata.normalize("NFC", passphrase).encode()  # keyboards differ in how they write an accent
    return AESGCM(Scrypt(salt=head[-_SALT:], length=32, n=2 ** head[len(MAGIC) + 2], r=8, p=1).derive(text))


def _nonce(number: int, *, last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes([last])
