"""A site's ledger: which studies its steward approved, what it has answered, and what a run is bound to.

It holds studies, dates, digests and the answers as they left; of patients only keyed digests, for the difference rule.
Times are UTC, ISO 8601.
The ledger cannot be rebuilt: losing it loses approvals, and answers would be computed anew. Back it up with the key.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from fedward_common.errors import SettingsError
from fedward_common.sqlite import Database, put, reason
from fedward_common.study import StudySpec

FILE = "ledger.sqlite"
MAX_ASKED = 200  # studies that wait for approval: a hub cannot fill the disk with them
ROUNDS_KEPT = 2  # of a run's answers

METADATA = sa.MetaData()

_STUDIES = sa.Table(
    "studies",
    METADATA,
    sa.Column("digest", sa.String(64), primary_key=True),
    sa.Column("study_id", sa.String(128), nullable=False),
    sa.Column("study", sa.Text, nullable=False),  # canonical JSON
    sa.Column("asked", sa.String(32), nullable=False),  # when a hub last asked for it
)
_APPROVALS = sa.Table(
    "approvals",
    METADATA,
    sa.Column("digest", sa.String(64), primary_key=True),
    sa.Column("study_id", sa.String(128), nullable=False),
    sa.Column("until", sa.String(10), nullable=False),
    sa.Column("given", sa.String(32), nullable=False),
)
_DECLINED = sa.Table(
    "declined",
    METADATA,
    sa.Column("digest", sa.String(64), primary_key=True),
    sa.Column("study_id", sa.String(128), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("since", sa.String(32), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
)
_ANSWERS = sa.Table(
    "answers",
    METADATA,
    sa.Column("study", sa.String(64), primary_key=True),
    sa.Column("run", sa.String(128), primary_key=True),
    sa.Column("kind", sa.String(16), primary_key=True),
    sa.Column("round", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("side", sa.String(16), primary_key=True),
    sa.Column("question", sa.String(64), nullable=False),  # SHA-256 of the whole question, arrays included
    sa.Column("answer", sa.Text, nullable=False),
    sa.Column("parcel", sa.Text),  # where in the spool its arrays are
)
_BOUND = sa.Table(
    "bound",
    METADATA,
    sa.Column("run", sa.String(128), primary_key=True),
    sa.Column("name", sa.String(128), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)
_COVERED = sa.Table(
    "covered",
    METADATA,
    sa.Column("what", sa.String(16), primary_key=True),
    sa.Column("digest", sa.String(64), primary_key=True),  # SHA-256 of `patients`
    sa.Column("patients", sa.LargeBinary, nullable=False),  # `difference.as_bytes`
    sa.Column("first", sa.String(32), nullable=False),
)
_SWITCHES = sa.Table(
    "switches",
    METADATA,
    sa.Column("name", sa.String(32), primary_key=True),
    sa.Column("since", sa.String(32), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
)
_PAUSED = "paused"


@dataclass(frozen=True, kw_only=True, slots=True)
class Approval:
    """A steward's yes to exactly one study, up to and including the day `until`."""

    digest: str
    study_id: str
    until: date
    given: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Declined:
    """A steward's no to exactly one study, or a yes that was taken back; `reason` is for the hub's people, or ""."""

    digest: str
    study_id: str
    state: Literal["refused", "withdrawn"]
    since: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A study that a hub asked for."""

    digest: str
    study_id: str
    study: str
    asked: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Answered:
    """An answer that left: to which question, its JSON, and its arrays' place in the spool (JSON)."""

    study: str
    run: str
    kind: str
    round: int
    side: str
    question: str
    answer: str
    parcel: str | None


