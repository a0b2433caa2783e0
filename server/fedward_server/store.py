"""The hub's database: runs, their rounds, and each site's part in them. It holds no array and nothing about a patient.

SQLite now, in write-ahead mode, so that a dashboard reads while a run writes; nothing outside `_on_sqlite` is SQLite's
own. What a run needs to go on is in its checkpoints, not here: a round that is recorded again replaces the record.
Opening brings a database of an earlier Fedward up to date (Alembic) and refuses one of a later.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from fedward_common import __version__
from fedward_common.errors import RunError, SettingsError

RunStatus = Literal["running", "finished", "failed"]
RoundStatus = Literal["finished", "failed"]
SiteStatus = Literal["accepted", "refused"]

_LOCK_WAIT_S = 30.0
_WRITES = "fedward_writes"  # execution option: the transaction will write, so it waits for its turn at its start


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRow:
    """One run. Times are UTC, ISO 8601; `study_json` is the resolved study whose RFC 8785 form has `study_digest`."""

    run: str
    study_id: str
    study_digest: str
    study_json: dict[str, Any]
    engine: str
    fedward_version: str
    started: str
    ended: str | None
    status: RunStatus
    model_sha256: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundRow:
    """One round over all sites. `loss` is of training; `primary` scores the model that it made, None until known."""

    run: str
    round: int
    seconds: float
    train_seconds: float  # of the slowest site
    bytes_up: int
    bytes_down: int
    loss: float | None = None
    primary: float | None = None
    status: RoundStatus = "finished"


@dataclass(frozen=True, kw_only=True, slots=True)
class SiteRoundRow:
    """One site's part in a round. A refused or silent site has a `reason` in words and no figures."""

    run: str
    round: int
    site: str
    patients: int | None = None
    seconds: float | None = None
    train_seconds: float | None = None
    bytes_up: int | None = None
    bytes_down: int | None = None
    loss: float | None = None
    status: SiteStatus = "accepted"
    reason: str | None = None


METADATA = sa.MetaData()

