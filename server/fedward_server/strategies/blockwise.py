"""Sums over whole models, block by block in float64: updates are read where they lie, and none is copied whole."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Arrays = Mapping[str, npt.NDArray[Any]]
Matrix = npt.NDArray[np.float64]

_BLOCK = 65_536  # elements of each update at a time: ten updates of them take 5 MiB


def gram(updates: Sequence[Arrays], reference: Arrays) -> Matrix:
    """Inner products [n, n] of what n updates changed, over all arrays of the reference (the model they came from).

    Taken of the changes, for those of whole models would drown them: models are large and much alike.
    """
    total = np.zeros((len(updates), len(updates)))
    for name, base in reference.items():
        start_of = base.reshape(-1)
        flat = [update[name].reshape(-1) for update in updates]
        for start in range(0, base.size, _BLOCK):
            block = np.stack([one[start : start + _BLOCK] for one in flat]).astype(np.float64, copy=False)
            block -= start_of[start : start + _BLOCK]
            total += block @ block.T
    return total


def squared_distances(products: Matrix) -> Matrix:
    """Squared L2 distances [n, n] between updates, from their `gram`."""
    norms = np.diag(products)
    distances: Matrix = np.maximum(norms[:, None] + norms[None, :] - 2.0 * products, 0.0)
    np.fill_diagonal(distances, 0.0)
    return distances


def combined(updates: Sequence[Arrays], reference: Arrays, shares: Sequence[float]) -> dict[str, npt.NDArray[Any]]:
    """The reference moved by the shares [n] of what each update changed: sum s_k u_k + (1 - sum s_k) reference.

    An update with the share 0 is not read. The result has the shapes and types of the reference.
    """
    rest = 1.0 - float(np.sum(shares))
    return {
        name: _combined([(update[name], share) for update, share in zip(updates, shares, strict=True)], base, rest)
        for name, base in reference.items()
    }


def _combined(parts: Sequence[tuple[npt.NDArray[Any], float]], base: npt.NDArray[Any], rest: float) -> npt.NDArray[Any]:
    used = [(array.reshape(-1), share) for array, share in (*parts, (base, rest)) if share]
    result = np.empty(base.size, base.dtype)
    for start in range(0, base.size, _BLOCK):
        block = np.zeros(min(_BLOCK, base.size - start))
        for array, share in used:
            block += share * array[start : start + _BLOCK].astype(np.float64)
        result[start : start + _BLOCK] = block
    return result.reshape(base.shape)
