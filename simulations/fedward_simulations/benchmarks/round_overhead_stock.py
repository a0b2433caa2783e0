"""The larger settings of `round-overhead` beside stock Flower, which takes half a minute for some of their rounds."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from fedward_simulations.benchmarks import Figure
from fedward_simulations.benchmarks._noop_rounds import LARGE, SMALL
from fedward_simulations.benchmarks.round_overhead import (
    LARGE_ROUNDS,
    MANY_SITES,
    ROUNDS,
    SITES,
    STOCK_ROUNDS,
    beside_stock,
)


def run() -> Iterator[Figure]:
    """Eight sites, then 25 million parameters."""
    with tempfile.TemporaryDirectory(prefix="fedward-bench-") as scratch:
        for name, size, sites, rounds in (
            ("many", SMALL, MANY_SITES, ROUNDS),
            ("large", LARGE, SITES, LARGE_ROUNDS),
        ):
            folder = Path(scratch) / name
            yield from beside_stock(folder, size, sites=sites, rounds=rounds, stock=STOCK_ROUNDS, processes=False)
