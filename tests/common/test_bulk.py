"""What travels beside a message: cut into chunks, described, put together again or refused."""

import hashlib

import pytest
from flwr.app import ConfigRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fedward_common.bulk import CHUNK_BYTES, Manifest, parts
from fedward_common.errors import RecordError
from fedward_common.packing import beside, manifest_in, without_block


@pytest.mark.parametrize("size", [1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES])
def test_chunks_make_the_block(size: int) -> None:
    block = memoryview(bytes(range(256)) * (size // 256 + 1))[:size]
    manifest = Manifest.of(block, run="r", trip=7)
    cut = list(parts(block))
    assert b"".join(cut) == block
    assert [hashlib.sha256(part).hexdigest() for part in cut] == manifest.chunks
    assert [manifest.length(number) for number in range(len(cut))] == [len(part) for part in cut]


@given(st.integers(1, 2**40), st.integers(0, 40))
def test_so_many_chunks_make_so_many_bytes(size: int, count: int) -> None:
    fits = count == -(-size // CHUNK_BYTES)
    try:
        Manifest(run="r", trip=0, size=size, chunks=["0" * 64] * count)
    except ValidationError:
        assert not fits
    else:
        assert fits


@pytest.mark.parametrize(
    "change",
    [
        {"run": "../x"},
        {"run": "a/b"},
        {"run": ""},
        {"trip": -1},
        {"size": 0},
        {"chunks": ["../" + "0" * 61]},
        {"more": 1},
    ],
)
def test_a_manifest_names_no_path(change: dict[str, object]) -> None:
    plain = {"run": "r", "trip": 0, "size": 5, "chunks": ["0" * 64]}
    Manifest.model_validate(plain)
    with pytest.raises(ValidationError):
        Manifest.model_validate({**plain, **change})


def test_a_message_holds_the_manifest_alone() -> None:
    manifest = Manifest.of(memoryview(b"12345"), run="r", trip=1)
    text = ConfigRecord({"fedward": "question", "server-round": 3})
    content = beside(RecordDict({"config": text, "arrays": ConfigRecord()}), manifest)
    assert manifest_in(content) == manifest
    [record] = [record for name, record in content.items() if name == "config"]
    assert isinstance(record, ConfigRecord)
    assert without_block(record) == dict(text)
    assert manifest_in(RecordDict({"config": text})) is None


@given(st.text(max_size=50))
def test_no_text_crashes_the_reader(text: str) -> None:
    content = RecordDict({"config": ConfigRecord({"fedward.bulk": text})})
    with pytest.raises(RecordError, match="is not described as agreed"):
        manifest_in(content)
