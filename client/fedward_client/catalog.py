"""What a site has: an SQLite index of its images and labels that holds no identifier.

Patients, files and instances are pseudonyms under the site's key; a path is found again only by walking the data folder
and hashing (`paths`). The catalog is derived data: it can be deleted at any time, a scan builds it again.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from itertools import chain
from pathlib import Path

from sqlalchemy import ColumnElement, Connection, and_, func, select, update

from fedward_client import cache_index
from fedward_client.catalog_counts import Counts, LabelCounts, rows_left_out
from fedward_client.catalog_rows import ImageRow, Mask, RecordingRow, TableRow
from fedward_client.intake import index, scanning
from fedward_client.intake.box_table import Box
from fedward_client.intake.optout import opted_out
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
        labels = LabelCounts.of(self.site, self.labels(), named)
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
            label_rows_left_out=rows_left_out(said, self.site.labels.by),
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
