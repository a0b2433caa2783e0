"""What training and evaluation see of a site: a cohort's tensors, one row an image."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from fedward_client.split import SIDES, Side, sides_in
from fedward_common.study_subgroups import Subgroups

Images = npt.NDArray[np.float32]
Targets = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class SiteData:
    """A cohort's tensors, one row an image: what training and evaluation see of a site."""

    images: Images  # [n, channels, *size], memory-mapped, read-only
    # [n], index into the study's labels; of several labels an image [n, labels]: 1, 0, or -1 where it is not known
    labels: npt.NDArray[np.int64]
    pseudo_labels: npt.NDArray[np.int64] | None = None  # [n], what a round trains on where some are the model's own
    patients: npt.NDArray[np.int64]  # [n], index of the patient, 0..
    sides: npt.NDArray[np.int8]  # [n], index into SIDES
    folds: npt.NDArray[np.int16] | None = None  # [n], the fold that tests each, in a study with folds
    groups: Mapping[Subgroups, npt.NDArray[np.str_]] = field(default_factory=dict)  # [n] each, of their patients
    cohort_digest: str
    rows_digest: str = ""  # of which images of the cohort the rows are: it changes where one goes or comes
    # [n, …], by task: masks uint8 [n, labels, *size] of 0 and 1; boxes float32 as `training.boxes` has them; times of
    # follow-up float64 [n]
    targets: Targets | None = None
    unreadable: int = 0  # images of the cohort whose file could not be decoded
    gone: int = 0  # images of the cohort whose file went or changed since the run began

    def has(self, label: int) -> npt.NDArray[np.bool_]:
        """Whether each image has a label (its index), as far as that is known."""
        found: npt.NDArray[np.bool_] = self.labels[:, label] == 1 if self.labels.ndim == 2 else self.labels == label
        return found

    def groups_at(self, rows: npt.NDArray[np.int64]) -> dict[Subgroups, npt.NDArray[np.str_]]:
        """Of each kind the groups of the patients of `rows`."""
        return {by: words[rows] for by, words in self.groups.items()}

    def in_fold(self, fold: int | None, folds: int | None) -> "SiteData":
        """The same images on the sides that they have in a fold of so many; as they are where there is none."""
        if fold is None or folds is None or self.folds is None:
            return self
        return replace(self, sides=sides_in(fold, folds, self.folds))

    def indices(self, side: Side, *, unlabelled: bool = False) -> npt.NDArray[np.int64]:
        """The rows on one side, ascending: those with a label, or those without one too."""
        known = (self.labels >= 0).reshape(len(self.labels), -1).any(axis=1)
        return np.flatnonzero((self.sides == SIDES.index(side)) & (known | unlabelled)).astype(np.int64)
