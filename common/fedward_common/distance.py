"""How far an update is from the model it began from."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

_BLOCK = 65_536  # elements; two float64 blocks fit the processor's cache


def squared_distance(array: npt.NDArray[Any], reference: npt.NDArray[Any]) -> float:
    """Squared L2 distance of two arrays of one shape, summed in float64 over blocks: no copy of a whole array."""
    ours, theirs = array.reshape(-1), reference.reshape(-1)
    total = 0.0
    for start in range(0, ours.size, _BLOCK):
        block = ours[start : start + _BLOCK].astype(np.float64)
        block -= theirs[start : start + _BLOCK]
        total += float(np.einsum("i,i->", block, block))  # not `@`: BLAS would start threads, which spin
    return total


def update_norm(arrays: Mapping[str, npt.NDArray[Any]], reference: Mapping[str, npt.NDArray[Any]]) -> float:
    """L2 norm of `arrays` minus `reference` over the float arrays."""
    total = sum(squared_distance(array, reference[name]) for name, array in arrays.items() if array.dtype.kind == "f")
    return float(np.sqrt(total))
