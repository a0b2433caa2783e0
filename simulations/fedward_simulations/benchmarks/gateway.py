"""A round of a model of 25 million parameters through the gateway, in which nothing is learned.

Everything between hub and sites is real: nginx, TLS with certificates both ways, the chunks beside the messages, the
door at each site. Beside it stands the same study without a gateway, where arrays travel in the messages through the
SuperLink. The mean of eight sites stands beside that of two.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from fedward_simulations.benchmarks import Figure
from fedward_simulations.benchmarks._noop_rounds import LARGE, make_study, our_rounds, setting

SITES, MANY_SITES, ROUNDS = 2, 8, 8
COMPRESSIONS = ("none", "int8")


def run() -> Iterator[Figure]:
    """Two sites beside the way through the SuperLink, then eight beside two; each whole and as int8."""
    with tempfile.TemporaryDirectory(prefix="fedward-bench-") as scratch:
        for compression in COMPRESSIONS:
            yield from beside_in_band(Path(scratch) / compression, compression)


def beside_in_band(folder: Path, compression: str, *, rounds: int = ROUNDS, many: int = MANY_SITES) -> Iterator[Figure]:
    """Seconds a round of one compression."""
    few = make_study(LARGE, sites=SITES, rounds=rounds, compression=compression)
    others = make_study(LARGE, sites=many, rounds=rounds, compression=compression)
    in_band = our_rounds(folder / "in-band", SITES, few).middle_s
    two = our_rounds(folder / "two", SITES, few, gateway=True).middle_s
    what = {"compression": compression, "rounds": rounds}
    yield Figure(
        name="gateway",
        setting={**setting(few, SITES), **what},
        value=two,
        unit="s/round",
        reference="Fedward without a gateway, arrays in the messages",
        reference_value=in_band,
    )
    yield Figure(
        name="gateway",
        setting={**setting(others, many), **what},
        value=our_rounds(folder / "many", many, others, gateway=True).middle_s,
        unit="s/round",
        reference=f"Fedward's gateway with {SITES} sites",
        reference_value=two,
    )
