"""Aggregating large updates at the hub, beside the least it can take: torch adding them up in one flat buffer."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fedward_server.aggregation import StreamingMean
from fedward_simulations.benchmarks import Figure, fastest

SITES = 10
PARAMETERS = 25_000_000  # about a ResNet-50's
ARRAYS = (1, 160)  # the bare arithmetic, and a ResNet-50's number of arrays
PATIENTS = 100
REPEATS = 15


def run() -> Iterator[Figure]:
    """The mean of ten updates, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for arrays in ARRAYS:
            yield measure(sites=SITES, parameters=PARAMETERS, arrays=arrays)
    finally:
        torch.set_num_threads(threads)


def measure(*, sites: int, parameters: int, arrays: int) -> Figure:
    """Seconds for the mean of `sites` updates of `parameters` float32 values, making the mean's buffer included."""
    flat = [torch.from_numpy(_values(site, parameters)) for site in range(sites)]
    updates = [_split(one.numpy(), arrays) for one in flat]
    total = torch.zeros(parameters)

    def mean() -> None:
        streaming = StreamingMean()
        for update in updates:
            streaming.add(update, PATIENTS)
        streaming.result()

    def floor() -> None:
        for one in flat:
            total.add_(one, alpha=PATIENTS)

    value, reference_value = fastest([mean, floor], repeats=REPEATS)
    return Figure(
        name="aggregation",
        setting={
            "sites": sites,
            "parameters": parameters,
            "arrays": arrays,
            "dtype": "float32",
            "threads": torch.get_num_threads(),
        },
        value=value,
        unit="s",
        reference="torch add_(alpha=) into one flat buffer that is already there",
        reference_value=reference_value,
    )


def _values(site: int, parameters: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(site).standard_normal(parameters, dtype=np.float32)


def _split(flat: npt.NDArray[Any], arrays: int) -> dict[str, npt.NDArray[Any]]:
    """The values as a model's arrays, read-only as those of a received message are."""
    flat = flat.view()
    flat.flags.writeable = False
    return {f"layer{index}.weight": part for index, part in enumerate(np.array_split(flat, arrays))}