class Ledger:
    """A site's ledger, opened. Use as a context manager, or for as long as the process lives."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @classmethod
    def open(cls, state: Path) -> Self:
        """The ledger in a site's state folder, made where there is none. Raises SettingsError where it cannot serve."""
        return cls(Database(state / FILE, migrations="fedward_client:migrations", what="the site's ledger"))

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Approvals -------------------------------------------------------------------------------------------------------

    def asked(self, study: StudySpec) -> None:
        """Remember that a hub asked for a study, so that the steward can read and approve it."""
        row = {
            "digest": study.digest,
            "study_id": study.study.id,
            "study": study.canonical_json().decode(),
            "asked": _now(),
        }
        with self._writing() as connection:
            put(connection, _STUDIES, row)
            newest = sa.select(_STUDIES.c.digest).order_by(_STUDIES.c.asked.desc()).limit(MAX_ASKED)
            approved = sa.select(_APPROVALS.c.digest)
            kept = _STUDIES.c.digest.in_(newest) | _STUDIES.c.digest.in_(approved)
            connection.execute(sa.delete(_STUDIES).where(sa.not_(kept)))

    def studies(self) -> list[Asked]:
        """Every study that a hub asked for, the newest first."""
        return [Asked(**row) for row in self._rows(sa.select(_STUDIES).order_by(_STUDIES.c.asked.desc()))]

    def approve(self, study: StudySpec, until: date) -> Approval:
        """Approve exactly this study, up to and including `until`."""
        approval = Approval(digest=study.digest, study_id=study.study.id, until=until, given=_now())
        row = {**asdict(approval), "until": until.isoformat()}
        self.asked(study)
        with self._writing() as connection:
            put(connection, _APPROVALS, row)
            connection.execute(sa.delete(_DECLINED).where(_DECLINED.c.digest == study.digest))
        return approval

    def withdraw(self, digest: str) -> bool:
        """Take an approval back; False where there was none."""
        theirs = _APPROVALS.c.digest == digest
        with self._writing() as connection:
            study_id = connection.execute(sa.select(_APPROVALS.c.study_id).where(theirs)).scalar()
            if study_id is None:
                return False
            connection.execute(sa.delete(_APPROVALS).where(theirs))
            _decline(connection, digest, study_id, "withdrawn", "")
            return True

    def refuse(self, digest: str, reason_given: str) -> bool:
        """Refuse a study that a hub asked for, approved or not; False where none asked for it."""
        with self._writing() as connection:
            study_id = connection.execute(sa.select(_STUDIES.c.study_id).where(_STUDIES.c.digest == digest)).scalar()
            if study_id is None:
                return False
            connection.execute(sa.delete(_APPROVALS).where(_APPROVALS.c.digest == digest))
            _decline(connection, digest, study_id, "refused", reason_given)
            return True

    def declined(self) -> list[Declined]:
        """Every study that was refused or withdrawn and not approved since, the newest first."""
        return [Declined(**row) for row in self._rows(sa.select(_DECLINED).order_by(_DECLINED.c.since.desc()))]

    def approvals(self) -> list[Approval]:
        """Every approval, ended ones included, the newest first."""
        rows = self._rows(sa.select(_APPROVALS).order_by(_APPROVALS.c.given.desc()))
        return [Approval(**{**row, "until": date.fromisoformat(row["until"])}) for row in rows]

    # Answers ---------------------------------------------------------------------------------------------------------

    def answered(self, *, study: str, run: str, kind: str, number: int, side: str) -> Answered | None:
        """What was answered to the question of this kind, round and side; None where nothing was."""
        key = {"study": study, "run": run, "kind": kind, "round": number, "side": side}
        rows = self._rows(sa.select(_ANSWERS).where(*(_ANSWERS.c[name] == value for name, value in key.items())))
        return Answered(**rows[0]) if rows else None

    def keep(self, answer: Answered) -> list[str]:
        """Keep an answer, and drop the run's training answers older than the last two; gives the dropped parcels."""
        old = sa.and_(
            _ANSWERS.c.study == answer.study,
            _ANSWERS.c.run == answer.run,
            _ANSWERS.c.kind == "train",
            _ANSWERS.c.round <= answer.round - ROUNDS_KEPT,
        )
        with self._writing() as connection:
            put(connection, _ANSWERS, asdict(answer))
            dropped = connection.execute(sa.select(_ANSWERS.c.parcel).where(old)).scalars().all()
            connection.execute(sa.delete(_ANSWERS).where(old))
        return [parcel for parcel in dropped if parcel is not None]

    def parcels(self) -> list[str]:
        """The parcels of every kept answer."""
        query = sa.select(_ANSWERS.c.parcel).where(_ANSWERS.c.parcel.is_not(None))
        return [row["parcel"] for row in self._rows(query)]

    def forget(self, study: str) -> tuple[int, list[str]]:
        """Drop every answer to a study, by its digest; how many, and the parcels that no other answer names.

        What its runs are bound to stays: a hub that asked once more would get figures at other operating points.
        """
        theirs = _ANSWERS.c.study == study
        kept = sa.select(_ANSWERS.c.parcel).where(sa.not_(theirs), _ANSWERS.c.parcel.is_not(None))
        alone = sa.select(_ANSWERS.c.parcel).where(theirs, _ANSWERS.c.parcel.not_in(kept)).distinct()
        with self._writing() as connection:
            dropped = [parcel for parcel in connection.execute(alone).scalars() if parcel is not None]
            return connection.execute(sa.delete(_ANSWERS).where(theirs)).rowcount, dropped

    # What a run is bound to, and whether the site is paused -----------------------------------------------------------

    def remembers(self, run: str, name: str) -> bool:
        """Whether something is remembered under `name` for a run."""
        return bool(self._rows(sa.select(_BOUND.c.name).where(_BOUND.c.run == run, _BOUND.c.name == name)))

    def once(self, run: str, name: str, value: str) -> str:
        """Remember `value` under `name` for a run, unless something is remembered already; gives what is remembered."""
        with self._writing() as connection:
            where = sa.and_(_BOUND.c.run == run, _BOUND.c.name == name)
            held: str | None = connection.execute(sa.select(_BOUND.c.value).where(where)).scalar()
            if held is None:
                connection.execute(sa.insert(_BOUND).values(run=run, name=name, value=value))
            return value if held is None else held

    def cover(self, what: str, patients: bytes, check: Callable[[Iterable[bytes]], None]) -> None:
        """Remember that an answer of a kind `what` is of these patients; first `check` is given all that were before.

        Raises what `check` raises; nothing is remembered then. No other process remembers in between.
        """
        row = {"what": what, "digest": sha256(patients).hexdigest(), "patients": patients, "first": _now()}
        with self._writing() as connection:
            before = connection.execute(sa.select(_COVERED).where(_COVERED.c.what == what)).mappings().all()
            check(each["patients"] for each in before)
            if row["digest"] not in {each["digest"] for each in before}:
                connection.execute(sa.insert(_COVERED).values(row))

    def pause(self, reason_given: str) -> None:
        """Answer nothing until `resume`, whatever is restarted meanwhile."""
        with self._writing() as connection:
            put(connection, _SWITCHES, {"name": _PAUSED, "since": _now(), "reason": reason_given})

    def resume(self) -> None:
        """Answer again."""
        with self._writing() as connection:
            connection.execute(sa.delete(_SWITCHES).where(_SWITCHES.c.name == _PAUSED))

    def paused(self) -> str | None:
        """Since when the site is paused, None where it is not."""
        rows = self._rows(sa.select(_SWITCHES).where(_SWITCHES.c.name == _PAUSED))
        return rows[0]["since"] if rows else None

    # IO --------------------------------------------------------------------------------------------------------------

    def _rows(self, query: sa.Select[Any]) -> list[dict[str, Any]]:
        with _told(), self._database.reading() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        with _told(), self._database.writing() as connection:
            yield connection


def _decline(
    connection: sa.Connection, digest: str, study_id: str, state: Literal["refused", "withdrawn"], reason_given: str
) -> None:
    row = Declined(digest=digest, study_id=study_id, state=state, since=_now(), reason=reason_given)
    put(connection, _DECLINED, asdict(row))


@contextmanager
def _told() -> Iterator[None]:
    """Turn what the database raises into words."""
    try:
        yield
    except SQLAlchemyError as error:
        raise SettingsError(
            f"the site's ledger failed ({reason(error)}): put that right (a full disk, a permission), then start again"
        ) from None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
