"""The transforms that augmentation draws from: MONAI's random ones, with fixed ranges.

A transform that moves voxels must also move masks and boxes: see `Transforms`.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from monai.data.meta_obj import set_track_meta
from monai.transforms.compose import Compose
from monai.transforms.intensity.array import RandAdjustContrast, RandGaussianNoise
from monai.transforms.spatial.array import RandAffine, RandFlip
from monai.transforms.transform import RandomizableTransform
from monai.transforms.utility.array import RandLambda

from fedward_client.training.boxes import flipped, resampled

DEGREES = np.pi / 180

set_track_meta(False)  # else each image is a MetaTensor, and each batch too, which takes a fifth of the training's time


def _affine(size: tuple[int, ...], spacing: tuple[float, ...] | None) -> RandAffine:
    """Up to 10 degrees in each plane, 6 % shift, 10 % zoom; the edge's value fills what comes in."""
    voxel = spacing or (1.0,) * len(size)
    planes = ((0, 1),) if len(size) == 2 else ((1, 2), (0, 2), (0, 1))  # in the order of MONAI's angles
    return RandAffine(
        prob=0.8,
        rotate_range=tuple(_turn(voxel[one], voxel[other]) for one, other in planes),
        scale_range=(0.1,) * len(size),
        translate_range=tuple(0.06 * length for length in size),
        padding_mode="border",
        cache_grid=False,
    )


def _turn(one: float, other: float) -> float:
    """The angle in radians, in voxels of these lengths along two axes, that turns neither by over 10 degrees in mm.

    An axis that turns by t in voxels turns by atan(ratio * tan(t)) or atan(tan(t) / ratio) in mm.
    """
    most, ratio = 10 * DEGREES, max(one, other) / min(one, other)
    return most if ratio == 1 else float(np.arctan(np.tan(most) / ratio))  # not rounded where they are as long


def _left_right(size: tuple[int, ...], orientation: str | None) -> int:
    """The axis whose letter is L or R, the letters being for columns, rows and frames; without any the columns."""
    place = next(place for place, letter in enumerate(orientation or "L") if letter in "LR")
    return len(size) - 1 - place


class Transforms(Compose):
    """The transforms of these names, one after the other, for images of this size; the rest is as in [input].

    What was drawn for an image stays until the next one is transformed, so that what belongs to it can follow.
    """

    def __init__(
        self,
        names: Sequence[str],
        size: tuple[int, ...],
        *,
        spacing: tuple[float, ...] | None = None,
        orientation: str | None = None,
    ) -> None:
        self._size, self._mirrored = size, _left_right(size, orientation)
        known: Mapping[str, Callable[[], RandomizableTransform]] = {
            "flip": lambda: RandFlip(prob=0.5, spatial_axis=self._mirrored),
            "affine": lambda: _affine(size, spacing),
            "contrast": lambda: RandAdjustContrast(prob=0.5, gamma=(0.7, 1.4)),
            "noise": lambda: RandGaussianNoise(prob=0.5, std=0.03),
            # channels A, C, G, T turned round are the complement
            "reverse-complement": lambda: RandLambda(lambda bases: bases.flip(0, 1), prob=0.5, track_meta=False),
        }
        super().__init__([known[name]() for name in names])

    def masks(self, masks: torch.Tensor) -> torch.Tensor:
        """`masks` [structures, *size] of the image that was transformed last, moved as it; nearest neighbours."""
        moved = masks
        for each in self.transforms:
            if isinstance(each, RandFlip):
                moved = each(moved, randomize=False)
            elif isinstance(each, RandAffine):
                moved = each(moved, mode="nearest", randomize=False)
        return torch.as_tensor(moved, dtype=masks.dtype)

    def boxes(self, boxes: torch.Tensor) -> torch.Tensor:
        """`boxes` [most, 2 * dims + 1] of the image that was transformed last, moved as it."""
        for each in self.transforms:
            if isinstance(each, RandFlip) and each._do_transform:
                boxes = flipped(boxes, self._size, self._mirrored)
            elif isinstance(each, RandAffine) and each._do_transform:
                matrix = each.rand_affine_grid.get_transformation_matrix()
                assert matrix is not None
                boxes = resampled(boxes, matrix, self._size)
        return boxes
