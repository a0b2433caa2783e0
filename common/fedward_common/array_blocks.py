"""A record's arrays as one block of bytes, in memory, in a file or on the wire.

A head says what lies where, then come the arrays' `.npy` buffers, each aligned. A SuperLink takes some milliseconds for
every object of a message, so a network of hundreds of arrays travels as one. The head is eight bytes, its length
(little-endian), and JSON: [[name, dtype, shape, offset, length], …], offsets from the head's end.
A block from elsewhere is read without copying it, and nothing in its head is believed.
"""

import json
from collections.abc import Iterator
from typing import Annotated, NamedTuple

from flwr.app import Array, ArrayRecord
from pydantic import Field, TypeAdapter, ValidationError

from fedward_common.errors import RecordError

ALIGNMENT = 64
MAX_PIECES = 100_000
MAX_HEAD_BYTES = 64 * 2**20
MAX_BYTES = 2**48
_LENGTH_BYTES = 8

Size = Annotated[int, Field(ge=0, le=MAX_BYTES)]


class Piece(NamedTuple):
    """One array: its name, type and shape, and where its buffer lies after the head."""

    name: str
    dtype: str
    shape: tuple[Size, ...]
    offset: Size
    length: Size


_LAYOUT = TypeAdapter(Annotated[list[Piece], Field(max_length=MAX_PIECES)])


def block_size(record: ArrayRecord) -> int:
    """How many bytes a record's block takes."""
    head, layout = _plan(record)
    return len(head) + (layout[-1].offset + layout[-1].length if layout else 0)


def pieces(record: ArrayRecord) -> Iterator[bytes | memoryview]:
    """A record's block in parts, to be written one after the other; the arrays' own buffers are not copied."""
    head, layout = _plan(record)
    yield head
    end = 0
    for piece, array in zip(layout, record.values(), strict=True):
        yield bytes(piece.offset - end)
        yield array.data
        end = piece.offset + piece.length


def view(memory: memoryview) -> ArrayRecord:
    """The record of a block, as views: the memory lives as long as an array does. `RecordError` for what is none."""
    head_end = _LENGTH_BYTES + int.from_bytes(memory[:_LENGTH_BYTES], "little")
    if len(memory) < _LENGTH_BYTES or head_end > min(len(memory), MAX_HEAD_BYTES):
        raise RecordError("the arrays' block has no whole head")
    try:
        layout = _LAYOUT.validate_json(bytes(memory[_LENGTH_BYTES:head_end]))
    except ValidationError:
        raise RecordError("the head of the arrays' block does not say what lies where") from None
    record = ArrayRecord()
    for name, dtype, shape, offset, length in layout:
        start = head_end + offset
        if start + length > len(memory):
            raise RecordError(f"array {name[:40]!r} lies outside of its block")
        array = Array(dtype, tuple(shape), "numpy.ndarray", b"")
        array.data = memory[start : start + length]  # type: ignore[assignment]  # flwr reads any buffer
        record[name] = array
    return record


def _plan(record: ArrayRecord) -> tuple[bytes, list[Piece]]:
    """The head, padded so that the first buffer is aligned, and what lies where after it."""
    layout: list[Piece] = []
    end = 0
    for name, array in record.items():
        offset = -(-end // ALIGNMENT) * ALIGNMENT
        end = offset + len(array.data)
        layout.append(Piece(name, array.dtype, tuple(array.shape), offset, len(array.data)))
    text = json.dumps(layout).encode()
    text += b" " * (-(_LENGTH_BYTES + len(text)) % ALIGNMENT)
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text, layout
