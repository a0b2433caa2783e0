"""From findings as a hospital wrote them down to boxes in the voxels of what a network sees."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fedward_client.volume import Affine, Volume
from fedward_common.errors import UnfitImage

MOST = 64  # findings of an image; the rest would not be learned from
NONE = -1.0  # the class of a row that only fills up

Corners = tuple[float, ...]  # a kind (its index among the study's labels), the lower corner, the upper corner
Boxes = npt.NDArray[np.float32]

_ORDER = [2, 1, 0, 3]  # an affine counts columns first, an array frames
_TO_NIFTI = np.diag([-1.0, -1.0, 1.0, 1.0])  # DICOM's x and y point the other way
_IN_PIXELS = 5  # numbers of a box in a picture


def boxes_of(volume: Volume, grid: Affine, found: Sequence[Corners], size: tuple[int, ...]) -> Boxes:
    """The findings in an image [MOST, 2 * dimensions + 1], as `training.boxes` has them.

    `grid` is of `volume` brought to `size` (`Recipe.gridded`). One in the patient is a ball, which becomes the box
    around it; of a 2-D size it is there where the ball meets the slice. One whose middle lies outside is left out.
    Raises UnfitImage for an image of which the file does not say where it lies, where that is needed, and for too many.
    """
    rows = [row for one in found if (row := _row(volume, grid, one, size)) is not None]
    if len(rows) > MOST:
        raise UnfitImage(f"it has more than the {MOST} findings that an image can have")
    empty = [(0.0,) * (2 * len(size)) + (NONE,)] * (MOST - len(rows))
    return np.array([*rows, *empty], dtype=np.float32)


def _row(volume: Volume, grid: Affine, one: Corners, size: tuple[int, ...]) -> Corners | None:
    kind, *corners = one
    lower, upper = np.array(corners).reshape(2, -1)
    middle, half = (lower + upper) / 2, (upper - lower) / 2
    if len(one) == _IN_PIXELS:  # column and row, the edge at 0
        to_grid = np.linalg.inv(grid)[:, _ORDER]
        middle, half = np.array([*(middle - 0.5), len(volume.pixels) // 2]), np.array([*half, 0.5])
    else:
        if volume.affine is None:
            raise UnfitImage("the file does not say where it lies in the patient, and its findings are in millimetres")
        to_grid = np.linalg.inv(grid) @ np.linalg.inv(volume.affine)[_ORDER] @ _TO_NIFTI
    at = (to_grid @ [*middle, 1.0])[:3] + 0.5  # from the middles of voxels to their edges
    reach = np.sqrt((to_grid[:3, :3] ** 2) @ half**2)
    flat = 3 - len(size)
    if flat and abs(at[0] - 0.5) > max(reach[0], 0.5):
        return None
    at, reach, lengths = at[flat:], reach[flat:], np.array(size)
    if ((at <= 0) | (at >= lengths)).any():
        return None
    low, high = np.maximum(at - reach, 0.0), np.minimum(at + reach, lengths)
    return (*low.tolist(), *high.tolist(), float(kind))
