"""The transforms that augmentation draws from: MONAI's random ones, with fixed ranges.

A transform that moves voxels must also move masks and boxes: see `Transforms`.
"""

from collections.abc import Sequence

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


def _flip(size: tuple[int, ...]) -> RandomizableTransform:
    return RandFlip(prob=0.5, spatial_axis=len(size) - 1)  # left-right: the last axis


def _affine(size: tuple[int, ...]) -> RandomizableTransform:
    """Up to 10 degrees, 6 % shift, 10 % zoom; the edge's value fills what comes in."""
    rotations = (10 * DEGREES,) * (1 if len(size) == 2 else 3)
    return RandAffine(
        prob=0.8,
        rotate_range=rotations,
        scale_range=(0.1,) * len(size),
        translate_range=tuple(0.06 * length for length in size),
        padding_mode="border",
        cache_grid=False,
    )


def _contrast(_size: tuple[int, ...]) -> RandomizableTransform:
    return RandAdjustContrast(prob=0.5, gamma=(0.7, 1.4))


def _noise(_size: tuple[int, ...]) -> RandomizableTransform:
    return RandGaussianNoise(prob=0.5, std=0.03)


def _reverse_complement(_size: tuple[int, ...]) -> RandomizableTransform:
    """Channels A, C, G, T turned round are the complement."""
    return RandLambda(lambda bases: bases.flip(0, 1), prob=0.5, track_meta=False)


_TRANSFORMS = {
    "flip": _flip,
    "affine": _affine,
    "contrast": _contrast,
    "noise": _noise,
    "reverse-complement": _reverse_complement,
}


class Transforms(Compose):
    """The transforms of these names, one after the other, for images of this size.

    What was drawn for an image stays until the next one is transformed, so that what belongs to it can follow.
    """

    def __init__(self, names: Sequence[str], size: tuple[int, ...]) -> None:
        super().__init__([_TRANSFORMS[name](size) for name in names])
        self._size = size

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
                boxes = flipped(boxes, self._size, len(self._size) - 1)
            elif isinstance(each, RandAffine) and each._do_transform:
                matrix = each.rand_affine_grid.get_transformation_matrix()
                assert matrix is not None
                boxes = resampled(boxes, matrix, self._size)
        return boxes
