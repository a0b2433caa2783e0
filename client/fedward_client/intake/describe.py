"""What a header says of an image beside its pixels, in words that name nobody: age, sex, month, sequence, flags.

Free text (descriptions, protocols) may hold anything, so nothing of it is kept but words of a fixed list.
"""

import re
from collections.abc import Mapping
from datetime import date
from functools import lru_cache

from pydicom.dataset import Dataset

from fedward_client.intake import elements
from fedward_client.intake.geometry import Plane, plane
from fedward_common.errors import UnreadableFile

OLDEST = 90  # years; above, an age tells who it is
LOCALIZER, DERIVED, MOSAIC, BURNED_IN = "localizer", "derived", "mosaic", "burned-in text"

TURNS = ("TemporalPositionIdentifier", "AcquisitionNumber", "EchoTime", "DiffusionBValue", "InstanceNumber")
_UNITS = {"D": 365.25, "W": 52.18, "M": 12.0, "Y": 1.0}  # in a year
_TEXTS = ("SeriesDescription", "ProtocolName", "SequenceName", "PulseSequenceName")
# by what stands for it in descriptions and protocols of the makers, as words or parts of them
_SEQUENCES: Mapping[str, str] = {
    "T1": r"t1\w*|\w*mprage\w*|mp2rage|i?r?-?f?spgr|bravo|tfl\w*|\w*flash\w*|vibe",
    "T2": r"t2(?!star|\*)\w*",
    "T2*": r"t2\*\w*|t2star\w*|gre",
    "PD": r"pd\w?|proton",
    "FLAIR": r"\w*flair\w*|dark.?fluid",
    "DWI": r"\w*dwi\w*|diff\w*|trace\w*",
    "DTI": r"\w*dti\w*|tensor",
    "ADC": r"adc|dadc",
    "SWI": r"swi\w*|swan",
    "BOLD": r"\w*bold\w*|\w*fmri\w*|rest\w*",
    "ASL": r"\w*asl\b|pcasl|pasl",
    "MRA": r"mra|\w*tof\w*",
    "STIR": r"stir|tirm",
    "EPI": r"\w*epi\w*",
}
_PATTERNS = {name: re.compile(rf"(?:^|[^a-z0-9])(?:{pattern})(?:$|[^a-z0-9])") for name, pattern in _SEQUENCES.items()}
_LOCALIZERS = re.compile(r"(?:^|[^a-z])(localizer|localiser|scout|survey|topogram|plane.?loc|3.?plane|loc)(?:$|[^a-z])")


def sequences(dataset: Dataset) -> str:
    """The kinds of sequence that the descriptions name, e.g. "FLAIR T2", in the order of the alphabet."""
    return sequences_in(_described(dataset))


@lru_cache(1024)  # a series has the same ones in each of its slices
def sequences_in(texts: tuple[str, ...]) -> str:
    """The kinds of sequence that texts name, which are lower case and separated by spaces."""
    return " ".join(sorted(name for name, pattern in _PATTERNS.items() if any(map(pattern.search, texts))))


def _described(dataset: Dataset) -> tuple[str, ...]:
    return tuple(elements.text(dataset, keyword).casefold().replace("_", " ") for keyword in _TEXTS)


@lru_cache(1024)
def _is_localizer(texts: tuple[str, ...]) -> bool:
    return any(map(_LOCALIZERS.search, texts))


def flags(dataset: Dataset) -> str:
    """What is odd about an image, separated by ", "."""
    kinds = elements.text(dataset, "ImageType").split("\\")
    scout = "LOCALIZER" in kinds or _is_localizer(_described(dataset))
    found = {
        LOCALIZER: scout,
        DERIVED: "DERIVED" in kinds or "SECONDARY" in kinds,
        MOSAIC: "MOSAIC" in kinds,
        BURNED_IN: elements.text(dataset, "BurnedInAnnotation") == "YES",
    }
    return ", ".join(name for name, holds in found.items() if holds)


def sex(dataset: Dataset) -> str:
    """One of "M", "F", "O" (PS3.3 C.7.1.1), "" for anything else."""
    found = elements.code(dataset, "PatientSex")
    return found if found in {"M", "F", "O"} else ""


