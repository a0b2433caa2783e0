"""What a DICOM image says beside its pixels, and the grid of its voxels: for what is drawn on it or made of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset

from fedward_client.intake import describe, elements, geometry, part10
from fedward_client.intake.bounds import opened
from fedward_client.intake.quiet import DICOM_ERRORS, quiet
from fedward_common.errors import UnreadableFile


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """A slice: which frame of which instance (from 1 on), and where it lies, None where that is not said."""

    instance: str
    number: int
    plane: geometry.Plane | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """An image's voxels: `frames` in the order of its volume, each of `rows` by `columns` pixels."""

    rows: int
    columns: int
    series: str
    frame_of_reference: str  # "" where the image has none
    frames: tuple[Frame, ...]


def read(path: Path) -> Dataset:
    """All that a DICOM file says but its pixels. Raises UnreadableFile."""
    with quiet(), opened(path) as file:
        if not part10.is_dicom(file):
            raise UnreadableFile("it is not DICOM")
        try:
            return dcmread(file, stop_before_pixels=True, force=True)
        except DICOM_ERRORS:
            raise UnreadableFile("its header is damaged") from None


def grid_of(image: Sequence[Dataset]) -> Grid:
    """The grid of a volume's slices in order, or of one file whose frames come in any. Raises UnreadableFile."""
    with quiet():
        sizes = {(elements.integer(one, "Rows"), elements.integer(one, "Columns")) for one in image}
        series = {elements.text(one, "SeriesInstanceUID") for one in image}
        spaces = {elements.text(one, "FrameOfReferenceUID") for one in image}
        rows, columns = sizes.pop()
        if sizes or len(series) > 1 or len(spaces) > 1 or not rows or not columns:
            raise UnreadableFile("the image's slices are not of one series and one size")
        frames = [frame for one in image for frame in _frames(one)]
    return Grid(
        rows=rows,
        columns=columns,
        series=series.pop(),
        frame_of_reference=spaces.pop(),
        frames=tuple(frames),
    )


def _frames(dataset: Dataset) -> list[Frame]:
    """The frames of a file, in order along their normal where they are a stack, as `read_volume` has them."""
    instance = elements.text(dataset, "SOPInstanceUID")
    planes = describe.planes(dataset, max(1, elements.integer(dataset, "NumberOfFrames") or 1))
    known = [plane for plane in planes if plane is not None]
    order = geometry.in_order(known) if len(known) == len(planes) else None
    return [Frame(instance=instance, number=index + 1, plane=planes[index]) for index in order or range(len(planes))]
