"""What a model says of a patient or an image as a structured report with template TID 1500 (PS3.16).

Each label's probability is a measurement (TID 300) in [0, 1], exact in its floating point value; a label that has an
operating point is called yes or no. Each finding is a measurement group with its place and its score. The observer is a
device: the model, by the SHA-256 of its arrays.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from highdicom import UID
from highdicom.coding_schemes import CodingSchemeIdentificationItem
from highdicom.sr import (
    AlgorithmIdentification,
    CodedConcept,
    Comprehensive3DSR,
    ComprehensiveSR,
    DeviceObserverIdentifyingAttributes,
    ImageRegion,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    PlanarROIMeasurementsAndQualitativeEvaluations,
    QualitativeEvaluation,
    SourceImageForMeasurementGroup,
    SourceImageForRegion,
    SourceSeriesForSegmentation,
    TextContentItem,
    TrackingIdentifier,
    VolumeSurface,
    VolumetricROIMeasurementsAndQualitativeEvaluations,
)
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from fedward_client.dicom_results import derived
from fedward_client.dicom_results.derived import Device
from fedward_client.findings import Finding
from fedward_client.intake import elements, source
from fedward_client.intake.segmentation import MAKER
from fedward_common.errors import UnreadableFile
from fedward_common.models.trained import Trained

Group = (
    MeasurementsAndQualitativeEvaluations
    | PlanarROIMeasurementsAndQualitativeEvaluations
    | VolumetricROIMeasurementsAndQualitativeEvaluations
)
SR = TypeVar("SR", ComprehensiveSR, Comprehensive3DSR)

_TIME = ("StudyDate", "StudyTime", "StudyInstanceUID")


@derived.encoding()
def report(
    probabilities: Mapping[str, float], images: Sequence[Dataset], about: Trained, comments: Sequence[str]
) -> ComprehensiveSR:
    """The report of a patient: `probabilities` by label, what `images` they are of, and what must be said of them.

    It belongs to the latest study among the images; those of earlier studies are referred to as such (PS3.3 C.17.2).
    Raises UnreadableFile where an image does not have what a report needs.
    """
    measured = [_measurement(f"probability {label}", value) for label, value in probabilities.items()]
    called = [
        QualitativeEvaluation(
            derived.own(f"called {label}"), codes.SCT.Yes if probabilities[label] >= least else codes.SCT.No
        )
        for label, least in about.thresholds.items()
    ]
    return _document(ComprehensiveSR, [_group("Patient", measured, called, images, about)], images, about, comments)


@derived.encoding()
def report_of_findings(
    findings: Sequence[Finding], images: Sequence[Dataset], about: Trained, comments: Sequence[str]
) -> Comprehensive3DSR:
    """The report of an image: how many `findings` it has, and each. Raises what `report` raises.

    Of a volume a finding is an ellipsoid in the frame of reference, of a slice or a picture a rectangle on it. Raises
    UnreadableFile also for a volume that does not say where it lies.
    """
    count = _measurement("number of findings", len(findings))
    grid, groups = source.grid_of(images), list[Group]([_group("Image", [count], [], images, about)])
    for number, finding in enumerate(findings, 1):
        what: dict[str, Any] = {
            "tracking_identifier": TrackingIdentifier(identifier=f"Finding {number}"),
            "finding_type": derived.own(finding.label),
            "algorithm_id": _algorithm(about),
            "measurements": [_measurement("score", finding.score)],
        }
        if len(about.study.input.size) == 3:
            surface = _ellipsoid(finding, grid)
            groups.append(VolumetricROIMeasurementsAndQualitativeEvaluations(referenced_volume_surface=surface, **what))
        else:
            region = _rectangle(finding, grid, images)
            groups.append(PlanarROIMeasurementsAndQualitativeEvaluations(referenced_region=region, **what))
    return _document(Comprehensive3DSR, groups, images, about, comments)


def _group(
    name: str,
    measured: Sequence[Measurement],
    called: Sequence[QualitativeEvaluation],
    images: Sequence[Dataset],
    about: Trained,
) -> MeasurementsAndQualitativeEvaluations:
    """What is said of all the images, which stand here: highdicom's image library lacks classes, as dermoscopy."""
    return MeasurementsAndQualitativeEvaluations(
        TrackingIdentifier(identifier=name),
        algorithm_id=_algorithm(about),
        measurements=measured,
        qualitative_evaluations=called,
        source_images=[_source_image(one, about) for one in images],
    )


