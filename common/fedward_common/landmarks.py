"""Histogram matching to federated landmarks: one grey scale for all scanners, made from sums. Pure functions.

The standard scale of Nyúl, Udupa and Zhang 2000 ("New variants of a method of MRI scale standardization", IEEE
Transactions on Medical Imaging 19(2):143-150), their variant with deciles as landmarks. An image's landmarks are its
percentiles 1, 10, 20, … 90, 99. Percentile 1 becomes 0 and percentile 99 becomes 1; the standard scale is where the
nine between them stand on average, and an image is matched to it by straight lines from landmark to landmark.

The average over hospitals needs sums alone: `site_sums` at each site, `merged` and `standard_scale` at the hub,
`mapped` at each site again. A site sends a count and nine sums over its patients, never a histogram: the scale needs no
more than the sums, and a histogram of grey values would tell more. Sums are whole numbers, so that the scale does not
depend on the order in which they are added.

As JSON: `{"patients": 40, "sums": [4873112, …]}`, nine sums of millionths.
"""

from collections.abc import Iterable
from typing import Annotated, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from fedward_common.errors import DataError, RunError
from fedward_common.metrics.base import MAX_PATIENTS, Floats, Record
from fedward_common.study_input import LANDMARKS

PERCENTILES = (1, 10, 20, 30, 40, 50, 60, 70, 80, 90, 99)
UNIT = 10**6  # of a sum: a landmark is rounded to a millionth of the range from percentile 1 to percentile 99

Scale = tuple[float, ...]


class LandmarkSums(Record):
    """How many patients, and the sum over them of each of the nine landmarks in millionths of an image's range.

    Read from the wire, sums that no images can have are refused with a `pydantic.ValidationError`.
    """

    patients: Annotated[int, Field(ge=1, le=MAX_PATIENTS)]
    sums: Annotated[tuple[int, ...], Field(min_length=LANDMARKS, max_length=LANDMARKS)]

    @model_validator(mode="after")
    def _possible(self) -> Self:
        steps = (0, *self.sums, self.patients * UNIT)
        if list(steps) != sorted(steps):
            raise ValueError(
                f"sums must not fall from one landmark to the next, nor leave 0 to {self.patients} times 1"
            )
        return self


def own_landmarks(values: npt.ArrayLike) -> Floats:
    """The landmarks [11] of an image's `values` in their own units: percentiles 1, 10, 20, … 90, 99."""
    landmarks: Floats = np.percentile(np.asarray(values, dtype=np.float64), PERCENTILES)
    return landmarks


def relative(landmarks: Floats) -> Floats | None:
    """The nine inner landmarks of [11], percentile 1 as 0 and 99 as 1; None where these two are one value."""
    span = landmarks[-1] - landmarks[0]
    return np.clip((landmarks[1:-1] - landmarks[0]) / span, 0.0, 1.0) if span > 0 else None


def site_sums(landmarks: npt.ArrayLike, patients: npt.ArrayLike, *, min_cell: int) -> LandmarkSums:
    """A site's sums over its patients.

    `landmarks` [images, 9] are of `relative`, `patients` [images] say whose an image is. A patient counts once, with
    the mean over that patient's images. Raises DataError where fewer than `min_cell` patients have an image.
    """
    table = np.asarray(landmarks, dtype=np.float64).reshape(-1, LANDMARKS)
    _, whose, images = np.unique(np.asarray(patients), return_inverse=True, return_counts=True)
    if len(images) < max(min_cell, 1):
        raise DataError(
            f"fewer than {max(min_cell, 1)} patients have images that landmarks can be measured on, and sums over so "
            "few stay home ([privacy] min_cell): leave this hospital out of the measuring, it can use the scale"
        )
    totals = np.zeros((len(images), LANDMARKS))
    np.add.at(totals, whose, table)
    units = np.rint(totals / images[:, None] * UNIT).astype(np.int64)
    return LandmarkSums(patients=len(images), sums=tuple(units.sum(axis=0).tolist()))


def merged(sums: Iterable[LandmarkSums]) -> LandmarkSums:
    """The sums of several sites as those of one. Raises RunError where there is none."""
    parts = list(sums)
    if not parts:
        raise RunError(
            "no hospital sent landmarks, so there is no standard scale: ask at least one with enough patients"
        )
    return LandmarkSums(
        patients=sum(part.patients for part in parts),
        sums=tuple(sum(column) for column in zip(*(part.sums for part in parts), strict=True)),
    )


def standard_scale(sums: LandmarkSums) -> Scale:
    """Where the nine landmarks stand on average, in 0..1 and never falling: a study's [input] landmarks."""
    return tuple(round(total / (sums.patients * UNIT), 6) for total in sums.sums)


def mapped(values: npt.NDArray[np.float32], landmarks: Floats, scale: Scale) -> npt.NDArray[np.float32]:
    """`values` with an image's own `landmarks` [11] moved to the standard `scale` [9], within 0..1.

    Straight lines between landmarks, flat beyond percentiles 1 and 99, so that the order of grey values stays. Where
    landmarks share one value (a background), the lowest of their places counts. Zeros where all of them do.
    """
    places, first = np.unique(landmarks, return_index=True)
    if len(places) == 1:
        return np.zeros_like(values)
    targets = np.array((0.0, *scale, 1.0))[first]
    targets[-1] = 1.0
    found: npt.NDArray[np.float32] = np.interp(values, places, targets).astype(np.float32)
    return found
