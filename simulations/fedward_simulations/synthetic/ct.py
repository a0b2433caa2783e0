"""Bodies for CT: ellipsoids with soft edges, in mm to the left, the back and the head of the scan's centre."""

import numpy as np

from fedward_common.metrics.base import Floats
from fedward_simulations.ct_slices import CtGrid

EDGE_MM = 0.7  # over which one tissue becomes the other
AIR, FAT, MUSCLE, BONE = -1000.0, -100.0, 55.0, 300.0  # HU

Place = tuple[float, float, float]


def outside(grid: CtGrid, centre: Place, half_axes: Place) -> Floats:
    """About how many mm voxels are outside of an ellipsoid, negative inside; a half axis may be infinite."""
    parts = [
        ((place - middle) / half) ** 2 for place, middle, half in zip(grid.places(), centre, half_axes, strict=True)
    ]
    distance: Floats = (np.sqrt(parts[0] + parts[1] + parts[2]) - 1) * min(half_axes)
    return distance


def paint(body: Floats, distance: Floats, hounsfield: float) -> None:
    """Put a tissue into a body where the distance to it is negative."""
    body += (hounsfield - body) / (1 + np.exp(np.clip(distance / EDGE_MM, -50, 50)))


def torso(grid: CtGrid, size: float) -> Floats:
    """A body [slices, rows, columns] of fat and muscle with a spine, lying on its back; `size` 1 is usual."""
    body = np.full(grid.shape, AIR)
    for hounsfield, across, along in ((FAT, 165, 118), (MUSCLE, 148, 100)):
        paint(body, outside(grid, (0, 0, 0), (across * size, along * size, np.inf)), hounsfield)
    paint(body, outside(grid, (0, 62 * size, 0), (20 * size, 18 * size, np.inf)), BONE)
    return body


def inside_point(distance: Floats, grid: CtGrid, deep_mm: float, random: np.random.Generator) -> Place | None:
    """A random place (mm from the centre) at least so deep in what is negative; None where nothing is so deep."""
    voxels = np.argwhere(distance < -deep_mm)
    if not len(voxels):
        return None
    at = voxels[random.integers(len(voxels))] + random.uniform(-0.5, 0.5, 3)
    steps = (grid.slice_mm, grid.pixel_mm, grid.pixel_mm)
    z, y, x = ((index - (count - 1) / 2) * step for index, count, step in zip(at, grid.shape, steps, strict=True))
    return float(x), float(y), float(z)
