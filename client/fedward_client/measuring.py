"""Sums over a site's training patients for the one scale of a run, and whose they are.

Beside an answer stands whose it is of: each patient's record, a keyed digest of all that the catalog and the label
table say of the patient, whichever part a study looks at. `difference` holds it against earlier answers.
"""

import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fedward_client.catalog import Catalog, paths
from fedward_client.cohort import CohortItem
from fedward_client.cohort_choice import Offered
from fedward_client.freezing import freeze
from fedward_client.harmonize import recipe
from fedward_client.harmonize.table import TableRecipe
from fedward_client.intake.labels import said_of
from fedward_client.opening import Images, Rows
from fedward_client.site import Site
from fedward_client.volume import Volume
from fedward_common import __version__, feature_scale, landmarks
from fedward_common.cohort_statistics import Statistics
from fedward_common.errors import DataError, UnreadableFile
from fedward_common.events import Event, Listener
from fedward_common.study import Input, StudySpec, TableInput

Records = Mapping[str, str]  # by patient pseudonym, a keyed digest of all that the site has of the patient


class Surveyed(NamedTuple):
    """A site's answer, and the records of the patients whom it is of."""

    statistics: Statistics
    records: Records


def measured(site: Site, study: StudySpec, run: str, listener: Listener) -> Surveyed:
    """Sums for a scale over the patients of the run's frozen cohort who train, each with all that is known of them.

    Where devices are compared (ComBat), a site that only evaluates is measured too, over all its patients. Raises
    DataError where sums may not leave, and what `freeze` raises.
    """
    started = time.perf_counter()
    if not study.measures(site.name):
        raise DataError(f"{site.name} only evaluates in this study: the scale is measured where training is")
    everybody = study.only_evaluates(site.name)
    items = [item for item in freeze(site, study, run, listener).items if everybody or item.side == "train"]
    sums, examples = _sums(site, study, items, listener)
    with Catalog.open(site) as catalog:
        told = records_of(catalog)
    statistics = Statistics(
        site=site.name,
        fedward=__version__,
        wanted="scale",
        patients=len(examples),
        images=sum(examples.values()),
        unusable=None,
        tables={},
        seconds=time.perf_counter() - started,
        **sums,
    )
    return Surveyed(statistics, {patient: told.get(patient, "") for patient in examples})


def records_of(catalog: Catalog) -> dict[str, str]:
    """By patient, a keyed digest of all that the catalog and the label table say of the patient."""
    table = catalog.labels()
    everything: list[Offered] = [*catalog.images(None), *catalog.recordings(), *catalog.table_rows()]
    rows = sorted(everything, key=lambda row: (row.patient, row.key))
    return {
        patient: catalog.site.pseudonym(
            "statistics", json.dumps([[row.content, said_of(table, row.names)] for row in own])
        )
        for patient, own in groupby(rows, key=lambda row: row.patient)
    }


def volumes(
    site: Site, section: Input, items: Sequence[CohortItem], listener: Listener
) -> Iterator[tuple[CohortItem, Volume]]:
    """The images that can be read, patient by patient; what cannot is left to the scan and to training to tell of."""
    opening = Images(recipe(section), paths(site))
    for done, item in enumerate(sorted(items, key=lambda item: (item.patient, item.image))):
        listener(Event(site=site.name, stage="measure", done=done, total=len(items)))
        try:
            volume = opening.volume(item)
        except UnreadableFile:
            continue
        if volume is not None:
            yield item, volume
    listener(Event(site=site.name, stage="measure", done=len(items), total=len(items)))


def table_rows(
    site: Site, section: TableInput, items: Sequence[CohortItem]
) -> Iterator[tuple[CohortItem, npt.NDArray[np.float32]]]:
    """The rows of tables [features] that can be read as they were, NaN where a value is missing."""
    opening = Rows(site, TableRecipe(section, site.name), paths(site))
    for item in items:
        try:
            row = opening.values(item)
        except UnreadableFile:
            continue
        if row is not None:
            yield item, row


def _sums(
    site: Site, study: StudySpec, items: Sequence[CohortItem], listener: Listener
) -> tuple[dict[str, Any], dict[str, int]]:
    """The sums, under their name in an answer, and how many images or rows of each patient are in them."""
    match study.input:
        case Input() as images:
            return _of_images(site, images, items, listener)
        case TableInput() as table:
            return _of_rows(site, table, items)
        case _:
            raise DataError(f"{site.name}: this kind of study has no scale that sites measure")


def _of_images(
    site: Site, section: Input, items: Sequence[CohortItem], listener: Listener
) -> tuple[dict[str, Any], dict[str, int]]:
    how, found = recipe(section), []
    images: dict[str, int] = defaultdict(int)
    for item, volume in volumes(site, section, items, listener):
        try:
            found.append((how.measure(volume), item.patient))
        except UnreadableFile:  # or one that does not serve this study
            continue
        images[item.patient] += 1
    marks, patients = [each for each, _ in found], [patient for _, patient in found]
    return {"landmarks": landmarks.site_sums(marks, patients, min_cell=site.min_cell)}, dict(images)


def _of_rows(site: Site, section: TableInput, items: Sequence[CohortItem]) -> tuple[dict[str, Any], dict[str, int]]:
    found = list(table_rows(site, section, items))
    patients = [item.patient for item, _ in found]
    table = np.array([row for _, row in found]).reshape(len(found), section.channels)
    return {"features": feature_scale.site_sums(table, patients, section, min_cell=site.min_cell)}, Counter(patients)
