"""A model's probabilities for a patient as a structured report: Comprehensive SR with template TID 1500 (PS3.16).

Each label's probability is a measurement (TID 300) in [0, 1], exact in its floating point value; a label that has an
operating point is called yes or no. The observer is a device: the model, by the SHA-256 of its arrays.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import ComprehensiveSRStorage
from pydicom.valuerep import DSfloat

from fedward_client.dicom_results import derived
from fedward_client.dicom_results.derived import Device, coded
from fedward_client.intake import elements
from fedward_client.intake.quiet import quiet
from fedward_client.intake.segmentation import MAKER
from fedward_common.models.trained import Trained

CODES: Mapping[str, Code] = {
    "report": Code("126000", "DCM", "Imaging Measurement Report"),
    "language": Code("121049", "DCM", "Language of Content Item and Descendants"),
    "observer type": Code("121005", "DCM", "Observer Type"),
    "device": Code("121007", "DCM", "Device"),
    "device uid": Code("121012", "DCM", "Device Observer UID"),
    "device name": Code("121013", "DCM", "Device Observer Name"),
    "device maker": Code("121014", "DCM", "Device Observer Manufacturer"),
    "device model": Code("121015", "DCM", "Device Observer Model Name"),
    "device serial": Code("121016", "DCM", "Device Observer Serial Number"),
    "procedure": Code("121058", "DCM", "Procedure reported"),
    "imaging": Code("363679005", "SCT", "Imaging procedure"),
    "library": Code("111028", "DCM", "Image Library"),
    "library group": Code("126200", "DCM", "Image Library Group"),
    "measurements": Code("126010", "DCM", "Imaging Measurements"),
    "group": Code("125007", "DCM", "Measurement Group"),
    "tracking": Code("112039", "DCM", "Tracking Identifier"),
    "tracking uid": Code("112040", "DCM", "Tracking Unique Identifier"),
    "algorithm": Code("111001", "DCM", "Algorithm Name"),
    "algorithm version": Code("111003", "DCM", "Algorithm Version"),
    "no units": Code("1", "UCUM", "no units"),
    "yes": Code("373066001", "SCT", "Yes"),
    "no": Code("373067005", "SCT", "No"),
    "comment": Code("121106", "DCM", "Comment"),
}
_ENGLISH = Code("en", "RFC5646", "English")


def report(
    probabilities: Mapping[str, float],
    images: Sequence[Dataset],
    about: Trained,
    comments: Sequence[str],
) -> Dataset:
    """The report of a patient: `probabilities` by label, what `images` they are of, and what must be said of them.

    It belongs to the latest study among the images; those of earlier studies are referred to as such (PS3.3 C.17.2).
    Raises UnreadableFile where an image does not have what a report needs.
    """
    with quiet():
        latest = max(images, key=lambda image: [elements.text(image, name) for name in _TIME])
        study = elements.text(latest, "StudyInstanceUID")
        found = derived.new_object(latest, Device.of(about), sop_class=ComprehensiveSRStorage, modality="SR")
        found.CompletionFlag, found.VerificationFlag = "COMPLETE", "UNVERIFIED"
        found.ReferencedPerformedProcedureStepSequence, found.PerformedProcedureCodeSequence = [], []
        evidence = derived.evidence(images)
        found.CurrentRequestedProcedureEvidenceSequence = [it for it in evidence if it.StudyInstanceUID == study]
        if len(evidence) > 1:
            found.PertinentOtherEvidenceSequence = [it for it in evidence if it.StudyInstanceUID != study]
        scheme = Dataset()
        scheme.CodingSchemeDesignator, scheme.CodingSchemeName = derived.SCHEME, "Labels of studies of Fedward"
        found.CodingSchemeIdentificationSequence = [scheme]
        found.update(_content(probabilities, images, about, comments))
    return found


_TIME = ("StudyDate", "StudyTime", "StudyInstanceUID")


def _content(
    probabilities: Mapping[str, float], images: Sequence[Dataset], about: Trained, comments: Sequence[str]
) -> Dataset:
    """The tree of content (TID 1500), without relationship at its root."""
    root = _container("report", "1500", [
        _code("HAS CONCEPT MOD", CODES["language"], _ENGLISH),
        *_observer(Device.of(about)),
        _code("HAS CONCEPT MOD", CODES["procedure"], CODES["imaging"]),
        _container("library", "1600", [
            _container("library group", "", [_image(each) for each in members])
            for members in derived.by_series(images).values()
        ]),
        _container("measurements", "", [_container("group", "1501", _measured(probabilities, about))]),
        *(_text("CONTAINS", CODES["comment"], comment) for comment in comments),
    ])  # fmt: skip
    del root.RelationshipType
    return root


def _observer(device: Device) -> list[Dataset]:
    """The model as the device that observed (TID 1002, 1004)."""
    context = "HAS OBS CONTEXT"
    return [
        _code(context, CODES["observer type"], CODES["device"]),
        _uid(context, CODES["device uid"], f"2.25.{int(device.serial[:32], 16)}"),  # the same for the same model
        _text(context, CODES["device name"], device.title),
        _text(context, CODES["device maker"], MAKER),
        _text(context, CODES["device model"], device.model),
        _text(context, CODES["device serial"], device.serial),
    ]


def _measured(probabilities: Mapping[str, float], about: Trained) -> list[Dataset]:
    """The measurement group (TID 1501): the algorithm (TID 4019), probabilities (TID 300), what is called."""
    calls = {label: probabilities[label] >= least for label, least in about.thresholds.items()}
    return [
        _text("HAS OBS CONTEXT", CODES["tracking"], "Patient"),
        _uid("HAS OBS CONTEXT", CODES["tracking uid"], derived.new_uid()),
        _text("HAS CONCEPT MOD", CODES["algorithm"], Device.of(about).title),
        _text("HAS CONCEPT MOD", CODES["algorithm version"], about.model_sha256),
        *(_number(derived.own(f"probability {label}"), value) for label, value in probabilities.items()),
        *(_code("CONTAINS", derived.own(f"called {label}"), CODES["yes" if is_called else "no"])
          for label, is_called in calls.items()),
    ]  # fmt: skip


def _item(relationship: str, kind: str, name: Code | None = None, **values: Any) -> Dataset:
    item = Dataset()
    item.RelationshipType, item.ValueType = relationship, kind
    if name is not None:
        item.ConceptNameCodeSequence = [coded(name)]
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return item


def _container(name: str, template: str, content: list[Dataset]) -> Dataset:
    item = _item("CONTAINS", "CONTAINER", CODES[name], ContinuityOfContent="SEPARATE", ContentSequence=content)
    if template:
        used = Dataset()
        used.MappingResource, used.TemplateIdentifier = "DCMR", template
        item.ContentTemplateSequence = [used]
    return item


def _code(relationship: str, name: Code, value: Code) -> Dataset:
    return _item(relationship, "CODE", name, ConceptCodeSequence=[coded(value)])


def _text(relationship: str, name: Code, value: str) -> Dataset:
    return _item(relationship, "TEXT", name, TextValue=value)


def _uid(relationship: str, name: Code, value: str) -> Dataset:
    return _item(relationship, "UIDREF", name, UID=value)


def _image(image: Dataset) -> Dataset:
    return _item("CONTAINS", "IMAGE", ReferencedSOPSequence=[derived.reference(image)])


def _number(name: Code, value: float) -> Dataset:
    measured = Dataset()
    measured.NumericValue, measured.FloatingPointValue = DSfloat(value, auto_format=True), value
    measured.MeasurementUnitsCodeSequence = [coded(CODES["no units"])]
    return _item("CONTAINS", "NUM", name, MeasuredValueSequence=[measured])
