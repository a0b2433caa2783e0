"""A record's arrays as one block of bytes, in memory, in a file or on the wire.

A head says what lies where, then come the arrays' `.npy` buffers, each aligned. A SuperLink takes some milliseconds for
every object of a message, so a network of hundreds of arrays travels as one. The head is eight bytes, its length
(little-endian), and JSON: [[name, dtype, shape, offset, length], …], offsets from the head's end.
A block from elsewhere is read without copying it, and nothing in its head is believed.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord
from pydantic import Field, TypeAdapter, ValidationError

from fedward_common import npy
from fedward_common.errors import RecordError
from fedward_common.mapped_files import address

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


Record = ArrayRecord | Mapping[str, npt.NDArray[Any]]  # arrays that were not made a record yet save a copy


def block_size(record: Record) -> int:
    """How many bytes a record's block takes."""
    head, layout, _ = _plan(record)
    return len(head) + (layout[-1].offset + layout[-1].length if layout else 0)


def pieces(record: Record) -> Iterator[bytes | memoryview]:
    """A record's block in parts, to be written one after the other; the arrays' own buffers are not copied."""
    head, layout, buffers = _plan(record)
    yield head
    end = 0
    for piece, parts in zip(layout, buffers, strict=True):
        yield bytes(piece.offset - end)
        yield from parts
        end = piece.offset + piece.length


def pack(arrays: Mapping[str, npt.NDArray[Any]]) -> memoryview:
    """The block of arrays that are to travel, with one copy of each. `RecordError` for a type that does not travel."""
    heads = {name: npy.head(array) for name, array in arrays.items()}
    sizes = {name: (array, len(heads[name]) + array.nbytes) for name, array in arrays.items()}
    head, layout = _layout((name, str(array.dtype), array.shape, size) for name, (array, size) in sizes.items())
    block = np.empty(len(head) + (layout[-1].offset + layout[-1].length if layout else 0), np.uint8)
    block[: len(head)] = np.frombuffer(head, np.uint8)
    end = len(head)
    for piece, (name, array) in zip(layout, arrays.items(), strict=True):
        start = len(head) + piece.offset
        block[end:start] = 0
        data = start + len(heads[name])
        end = start + piece.length
        block[start:data] = np.frombuffer(heads[name], np.uint8)
        block[data:end].view(array.dtype).reshape(array.shape)[...] = array
    block.flags.writeable = False
    return block.data


def block_under(record: ArrayRecord) -> memoryview | None:
    """The block that a record is the view of, None where it is not that of exactly one."""
    first = next(iter(record.values()), None)
    if first is None or not isinstance(first.data, memoryview):
        return None
    block = memoryview(first.data.obj).cast("B")
    head, layout, _ = _plan(record)
    if bytes(block[: len(head)]) != head or len(block) != len(head) + layout[-1].offset + layout[-1].length:
        return None
    start = address(block) + len(head)
    same = all(
        isinstance(array.data, memoryview) and address(array.data) == start + piece.offset
        for piece, array in zip(layout, record.values(), strict=True)
    )
    return block if same else None


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


def _plan(record: Record) -> tuple[bytes, list[Piece], list[tuple[bytes | memoryview, ...]]]:
    """The head, padded so that the first buffer is aligned, what lies where after it, and the buffers in parts."""
    described: list[tuple[str, str, tuple[int, ...], int]] = []
    buffers: list[tuple[bytes | memoryview, ...]] = []
    for name, array in record.items():
        buffers.append((array.data,) if isinstance(array, Array) else npy.parts(np.asarray(array)))
        described.append((name, str(array.dtype), tuple(array.shape), sum(map(len, buffers[-1]))))
    return *_layout(described), buffers


def _layout(arrays: Iterable[tuple[str, str, tuple[int, ...], int]]) -> tuple[bytes, list[Piece]]:
    """The head and what lies where, of names, types, shapes and sizes in bytes."""
    layout: list[Piece] = []
    end = 0
    for name, dtype, shape, size in arrays:
        offset = -(-end // ALIGNMENT) * ALIGNMENT
        end = offset + size
        layout.append(Piece(name, dtype, shape, offset, size))
    text = json.dumps(layout).encode()
    text += b" " * (-(_LENGTH_BYTES + len(text)) % ALIGNMENT)
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text, layout
