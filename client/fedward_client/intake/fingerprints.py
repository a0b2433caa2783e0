"""The fingerprints of files, kept in the catalog: pixels are decoded for them once, and again where a file changed."""

from collections.abc import Collection, Mapping

from sqlalchemy import and_, select, update

from fedward_client.intake import index
from fedward_client.intake.files import read_volume
from fedward_client.intake.fingerprint import Fingerprint, fingerprint
from fedward_client.intake.walk import Entry, file_key, walk
from fedward_client.site import Site
from fedward_common.errors import UnreadableFile
from fedward_common.events import Event, Listener, ignore

BATCH = 64  # files of one transaction: what a killed process reads again at most

Fingerprints = Mapping[str, Fingerprint | None]  # by file, None for one that does not decode
_Read = Fingerprint | UnreadableFile | None  # None: it went or changed while it was read


def fingerprints(site: Site, keys: Collection[str], listener: Listener = ignore) -> Fingerprints:
    """The fingerprints of files (pseudonyms). Decodes those that have none yet, one at a time.

    A file that does not decode is in quarantine from then on. One that is gone or changed since the scan is not among
    what is returned: the next scan sees to it. Raises DataError where there is no catalog.
    """
    found: dict[str, Fingerprint | None] = {**_known(site)}
    missing = set(keys) - found.keys()
    entries = [(key, one) for one in walk(site) if (key := file_key(site, one.path)) in missing] if missing else []
    for start in range(0, len(entries), BATCH):
        read: dict[str, tuple[Entry, _Read]] = {}
        for done, (key, entry) in enumerate(entries[start : start + BATCH], start):
            listener(Event(site=site.name, stage="compare", done=done, total=len(entries)))
            read[key] = entry, _read(entry)
        _store(site, read)
        for key, (_, one) in read.items():
            if one is not None:
                found[key] = one if isinstance(one, Fingerprint) else None
    if entries:
        listener(Event(site=site.name, stage="compare", done=len(entries), total=len(entries)))
    return {key: found[key] for key in keys if key in found}


def _known(site: Site) -> dict[str, Fingerprint]:
    columns = (index.files.c.key, index.files.c.pixels, index.files.c.looks)
    with index.reading(site) as connection:
        rows = connection.execute(select(*columns).where(index.files.c.pixels.is_not(None)))
        return {key: Fingerprint(pixels, tuple(looks.split())) for key, pixels, looks in rows}


def _read(entry: Entry) -> _Read:
    try:
        found = fingerprint(read_volume(entry.path, voi=None, stack=False))
        status = entry.path.stat()
    except UnreadableFile as error:
        return None if isinstance(error.__cause__, OSError) else error
    except OSError:
        return None
    return found if (status.st_size, status.st_mtime_ns) == (entry.size, entry.mtime_ns) else None


def _store(site: Site, read: Mapping[str, tuple[Entry, _Read]]) -> None:
    """Into the rows of the files, where those are of that size and time: a scan may have found another file since."""
    files = index.files
    with index.writing(site) as connection:
        for key, (entry, one) in read.items():
            same = and_(files.c.key == key, files.c.size == entry.size, files.c.mtime_ns == entry.mtime_ns)
            if isinstance(one, Fingerprint):
                connection.execute(update(files).where(same).values(pixels=one.pixels, looks=" ".join(one.looks)))
            elif one is not None:
                connection.execute(update(files).where(same).values(kind="quarantine", reason=str(one)))
