"""The catalog's SQLite file. It holds pseudonyms and what headers say of devices; no identifier.

The catalog is derived data. One of another version, or made with another key or other settings of files, is thrown away
and built again by a scan, so it needs no migrations: raise VERSION whenever a table changes or headers are judged
differently.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from operator import itemgetter
from pathlib import Path
from typing import Any, Final

from sqlalchemy import (
    URL,
    Boolean,
    Column,
    Connection,
    Engine,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    create_engine,
    event,
    insert,
    select,
    text,
)
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DatabaseError, OperationalError
from sqlalchemy.pool import NullPool

from fedward_client.site import Site
from fedward_common.errors import DataError

VERSION = 8
FILE = "catalog.sqlite"
NIFTI_FORMAT = "NIfTI"  # in the column transfer_syntax
DATA = ("image", "recording", "row")  # the kinds of what a study can take; a row is one of a table
WAIT_MS = 30_000  # for another process's transaction
_MADE_BY, _COMPLETE = "made by", "complete"

_metadata = MetaData()

files: Final = Table(
    "files",
    _metadata,
    Column("key", String, primary_key=True),
    Column("kind", String, nullable=False),  # one of DATA | mask | table | quarantine | what NotAnImage says | link
    Column("parent", String),  # of a row: the file that it is in
    # of a recording and of a row: `recordings.facts`, `RowFacts.facts`; of a mask the key of its image,
    # where its `series` does not say
    Column("detail", String),
    Column("folder", String, nullable=False),  # pseudonym
    Column("size", Integer, nullable=False),  # with mtime_ns: unchanged files are not read again; -1: read it again
    Column("mtime_ns", Integer, nullable=False),
    Column("reason", String),  # of quarantine
    Column("instance", String),  # pseudonym of the SOP Instance UID
    Column("duplicate", Boolean, nullable=False, default=False),  # another file of that instance is the image
    Column("opted_out", Boolean, nullable=False, default=False),  # its patient takes no part
    Column("pixels", String),  # a digest, with the perceptual hashes `looks`: None until the pixels were decoded once
    Column("looks", String),  # separated by spaces
    *(Column(name, String) for name in ("patient", "study", "series", "accession", "content")),
    *(Column(name, String) for name in ("modality", "manufacturer", "device", "transfer_syntax", "body_part")),
    *(Column(name, String) for name in ("sequence", "sex", "month", "flags", "orientation", "turn")),
    *(Column(name, Integer) for name in ("rows", "columns", "frames", "channels", "age")),
    *(Column(name, Float) for name in ("tesla", "row_mm", "column_mm", "place_mm")),
)
FILE_COLUMNS = tuple(column.name for column in files.columns)
Index("files_by_instance", files.c.instance)
Index("files_by_folder", files.c.folder)
Index("files_by_parent", files.c.parent)
Index("files_opted_out", files.c.opted_out, sqlite_where=text("opted_out = 1"))  # they are few

folders: Final = Table(
    "folders",
    _metadata,
    Column("key", String, primary_key=True),
    Column("stamp", String, nullable=False),  # over the names, sizes and times of its files; "": read it again
)

labels: Final = Table(
    "labels",
    _metadata,
    Column("key", String, primary_key=True),  # pseudonym of a patient, an accession number, a study or a file
    Column("row", String, nullable=False),  # JSON
)

boxes: Final = Table(
    "boxes",
    _metadata,
    Column("key", String, primary_key=True),  # pseudonym of a series or a file
    Column("boxes", String, nullable=False),  # JSON of its `box_table.Box`es
)

# what a site's report found in pixels, by a digest of the file, so that nothing is decoded for a second report
quality: Final = Table(
    "quality",
    _metadata,
    Column("content", String, primary_key=True),
    Column("version", Integer, nullable=False),  # of the rules
    Column("flags", String, nullable=False),  # separated by ", "
)

facts: Final = Table(
    "facts", _metadata, Column("name", String, primary_key=True), Column("value", String, nullable=False)
)


def path_of(site: Site) -> Path:
    """Where a site's catalog is."""
    return site.state / FILE


