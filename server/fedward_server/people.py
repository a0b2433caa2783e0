"""Who may use the dashboard, as what, and the sessions in which they do.

A person proves himself by a password (argon2id, RFC 9106) and a code of the moment (TOTP, RFC 6238), each of which
counts once. Wrong ones lock a person out, longer each time; whoever guesses is not told what was wrong, nor whether
there is such a person, and takes a bounded part of the hub. A session is known by the digest of a token that the hub
does not keep; it is one browser's at one address, and ends by itself.
"""

import hashlib
import hmac
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, get_args

import argon2
import pyotp
import sqlalchemy as sa
from argon2.exceptions import InvalidHashError, VerificationError

from fedward_common.errors import RunError, SettingsError, UsageError
from fedward_common.joining import is_site_name
from fedward_server.store import METADATA, SITES, Store

Role = Literal["operator", "investigator", "steward", "auditor"]
ROLES: tuple[Role, ...] = get_args(Role)
STARTERS: tuple[Role, ...] = ("operator", "investigator")  # of studies; who registers models, too
AUDIT_READERS: tuple[Role, ...] = ("operator", "auditor")

LEAST_PASSWORD = 12  # characters: NIST SP 800-63B asks for 8 beside a second factor
IDLE_S, LONGEST_S = 30 * 60.0, 12 * 3600.0  # of a session
FREE_TRIES, FIRST_LOCK_S, LONGEST_LOCK_S = 5, 60.0, 3600.0
QUIET_S = 24 * 3600.0  # without a wrong try: then those before count no more
_STEP_S, _SLACK = 30, 1  # of a code: one step on either side counts too
_HASHER = argon2.PasswordHasher()  # RFC 9106's second recommendation: 64 MiB, 3 passes, 4 lanes
_TURNS = threading.BoundedSemaphore(2)  # passwords that are looked at at a time, in the process that sites need too


class BusyError(RunError):
    """Too many try to log in at this moment."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Person:
    """Somebody who may log in; a steward is of one site."""

    name: str
    role: Role
    site: str | None = None
    fingerprint: str | None = None  # of his site's key, where it is enrolled: a name may have been another's

    @property
    def starts(self) -> bool:
        """Whether this person may start studies."""
        return self.role in STARTERS

    @property
    def reads_audit(self) -> bool:
        """Whether this person may read the audit log."""
        return self.role in AUDIT_READERS

    @property
    def asked_as(self) -> tuple[str, str] | None:
        """By which name and key a run must ask this person's site for him to know of it; None for who knows of all."""
        return (self.site or "", self.fingerprint or "") if self.role == "steward" else None

    def sees(self, site: str) -> bool:
        """Whether this person may know of a site: a steward of none but his own."""
        return self.role != "steward" or site == self.site


@dataclass(frozen=True, kw_only=True, slots=True)
class Session:
    """A person who is logged in. `csrf` stands in every form, and in no other session's."""

    person: Person
    csrf: str


_PEOPLE = sa.Table(
    "people",
    METADATA,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("site", sa.String(64)),
    sa.Column("password", sa.String(256), nullable=False),
    sa.Column("totp", sa.String(64), nullable=False),
    sa.Column("totp_step", sa.Integer, nullable=False),  # the last that counted
    sa.Column("failures", sa.Integer, nullable=False),
    sa.Column("locked_until", sa.Float, nullable=False),  # seconds since 1970; of the last try where that locked nobody
    sa.Column("added", sa.String(32), nullable=False),
)
_SESSIONS = sa.Table(
    "sessions",
    METADATA,
    sa.Column("digest", sa.String(64), primary_key=True),
    sa.Column("person", sa.String(64), sa.ForeignKey("people.name", ondelete="CASCADE"), nullable=False),
    sa.Column("client", sa.String(64), nullable=False),  # a digest of the browser's address and name
    sa.Column("begun", sa.Float, nullable=False),
    sa.Column("seen", sa.Float, nullable=False),
)


