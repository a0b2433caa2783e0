"""Scores of a cross-validation: each fold's stay at the site, and are evaluated together when every fold is scored.

The figures of one fold would be of few patients, those of some folds would tell of the others by the difference: so
nothing of them leaves before the last. What is kept of a fold is the scores of the images whose patients it tests, and
of those whose patients validate in it; the rows of the frozen cohort's tensors name the images.

The models of folds are the hub's. One that gives all patients of a fold the same score makes a mean over all folds a
sum of the folds' labels, each with a weight of the hub's choice. So what leaves has `DIGITS` digits, which is what a
report shows of it: not all folds can be read from one loss of 16. That does not protect one fold of few hundreds of
patients from a hub that sends a false model for it, one that calls nobody positive for example: sensitivity then says
how many of the fold have the label. Every model is in the site's log by its SHA-256.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from fedward_client.evaluation import evaluate_classes
from fedward_client.site_data import SiteData
from fedward_client.site_state import RunState
from fedward_client.split import Side
from fedward_common.errors import DataError
from fedward_common.metrics import Estimate, Evaluation, GroupEvaluation
from fedward_common.study import StudySpec

DIGITS = 2  # after the point, of every figure that is no count: the moments of a sketch have as many
WITHHELD = "the scores of a fold stay at the hospital until all folds are scored"

Scores = npt.NDArray[np.float64]
Found = TypeVar("Found", bound=GroupEvaluation)
_ROWS, _SCORES, _IMAGES = "rows", "scores", "images"


@dataclass(frozen=True, slots=True)
class OutOfFold:
    """The scores that a run's folds gave at one site. `part` names whose models they are of in the run's state."""

    state: RunState
    site: str
    data: SiteData
    part: str = "fold"

    def keep(self, fold: int, scores: Mapping[Side, Scores]) -> None:
        """Keep the scores [rows, labels] of a fold's rows of each side, on the disk when this returns."""
        arrays: dict[str, npt.NDArray[Any]] = {_IMAGES: self._images()}
        for side, own in scores.items():
            rows = self.data.indices(side)
            arrays |= {f"{side} {_ROWS}": rows, f"{side} {_SCORES}": own}
        self.state.save(f"{self.part}-{fold}", fold + 1, arrays)

    def evaluation(
        self, study: StudySpec, side: Side, *, thresholds: Mapping[str, float] | None, min_cell: int
    ) -> Evaluation:
        """What leaves of all folds' scores together: of every patient, each once. Raises what `scores` raises."""
        rows, scores = self.scores(study, side)
        found = evaluate_classes(scores, self.data, rows, study, thresholds=thresholds, min_cell=min_cell)
        return _rounded(found)

    def scores(self, study: StudySpec, side: Side) -> tuple[npt.NDArray[np.int64], Scores]:
        """Rows [n], ascending, and their scores [n, labels], by the fold that has each on a side: for the site alone.

        Raises DataError where a fold was not scored here, or where images went or came since one was.
        """
        found = [self._kept(study, fold, side) for fold in range(study.split.folds or 0)]
        rows = np.concatenate([rows for rows, _ in found])
        scores = np.concatenate([own for rows, own in found if len(rows)] or [np.empty((0, 0))])
        order = np.argsort(rows)
        return rows[order], scores[order]

    def _kept(self, study: StudySpec, fold: int, side: Side) -> tuple[npt.NDArray[np.int64], Scores]:
        held = self.state.load(f"{self.part}-{fold}")
        if not held:
            raise DataError(
                f"{self.site} was not there when fold {fold + 1} of {study.split.folds} was scored, and nothing leaves "
                "of the others alone: start a new run"
            )
        if not np.array_equal(held[_IMAGES], self._images()):
            raise DataError(f"{self.site}: images went or came between two folds; start a new run")
        return held[f"{side} {_ROWS}"], held[f"{side} {_SCORES}"]

    def _images(self) -> npt.NDArray[np.uint8]:
        """Which images the rows are: as many others would not do."""
        return np.array(list(self.data.rows_digest.encode()), np.uint8)


def _rounded(found: Evaluation) -> Evaluation:
    """With `DIGITS` digits, and so its groups."""
    groups = {by: {name: _with_digits(own) for name, own in held.items()} for by, held in found.subgroups.items()}
    return _with_digits(found).model_copy(update={"subgroups": groups})


def _with_digits(found: Found) -> Found:
    figures = {
        label: own.model_copy(update={"roc_auc": _round(own.roc_auc), "brier": round(own.brier, DIGITS)})
        for label, own in found.figures.items()
    }
    loss = None if found.loss is None else round(found.loss, DIGITS)
    return found.model_copy(update={"loss": loss, "figures": figures})


def _round(estimate: Estimate) -> Estimate:
    value, low, high = (round(each, DIGITS) for each in (estimate.value, estimate.low, estimate.high))
    return Estimate(value=value, low=low, high=high)


def nothing_yet() -> Evaluation:
    """What leaves when one fold is scored."""
    return Evaluation(patients=0, loss=None, sketches={}, figures={}, withheld=WITHHELD)
