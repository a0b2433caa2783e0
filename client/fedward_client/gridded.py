"""An image on the grid on which a network sees it: where it lies in the patient, and what of it is left out."""

from dataclasses import dataclass

import numpy as np

from fedward_client.opening import Tensor
from fedward_client.volume import Affine, Volume
from fedward_common.sentences import joined

_SHEAR = 5e-5  # a cosine between two axes: from 1e-4 on ITK takes no file


@dataclass(frozen=True, slots=True, eq=False)
class Gridded:
    """An image as a network sees it [channels, *size], where that lies (`Recipe.gridded`), and as a device made it."""

    tensor: Tensor
    back: Affine
    volume: Volume

    @property
    def affine(self) -> Affine | None:
        """[4, 4]: (column, row, frame, 1) of the tensor to millimetres, as `Volume.affine`."""
        order = [2, 1, 0, 3]  # an affine counts columns first
        own = self.volume.affine
        return None if own is None else np.asarray(own @ self.back[np.ix_(order, order)], dtype=np.float64)

    @property
    def sheared(self) -> bool:
        """Whether its axes are not at right angles."""
        if self.volume.affine is None:
            return False
        cosines = self.volume.affine[:3, :3] / np.linalg.norm(self.volume.affine[:3, :3], axis=0)
        return bool(np.abs(cosines.T @ cosines - np.eye(3)).max() > _SHEAR)

    @property
    def unseen(self) -> str:
        """What of the image the tensor does not cover, in words; "" where it covers all."""
        size, shape = self.tensor.shape[1:], self.volume.pixels[:, 0].shape
        flat = 3 - len(size)
        ends = np.array([[-0.5] * 3, [0.5] * flat + [length - 0.5 for length in size]])
        lower, upper = np.sort(ends @ self.back[:3, :3].T + self.back[:3, 3], axis=0)
        lengths = np.minimum(upper, np.array(shape) - 0.5) - np.maximum(lower, -0.5)
        percent = round(100 - 100 * float(np.prod((lengths / shape)[flat:])))
        cut = f"{percent} % of the image lies outside of what the model sees" if percent else ""
        return joined(middle_of(shape[0]) if flat else "", cut)


def middle_of(frames: int) -> str:
    """What a model of slices sees of an image, in words; "" where it sees all."""
    return f"the middle one of {frames} frames" if frames > 1 else ""
