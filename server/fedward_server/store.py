"""The hub's database: runs, their rounds, each site's part in them, and the sites. No array, nothing about a patient.

SQLite now, in write-ahead mode, so that a dashboard reads while a run writes; nothing here is SQLite's own. What a run
needs to go on is in its checkpoints, not here: a round that is recorded again replaces the record. Opening brings a
database of an earlier Fedward up to date (Alembic) and refuses one of a later.
"""

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, get_args

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from fedward_common import __version__
from fedward_common.errors import RunError, SettingsError
from fedward_common.sqlite import Database, put
from fedward_common.sqlite import reason as drivers_words
from fedward_common.study import StudySpec

RunStatus = Literal["running", "interrupted", "finished", "failed", "stopped"]
UNFINISHED: tuple[RunStatus, ...] = ("running", "interrupted")  # an interrupted one goes on by itself
RoundStatus = Literal["finished", "failed"]


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
    flower_run: str | None = None  # Flower's id of the process that does the run, for steering only
    reason: str | None = None  # why it failed, was stopped or was interrupted

    @property
    def rounds(self) -> int:
        """Of the whole study, phases and folds too."""
        return StudySpec.from_json(json.dumps(self.study_json)).rounds

    @property
    def unfinished(self) -> bool:
        """Whether it goes on, now or when the hub lets it."""
        return self.status in UNFINISHED

    @property
    def sites(self) -> list[str]:
        """The names of the sites that it asks, as the study has them."""
        return [str(site["name"]) for site in self.study_json.get("sites", ())]

    def fingerprint_of(self, site: str) -> str | None:
        """The key by which the study's roster knows a site; None where it is not on it."""
        sites: list[dict[str, str]] = self.study_json.get("sites", [])
        return next((entry.get("fingerprint") for entry in sites if entry["name"] == site), None)


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
    """One site's part in a round. A refused or silent one has no figures; `reason`: why, or why it was waited for."""

    run: str
    round: int
    site: str
    patients: int | None = None
    seconds: float | None = None
    train_seconds: float | None = None
    bytes_up: int | None = None
    bytes_down: int | None = None
    loss: float | None = None
    status: Literal["accepted", "refused"] = "accepted"
    reason: str | None = None
    primary: float | None = None  # of the model that the round made, on the site's validation patients


@dataclass(frozen=True, kw_only=True, slots=True)
class SiteRow:
    """One enrolled site, with its public keys. `node_id` is the SuperLink's name for its node, where it has one."""

    site: str
    fingerprint: str  # of the signing key
    node_key: str  # one OpenSSH line
    signing_key: str  # 64 hex digits
    added: str
    node_id: str | None = None


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
    sa.Column("flower_run", sa.String(32)),
    sa.Column("reason", sa.Text),
    sa.Index("runs_by_start", "started", "run"),
    sa.Index("runs_by_end", "status", "ended"),
)
_RUN_SITES = sa.Table(  # to find a site's runs
    "run_sites",
    METADATA,
    sa.Column("run", sa.String(128), sa.ForeignKey("runs.run"), primary_key=True),
    sa.Column("site", sa.String(128), primary_key=True),
    sa.Column("fingerprint", sa.String(64)),
    sa.Index("runs_of_site", "site", "run"),
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
    sa.Column("primary", sa.Float),
    sa.ForeignKeyConstraint(["run", "round"], ["rounds.run", "rounds.round"]),
)
SITES = sa.Table(
    "sites",
    METADATA,
    sa.Column("site", sa.String(64), primary_key=True),
    sa.Column("fingerprint", sa.String(64), nullable=False, unique=True),
    sa.Column("node_key", sa.String(512), nullable=False, unique=True),
    sa.Column("signing_key", sa.String(64), nullable=False),
    sa.Column("added", sa.String(32), nullable=False),
    sa.Column("node_id", sa.String(32)),
)


