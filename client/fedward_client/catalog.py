"""What a site has: an SQLite index of its images and labels that holds no identifier.

Patients, files and instances are pseudonyms under the site's key; a path is found again only by walking the data folder
and hashing (`paths`). The catalog is derived data: it can be deleted at any time, a scan builds it again.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, and_, func, select, update

from fedward_client import cache_index
from fedward_client.intake import index, scanning
from fedward_client.intake.box_table import Box
from fedward_client.intake.labels import Row, labels_in, not_known_in, said_of
from fedward_client.intake.optout import opted_out
from fedward_client.intake.recording import Recording
from fedward_client.intake.recordings import of_facts
from fedward_client.intake.walk import file_key, walk
from fedward_client.site import Site
from fedward_common.events import Listener, ignore

_IS_DATA = and_(index.files.c.kind.in_(index.DATA), ~index.files.c.duplicate, ~index.files.c.opted_out)
_IS_FILE = index.files.c.parent.is_(None)
_NAMES = [index.files.c[name] for name in ("key", "study", "accession", "patient")]  # of an image: the nearest first


def _is(kind: str) -> ColumnElement[bool]:
    """What a study can take, of one kind."""
    return and_(_IS_DATA, index.files.c.kind == kind)


_IS_IMAGE = _is("image")
_WITHOUT = {"patient": "patient", "accession": "accession number", "study": "study", "file": "file"}


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """A catalog in numbers, for the site's own people: small cells included, so nothing of it leaves as it is.

    `files` is the sum of images, masks, recordings, tables, duplicates, not_dicom, dicomdir, without_pixels, links,
    opted_out and all quarantine, less the rows of tables among duplicates, opted_out and quarantine.
    """

    files: int
    images: int
    masks: int  # files that show where structures are in images
    recordings: int  # of wearable sensors
    recording_rows_left_out: int  # rows of them that could not be used
    tables: int
    table_rows: int  # that can be used
    duplicates: int  # further files of an instance that is there already, further rows of a table with the same
    not_dicom: int
    dicomdir: int
    without_pixels: int  # DICOM objects that are no images: reports, plans, structures
    links: int  # not followed
    opted_out: int  # images, recordings and rows of patients on the opt-out list
    quarantine: dict[str, int]  # files, and rows of tables, by reason
    patients: int
    labelled_patients: int
    patients_without_label: int
    images_without_label: int  # of patients who have a label on another image
    labels: dict[str, int]  # patients with images, by label; by finding, where it is there
    findings_not_known: dict[str, int]  # images with a label, by finding that their row says nothing of
    images_partly_labelled: int  # with some findings known and others not
    labels_without_images: int  # patients, accession numbers, studies or files of the label table
    label_conflicts: int  # labels that annotators do not agree on, and two splits of one patient or study: left out
    label_majorities: int  # labels that annotators do not agree on, settled by more than half of them
    label_rows_left_out: dict[str, int]  # by reason
    unknown_words: dict[str, int]  # rows of the label table, by word that [labels] words says nothing of
    modalities: dict[str, int]  # images, here and below
    manufacturers: dict[str, int]
    devices: dict[str, int]
    transfer_syntaxes: dict[str, int]
    sizes: dict[str, int]  # "rows x columns", and "x frames" where there are several


@dataclass(frozen=True, kw_only=True, slots=True)
class ScanReport:
    """What a scan found (`counts`, of the whole catalog) and did: files read, unchanged, gone; wall time in seconds."""

    counts: Counts
    read: int
    unchanged: int
    removed: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Catalog:
    """A site's catalog at one moment."""

    site: Site
    _connection: Connection

    @classmethod
    @contextmanager
    def open(cls, site: Site) -> Iterator["Catalog"]:
        """The catalog of a site, for a `with`. Raises DataError where none is complete (`is_scanned`) or it is torn."""
        with index.reading(site) as connection:
            yield cls(site, connection)

    def images(self, modality: str | None = None) -> list[ImageRow]:
        """Every image (of one modality), duplicates left out, sorted by key."""
        columns = [index.files.c[one.name] for one in fields(ImageRow) if one.name not in {"masks", "boxes"}]
        query = select(*columns).where(_IS_IMAGE).order_by(index.files.c.key)
        if modality is not None:
            query = query.where(index.files.c.modality == modality)
        masks, boxes = self._masks(), self._boxes()
        return [
            ImageRow(
                **row,
                masks=(*masks[row["key"]], *masks[row["series"]]),
                boxes=boxes.get(row["series"]) or boxes.get(row["key"]) or (),
            )
            for row in self._connection.execute(query).mappings()
        ]

    def _boxes(self) -> dict[str, tuple[Box, ...]]:
        """By the key of an image, or of a series."""
        rows = self._connection.execute(select(index.boxes.c.key, index.boxes.c.boxes))
        twins = self._twins()
        return {
            twins.get(key, key): tuple(Box(kind, tuple(low), tuple(high)) for kind, low, high in json.loads(boxes))
            for key, boxes in rows
        }

    def _masks(self) -> defaultdict[str, list[Mask]]:
        """By the key of an image, or of a series."""
        columns = [index.files.c[name] for name in ("detail", "series", "key", "content")]
        found = defaultdict[str, list[Mask]](list)
        query = select(*columns).where(index.files.c.kind == "mask").order_by(index.files.c.key)
        twins = self._twins()
        for image, series, key, content in self._connection.execute(query):
            found[twins.get(image, image) if image else series].append(Mask(key, content))
        return found

    def _twins(self) -> dict[str, str]:
        """By the key of a further file of an image, the key of the file that is the image."""
        further, kept = index.files.alias(), index.files
        query = select(further.c.key, kept.c.key).where(
            further.c.duplicate, ~kept.c.duplicate, further.c.instance == kept.c.instance, kept.c.kind == "image"
        )
        return {row[0]: row[1] for row in self._connection.execute(query)}

    def recordings(self) -> list[RecordingRow]:
        """Every recording, duplicates left out, sorted by key."""
        columns = [index.files.c[name] for name in ("key", "patient", "content", "detail")]
        rows = self._connection.execute(select(*columns).where(_is("recording")).order_by(index.files.c.key))
        return [
            RecordingRow(key=row.key, patient=row.patient, content=row.content, recording=of_facts(row.detail))
            for row in rows
        ]

    def table_rows(self) -> list[TableRow]:
        """Every usable row of every table, duplicates left out, sorted by key."""
        return list(self._each_table_row())

    def _each_table_row(self) -> Iterator[TableRow]:
        columns = [index.files.c[name] for name in ("key", "patient", "parent", "content", "detail")]
        for row in self._connection.execute(select(*columns).where(_is("row")).order_by(index.files.c.key)):
            said = json.loads(row.detail)
            yield TableRow(
                key=row.key,
                patient=row.patient,
                file=row.parent,
                content=row.content,
                number=said["number"],
                target=said["target"],
                missing=tuple(said["missing"]),
                time=said.get("time"),
                sex=said.get("sex", ""),
                age=said.get("age"),
            )

    def labels(self) -> dict[str, dict[str, str]]:
        """The label table, by pseudonym of what a row is of: the columns of labels, and "split" where there is one."""
        rows = self._connection.execute(select(index.labels.c.key, index.labels.c.row))
        return {key: json.loads(row) for key, row in rows}

    def quarantine(self) -> dict[str, str]:
        """By file pseudonym, why the file was left out."""
        query = select(index.files.c.key, index.files.c.reason).where(index.files.c.kind == "quarantine")
        return {row.key: row.reason for row in self._connection.execute(query.order_by(index.files.c.key))}

    def counts(self) -> Counts:
        """The catalog in numbers."""
        kinds = self._by(index.files.c.kind, _IS_FILE)
        data = index.files.c.kind.in_(index.DATA)
        recordings = self.recordings()
        said = json.loads(index.fact(self._connection, "labels left out") or "{}")
        named = chain(  # one by one: there may be millions
            self._named_images(),
            ((each.names, each.words) for each in recordings),
            ((each.names, each.words) for each in self._each_table_row()),
        )
        labels = _LabelCounts.of(self.site, self.labels(), named)
        return Counts(
            files=sum(kinds.values()),
            images=self._count(_IS_IMAGE),
            masks=kinds.get("mask", 0),
            recordings=len(recordings),
            recording_rows_left_out=sum(each.recording.left_out for each in recordings),
            tables=kinds.get("table", 0),
            table_rows=self._count(_is("row")),
            duplicates=self._count(and_(data, index.files.c.duplicate, ~index.files.c.opted_out)),
            not_dicom=kinds.get("not DICOM", 0),
            dicomdir=kinds.get("DICOMDIR", 0),
            without_pixels=kinds.get("no pixels", 0),
            links=kinds.get("link", 0),
            opted_out=self._count(and_(data, index.files.c.opted_out)),
            quarantine=self._by(index.files.c.reason, index.files.c.kind == "quarantine"),
            patients=len(labels.patients),
            labelled_patients=len(labels.labelled),
            patients_without_label=len(labels.patients - labels.labelled),
            images_without_label=sum(labels.images_without[patient] for patient in labels.labelled),
            labels=dict(Counter(label for _, label in sorted(labels.pairs))),
            findings_not_known=dict(labels.not_known),
            images_partly_labelled=labels.partly,
            labels_without_images=labels.without_images,
            label_conflicts=said.get("conflicts", 0),
            label_majorities=said.get("settled", 0),
            label_rows_left_out=_rows_left_out(said, _WITHOUT[self.site.labels.by]),
            unknown_words=said.get("unknown_words", {}),
            modalities=self._by(index.files.c.modality, _IS_IMAGE),
            manufacturers=self._by(index.files.c.manufacturer, _IS_IMAGE),
            devices=self._by(index.files.c.device, _IS_IMAGE),
            transfer_syntaxes=self._by(index.files.c.transfer_syntax, _IS_IMAGE),
            sizes=self._sizes(),
        )

    def _named_images(self) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
        """The `_NAMES` of each image, and what its masks show or is found in it; once more for the label table."""
        masks, boxes = self._masks(), self._boxes()
        shown = () if self.site.masks is None else tuple(self.site.masks.structures)
        query = select(*_NAMES, index.files.c.series).where(_IS_IMAGE)
        for *names, series in self._connection.execute(query):
            found = boxes.get(series) or boxes.get(names[0]) or ()
            drawn = shown if names[0] in masks or series in masks else ()
            own = (*drawn, *sorted({box.kind for box in found if box.kind}))
            if own:
                yield tuple(names), own
            if not own or self.site.labels.file is not None:
                yield tuple(names), ()

    def _count(self, which: ColumnElement[bool]) -> int:
        return self._connection.execute(select(func.count()).select_from(index.files).where(which)).scalar_one()

    def _by(self, column: ColumnElement[str], which: ColumnElement[bool] | None = None) -> dict[str, int]:
        """Files by the value of a column, most first."""
        query = select(column, func.count()).group_by(column).order_by(func.count().desc(), column)
        rows = self._connection.execute(query if which is None else query.where(which))
        return {row[0]: row[1] for row in rows}

    def _sizes(self) -> dict[str, int]:
        columns = (index.files.c.rows, index.files.c.columns, index.files.c.frames)
        query = (
            select(*columns, func.count()).where(_IS_IMAGE).group_by(*columns).order_by(func.count().desc(), *columns)
        )
        return {
            f"{rows} x {columns}" + (f" x {frames}" if frames > 1 else ""): count
            for rows, columns, frames, count in self._connection.execute(query)
        }


