"""What a site has: an SQLite index of its images and labels that holds no identifier.

Patients, files and instances are pseudonyms under the site's key; a path is found again only by walking the data folder
and hashing (`paths`). The catalog is derived data: it can be deleted at any time, a scan builds it again.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path

from sqlalchemy import ColumnElement, Connection, and_, func, select, update

from fedward_client import cache_index
from fedward_client.intake import index, scanning
from fedward_client.intake.labels import Row, labels_in, not_known_in, said_of
from fedward_client.intake.optout import opted_out
from fedward_client.intake.walk import file_key, walk
from fedward_client.site import Site
from fedward_common.events import Listener, ignore

_IS_IMAGE = and_(index.files.c.kind == "image", ~index.files.c.duplicate)
_NAMES = [index.files.c[name] for name in ("key", "study", "accession", "patient")]  # of an image: the nearest first
_WITHOUT = {"patient": "patient", "accession": "accession number", "study": "study", "file": "file"}


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

    @property
    def names(self) -> tuple[str, str, str, str]:
        """What a row of the label table may call it: the file, its study, its accession number, its patient."""
        return self.key, self.study, self.accession, self.patient


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """A catalog in numbers, for the site's own people: small cells included, so nothing of it leaves as it is.

    `files` is the sum of images, duplicates, not_dicom, dicomdir, without_pixels, links, opted_out and all quarantine.
    """

    files: int
    images: int
    duplicates: int  # further files of an instance that is an image already
    not_dicom: int
    dicomdir: int
    without_pixels: int  # DICOM objects that are no images: reports, plans, structures
    links: int  # not followed
    opted_out: int  # images of patients on the opt-out list
    quarantine: dict[str, int]  # files by reason
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
        columns = [index.files.c[one.name] for one in fields(ImageRow)]
        query = select(*columns).where(_IS_IMAGE).order_by(index.files.c.key)
        if modality is not None:
            query = query.where(index.files.c.modality == modality)
        return [ImageRow(**row) for row in self._connection.execute(query).mappings()]

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
        kinds = self._by(index.files.c.kind)
        images = self._count(_IS_IMAGE)
        said = json.loads(index.fact(self._connection, "labels left out") or "{}")
        labels = _LabelCounts.of(self.site, self.labels(), self._connection.execute(select(*_NAMES).where(_IS_IMAGE)))
        return Counts(
            files=sum(kinds.values()),
            images=images,
            duplicates=kinds.get("image", 0) - images,
            not_dicom=kinds.get("not DICOM", 0),
            dicomdir=kinds.get("DICOMDIR", 0),
            without_pixels=kinds.get("no pixels", 0),
            links=kinds.get("link", 0),
            opted_out=kinds.get(index.OPTED_OUT, 0),
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
    def of(cls, site: Site, table: Mapping[str, Row], images: Iterable[Sequence[str]]) -> "_LabelCounts":
        """Of the `_NAMES` of images."""
        found, used = cls(), set[str]()
        for image in images:
            names, patient = tuple(image), image[-1]
            used.update(names)
            found.patients.add(patient)
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
