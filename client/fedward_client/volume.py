"""An image and its place in the patient: what every reader of image files gives, and what harmonisation takes."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.float32]
Affine = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Volume:
    """`pixels` are [frames, channels, rows, columns], channels 1 (gray) or 3 (red, green, blue).

    `affine` [4, 4] takes (column, row, frame, 1) to millimetres, as NIfTI has them: x to the patient's right, y to the
    front, z to the head; DICOM's x and y point the other way (PS3.3 C.7.6.2.1.1). None where the file does not say.
    `pixel_mm` is from a row and a column to the next, where the file says that without a place, as projections do.
    """

    pixels: Pixels
    affine: Affine | None = None
    pixel_mm: tuple[float, float] | None = None

    @property
    def spacing(self) -> tuple[float, float, float] | None:
        """Millimetres from a frame, a row and a column to the next."""
        if self.affine is None:
            return None
        column, row, frame = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(frame), float(row), float(column)