@dataclass(frozen=True, slots=True)
class People:
    """The people in an opened database. `now` is seconds since 1970; `tell` is given events for the audit log."""

    store: Store
    now: Callable[[], float] = field(default=time.time)
    tell: Callable[[str, dict[str, Any]], object] = field(default=lambda _event, _data: None)

    # Who there is ----------------------------------------------------------------------------------------------------

    def add(self, name: str, role: Role, password: str, *, site: str | None = None) -> str:
        """Let a person log in; gives the secret of the codes (base32), for an app on the person's telephone.

        Raises UsageError for what cannot be, or a person who is there.
        """
        if not is_site_name(name):
            raise UsageError(f"a person's name is 1 to 63 of a-z, 0-9 and '-', the first of them no '-'; not {name!r}")
        if (role == "steward") != (site is not None):
            raise UsageError("a steward is of one site, which --site names; other roles are of none")
        if site is not None and site not in self.store.sites():
            raise UsageError(f"{site} is not enrolled at this hub")
        check_password(password)
        secret = pyotp.random_base32()
        with self.store.writing() as connection:
            if connection.execute(sa.select(_PEOPLE.c.name).where(_PEOPLE.c.name == name)).first() is not None:
                raise UsageError(f"there is a person '{name}' already: remove that one first, or take another name")
            row = sa.insert(_PEOPLE).values(
                name=name, role=role, site=site, password=_HASHER.hash(password), totp=secret
            )
            begins = {"totp_step": 0, "failures": 0, "locked_until": 0.0, "added": datetime.now(UTC).isoformat()}
            connection.execute(row.values(begins))
        return secret

    def remove(self, name: str) -> None:
        """Let a person log in no more; sessions end now. Raises UsageError for one who is not there."""
        with self.store.writing() as connection:
            connection.execute(sa.delete(_SESSIONS).where(_SESSIONS.c.person == name))
            if connection.execute(sa.delete(_PEOPLE).where(_PEOPLE.c.name == name)).rowcount == 0:
                raise _nobody(name)

    def remove_stewards(self, site: str) -> list[str]:
        """The same for whoever is of a site; their names."""
        names = [person.name for person in self.all() if person.site == site]
        for name in names:
            self.remove(name)
        return names

    def unlock(self, name: str) -> None:
        """Forget a person's wrong tries. Raises UsageError for one who is not there."""
        with self.store.writing() as connection:
            forgotten = sa.update(_PEOPLE).where(_PEOPLE.c.name == name).values(failures=0, locked_until=0.0)
            if connection.execute(forgotten).rowcount == 0:
                raise _nobody(name)

    def all(self) -> list[Person]:
        """Everybody, by name."""
        return [_person(row) for row in self.store.rows(sa.select(_PEOPLE).order_by(_PEOPLE.c.name))]

    # Logging in ------------------------------------------------------------------------------------------------------

    def log_in(self, name: str, password: str, code: str, client: str) -> str | None:
        """A new session's token for who proves to be this person, None for anybody else.

        What is wrong is not told. As long as a person is locked out, what is right is wrong too.
        Raises BusyError where too many try at this moment; then nothing was looked at.
        """
        with _turn():
            known = self._try(name)
            right = _verified(known["password"] if known else _NOBODY, password)  # as slow where there is nobody
        step = self._step(known["totp"], code) if known else None
        token = self._begin(name, step, client) if right and step is not None else None
        if token is None:
            self.tell("login refused", self._locked(name))
        else:
            self.tell("logged in", {"by": name})
        return token

    def _begin(self, name: str, step: int, client: str) -> str | None:
        """A new session's token, None where the code of this step was used before."""
        token = secrets.token_urlsafe(32)
        fresh = sa.and_(_PEOPLE.c.name == name, _PEOPLE.c.totp_step < step)
        with self.store.writing() as connection:
            updated = {"totp_step": step, "failures": 0, "locked_until": 0.0}
            if connection.execute(sa.update(_PEOPLE).where(fresh).values(updated)).rowcount != 1:
                return None
            now = self.now()
            row = {"digest": _digest(token), "person": name, "client": _digest(client), "begun": now, "seen": now}
            connection.execute(sa.insert(_SESSIONS).values(row))
        return token

    def _step(self, secret: str, code: str) -> int | None:
        """The step of time that a code is of, None for one that is not of now."""
        totp, now = pyotp.TOTP(secret), self.now()
        for offset in range(-_SLACK, _SLACK + 1):
            if hmac.compare_digest(totp.at(int(now) + offset * _STEP_S).encode(), code.strip().encode()):
                return int(now) // _STEP_S + offset
        return None

    def _try(self, name: str) -> sa.RowMapping | None:
        """The person who is about to try, None where nobody may.

        Counted as wrong before it is looked at, so that of many tries at a time no more are than one by one.
        """
        now, which = self.now(), _PEOPLE.c.name == name
        with self.store.writing() as connection:
            row = connection.execute(sa.select(_PEOPLE).where(which)).mappings().one_or_none()
            if row is None or _holds(row["locked_until"], now):
                return None
            failures = 1 if abs(now - row["locked_until"]) > QUIET_S else row["failures"] + 1
            until = now + _lock_s(failures)
            connection.execute(sa.update(_PEOPLE).where(which).values(failures=failures, locked_until=until))
        return row

    def _locked(self, name: str) -> dict[str, Any]:
        """What may be told of a refusal: nothing where there is no such person, since what was typed may be secret."""
        rows = self.store.rows(sa.select(_PEOPLE.c.locked_until).where(_PEOPLE.c.name == name))
        if not rows:
            return {}
        until = rows[0]["locked_until"]
        locked = datetime.fromtimestamp(until, UTC).isoformat(timespec="seconds") if _holds(until, self.now()) else None
        return {"person": name, "locked_until": locked}

    # Sessions --------------------------------------------------------------------------------------------------------

    def session(self, token: str, client: str, *, stays: bool = True) -> Session | None:
        """Who is logged in by a token, None where it is over, or another browser has it: then it is over for all.

        Unless it `stays`, the question is nobody's doing, and the session ends as if it had not been asked.
        """
        digest, now = _digest(token), self.now()
        found = sa.join(_SESSIONS, _PEOPLE).outerjoin(SITES, SITES.c.site == _PEOPLE.c.site)
        query = (
            sa.select(_SESSIONS, _PEOPLE, SITES.c.fingerprint).select_from(found).where(_SESSIONS.c.digest == digest)
        )
        for row in self.store.rows(query):
            over = abs(now - row["seen"]) > IDLE_S or abs(now - row["begun"]) > LONGEST_S
            stolen = not hmac.compare_digest(row["client"], _digest(client))
            if over or stolen:
                self.log_out(token)
                if not over:
                    self.tell("session ended", {"person": row["person"], "why": "another browser or address had it"})
                return None
            if stays and now - row["seen"] > 1.0:  # a page asks for several things at a time
                with self.store.writing() as connection:
                    connection.execute(sa.update(_SESSIONS).where(_SESSIONS.c.digest == digest).values(seen=now))
            return Session(person=_person(row), csrf=_csrf(token))
        return None

    def log_out(self, token: str) -> None:
        """End a session."""
        with self.store.writing() as connection:
            connection.execute(sa.delete(_SESSIONS).where(_SESSIONS.c.digest == _digest(token)))

    def tidy(self) -> None:
        """Remove sessions that are over."""
        now = self.now()
        over = sa.or_(_SESSIONS.c.seen < now - IDLE_S, _SESSIONS.c.begun < now - LONGEST_S)
        with self.store.writing() as connection:
            connection.execute(sa.delete(_SESSIONS).where(over))


