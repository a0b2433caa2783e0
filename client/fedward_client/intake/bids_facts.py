"""What a BIDS folder says of its images beside them, put into the catalog: whose, how old, by which scanner.

A NIfTI file's header says none of that. What a table does not say, n/a, stays missing.
"""

import logging
from collections import Counter
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, and_, bindparam, select, update

from fedward_client.intake import describe, index
from fedward_client.intake.bids import MISPLACED, BidsFolder, BidsImage
from fedward_client.intake.bids_names import PARTICIPANTS
from fedward_client.intake.walk import file_key, folder_key
from fedward_client.site import SETTINGS, Site

MOST_TOLD = 5  # kinds of what is left out, in the log
_MODALITIES: Mapping[str, str] = {
    **dict.fromkeys(("anat", "dwi", "fmap", "func", "mrs", "perf"), "MR"),
    "pet": "PT",
}

log = logging.getLogger(__name__)


def apply(site: Site, connection: Connection, found: BidsFolder) -> None:
    """Put what is said of images into their rows. A NIfTI file that is no raw image of the standard is quarantined."""
    images = {file_key(site, image.path): image for image in found.images}
    _quarantine(site, connection, found, images)
    if images:
        values = [{"of": key, **_facts(site, found, image)} for key, image in images.items()]
        connection.execute(update(index.files).where(index.files.c.key == bindparam("of")), values)
    own = {site.data / SETTINGS, site.labels.file, site.opt_out} - {site.data / PARTICIPANTS}  # not of the standard
    told = Counter(one.reason for one in found.left_out if one.path not in own)
    for reason, count in told.most_common(MOST_TOLD):
        log.warning("%s: BIDS: %d left out: %s", site.name, count, reason)


def _quarantine(site: Site, connection: Connection, found: BidsFolder, images: Mapping[str, BidsImage]) -> None:
    reasons = {file_key(site, one.path): one.reason for one in found.left_out}
    reasons |= {folder_key(site, one.path): one.reason for one in found.left_out}
    files = index.files
    nifti = and_(files.c.transfer_syntax == index.NIFTI_FORMAT, files.c.kind == "image")
    for row in connection.execute(select(files.c.key, files.c.folder).where(nifti)).all():
        if row.key not in images:
            reason = reasons.get(row.key) or reasons.get(row.folder) or MISPLACED
            connection.execute(update(files).where(files.c.key == row.key).values(kind="quarantine", reason=reason))


def _facts(site: Site, found: BidsFolder, image: BidsImage) -> dict[str, Any]:
    """The columns of an image's row that its header leaves open."""
    person, field_t = found.person(image), image.scanner.field_strength_t
    visit = f"sub-{image.subject}_ses-{image.session}"
    return {
        "modality": site.modality or _MODALITIES.get(image.datatype, ""),
        "manufacturer": image.scanner.manufacturer,
        "device": image.scanner.model,
        "tesla": None if field_t is None else round(field_t, 2),
        "sex": person.sex,
        "age": None if person.age is None else min(int(person.age), describe.OLDEST),
        "study": site.pseudonym("study", visit) if image.session else "",
    }
