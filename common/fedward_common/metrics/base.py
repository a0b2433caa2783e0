"""What the metrics share: array types, the strict record, and the check that scores are probabilities."""

from collections.abc import Mapping
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from fedward_common.errors import RunError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Parts = Mapping[str, Bools]  # a partition of a site's patients: who is in each group [patients]

MAX_PATIENTS = 10**9  # no site has more; sums over bins and sites stay exact in float64
ROUNDING = 1e-6  # how far over 1 a float32 softmax, averaged, may come

Count = Annotated[int, Field(ge=0, le=MAX_PATIENTS)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


class Record(BaseModel):
    """Frozen; an unknown key, a wrong type, NaN or infinity is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def as_probabilities(scores: npt.ArrayLike) -> Floats:
    """`scores` as float64 within [0, 1]; `RunError` when any is NaN or further outside than rounding goes."""
    values = np.asarray(scores, dtype=np.float64)
    wrong = int(np.count_nonzero(~((values >= -ROUNDING) & (values <= 1 + ROUNDING))))
    if wrong:
        raise RunError(
            f"{wrong} of {values.size} scores are no probabilities: the model has diverged, try a lower learning rate"
        )
    return np.clip(values, 0.0, 1.0)


def as_classes(scores: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[Floats, Floats]:
    """The scores [positives] and [negatives], for `labels` of 0 and 1 (or bool), one a score."""
    values, truth = as_probabilities(scores), np.asarray(labels)
    if values.ndim != 1 or truth.shape != values.shape or not np.isin(truth, (0, 1)).all():
        raise RunError(f"scores {values.shape} need as many labels of 0 or 1, not {truth.shape}")
    positive = truth.astype(bool)
    return values[positive], values[~positive]
