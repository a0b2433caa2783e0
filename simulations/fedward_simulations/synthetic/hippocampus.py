"""MRI of invented hippocampi and their masks, in NIfTI as the Medical Segmentation Decathlon has them.

A bent, tapering body, brighter than what is around it, in an image of 1 mm voxels and of a scanner's own range of
numbers; its front third is anterior (1), the rest posterior (2). What is around it is alike in all, and each is bent in
its own way, the body with it. At strength 0 the body is as bright as what is around it, which tells nothing of it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
from scipy import ndimage  # type: ignore[import-untyped]

from fedward_common.metrics.base import Floats
from fedward_common.streams import stream

SHAPE = (36, 50, 35)  # columns, rows and frames, about
SCANNERS: Mapping[str, float] = {"bright": 3000.0, "dark": 900.0, "eight-bit": 255.0}  # by hospital: the largest number
_AROUND, _BODY, _NOISE = 0.45, 0.75, 0.06  # of the largest number
_FRONT = 0.35  # of the body's length
_BENT, _SMOOTH = 2.0, 7.0  # voxels: how far tissue lies from where it lies in others, and over what way this changes


def write(folder: Path, number: int, *, largest: float, strength: float = 1.0) -> None:
    """`imagesTr/hippocampus_003.nii.gz` and its mask in `labelsTr/`."""
    random = stream(0, "synthetic hippocampus", folder.name, number)
    shape = tuple(int(length + random.integers(-2, 3)) for length in SHAPE)
    places = _places(shape, random)
    mask = _body(places, random)
    common = stream(0, "synthetic hippocampus", "anatomy").normal(0, 1, (64, 64, 64))
    around = ndimage.map_coordinates(_texture(common, 3.0), np.moveaxis(places, -1, 0) + 32, order=1, mode="grid-wrap")
    tissue = _AROUND + 0.1 * (strength * around + (1 - strength) * _texture(random.normal(0, 1, shape), 8.0))
    tissue += 0.04 * _texture(random.normal(0, 1, shape), 2.0) + strength * (_BODY - _AROUND) * (mask > 0)
    image = ndimage.gaussian_filter(tissue, 0.6) + random.normal(0, _NOISE, shape)
    stored = np.clip(image, 0, 1) * largest
    kind = np.uint8 if largest <= np.iinfo(np.uint8).max else np.float32
    save(folder, number, stored.astype(kind), mask)


def save(folder: Path, number: int, image: npt.NDArray[Any], mask: npt.NDArray[np.uint8]) -> None:
    """An image and its mask [columns, rows, frames], of voxels of 1 mm, where the collection has a patient's."""
    for name, values in (("imagesTr", image), ("labelsTr", mask)):
        (folder / name).mkdir(exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), folder / name / f"hippocampus_{number:03d}.nii.gz")


def _places(shape: tuple[int, ...], random: np.random.Generator) -> Floats:
    """Where in the anatomy that all share each voxel is, in mm from its middle: [*shape, 3]."""
    middle = np.array(shape) / 2 + random.normal(0, 1.5, 3)
    bent = np.stack([_BENT * _texture(random.normal(0, 1, shape), _SMOOTH) for _ in shape], axis=-1)
    found: Floats = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1) - middle + bent
    return found


def _texture(noise: Floats, width: float) -> Floats:
    """Noise that is alike over `width` voxels, of deviation 1."""
    smooth: Floats = ndimage.gaussian_filter(noise, width, mode="wrap")
    return smooth / float(smooth.std())


def _body(places: Floats, random: np.random.Generator) -> npt.NDArray[np.uint8]:
    """A label map: balls along a bent line from the front to the back, thick at its front."""
    length, bend = random.uniform(0.55, 0.75) * SHAPE[1], random.uniform(0.1, 0.35)
    along = places[..., 1] / length + 0.5  # 0 at the back, 1 at the front
    thick = random.uniform(5.0, 6.5) * (0.55 + 0.45 * np.clip(along, 0, 1))
    curved = places[..., 2] - bend * length * ((along - 0.5) ** 2 - 1 / 12) * 2
    distance = np.hypot(places[..., 0] / 1.2, curved) / thick
    inside = (distance < 1) & (along > 0) & (along < 1)
    return np.where(inside, np.where(along > 1 - _FRONT, 1, 2), 0).astype(np.uint8)