_RUNS = sa.Table(
    "runs",
    METADATA,
    sa.Column("run", sa.String(128), primary_key=True),
    sa.Column("study_id", sa.String(128), nullable=False),
    sa.Column("study_digest", sa.String(64), nullable=False),
    sa.Column("study_json", sa.JSON, nullable=False),
    sa.Column("engine", sa.String(32), nullable=False),
    sa.Column("fedward_version", sa.String(64), nullable=False),
    sa.Column("started", sa.String(32), nullable=False),
    sa.Column("ended", sa.String(32)),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("model_sha256", sa.String(64)),
)
_ROUNDS = sa.Table(
    "rounds",
    METADATA,
    sa.Column("run", sa.String(128), sa.ForeignKey("runs.run"), primary_key=True),
    sa.Column("round", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("seconds", sa.Float, nullable=False),
    sa.Column("train_seconds", sa.Float, nullable=False),
    sa.Column("bytes_up", sa.BigInteger, nullable=False),
    sa.Column("bytes_down", sa.BigInteger, nullable=False),
    sa.Column("loss", sa.Float),
    sa.Column("primary", sa.Float),
    sa.Column("status", sa.String(16), nullable=False),
)
_SITE_ROUNDS = sa.Table(
    "site_rounds",
    METADATA,
    sa.Column("run", sa.String(128), primary_key=True),
    sa.Column("round", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("site", sa.String(128), primary_key=True),
    sa.Column("patients", sa.Integer),
    sa.Column("seconds", sa.Float),
    sa.Column("train_seconds", sa.Float),
    sa.Column("bytes_up", sa.BigInteger),
    sa.Column("bytes_down", sa.BigInteger),
    sa.Column("loss", sa.Float),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("reason", sa.Text),
    sa.ForeignKeyConstraint(["run", "round"], ["rounds.run", "rounds.round"]),
)


class Store:
    """The hub's database, opened. Use as a context manager; several processes may have it open at a time."""

    def __init__(self, engine: sa.Engine) -> None:
        self._readers = engine
        self._writers = engine.execution_options(**{_WRITES: True})

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a database file, made where there is none. Raises SettingsError where it cannot serve."""
        engine = sa.create_engine(sa.URL.create("sqlite", database=str(path)), connect_args={"timeout": _LOCK_WAIT_S})
        _on_sqlite(engine)
        store = cls(engine)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with store._writers.begin() as connection:
                _migrate(connection, path)
        except (OSError, SQLAlchemyError) as error:
            store.close()
            raise SettingsError(
                f"{path} cannot be opened as the hub's database ({_reason(error)}): name another file, or restore it"
            ) from error
        except SettingsError:
            store.close()
            raise
        return store

    def close(self) -> None:
        """Let go of the file."""
        self._readers.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start_run(self, run: str, study_id: str, study_digest: str, study_json: str, engine: str) -> None:
        """Record that a run starts, or goes on where it is known. Raises RunError where its id is another study's."""
        values = {"status": "running", "ended": None, "engine": engine, "fedward_version": __version__}
        with self._writing() as connection:
            known = connection.execute(sa.select(_RUNS.c.study_digest).where(_RUNS.c.run == run)).scalar_one_or_none()
            if known is None:
                study = {"study_id": study_id, "study_digest": study_digest, "study_json": json.loads(study_json)}
                connection.execute(sa.insert(_RUNS).values(run=run, started=_now(), **study, **values))
            elif known != study_digest:
                raise RunError(f"run {run} belongs to another study (digest {known[:12]}…): give this run another id")
            else:
                connection.execute(sa.update(_RUNS).where(_RUNS.c.run == run).values(values))

    def record_round(self, row: RoundRow) -> None:
        """Record a round, replacing what was recorded of it. Its run must have been started."""
        with self._writing() as connection:
            _replace(connection, _ROUNDS, asdict(row))

    def record_sites(self, rows: Iterable[SiteRoundRow]) -> None:
        """Record sites' parts in a round, replacing what was recorded of them. The round itself comes first."""
        with self._writing() as connection:
            for row in rows:
                _replace(connection, _SITE_ROUNDS, asdict(row))

    def finish_run(self, run: str, status: Literal["finished", "failed"], model_sha256: str | None) -> None:
        """Record how a run ended. Raises RunError for a run that was not started."""
        values = {"status": status, "ended": _now(), "model_sha256": model_sha256}
        with self._writing() as connection:
            if connection.execute(sa.update(_RUNS).where(_RUNS.c.run == run).values(values)).rowcount == 0:
                raise RunError(f"run {run} is not in the hub's database: it was never started there")

    def runs(self) -> list[RunRow]:
        """Every run, in the order in which they were started."""
        return [RunRow(**row) for row in self._rows(sa.select(_RUNS).order_by(_RUNS.c.started, _RUNS.c.run))]

    def rounds(self, run: str) -> list[RoundRow]:
        """The rounds of a run, in order."""
        return [RoundRow(**row) for row in self._rows(_of(_ROUNDS, run))]

    def site_rounds(self, run: str) -> list[SiteRoundRow]:
        """Each site's part in the rounds of a run, by round and site name."""
        return [SiteRoundRow(**row) for row in self._rows(_of(_SITE_ROUNDS, run))]

    def _rows(self, query: sa.Select[Any]) -> list[dict[str, Any]]:
        with _told(), self._readers.connect() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        with _told(), self._writers.begin() as connection:
            yield connection


def _of(table: sa.Table, run: str) -> sa.Select[Any]:
    return sa.select(table).where(table.c.run == run).order_by(*table.primary_key.columns)


def _replace(connection: sa.Connection, table: sa.Table, values: Mapping[str, Any]) -> None:
    """Update the row with this primary key, or insert it: in SQL that every database has."""
    key = sa.and_(*(column == values[column.name] for column in table.primary_key))
    if connection.execute(sa.update(table).where(key).values(values)).rowcount == 0:
        connection.execute(sa.insert(table).values(values))


@contextmanager
def _told() -> Iterator[None]:
    """Turn what the database raises into words."""
    try:
        yield
    except SQLAlchemyError as error:
        raise RunError(
            f"the hub's database failed ({_reason(error)}): put that right, then resume the run from its checkpoint"
        ) from error


def _reason(error: Exception) -> str:
    """The driver's own words, without SQLAlchemy's statement and parameters."""
    return str(getattr(error, "orig", None) or error)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _on_sqlite(engine: sa.Engine) -> None:
    """What SQLite needs to be told: one transaction is what SQLAlchemy says it is, and writers wait for their turn.

    https://docs.sqlalchemy.org/en/21/dialects/sqlite.html, "Enabling Non-Legacy SQLite Transactional Modes"
    """

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


def _migrate(connection: sa.Connection, path: Path) -> None:
    """Take the steps that a database lacks, in the connection's transaction."""
    from alembic import command
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", "fedward_server:migrations")
    known = {step.revision for step in ScriptDirectory.from_config(config).walk_revisions()}
    if not known.issuperset(MigrationContext.configure(connection).get_current_heads()):
        raise SettingsError(f"{path} was written by a newer Fedward than this one, {__version__}: install that version")
    command.upgrade(config, "head")
