"""The report on a site's data as one offline page: it loads nothing, and no identifier of a patient is on it.

It shows small pictures of patients, so it stays at the site; its first line says so, and only its owner can read it.
"""

from collections.abc import Collection, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from fedward_client.catalog_rows import ImageRow
from fedward_client.report import charts, quality
from fedward_client.report.charts import Chart
from fedward_client.report.contract import LOW, WRONG_PART
from fedward_client.report.sample import series_of
from fedward_client.report.survey import STUDY_FLAGS, Survey
from fedward_common.disk import write_durably
from fedward_common.errors import DataError
from fedward_common.pages import render as render_page

STAYS = (
    "This page shows pictures of patients. It stays at this hospital: do not send it, and do not put it where others "
    "can read it."
)
NO_LABEL = "(no label)"
_MEANING = {
    quality.BLANK: f"at least {100 * quality.BLANK_SHARE:g} % of the pixels have nearly one value",
    quality.SATURATED: f"over {100 * quality.SATURATED_SHARE:g} % of what is not background has the greatest value",
    quality.TEXT: "the header says so, or lines of text were found in a picture of a screen or a camera; a patient’s "
    "name may be among them",
    WRONG_PART: "the header names another body part than the study’s [cohort]",
    LOW: "rows or columns are fewer or coarser than the study’s [input] needs",
}
_PACKAGES = ("numpy", "pillow", "pydicom", "scipy")


class Tile(NamedTuple):
    """A number to be read from across the room."""

    title: str
    value: int
    note: str


class Flag(NamedTuple):
    """One quality flag: how many images and patients have it, and their share of what was looked at, in percent."""

    name: str
    meaning: str
    images: int
    patients: int
    share: float


class Picture(NamedTuple):
    """A thumbnail, PNG in base64, and what kind of image it is."""

    png: str
    caption: str


def write(path: Path, found: Survey) -> None:
    """Write the page to a file that its owner alone can read. Raises DataError where it cannot be written."""
    try:
        write_durably(path, render(found).encode())
    except OSError as error:
        raise DataError(f"the report cannot be written: {error.strerror}; give another file with --out") from None


def render(found: Survey) -> str:
    """The page. The same data give the same bytes."""
    series = series_of(found.images)
    values: dict[str, Any] = {
        "site": found.site,
        "stays": STAYS,
        "contract": found.contract,
        "tiles": _tiles(found, len(series)),
        "flags": list(_flags(found)),
        "not_judged": [name for name in STUDY_FLAGS if name not in found.judges],
        "not_seen": found.inspection.not_seen,
        "groups": [
            ("Patients", _only_full(_of_patients(found))),
            ("Images, by series", _only_full(_of_series(series))),
        ],
        "left_out": [(what, count) for what, count in _left_out(found) if count],
        "pictures": [Picture(png, _caption(row, found.flags[row.key])) for row, png in found.pictures],
        "versions": ", ".join(f"{name} {version(name)}" for name in ("fedward", *_PACKAGES)),
    }
    return render_page("fedward_client.report", "site.html", values)


def _tiles(found: Survey, series: int) -> list[Tile]:
    images, counts = found.images, found.counts
    others = [
        Tile("Recordings", counts.recordings, "of wearable sensors"),
        Tile("Rows", counts.table_rows, f"of tables, of which there are {counts.tables}"),
    ]
    shown = [tile for tile in others if tile.value]
    patients = counts.patients if shown else len({row.patient for row in images})
    return [
        Tile("Patients", patients, f"{counts.labelled_patients} of them with a label"),
        *(_tiles_of_images(found, series) if images or not shown else ()),
        *shown,
        Tile("Files", counts.files, f"{sum(counts.quarantine.values())} in quarantine"),
    ]


def _tiles_of_images(found: Survey, series: int) -> list[Tile]:
    images = found.images
    studies = len({(row.patient, row.study) for row in images if row.study})
    nameless = sum(not row.study for row in images)
    return [
        Tile("Studies", studies, f"{nameless} images name none" if nameless else ""),
        Tile("Series", series, "an image that names none is one"),
        Tile("Images", len(images), "files that can be used"),
    ]


