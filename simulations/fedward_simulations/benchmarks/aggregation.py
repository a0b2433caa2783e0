"""Aggregating large updates at the hub, beside the least it can take: torch adding them up in one flat buffer.

As one array, and as a ResNet-50's (He et al. 2016, arXiv:1512.03385) in a message's block. Seconds, then the most
memory beside the updates.
"""

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fedward_common.array_blocks import pieces, view
from fedward_common.records import from_array_record, to_array_record
from fedward_server.aggregation import StreamingMean
from fedward_simulations.benchmarks import Figure, fastest
from fedward_simulations.benchmarks._processes import peak_over

SITES = 10
PARAMETERS = 25_000_000
PATIENTS = 100
REPEATS = 30
FLOOR = "torch add_(alpha=) into one flat buffer"

Shape = tuple[int, ...]


def run() -> Iterator[Figure]:
    """The mean of ten updates, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for shapes in ([(PARAMETERS,)], resnet_50()):
            yield from measure(sites=SITES, shapes=shapes)
    finally:
        torch.set_num_threads(threads)


def resnet_50() -> list[Shape]:
    """The shapes of its 161 parameters, 25.6 million numbers."""
    shapes: list[Shape] = [(64, 3, 7, 7), (64,), (64,)]
    came = 64
    for width, count in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(count):
            convolutions = [(width, came, 1, 1), (width, width, 3, 3), (4 * width, width, 1, 1)]
            if block == 0:
                convolutions.append((4 * width, came, 1, 1))
            for shape in convolutions:
                shapes += [shape, shape[:1], shape[:1]]  # each with its normalisation
            came = 4 * width
    return [*shapes, (1000, came), (1000,)]


def measure(*, sites: int, shapes: Sequence[Shape]) -> Iterator[Figure]:
    """The mean of `sites` updates of float32 arrays: seconds where both buffers are there, then memory beside updates.

    A run's first round pays for the buffer too, and so would the floor's.
    """
    parameters = sum(map(prod, shapes))
    updates = [_update(site, shapes) for site in range(sites)]
    flat = torch.empty(parameters)
    torch.cat([torch.tensor(array).reshape(-1) for array in updates[0].values()], out=flat)
    flats = [flat, *(flat.clone() for _ in updates[1:])]
    total = torch.zeros(parameters)

    streaming = StreamingMean()

    def mean(streaming: StreamingMean) -> None:
        for update in updates:
            streaming.add(update, PATIENTS)
        streaming.result()

    def floor(into: torch.Tensor) -> None:
        for one in flats:
            into.add_(one, alpha=PATIENTS)

    setting = {
        "sites": sites,
        "parameters": parameters,
        "arrays": len(shapes),
        "dtype": "float32",
        "threads": torch.get_num_threads(),
    }
    value, reference_value = fastest([lambda: mean(streaming), lambda: floor(total)], repeats=REPEATS)
    yield Figure(
        name="aggregation",
        setting=setting,
        value=value,
        unit="s",
        reference=f"{FLOOR} that is already there",
        reference_value=reference_value,
    )
    model_mib = 4 * parameters / 2**20
    yield Figure(
        name="aggregation-memory",
        setting=setting,
        value=peak_over(lambda: mean(StreamingMean())) / model_mib,
        unit="models",
        reference=FLOOR,
        reference_value=peak_over(lambda: floor(torch.zeros(parameters))) / model_mib,
    )


def _update(site: int, shapes: Sequence[Shape]) -> Mapping[str, npt.NDArray[Any]]:
    """Arrays as a message brings them: read-only, in one block."""
    random = np.random.default_rng(site)
    arrays = {f"layer{n}.weight": random.standard_normal(shape, np.float32) for n, shape in enumerate(shapes)}
    return from_array_record(view(memoryview(b"".join(pieces(to_array_record(arrays))))))
