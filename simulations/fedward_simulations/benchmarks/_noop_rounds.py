"""Rounds of real deployments in which nothing is learned: Fedward's own, and stock Flower's."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from fedward_simulations.benchmarks._deployments import ours, roots, stock, timed, whole_lines
from fedward_simulations.benchmarks._processes import Peaks, Work
from fedward_simulations.federation import Federation

NOOP_SITE = "fedward_simulations.benchmarks._noop_daemon"
ROUND_LIMIT_S = 120.0  # one of stock Flower takes 12, with 8 sites and 25 million parameters 25
SMALL = {"model": {"name": "small-cnn", "options": {"width": 105}}}  # 1.0 million parameters
LARGE = {  # 25.0 million
    "model": {"name": "alexnet", "options": {"width": 1910}},
    "input": {"size": [64, 64]},
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Rounds:
    """What rounds took: seconds each, MiB by process before the run and at most, processor seconds of a round."""

    seconds: Sequence[float]
    idle: Mapping[str, float]
    peaks: Mapping[str, float]
    cpu_s: Mapping[str, float]  # by process, those of one role together; without the first round

    @property
    def middle_s(self) -> float:
        """The median without the first and the last round; there are at least three."""
        return median(self.seconds[1:-1])


class Seen:
    """What is looked at when a round has begun, and when the last one has ended."""

    def __init__(self, roots: Mapping[int, str]) -> None:
        self._peaks, self._work = Peaks(roots), Work(roots)

    def look(self, ended: int) -> None:
        """Look now, when so many rounds have ended."""
        self._peaks.look()
        self._work.look(ended)

    def rounds(self, seconds: Sequence[float], idle: Peaks) -> Rounds:
        """All that was seen of these rounds."""
        return Rounds(seconds=seconds, idle=idle.mib, peaks=self._peaks.mib, cpu_s=self._work.by_role())


def make_study(size: Mapping[str, Any], *, sites: int, rounds: int, compression: str = "none") -> StudySpec:
    """A study of a model of this size; `compression` is its [update] compression."""
    update = {} if compression == "none" else {"update": {"compression": compression}}
    return tiny_study(**size, **update, training={"rounds": rounds}, strategy={"min_sites": sites})


def shapes(study: StudySpec) -> list[list[int]]:
    """Of its model's arrays."""
    return [list(array.shape) for array in models.initial_state(study, 1).values()]


def parameters(study: StudySpec) -> int:
    """How many numbers its model has."""
    return sum(map(prod, shapes(study)))


def setting(study: StudySpec, sites: int) -> dict[str, Any]:
    """What a figure of such rounds says of them."""
    return {
        "sites": sites,
        "parameters": parameters(study),
        "arrays": len(shapes(study)),
        "evaluation": True,
        "tls": True,
        "node_authentication": True,
        "database": "memory",
    }


def our_rounds(folder: Path, sites: int, study: StudySpec, *, gateway: bool = False) -> Rounds:
    """A hub and `sites` sites that send back what comes, a little changed. Evaluation rides on the train message."""
    names = [f"site-{number}" for number in range(sites)]
    with ours(folder, names, site_up=(NOOP_SITE,), gateway=gateway) as federation:
        return run_rounds(federation, names, study)


def run_rounds(federation: Federation, names: Sequence[str], study: StudySpec) -> Rounds:
    """Seconds from the beginning of each round to the next one's, and the peaks of memory by process."""
    hub, idle, seen = federation.hub, Peaks(roots(federation)), Seen(roots(federation))
    federation.approve(study, names=names)
    idle.look()
    run = runs.start(hub, study, names=names, wait_s=ROUND_LIMIT_S).run
    read = partial(_began, hub.runs / run / EVENTS)
    said = [hub.runs / run / "run.log", hub.link.log_file]
    seconds = timed(read, study.training.rounds, seen.look, limit_s=ROUND_LIMIT_S, said=said)
    return seen.rounds(seconds, idle)


def _began(events: Path) -> list[float]:
    """When each round began, and the end after the last one."""
    told = map(json.loads, whole_lines(events))
    return [datetime.fromisoformat(one["time"]).timestamp() for one in told if one["kind"] in {"round", "closing"}]


def stock_rounds(folder: Path, sites: int, rounds: int, study: StudySpec) -> Rounds:
    """The same between a stock SuperLink and stock SuperNodes, with FedAvg."""
    with stock(folder, sites) as deployment:
        idle, seen = Peaks(deployment.roots), Seen(deployment.roots)
        idle.look()
        seconds = deployment.rounds(rounds, shapes(study), seen.look, limit_s=ROUND_LIMIT_S)
    return seen.rounds(seconds, idle)
