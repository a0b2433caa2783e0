"""SQLite as Fedward's own databases use it: write-ahead mode, one writer at a time, brought up to date when opened.

What SQLAlchemy needs to be told stands here once: one transaction is what SQLAlchemy says it is, and writers wait for
their turn. https://docs.sqlalchemy.org/en/21/dialects/sqlite.html, "Enabling Non-Legacy SQLite Transactional Modes"
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from fedward_common import __version__
from fedward_common.errors import SettingsError

_LOCK_WAIT_S = 30.0
_WRITES = "fedward_writes"  # execution option: the transaction will write, so it waits for its turn at its start


class Database:
    """An SQLite file, made where there is none, with the tables of the Alembic migrations of a package.

    Several processes may have it open at a time. Raises SettingsError where it cannot serve; `what` names it in words.
    """

    def __init__(self, path: Path, *, migrations: str, what: str) -> None:
        self._readers = sa.create_engine(
            sa.URL.create("sqlite", database=str(path)), connect_args={"timeout": _LOCK_WAIT_S}, hide_parameters=True
        )
        self._writers = self._readers.execution_options(**{_WRITES: True})
        _on_sqlite(self._readers)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._writers.begin() as connection:
                _migrate(connection, path, migrations)
        except (OSError, SQLAlchemyError) as error:
            self.close()
            advice = "make room on its disk" if _wants_room(error) else "name another file, or restore it"
            raise SettingsError(f"{path.name} cannot be opened as {what} ({reason(error)}): {advice}") from error
        except SettingsError:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the file."""
        self._readers.dispose()

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A connection to read with."""
        with self._readers.connect() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A transaction that waited for its turn to write."""
        with self._writers.begin() as connection:
            yield connection


def reason(error: Exception) -> str:
    """The driver's own words, without SQLAlchemy's statement and parameters."""
    return str(getattr(error, "orig", None) or error)


def _wants_room(error: Exception) -> bool:
    """Whether the disk is full, which SQLite calls an I/O error where it is the file of its index that cannot grow."""
    code = getattr(getattr(error, "orig", None), "sqlite_errorcode", None)
    return code in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE}


def put(connection: sa.Connection, table: sa.Table, values: dict[str, Any]) -> None:
    """Update the row with this primary key, or insert it: in SQL that every database has."""
    key = sa.and_(*(column == values[column.name] for column in table.primary_key))
    if connection.execute(sa.update(table).where(key).values(values)).rowcount == 0:
        connection.execute(sa.insert(table).values(values))


def _on_sqlite(engine: sa.Engine) -> None:
    @sa.event.listens_for(engine, "connect")
    def connected(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver begins no transaction of its own
        connection.execute("PRAGMA foreign_keys=ON")
        if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
            connection.execute("PRAGMA journal_mode=WAL")

    @sa.event.listens_for(engine, "begin")
    def begun(connection: sa.Connection) -> None:
        writes = connection.get_execution_options().get(_WRITES, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _migrate(connection: sa.Connection, path: Path, migrations: str) -> None:
    """Take the steps that a database lacks, in the connection's transaction."""
    from alembic import command
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", migrations)
    known = {step.revision for step in ScriptDirectory.from_config(config).walk_revisions()}
    if not known.issuperset(MigrationContext.configure(connection).get_current_heads()):
        raise SettingsError(
            f"{path.name} was written by a newer Fedward than this one, {__version__}: install that version"
        )
    command.upgrade(config, "head")
