"""Hospitals in memory only: images with a planted signal, for tests and benchmarks of everything above intake."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedward_client.measuring import Surveyed
from fedward_client.site_data import SiteData
from fedward_client.site_state import RunState
from fedward_common.cohort_statistics import Wanted
from fedward_common.errors import DataError
from fedward_common.events import Listener
from fedward_common.streams import stream
from fedward_common.study import Scale, StudySpec


@dataclass(frozen=True, slots=True)
class OpenPhantom:
    """Opens a phantom hospital in a worker."""

    name: str
    patients: int
    signal: float = 2.0
    min_cell: int = 5
    folder: Path | None = None

    def __call__(self) -> "PhantomSource":
        """The source."""
        return PhantomSource(self.name, self.patients, self.signal, self.min_cell, self.folder)


@dataclass(frozen=True, slots=True)
class PhantomSource:
    """`patients` patients, one image each: unit noise, and for every label stripes of its own width, `signal` high.

    Sides follow the study's shares, and folds and labels take turns. The same name gives the same images for the same
    study. What is kept between rounds is in `folder`; without one, nothing is.
    """

    name: str
    patients: int
    signal: float
    min_cell: int
    folder: Path | None = None

    def state(self, study: StudySpec, run: str) -> RunState | None:
        """Kept in the phantom's folder, where it has one."""
        return None if self.folder is None else RunState.of(self.folder / self.name, study, run)

    def check_opted_out(self, run: str) -> None:
        """Nobody: a phantom has no patients."""

    def once(self, run: str, name: str, value: str) -> str:  # noqa: ARG002 - a source's signature
        """Nothing is remembered: a phantom has no patients to protect."""
        return value

    def survey(self, study: StudySpec, run: str, wanted: Wanted, listener: Listener) -> Surveyed:  # noqa: ARG002
        """Refused: a phantom has tensors only."""
        raise DataError(f"{self.name} is a phantom, which has no catalog to tell of")

    def load(
        self,
        study: StudySpec,
        run: str,  # noqa: ARG002 - a source's signature, here and below
        listener: Listener,  # noqa: ARG002
        scale: Scale | None = None,  # noqa: ARG002
    ) -> SiteData:
        """The phantom's tensors, whatever the scale."""
        random = stream(0, "phantom", self.name)
        classes = len(study.cohort.labels)
        labels = np.arange(self.patients, dtype=np.int64) % classes
        shape = (self.patients, study.input.channels, *study.input.size)
        images = random.standard_normal(shape).astype(np.float32)
        columns = np.arange(study.input.size[-1])
        for index, label in enumerate(labels):
            images[index] += self.signal * (columns // (label + 1) % 2)
        turns = np.arange(self.patients) // classes
        ranks = (turns + 0.5) / np.ceil(self.patients / classes)
        sides = np.searchsorted(np.cumsum(study.split.shares)[:2], ranks).astype(np.int8)
        return SiteData(
            images=images,
            labels=labels,
            patients=np.arange(self.patients, dtype=np.int64),
            sides=sides if study.split.folds is None else np.zeros_like(sides),
            folds=None if study.split.folds is None else (turns % study.split.folds).astype(np.int16),
            cohort_digest=hashlib.sha256(self.name.encode()).hexdigest(),
            rows_digest=hashlib.sha256(f"{self.name} {self.patients}".encode()).hexdigest(),
            unreadable=0,
        )
