"""Scored images, and the patients with a label and without it that they make."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedward_common.errors import DataError, ModelError, RunError
from fedward_common.metrics.base import Bools, Floats, Ints, as_probabilities
from fedward_common.metrics.figures import patient_scores
from fedward_common.study import StudySpec

SUM_TOLERANCE = 0.02  # of a patient's class probabilities, so that half precision passes and logits do not
LEAST_PROBABILITY = float(np.finfo(np.float32).eps)  # so that one certain mistake does not make the loss infinite


@dataclass(frozen=True, slots=True)
class Cases:
    """Patients with a label and patients without it: their mean scores [n], which they are [n], and who [n]."""

    scores: Floats
    truth: Bools
    patients: Ints

    @property
    def with_it(self) -> int:
        """Patients with the label."""
        return int(np.count_nonzero(self.truth))

    @property
    def without(self) -> int:
        """Patients without it."""
        return self.truth.size - self.with_it


@dataclass(frozen=True, slots=True)
class Images:
    """Scored images: probabilities [n, classes], labels [n] or [n, classes], patients [n] from 0."""

    scores: Floats
    labels: Ints
    patients: Ints

    @property
    def people(self) -> int:
        """How many patients they are of."""
        return int(np.unique(self.patients).size)

    def cases(self, index: int, *, min_cell: int = 1) -> Cases:
        """Each patient once with a label and once without it, as their images are; unknown ones left out.

        Where fewer patients than `min_cell` would count twice, they count once, with the label: how many they are is
        what the cases and the patients differ by.
        """
        truth = self.labels[:, index] if self.labels.ndim == 2 else (self.labels == index).astype(np.int64)
        known = truth >= 0
        units, scores = patient_scores(self.scores[known, index], 2 * self.patients[known] + truth[known])
        counted = np.ones(units.size, bool)
        if 0 < units.size - self.people < min_cell:
            counted = (units % 2 == 1) | ~np.isin(units + 1, units)
        return Cases(scores[counted], units[counted] % 2 == 1, units[counted] // 2)

    def loss(self) -> float:
        """The mean over patients, and over labels where an image has several, of -log of the truth's probability."""
        if self.labels.ndim == 2:
            every = [self.cases(index) for index in range(self.labels.shape[1])]
            own = np.concatenate([np.where(one.truth, one.scores, 1 - one.scores) for one in every])
        else:
            units = self.scores.shape[1] * self.patients + self.labels
            _, own = patient_scores(self.scores[np.arange(self.labels.size), self.labels], units)
        return float(np.mean(-np.log(np.clip(own, LEAST_PROBABILITY, 1.0))))


def checked(
    probabilities: npt.ArrayLike, labels: npt.ArrayLike, patients: npt.ArrayLike, *, study: StudySpec
) -> Images:
    """What `evaluate_scores` is given as `Images`; raises what that raises of them."""
    truth, index = np.asarray(labels, dtype=np.int64), np.asarray(patients, dtype=np.int64)
    scores, classes, several = as_probabilities(probabilities), len(study.cohort.labels), study.cohort.multi_label
    if not scores.size and not truth.size:
        return Images(np.empty((0, classes)), np.empty((0, classes) if several else 0, np.int64), index)
    if scores.ndim != 2 or scores.shape[1] != classes:
        raise ModelError(
            f"the model's scores have shape {scores.shape}; the study has {classes} labels, one column each"
        )
    if truth.shape != (scores.shape if several else scores.shape[:1]) or index.shape != scores.shape[:1]:
        raise RunError(f"{len(scores)} scored images need a label and a patient each")
    if not several and np.abs(scores.sum(axis=1) - 1).max() > SUM_TOLERANCE:
        raise RunError("the probabilities of an image do not add up to 1; apply softmax to the model's output")
    if truth.min() < (-1 if several else 0) or truth.max() >= (2 if several else classes):
        raise DataError(f"a label is outside the study's {classes} labels; scan the site again")
    return Images(scores, truth, np.unique(index, return_inverse=True)[1].astype(np.int64))
