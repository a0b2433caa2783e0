"""What is looked for in an archive, what is found there, and the seam between the two: `Peer`.

Values and rules only. Identifiers stay in these values, whose repr hides them.
"""

import calendar
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Protocol

from fedward_client.receiver.inbox import Inbox


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """Which series of an archive are wanted; a None asks for nothing in particular.

    `since` and `until` are study dates, both included. `description` is a text that the study's or the series'
    description holds, upper and lower case alike. `patients` are Patient IDs, exact.
    """

    modality: str | None = None
    since: date | None = None
    until: date | None = None
    description: str | None = None
    patients: tuple[str, ...] | None = field(default=None, repr=False)

    def takes(self, study: "Study", series: "Series") -> bool:
        """Whether a series of a study is wanted: an archive may well find more than it was asked for."""
        text = f"{study.description}\n{series.description}".casefold()
        return (
            self.modality in (None, series.modality)
            and (self.description is None or self.description.casefold() in text)
            and (self.patients is None or study.patient in self.patients)
            and (self.since is None or (study.day is not None and study.day >= self.since))
            and (self.until is None or (study.day is not None and study.day <= self.until))
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """One query on studies: small enough that an archive answers it whole."""

    patient: str | None = field(repr=False)
    since: date | None
    until: date | None
    modality: str | None

    @property
    def days(self) -> str:
        """The study dates as a DICOM range (PS3.4 C.2.2.2.5), "" for every day."""
        if self.since is None and self.until is None:
            return ""
        return "-".join(f"{day:%Y%m%d}" if day is not None else "" for day in (self.since, self.until))


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """A study that an archive has."""

    uid: str = field(repr=False)
    patient: str = field(repr=False)
    day: date | None
    description: str = field(repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """A series of a study; `instances` is how many objects it has, where the archive says."""

    study: str = field(repr=False)
    uid: str = field(repr=False)
    modality: str
    description: str = field(repr=False)
    instances: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Instance:
    """An object of a series; `sop_class` is "" where the archive does not say."""

    uid: str = field(repr=False)
    sop_class: str


class Peer(Protocol):
    """An archive: what it has, and its objects into an inbox.

    Every method raises PacsError in words: `PeerAway` where trying again later may help.
    """

    def studies(self, question: Question) -> list[Study]:
        """The studies that a question finds."""

    def series(self, study: Study) -> list[Series]:
        """The series of a study."""

    def instances(self, series: Series) -> list[Instance]:
        """The objects of a series."""

    def fetch(self, series: Series, instances: Sequence[Instance], *, whole: bool, inbox: Inbox) -> None:
        """Bring objects of a series into an inbox; `whole`: they are all that it has.

        That an object did not come raises nothing: the journal says what came.
        """


def questions(wanted: Wanted, today: date) -> Iterator[Question]:
    """The queries that find what is wanted: one a patient, else one a month from `since` on, else a single one."""
    if wanted.patients is not None:
        for patient in wanted.patients:
            yield Question(patient=patient, since=wanted.since, until=wanted.until, modality=wanted.modality)
        return
    for since, until in _months(wanted.since, wanted.until, today):
        yield Question(patient=None, since=since, until=until, modality=wanted.modality)


def _months(since: date | None, until: date | None, today: date) -> Iterator[tuple[date | None, date | None]]:
    if since is None:
        yield None, until
        return
    last = until if until is not None else max(since, today)
    while since <= last:
        end = since.replace(day=calendar.monthrange(since.year, since.month)[1])
        yield since, end if end < last else until
        since = end + timedelta(days=1)


def day_of(text: str) -> date | None:
    """The day that a DICOM date (VR DA, PS3.5 6.2) says, None where it says none."""
    try:
        return datetime.strptime(text.replace(".", ""), "%Y%m%d").date()  # with dots before 1993
    except ValueError:
        return None
