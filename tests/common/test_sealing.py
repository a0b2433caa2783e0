"""A sealed stream: read back as it was written, or refused, whichever bit of it was changed."""

import io

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from hypothesis import given
from hypothesis import strategies as st

from fedward_common.errors import SettingsError
from fedward_common.sealing import CHUNK, COST, MOST_COST, Sealer, Unsealer

WORDS = "seven dull hospital windows"
HEAD, SEALED = 34, CHUNK + 16


def sealed(data: bytes, passphrase: str = WORDS, *, pieces: int = 1000) -> bytes:
    file = io.BytesIO()
    sealer = Sealer(file, passphrase, cost=1)
    for start in range(0, len(data), pieces):
        sealer.write(data[start : start + pieces])
    sealer.finish()
    return file.getvalue()


def opened(data: bytes, passphrase: str = WORDS) -> bytes:
    return Unsealer(io.BytesIO(data), passphrase).read()


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK + 5])
@pytest.mark.parametrize("pieces", [777, 2 * CHUNK])
def test_what_was_sealed_is_read_back(size: int, pieces: int) -> None:
    data = bytes(number % 251 for number in range(size))
    whole = sealed(data, pieces=pieces)
    assert opened(whole) == data
    assert len(whole) == HEAD + size + 16 * max(1, -(-size // CHUNK))
    assert data[:40] not in whole or size < 16
    assert sealed(data) != whole, "a salt of its own"


def test_the_format_is_the_one_that_is_described() -> None:
    """Opened by hand, with the library's primitives: RFC 7914, NIST SP 800-38D, and STREAM's nonces."""
    data = bytes(CHUNK) + b"end"
    whole = sealed(data)
    assert whole[:17] == b"fedward sealed 1\n"
    assert (whole[17], COST, MOST_COST) == (1, 17, 18)
    head = whole[:HEAD]
    cipher = AESGCM(Scrypt(salt=head[18:], length=32, n=2, r=8, p=1).derive(WORDS.encode()))
    first, last = whole[HEAD : HEAD + SEALED], whole[HEAD + SEALED :]
    assert cipher.decrypt(bytes(12), first, head) + cipher.decrypt(bytes(10) + b"\1\1", last, head) == data


def test_a_passphrase_is_the_same_however_its_accents_are_typed() -> None:
    assert opened(sealed(b"x", "caf\u00e9 noir"), "cafe\u0301 noir") == b"x"


def test_another_passphrase_is_refused_in_words() -> None:
    for passphrase in (WORDS + " ", "", WORDS.upper()):
        with pytest.raises(SettingsError, match="it was sealed with another passphrase, or its beginning was changed"):
            opened(sealed(b"data"), passphrase)


WHOLE = sealed(bytes(range(256)) * 600)  # three chunks


@given(place=st.integers(0, len(WHOLE) - 1), bit=st.integers(0, 7))
def test_any_changed_bit_is_refused(place: int, bit: int) -> None:
    changed = bytearray(WHOLE)
    changed[place] ^= 1 << bit
    with pytest.raises(SettingsError, match=r"changed|nothing that Fedward sealed"):
        opened(bytes(changed))


@given(end=st.integers(0, len(WHOLE) - 1))
def test_a_stream_that_is_cut_off_is_refused(end: int) -> None:
    with pytest.raises(SettingsError):
        opened(WHOLE[:end])


@pytest.mark.parametrize("end", [HEAD, HEAD + SEALED, HEAD + 2 * SEALED])
def test_a_cut_between_chunks_is_found_too(end: int) -> None:
    with pytest.raises(SettingsError):
        opened(WHOLE[:end])


@given(more=st.binary(min_size=1, max_size=40))
def test_what_is_put_behind_is_refused(more: bytes) -> None:
    with pytest.raises(SettingsError):
        opened(WHOLE + more)


def test_chunks_of_another_place_or_stream_are_refused() -> None:
    first, second = WHOLE[HEAD : HEAD + SEALED], WHOLE[HEAD + SEALED : HEAD + 2 * SEALED]
    rest = WHOLE[HEAD + 2 * SEALED :]
    for chunks in (second + first + rest, first + first + rest, first + rest, second + rest):
        with pytest.raises(SettingsError):
            opened(WHOLE[:HEAD] + chunks)
    with pytest.raises(SettingsError, match="behind its first 64 KiB"):
        opened(WHOLE[: HEAD + SEALED] + sealed(bytes(range(256)) * 600)[HEAD + SEALED :])


def test_nothing_is_given_that_was_not_checked() -> None:
    changed = bytearray(WHOLE)
    changed[HEAD + SEALED + 5] ^= 1
    stream = Unsealer(io.BytesIO(bytes(changed)), WORDS)
    given_out = stream.read(CHUNK)
    assert given_out == (bytes(range(256)) * 600)[:CHUNK]
    with pytest.raises(SettingsError, match="changed or cut off behind its first 64 KiB"):
        stream.read(1)


def test_newer_versions_are_refused_in_words() -> None:
    with pytest.raises(SettingsError, match="it was sealed by a newer Fedward than this one"):
        opened(WHOLE.replace(b"sealed 1\n", b"sealed 2\n", 1))
    with pytest.raises(SettingsError, match="a newer Fedward sealed it"):
        opened(WHOLE[:17] + bytes([MOST_COST + 1]) + WHOLE[18:])
