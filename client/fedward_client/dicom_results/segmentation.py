"""A model's masks as a DICOM segmentation (PS3.3 A.51), binary, on the voxels of the images that they were found in."""

from collections.abc import Sequence
from copy import deepcopy

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.pixels.utils import pack_bits
from pydicom.sr.coding import Code
from pydicom.uid import SegmentationStorage

from fedward_client.dicom_results import derived
from fedward_client.dicom_results.derived import Device, coded
from fedward_client.intake import elements, source
from fedward_client.intake.geometry import Plane
from fedward_client.intake.quiet import quiet
from fedward_common.errors import UnreadableFile

CODES = {
    "tissue": Code("85756007", "SCT", "Tissue"),
    "segmentation": Code("113076", "DCM", "Segmentation"),
    "source": Code("121322", "DCM", "Source image for image processing operation"),
    "artificial intelligence": Code("123110", "DCM", "Artificial Intelligence"),
}
_DIMENSIONS = (  # what frames are ordered by: an attribute, in its functional group (PS3.3 C.7.6.17)
    ("ReferencedSegmentNumber", "SegmentIdentificationSequence"),
    ("ImagePositionPatient", "PlanePositionSequence"),
)


def segmentation(
    masks: npt.NDArray[np.uint8], images: Sequence[Dataset], labels: Sequence[str], device: Device
) -> Dataset:
    """Masks [structures, frames, rows, columns] of 0 and 1 as an object; structures may overlap.

    `images` are the slices of the volume in its order, or its one file, as `intake.source.read` gives them; the masks'
    frames are in that order, `labels` name the structures. Frames without a voxel of their structure are left out, as
    the standard allows; of masks without any, one is kept. Raises UnreadableFile where the images do not say where they
    lie, or have other voxels than the masks.
    """
    grid = source.grid_of(images)
    planes = [frame.plane for frame in grid.frames if frame.plane is not None]
    if len(planes) < len(grid.frames) or not grid.frame_of_reference:
        raise UnreadableFile("the image does not say where it lies, so there is no DICOM segmentation of it")
    if masks.shape != (len(labels), len(planes), grid.rows, grid.columns):
        raise UnreadableFile("the masks are not on the voxels of the image")
    kept = np.argwhere(masks.any(axis=(2, 3))).tolist() or [[0, 0]]
    with quiet():
        found = _object(images[0], grid, labels, device)
        found.NumberOfFrames = len(kept)
        found.SharedFunctionalGroupsSequence = [_shared(planes, images[0])]
        classes = {elements.text(image, "SOPInstanceUID"): derived.reference(image) for image in images}
        found.PerFrameFunctionalGroupsSequence = [
            _frame(structure, at, planes[at], _source(grid.frames[at], classes, several=len(images) < len(planes)))
            for structure, at in kept
        ]
        found.ReferencedSeriesSequence = derived.evidence(images)[0].ReferencedSeriesSequence
    found.PixelData = pack_bits(np.stack([masks[structure, at] for structure, at in kept]).ravel())
    found["PixelData"].VR = "OB"
    return found


