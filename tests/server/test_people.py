"""Who may log in, with what, how often he may be wrong, and how long it lasts."""

import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pyotp
import pytest
import sqlalchemy as sa

from fedward_common.errors import UsageError
from fedward_server import people as module
from fedward_server.people import IDLE_S, LONGEST_S, QUIET_S, BusyError, People, Person, Role, uri_of
from fedward_server.store import SiteRow, Store

WORDS, HERE = "correct horse battery", "10.1.2.3 Firefox"


@dataclass
class Clock:
    s: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store.sqlite") as opened:
        opened.add_site(SiteRow(site="north", fingerprint="f", node_key="n", signing_key="s", added="now"))
        yield opened


@pytest.fixture
def people(store: Store, clock: Clock) -> People:
    return People(store, clock)


@dataclass
class Ada:
    """An operator, and the app on her telephone."""

    people: People
    clock: Clock
    secret: str

    def code(self, offset: int = 0) -> str:
        return pyotp.TOTP(self.secret).at(int(self.clock.s) + 30 * offset)

    def log_in(self, password: str = WORDS, code: str | None = None, client: str = HERE) -> str | None:
        return self.people.log_in("ada", password, self.code() if code is None else code, client)


@pytest.fixture
def ada(people: People, clock: Clock) -> Ada:
    return Ada(people, clock, people.add("ada", "operator", WORDS))


def test_a_person_logs_in_with_password_and_code(ada: Ada, people: People, tmp_path: Path) -> None:
    token = ada.log_in()
    assert token is not None
    session = people.session(token, HERE)
    assert session is not None
    assert session.person == Person(name="ada", role="operator")
    again = people.session(token, HERE)
    assert again is not None
    assert again.csrf == session.csrf
    kept = (tmp_path / "store.sqlite").read_bytes() + (tmp_path / "store.sqlite-wal").read_bytes()
    for secret in (token, WORDS, session.csrf):
        assert secret.encode() not in kept
    assert b"$argon2id$" in kept


