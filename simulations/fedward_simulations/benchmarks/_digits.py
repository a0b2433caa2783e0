"""scikit-learn's handwritten digits (1797 of 8 x 8, from the UCI repository), dealt out to hospitals.

In memory for the embedded engine, and as DICOM files with a label table for a deployment. Every digit is a patient.
"""

import csv
import hashlib
from dataclasses import dataclass
from functools import lru_cache
from io import StringIO
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fedward_client.measuring import Surveyed
from fedward_client.site_data import SiteData
from fedward_common.cohort_statistics import Wanted
from fedward_common.errors import DataError
from fedward_common.events import Listener, ignore
from fedward_common.study import Scale, StudySpec
from fedward_common.testing import tiny_study
from fedward_simulations.hospitals import write_plain

LABELS = tuple(f"digit-{n}" for n in range(10))
WHITE = 16  # the largest value of a pixel


def study(sites: int, rounds: int) -> StudySpec:
    """A small CNN that tells the ten digits apart."""
    return tiny_study(
        cohort={"labels": LABELS, "positive": None},
        split={"shares": [0.7, 0.15, 0.15]},
        input={"size": [8, 8]},
        training={"rounds": rounds, "batch_size": 32},
        strategy={"min_sites": sites},
    )


@lru_cache(maxsize=1)
def _digits() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    from sklearn.datasets import load_digits  # type: ignore[import-untyped]  # a second, and the tests of names need none

    found = load_digits()
    return found.images, found.target.astype(np.int64)


@dataclass(frozen=True, slots=True)
class OpenDigits:
    """Opens part `part` of `parts` of the digits in a worker."""

    part: int
    parts: int

    def __call__(self) -> "Digits":
        """The source."""
        return Digits(f"site-{self.part}", self.part, self.parts)

    def data(self, study: StudySpec) -> SiteData:
        """Its tensors."""
        return self().load(study, "bench", ignore)


@dataclass(frozen=True, slots=True)
class Digits:
    """One part of the digits as a hospital's tensors; sides follow the study's shares."""

    name: str
    part: int
    parts: int
    min_cell: int = 5

    def check_opted_out(self, run: str) -> None:
        """Nobody: digits are no patients."""

    def once(self, run: str, name: str, value: str) -> str:  # noqa: ARG002 - a source's signature
        """Nothing is remembered."""
        return value

    def state(self, study: StudySpec, run: str) -> None:
        """Nothing is kept."""

    def survey(self, study: StudySpec, run: str, wanted: Wanted, listener: Listener) -> Surveyed:  # noqa: ARG002
        """Refused: there are tensors only."""
        raise DataError(f"{self.name} has no catalog to tell of")

    def load(
        self,
        study: StudySpec,
        run: str,  # noqa: ARG002 - a source's signature, here and below
        listener: Listener,  # noqa: ARG002
        scale: Scale | None = None,  # noqa: ARG002
    ) -> SiteData:
        """Its tensors."""
        everything, digits = _digits()
        images, labels = everything[self.part :: self.parts], digits[self.part :: self.parts]
        count = len(labels)
        ranks = (np.arange(count) + 0.5) / count
        return SiteData(
            images=(images[:, None] / WHITE).astype(np.float32),
            labels=labels,
            patients=np.arange(count, dtype=np.int64),
            sides=np.searchsorted(np.cumsum(study.split.shares)[:2], ranks).astype(np.int8),
            cohort_digest=hashlib.sha256(self.name.encode()).hexdigest(),
            unreadable=0,
        )


def plant(folder: Path, part: int, parts: int) -> None:
    """Write a part of the digits into `folder` as a hospital exports it; one thread trains there."""
    everything, digits = _digits()
    images, labels = everything[part::parts], digits[part::parts]
    table = StringIO()
    writer = csv.writer(table)
    writer.writerow(("patient_id", "label"))
    (folder / "export").mkdir(parents=True)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        patient = f"P{part}-{number:04d}"
        writer.writerow((patient, LABELS[label]))
        pixels = np.rint(image * (255 / WHITE)).astype(np.uint8)
        write_plain(folder / "export" / f"{patient}.dcm", pixels, patient=patient)
    (folder / "labels.csv").write_text(table.getvalue())
    (folder / "site.toml").write_text(
        '[data]\nfolder = "export"\n\n[policy]\noutputs = ["counts", "update", "evaluation"]\n\n[limits]\nthreads = 1\n'
    )
