"""The most memory that a hub has in use over what it has while idle, in multiples of the model.

A real hub and real sites that learn nothing. Of the ServerApp, which lives as long as a run, idle is what it takes with
a model of next to nothing. Stock Flower's hub stands beside it: its SuperLink with all that it starts.
"""

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fedward_simulations.benchmarks import Figure
from fedward_simulations.benchmarks._deployments import STOCK_LINK, SUPERVISOR
from fedward_simulations.benchmarks._noop_rounds import (
    LARGE,
    Rounds,
    make_study,
    our_rounds,
    parameters,
    setting,
    stock_rounds,
)

SITES = (2, 8)
ROUNDS, STOCK_ROUNDS = 4, 3
TINY = {"model": {"name": "small-cnn", "options": {"width": 4}}}
SERVERAPP = "serverapp"
HUB = (SUPERVISOR, STOCK_LINK, "superlink", "superexec", SERVERAPP)  # the processes of either hub, by their roles
REFERENCE = "stock Flower's SuperLink, superexec and ServerApp"


def run() -> Iterator[Figure]:
    """The ServerApp with two and eight sites, one beside the other, then the whole hub with two."""
    yield from measure(LARGE, sites=SITES, rounds=ROUNDS, reference_rounds=STOCK_ROUNDS)


def measure(size: Mapping[str, Any], *, sites: tuple[int, int], rounds: int, reference_rounds: int) -> Iterator[Figure]:
    """At least three rounds of each."""
    few, many = sites
    study = make_study(size, sites=few, rounds=rounds)
    model_mib = 4 * parameters(study) / 2**20
    with tempfile.TemporaryDirectory(prefix="fedward-bench-") as scratch:
        folder = Path(scratch)
        idle = our_rounds(folder / "tiny", few, make_study(TINY, sites=few, rounds=3)).peaks[SERVERAPP]
        ours = our_rounds(folder / "few", few, study)
        more = our_rounds(folder / "many", many, make_study(size, sites=many, rounds=rounds))
        stock = stock_rounds(folder / "stock", few, reference_rounds, study)
    least = ours.peaks[SERVERAPP] - idle
    whole, reference = _over_idle(ours), _over_idle(stock)
    yield Figure(
        name="hub-memory",
        setting={**setting(study, few), "process": SERVERAPP},
        value=least / model_mib,
        unit="models",
        reference=REFERENCE,
        reference_value=reference / model_mib,
    )
    yield Figure(
        name="hub-memory",
        setting={**setting(study, many), "process": SERVERAPP},
        value=(more.peaks[SERVERAPP] - idle) / model_mib,
        unit="models",
        reference=f"Fedward with {few} sites",
        reference_value=least / model_mib,
    )
    yield Figure(
        name="hub-memory",
        setting={**setting(study, few), "process": "hub"},
        value=whole / model_mib,
        unit="models",
        reference=REFERENCE,
        reference_value=reference / model_mib,
    )


def _over_idle(rounds: Rounds) -> float:
    """MiB of all processes of a hub at their peaks, less what those that were there before the run had in use then."""
    return sum(rounds.peaks.get(role, 0.0) - rounds.idle.get(role, 0.0) for role in HUB)
