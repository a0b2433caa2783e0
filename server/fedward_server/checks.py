"""The update gate: what a site sent is fit to be aggregated, or is refused with a reason in words. It changes nothing.

Refused are other arrays than the model's, other shapes or types (byte order included), NaN and Inf, values that could
overflow a mean, and an update further from the model than the study allows. What a well-formed update *means* is not
judged here: robust strategies do that.

One pass over an update is enough for nearly all: a sum of squares that is finite has no NaN, Inf or huge value in it.
Only where it is not, or where an update is about as far from the model as it may be, is looked at with more care.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fedward_common.distance import squared_distance
from fedward_common.mapped_files import release
from fedward_common.records import CONTROL
from fedward_common.tensors import as_tensor

_NAMES_SHOWN = 3
_NAME_LENGTH = 80
_BLOCK = 65_536  # elements; two float64 blocks fit the processor's cache
_DOUBT = 0.01  # of the bound; a sum of a block's squares in float32 is off by at most 0.004 of itself
_SMALL = 1e-12  # a bound below it is for differences whose squares float32 may not hold


class Gate:
    """What every update of one round is held against."""

    def __init__(self, reference: Mapping[str, npt.NDArray[Any]], *, max_update_norm: float | None) -> None:
        """Take the arrays that were sent, and the largest L2 norm of update minus reference over all float arrays."""
        self._reference = reference
        self._max_update_norm = max_update_norm

    def check(self, site: str, arrays: Mapping[str, npt.NDArray[Any]]) -> str | None:
        """Why this update of `site` is refused, or None where it may be aggregated."""
        return (
            self._wrong_names(site, arrays.keys())
            or self._wrong_array(site, arrays)
            or self._wrong_values(site, arrays)
        )

    def _wrong_names(self, site: str, names: Iterable[str]) -> str | None:
        if missing := self._reference.keys() - set(names):
            return f"the update of {site} lacks {_named(missing)}, which the model has"
        if unknown := set(names) - self._reference.keys():
            return f"the update of {site} holds {_named(unknown)}, which the model does not have"
        return None

    def _wrong_array(self, site: str, arrays: Mapping[str, npt.NDArray[Any]]) -> str | None:
        for name, expected in self._reference.items():
            array = arrays[name]
            if array.shape != expected.shape:
                return f"array '{name}' of {site} has the shape {array.shape}; the model's is {expected.shape}"
            if array.dtype != expected.dtype:
                return f"array '{name}' of {site} is {_type(array.dtype)}; the model's is {_type(expected.dtype)}"
        return None

    def _wrong_values(self, site: str, arrays: Mapping[str, npt.NDArray[Any]]) -> str | None:
        floats = [name for name, array in self._reference.items() if array.dtype.kind == "f"]
        bound = self._max_update_norm
        squares = {}
        for name in floats:
            squares[name] = _sum_of_squares(arrays[name], None if bound is None else self._reference[name])
            release(arrays[name])  # an update may wait a while
        for name, square in squares.items():
            if not math.isfinite(square) and (problem := _problem(arrays[name])):
                return f"array '{name}' of {site} holds {problem}"
        if bound is None:
            return None
        model = [name for name in floats if not name.startswith(CONTROL)]
        norm = sum(squares[name] for name in model) ** 0.5
        if not math.isfinite(norm) or abs(norm - bound) < _DOUBT * bound or bound < _SMALL:
            norm = sum(squared_distance(arrays[name], self._reference[name]) for name in model) ** 0.5
        if norm <= bound:
            return None
        return f"the update of {site} is {norm:.4g} from the model (L2 norm); the study allows {bound:g}"


def _named(names: Iterable[str]) -> str:
    """Some of the names; those of a site are not trusted to be short or printable."""
    everything = sorted(names)
    shown = ", ".join(f"array {name[:_NAME_LENGTH]!r}" for name in everything[:_NAMES_SHOWN])
    rest = len(everything) - _NAMES_SHOWN
    return f"{shown} and {rest} more" if rest > 0 else shown


def _type(dtype: np.dtype[Any]) -> str:
    return dtype.name if dtype.isnative else f"{dtype.name} with its bytes swapped"


def _problem(array: npt.NDArray[Any]) -> str | None:
    """What keeps a float array from being averaged; told by one pass for the extremes, which NaN carries through."""
    if array.size == 0:
        return None
    low, high = (float(edge) for edge in torch.aminmax(as_tensor(array)))
    if not np.isfinite((low, high)).all():
        return "NaN or Inf"
    limit = float(np.finfo(array.dtype).max) / 2  # the difference of two such values is still finite
    return f"a value above {limit:.3g}, too large to be averaged" if max(-low, high) > limit else None


def _sum_of_squares(array: npt.NDArray[Any], reference: npt.NDArray[Any] | None) -> float:
    """Of the values, or of their differences from a reference, in the array's own type; Inf or NaN: look with care."""
    values = as_tensor(array).view(-1)
    if values.dtype not in {torch.float32, torch.float64}:
        return math.inf
    if reference is None:
        return float(values.dot(values))
    total = 0.0
    expected = as_tensor(reference).view(-1)
    for start in range(0, len(values), _BLOCK):
        difference = values[start : start + _BLOCK] - expected[start : start + _BLOCK]
        total += float(difference.dot(difference))
    return total
