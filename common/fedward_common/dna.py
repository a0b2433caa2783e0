"""Windows of DNA as numbers, around their middle. Pure: text in, numbers out."""

import numpy as np
import numpy.typing as npt

BASES = "ACGTN"
MAX_LENGTH = 4096  # bases of a window

_ONE_HOT = np.vstack([np.eye(4), np.full(4, 0.25)]).astype(np.float32)


def names(column: str, length: int) -> tuple[str, ...]:
    """What the bases of a window are called: "dna[0]" is its middle one, base `length // 2` counted from 0."""
    return tuple(f"{column}[{place - length // 2}]" for place in range(length))


def codes(text: str, length: int) -> tuple[float, ...]:
    """The `length` bases around the middle of a sequence: 0 to 3 for A, C, G and T, 4 for N and beyond its ends.

    Raises ValueError for another letter, also where it is cropped.
    """
    text = text.upper()
    if not set(text) <= set(BASES):
        raise ValueError("a sequence has letters other than A, C, G, T and N")
    start = len(text) // 2 - length // 2
    window = "N" * -start + text[max(start, 0) : start + length]
    return tuple(float(BASES.index(base)) for base in window.ljust(length, "N"))


def one_hot(bases: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """`codes` [length] as [4, length], a channel each for A, C, G and T. Reversed on both axes it is the other strand.

    An unknown base is a quarter of each, the mean of what it could be, as in Basset's code (Kelley, Snoek and Rinn
    2016, doi:10.1101/gr.200535.115); with zeros its places would weigh less than any base.
    """
    return np.ascontiguousarray(_ONE_HOT[np.asarray(bases, np.int64)].T)
