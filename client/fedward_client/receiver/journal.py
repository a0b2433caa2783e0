"""What has been received, so that nothing is fetched twice: an SQLite file of pseudonyms in the state folder.

An object's row is written when its file is in its place. A row without its file is right (somebody moved it on); a file
without its row costs one more transfer of it. Losing the journal costs a transfer of everything, and no data.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from sqlalchemy import URL, Column, Connection, Integer, MetaData, String, Table, create_engine, event, select
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import StaticPool

from fedward_client.site import Site
from fedward_common.errors import DataError
from fedward_common.sqlite import reason

FOLDER = "receiver"
FILE = "journal.sqlite"
WAIT_S = 30.0  # for another process's transaction

_metadata = MetaData()
_objects: Final = Table(
    "objects",
    _metadata,
    Column("instance", String, primary_key=True),  # pseudonyms, all three
    Column("series", String, nullable=False, index=True),
    Column("study", String, nullable=False),
    Column("bytes", Integer, nullable=False),
)


class Journal:
    """A site's journal, opened; for several threads, and several processes may have it open at a time."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    @classmethod
    @contextmanager
    def open(cls, site: Site) -> Iterator["Journal"]:
        """The journal of a site, made where there is none. Raises DataError where it cannot be used."""
        folder = site.ensure_state() / FOLDER
        folder.mkdir(mode=0o700, exist_ok=True)
        engine = create_engine(
            URL.create("sqlite", database=str(folder / FILE)),
            connect_args={"check_same_thread": False, "timeout": WAIT_S},
            poolclass=StaticPool,
            hide_parameters=True,
        )
        event.listen(engine, "connect", _settings)
        try:
            with _told(), engine.connect() as connection:
                _metadata.create_all(connection)
                connection.commit()
                yield cls(connection)
        finally:
            engine.dispose()

    def add(self, *, study: str, series: str, instance: str, size: int) -> None:
        """Write down that an object's file is in its place; a second time changes nothing."""
        row = {"instance": instance, "series": series, "study": study, "bytes": size}
        with self._lock, _told():
            self._connection.execute(insert(_objects).on_conflict_do_nothing(), row)
            self._connection.commit()

    def instances(self, series: str) -> set[str]:
        """The objects of a series that were received."""
        query = select(_objects.c.instance).where(_objects.c.series == series)
        with self._lock, _told():
            found = set(self._connection.execute(query).scalars())
            self._connection.commit()  # a transaction that stays open would not see what another process writes
        return found


def _settings(connection: Any, _record: object) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")


@contextmanager
def _told() -> Iterator[None]:
    """SQLite's errors as a sentence."""
    try:
        yield
    except SQLAlchemyError as error:
        raise DataError(
            f"the journal of what was received cannot be used ({reason(error)}): make room for it, or delete {FOLDER}/ "
            "in the state folder, and everything is asked for once more"
        ) from None
