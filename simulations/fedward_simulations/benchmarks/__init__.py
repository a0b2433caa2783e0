"""Benchmarks: what Fedward takes for a job, each beside a reference that does the least the job can take.

A benchmark is a module here that has `run() -> Iterator[Figure]`; its name is the module's in kebab-case. `make bench`
prints every figure as one JSON line.
"""

import pkgutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import Any

from fedward_common.errors import UsageError


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One measured number. `setting` says of what, so that lines can be compared; `reference` what the other did."""

    name: str
    setting: Mapping[str, Any]
    value: float
    unit: str
    reference: str
    reference_value: float  # in the same unit, measured in the same process

    @property
    def ratio(self) -> float:
        """The value over the reference's."""
        return self.value / self.reference_value

    def as_json(self) -> dict[str, Any]:
        """The line that `make bench` prints."""
        return {**asdict(self), "ratio": self.ratio}


def names() -> list[str]:
    """Every benchmark, sorted."""
    modules = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(name.replace("_", "-") for name in modules if not name.startswith("_"))


def run(name: str) -> Iterator[Figure]:
    """The figures of one benchmark, each as soon as it is there. Raises UsageError for a name that is none."""
    if name not in names():
        raise UsageError(f"there is no benchmark '{name}'; there are: {', '.join(names())}")
    figures: Iterator[Figure] = import_module(f"{__name__}.{name.replace('-', '_')}").run()
    return figures


def fastest(functions: Sequence[Callable[[], object]], *, repeats: int) -> list[float]:
    """The least seconds that each function took, in turns, so that a busy machine is unfair to none of them."""
    best = [float("inf")] * len(functions)
    for _ in range(repeats):
        for index, function in enumerate(functions):
            started = time.perf_counter()
            function()
            best[index] = min(best[index], time.perf_counter() - started)
    return best
