"""A model's masks as a DICOM segmentation (PS3.3 A.51), binary, on the voxels of the images that they were found in."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from highdicom import AlgorithmIdentificationSequence, PixelMeasuresSequence, PlaneOrientationSequence
from highdicom import PlanePositionSequence as PlanePosition
from highdicom.seg import Segmentation, SegmentDescription
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from fedward_client.dicom_results import derived
from fedward_client.dicom_results.derived import Device
from fedward_client.intake import elements, geometry, source
from fedward_common.errors import UnreadableFile


@derived.encoding()
def segmentation(
    masks: npt.NDArray[np.uint8], images: Sequence[Dataset], labels: Sequence[str], device: Device
) -> Segmentation:
    """Masks [structures, frames, rows, columns] of 0 and 1 as an object; structures may overlap.

    `images` are the slices of the volume in its order, or its one file, as `intake.source.read` gives them; the masks'
    frames are in that order, `labels` name the structures. Frames without a voxel of their structure are left out, as
    the standard allows; of masks without any, all are kept. Raises UnreadableFile where the images do not say where
    they lie, are not parallel, lie at one place, or have other voxels than the masks.
    """
    grid = source.grid_of(images)
    planes = [frame.plane for frame in grid.frames if frame.plane is not None]
    if len(planes) < len(grid.frames) or not grid.frame_of_reference:
        raise UnreadableFile("the image does not say where it lies, so there is no DICOM segmentation of it")
    if len({plane.position for plane in planes}) < len(planes):
        raise UnreadableFile("several of its frames lie at one place, so there is no DICOM segmentation of it")
    if masks.shape != (len(labels), len(planes), grid.rows, grid.columns):
        raise UnreadableFile("the masks are not on the voxels of the image")
    order = sorted(range(len(planes)), key=lambda at: grid.frames[at].number)  # highdicom goes by a file's own
    found = Segmentation(
        _headers(images, [planes[at] for at in order], float(np.linalg.norm(geometry.affine(planes)[:3, 2]))),
        masks[:, order].transpose(1, 2, 3, 0),
        "BINARY",
        [_segment(number, label, device) for number, label in enumerate(labels, 1)],
        content_label="FEDWARD",
        content_description=derived.short(device.title),
        **derived.new_series(device),
    )
    images[0].decode()  # what is copied is written in UTF-8, whatever it was stored in
    found.copy_patient_and_study_information(images[0])
    return found


def _headers(images: Sequence[Dataset], planes: Sequence[geometry.Plane], gap_mm: float) -> list[Dataset]:
    """The images for highdicom, which looks for their places at the root or by frame, as their class has it."""
    orientation = PlaneOrientationSequence("PATIENT", [*planes[0].row, *planes[0].column])
    measures = PixelMeasuresSequence(planes[0].spacing, elements.number(images[0], "SliceThickness") or gap_mm)
    each, found = len(planes) // len(images), [derived.header(image) for image in images]
    for number, one in enumerate(found):
        frames = [Dataset() for _ in range(each)]
        for frame, plane in zip(frames, planes[number * each :], strict=False):
            frame.PlanePositionSequence = PlanePosition("PATIENT", plane.position)
        shared = Dataset()
        shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = orientation, measures
        one.NumberOfFrames = each
        one.SharedFunctionalGroupsSequence, one.PerFrameFunctionalGroupsSequence = [shared], frames
        for macro in (frames[0].PlanePositionSequence, orientation, measures):
            one.update(macro[0])
    return found


def _segment(number: int, label: str, device: Device) -> SegmentDescription:
    """What a segment is and what found it."""
    return SegmentDescription(
        number,
        derived.short(label),
        codes.SCT.Tissue,
        derived.own(label),
        "AUTOMATIC",
        AlgorithmIdentificationSequence(derived.short(device.title), codes.DCM.ArtificialIntelligence, device.serial),
    )
