"""Rounds of the embedded engine, beside a bare torch loop over the same hospitals: training, scoring and averaging."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import torch

from fedward_common import models
from fedward_common.events import ignore
from fedward_common.testing import tiny_study
from fedward_server.rounds import RoundEngine
from fedward_simulations.benchmarks import Figure
from fedward_simulations.benchmarks._bare import federated_round
from fedward_simulations.grid import EmbeddedGrid
from fedward_simulations.phantoms import OpenPhantom

SITES = 4
PATIENTS = 450  # a hospital: with four, about as many images as scikit-learn's digits
ROUNDS = 12
WARM_UP = 2  # rounds that pay for imports and first allocations, on both sides
STUDY = tiny_study(
    input={"size": [16, 16]}, training={"rounds": ROUNDS, "batch_size": 32}, strategy={"min_sites": SITES}
)


def run() -> Iterator[Figure]:
    """A small CNN at four hospitals, with one worker and with two."""
    hospitals = [OpenPhantom(f"site-{number}", PATIENTS) for number in range(SITES)]
    reference = _bare(hospitals)
    for workers in (1, 2):
        yield Figure(
            name="simulation-rounds",
            setting={"sites": SITES, "images": SITES * PATIENTS, "model": STUDY.model.name, "workers": workers},
            value=_embedded(hospitals, workers),
            unit="s/round",
            reference="a bare torch loop, one thread, one hospital after the other",
            reference_value=reference,
        )


def _embedded(hospitals: list[OpenPhantom], workers: int) -> float:
    seconds: list[float] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        EmbeddedGrid({one.name: one for one in hospitals}, workers=workers) as grid,
    ):
        RoundEngine(
            grid=grid,
            study=STUDY,
            run="bench",
            engine="embedded",
            folder=Path(folder),
            on_round=lambda row: seconds.append(row.seconds),
            listener=lambda _event: None,
        )()
    return median(seconds[WARM_UP:])


def _bare(hospitals: list[OpenPhantom]) -> float:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    sites = [one().load(STUDY, "bench", ignore) for one in hospitals]
    model = models.network(STUDY)
    state = {name: torch.as_tensor(array) for name, array in models.initial_state(STUDY, 1).items()}
    seconds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        state = dict(federated_round(model, state, sites, STUDY))
        seconds.append(time.perf_counter() - started)
    torch.set_num_threads(threads)
    return median(seconds[WARM_UP:])
