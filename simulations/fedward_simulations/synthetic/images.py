"""Images of invented patients, of brains, lungs, breasts and tissue; what tells their labels apart is planted.

Each function draws one image; `random` makes it a patient's own.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from fedward_common.metrics.base import Floats

VENTRICLES: Mapping[str, float] = {"healthy": 0.12, "impaired": 0.19, "alzheimer": 0.26}  # of the brain's radius
_RATED = {"1": 0.03, "2": 0.08, "3": 0.13, "4": 0.19, "5": 0.25}
SPICULES: Mapping[str, float] = {"benign": 0.03, "malignant": 0.25, **_RATED}  # how far a nodule's edge leaves a circle
# a lesion's width by its height, how far its edge leaves an ellipse, and how bright it is behind it, of the tissue
LESIONS: Mapping[str, tuple[float, float, float]] = {"benign": (1.6, 0.03, 1.4), "malignant": (0.8, 0.2, 0.5)}
# nuclei a tile, their radius in pixels, and how far the glands' lumen reaches, of the tile
TISSUES: Mapping[str, tuple[int, float, float]] = {
    "carcinoma in situ": (90, 4.0, 0.28),
    "invasive carcinoma": (150, 5.0, 0.0),
    "fibroadenoma": (40, 3.0, 0.0),
    "hyperplasia": (90, 3.0, 0.14),
}


def brain_slice(random: np.random.Generator, label: str) -> npt.NDArray[np.uint8]:
    """An axial slice [208, 176] without its skull: grey matter around white, and ventricles that grow as it shrinks."""
    y, x = _places(208, 176)
    centre = random.normal(0, 0.03, 2)
    tall, wide = random.normal(0.85, 0.04), random.normal(0.72, 0.04)
    radius = np.hypot((x - centre[0]) / wide, (y - centre[1]) / tall)
    folds = 0.04 * np.sin(random.integers(14, 22) * np.arctan2(y, x) + random.uniform(0, 6))
    size = VENTRICLES[label] + random.normal(0, 0.025)
    ventricles = np.hypot((np.abs(x - centre[0]) - 0.1) / (0.6 * size), (y - centre[1]) / (1.6 * size)) < 1
    image = np.where(radius < 0.75 + folds, 150.0, 100.0) * (radius < 1) * ~ventricles + 20 * ventricles
    image += random.normal(0, 6, image.shape)
    found: npt.NDArray[np.uint8] = np.clip(image * random.normal(1, 0.08), 0, 255).astype(np.uint8)
    return found


def nodule(random: np.random.Generator, label: str) -> npt.NDArray[np.int16]:
    """A CT crop [71, 71] in HU: a nodule in lung, smooth or with spicules; `label` may be a rating."""
    y, x = _places(71, 71)
    angle = np.arctan2(y, x)
    edge = random.uniform(0.25, 0.5) * (
        1 + SPICULES[label] * np.sin(random.integers(7, 13) * angle + random.uniform(0, 6))
    )
    inside = 1 / (1 + np.exp((np.hypot(x, y) - edge) / 0.03))
    image = -820 + inside * random.normal(850, 60) + random.normal(0, 40, x.shape)
    found: npt.NDArray[np.int16] = np.clip(image, -2048, 4095).astype(np.int16)
    return found


def ultrasound(random: np.random.Generator, label: str) -> npt.NDArray[np.uint8]:
    """A B-mode image [96, 128]: a dark lesion in speckle, flat and smooth, or tall and spiculated before a shadow."""
    wide, spiculated, behind = LESIONS[label]
    y, x = _places(96, 128)
    x, y = x + random.normal(0, 0.2), y + random.uniform(0.1, 0.3)
    size, wide = random.uniform(0.25, 0.4), wide * random.normal(1, 0.1)
    angle = np.arctan2(y, x)
    edge = 1 + spiculated * np.sin(random.integers(9, 15) * angle + random.uniform(0, 6))
    inside = np.hypot(x / wide, y) < size * edge
    tissue = np.where((np.abs(x) < size * wide) & (y > 0), behind, 1.0) * (110 + 25 * np.sin(9 * y + 2 * x))
    image = np.where(inside, 25.0, tissue) * random.rayleigh(0.8, x.shape) * random.normal(1, 0.1)
    return np.clip(image, 0, 255).astype(np.uint8)


def tile(random: np.random.Generator, label: str) -> npt.NDArray[np.uint8]:
    """A tile [128, 128, 3] stained with haematoxylin and eosin: blue nuclei in pink, around a lumen or none."""
    count, size, lumen = TISSUES[label]
    y, x = _places(128, 128)
    stain = random.normal(1, 0.06, 3)
    image = np.array([230.0, 160.0, 195.0]) * stain + random.normal(0, 6, (128, 128, 1))
    image[np.hypot(x, y) < 2 * lumen] = (245, 240, 245)
    pixels_y, pixels_x = np.mgrid[:128, :128]
    for _ in range(int(random.normal(count, count / 10))):
        at_y, at_x = random.uniform(0, 128, 2)
        if np.hypot(at_x - 64, at_y - 64) < 128 * lumen:
            continue
        inside = np.hypot(pixels_x - at_x, pixels_y - at_y) < max(random.normal(size, 0.5), 1)
        image[inside] = np.array([95.0, 60.0, 140.0]) * stain
    return np.clip(image, 0, 255).astype(np.uint8)


def _places(rows: int, columns: int) -> tuple[Floats, Floats]:
    """How far each pixel is down and to the right of the middle, the shorter half-axis being 1."""
    y, x = np.mgrid[:rows, :columns]
    half = min(rows, columns) / 2
    return (y + 0.5 - rows / 2) / half, (x + 0.5 - columns / 2) / half
