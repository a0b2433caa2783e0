"""CT of invented patients' livers with tumours, and what a radiologist would draw on them, as DICOM segmentations.

The portal venous phase, in which most tumours are darker than the liver around them (LiTS: Bilic et al. 2023,
doi:10.1016/j.media.2022.102680): by 45 HU at strength 1, not at all at 0.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fedward_client.dicom_results.derived import Device
from fedward_client.dicom_results.segmentation import segmentation
from fedward_common.metrics.base import Floats
from fedward_common.streams import stream
from fedward_simulations.ct_slices import CtGrid, CtScanner, grid_of, save, series_of
from fedward_simulations.dicom_slices import name
from fedward_simulations.synthetic import ct

STRUCTURES = ("liver", "tumour")  # a tumour is a part of its liver: the masks overlap
LIVER, DARKER = 105.0, 45.0  # HU
SCANNERS: Mapping[str, CtScanner] = {  # by hospital
    "harbour": CtScanner(manufacturer="SIEMENS", model="SOMATOM Definition AS", kernel="B30f",
                         slice_mm=3.0, field_mm=360, noise=12, blur_mm=0.8),
    "north": CtScanner(manufacturer="GE MEDICAL SYSTEMS", model="LightSpeed VCT", kernel="STANDARD",
                       slice_mm=5.0, field_mm=380, noise=9, blur_mm=0.7, from_head=True),
    "valley": CtScanner(manufacturer="Philips", model="Brilliance 64", kernel="B",
                        slice_mm=4.0, field_mm=350, noise=15, blur_mm=0.9, from_head=True),
}  # fmt: skip
# HU, middle (mm to the left, the back, the head), half axes (mm)
_ORGANS: Mapping[str, tuple[float, ct.Place, ct.Place]] = {
    "cavity": (ct.FAT, (0, -12, 0), (132, 78, np.inf)),
    "spleen": (115, (98, 22, 15), (28, 40, 50)),
    "stomach": (30, (62, -38, 20), (45, 28, 60)),
    "left kidney": (150, (68, 42, -65), (26, 26, 55)),
    "right kidney": (150, (-62, 42, -75), (26, 26, 55)),
    "aorta": (150, (12, 34, 0), (11, 11, np.inf)),
}
_RIGHT_LOBE: tuple[ct.Place, ct.Place] = ((-72, 2, 0), (58, 66, 75))
_LEFT_LOBE: tuple[ct.Place, ct.Place] = ((-6, -38, 18), (66, 30, 42))


def write(
    folder: Path, scanner: CtScanner, number: int, *, shape: tuple[int, int, int] = (24, 64, 64), strength: float = 1.0
) -> None:
    """`P0003/`: a patient's slices, `0001.dcm` and on, and `segmentation.dcm` of the liver and its tumours."""
    random = stream(0, "synthetic abdomen", scanner.manufacturer, number)
    grid = grid_of(scanner, shape, random)
    body, masks = _abdomen(grid, strength, random)
    slices = series_of(body, grid, scanner, patient=number, part="ABDOMEN", random=random)
    save(slices, folder / f"P{number:04d}")
    drawn = segmentation(masks, slices, STRUCTURES, Device(title="Synthetic abdomen", model="phantom", serial="1"))
    drawn.Manufacturer = "Invented workstation"  # what Fedward itself wrote is no truth
    drawn.SeriesInstanceUID = f"{slices[0].SeriesInstanceUID}.0.1"
    name(drawn, f"{drawn.SeriesInstanceUID}.1")  # the same every time
    drawn.save_as(folder / f"P{number:04d}" / "segmentation.dcm", enforce_file_format=True)


def _abdomen(grid: CtGrid, strength: float, random: np.random.Generator) -> tuple[Floats, npt.NDArray[np.uint8]]:
    """A body [slices, rows, columns] in HU, and its liver and tumours [2, slices, rows, columns]."""
    size = random.normal(1, 0.05)
    body = ct.torso(grid, size)
    for hounsfield, centre, half_axes in _ORGANS.values():
        moved, grown = random.normal(centre, 3), np.multiply(half_axes, size * random.normal(1, 0.04))
        ct.paint(body, ct.outside(grid, _place(moved), _place(grown)), hounsfield * random.normal(1, 0.03))
    liver = _liver(grid, size, random)
    hounsfield = random.normal(LIVER, 6)
    ct.paint(body, liver, hounsfield)
    masks = np.zeros((len(STRUCTURES), *grid.shape), np.uint8)
    masks[0] = liver < 0
    least = max(6.0, 1.5 * grid.slice_mm, 1.5 * grid.pixel_mm)  # mm: a smaller tumour has hardly a voxel of its own
    for _ in range(random.integers(1, 4)):
        radius = random.uniform(least, 3 * least)
        middle = ct.inside_point(liver, grid, 0.7 * radius, random)
        if middle is None:
            continue
        tumour = ct.outside(grid, middle, _place(radius * random.uniform(0.85, 1.15, 3)))
        tumour = np.maximum(tumour, liver)  # a tumour ends where its liver does
        ct.paint(body, tumour, hounsfield - strength * DARKER)
        masks[1] |= tumour < 0
    return body, masks


def _liver(grid: CtGrid, size: float, random: np.random.Generator) -> Floats:
    """About how many mm voxels are outside of a liver: a large right lobe, a flat left one, a surface that waves."""
    lobes = [
        ct.outside(
            grid, _place(random.normal(centre, 3)), _place(np.multiply(half_axes, size * random.normal(1, 0.06)))
        )
        for centre, half_axes in (_RIGHT_LOBE, _LEFT_LOBE)
    ]
    x, y, z = grid.places()
    phase = random.uniform(0, 2 * np.pi, 3)
    waves = 2 * np.sin(x / 17 + phase[0]) * np.sin(y / 19 + phase[1]) * np.cos(z / 23 + phase[2])
    found: Floats = np.minimum(*lobes) + waves
    return found


def _place(values: Floats) -> ct.Place:
    x, y, z = values.tolist()
    return x, y, z
