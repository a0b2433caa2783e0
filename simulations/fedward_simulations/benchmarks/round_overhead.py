"""A round of a deployment in which nothing is learned: what the hub, the sites and all between them take by themselves.

A real hub and two real sites, whose hospitals change the arrays a little and send them back. Beside it, in the same
run, stock Flower does the same between a SuperLink and two SuperNodes. Both train and evaluate in every round: at
Fedward the evaluation rides on the train message. Then the most memory that each process had in use.
"""

import json
import tempfile
from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import partial
from math import prod
from pathlib import Path
from statistics import median
from typing import Any

from fedward_common import models
from fedward_common.study import StudySpec
from fedward_common.testing import tiny_study
from fedward_server import runs
from fedward_server.journal import FILE as EVENTS
from fedward_simulations.benchmarks import Figure
from fedward_simulations.benchmarks._deployments import (
    DAEMON,
    STOCK_LINK,
    STOCK_NODE,
    SUPERVISOR,
    ours,
    roots,
    stock,
    timed,
    whole_lines,
)
from fedward_simulations.benchmarks._processes import Peaks

SITES = ("north", "south")
NOOP_SITE = "fedward_simulations.benchmarks._noop_daemon"
WIDTH = 105  # of the small network: 1.0 million parameters
ROUNDS, STOCK_ROUNDS = 20, 5
ROUND_LIMIT_S = 60.0  # one of stock Flower takes 12
MEMORY_BESIDE = {
    **dict.fromkeys((SUPERVISOR, "superlink", "superexec", "serverapp"), STOCK_LINK),
    **dict.fromkeys((DAEMON, "executor", "supernode"), STOCK_NODE),
}


def run() -> Iterator[Figure]:
    """Seconds a round, then MiB of each process."""
    yield from measure(rounds=ROUNDS, stock_rounds=STOCK_ROUNDS, width=WIDTH)


def measure(*, rounds: int, stock_rounds: int, width: int) -> Iterator[Figure]:
    """The median over rounds without the first and the last, of which there are at least three."""
    study = tiny_study(
        model={"name": "small-cnn", "options": {"width": width}},
        training={"rounds": rounds},
        strategy={"min_sites": len(SITES)},
    )
    shapes = [list(array.shape) for array in models.initial_state(study, 1).values()]
    setting: dict[str, Any] = {
        "sites": len(SITES),
        "parameters": sum(prod(shape) for shape in shapes),
        "arrays": len(shapes),
        "evaluation": True,
        "tls": True,
        "node_authentication": True,
        "database": "file",
    }
    with tempfile.TemporaryDirectory(prefix="fedward-bench-") as scratch:
        seconds, peaks = _ours(Path(scratch) / "fedward", study)
        stock_seconds, stock_peaks = _stock(Path(scratch) / "stock", stock_rounds, shapes)
    yield Figure(
        name="round-overhead",
        setting={**setting, "rounds": rounds, "reference_rounds": stock_rounds},
        value=median(seconds[1:-1]),
        unit="s/round",
        reference="stock Flower: flower-superlink, flower-supernode and FedAvg, training and evaluating",
        reference_value=median(stock_seconds[1:-1]),
    )
    for role, other in MEMORY_BESIDE.items():
        yield Figure(
            name="round-overhead-memory",
            setting={**setting, "process": role},
            value=peaks[role],
            unit="MiB",
            reference=other,
            reference_value=stock_peaks[other],
        )


def _ours(folder: Path, study: StudySpec) -> tuple[list[float], dict[str, float]]:
    """Seconds from the beginning of each round to the next one's, and the peaks of memory by process."""
    with ours(folder, SITES, site_up=(NOOP_SITE,)) as federation:
        hub, peaks = federation.hub, Peaks(roots(federation))
        federation.approve(study, names=SITES)
        run = runs.start(hub, study, names=SITES, wait_s=ROUND_LIMIT_S).run
        read = partial(_began, hub.runs / run / EVENTS)
        said = [hub.runs / run / "run.log", hub.link.log_file]
        seconds = timed(read, study.training.rounds, peaks.look, limit_s=ROUND_LIMIT_S, said=said)
    return seconds, peaks.mib


def _began(events: Path) -> list[float]:
    """When each round began, and the end after the last one."""
    told = map(json.loads, whole_lines(events))
    return [datetime.fromisoformat(one["time"]).timestamp() for one in told if one["kind"] in {"round", "closing"}]


def _stock(folder: Path, rounds: int, shapes: Sequence[Sequence[int]]) -> tuple[list[float], dict[str, float]]:
    with stock(folder, len(SITES)) as deployment:
        peaks = Peaks(deployment.roots)
        seconds = deployment.rounds(rounds, shapes, peaks.look, limit_s=ROUND_LIMIT_S)
    return seconds, peaks.mib
