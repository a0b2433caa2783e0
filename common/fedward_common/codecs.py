"""Three codings of float32 values in fewer bytes: bf16, int8 with a scale for each block, and the k largest.

A codec turns one flat array of finite values into parts, which are arrays that travel (types of `fedward_common.npy`),
and back. It knows nothing of models, rounds or sites: `fedward_common.compression` does.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from fedward_common.errors import RecordError

Array = npt.NDArray[Any]
Flat = npt.NDArray[np.float32]  # [n], contiguous

BLOCK = 128  # values that share a scale: it adds 1/32 byte a value, and an outlier coarsens 127 others
# Values worked on at a time, whole blocks: their temporaries stay in a processor's cache. Fewer than the 2**15 from
# which on torch shares a pass among threads, which on a busy machine wait for each other far longer than it takes.
_CHUNK = 255 * BLOCK
_RANGE = np.float32(126.999)  # of whole numbers; a rounding of a product that reaches 127 stays 127
_LARGEST = float(np.finfo(np.float32).max) / 256  # of a scale: what it scales is finite
_SMALLEST = float(np.finfo(np.float32).tiny)  # of a scale: one over it is finite
_SAMPLED = 2**18  # values of which the k-th largest magnitude is guessed


class Codec(Protocol):
    """A coding."""

    def encode(self, left: Flat) -> tuple[dict[str, Array], float]:
        """The parts that say `left`, and the square of their L2 norm. What they do not say stays in `left`."""

    def decode(self, parts: Mapping[str, Array], into: Flat) -> None:
        """Add what the parts say to `into`. They are not believed: RecordError for those that do not fit.

        Sums that overflow, and the NaN or Inf of a bf16 value, are for the caller to refuse.
        """


@dataclass(frozen=True, slots=True)
class Bf16:
    """The upper half of a float32, rounded to nearest, ties to even: 2 bytes a value, off by at most 1/256 of it.

    Part "bf16": uint8 [2 n], little-endian.
    """

    def encode(self, left: Flat) -> tuple[dict[str, Array], float]:
        """See `Codec`."""
        part = np.empty(2 * left.size, np.uint8)
        halves = torch.from_numpy(part).view(torch.bfloat16)
        length = 0.0
        for start, chunk in chunks(left):
            half = halves[start : start + chunk.size].copy_(torch.from_numpy(chunk))
            said = half.float().numpy()
            length += squared(said)
            np.subtract(chunk, said, out=chunk)
        return {"bf16": part}, length

    def decode(self, parts: Mapping[str, Array], into: Flat) -> None:
        """See `Codec`."""
        halves = _part(parts, "bf16", np.uint8, 2 * into.size).view("<u2")
        for start, chunk in chunks(into):
            bits = halves[start : start + chunk.size].astype(np.uint32)
            bits <<= 16
            with np.errstate(invalid="ignore", over="ignore"):
                np.add(chunk, bits.view(np.float32), out=chunk)


@dataclass(frozen=True, slots=True)
class Int8:
    """Whole numbers from -127 to 127 and a float32 scale for every BLOCK values: 1.03 bytes a value.

    With `random` a value is rounded up with the probability of its fraction, so that its mean is the value (QSGD,
    Alistarh et al. 2017, arXiv 1610.02132; Gupta et al. 2015, arXiv 1502.02551): off by less than the scale, and on
    average by at most 2^-16 of it, for 16 random bits decide. Without, it is rounded to nearest: off by at most half.
    Parts "int8": uint8 [n], two's complement; "scale": float32, the last one of what is left of a block.
    """

    random: np.random.Generator | None = None

    def encode(self, left: Flat) -> tuple[dict[str, Array], float]:
        """See `Codec`."""
        codes = np.empty(left.size, np.uint8)
        scales = np.empty(_blocks(left.size), np.float32)
        length = 0.0
        for start, chunk in chunks(left):
            scale = _of_blocks(scales, start, chunk)
            said = self._round(chunk, scale)
            np.copyto(codes[start : start + chunk.size].view(np.int8), said, casting="unsafe")
            _scaled(said, scale, out=said)
            length += squared(said)
            np.subtract(chunk, said, out=chunk)
        return {"int8": codes, "scale": scales}, length

    def _round(self, chunk: Flat, scale: Flat) -> Flat:
        """A chunk's whole numbers, as floats; its scales are written into `scale`."""
        said = np.abs(chunk)
        _largest(said, out=scale)
        scale /= _RANGE
        scale[scale < _SMALLEST] = 0
        inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale > 0)
        _scaled(chunk, inverse, out=said)
        if self.random is None:
            return np.rint(said, out=said)
        bits = self.random.bit_generator.random_raw(-(-chunk.size // 4)).view(np.uint16)
        up = bits[: chunk.size].astype(np.float32)
        up *= np.float32(2**-16)
        said += up
        return np.floor(said, out=said)

    def decode(self, parts: Mapping[str, Array], into: Flat) -> None:
        """See `Codec`."""
        codes = _part(parts, "int8", np.uint8, into.size).view(np.int8)
        scales = _part(parts, "scale", np.float32, _blocks(into.size))
        if not ((scales >= 0) & (scales <= _LARGEST)).all():
            raise RecordError("the coded array 'scale' holds one that is negative, too large or no number")
        for start, chunk in chunks(into):
            said = codes[start : start + chunk.size].astype(np.float32)
            _scaled(said, _of_blocks(scales, start, chunk), out=said)
            with np.errstate(over="ignore"):
                np.add(chunk, said, out=chunk)


@dataclass(frozen=True, slots=True)
class TopK:
    """The `share` (above 0 to 1) of values with the largest magnitudes, at 8 bytes each; all others are said to be 0.

    Stich et al. 2018 (arXiv 1809.07599). Of equal magnitudes the first are taken. Parts "position": int32 [k],
    ascending; "value": float32 [k].
    """

    share: float

    def encode(self, left: Flat) -> tuple[dict[str, Array], float]:
        """See `Codec`."""
        positions = _largest_positions(left, self._count(left))
        values = left[positions]
        left[positions] = 0
        return {"position": positions.astype(np.int32), "value": values}, squared(values)

    def _count(self, flat: Flat) -> int:
        if flat.size >= 2**31:
            raise RecordError(f"a model of {flat.size} values is too large for top-k; choose another compression")
        return math.ceil(self.share * flat.size)

    def decode(self, parts: Mapping[str, Array], into: Flat) -> None:
        """See `Codec`."""
        count = self._count(into)
        positions = _part(parts, "position", np.int32, count)
        values = _part(parts, "value", np.float32, count)
        if positions.min() < 0 or positions.max() >= into.size or (positions[1:] <= positions[:-1]).any():
            raise RecordError("the coded array 'position' holds one twice, out of order or outside of the model")
        if not np.isfinite(values).all():
            raise RecordError("the coded array 'value' holds NaN or Inf")
        with np.errstate(over="ignore"):
            into[positions] += values


def chunks(flat: Flat) -> Iterator[tuple[int, Flat]]:
    """Where each chunk begins, and a view of it."""
    for start in range(0, flat.size, _CHUNK):
        yield start, flat[start : start + _CHUNK]


def squared(values: Array) -> float:
    """The square of the L2 norm in float64, chunk by chunk: not finite where a value is not."""
    total = 0.0
    for _, chunk in chunks(values.reshape(-1)):
        wide = chunk.astype(np.float64)
        wide *= wide  # and no `wide @ wide`: BLAS starts threads for that, which on a busy machine wait for each other
        total += float(wide.sum())
    return total


def _blocks(size: int) -> int:
    return -(-size // BLOCK)


def _of_blocks(scales: Flat, start: int, chunk: Flat) -> Flat:
    """The scales of a chunk that begins at `start`."""
    return scales[start // BLOCK :][: _blocks(chunk.size)]


def _largest(sizes: Flat, *, out: Flat) -> None:
    """The largest of each block of magnitudes; the last block may be shorter."""
    whole = sizes.size // BLOCK
    if whole:
        blocks = torch.from_numpy(sizes[: whole * BLOCK]).view(whole, BLOCK)
        torch.amax(blocks, dim=1, out=torch.from_numpy(out[:whole]))
    if whole < out.size:
        out[whole] = sizes[whole * BLOCK :].max()


def _scaled(chunk: Flat, scale: Flat, *, out: Flat) -> None:
    """A chunk, each block multiplied by its scale."""
    whole = chunk.size // BLOCK
    blocks = (array[: whole * BLOCK].reshape(whole, BLOCK) for array in (chunk, out))
    np.multiply(next(blocks), scale[:whole, None], out=next(blocks))
    if whole < scale.size:
        np.multiply(chunk[whole * BLOCK :], scale[whole], out=out[whole * BLOCK :])


def _part(parts: Mapping[str, Array], name: str, dtype: npt.DTypeLike, size: int) -> Array:
    """A part, or RecordError unless it is there, of this type, and [size]."""
    if name not in parts:
        raise RecordError(f"the coded array '{name}' is missing")
    part = parts[name]
    if part.dtype != dtype or part.shape != (size,):
        raise RecordError(f"the coded array '{name}' is {part.dtype} {part.shape}, not {np.dtype(dtype)} ({size},)")
    return part


def _largest_positions(flat: Flat, count: int) -> npt.NDArray[np.int64]:
    """The positions, ascending, of the `count` largest magnitudes: 1 or more.

    A sample says from which magnitude on they are to be looked for, so that few values are sorted.
    """
    positions, sizes = _at_least(flat, _guess(flat, count))
    if positions.size < count:  # the sample was unlike the whole
        positions, sizes = _at_least(flat, np.float32(0))
    least = np.partition(sizes, sizes.size - count)[sizes.size - count]
    above, equal = np.flatnonzero(sizes > least), np.flatnonzero(sizes == least)
    return np.sort(np.concatenate([positions[above], positions[equal[: count - above.size]]]))


def _guess(flat: Flat, count: int) -> np.float32:
    """A magnitude that a few more than `count` values reach, most likely."""
    sample = np.abs(flat[:: -(-flat.size // _SAMPLED)])
    share = count * sample.size / flat.size
    wanted = math.ceil(share + 8 * math.sqrt(share) + 8)  # eight standard deviations
    if wanted >= sample.size:
        return np.float32(0)
    guess: np.float32 = np.partition(sample, sample.size - wanted)[sample.size - wanted]
    return guess


def _at_least(flat: Flat, floor: np.float32) -> tuple[npt.NDArray[np.int64], Flat]:
    """The positions of the values with a magnitude of at least `floor`, ascending, and the magnitudes."""
    positions, sizes = [], []
    for start, chunk in chunks(flat):
        size = np.abs(chunk)
        found = np.flatnonzero(size >= floor)
        positions.append(found + start)
        sizes.append(size[found])
    return np.concatenate(positions), np.concatenate(sizes)