def test_the_codes_are_those_of_rfc_6238(people: People, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"  # the 20 bytes of its appendix B
    monkeypatch.setattr("pyotp.random_base32", lambda: secret)
    assert people.add("ada", "operator", WORDS) == secret
    for seconds, code in ((59, "287082"), (1111111109, "081804"), (1234567890, "005924"), (2000000000, "279037")):
        clock.s = float(seconds)
        assert people.log_in("ada", WORDS, code, HERE) is not None


def test_what_is_wrong_is_not_told(ada: Ada, people: People) -> None:
    assert ada.log_in(password="correct horse batterx") is None
    assert ada.log_in(code="000000" if ada.code() != "000000" else "000001") is None
    assert ada.log_in(code="") is None
    assert people.log_in("eve", WORDS, ada.code(), HERE) is None
    assert people.log_in("", "", "", "") is None
    assert ada.log_in() is not None


def test_a_code_counts_once_and_now(ada: Ada, clock: Clock) -> None:
    code = ada.code()
    assert ada.log_in(code=code) is not None
    assert ada.log_in(code=code) is None  # read over a shoulder
    clock.s += 30
    assert ada.log_in(code=code) is None  # its own slack would let it through
    assert ada.log_in() is not None
    clock.s += 300
    assert ada.log_in(code=ada.code(-3)) is None
    assert ada.log_in(code=ada.code(-1)) is not None  # a telephone that is slow
    assert ada.log_in(code=ada.code(1)) is not None


def test_guessing_is_locked_out_and_longer_each_time(ada: Ada, clock: Clock) -> None:
    for _ in range(5):
        assert ada.log_in(password="guess guess guess") is None
    assert ada.log_in() is None  # right, and locked out
    clock.s += 61
    assert ada.log_in() is not None
    for lock_s in (60, 120, 240):
        for _ in range(5 if lock_s == 60 else 1):
            ada.log_in(password="guess guess guess")
        clock.s += lock_s - 1
        assert ada.log_in() is None
        clock.s += 2
    for _ in range(20):
        clock.s += 3601
        ada.log_in(password="guess guess guess")
    clock.s += 3601
    assert ada.log_in() is not None  # never for good: nobody can lock a hospital out of its own federation


def test_ever_so_many_wrong_tries_lock_for_an_hour(ada: Ada, clock: Clock, store: Store) -> None:
    with store.writing() as connection:
        connection.execute(sa.update(module._PEOPLE).values(failures=10_000, locked_until=clock.s))
    assert ada.log_in(password="guess guess guess") is None
    clock.s += 3599
    assert ada.log_in() is None
    clock.s += 2
    assert ada.log_in() is not None


def test_a_clock_that_was_ahead_locks_nobody_out(ada: Ada, people: People, clock: Clock) -> None:
    now = clock.s
    clock.s += 86_400
    for _ in range(6):
        ada.log_in(password="guess guess guess")
    token = ada.people.log_in("ada", WORDS, ada.code(), HERE)
    assert token is None
    clock.s = now
    token = ada.log_in()
    assert token is not None
    clock.s += 86_400
    assert people.session(token, HERE) is None


def test_a_session_of_a_clock_that_was_ahead_is_over(ada: Ada, people: People, clock: Clock) -> None:
    clock.s += 86_400
    token = ada.log_in()
    assert token is not None
    assert people.session(token, HERE) is not None
    clock.s -= 86_400
    assert people.session(token, HERE) is None


def test_wrong_tries_are_forgotten_after_a_quiet_day_or_by_who_unlocks(ada: Ada, people: People, clock: Clock) -> None:
    for unlocked in (False, True):
        for _ in range(5):
            ada.log_in(password="guess guess guess")
        if unlocked:
            people.unlock("ada")
        else:
            clock.s += 60 + QUIET_S + 1
        ada.log_in(password="guess guess guess")  # one that would lock him out again
        assert ada.log_in() is not None
        clock.s += 30
    with pytest.raises(UsageError, match="there is no person 'eve'"):
        people.unlock("eve")


def test_of_many_tries_at_a_time_no_more_are_looked_at_than_one_by_one(ada: Ada, store: Store) -> None:
    start = threading.Barrier(8, timeout=30)

    def guess() -> None:
        start.wait()
        while True:
            with suppress(BusyError):
                ada.log_in(password="guess guess guess")
                return

    threads = [threading.Thread(target=guess) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    [failures] = store.rows(sa.select(module._PEOPLE.c.failures))
    assert failures == {"failures": 5}


def test_a_session_ends_by_itself(ada: Ada, people: People, clock: Clock) -> None:
    token = ada.log_in()
    assert token is not None
    for _ in range(5):
        clock.s += IDLE_S - 1
        assert people.session(token, HERE) is not None
    clock.s += IDLE_S + 1
    assert people.session(token, HERE) is None
    token = ada.log_in()
    assert token is not None
    for _ in range(int(LONGEST_S // 1000)):
        clock.s += 1000
        assert people.session(token, HERE) is not None
    clock.s += 1000
    assert people.session(token, HERE) is None


def test_a_stolen_session_is_over_for_the_thief_and_for_its_owner(ada: Ada, people: People) -> None:
    token = ada.log_in()
    assert token is not None
    assert people.session(token, "10.9.9.9 curl") is None
    assert people.session(token, HERE) is None  # who sees by this that something is wrong
    assert people.session("guess", HERE) is None


def test_who_logs_out_or_is_removed_is_out(ada: Ada, people: People, clock: Clock) -> None:
    token = ada.log_in()
    assert token is not None
    people.log_out(token)
    assert people.session(token, HERE) is None
    clock.s += 30
    token = ada.log_in()
    assert token is not None
    people.remove("ada")
    assert people.session(token, HERE) is None
    assert ada.log_in() is None
    with pytest.raises(UsageError, match="there is no person 'ada'"):
        people.remove("ada")


def test_sessions_that_are_over_are_removed(ada: Ada, people: People, clock: Clock, store: Store) -> None:
    ada.log_in()
    clock.s += IDLE_S + 30
    kept = ada.log_in()
    people.tidy()
    assert kept is not None
    assert people.session(kept, HERE) is not None
    assert len(store.rows(sa.select(module._SESSIONS))) == 1


@pytest.mark.parametrize(
    ("name", "role", "password", "site", "words"),
    [
        ("Ada L", "operator", WORDS, None, "a person's name is"),
        ("ada", "operator", "short", None, "at least 12 characters"),
        ("ada", "operator", "aaaaaaaaaaaaab", None, "so few different"),
        ("ada", "steward", WORDS, None, "a steward is of one site"),
        ("ada", "operator", WORDS, "north", "a steward is of one site"),
        ("ada", "steward", WORDS, "south", "south is not enrolled"),
        ("bob", "operator", WORDS, None, "there is a person 'bob' already"),
    ],
)
def test_people_who_cannot_be(
    people: People, name: str, role: str, password: str, site: str | None, words: str
) -> None:
    people.add("bob", "auditor", WORDS)
    with pytest.raises(UsageError, match=words):
        people.add(name, cast("Role", role), password, site=site)
    assert [each.name for each in people.all()] == ["bob"]


def test_a_steward_sees_one_site(people: People) -> None:
    people.add("sten", "steward", WORDS, site="north")
    [sten] = people.all()
    assert sten.sees("north")
    assert not sten.sees("south")
    assert Person(name="ada", role="auditor").sees("south")


def test_a_telephone_reads_it() -> None:
    found = uri_of("GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ", "ada", "alliance")
    assert found.startswith(
        "otpauth://totp/Fedward%20alliance:ada?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ&issuer=Fedward"
    )
