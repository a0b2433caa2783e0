"""What lies beside the images of a BIDS folder: JSON sidecars, of which the scanner is taken, and tables of people."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any, Literal

from fedward_client.intake import bids_names
from fedward_client.intake.bids_names import MISSING, BidsName
from fedward_client.intake.bounds import one_line, opened
from fedward_client.intake.delimited import TextFormat, lines
from fedward_common.errors import UnreadableFile

MAX_SIDECAR = 2**20  # bytes
MAX_PARTICIPANTS = 2**20  # rows

Sex = Literal["M", "F", "O", ""]

_SEXES: Mapping[str, Sex] = {"m": "M", "male": "M", "f": "F", "female": "F", "o": "O", "other": "O"}
_MISSING = ("", MISSING)
_TABLES = {"sub": ("participant_id", "subject (sub-01)"), "ses": ("session_id", "session (ses-01)")}  # by entity
_KEYS = ("Manufacturer", "ManufacturersModelName", "MagneticFieldStrength", "RepetitionTime", "EchoTime")


@dataclass(frozen=True, kw_only=True, slots=True)
class Scanner:
    """What sidecars say of the scanner; "" and None where they do not. Times in seconds, the field in tesla."""

    manufacturer: str = ""
    model: str = ""
    field_strength_t: float | None = None
    repetition_time_s: float | None = None
    echo_time_s: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Participant:
    """A row of participants.tsv, or of a subject's sessions.tsv, which says how old they were then.

    None and "" where it says n/a, cannot be read, or has no such column.
    """

    age: float | None = None  # years
    sex: Sex = ""
    group: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sidecar:
    """The fields of a sidecar that are taken, and the name by which it is known for which images it holds."""

    name: BidsName = field(repr=False)
    fields: Mapping[str, Any]


def read_sidecar(path: Path) -> Sidecar:
    """A JSON sidecar. Raises UnreadableFile with a reason in words."""
    name = bids_names.parsed(path.name)
    with opened(path) as file:
        data = file.read(MAX_SIDECAR + 1)
    if len(data) > MAX_SIDECAR:
        raise UnreadableFile(f"the sidecar is longer than {MAX_SIDECAR} bytes")
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise UnreadableFile("the sidecar is not a JSON object")
    return Sidecar(name=name, fields={key: found[key] for key in _KEYS if key in found})


def scanner(image: BidsName, sidecars: Iterable[Sidecar]) -> Scanner:
    """The scanner of an image by all sidecars above and beside it, outermost first (the inheritance principle).

    A later one wins, and of one folder's the one with more entities.
    """
    fields: dict[str, Any] = {}
    for sidecar in sidecars:
        if sidecar.name.covers(image):
            fields |= sidecar.fields
    return Scanner(
        manufacturer=_text(fields.get("Manufacturer")),
        model=_text(fields.get("ManufacturersModelName")),
        field_strength_t=_positive(fields.get("MagneticFieldStrength")),
        repetition_time_s=_positive(fields.get("RepetitionTime")),
        echo_time_s=_positive(fields.get("EchoTime")),
    )


def _text(value: object) -> str:
    return one_line(value) if isinstance(value, str) else ""


def _positive(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if isfinite(number) and number > 0 else None


def read_participants(path: Path, entity: Literal["sub", "ses"] = "sub") -> tuple[dict[str, Participant], list[str]]:
    """By the label of the subject, what participants.tsv says; and what is wrong with it, row by row.

    With entity "ses", by the label of the session, what a subject's sessions.tsv says. Age, sex (or gender) and group
    are taken. Raises UnreadableFile where the file cannot be read at all.
    """
    participants: dict[str, Participant] = {}
    wrong: list[str] = []
    header: list[str] | None = None
    for number, line in enumerate(lines(path), 1):
        cells = [cell.strip() for cell in line.rstrip("\r\n").split("\t")]
        if header is None:
            header = [cell.lower() for cell in cells]
            _check(header, _TABLES[entity][0])
        elif len(cells) != len(header) and any(cells):
            wrong.append(f"row {number} has more or fewer cells than there are columns")
        elif any(cells):
            row = dict(zip(header, cells, strict=True))
            label = bids_names.label(entity, row[header[0]])
            if label is None or label in participants:
                wrong.append(f"row {number} names no {_TABLES[entity][1]}, or one that was named before")
            else:
                participants[label] = _participant(row, number, wrong)
        if number > MAX_PARTICIPANTS:
            raise UnreadableFile(f"it has more than {MAX_PARTICIPANTS} rows")
    return participants, wrong


def _check(header: list[str], first: str) -> None:
    if header[0] != first or len(set(header)) < len(header):
        raise UnreadableFile(f"its columns do not begin with {first}, or two have one name, as BIDS forbids")


def _participant(row: Mapping[str, str], number: int, wrong: list[str]) -> Participant:
    """A row; what is wrong with a cell goes to `wrong`."""
    age, sex = row.get("age", ""), row.get("sex", row.get("gender", ""))
    if age not in _MISSING and _age(age) is None:
        wrong.append(f"row {number} has an age that is no number")
    if sex not in _MISSING and sex.lower() not in _SEXES:
        wrong.append(f"row {number} has a sex that BIDS does not know")
    group = row.get("group", "")
    return Participant(age=_age(age), sex=_SEXES.get(sex.lower(), ""), group="" if group in _MISSING else group)


def _age(cell: str) -> float | None:
    """Years; BIDS lets an age above 89 be written as 89+."""
    try:
        age = TextFormat().number(cell.removesuffix("+"))
    except ValueError:
        return None
    return age if age >= 0 else None
