"""Rounds of the embedded engine beside a bare torch loop over the same hospitals.

Once with training: phantoms and handwritten digits, scored, trained and averaged. Once without: hospitals that give
back what came, of 25 million numbers, where a bare loop only adds up.
"""

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch

from fedward_client.handlers import Hospital
from fedward_common import models
from fedward_common.events import ignore
from fedward_common.study import StudySpec
from fedward_common.testing import tiny_study
from fedward_server.events import RunEvent
from fedward_server.rounds import RoundEngine
from fedward_server.shelf import SHARED_BYTES
from fedward_simulations.benchmarks import Figure, _bare, _digits
from fedward_simulations.benchmarks._noop import Echo
from fedward_simulations.grid import EmbeddedGrid
from fedward_simulations.grid_worker import Answerer, Opener
from fedward_simulations.phantoms import OpenPhantom

SITES = 4
PATIENTS = 450  # a hospital: with four, about as many images as scikit-learn's digits
ROUNDS = 12
WARM_UP = 2  # rounds that pay for imports and first allocations, on both sides
NOOP_SITES = (2, 8)
NOOP_WIDTH = 1910  # of AlexNet: 25.0 million parameters in 16 arrays
WORKERS = (1, 2)


def run() -> Iterator[Figure]:
    """Phantoms, digits, then nothing."""
    yield from phantoms(patients=PATIENTS, rounds=ROUNDS)
    yield from digits(rounds=ROUNDS)
    for sites in NOOP_SITES:
        yield noop(sites=sites, width=NOOP_WIDTH, rounds=ROUNDS)


def phantoms(*, patients: int, rounds: int) -> Iterator[Figure]:
    """A small CNN at four phantom hospitals, with one worker and with two."""
    study = tiny_study(
        input={"size": [16, 16]}, training={"rounds": rounds, "batch_size": 32}, strategy={"min_sites": SITES}
    )
    hospitals = [OpenPhantom(f"site-{number}", patients) for number in range(SITES)]
    sites = [one().load(study, "bench", ignore) for one in hospitals]
    yield from _trained("phantoms", study, {one.name: one for one in hospitals}, sites)


def digits(*, rounds: int) -> Iterator[Figure]:
    """A small CNN on scikit-learn's digits at four hospitals, with one worker and with two."""
    study = _digits.study(SITES, rounds)
    hospitals = [_digits.OpenDigits(part, SITES) for part in range(SITES)]
    yield from _trained("digits", study, {one().name: one for one in hospitals}, [one.data(study) for one in hospitals])


def _trained(data: str, study: StudySpec, openers: Mapping[str, Opener], sites: Sequence[Any]) -> Iterator[Figure]:
    for workers in WORKERS:
        reference = partial(_bare.round_s, sites, study, study.training.rounds, WARM_UP)
        before = reference()  # on both sides of what it is held against: a machine is not equally busy all the time
        value = _embedded(study, openers, workers, Hospital)
        yield Figure(
            name="simulation-rounds",
            setting={
                "data": data,
                "sites": len(sites),
                "images": sum(len(site.labels) for site in sites),
                "model": study.model.name,
                "workers": workers,
            },
            value=value,
            unit="s/round",
            reference="a bare torch loop, one thread, one hospital after the other",
            reference_value=min(before, reference()),
        )


def noop(*, sites: int, width: int, rounds: int) -> Figure:
    """Hospitals that learn nothing, beside a loop that adds up what they would send."""
    study = tiny_study(
        input={"size": [64, 64]},
        model={"name": "alexnet", "options": {"width": width}},
        training={"rounds": rounds},
        strategy={"min_sites": sites},
    )
    state = [torch.as_tensor(array) for array in models.initial_state(study, 1).values()]
    openers = {f"site-{number}": OpenPhantom(f"site-{number}", 100) for number in range(sites)}
    reference = partial(_add_up, state, sites, rounds)
    before = reference()
    value = _embedded(study, openers, max(WORKERS), Echo)
    return Figure(
        name="simulation-rounds",
        setting={
            "data": "none",
            "sites": sites,
            "parameters": sum(map(torch.numel, state)),
            "arrays": len(state),
            "workers": max(WORKERS),
        },
        value=value,
        unit="s/round",
        reference="a bare torch loop: add_(alpha=) for each hospital, one thread",
        reference_value=min(before, reference()),
    )


def _embedded(study: StudySpec, openers: Mapping[str, Opener], workers: int, answerer: Answerer) -> float:
    """From the beginning of a round to the next one's: what is done between them is part of it."""
    began: list[float] = []

    def listen(event: RunEvent) -> None:
        if event.kind in {"round", "closing"}:
            began.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder, EmbeddedGrid(openers, workers=workers, answerer=answerer) as grid:
        RoundEngine(
            grid=grid,
            study=study,
            run="bench",
            engine="embedded",
            folder=Path(folder),
            waiting_bytes=SHARED_BYTES,
            on_round=lambda _row: None,
            listener=listen,
        )()
    return median([after - before for before, after in pairwise(began)][WARM_UP:])


def _add_up(state: Sequence[torch.Tensor], sites: int, rounds: int) -> float:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    mean = [torch.zeros_like(tensor) for tensor in state]
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        for _ in range(sites):
            for total, tensor in zip(mean, state, strict=True):
                total.add_(tensor, alpha=1 / sites)
        seconds.append(time.perf_counter() - started)
    torch.set_num_threads(threads)
    return median(seconds[WARM_UP:])
