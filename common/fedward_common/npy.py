"""Arrays as `.npy` buffers, version 1.0 (NEP 1): written by numpy, read without it.

numpy's reader hands the header to Python's `ast`, which a hostile one can bring down, and which in CPython 3.11 is not
safe in several threads. A header is one line of one form, so here a regular expression reads it; everything in it is
checked in Python's unbounded integers before numpy sees a byte. Nothing else than plain numbers travels: no objects,
no structures, no Fortran order, no big-endian numbers.
"""

import io
import math
import re
from typing import Any

import numpy as np
import numpy.typing as npt

from fedward_common.errors import RecordError

Buffer = bytes | bytearray | memoryview

MAX_DIMENSIONS = 8
MAX_NUMBERS = 2**48  # in one array; far beyond any memory, and its bytes still fit 64 bits

DTYPES = {"float16": "<f2", "float32": "<f4", "float64": "<f8", "uint8": "|u1", "int32": "<i4", "int64": "<i8"}

_MAGIC = b"\x93NUMPY\x01\x00"
_START = len(_MAGIC) + 2  # the magic string, then the header's length in two bytes, little-endian
_ALIGNMENT = 64  # of the data; the header is padded to it with spaces, and ends with a line feed
_LONGEST = 512  # bytes of start and header; eight dimensions of 18 digits take 256
_SIZE = rb"(?:0|[1-9][0-9]{0,17})"
_HEADER = re.compile(
    rb"\{'descr': '([<|][a-z][1-8])', 'fortran_order': False, 'shape': "
    rb"\((|%(n)b,|%(n)b(?:, %(n)b){1,%(more)d})\), \} *\n" % {b"n": _SIZE, b"more": MAX_DIMENSIONS - 1}
)


def head(array: npt.NDArray[Any]) -> bytes:
    """What stands before the data of an array of a type in DTYPES; `RecordError` for what does not travel."""
    if str(array.dtype) not in DTYPES:
        raise RecordError(f"arrays of {array.dtype} do not travel; these do: {', '.join(sorted(DTYPES))}")
    if array.ndim > MAX_DIMENSIONS:
        raise RecordError(f"an array of {array.ndim} dimensions does not travel; at most {MAX_DIMENSIONS} do")
    header = io.BytesIO()
    described = {"descr": np.lib.format.dtype_to_descr(array.dtype), "fortran_order": False, "shape": array.shape}
    np.lib.format.write_array_header_1_0(header, described)
    return header.getvalue()


def parts(array: npt.NDArray[Any]) -> tuple[bytes, memoryview]:
    """What `dump` gives, in two parts, the second the array's own memory where it lies in C order."""
    return head(array), raw(np.ascontiguousarray(array).reshape(array.shape))


def dump(array: npt.NDArray[Any]) -> bytes:
    """`array`, of a type in DTYPES, as a buffer in C order; `RecordError` for what does not travel."""
    return b"".join(parts(array))


def load(data: Buffer, dtype: str) -> npt.NDArray[Any]:
    """The array in `data`, a view of it; `RecordError`, in words without a subject, unless it is exactly a `dtype`."""
    view = memoryview(data)
    start, shape = _read_header(view, dtype)
    numbers = math.prod(shape)
    itemsize = np.dtype(dtype).itemsize
    if math.prod(size or 1 for size in shape) > MAX_NUMBERS:
        raise RecordError(f"is larger than any array that travels: {shape}")
    if len(view) - start != numbers * itemsize:
        raise RecordError(f"holds {len(view) - start} bytes, where {shape} of {dtype} takes {numbers * itemsize}")
    return np.frombuffer(view, dtype=dtype, offset=start).reshape(shape)


def raw(array: npt.NDArray[Any]) -> memoryview:
    """The bytes of a contiguous array, without a copy."""
    return array.reshape(-1).view(np.uint8).data


def _read_header(view: memoryview, dtype: str) -> tuple[int, tuple[int, ...]]:
    """Where the data begin, and the shape."""
    head = bytes(view[:_LONGEST])
    if head[: len(_MAGIC)] != _MAGIC or len(head) < _START:
        raise RecordError("is no .npy buffer of version 1.0")
    start = _START + int.from_bytes(head[len(_MAGIC) : _START], "little")
    header = _HEADER.fullmatch(head, _START, start) if start <= len(head) and start % _ALIGNMENT == 0 else None
    if header is None:
        raise RecordError(f"has no .npy header of plain numbers in C order with at most {MAX_DIMENSIONS} dimensions")
    if header[1].decode() != DTYPES[dtype]:
        raise RecordError(f"holds {header[1].decode()!r}, not {dtype}")
    return start, tuple(int(size) for size in header[2].replace(b",", b" ").split())