class Store:
    """The hub's database, opened. Use as a context manager; several processes may have it open at a time."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a database file, made where there is none. Raises SettingsError where it cannot serve."""
        return cls(Database(path, migrations="fedward_server:migrations", what="the hub's database"))

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Runs ------------------------------------------------------------------------------------------------------------

    def start_run(self, run: str, study_id: str, study_digest: str, study_json: str, engine: str) -> None:
        """Record that a run starts, or goes on where it is known and was not stopped.

        Raises RunError where its id is another study's.
        """
        values = {"status": "running", "ended": None, "reason": None, "engine": engine, "fedward_version": __version__}
        with self.writing() as connection:
            known = connection.execute(sa.select(_RUNS.c.study_digest).where(_RUNS.c.run == run)).scalar_one_or_none()
            if known is None:
                study = {"study_id": study_id, "study_digest": study_digest, "study_json": json.loads(study_json)}
                connection.execute(sa.insert(_RUNS).values(run=run, started=_now(), **study, **values))
                sites = {site["name"]: site.get("fingerprint") for site in study["study_json"].get("sites", ())}
                rows = [{"run": run, "site": name, "fingerprint": key} for name, key in sorted(sites.items())]
                if rows:
                    connection.execute(sa.insert(_RUN_SITES), rows)
            elif known != study_digest:
                raise RunError(f"run {run} belongs to another study (digest {known[:12]}…): give this run another id")
            else:
                open_ = sa.and_(_RUNS.c.run == run, _RUNS.c.status != "stopped")  # that may come at any moment
                connection.execute(sa.update(_RUNS).where(open_).values(values))

    def record_round(self, row: RoundRow, sites: Iterable[SiteRoundRow] = ()) -> None:
        """Record a round and sites' parts in it at once, replacing what was recorded of them.

        Its run must have been started.
        """
        with self.writing() as connection:
            put(connection, _ROUNDS, asdict(row))
            for part in sites:
                put(connection, _SITE_ROUNDS, asdict(part))

    def finish_run(
        self,
        run: str,
        status: Literal["finished", "failed", "stopped"],
        model_sha256: str | None,
        reason: str | None = None,
    ) -> None:
        """Record how a run ended; one that was stopped does not become a failed one by it.

        Raises RunError for a run that was not started.
        """
        values = {"status": status, "ended": _now(), "model_sha256": model_sha256, "reason": reason}
        with self.writing() as connection:
            known = connection.execute(sa.select(_RUNS.c.status).where(_RUNS.c.run == run)).scalar_one_or_none()
            if known is None:
                raise RunError(f"run {run} is not in the hub's database: it was never started there")
            if not (known == "stopped" and status == "failed"):
                connection.execute(sa.update(_RUNS).where(_RUNS.c.run == run).values(values))

    def interrupt_run(self, run: str, reason: str) -> bool:
        """Record that nothing works any more on a run that is at work; whether it was."""
        return self._change(run, "running", {"status": "interrupted", "reason": reason})

    def go_on(self, run: str, before: RunStatus) -> bool:
        """Record that a run with the status `before` is at work again; False where it has another by now."""
        values = {"status": "running", "ended": None, "reason": None, "flower_run": None}
        return self._change(run, before, {**values, "fedward_version": __version__})

    def _change(self, run: str, before: RunStatus, values: dict[str, str | None]) -> bool:
        with self.writing() as connection:
            same = sa.and_(_RUNS.c.run == run, _RUNS.c.status == before)
            return connection.execute(sa.update(_RUNS).where(same).values(values)).rowcount == 1

    def set_flower_run(self, run: str, flower_run: str) -> None:
        """Record Flower's id of the process that does a run."""
        with self.writing() as connection:
            connection.execute(sa.update(_RUNS).where(_RUNS.c.run == run).values(flower_run=flower_run))

    def run(self, run: str) -> RunRow:
        """One run. Raises RunError for one that was not started."""
        row = self.find(run)
        if row is None:
            raise RunError(f"run {run} is not known here: `fedward study status` lists the runs")
        return row

    def find(self, run: str) -> RunRow | None:
        """One run, None for one that was not started."""
        return next((RunRow(**row) for row in self.rows(sa.select(_RUNS).where(_RUNS.c.run == run))), None)

    def runs(self) -> list[RunRow]:
        """Every run, in the order in which they were started."""
        return self._runs_where(sa.true())

    def unfinished(self, engine: str | None = None) -> list[RunRow]:
        """The runs that are at work or were interrupted, of one engine or of all, in the order of their starts."""
        of_engine = sa.true() if engine is None else _RUNS.c.engine == engine
        return self._runs_where(sa.and_(of_engine, _RUNS.c.status.in_(UNFINISHED)))

    def recent(self, engine: str, site: str, ended_after: datetime) -> list[RunRow]:
        """The runs of an engine that ask a site, unfinished or ended after a time, the newest first."""
        asks = _RUNS.c.run.in_(sa.select(_RUN_SITES.c.run).where(_RUN_SITES.c.site == site))
        open_ = _RUNS.c.status.in_(UNFINISHED) | (_RUNS.c.ended > ended_after.isoformat(timespec="milliseconds"))
        query = sa.select(_RUNS).where(_RUNS.c.engine == engine, asks, open_).order_by(_RUNS.c.started.desc())
        return [RunRow(**row) for row in self.rows(query)]

    def newest(
        self,
        many: int,
        *,
        before: str | None = None,
        site: tuple[str, str] | None = None,
        statuses: Sequence[RunStatus] = (),
        words: str = "",
        ended_since: str | None = None,
    ) -> list[RunRow]:
        """The runs that were started last, newest first, of at most `many`; after the run `before` in this order.

        Only those that ask a `site` of this name and key, have one of `statuses`, hold `words` in their id, or ended
        after a time (UTC). A `before` that does not ask the site is as one that is not there: nothing is after it.
        """
        asks: sa.ColumnElement[bool] = sa.true()
        if site is not None:
            own = sa.and_(_RUN_SITES.c.site == site[0], _RUN_SITES.c.fingerprint == site[1])
            asks = _RUNS.c.run.in_(sa.select(_RUN_SITES.c.run).where(own))
        which = [asks, _RUNS.c.status.in_(statuses)] if statuses else [asks]
        if words:
            which.append(_RUNS.c.run.contains(words, autoescape=True))
        if ended_since is not None:
            which.append(_RUNS.c.ended > ended_since)
        if before is not None:
            place = sa.select(_RUNS.c.started, _RUNS.c.run).where(_RUNS.c.run == before, asks)
            which.append(sa.tuple_(_RUNS.c.started, _RUNS.c.run) < place.scalar_subquery())
        order = (_RUNS.c.started.desc(), _RUNS.c.run.desc())
        return [RunRow(**row) for row in self.rows(sa.select(_RUNS).where(*which).order_by(*order).limit(many))]

    def makers(self, sha256: str) -> list[RunRow]:
        """The runs that ended with this model, in the order of their starts."""
        return self._runs_where(_RUNS.c.model_sha256 == sha256)

    def begun_with(self, weights: Collection[str]) -> list[RunRow]:
        """The runs that began with one of these weights, by their SHA-256, in the order of their starts."""
        return self._runs_where(_RUNS.c.study_json["model", "start", "sha256"].as_string().in_(weights))

    def _runs_where(self, which: sa.ColumnElement[bool]) -> list[RunRow]:
        query = sa.select(_RUNS).where(which).order_by(_RUNS.c.started, _RUNS.c.run)
        return [RunRow(**row) for row in self.rows(query)]

    def rounds(self, run: str, *, since: int = 0) -> list[RoundRow]:
        """The rounds of a run, in order, from round `since` on."""
        return [RoundRow(**row) for row in self.rows(_of(_ROUNDS, run, since))]

    def site_rounds(self, run: str) -> list[SiteRoundRow]:
        """Each site's part in the rounds of a run, by round and site name."""
        return [SiteRoundRow(**row) for row in self.rows(_of(_SITE_ROUNDS, run, 0))]

    def site_figures(self, run: str, *, since: int = 0) -> list[tuple[int, str, float | None, float | None]]:
        """Round, site, training loss and primary metric, of each site's part in the rounds of a run.

        From round `since` on; quicker than `site_rounds` where they are many.
        """
        table = _SITE_ROUNDS.c
        query = sa.select(table.round, table.site, table.loss, table.primary)
        with _told(), self._database.reading() as connection:
            found = connection.execute(query.where(table.run == run, table.round >= since))
            return [(number, site, loss, primary) for number, site, loss, primary in found]

    def run_counts(self) -> dict[str, int]:
        """How many runs have each status."""
        counted = sa.select(_RUNS.c.status, sa.func.count().label("runs")).group_by(_RUNS.c.status)
        found: dict[str, int] = {row["status"]: row["runs"] for row in self.rows(counted)}
        return {status: found.get(status, 0) for status in get_args(RunStatus)}

    def refusals(self) -> dict[str, int]:
        """In how many rounds a site's update was refused or did not come, of enrolled sites by name."""
        refused = sa.and_(_SITE_ROUNDS.c.site == SITES.c.site, _SITE_ROUNDS.c.status == "refused")
        counted = sa.select(SITES.c.site, sa.func.count(_SITE_ROUNDS.c.site).label("rounds"))
        query = counted.join_from(SITES, _SITE_ROUNDS, refused, isouter=True).group_by(SITES.c.site)
        return {row["site"]: row["rounds"] for row in self.rows(query.order_by(SITES.c.site))}

    # Sites -----------------------------------------------------------------------------------------------------------

    def add_site(self, row: SiteRow) -> None:
        """Enrol a site. Raises SettingsError where its name or one of its keys is another's already."""
        try:
            with self._database.writing() as connection:
                connection.execute(sa.insert(SITES).values(asdict(row)))
        except IntegrityError:
            raise SettingsError(
                f"the name or a key of {row.site} is enrolled already: forget the site that has it first"
            ) from None
        except SQLAlchemyError as error:
            raise _failure(error) from error

    def remove_site(self, site: str) -> None:
        """Forget a site; one that is not there is no error."""
        with self.writing() as connection:
            connection.execute(sa.delete(SITES).where(SITES.c.site == site))

    def set_node(self, site: str, node_id: str) -> None:
        """Record what the SuperLink calls a site's node."""
        with self.writing() as connection:
            connection.execute(sa.update(SITES).where(SITES.c.site == site).values(node_id=node_id))

    def sites(self) -> dict[str, SiteRow]:
        """The enrolled sites by name, in the order of their names."""
        return {row["site"]: SiteRow(**row) for row in self.rows(sa.select(SITES).order_by(SITES.c.site))}

    # For whoever keeps more in it -------------------------------------------------------------------------------------

    def rows(self, query: sa.Select[Any]) -> list[dict[str, Any]]:
        """What a query finds. Raises RunError in words where the database fails, as `writing` does."""
        with _told(), self._database.reading() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A transaction that waited for its turn to write."""
        with _told(), self._database.writing() as connection:
            yield connection


def _of(table: sa.Table, run: str, since: int) -> sa.Select[Any]:
    return sa.select(table).where(table.c.run == run, table.c.round >= since).order_by(*table.primary_key.columns)


@contextmanager
def _told() -> Iterator[None]:
    """Turn what the database raises into words."""
    try:
        yield
    except SQLAlchemyError as error:
        raise _failure(error) from error


def _failure(error: SQLAlchemyError) -> RunError:
    return RunError(
        f"the hub's database failed ({drivers_words(error)}): put that right, then resume the run from its checkpoint"
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