@dataclass(kw_only=True, slots=True)
class _LabelCounts:
    """What images and the label table have in common."""

    patients: set[str] = field(default_factory=set)
    labelled: set[str] = field(default_factory=set)  # patients with a label on any image
    pairs: set[tuple[str, str]] = field(default_factory=set)  # patient and label
    images_without: Counter[str] = field(default_factory=Counter)  # by patient
    not_known: Counter[str] = field(default_factory=Counter)  # images, by finding
    partly: int = 0
    without_images: int = 0

    @classmethod
    def of(
        cls, site: Site, table: Mapping[str, Row], images: Iterable[tuple[tuple[str, ...], tuple[str, ...]]]
    ) -> "_LabelCounts":
        """Of the `_NAMES` of images, and of recordings and rows that say themselves what they show, in words."""
        found, used = cls(), set[str]()
        for names, own in images:
            patient = names[-1]
            used.update(name for name in names if name in table)
            found.patients.add(patient)
            if own:
                found.labelled.add(patient)
                found.pairs.update((patient, site.labels.word(word)) for word in own)
                continue
            row = said_of(table, names)
            if row is None:
                found.images_without[patient] += 1
                continue
            found.labelled.add(patient)
            found.pairs.update((patient, label) for label in labels_in(site, row))
            missing = not_known_in(site, row)
            found.not_known.update(missing)
            found.partly += bool(missing)
        found.without_images = len(table.keys() - used)
        return found


