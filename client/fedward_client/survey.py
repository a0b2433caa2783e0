"""What a site says of a study's patients before training: counts, histograms, sums for a scale. No patient's value.

Beside the answer stands whose it is of: each patient's record, a keyed digest of all that the catalog and the label
table say of the patient, whichever part a study looks at. `difference` holds it against earlier answers.
"""

import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from statistics import median_low
from typing import NamedTuple

import numpy as np

from fedward_client.cache import opened
from fedward_client.catalog import Catalog, ImageRow, paths
from fedward_client.choosing import chosen
from fedward_client.cohort import CohortItem, freeze, from_catalog
from fedward_client.harmonize import recipe
from fedward_client.intake.labels import said_of
from fedward_client.intake.optout import opted_out
from fedward_client.site import Site
from fedward_client.volume import Volume
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
from fedward_common.events import Event, Listener
from fedward_common.landmarks import LandmarkSums, site_sums
from fedward_common.study import StudySpec

_NONE = "none of the labels"  # of a patient whose images have none of several
Records = Mapping[str, str]  # by patient pseudonym, a keyed digest of all that the site has of the patient


class Surveyed(NamedTuple):
    """A site's answer, and the records of the patients whom it is of."""

    statistics: Statistics
    records: Records


def survey(site: Site, study: StudySpec, run: str, wanted: Wanted, listener: Listener) -> Surveyed:
    """The statistics of a study's patients at a site: of all of them, or sums for a scale over those who train.

    Scans first where that was never done. "catalog" decodes what no check or run has decoded yet, for near-duplicates.
    Raises DataError where fewer patients than the site's small-cell limit are there, and what `freeze` raises where a
    scale is measured.
    """
    if wanted == "landmarks":
        return _measured(site, study, run, listener)
    started = time.perf_counter()
    items = from_catalog(site, study, listener).items
    with Catalog.open(site) as catalog:
        images = catalog.images(None)
        told = _records(site, images, catalog.labels())
    out = opted_out(site)
    taken = chosen([row for row in images if row.patient not in out], study.cohort, Counter())
    patients = {patient: list(own) for patient, own in _by_patient(taken)}
    labels = _labels([item for item in items if item.patient in patients], study.cohort.labels)
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
        images=sum(row.patient in labels for row in taken),
        unusable=told_alone(len(patients.keys() - labels.keys()), min_cell=site.min_cell),
        tables={each: _table(each, patients, labels, study, site.min_cell) for each in VARIABLES},
        grey_values=_grey_values(site, study, items, listener) if wanted == "pixels" else None,
        seconds=time.perf_counter() - started,
    )
    return Surveyed(statistics, {patient: told[patient] for patient in patients})


def _labels(items: Iterable[CohortItem], names: Sequence[str]) -> dict[str, str]:
    """Each patient's one cell: their label, or all those that their images have."""
    found: dict[str, set[int]] = {}
    for item in items:
        found.setdefault(item.patient, set()).update(item.labels)
    return {patient: " and ".join(names[index] for index in sorted(own)) or _NONE for patient, own in found.items()}


def _by_patient(rows: Iterable[ImageRow]) -> Iterator[tuple[str, Iterator[ImageRow]]]:
    return groupby(sorted(rows, key=lambda row: (row.patient, row.key)), key=lambda row: row.patient)


def _records(site: Site, images: Iterable[ImageRow], table: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    return {
        patient: site.pseudonym("statistics", json.dumps([[row.content, said_of(table, row.names)] for row in rows]))
        for patient, rows in _by_patient(images)
    }


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
    words = Counter(word for row in rows if (word := str(getattr(row, variable))))
    return min(words, key=lambda word: (-words[word], word), default=MISSING)


def _number(variable: Variable, row: ImageRow) -> float | None:
    found: float | None = row.row_mm if variable == "spacing_mm" else getattr(row, variable)
    return found


# Pixels --------------------------------------------------------------------------------------------------------------


def _read(
    site: Site, study: StudySpec, items: Sequence[CohortItem], listener: Listener
) -> Iterator[tuple[CohortItem, Volume]]:
    """The images that can be read, patient by patient; what cannot is left to the scan and to training to tell of."""
    where, how = paths(site), recipe(study.input)
    for done, item in enumerate(sorted(items, key=lambda item: (item.patient, item.image))):
        listener(Event(site=site.name, stage="measure", done=done, total=len(items)))
        try:
            volume = opened(item, where, how)
        except UnreadableFile:
            continue
        if volume is not None:
            yield item, volume
    listener(Event(site=site.name, stage="measure", done=len(items), total=len(items)))


def _grey_values(site: Site, study: StudySpec, items: Sequence[CohortItem], listener: Listener) -> GreyValues | None:
    """The shares of pixels in each bin, over patients of each one's mean over images; one is held at a time."""
    sums, touched, patients = np.zeros(GREY_BINS, np.int64), np.zeros(GREY_BINS, np.int64), 0
    how = recipe(study.input)
    for _, own in groupby(_read(site, study, items, listener), key=lambda read: read[0].patient):
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


def _measured(site: Site, study: StudySpec, run: str, listener: Listener) -> Surveyed:
    """Sums of landmarks over the training patients of the run's frozen cohort."""
    if study.only_evaluates(site.name):
        raise DataError(f"{site.name} only evaluates in this study: the scale is measured where training is")
    started = time.perf_counter()
    items = [item for item in freeze(site, study, run, listener).items if item.side == "train"]
    sums, measured = _sums(site, study, items, listener)
    with Catalog.open(site) as catalog:
        told = _records(site, catalog.images(None), catalog.labels())
    statistics = Statistics(
        site=site.name,
        fedward=__version__,
        wanted="landmarks",
        patients=sums.patients,
        images=sum(measured.values()),
        unusable=None,
        tables={},
        landmarks=sums,
        seconds=time.perf_counter() - started,
    )
    return Surveyed(statistics, {patient: told.get(patient, "") for patient in measured})


def _sums(
    site: Site, study: StudySpec, items: Sequence[CohortItem], listener: Listener
) -> tuple[LandmarkSums, dict[str, int]]:
    """The sums, and how many images of each patient are in them."""
    how, found = recipe(study.input), []
    images: dict[str, int] = defaultdict(int)
    for item, volume in _read(site, study, items, listener):
        try:
            found.append((how.measure(volume), item.patient))
        except UnreadableFile:  # or one that does not serve this study
            continue
        images[item.patient] += 1
    sums = site_sums([landmarks for landmarks, _ in found], [patient for _, patient in found], min_cell=site.min_cell)
    return sums, dict(images)
