"""The updates of one round, added in the order of the sites' names whatever the order in which they come.

For a mean, each is added to it and let go; one that comes before its turn waits. For a strategy that takes all, and
where updates are compared with each other, all wait until the round ends.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import ArrayRecord

from fedward_common.records import Trained, from_array_record
from fedward_server.aggregation import StreamingMean
from fedward_server.shelf import Shelf

Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(slots=True)
class Updates:
    """The updates of one round: `order` are the sites' names in order, those that wait lie on the `shelf`."""

    order: list[str]
    shelf: Shelf
    kept: bool  # all wait until the round ends
    accepted: dict[str, Trained] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    _mean: StreamingMean = field(default_factory=StreamingMean)
    _waiting: dict[str, ArrayRecord] = field(default_factory=dict)
    _next: int = 0

    def accept(self, trained: Trained, record: ArrayRecord) -> None:
        """Take in a site's update. Raises RunError where one that must wait cannot be written."""
        self.accepted[trained.site] = trained
        if self.kept or self.order[self._next] != trained.site:
            self._waiting[trained.site] = self.shelf.put(record)
        else:
            self._waiting[trained.site] = record
        self._drain(lambda name: name in self.refused)

    def refuse(self, site: str, reason: str) -> None:
        """Leave a site out of this round, also one whose update waits."""
        self.accepted.pop(site, None)
        self._waiting.pop(site, None)
        self.refused[site] = reason
        self._drain(lambda name: name in self.refused)

    def close(self, silent: Mapping[str, str]) -> None:
        """No more come: `silent` says why of those that are missing."""
        self.refused.update(silent)
        if not self.kept:
            self._drain(lambda _name: True)

    def all(self) -> Iterator[tuple[str, ArrayRecord]]:
        """The updates that wait, in order."""
        return ((name, self._waiting[name]) for name in self.order if name in self._waiting)

    def mean(self) -> dict[str, npt.NDArray[Any]]:
        """The mean of all, weighted by training patients. Raises RunError where there is none."""
        self.kept = False
        self._drain(lambda _name: True)
        return self._mean.result()

    def clear(self) -> None:
        """Let go of everything."""
        self._waiting.clear()
        self.shelf.clear()

    @property
    def patients(self) -> int:
        """Of all accepted updates."""
        return sum(trained.patients for trained in self.accepted.values())

    @property
    def train_loss(self) -> float:
        """The mean over all patients."""
        return sum(trained.train_loss * trained.patients for trained in self.accepted.values()) / self.patients

    def _drain(self, skip: Callable[[str], bool]) -> None:
        """Add what has its turn."""
        while not self.kept and self._next < len(self.order):
            name = self.order[self._next]
            if name in self._waiting:
                self._mean.add(from_array_record(self._waiting.pop(name)), self.accepted[name].patients)
            elif not skip(name):
                return
            self._next += 1


def lower_median(values: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Of integer arrays of one shape, the lower median at each place: a value that a site sent, and no extreme one."""
    median: npt.NDArray[Any] = np.sort(np.stack(values), axis=0)[(len(values) - 1) // 2]
    return median