def check_password(password: str) -> None:
    """Raise UsageError for a password that is easily guessed."""
    if len(password) < LEAST_PASSWORD:
        raise UsageError(f"a password has at least {LEAST_PASSWORD} characters: take words that nobody would guess")
    if len(set(password)) < 5:
        raise UsageError("a password of so few different characters is soon guessed: take some words")


def uri_of(secret: str, name: str, hub: str) -> str:
    """What a telephone's app reads (Key URI format)."""
    return pyotp.TOTP(secret).provisioning_uri(name=name, issuer_name=f"Fedward {hub}")


def _person(row: dict[str, object]) -> Person:
    role, site = row["role"], row["site"]
    if role not in ROLES:
        raise SettingsError(f"the hub's database knows a role '{role}' that this Fedward does not: install a newer one")
    key = row.get("fingerprint")
    return Person(
        name=str(row["name"]),
        role=role,
        site=None if site is None else str(site),
        fingerprint=None if key is None else str(key),
    )


@contextmanager
def _turn() -> Iterator[None]:
    """A turn to look at a password. Nobody waits for one: whoever waits keeps a thread from sites and pages."""
    if not _TURNS.acquire(blocking=False):
        raise BusyError("too many try to log in at this moment: try again in a moment")
    try:
        yield
    finally:
        _TURNS.release()


def _nobody(name: str) -> UsageError:
    return UsageError(f"there is no person '{name}': `fedward hub people list` lists them")


def _verified(known: str, password: str) -> bool:
    try:
        return _HASHER.verify(known, password)
    except (VerificationError, InvalidHashError):
        return False


_NOBODY = _HASHER.hash(secrets.token_urlsafe(16))


def _holds(until: float, now: float) -> bool:
    """Whether a lock still holds: one that would take far longer than any was set while the clock was ahead."""
    return 0 < until - now <= 2 * LONGEST_LOCK_S


def _lock_s(failures: int) -> float:
    """For how long so many wrong tries lock a person out."""
    beyond = failures - FREE_TRIES
    return 0.0 if beyond < 0 else min(FIRST_LOCK_S * 2 ** min(beyond, 6), LONGEST_LOCK_S)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _csrf(token: str) -> str:
    """Known to the pages of a session, and not to be had from its digest in the database."""
    return hmac.new(token.encode(), b"forms", hashlib.sha256).hexdigest()
