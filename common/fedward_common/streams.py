"""Named random streams of a study's seed: the same name gives the same numbers, whatever ran before.

Initial weights, shuffling, augmentation and bootstrap draw from here, each under its own name. Keys, masks and privacy
noise do not: they come from the operating system.
"""

import hashlib

import numpy as np


def stream_seed(seed: int, *names: str | int) -> int:
    """A 63-bit seed for the stream `names` of `seed`, e.g. `stream_seed(42, "shuffle", "north", 3)`."""
    text = "\x1f".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def stream(seed: int, *names: str | int) -> np.random.Generator:
    """A NumPy generator (PCG64) for the stream `names` of `seed`."""
    return np.random.Generator(np.random.PCG64(stream_seed(seed, *names)))
