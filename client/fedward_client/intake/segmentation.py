"""DICOM segmentations (PS3.3 A.51, and A.92 for label maps) as masks on the voxels of the image they were drawn on.

Nothing is resampled: a segmentation on another grid is refused, for what it would say of these voxels is a guess.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from fedward_client.intake import describe, elements, geometry, part10, source
from fedward_client.intake.bounds import MAX_VALUES, opened
from fedward_client.intake.dicom import SEGMENTATIONS
from fedward_client.intake.quiet import DICOM_ERRORS, quiet
from fedward_common.errors import UnreadableFile

Masks = npt.NDArray[np.uint8]

MAKER = "Fedward"  # of the segmentations that `dicom_results` writes
NEAR = 0.1  # of a pixel's shorter side: how far headers, written with few digits, may be apart
_SAFE = frozenset(
    {
        *(ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian),
        *(DeflatedExplicitVRLittleEndian, RLELossless),
    }
)


def referenced_series(path: Path) -> str:
    """The SeriesInstanceUID of the image that a segmentation was drawn on; "" for what is none or does not say.

    Also of what a model of Fedward found: that is no truth for the next one.
    """
    with quiet():
        dataset = source.read(path)
        if elements.text(dataset, "SOPClassUID") not in SEGMENTATIONS:
            return ""
        if elements.text(dataset, "Manufacturer") == MAKER:
            return ""
        return next(iter(_series(dataset)), "")


def read_masks(path: Path, image: Sequence[Path]) -> dict[str, Masks]:
    """What a segmentation says of an image: by the label of each segment, uint8 [frames, rows, columns] of 0 and 1.

    `image` are the files of a volume's slices in order, or its one file; the masks' frames are in the same order as
    `read_slices` and `read_volume` give. Segments of one label are one structure; structures may overlap. A frame
    that the segmentation lacks is empty (PS3.3 C.8.20.3.1 lets it be left out). A fractional segment covers what is
    at least half. Raises UnreadableFile where it is no segmentation, or one of another image or grid.
    """
    grid = source.grid_of([source.read(one) for one in image])
    with quiet():
        dataset = _opened(path)
        _check_same_image(dataset, grid)
        stored = _stored(dataset)
        labels = _labels(dataset)
        found = {label: np.zeros((len(grid.frames), grid.rows, grid.columns), np.uint8) for label in labels.values()}
        groups, planes = describe.functional_groups(dataset, len(stored)), describe.planes(dataset, len(stored))
        for frame, own, plane in zip(stored, groups, planes, strict=True):
            for number, covered in _segments(dataset, own, frame):
                if number not in labels:
                    raise UnreadableFile("it has frames of a segment that it does not describe")
                if covered.any():
                    found[labels[number]][_slice(own, plane, grid)] |= covered
    return found


def _opened(path: Path) -> Dataset:
    with opened(path) as file:
        if not part10.is_dicom(file):
            raise UnreadableFile("it is not DICOM")
        dataset = part10.parse(file, pixels=True)
    if elements.text(dataset, "SOPClassUID") not in SEGMENTATIONS:
        raise UnreadableFile("it is no DICOM segmentation")
    return dataset


def _stored(dataset: Dataset) -> npt.NDArray[Any]:
    """The values of a segmentation as they are stored, [frames, rows, columns]."""
    syntax = part10.syntax(dataset)
    if syntax not in _SAFE:
        raise UnreadableFile("its pixels are compressed in a way that can lose some: write it uncompressed or with RLE")
    frames, rows, columns, bits = (
        elements.integer(dataset, name) or 0 for name in ("NumberOfFrames", "Rows", "Columns", "BitsAllocated")
    )
    values = frames * rows * columns
    if min(frames, rows, columns) < 1 or bits not in (1, 8, 16) or values > MAX_VALUES:
        raise UnreadableFile("it has no pixels, or more than can be read at once")
    if not syntax.is_encapsulated and part10.stored_in(dataset).bytes * 8 < values * bits:
        raise UnreadableFile("the pixel data ends early")
    try:
        array, _ = get_decoder(syntax).as_array(dataset, raw=True)
        return array.reshape(frames, rows, columns)
    except DICOM_ERRORS:
        raise UnreadableFile("its pixels do not decode") from None


def _check_same_image(dataset: Dataset, grid: source.Grid) -> None:
    space = elements.text(dataset, "FrameOfReferenceUID")
    if space and grid.frame_of_reference and space != grid.frame_of_reference:
        raise UnreadableFile("its frame of reference is not the image's: take the image that it was drawn on")
    series = _series(dataset)
    if series and grid.series not in series:
        raise UnreadableFile("it was drawn on another series: take the image that it was drawn on")
    if (elements.integer(dataset, "Rows"), elements.integer(dataset, "Columns")) != (grid.rows, grid.columns):
        raise _another_grid()


def _another_grid() -> UnreadableFile:
    return UnreadableFile("its voxels are not the image's: export it on the grid of the image, without resampling")


def _series(dataset: Dataset) -> list[str]:
    return [elements.text(item, "SeriesInstanceUID") for item in elements.items(dataset, "ReferencedSeriesSequence")]


def _labels(dataset: Dataset) -> dict[int, str]:
    """The labels of the segments, by their numbers. A label map describes its background, 0, which is no structure."""
    found = {
        elements.integer(item, "SegmentNumber") or 0: elements.text(item, "SegmentLabel")
        for item in elements.items(dataset, "SegmentSequence")
    }
    return {number: label for number, label in found.items() if number}


def _segments(
    dataset: Dataset, groups: list[Dataset], frame: npt.NDArray[Any]
) -> Iterator[tuple[int, npt.NDArray[np.bool_]]]:
    """The segments of a frame, and what of it each covers."""
    kind = elements.code(dataset, "SegmentationType")
    if kind == "LABELMAP":
        for number in np.unique(frame[frame > 0]).tolist():
            yield number, frame == number
        return
    number = elements.integer(describe.macro(groups, "SegmentIdentificationSequence"), "ReferencedSegmentNumber")
    most = (elements.integer(dataset, "MaximumFractionalValue") or 1) if kind == "FRACTIONAL" else 1
    yield number or 0, frame >= (most + 1) // 2


def _slice(groups: list[Dataset], plane: geometry.Plane | None, grid: source.Grid) -> int:
    """Which slice of the image a frame lies on; by its sources where there is no place, as in a projection."""
    sources = set(_sources(groups))
    slices = [frame.plane for frame in grid.frames if frame.plane is not None]
    if plane is None or len(slices) < len(grid.frames):
        for at, frame in enumerate(grid.frames):
            if not sources.isdisjoint({(frame.instance, frame.number), (frame.instance, 0)}):
                return at
        raise UnreadableFile("it says neither where its frames lie nor of which image they are")
    at = _nearest(plane, slices)
    if sources and {frame.instance for frame in grid.frames}.isdisjoint(uid for uid, _ in sources):
        raise UnreadableFile("it was drawn on another image: take the image that it was drawn on")
    return at


def _nearest(plane: geometry.Plane, slices: Sequence[geometry.Plane]) -> int:
    places = [plane.place_of(one.position) for one in slices]
    off = [abs(place - plane.place_mm) for place in places if place is not None]
    at = int(np.argmin(off))
    near = NEAR * min(slices[at].spacing)
    if off[at] > near:
        raise UnreadableFile("it covers slices that the image lacks: take the whole series that it was drawn on")
    same = (
        np.allclose((*plane.row, *plane.column), (*slices[at].row, *slices[at].column), atol=geometry.PARALLEL)
        and np.allclose(plane.spacing, slices[at].spacing, rtol=geometry.PARALLEL)
        and np.allclose(plane.position, slices[at].position, rtol=0, atol=near)
    )
    if not same:
        raise _another_grid()
    return at


def _sources(groups: list[Dataset]) -> Iterator[tuple[str, int]]:
    """The instances that a frame was drawn on, and which of their frames; 0 where that is not said."""
    for group in groups:
        for derivation in elements.items(group, "DerivationImageSequence"):
            for one in elements.items(derivation, "SourceImageSequence"):
                uid = elements.text(one, "ReferencedSOPInstanceUID")
                yield uid, elements.integer(one, "ReferencedFrameNumber") or 0