def _source_image(image: Dataset, about: Trained) -> SourceImageForMeasurementGroup:
    """An image; where a 2-D study took the middle one of several frames, that frame."""
    numbers = None
    if len(about.study.input.size) == 2:
        frames = source.grid_of([image]).frames
        numbers = [frames[len(frames) // 2].number] if len(frames) > 1 else None
    head = derived.header(image)
    return SourceImageForMeasurementGroup(head.SOPClassUID, head.SOPInstanceUID, numbers)


def _measurement(name: str, value: float) -> Measurement:
    return Measurement(derived.own(name), value, codes.UCUM.NoUnits)


def _algorithm(about: Trained) -> AlgorithmIdentification:
    return AlgorithmIdentification(Device.of(about).title, about.model_sha256)


def _ellipsoid(finding: Finding, grid: source.Grid) -> VolumeSurface:
    """Six points: the ends of each axis (PS3.3 C.18.9.1.2), at right angles in a sheared image too."""
    if finding.affine is None or not grid.frame_of_reference:
        raise UnreadableFile("the image does not say where it lies")
    middle, across = finding.ellipsoid
    directions, lengths, _ = np.linalg.svd(across.T)  # the same ellipsoid by its principal axes
    axes = (directions * lengths).T
    return VolumeSurface(
        "ELLIPSOID",
        np.concatenate([(middle - axis, middle + axis) for axis in axes]),
        grid.frame_of_reference,
        source_series=SourceSeriesForSegmentation(grid.series),
    )


def _rectangle(finding: Finding, grid: source.Grid, images: Sequence[Dataset]) -> ImageRegion:
    """On the slice that was looked at, in (column, row) from its corner on (PS3.3 C.18.6.1.2)."""
    (frame, top, left), (_, bottom, right) = finding.lower, finding.upper
    at = grid.frames[int(frame)]
    sop_class = {elements.text(one, "SOPInstanceUID"): elements.text(one, "SOPClassUID") for one in images}
    numbers = [at.number] if len(grid.frames) > len(images) else None
    return ImageRegion(
        "POLYLINE",
        np.array([(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]),
        SourceImageForRegion(sop_class[at.instance], at.instance, numbers),
    )


def _document(
    kind: type[SR], groups: Sequence[Group], images: Sequence[Dataset], about: Trained, comments: Sequence[str]
) -> SR:
    """The report of measurement groups, which belongs to the latest study of the images."""
    latest = max(images, key=lambda image: [elements.text(image, name) for name in _TIME])
    device = Device.of(about)
    content = MeasurementReport(
        ObservationContext(observer_device_context=_observer(device)),
        codes.SCT.ImagingProcedure,
        groups,
    )
    for comment in comments:
        content[0].ContentSequence.append(TextContentItem(codes.DCM.Comment, comment, "CONTAINS"))
    found = kind(
        [derived.header(image) for image in (latest, *images)],  # each is taken once
        content[0],
        is_complete=True,
        coding_schemes=[CodingSchemeIdentificationItem(derived.SCHEME, "Labels of studies of Fedward")],
        **derived.new_series(device),
    )
    latest.decode()  # what is copied is written in UTF-8, whatever it was stored in
    found.copy_patient_and_study_information(latest)
    return found


def _observer(device: Device) -> ObserverContext:
    """The model as the device that observed."""
    return ObserverContext(
        CodedConcept.from_code(codes.DCM.Device),
        DeviceObserverIdentifyingAttributes(
            uid=UID(f"2.25.{int(device.serial[:32], 16)}"),  # the same for the same model
            name=device.title,
            manufacturer_name=MAKER,
            model_name=device.model,
            serial_number=device.serial,
        ),
    )