def _flags(found: Survey) -> Iterator[Flag]:
    for name, count in found.judged().items():
        patients = len({row.patient for row in found.flagged(name)})
        share = 100 * count / len(found.images) if found.images else 0.0
        yield Flag(name, _MEANING[name], count, patients, share)


def _of_patients(found: Survey) -> Iterator[Chart]:
    unlabelled = found.counts.patients_without_label
    yield charts.counted("Label", "patients", {**found.counts.labels, **({NO_LABEL: unlabelled} if unlabelled else {})})
    yield charts.kinds("Sex", "patients", (sex for _, sex in sorted({(row.patient, row.sex) for row in found.images})))
    ages: dict[str, int] = {}
    for row in found.images:
        if row.age is not None:
            ages[row.patient] = min(row.age, ages.get(row.patient, row.age))
    yield charts.numbers("Age", "patients, in years at their first study; 90 is that and more", list(ages.values()))
    years = sorted({(row.patient, row.study, int(row.month[:4])) for row in found.images if row.month})
    yield charts.numbers("Year", "studies", [year for *_, year in years])


def _of_series(series: list[list[ImageRow]]) -> Iterator[Chart]:
    one = [rows[len(rows) // 2] for rows in series]
    yield charts.kinds("Modality", "series", (row.modality for row in one))
    yield charts.kinds("Maker", "series", (row.manufacturer for row in one))
    yield charts.kinds("Model", "series", (row.device for row in one))
    yield charts.kinds("Body part", "series", (row.body_part for row in one))
    if any(row.modality == "MR" or row.sequence for row in one):
        yield charts.kinds(
            "MR sequence", "series", (row.sequence for row in one if row.modality == "MR" or row.sequence)
        )
    yield charts.numbers("Field strength", "series, in tesla", [row.tesla for row in one if row.tesla is not None])
    yield charts.kinds("Rows and columns", "series, in pixels", (f"{row.rows} x {row.columns}" for row in one))
    yield charts.numbers("Spacing", "series, in mm from row to row", [round(r.row_mm, 3) for r in one if r.row_mm])
    slices = [sum(row.frames for row in rows) for rows in series]
    if max(slices, default=1) > 1:
        yield charts.numbers("Slices", "series, by how many slices or frames they have", slices)
    yield charts.kinds("Coding", "series, by transfer syntax or format", (row.transfer_syntax for row in one))


def _only_full(found: Iterator[Chart]) -> list[Chart]:
    return [chart for chart in found if chart.bars]


def _left_out(found: Survey) -> Iterator[tuple[str, int]]:
    counts = found.counts
    yield from ((f"In quarantine: {reason}", count) for reason, count in counts.quarantine.items())
    yield "Further files of an image that is there already, and further equal rows of a table", counts.duplicates
    yield "Rows of recordings that could not be used", counts.recording_rows_left_out
    yield "Files that are not DICOM", counts.not_dicom
    yield "Directories of DICOM media (DICOMDIR)", counts.dicomdir
    yield "DICOM objects without pixels: reports, plans, structures", counts.without_pixels
    yield "Links, which are not followed", counts.links
    yield "Images of patients who have opted out", counts.opted_out + counts.images - len(found.images)
    yield "Patients with images and no label", counts.patients_without_label
    yield "Patients of the label table without images", counts.labels_without_images
    yield "Patients of the label table with labels or splits that differ", counts.label_conflicts
    yield from ((f"Rows of the label table: {why}", count) for why, count in counts.label_rows_left_out.items())


def _caption(row: ImageRow, flags: Collection[str]) -> str:
    parts = (row.modality, row.body_part, row.sequence, row.manufacturer, row.device, f"{row.rows} x {row.columns}")
    return "; ".join([", ".join(filter(None, parts)), *sorted(flags)])