def _object(image: Dataset, grid: source.Grid, labels: Sequence[str], device: Device) -> Dataset:
    """The object before its frames (PS3.3 C.8.20.2)."""
    found = derived.new_object(image, device, sop_class=SegmentationStorage, modality="SEG")
    found.ImageType = ["DERIVED", "PRIMARY"]
    found.FrameOfReferenceUID = grid.frame_of_reference
    found.PositionReferenceIndicator = elements.text(image, "PositionReferenceIndicator")
    found.Rows, found.Columns = grid.rows, grid.columns
    found.SamplesPerPixel, found.PhotometricInterpretation, found.PixelRepresentation = 1, "MONOCHROME2", 0
    found.BitsAllocated, found.BitsStored, found.HighBit = 1, 1, 0
    found.LossyImageCompression = "00"
    for name in ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"):
        if name in image:  # what is derived of lossy pixels is lossy (PS3.3 C.7.6.1.1.5)
            found[name] = deepcopy(image[name])
    found.SegmentationType, found.SegmentsOverlap = "BINARY", "UNDEFINED"
    found.ContentLabel, found.ContentDescription, found.ContentCreatorName = "FEDWARD", derived.short(device.title), ""
    found.SegmentSequence = [_segment(number, label, device) for number, label in enumerate(labels, 1)]
    organization, found.DimensionIndexSequence = derived.new_uid(), []
    found.DimensionOrganizationSequence = [Dataset()]
    found.DimensionOrganizationSequence[0].DimensionOrganizationUID = organization
    for attribute, group in _DIMENSIONS:
        index = Dataset()
        index.DimensionOrganizationUID = organization
        index.DimensionIndexPointer = elements.tag_of(attribute)
        index.FunctionalGroupPointer = elements.tag_of(group)
        found.DimensionIndexSequence.append(index)
    return found


def _segment(number: int, label: str, device: Device) -> Dataset:
    """What a segment is and what found it (PS3.3 C.8.20.4)."""
    algorithm = Dataset()
    algorithm.AlgorithmFamilyCodeSequence = [coded(CODES["artificial intelligence"])]
    algorithm.AlgorithmName = derived.short(device.title)
    algorithm.AlgorithmVersion = device.serial
    segment = Dataset()
    segment.SegmentNumber, segment.SegmentLabel = number, derived.short(label)
    segment.SegmentedPropertyCategoryCodeSequence = [coded(CODES["tissue"])]
    segment.SegmentedPropertyTypeCodeSequence = [coded(derived.own(label))]
    segment.SegmentAlgorithmType, segment.SegmentAlgorithmName = "AUTOMATIC", algorithm.AlgorithmName
    segment.SegmentationAlgorithmIdentificationSequence = [algorithm]
    return segment


def _shared(planes: Sequence[Plane], image: Dataset) -> Dataset:
    """What all frames have: their direction, and the size of a voxel."""
    orientation, measures, group = Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient = _numbers([*planes[0].row, *planes[0].column])
    measures.PixelSpacing = _numbers(planes[0].spacing)
    thickness = elements.number(image, "SliceThickness")
    if len(planes) > 1:
        gap = float(np.linalg.norm(np.subtract(planes[1].position, planes[0].position)))
        [measures.SpacingBetweenSlices] = _numbers([gap])
        thickness = thickness or gap
    [measures.SliceThickness] = _numbers([thickness or 1.0])
    group.PlaneOrientationSequence, group.PixelMeasuresSequence = [orientation], [measures]
    return group


def _frame(structure: int, at: int, plane: Plane, origin: Dataset) -> Dataset:
    """The functional groups of a frame (PS3.3 C.7.6.16, C.8.20.3)."""
    content, position, segment, derivation, group = (Dataset() for _ in range(5))
    content.DimensionIndexValues = [structure + 1, at + 1]
    position.ImagePositionPatient = _numbers(plane.position)
    segment.ReferencedSegmentNumber = structure + 1
    derivation.SourceImageSequence = [origin]
    derivation.DerivationCodeSequence = [coded(CODES["segmentation"])]
    group.FrameContentSequence, group.PlanePositionSequence = [content], [position]
    group.SegmentIdentificationSequence, group.DerivationImageSequence = [segment], [derivation]
    return group


def _source(frame: source.Frame, classes: dict[str, Dataset], *, several: bool) -> Dataset:
    """A reference to the frame that a mask was found in; with its number where its file has `several`."""
    item = Dataset()
    item.update(classes[frame.instance])
    if several:
        item.ReferencedFrameNumber = frame.number
    item.SpatialLocationsPreserved = "YES"
    item.PurposeOfReferenceCodeSequence = [coded(CODES["source"])]
    return item


def _numbers(values: Sequence[float]) -> list[str]:
    """Values of VR DS, of at most 16 characters (PS3.5 6.2)."""
    return [f"{value:.10g}" for value in values]