@contextmanager
def reading(site: Site) -> Iterator[Connection]:
    """A transaction on the catalog; raises DataError where there is none of this version and key, or it is damaged."""
    if not path_of(site).exists():
        raise DataError(f"site '{site.name}' has no catalog yet; run `fedward site scan` on its folder first")
    with _in_words(), _engine(site).begin() as connection:
        if not _usable(site, connection):
            raise DataError(f"the catalog of site '{site.name}' is old or unfinished; run `fedward site scan` again")
        yield connection


def is_complete(site: Site) -> bool:
    """Whether there is a catalog of this version and key, and a whole scan of it has ended."""
    if not path_of(site).exists():
        return False
    with _in_words(), _engine(site).begin() as connection:
        return _usable(site, connection)


def complete(connection: Connection) -> None:
    """Say that a whole scan has ended."""
    put(connection, _COMPLETE, "yes")


@contextmanager
def writing(site: Site) -> Iterator[Connection]:
    """A transaction on the catalog, which a scan made."""
    with _in_words(), _engine(site).begin() as connection:
        yield connection


@contextmanager
def connected(site: Site) -> Iterator[Connection]:
    """A connection for many a `transaction` on the catalog: each by itself pays for one anew.

    Makes the catalog where it is missing, and anew where it is another version's or another key's.
    """
    _ = site.key  # beside a catalog it is never made
    with _in_words():
        with _engine(site).connect() as connection:
            if fits := _fits(site, connection):
                connection.rollback()
                yield connection
        if not fits:
            _remove(site)
            with _engine(site).connect() as connection:
                with connection.begin():
                    _metadata.create_all(connection)
                    put(connection, _MADE_BY, _maker(site))
                yield connection


@contextmanager
def transaction(connection: Connection) -> Iterator[None]:
    """A transaction of a connection."""
    with _in_words(), connection.begin():
        yield


def put_files(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Put rows into `files`, each with all columns. By the driver: SQLAlchemy takes longer for them than SQLite."""
    if rows:
        connection.exec_driver_sql(_statement(), list(map(itemgetter(*FILE_COLUMNS), rows)))


@cache
def _statement() -> str:
    return str(insert(files).compile(dialect=sqlite.dialect(paramstyle="qmark")))


def fact(connection: Connection, name: str) -> str | None:
    """A fact on the whole catalog."""
    value: str | None = connection.execute(select(facts.c.value).where(facts.c.name == name)).scalar()
    return value


def put(connection: Connection, name: str, value: str) -> None:
    """Set a fact."""
    connection.execute(insert(facts).prefix_with("OR REPLACE"), {"name": name, "value": value})


def _maker(site: Site) -> str:
    """What a catalog depends on beside the files: its version, the key, and what the site says of files."""
    maps = [None if each is None else each.digest for each in (site.series, site.table)]
    masks = None if site.masks is None or site.masks.files is None else [site.masks.files.pattern, site.masks.image]
    said = [VERSION, site.patient_pattern, site.modality, site.bids, masks, *maps]
    return site.pseudonym("catalog", json.dumps(said))


def _fits(site: Site, connection: Connection) -> bool:
    try:
        return fact(connection, _MADE_BY) == _maker(site)
    except OperationalError:  # no such table: another version's, or an empty file
        return False


def _usable(site: Site, connection: Connection) -> bool:
    return _fits(site, connection) and fact(connection, _COMPLETE) is not None


def _remove(site: Site) -> None:
    for suffix in ("", "-wal", "-shm"):
        with suppress(FileNotFoundError):
            path_of(site).with_name(FILE + suffix).unlink()


def _engine(site: Site) -> Engine:
    engine = create_engine(URL.create("sqlite", database=str(path_of(site))), poolclass=NullPool, hide_parameters=True)

    @event.listens_for(engine, "connect")
    def settings(connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {WAIT_MS}")
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA synchronous = NORMAL")
        cursor.close()

    return engine


@contextmanager
def _in_words() -> Iterator[None]:
    """SQLite's errors as sentences; its own words name tables at most."""
    try:
        yield
    except OperationalError as error:
        raise DataError(f"the catalog in the state folder cannot be used: {error.orig}") from None
    except DatabaseError:
        raise DataError(
            f"the catalog is damaged: delete {FILE} in the state folder and run `fedward site scan` again"
        ) from None