def _rows_left_out(said: Mapping[str, int], key: str) -> dict[str, int]:
    reasons = {"without label": "without_label", f"without {key}": "without_key", "misaligned": "misaligned"}
    return {reason: said[name] for reason, name in reasons.items() if said.get(name)}


def is_scanned(site: Site) -> bool:
    """Whether a whole scan has ended, so that the catalog can be used."""
    return index.is_complete(site)


def scan(site: Site, listener: Listener = ignore) -> ScanReport:
    """Bring the catalog up to date with the data folder and the label table. Reads new and changed files only.

    Raises DataError for a label table or a catalog that cannot be read, SettingsError for the state folder. A file that
    cannot be read raises nothing: it is in `Catalog.quarantine` with its reason. What a cache holds of patients who
    have opted out goes.
    """
    done = scanning.scan(site, listener)
    cache_index.purge(site, opted_out(site))
    with Catalog.open(site) as catalog:
        counts = catalog.counts()
    return ScanReport(
        counts=counts, read=done.read, unchanged=done.unchanged, removed=done.removed, seconds=done.seconds
    )


def quarantine(site: Site, reasons: Mapping[str, str]) -> None:
    """Put images that turned out unreadable when they were decoded into quarantine: file pseudonym, reason in words."""
    if reasons:
        with index.writing(site) as connection:
            for key, reason in reasons.items():
                entry = update(index.files).where(index.files.c.key == key)
                connection.execute(entry.values(kind="quarantine", reason=reason))


def paths(site: Site) -> dict[str, Path]:
    """By file pseudonym, where each file of the data folder is now. For opening; a path is never told."""
    return {file_key(site, entry.path): entry.path for entry in walk(site) if not entry.link}
