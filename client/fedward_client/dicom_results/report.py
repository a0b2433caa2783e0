"""What a model says of a patient as a structured report: Comprehensive SR with template TID 1500 (PS3.16).

Each label's probability is a measurement (TID 300) in [0, 1], exact in its floating point value; a label that has an
operating point is called yes or no. The observer is a device: the model, by the SHA-256 of its arrays.
"""

from collections.abc import Mapping, Sequence

from highdicom import UID
from highdicom.coding_schemes import CodingSchemeIdentificationItem
from highdicom.sr import (
    AlgorithmIdentification,
    CodedConcept,
    ComprehensiveSR,
    DeviceObserverIdentifyingAttributes,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    QualitativeEvaluation,
    SourceImageForMeasurementGroup,
    TextContentItem,
    TrackingIdentifier,
)
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from fedward_client.dicom_results import derived
from fedward_client.dicom_results.derived import Device
from fedward_client.intake import elements
from fedward_client.intake.segmentation import MAKER
from fedward_common.models.trained import Trained

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
    return _document(_group("Patient", measured, called, images, about), images, about, comments)


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
        source_images=[
            SourceImageForMeasurementGroup(one.SOPClassUID, one.SOPInstanceUID) for one in map(derived.header, images)
        ],
    )


def _measurement(name: str, value: float) -> Measurement:
    return Measurement(derived.own(name), value, codes.UCUM.NoUnits)


def _algorithm(about: Trained) -> AlgorithmIdentification:
    return AlgorithmIdentification(Device.of(about).title, about.model_sha256)


def _document(
    group: MeasurementsAndQualitativeEvaluations, images: Sequence[Dataset], about: Trained, comments: Sequence[str]
) -> ComprehensiveSR:
    """The report of a measurement group, which belongs to the latest study of the images."""
    latest = max(images, key=lambda image: [elements.text(image, name) for name in _TIME])
    device = Device.of(about)
    content = MeasurementReport(
        ObservationContext(observer_device_context=_observer(device)),
        codes.SCT.ImagingProcedure,
        [group],
    )
    for comment in comments:
        content[0].ContentSequence.append(TextContentItem(codes.DCM.Comment, comment, "CONTAINS"))
    found = ComprehensiveSR(
        [derived.header(image) for image in (latest, *images)],  # each is taken once
        content[0],
        is_complete=True,
        coding_schemes=[CodingSchemeIdentificationItem(derived.SCHEME, "Labels of studies of Fedward")],
        **derived.new_series(device),
    )
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
