"""What each invented hospital will hold, before anything is written: its people, its files, their places and UIDs."""

import hashlib
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from fedward_simulations import busi
from fedward_simulations.partition import SEED, partition
from fedward_simulations.people import Person, invent
from fedward_simulations.scanners import Scanner

EXPORT = "export"  # a hospital's folder of images

_STYLES = Path(__file__).parent / "data" / "hospitals.toml"


class Style(BaseModel):
    """How one hospital writes its images and its label table: one entry of data/hospitals.toml."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    institution: str
    charset: str
    physicians: tuple[str, ...]
    family_names: tuple[str, ...]
    given_names: tuple[str, ...]
    scanner: Scanner
    pixels: Literal["grey", "rgb", "12-bit"]
    window: tuple[int, int] | None = None  # VOI centre and width
    syntaxes: tuple[str, ...]  # transfer syntax UIDs, taken in turn
    layout: Literal["names", "media", "flat"]
    broken_at: float  # the share of a file that arrived before its transfer broke off
    columns: tuple[str, str, str, str]  # the label table's: patient, label, name, date of birth


@dataclass(frozen=True, kw_only=True, slots=True)
class Shot:
    """One image file to be written."""

    source: str  # file of the BUSI index
    person: Person
    number: int  # of this image among the person's, from 1
    path: Path
    uid: str
    study: str
    series: str
    syntax: str
    patient_folder: str  # the folder in the export that holds this patient alone; empty where there is none


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """All that one hospital will hold."""

    style: Style
    folder: Path
    labels: dict[Person, str]  # the good patients and their labels
    unlabelled: Person
    ghost: Person  # has a label and no image
    shots: tuple[Shot, ...]
    broken: Shot

    @property
    def identifiers(self) -> frozenset[str]:
        """Everything planted by which a patient, or who looked after them, could be recognised."""
        found = {self.style.institution, *self.style.physicians}
        for person in (*self.labels, self.unlabelled, self.ghost):
            found |= person.identifiers
        for shot in (*self.shots, self.broken):
            found |= {shot.uid, shot.study, shot.series, shot.patient_folder}
        return frozenset(found - {""})


def styles() -> tuple[Style, ...]:
    """The hospitals of data/hospitals.toml, in its order."""
    return tuple(Style(**entry) for entry in tomllib.loads(_STYLES.read_text(encoding="utf-8"))["hospital"])


def make_plans(folder: Path, limit: int | None) -> list[Plan]:
    """A plan for each hospital, below `folder`; at most `limit` good patients each."""
    patients: dict[str, list[busi.Row]] = {}
    for row in busi.load_index():
        patients.setdefault(row.patient, []).append(row)
    parts = partition({patient: rows[0].label for patient, rows in patients.items()}, positive="malignant")
    return [
        _plan(style, folder / style.name, [patients[patient] for patient in part], limit)
        for style, part in zip(styles(), parts, strict=True)
    ]


def make_uid(*names: str | int) -> str:
    """A UID under 2.25 (PS3.5 B.2): 128 bits of a digest instead of a UUID, so that it is the same every time."""
    digest = hashlib.sha256("\x1f".join(str(name) for name in names).encode()).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"


def _plan(style: Style, folder: Path, patients: list[list[busi.Row]], limit: int | None) -> Plan:
    """Who is there and which files: the last patient gets no label, and one more person has nothing but a label."""
    *people, ghost = invent(style.name, style.family_names, style.given_names, len(patients) + 1, seed=SEED)
    *good, unlabelled = zip(people, patients, strict=True)
    good = good[:limit]
    makers = [_Camera(style, folder, person, at) for at, (person, _) in enumerate([*good, unlabelled], start=1)]
    shots = [
        maker.shot(number, row.file)
        for maker, (_, rows) in zip(makers, [*good, unlabelled], strict=True)
        for number, row in enumerate(rows, start=1)
    ]
    again = good[0][1]  # one image was sent once more, and that transfer broke off
    return Plan(
        style=style,
        folder=folder,
        labels={person: rows[0].label for person, rows in good},
        unlabelled=unlabelled[0],
        ghost=ghost,
        shots=tuple(replace(shot, syntax=style.syntaxes[at % len(style.syntaxes)]) for at, shot in enumerate(shots)),
        broken=makers[0].shot(len(again) + 1, again[0].file),
    )


@dataclass(frozen=True, slots=True)
class _Camera:
    """Takes the images of one person, the `at`-th of a hospital."""

    style: Style
    folder: Path
    person: Person
    at: int

    def shot(self, number: int, source: str) -> Shot:
        uid = self._uid("image", number)
        folder, file = {
            "names": (self.person.folder, f"US_{number:04d}.dcm"),
            "media": (f"PA{self.at:06d}", f"ST000001/IM{number:06d}"),
            "flat": ("", f"{uid}.dcm"),
        }[self.style.layout]
        top = self.folder / EXPORT / ("DICOM" if self.style.layout == "media" else "")
        return Shot(
            source=source,
            person=self.person,
            number=number,
            path=top / folder / file,
            patient_folder=folder,
            uid=uid,
            study=self._uid("study"),
            series=self._uid("series"),
            syntax=self.style.syntaxes[0],
        )

    def _uid(self, *names: str | int) -> str:
        return make_uid(self.style.name, self.person.patient_id, *names)
