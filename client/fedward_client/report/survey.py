"""Everything that the report on a site's data says, as values: `survey` reads, `page.render` draws."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedward_client.catalog import Catalog, paths
from fedward_client.catalog_counts import Counts
from fedward_client.catalog_rows import ImageRow
from fedward_client.dry_run import resolved
from fedward_client.intake.optout import opted_out
from fedward_client.intake.reading import Readers
from fedward_client.intake.walk import Entry
from fedward_client.report import quality, sample
from fedward_client.report.contract import LOW, WRONG_PART, Contract, contract, flags_of
from fedward_client.report.inspection import Inspection, inspect
from fedward_client.site import Site
from fedward_common.events import Listener, ignore
from fedward_common.study import StudySpec

PIXEL_FLAGS = (quality.BLANK, quality.SATURATED, quality.TEXT)
STUDY_FLAGS = (WRONG_PART, LOW)  # judged against a study, the first one where it names a body part


@dataclass(frozen=True, kw_only=True, slots=True)
class Survey:
    """What a site has. Patients are pseudonyms; nothing of it leaves, for small cells are included."""

    site: str
    counts: Counts
    images: tuple[ImageRow, ...]  # that can be read, of patients who take part
    flags: Mapping[str, frozenset[str]]  # by image
    judges: tuple[str, ...]  # the flags that were looked for
    inspection: Inspection
    contract: Contract | None  # None without a study
    pictures: tuple[tuple[ImageRow, str], ...]  # images and their thumbnails: PNG, base64

    def flagged(self, flag: str) -> list[ImageRow]:
        """The images that have a flag."""
        return [row for row in self.images if flag in self.flags[row.key]]

    def judged(self) -> dict[str, int]:
        """How many images have each flag, of those that were judged."""
        return {name: len(self.flagged(name)) for name in self.judges}


def survey(site: Site, study: StudySpec | None, listener: Listener = ignore) -> Survey:
    """Look at a site's images, and at what of a study's data contract they meet.

    Raises DataError where there is no catalog yet, or the opt-out list cannot be read.
    """
    inspection = inspect(site, _images(site), listener)
    images = _images(site)  # less those that turned out unreadable
    flags = {row.key: inspection.flags.get(row.key, frozenset()) for row in images}
    if study is not None:
        flags = {row.key: flags[row.key].union(flags_of(row, study)) for row in images}
    with Catalog.open(site) as catalog:
        counts = catalog.counts()
    return Survey(
        site=site.name,
        counts=counts,
        images=tuple(images),
        flags=flags,
        judges=_judges(study),
        inspection=inspection,
        contract=None if study is None else contract(site, study, images, inspection.flags, resolved(site, study)),
        pictures=_pictures(site, [row for row in images if row.key in inspection.flags], flags),
    )


def _judges(study: StudySpec | None) -> tuple[str, ...]:
    if study is None:
        return PIXEL_FLAGS
    return (*PIXEL_FLAGS, *(flag for flag in STUDY_FLAGS if flag != WRONG_PART or study.cohort.body_part))


def _images(site: Site) -> list[ImageRow]:
    out = opted_out(site)  # the list may be younger than the catalog
    with Catalog.open(site) as catalog:
        return [row for row in catalog.images() if row.patient not in out]


def _pictures(
    site: Site, images: Sequence[ImageRow], flags: Mapping[str, frozenset[str]]
) -> tuple[tuple[ImageRow, str], ...]:
    """Thumbnails of a sample; of images that text is burned into none, for it may be a patient's name."""
    clean = [row for row in images if quality.TEXT not in flags[row.key]]
    rows = {row.key: row for row in sample.chosen(sample.series_of(clean), flags)}
    where = paths(site) if rows else {}
    with Readers(site, quality.thumbnail) as readers:
        answers = readers.rows({key: ("", Entry(path=where[key])) for key in rows if key in where})
    pngs = {(answer["key"], answer["content"]): answer["png"] for answer in answers}
    # a file that has changed since it was looked at is not shown
    return tuple((row, pngs[key, row.content]) for key, row in rows.items() if (key, row.content) in pngs)
