"""From boxes in what a network saw back to the voxels of a hospital's image, and to its patient."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedward_client.training.detection import Detections
from fedward_client.volume import Affine, Volume
from fedward_common.metrics.base import Floats

_ORDER = [2, 1, 0]  # an affine counts columns first, an array frames
_TO_DICOM = np.array([-1.0, -1.0, 1.0])  # NIfTI's x and y point the other way

Corner = tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """A finding in an image.

    The corners of its box are (frame, row, column) in the image's own voxels, on their edges: the first voxel goes
    from 0 to 1; across the slice of a 2-D study both are its middle. `affine` is the image's, None where that does not
    say where it lies.
    """

    label: str
    score: float  # in [0, 1]
    lower: Corner
    upper: Corner
    affine: Affine | None

    @property
    def ellipsoid(self) -> tuple[Floats, Floats]:
        """The middle [3] and the half axes [3, 3], a row each, of the ellipsoid that fits into the box.

        In mm of DICOM's patient (to the left, to the back, to the head), or in pixels (column, row, frame).
        """
        middle, half = np.add(self.lower, self.upper)[_ORDER] / 2, np.subtract(self.upper, self.lower)[_ORDER] / 2
        if self.affine is None:
            return middle, np.diag(half)
        middle = self.affine[:3, :3] @ (middle - 0.5) + self.affine[:3, 3]  # it counts from the middles of voxels
        return middle * _TO_DICOM, (self.affine[:3, :3] * half).T * _TO_DICOM


def findings_of(found: Detections, back: Affine, volume: Volume, labels: Sequence[str]) -> tuple[Finding, ...]:
    """What was found in `volume` brought to a network's size, the most certain first. `back` is `Recipe.gridded`'s.

    Boxes end where the image does; those beside it, in what was padded, are left out.
    """
    flat, shape, told = 3 - found.boxes.shape[1] // 2, volume.pixels[:, 0].shape, []
    for box, score, kind in zip(found.boxes.tolist(), found.scores.tolist(), found.classes.tolist(), strict=True):
        corners = np.insert(np.reshape(box, (2, -1)), [0] * flat, 0.5, axis=1)  # a slice has no thickness
        ends = np.column_stack([corners - 0.5, np.ones(2)]) @ back[:3].T + 0.5  # `back` counts from voxels' middles
        lower, upper = np.clip(np.sort(ends, axis=0), 0, shape)
        if (lower < upper).sum() == 3 - flat:
            place = {"lower": tuple(lower.tolist()), "upper": tuple(upper.tolist())}
            told.append(Finding(label=labels[kind], score=score, affine=volume.affine, **place))
    return tuple(told)
