"""A round of a deployment in which nothing is learned: what the hub, the sites and all between them take by themselves.

A real hub and real sites, whose hospitals change the arrays a little and send them back. Two sites and a million
parameters stand beside stock Flower, which does the same in the same run between a SuperLink and two SuperNodes; more
sites and more parameters stand beside that first setting. `round-overhead-stock` puts stock Flower beside them too,
which takes a quarter of an hour. All train and evaluate in every round: at Fedward the evaluation rides on the train
message. Then each process: the processor's time that a round takes there, and the most memory that it had in use.
"""

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fedward_simulations.benchmarks import Figure
from fedward_simulations.benchmarks._deployments import DAEMON, STOCK_LINK, STOCK_NODE, SUPERVISOR
from fedward_simulations.benchmarks._noop_rounds import (
    LARGE,
    SMALL,
    Rounds,
    make_study,
    our_rounds,
    setting,
    stock_rounds,
)

SITES, MANY_SITES = 2, 8
ROUNDS, LARGE_ROUNDS, STOCK_ROUNDS = 20, 8, 5
COMPRESSIONS = ("none", "bf16", "int8")  # of updates, at 25 million parameters
STOCK = "stock Flower: flower-superlink, flower-supernode and FedAvg, training and evaluating"
BESIDE = {
    **dict.fromkeys((SUPERVISOR, "superlink", "superexec", "serverapp"), STOCK_LINK),
    **dict.fromkeys((DAEMON, "executor", "supernode"), STOCK_NODE),
}


def run() -> Iterator[Figure]:
    """Two sites beside stock Flower, with memory; then eight sites; then 25 million parameters."""
    with tempfile.TemporaryDirectory(prefix="fedward-bench-") as scratch:
        first = beside_stock(Path(scratch) / "first", SMALL, sites=SITES, rounds=ROUNDS, stock=STOCK_ROUNDS)
        base = next(first)
        yield base
        yield from first
        yield beside(Path(scratch) / "many", base, SMALL, sites=MANY_SITES, rounds=ROUNDS)
        for compression in COMPRESSIONS:
            folder = Path(scratch) / compression
            yield beside(folder, base, LARGE, sites=SITES, rounds=LARGE_ROUNDS, compression=compression)


def beside_stock(
    folder: Path, size: Mapping[str, Any], *, sites: int, rounds: int, stock: int, processes: bool = True
) -> Iterator[Figure]:
    """Seconds a round beside stock Flower's, then MiB of each process; of each at least three rounds."""
    study = make_study(size, sites=sites, rounds=rounds)
    ours = our_rounds(folder / "fedward", sites, study)
    other = stock_rounds(folder / "stock", sites, stock, study)
    what = {**setting(study, sites), "compression": "none"}
    yield Figure(
        name="round-overhead",
        setting={**what, "rounds": rounds, "reference_rounds": stock},
        value=ours.middle_s,
        unit="s/round",
        reference=STOCK,
        reference_value=other.middle_s,
    )
    if processes:
        yield from _processes(what, ours, other)


def _processes(what: Mapping[str, Any], ours: Rounds, other: Rounds) -> Iterator[Figure]:
    for role, beside in BESIDE.items():
        same = role if role in other.cpu_s else beside
        yield Figure(
            name="round-overhead-cpu",
            setting={**what, "process": role},
            value=ours.cpu_s.get(role, 0.0),
            unit="s/round",
            reference=f"stock Flower's {same.removeprefix('stock-')}",
            reference_value=other.cpu_s[same],
        )
        yield Figure(
            name="round-overhead-memory",
            setting={**what, "process": role},
            value=ours.peaks[role],
            unit="MiB",
            reference=beside,
            reference_value=other.peaks[beside],
        )


def beside(
    folder: Path, base: Figure, size: Mapping[str, Any], *, sites: int, rounds: int, compression: str = "none"
) -> Figure:
    """Seconds a round beside those of another setting."""
    study = make_study(size, sites=sites, rounds=rounds, compression=compression)
    return Figure(
        name="round-overhead",
        setting={**setting(study, sites), "compression": compression, "rounds": rounds},
        value=our_rounds(folder, sites, study).middle_s,
        unit="s/round",
        reference=f"Fedward with {base.setting['sites']} sites and {base.setting['parameters']} parameters",
        reference_value=base.value,
    )
