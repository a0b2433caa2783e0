"""What a site says of a study's patients before training: counts, histograms, sums for a scale. No patient's value.

Beside each answer stand the records of the patients whom it is of (`measuring.records_of`).
"""

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from statistics import median_low

import numpy as np

from fedward_client.catalog import Catalog
from fedward_client.catalog_rows import ImageRow
from fedward_client.choosing import chosen
from fedward_client.cohort import CohortItem
from fedward_client.cohort_choice import offered
from fedward_client.freezing import from_catalog
from fedward_client.grouping import most_common
from fedward_client.harmonize import recipe
from fedward_client.intake.optout import opted_out
from fedward_client.measuring import Surveyed, measured, records_of, table_rows, volumes
from fedward_client.site import Site
from fedward_common import __version__
from fedward_common.cohort_statistics import (
    EDGES,
    GREY_BINS,
    MISSING,
    SEXES,
    UNIT,
    VARIABLES,
    GreyValues,
    Statistics,
    Variable,
    Wanted,
    bins,
    cell_of,
    grey_shares,
    grouped,
    table,
    told_alone,
)
from fedward_common.errors import DataError, UnreadableFile
from fedward_common.events import Listener
from fedward_common.feature_scale import by_patient
from fedward_common.feature_statistics import FeatureCells, table_cells
from fedward_common.study import Input, StudySpec, TableInput

_NONE = "none of the labels"  # of a patient whose images have none of several


def survey(site: Site, study: StudySpec, run: str, wanted: Wanted, listener: Listener) -> Surveyed:
    """The statistics of a study's patients at a site: of all of them, or sums for a scale over those who train.

    Scans first where that was never done. "catalog" decodes what no check or run has decoded yet, for near-duplicates.
    Raises DataError where fewer patients than the site's small-cell limit are there, and what `freeze` raises where a
    scale is measured.
    """
    if wanted == "scale":
        return measured(site, study, run, listener)
    if wanted == "pixels" and not isinstance(study.input, Input):
        raise DataError(f"{site.name}: the study takes no images, so there are no grey values to tell of")
    started = time.perf_counter()
    items: Sequence[CohortItem] = from_catalog(site, study, listener).items
    out = opted_out(site)
    with Catalog.open(site) as catalog:
        told = records_of(catalog)
        there = [row for row in offered(catalog, study) if row.patient not in out]
    taken = chosen([row for row in there if isinstance(row, ImageRow)], study.cohort, Counter())
    patients: dict[str, list[ImageRow]] = {row.patient: [] for row in there if not isinstance(row, ImageRow)}
    for row in sorted(taken, key=lambda row: row.key):
        patients.setdefault(row.patient, []).append(row)
    items = [item for item in items if item.patient in patients]
    labels = _labels(items, study.cohort.labels)
    if len(labels) < site.min_cell:
        raise DataError(
            f"{site.name} has fewer than {site.min_cell} patients that this study takes, and statistics of so few stay "
            "home ([privacy] min_cell)"
        )
    statistics = Statistics(
        site=site.name,
        fedward=__version__,
        wanted=wanted,
        patients=len(labels),
        images=sum(row.patient in labels for row in taken or there),
        unusable=told_alone(len(patients.keys() - labels.keys()), min_cell=site.min_cell),
        tables={each: _table(each, patients, labels, study, site.min_cell) for each in VARIABLES},
        grey_values=_grey_values(site, study, items, listener) if wanted == "pixels" else None,
        feature_tables=_features(site, study.input, items) if isinstance(study.input, TableInput) else {},
        seconds=time.perf_counter() - started,
    )
    return Surveyed(statistics, {patient: told[patient] for patient in patients})


def _labels(items: Iterable[CohortItem], names: Sequence[str]) -> dict[str, str]:
    """Each patient's one cell: their label, or all those that their images have."""
    found: dict[str, set[int]] = {}
    for item in items:
        found.setdefault(item.patient, set()).update(item.labels)
    return {patient: " and ".join(names[index] for index in sorted(own)) or _NONE for patient, own in found.items()}


# Tables --------------------------------------------------------------------------------------------------------------


def _table(
    variable: Variable,
    patients: Mapping[str, Sequence[ImageRow]],
    labels: Mapping[str, str],
    study: StudySpec,
    min_cell: int,
) -> dict[str, int | None]:
    if variable == "label":
        return table(Counter(labels.values()), study.cohort.labels, min_cell=min_cell)
    counts = Counter(_cell(variable, patients[patient]) for patient in labels)
    foreseen = bins(variable) if variable in EDGES else SEXES if variable == "sex" else ()
    return table(counts, foreseen, min_cell=min_cell)


def _cell(variable: Variable, rows: Sequence[ImageRow]) -> str:
    """A patient's one cell: of the word that most images have, of the median number; what is not known is left out."""
    if variable in EDGES:
        numbers = [value for row in rows if (value := _number(variable, row)) is not None]
        return cell_of(variable, median_low(numbers) if numbers else None)
    return most_common(word for row in rows if (word := str(getattr(row, variable)))) or MISSING


def _number(variable: Variable, row: ImageRow) -> float | None:
    found: float | None = row.row_mm if variable == "spacing_mm" else getattr(row, variable)
    return found


# Pixels --------------------------------------------------------------------------------------------------------------


def _grey_values(site: Site, study: StudySpec, items: Sequence[CohortItem], listener: Listener) -> GreyValues | None:
    """The shares of pixels in each bin, over patients of each one's mean over images; one is held at a time."""
    sums, touched, patients = np.zeros(GREY_BINS, np.int64), np.zeros(GREY_BINS, np.int64), 0
    assert isinstance(study.input, Input)
    how = recipe(study.input)
    for _, own in groupby(volumes(site, study.input, items, listener), key=lambda read: read[0].patient):
        shares = []
        for _, volume in own:
            try:
                shares.append(grey_shares(how.unscaled(volume)))
            except UnreadableFile:  # or one that does not serve this study
                continue
        if shares:
            mean = np.mean(shares, axis=0)
            sums += np.rint(mean * UNIT).astype(np.int64)
            touched += mean > 0
            patients += 1
    return grouped(sums, touched, patients=patients, min_cell=site.min_cell)


# Features ------------------------------------------------------------------------------------------------------------


def _features(site: Site, section: TableInput, items: Sequence[CohortItem]) -> dict[str, FeatureCells]:
    """What is told of each feature, of a patient the mean of the patient's rows."""
    unknown = np.full(section.channels, np.nan)
    values = [(patient, unknown) for patient in sorted({item.patient for item in items})]  # whose rows went counts too
    values += [(item.patient, row) for item, row in table_rows(site, section, items)]
    columns = by_patient([row for _, row in values], [patient for patient, _ in values]).T
    return table_cells(dict(zip(section.features, columns, strict=True)), min_cell=site.min_cell)
