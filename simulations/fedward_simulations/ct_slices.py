"""CT series of invented patients as three makers' scanners write them."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage
from scipy.ndimage import gaussian_filter  # type: ignore[import-untyped]

from fedward_common.metrics.base import Floats
from fedward_common.streams import stream_seed
from fedward_simulations import dicom_slices

_INTERCEPT = -1024  # HU of a stored 0


@dataclass(frozen=True, kw_only=True, slots=True)
class CtScanner:
    """How one make of scanner shows the same body."""

    manufacturer: str
    model: str
    kernel: str
    slice_mm: float
    field_mm: float  # that an image shows, from edge to edge
    noise: float  # standard deviation, HU
    blur_mm: float  # standard deviation of the kernel, across the slice's plane
    from_head: bool = False  # whether the first instance is the one nearest to the head


@dataclass(frozen=True, kw_only=True, slots=True)
class CtGrid:
    """Where voxels are: `shape` slices, rows and columns around `centre` (mm, DICOM's axes: left, back, head)."""

    shape: tuple[int, int, int]
    slice_mm: float
    pixel_mm: float
    centre: tuple[float, float, float]

    def places(self) -> tuple[Floats, Floats, Floats]:
        """How far voxels are to the left, the back and the head of the centre, in mm; they broadcast to `shape`."""
        slices, rows, columns = self.shape
        x, y, z = _along(columns, self.pixel_mm), _along(rows, self.pixel_mm), _along(slices, self.slice_mm)
        return x[None, None, :], y[None, :, None], z[:, None, None]


def _along(count: int, step: float) -> Floats:
    return (np.arange(count, dtype=np.float64) - (count - 1) / 2) * step


def grid_of(scanner: CtScanner, shape: tuple[int, int, int], random: np.random.Generator) -> CtGrid:
    """A scan of slices of `shape` pixels each; the patient lies where the table happens to be."""
    centre = tuple(random.uniform((-20, -160, -700), (20, -120, -100)).round(1).tolist())
    return CtGrid(shape=shape, slice_mm=scanner.slice_mm, pixel_mm=scanner.field_mm / shape[2], centre=centre)


def series_of(
    body: Floats, grid: CtGrid, scanner: CtScanner, *, patient: int, part: str, random: np.random.Generator
) -> list[Dataset]:
    """The slices of a `body` [slices, rows, columns] in HU, from the feet to the head."""
    across = (0, scanner.blur_mm / grid.pixel_mm, scanner.blur_mm / grid.pixel_mm)
    noise = gaussian_filter(random.standard_normal(body.shape), across)
    seen = gaussian_filter(body, across) + noise * (scanner.noise / noise.std())
    stored = np.clip(np.rint(seen - _INTERCEPT), 0, 4095).astype(np.uint16)
    uid = f"2.25.{stream_seed(0, 'synthetic CT', part, scanner.manufacturer, patient)}"
    count = len(stored)
    found = []
    for place, pixels in enumerate(stored):
        index = count - 1 - place if scanner.from_head else place
        dataset = dicom_slices.slice_of(pixels, index, kind=CTImageStorage, modality="CT", uid=uid, patient=patient)
        dataset.ImageType, dataset.BodyPartExamined = ["ORIGINAL", "PRIMARY", "AXIAL"], part
        dataset.Manufacturer, dataset.ManufacturerModelName = scanner.manufacturer, scanner.model
        dataset.StudyDescription = dataset.SeriesDescription = dataset.ProtocolName = part.capitalize()
        dataset.FrameOfReferenceUID, dataset.PositionReferenceIndicator = f"{uid}.0", ""
        dataset.KVP, dataset.ConvolutionKernel, dataset.SliceThickness = "120", scanner.kernel, scanner.slice_mm
        dataset.PixelSpacing = [_text(grid.pixel_mm)] * 2
        corner = [places.ravel()[0] for places in grid.places()]
        corner[2] += place * grid.slice_mm
        dataset.ImagePositionPatient = [_text(one + other) for one, other in zip(grid.centre, corner, strict=True)]
        dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = _INTERCEPT, 1, "HU"
        found.append(dataset)
    return found


def save(slices: Iterable[Dataset], folder: Path) -> None:
    """A file a slice, by its instance number."""
    folder.mkdir(parents=True, exist_ok=True)
    for dataset in slices:
        dataset.save_as(folder / f"{dataset.InstanceNumber:04d}.dcm", enforce_file_format=True)


def _text(value: float) -> str:
    """A number of VR DS, of at most 16 characters."""
    return f"{value:.8g}"
