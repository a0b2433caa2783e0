"""What a catalog gives: a row an image, a recording, a row of a table. Every name in it is a pseudonym."""

from dataclasses import dataclass
from typing import NamedTuple

from fedward_client.intake.box_table import Box
from fedward_client.intake.recording import Recording


class Mask(NamedTuple):
    """A file that shows where structures are in an image."""

    key: str  # a pseudonym
    content: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageRow:
    """One image, as its header says (`intake.dicom.Header`). `content`: hex BLAKE2b of the file's bytes."""

    key: str  # a pseudonym, as are the next four; "" where the header names none
    patient: str
    study: str
    series: str
    accession: str
    content: str
    modality: str
    rows: int
    columns: int
    frames: int
    channels: int
    manufacturer: str
    device: str
    transfer_syntax: str
    body_part: str
    sequence: str
    tesla: float | None
    sex: str
    age: int | None
    month: str
    flags: str
    row_mm: float | None
    column_mm: float | None
    orientation: str
    place_mm: float | None
    turn: str
    masks: tuple[Mask, ...] = ()
    boxes: tuple[Box, ...] = ()  # findings, where the site says where they are

    @property
    def names(self) -> tuple[str, str, str, str]:
        """What a row of the label table may call it: the file, its study, its accession number, its patient."""
        return self.key, self.study, self.accession, self.patient


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordingRow:
    """One recording of a wearable sensor. `recording` has all of it but the values (`recordings.of_facts`)."""

    key: str  # a pseudonym, as is the next
    patient: str
    content: str
    recording: Recording

    @property
    def names(self) -> tuple[str, str, str, str]:
        """What a row of the label table may call it."""
        return self.key, "", "", self.patient

    @property
    def words(self) -> tuple[str, ...]:
        """What an observer said of it, wherever that was; else the group that its collection puts it in."""
        notes = self.recording.annotation
        if notes is None:
            return (self.recording.group,) if self.recording.group else ()
        return tuple(word for value, word in self.recording.words.items() if value in notes)


@dataclass(frozen=True, kw_only=True, slots=True)
class TableRow:
    """One usable row of a table: its file, its number in that, and what it says of itself (`tables.RowFacts`)."""

    key: str  # a pseudonym, as are the next two
    patient: str
    file: str
    content: str
    number: int
    target: str
    missing: tuple[str, ...]
    time: float | None = None  # of follow-up
    sex: str = ""
    age: int | None = None

    @property
    def names(self) -> tuple[str, str, str, str]:
        """What a row of the label table may call it: its patient's row, for a file's would be all patients' in it."""
        return self.key, "", "", self.patient

    @property
    def words(self) -> tuple[str, ...]:
        """What it says itself that it shows."""
        return (self.target,) if self.target else ()
