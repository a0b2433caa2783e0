"""The updates of one round, added in the order of the sites' names whatever the order in which they come.

For a mean, each is added to it and let go; one that comes before its turn waits. For a strategy that takes all, and
where updates are compared with each other, all wait until the round ends. What waits is in memory up to a bound, then
in mapped files: the hub's memory does not grow with the number of sites.
"""

import mmap
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import ArrayRecord

from fedward_common.array_blocks import block_size, pieces, view
from fedward_common.errors import RunError
from fedward_common.records import Trained, from_array_record
from fedward_server.aggregation import StreamingMean

IN_MEMORY_BYTES = 64 * 2**20

Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(slots=True)
class Updates:
    """The updates of one round: `order` are the sites' names in order, `folder` is where those that wait may lie."""

    order: list[str]
    folder: Path
    kept: bool  # all wait until the round ends
    accepted: dict[str, Trained] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    _mean: StreamingMean = field(default_factory=StreamingMean)
    _waiting: dict[str, ArrayRecord] = field(default_factory=dict)
    _next: int = 0
    _held: int = 0  # bytes in memory

    def accept(self, trained: Trained, record: ArrayRecord) -> None:
        """Take in a site's update. Raises RunError where one that must wait cannot be written."""
        self.accepted[trained.site] = trained
        if self.kept or self.order[self._next] != trained.site:
            self._waiting[trained.site] = self._put_by(trained.site, record)
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
        shutil.rmtree(self.folder, ignore_errors=True)

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

    def _put_by(self, site: str, record: ArrayRecord) -> ArrayRecord:
        """The same record, in a mapped file where memory is for others."""
        size = block_size(record)
        if self._held + size <= IN_MEMORY_BYTES:
            self._held += size
            return record
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / site).open("w+b") as file:
                for piece in pieces(record):
                    file.write(piece)
                file.flush()
                return view(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))
        except OSError as error:
            raise RunError(
                f"an update cannot be put by in {self.folder} ({os.strerror(error.errno or 0)}): free space on that "
                "disk, then resume the run"
            ) from error


def lower_median(values: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Of integer arrays of one shape, the lower median at each place: a value that a site sent, and no extreme one."""
    median: npt.NDArray[Any] = np.sort(np.stack(values), axis=0)[(len(values) - 1) // 2]
    return median
