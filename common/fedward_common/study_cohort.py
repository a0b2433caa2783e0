"""[cohort]: which of a site's patients and images a study takes."""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Annotated, Literal

from pydantic import Field

from fedward_common.study_faults import Fault, near
from fedward_common.study_section import Rule, Section

MAX_LABELS, MAX_LABEL = 1000, 256  # labels, and the characters of one; a site's answers are held to the same

# what sites tell apart by the words of a series' description
Sequence = Literal["T1", "T2", "T2*", "PD", "FLAIR", "DWI", "DTI", "ADC", "SWI", "BOLD", "ASL", "MRA", "STIR", "EPI"]
# DICOM PS3.3 C.7.3.1.1.1, terms of images, in use and retired; others may be in use
_MODALITIES = (
    "AR", "AS", "BDUS", "BI", "BMD", "CD", "CF", "CFM", "CP", "CR", "CS", "CT", "DD", "DF", "DG", "DM", "DMS", "DS",
    "DX", "EC", "ES", "FA", "FS", "GM", "IO", "IVOCT", "IVUS", "LP", "LS", "MA", "MG", "MR", "MS", "NM", "OCT", "OP",
    "OPM", "OPR", "OPT", "OT", "PA", "PT", "PX", "RF", "RG", "RTIMAGE", "SC", "SM", "ST", "TG", "US", "VF", "VL",
    "XA", "XC",
)  # fmt: skip
Years = Annotated[int, Field(ge=0, le=90)]
Month = Annotated[str, Field(pattern=r"^(19|20)\d{2}-(0[1-9]|1[0-2])$", description='a month such as "2019-03"')]
Slices = Annotated[int, Field(ge=2, le=100_000)]


def _labels(labels: tuple[str, ...]) -> Iterator[Fault]:
    for index, label in enumerate(labels):
        if not label.strip() or label != label.strip() or not label.isprintable():
            yield Fault(("labels", index), "must be printable text without spaces around it")
        if len(label) > MAX_LABEL:
            yield Fault(("labels", index), f"must be at most {MAX_LABEL} characters long, not {len(label)}")
    for label, count in Counter(labels).items():
        if count > 1:
            yield Fault(("labels",), f'holds "{label}" {count} times; name each label once')


def _modality(modality: str | None) -> Iterator[Fault]:
    if modality is None or modality in _MODALITIES:
        return
    guess = near(modality.upper(), _MODALITIES)
    if guess or not re.fullmatch(r"[A-Z0-9_]{1,16}", modality):
        yield Fault(("modality",), f'must be a DICOM modality in capitals such as "US", or absent to take any{guess}')


def _positive(positive: str | None, labels: tuple[str, ...], multi_label: bool) -> Iterator[Fault]:
    if multi_label and positive is not None:
        yield Fault(("positive",), "has no meaning with multi_label = true: each label is looked for; remove it")
        return
    if positive is not None and positive not in labels:
        yield Fault(("positive",), f"must be one of the labels: {', '.join(labels)}{near(positive, labels)}")


def _body_part(body_part: str | None) -> Iterator[Fault]:
    if body_part is not None and (not body_part.strip() or body_part != body_part.upper()):
        yield Fault(("body_part",), 'must be a DICOM body part in capitals such as "BRAIN"; remove the key to take any')


def _vendors(vendors: tuple[str, ...]) -> Iterator[Fault]:
    for index, name in enumerate(vendors):
        if len(name.strip()) < 2:
            yield Fault(("vendors", index), 'must be a maker, or a part of its name, such as "Siemens"')


def _in_order(key: str) -> Callable[[tuple[int | str, int | str] | None], Iterator[Fault]]:
    def rule(bounds: tuple[int | str, int | str] | None) -> Iterator[Fault]:
        if bounds is not None and bounds[0] > bounds[1]:  # type: ignore[operator]  # both are of one kind
            yield Fault((key,), f"must begin with the lesser: [{bounds[1]!r}, {bounds[0]!r}]")

    return rule


class Cohort(Section):
    """[cohort]: which patients. Resolved against each site's catalog and frozen at the start of a run."""

    modality: str | None = None  # DICOM Modality (0008,0060), e.g. "US"; None takes any
    labels: Annotated[tuple[str, ...], Field(max_length=MAX_LABELS)]  # classes, or what is found: see `study_task`
    positive: str | None = None  # the label whose probability is the score; needed with two classes
    multi_label: bool = False  # an image may have several of the labels or none; what is not known of one takes no part
    body_part: str | None = None  # DICOM Body Part Examined (0018,0015), e.g. "BRAIN"
    sequence: Annotated[tuple[Sequence, ...], Field(max_length=8)] = ()  # kinds of MR sequence that an image is all of
    vendors: Annotated[tuple[str, ...], Field(max_length=32)] = ()  # makers, or parts of their names; any of them
    sex: Literal["M", "F", "O"] | None = None
    age: tuple[Years, Years] | None = None  # in whole years, both included; 90 stands for all above
    months: tuple[Month, Month] | None = None  # of the studies, both included, e.g. ["2015-01", "2019-12"]
    slices: tuple[Slices, Slices] | None = None  # of a volume, both included
    localizers: bool = False  # whether scout images are taken too
    min_patients: Annotated[int, Field(ge=1, le=1_000_000)] = (
        20  # a site with fewer training patients does not take part
    )
    unlabelled: bool = False  # who has no label takes part in [[phases]] and by pseudo_labels; so may a site of such
    every_label: bool = True  # nor does one without a training patient of every label, where labels exclude each other

    rules = (
        Rule(("labels",), _labels),
        Rule(("body_part",), _body_part),
        Rule(("vendors",), _vendors),
        Rule(("modality",), _modality),
        Rule(("positive", "labels", "multi_label"), _positive),
        Rule(("age",), _in_order("age")),
        Rule(("months",), _in_order("months")),
        Rule(("slices",), _in_order("slices")),
    )
