"""Siemens' mosaics: a volume's slices as tiles of one image, which the standard knows nothing of.

How many there are stands in the private element (0019,100A), and which way they run in the CSA header, which nibabel
reads. The tiles fill a square, from left to right and from top to bottom; the position that the header gives is that of
the corner of a mosaic around the same centre (nibabel's documentation, "Siemens mosaic format").
"""

import math

import numpy as np
from pydicom.dataset import Dataset

from fedward_client.intake import elements
from fedward_client.intake.describe import MOSAIC, flags
from fedward_client.intake.geometry import Plane, affine, plane
from fedward_client.intake.quiet import DICOM_ERRORS
from fedward_client.volume import Pixels, Volume
from fedward_common.errors import UnreadableFile

COUNT, CSA = (0x0019, 0x100A), (0x0029, 0x1010)


def tiles(dataset: Dataset) -> int | None:
    """How many slices a mosaic holds; None for what is none, or does not say."""
    if MOSAIC not in flags(dataset) or COUNT not in dataset:
        return None
    try:
        count = int(dataset[COUNT].value)
    except DICOM_ERRORS:
        return None
    rows, columns = elements.integer(dataset, "Rows") or 0, elements.integer(dataset, "Columns") or 0
    across = math.isqrt(max(count - 1, 0)) + 1
    return count if count > 1 and rows % across == 0 and columns % across == 0 else None


def tile_size(rows: int, columns: int, count: int) -> tuple[int, int]:
    """Rows and columns of one slice."""
    across = math.isqrt(count - 1) + 1
    return rows // across, columns // across


def unfolded(dataset: Dataset, pixels: Pixels) -> Volume:
    """A mosaic [1, channels, rows, columns] as the volume that it holds, in order along the slices' normal."""
    count = tiles(dataset)
    if count is None:
        raise UnreadableFile("a mosaic that does not say how many slices it holds")
    _, channels, whole_rows, whole_columns = pixels.shape
    rows, columns = tile_size(whole_rows, whole_columns, count)
    grid = pixels.reshape(channels, whole_rows // rows, rows, whole_columns // columns, columns)
    slices = np.ascontiguousarray(grid.transpose(1, 3, 0, 2, 4).reshape(-1, channels, rows, columns)[:count])
    first, step = _first(dataset, rows, columns), _step(dataset)
    if first is None or step is None:
        return Volume(slices)
    positions = np.array(first.position) + np.arange(count)[:, None] * step
    planes = [
        Plane(position=(float(x), float(y), float(z)), row=first.row, column=first.column, spacing=first.spacing)
        for x, y, z in positions
    ]
    backwards = np.dot(step, first.normal) < 0
    return Volume(slices[::-1] if backwards else slices, affine(planes[::-1] if backwards else planes))


def _first(dataset: Dataset, rows: int, columns: int) -> Plane | None:
    """The first slice: the mosaic's position is as if its whole size were the slice's."""
    whole = plane(
        elements.numbers(dataset, "ImagePositionPatient"),
        elements.numbers(dataset, "ImageOrientationPatient"),
        elements.numbers(dataset, "PixelSpacing"),
    )
    if whole is None:
        return None
    more_rows = ((elements.integer(dataset, "Rows") or rows) - rows) / 2
    more_columns = ((elements.integer(dataset, "Columns") or columns) - columns) / 2
    shift = np.multiply(whole.row, more_columns * whole.spacing[1]) + np.multiply(
        whole.column, more_rows * whole.spacing[0]
    )
    x, y, z = np.add(whole.position, shift)
    return Plane(position=(float(x), float(y), float(z)), row=whole.row, column=whole.column, spacing=whole.spacing)


def _step(dataset: Dataset) -> "np.ndarray[tuple[int, ...], np.dtype[np.float64]] | None":
    """From a slice to the next, in millimetres of DICOM's axes."""
    from nibabel.nicom.csareader import CSAReadError, read

    spacing = elements.number(dataset, "SpacingBetweenSlices") or elements.number(dataset, "SliceThickness")
    try:
        tags = read(bytes(dataset[CSA].value))["tags"]
        normal = np.array(tags["SliceNormalVector"]["items"], np.float64)
    except (CSAReadError, *DICOM_ERRORS):
        return None
    if spacing is None or spacing <= 0 or normal.shape != (3,) or abs(np.linalg.norm(normal) - 1) > 0.01:
        return None
    return normal * spacing