def age(dataset: Dataset) -> int | None:
    """Whole years at the study, `OLDEST` for that and more; from the age (VR AS) or the date of birth."""
    found = re.fullmatch(r"(\d{1,3})([DWMY])", elements.text(dataset, "PatientAge").upper())
    if found:
        years: float | None = int(found[1]) / _UNITS[found[2]]
    else:
        born, seen = day(dataset, "PatientBirthDate"), day(dataset, "StudyDate")
        years = (seen - born).days / _UNITS["D"] if born and seen and born <= seen else None
    return None if years is None else min(int(years + 1e-9), OLDEST)


def month(dataset: Dataset) -> str:
    """The month of the study, "2019-03"; "" where it is not known."""
    found = day(dataset, "StudyDate") or day(dataset, "SeriesDate") or day(dataset, "AcquisitionDate")
    return f"{found:%Y-%m}" if found else ""


def day(dataset: Dataset, keyword: str) -> date | None:
    """A date (VR DA, with the dots of ACR-NEMA or without); None for what is none."""
    found = re.fullmatch(r"(\d{4})\.?(\d{2})\.?(\d{2})", elements.text(dataset, keyword))
    try:
        return date(*map(int, found.groups())) if found else None
    except ValueError:
        return None


def tesla(dataset: Dataset) -> float | None:
    """The strength of the magnet, where it is one that there is; some headers say it in gauss."""
    found = _number(dataset, "MagneticFieldStrength")
    if found is not None and found > 100:
        found /= 10_000
    return round(found, 2) if found is not None and 0 < found < 30 else None


def _number(dataset: Dataset, keyword: str) -> float | None:
    try:
        return elements.number(dataset, keyword)
    except UnreadableFile:  # nothing that an image cannot be used without
        return None


def turn(dataset: Dataset) -> str:
    """What sorts the slices that a series has at one place: time points, acquisitions, echoes, then their numbers."""
    return " ".join(f"{_number(dataset, keyword) or 0.0:015.4f}" for keyword in TURNS)


def spacing(dataset: Dataset) -> tuple[float, float] | tuple[None, None]:
    """Millimetres from row to row and from column to column, of frames that do not say where they lie."""
    shared = elements.items(dataset, "SharedFunctionalGroupsSequence")[:1]
    found = elements.numbers(macro(shared, "PixelMeasuresSequence"), "PixelSpacing") or elements.numbers(
        dataset, "PixelSpacing"
    )
    return (found[0], found[1]) if len(found) == 2 and min(found) > 0 else (None, None)


def planes(dataset: Dataset, frames: int) -> list[Plane | None]:
    """Where each frame lies, None where it is not said.

    Enhanced objects say it in functional groups (PS3.3 C.7.6.16.2), others once, which is true of a single frame only.
    """
    groups = functional_groups(dataset, frames)
    if not any(groups):
        return [_plane(dataset, dataset, dataset) if frames == 1 else None] * frames
    return [_framed(each) for each in groups]


def functional_groups(dataset: Dataset, frames: int) -> list[list[Dataset]]:
    """The functional groups of each frame, its own first; none where the object is not enhanced."""
    shared = elements.items(dataset, "SharedFunctionalGroupsSequence")[:1]
    own = elements.items(dataset, "PerFrameFunctionalGroupsSequence")
    return [[*own[index : index + 1], *shared] for index in range(frames)]


def _framed(groups: list[Dataset]) -> Plane | None:
    where = [
        macro(groups, name) for name in ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence")
    ]
    return _plane(*where)


def macro(groups: list[Dataset], name: str) -> Dataset:
    """A functional group by the name of its sequence; an empty one where the frame has none."""
    return next((found[0] for group in groups if (found := elements.items(group, name))), Dataset())


def _plane(position: Dataset, orientation: Dataset, measures: Dataset) -> Plane | None:
    return plane(
        elements.numbers(position, "ImagePositionPatient"),
        elements.numbers(orientation, "ImageOrientationPatient"),
        elements.numbers(measures, "PixelSpacing"),
    )
