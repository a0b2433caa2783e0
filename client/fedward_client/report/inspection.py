"""Looks at the pixels of a site's images, once each: what was found is kept in the catalog, by a digest of the file.

Images are read on as many processors as the site gives, in batches that are one transaction each, so that an inspection
that was interrupted goes on where it was.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import delete, insert, select

from fedward_client.catalog import paths, quarantine
from fedward_client.catalog_rows import ImageRow
from fedward_client.intake import index
from fedward_client.intake.reading import FEW, Readers, Row
from fedward_client.intake.walk import Entry
from fedward_client.report import quality
from fedward_client.site import Site
from fedward_common.events import Event, Listener

BATCH = FEW  # the fewest for which several processes are started


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspection:
    """What the pixels of a site's images say."""

    flags: Mapping[str, frozenset[str]]  # by the key of each image that could be read
    not_seen: int  # images whose file is gone or changed since the scan, or cannot be opened now


def inspect(site: Site, images: Sequence[ImageRow], listener: Listener) -> Inspection:
    """Look at the pixels of images that were not looked at before. Raises DataError where the catalog cannot be used.

    One that does not decode goes into quarantine, and the rest goes on.
    """
    known = _known(site)
    unknown = {row.key: row for row in images if row.content not in known}
    seen, quarantined = len(images) - len(unknown), 0
    where = paths(site) if unknown else {}
    there = [(key, ("", Entry(path=where[key]))) for key in sorted(unknown) if key in where]
    with Readers(site, quality.look) as readers:
        for start in range(0, len(there), BATCH):
            listener(Event(site=site.name, stage="inspect", done=seen, total=len(images)))
            batch = dict(there[start : start + BATCH])
            quarantined += _keep(site, known, unknown, readers.rows(batch))
            seen += len(batch)
    listener(Event(site=site.name, stage="inspect", done=len(images), total=len(images)))
    flags = {row.key: known[row.content] for row in images if row.content in known}
    return Inspection(flags=flags, not_seen=len(images) - len(flags) - quarantined)


def _known(site: Site) -> dict[str, frozenset[str]]:
    """By the digest of a file, the flags of images that were looked at."""
    with index.reading(site) as connection:
        rows = connection.execute(
            select(index.quality.c.content, index.quality.c.flags).where(index.quality.c.version == quality.VERSION)
        )
        return {row.content: _split(row.flags) for row in rows}


def _split(flags: str) -> frozenset[str]:
    return frozenset(filter(None, flags.split(", ")))


def _keep(site: Site, known: dict[str, frozenset[str]], asked: Mapping[str, ImageRow], answers: Collection[Row]) -> int:
    """Write down what a batch was found to be; the number of images that went into quarantine."""
    looked = {row["content"]: row["flags"] for row in answers if row.get("content") == asked[row["key"]].content}
    reasons = {row["key"]: row["reason"] for row in answers if "reason" in row and not row["passing"]}
    with index.writing(site) as connection:
        connection.execute(delete(index.quality).where(index.quality.c.content.in_(looked)))
        if looked:
            values = [{"content": key, "flags": flags, "version": quality.VERSION} for key, flags in looked.items()]
            connection.execute(insert(index.quality), values)
    quarantine(site, reasons)
    known |= {content: _split(flags) for content, flags in looked.items()}
    return len(reasons)
