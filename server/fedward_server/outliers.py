"""Which updates of a round point elsewhere than the others do: told by cosines, over all sites at once.

An update's direction is its difference to the model that was sent. A site is an outlier where the cosine of its
direction to the sum of the other sites' directions, each of length 1, is below the study's bound: a large update counts
as much as a small one, so one site cannot turn the others' mean. (Compare FoolsGold, Fung et al. 2018,
arXiv:1808.04866, and FLTrust, Cao et al. 2021, arXiv:2012.13995.) Needs three sites: of two that disagree neither is
the outlier. Sites with other patients than the rest may point elsewhere honestly: the bound is the study's.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

_BLOCK = 65_536
LEAST = 3  # updates

Arrays = Mapping[str, npt.NDArray[Any]]


def gram(updates: Iterable[Arrays], reference: Arrays) -> npt.NDArray[np.float64]:
    """[n, n]: inner products of the updates' differences to the reference, over all float arrays, in float64."""
    held = list(updates)
    total = np.zeros((len(held), len(held)))
    for name, base in reference.items():
        if base.dtype.kind != "f":
            continue
        flat = base.reshape(-1)
        rows = [update[name].reshape(-1) for update in held]
        for start in range(0, flat.size, _BLOCK):
            part = slice(start, start + _BLOCK)
            block = np.stack([row[part].astype(np.float64) - flat[part] for row in rows])
            total += block @ block.T
    return total


def cosines(gram_matrix: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """[n]: each update's cosine to the sum of the others' unit directions; 0 where one of the two has no length."""
    lengths = np.sqrt(np.diag(gram_matrix))
    scale = np.divide(1.0, lengths, where=lengths > 0, out=np.zeros_like(lengths))
    unit = gram_matrix * np.outer(scale, scale)
    own = np.diag(unit)
    dots = unit.sum(axis=1) - own
    squares = unit.sum() - 2 * unit.sum(axis=1) + own  # of the others' sum
    norms = np.sqrt(np.maximum(squares, 0.0))
    found: npt.NDArray[np.float64] = np.divide(dots, norms, where=norms > 1e-12, out=np.zeros_like(dots))
    return found


def outliers(updates: Mapping[str, Arrays], reference: Arrays, min_cosine: float) -> dict[str, float]:
    """The sites whose update points elsewhere, and their cosines. None of fewer than three."""
    if len(updates) < LEAST:
        return {}
    found = cosines(gram(updates.values(), reference))
    return {site: float(value) for site, value in zip(updates, found, strict=True) if value < min_cosine}
