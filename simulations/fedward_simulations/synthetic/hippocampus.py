"""MRI of invented hippocampi and their masks, in NIfTI as the Medical Segmentation Decathlon has them.

A bent, tapering body, brighter than what is around it, in an image of 1 mm voxels and of a scanner's own range of
numbers; its front third is anterior (1), the rest posterior (2). At strength 0 it is as bright as what is around it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
from scipy import ndimage  # type: ignore[import-untyped]

from fedward_common.streams import stream

SHAPE = (36, 50, 35)  # columns, rows and frames, about
SCANNERS: Mapping[str, float] = {"bright": 3000.0, "dark": 900.0, "eight-bit": 255.0}  # by hospital: the largest number
_AROUND, _BODY, _NOISE = 0.45, 0.75, 0.06  # of the largest number
_FRONT = 0.35  # of the body's length


def write(folder: Path, number: int, *, largest: float, strength: float = 1.0) -> None:
    """`imagesTr/hippocampus_003.nii.gz` and its mask in `labelsTr/`."""
    random = stream(0, "synthetic hippocampus", folder.name, number)
    shape = tuple(int(length + random.integers(-2, 3)) for length in SHAPE)
    mask = _body(shape, random)
    coarse, fine = (ndimage.gaussian_filter(random.normal(0, 1, shape), width) for width in (8.0, 2.0))
    texture = 0.12 * coarse / coarse.std() + 0.04 * fine / fine.std()  # coarse, so that patients look unlike each other
    tissue = _AROUND + texture + strength * (_BODY - _AROUND) * (mask > 0)
    image = ndimage.gaussian_filter(tissue, 0.6) + random.normal(0, _NOISE, shape)
    stored = np.clip(image, 0, 1) * largest
    kind = np.uint8 if largest <= np.iinfo(np.uint8).max else np.float32
    save(folder, number, stored.astype(kind), mask)


def save(folder: Path, number: int, image: npt.NDArray[Any], mask: npt.NDArray[np.uint8]) -> None:
    """An image and its mask [columns, rows, frames], of voxels of 1 mm, where the collection has a patient's."""
    for name, values in (("imagesTr", image), ("labelsTr", mask)):
        (folder / name).mkdir(exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), folder / name / f"hippocampus_{number:03d}.nii.gz")


def _body(shape: tuple[int, ...], random: np.random.Generator) -> npt.NDArray[np.uint8]:
    """A label map: balls along a bent line from the front to the back, thick at its front."""
    length, bend = random.uniform(0.55, 0.75) * shape[1], random.uniform(0.1, 0.35)
    middle = np.array(shape) / 2 + random.normal(0, 1.5, 3)
    places = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1) - middle
    along = places[..., 1] / length + 0.5  # 0 at the back, 1 at the front
    thick = random.uniform(5.0, 6.5) * (0.55 + 0.45 * np.clip(along, 0, 1))
    curved = places[..., 2] - bend * length * ((along - 0.5) ** 2 - 1 / 12) * 2
    distance = np.hypot(places[..., 0] / 1.2, curved) / thick
    inside = (distance < 1) & (along > 0) & (along < 1)
    return np.where(inside, np.where(along > 1 - _FRONT, 1, 2), 0).astype(np.uint8)
