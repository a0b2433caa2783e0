"""Invented patients, with everything by which a real one would be recognised."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np

from fedward_common.streams import stream


@dataclass(frozen=True, kw_only=True, slots=True)
class Person:
    """One invented patient with one ultrasound study."""

    family: str
    given: str
    ideographic: tuple[str, str] | None  # family and given name in ideographs
    patient_id: str
    birth: date
    phone: str
    accession: str
    examined: date
    clock: str  # HHMMSS

    @property
    def dicom_name(self) -> str:
        """PN as PS3.5 6.2.1 writes it: family^given, then the ideographic group."""
        ideographs = "=" + "^".join(self.ideographic) if self.ideographic else ""
        return f"{self.family}^{self.given}{ideographs}"

    @property
    def written_name(self) -> str:
        """The name as it stands in the hospital's own tables."""
        return "".join(self.ideographic) if self.ideographic else f"{self.family}, {self.given}"

    @property
    def folder(self) -> str:
        """NAME_YYYYMMDD, as a burner of CDs names a patient's folder."""
        return f"{self.family}_{self.given}_{self.birth:%Y%m%d}".upper()

    @property
    def identifiers(self) -> frozenset[str]:
        """Every string by which this person could be recognised; none is so short that it stands anywhere by chance."""
        parts = (self.family, self.given, *(self.ideographic or ()))
        names = {self.dicom_name, self.written_name, *(part for part in parts if len(part.encode()) > 3)}
        return frozenset({*names, self.patient_id, f"{self.birth:%Y%m%d}", f"{self.birth}", self.phone, self.accession})


def invent(hospital: str, families: Sequence[str], givens: Sequence[str], count: int, *, seed: int) -> list[Person]:
    """`count` people of `hospital`, no two of one name; the same for the same `seed`. Names are "Latin=ideographs".

    Raises ValueError when the names are not enough for so many people.
    """
    pairs = [(family, given) for family in families for given in givens]
    if count > len(pairs):
        raise ValueError(f"{len(pairs)} names are not enough for {count} people")
    random = stream(seed, "people", hospital)
    chosen = random.permutation(len(pairs))[:count]
    numbers = random.choice(9_000_000, size=count, replace=False) + 1_000_000
    return [_person(hospital, pairs[name], int(number), random) for name, number in zip(chosen, numbers, strict=True)]


def _person(hospital: str, name: tuple[str, str], number: int, random: np.random.Generator) -> Person:
    family, given = (part.partition("=") for part in name)
    birth, examined, clock, line = random.integers((0, 0, 8 * 3600, 0), (18_000, 1_000, 17 * 3600, 10**7))
    hours, rest = divmod(int(clock), 3600)
    return Person(
        family=family[0],
        given=given[0],
        ideographic=(family[2], given[2]) if family[2] else None,
        patient_id=f"{hospital[:2].upper()}-{number}",
        birth=date(1936, 1, 1) + timedelta(days=int(birth)),
        phone=f"+999 {line:07d}",
        accession=f"ACC{number * 7 % 10**8:08d}{hospital[0].upper()}",
        examined=date(2021, 1, 4) + timedelta(days=int(examined)),
        clock=f"{hours:02d}{rest // 60:02d}{rest % 60:02d}",
    )
