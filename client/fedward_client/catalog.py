"""What a site has: an SQLite index of its images and labels that holds no identifier.

Patients, files and instances are pseudonyms under the site's key; a path is found again only by walking the data folder
and hashing (`paths`). The catalog is derived data: it can be deleted at any time, a scan builds it again.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

from sqlalchemy import ColumnElement, Connection, and_, func, select, update

from fedward_client.intake import index, scanning
from fedward_client.intake.walk import file_key, walk
from fedward_client.site import Site
from fedward_common.events import Listener, ignore

_IS_IMAGE = and_(index.files.c.kind == "image", ~index.files.c.duplicate)
_PATIENTS = select(index.files.c.patient).where(_IS_IMAGE).distinct()


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
    labels: dict[str, int]  # patients with images, by label
    labels_without_images: int  # patients of the label table
    label_conflicts: int  # patients of the label table with two different labels or splits, left out
    label_rows_left_out: dict[str, int]  # by reason
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
        columns = [index.files.c[field.name] for field in fields(ImageRow)]
        query = select(*columns).where(_IS_IMAGE).order_by(index.files.c.key)
        if modality is not None:
            query = query.where(index.files.c.modality == modality)
        return [ImageRow(**row) for row in self._connection.execute(query).mappings()]

    def labels(self) -> dict[str, dict[str, str]]:
        """By patient pseudonym, the label column and the column "split" (where there is one), under their names."""
        rows = self._connection.execute(select(index.labels.c.patient, index.labels.c.row))
        return {patient: json.loads(row) for patient, row in rows}

    def quarantine(self) -> dict[str, str]:
        """By file pseudonym, why the file was left out."""
        query = select(index.files.c.key, index.files.c.reason).where(index.files.c.kind == "quarantine")
        return {row.key: row.reason for row in self._connection.execute(query.order_by(index.files.c.key))}

    def counts(self) -> Counts:
        """The catalog in numbers."""
        kinds = self._by(index.files.c.kind)
        images = self._count(_IS_IMAGE)
        patients, table = set(self._connection.execute(_PATIENTS).scalars()), self.labels()
        left_out = json.loads(index.fact(self._connection, "labels left out") or "{}")
        conflicts = left_out.pop("conflicts", 0)
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
            patients=len(patients),
            labelled_patients=len(patients & table.keys()),
            patients_without_label=len(patients - table.keys()),
            labels=dict(Counter(table[patient][self.site.labels.label] for patient in sorted(patients & table.keys()))),
            labels_without_images=len(table.keys() - patients),
            label_conflicts=conflicts,
            label_rows_left_out={reason.replace("_", " "): count for reason, count in left_out.items() if count},
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


def is_scanned(site: Site) -> bool:
    """Whether a whole scan has ended, so that the catalog can be used."""
    return index.is_complete(site)


def scan(site: Site, listener: Listener = ignore) -> ScanReport:
    """Bring the catalog up to date with the data folder and the label table. Reads new and changed files only.

    Raises DataError for a label table or a catalog that cannot be read, SettingsError for the state folder. A file that
    cannot be read raises nothing: it is in `Catalog.quarantine` with its reason.
    """
    done = scanning.scan(site, listener)
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
