"""The audit page and its API: who may look, what is found in a long log, what a check says of one that was changed."""

import base64
import fcntl
import hashlib
import json
import re
import time
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from html import unescape
from pathlib import Path
from typing import Any

import pytest
import rfc8785

from fedward_common import pki
from fedward_common.audit import AuditLog, Entry, backwards, copied, entries, entry_of, survey
from fedward_common.errors import AuditError
from fedward_server import audit_search
from fedward_server.audit_check import AuditChecks, Check
from fedward_server.audit_search import Asked, search
from fedward_server.people import Role
from fedward_server.testing import Ground, Person

MANY = 20_000
BEGAN = datetime(2026, 3, 1, tzinfo=UTC)


def grow(path: Path, key_file: Path, many: int) -> None:
    """Append entries to a log as its holder does, an hour apart, without waiting for the disk after each."""
    key = pki.load_signing_key(key_file)
    last = list(entries(path))[-1]
    n, previous, lines = last.n, last.hash, []
    for number in range(many):
        n += 1
        body: dict[str, Any] = {
            "n": n,
            "time": (BEGAN + timedelta(hours=number)).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "event": ("run started", "run finished", "site invited")[number % 3],
            "data": {"run": f"run-{number:05d}", "sites": ["north", "south"]} if number % 3 < 2 else {"site": "east"},
            "previous": previous,
        }
        digest = hashlib.sha256(rfc8785.dumps(body)).digest()
        previous = digest.hex()
        signature = base64.b64encode(key.sign(digest)).decode()
        lines.append(rfc8785.dumps({**body, "hash": previous, "signature": signature}) + b"\n")
    with path.open("ab") as file:
        file.write(b"".join(lines))


@pytest.fixture(scope="module")
def long_log(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A log of MANY entries and one, and the file of its key."""
    folder = tmp_path_factory.mktemp("log")
    pki.write_private(folder / "hub.key", pki.make_signing_key())
    AuditLog(folder / "audit.jsonl", pki.load_signing_key(folder / "hub.key"), "alliance")
    grow(folder / "audit.jsonl", folder / "hub.key", MANY)
    return folder / "audit.jsonl", folder / "hub.key"


@pytest.fixture
def ida(ground: Ground) -> Person:
    return ground.person("ida", "auditor")


def audit_file(ground: Ground) -> Path:
    return ground.hub.audit_file


def change(path: Path, old: bytes, new: bytes) -> None:
    """Change a log where it is, the first time that it says so."""
    text = path.read_bytes()
    assert old in text
    path.write_bytes(text.replace(old, new, 1))


def ended(person: Person) -> dict[str, Any]:
    """How the check of the log ends."""
    deadline = time.monotonic() + 60
    while (found := person.calls("GET", "/audit/verification").json())["state"] == "running":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    told: dict[str, Any] = found
    return told


# Reading a log from its end -------------------------------------------------------------------------------------------


def test_a_log_is_read_backwards_as_it_is_read_forwards(long_log: tuple[Path, Path]) -> None:
    path, _ = long_log
    found = list(backwards(path))
    assert [line for _, line in reversed(found)] == path.read_bytes().splitlines(keepends=True)
    place, line = found[MANY // 2]
    again = next(backwards(path, place + len(line)))
    assert again == (place, line)
    assert next(backwards(path, place + len(line) - 1)) == found[MANY // 2 + 1]  # not the half of one
    assert list(backwards(path, 0)) == []


@pytest.mark.parametrize("torn", [b"", b'{"data"', b"x" * 200_000])
def test_what_is_torn_at_the_end_is_left_out(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"one\n" + b"2" * 100_000 + b"\nthree\n" + torn)
    assert list(backwards(path)) == [(100_005, b"three\n"), (4, b"2" * 100_000 + b"\n"), (0, b"one\n")]
    path.write_bytes(torn)
    assert list(backwards(path)) == []


def test_a_line_that_never_ends_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"one\n" + b"x" * 3 * 2**20 + b"\n")
    with pytest.raises(AuditError, match="a line of log is no entry"):
        list(backwards(path))
    with pytest.raises(AuditError, match="cannot be read"):
        list(backwards(tmp_path / "absent"))


def test_a_copy_is_the_log_as_it_was_when_it_was_asked_for(ground: Ground) -> None:
    before = audit_file(ground).read_bytes()
    size, parts = copied(audit_file(ground))
    ground.hub.audit().append("site invited", {"site": "east"})
    assert b"".join(parts) == before
    assert size == len(before)


# Searching ------------------------------------------------------------------------------------------------------------


def test_a_long_log_is_shown_page_by_page_to_its_beginning(long_log: tuple[Path, Path]) -> None:
    path, key = long_log
    public, numbers, end = pki.load_signing_key(key).public_key(), list[int](), None
    for _ in range(10):
        found = search(path, public, Asked(), end=end)
        numbers += [entry["n"] for entry in found.entries]
        assert all(entry["wrong"] is None for entry in found.entries)
        end = found.older
    assert numbers == list(range(MANY + 1, MANY + 1 - 500, -1))
    last = search(path, public, Asked(), end=len(b"".join(path.read_bytes().splitlines(keepends=True)[:3])))
    assert ([entry["n"] for entry in last.entries], last.older) == ([3, 2, 1], None)


@pytest.mark.parametrize(
    ("asked", "numbers"),
    [
        (Asked(event="BEGUN"), [1]),
        (Asked(text="run-00001"), [3]),
        (Asked(text="Run-0000"), [11, 9, 8, 6, 5, 3, 2]),
        (Asked(text="RUN-00001", event="started"), []),
        (Asked(event="invited", until=date(2026, 3, 1)), [25, 22, 19, 16, 13, 10, 7, 4]),
        (Asked(since=date(2026, 3, 2), until=date(2026, 3, 2), text="run-00024"), [26]),
        (Asked(text="alliance"), [1]),
        (Asked(text="signature"), []),  # is the name of a field, and in no value
        (Asked(since=date(2099, 1, 1)), []),
    ],
)
def test_entries_are_found_by_event_word_and_day(long_log: tuple[Path, Path], asked: Asked, numbers: list[int]) -> None:
    path, key = long_log
    found = search(path, pki.load_signing_key(key).public_key(), asked)
    assert ([entry["n"] for entry in found.entries], found.older) == (numbers, None)


def test_a_search_that_takes_long_is_gone_on_with(long_log: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path, key = long_log
    monkeypatch.setattr(audit_search, "LOOKED_AT", 2**20)
    public, end, looks = pki.load_signing_key(key).public_key(), None, 0
    while True:
        found, looks = search(path, public, Asked(text="run-00000"), end=end), looks + 1
        if found.older is None:
            break
        assert found.entries == []
        end = found.older
    assert [entry["n"] for entry in found.entries] == [2]
    assert looks == path.stat().st_size // 2**20 + 1


# Who may --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["investigator", "steward"])
def test_the_log_is_for_operators_and_auditors(ground: Ground, role: Role) -> None:
    ground.hub.audit().append("site invited", {"site": "east"})
    eve = ground.person("eve", role, "north" if role == "steward" else None)
    assert 'href="/audit"' not in eve.sees("/")
    for path in ("/audit", "/audit?text=east", "/audit/check", "/audit/log"):
        answer = eve.browser.get(path)
        assert answer.status_code == 403, path
        assert "Your role may not do this." in answer.text
        assert "east" not in answer.text
    assert eve.sends("/audit/check")[0] == 403
    for method, path in (("GET", "/audit"), ("GET", "/audit/verification"), ("POST", "/audit/verification")):
        answer = eve.calls(method, path, json={})
        assert answer.status_code == 403
        assert answer.json() == {"error": f"this is for operator or auditor; you are {role}"}


# The page -------------------------------------------------------------------------------------------------------------


def shown(page: str) -> list[int]:
    """The numbers of the entries on a page."""
    return [int(number) for number in re.findall(r'<th scope="row">(\d+)</th>', page)]


def test_the_newest_entry_stands_first_with_all_that_it_says(ground: Ground, ida: Person) -> None:
    entry = ground.hub.audit().append(
        "run started", {"run": "run-1", "sites": ["north", "south"], "reason": None, "by": {"name": "<b>ada</b>"}}
    )
    assert 'href="/audit"' in ida.sees("/")
    page = ida.sees("/audit")
    assert shown(page) == list(range(entry.n, 0, -1))
    assert f"<code>{entry.hash[:12]}…</code>" in page
    row = page.partition(f'<th scope="row">{entry.n}</th>')[2].partition("</tr>")[0]
    assert entry.time[:19].replace("T", " ") in row
    facts = re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", row)
    assert [(name, unescape(value)) for name, value in facts] == [
        ("by", '{"name": "<b>ada</b>"}'),
        ("reason", "null"),
        ("run", "run-1"),
        ("sites", "north, south"),
    ]
    assert "<b>ada</b>" not in page


def test_a_long_log_is_paged_and_searched_by_its_address(ground: Ground, ida: Person) -> None:
    grow(audit_file(ground), ground.hub.keys / "hub.key", 200)
    page = ida.sees("/audit?event=run&since=2026-03-02&until=2026-03-08")
    numbers = shown(page)
    assert len(numbers) == 50
    assert 'value="2026-03-02"' in page
    [older] = re.findall(r'<a href="(/audit\?[^"]*)" rel="next">', page)
    page = ida.sees(unescape(older))
    assert shown(page)[0] < numbers[-1]
    assert len(set(shown(page) + numbers)) == 100
    assert "site invited" not in page
    assert "Newest" in page
    assert "There is no such entry here." in ida.sees("/audit?text=nobody-of-this-name")
    answer = ida.browser.get("/audit?since=yesterday")
    assert answer.status_code == 400
    assert "A date is written as 2027-01-31." in answer.text
    assert ida.browser.get("/audit?end=99999999999999999999999").status_code == 200


def test_the_log_is_downloaded_as_it_is_and_checked_elsewhere(ground: Ground, ida: Person, tmp_path: Path) -> None:
    answer = ida.browser.get("/audit/log")
    assert answer.content == audit_file(ground).read_bytes()
    assert answer.headers["content-disposition"] == 'attachment; filename="alliance-audit.jsonl"'
    assert answer.headers["content-length"] == str(len(answer.content))
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(answer.content)
    [fingerprint] = re.findall(r"--fingerprint ([0-9a-f]{64})<", ida.sees("/audit"))
    assert survey(copy, fingerprint=fingerprint).holder == "alliance"


# The check ------------------------------------------------------------------------------------------------------------


def test_a_whole_log_is_said_to_be_whole(ground: Ground, ida: Person) -> None:
    assert "It was not checked since these pages were started." in ida.sees("/audit")
    assert ida.calls("GET", "/audit/verification").json() is None
    last = ground.hub.audit().append("site invited", {"site": "east"})
    assert ida.sends("/audit/check")[0] == 303
    found = ended(ida)
    assert (found["state"], found["person"], found["entries"]) == ("intact", "ida", last.n)
    assert found["found"]["hash"] == last.hash
    page = ida.sees("/audit")
    assert f"The log is whole: {last.n} entries since" in page
    assert f'<code class="long">{last.hash}</code>' in page
    assert "hx-get" not in page  # nothing is left to wait for


def test_a_changed_entry_is_named_by_the_check_and_on_its_page(ground: Ground, ida: Person) -> None:
    log = ground.hub.audit()
    for site in ("east", "west", "valley"):
        log.append("site invited", {"site": site})
    bad = next(entry.n for entry in entries(audit_file(ground)) if entry.data.get("site") == "west")
    change(audit_file(ground), b'"site":"west"', b'"site":"WEST"')
    ida.sends("/audit/check")
    found = ended(ida)
    why = f"audit.jsonl: entry {bad} (line {bad}) was changed: its content is not what its hash was made of"
    assert (found["state"], found["why"]) == ("bad", why)
    page = unescape(ida.sees("/audit"))
    assert f"The log is not whole: {why}." in page
    row = page.partition(f'<th scope="row">{bad}</th>')[2].partition("</tr>")[0]
    assert "Do not rely on this: this entry was changed" in row
    assert "WEST" not in row
    assert page.count("Do not rely on this") == 1
    listed = ida.calls("GET", "/audit").json()["entries"]
    assert [entry["n"] for entry in listed if entry["wrong"]] == [bad]


def test_lines_that_are_no_entries_are_shown_as_such(ground: Ground, ida: Person) -> None:
    garbage = (
        b"{}",
        b"not json",
        b'{"n":"1","time":3}',
        b"[" * 5000,
        b"\xff",
        b'{"data":{},"event":"x","time":"2026"}',
    )
    with audit_file(ground).open("ab") as file:
        file.write(b"\n".join(garbage) + b"\n")
    page = ida.sees("/audit")
    assert page.count("Do not rely on this: this entry is no entry") == len(garbage)
    assert shown(page)
    assert "Do not rely" not in ida.sees("/audit?text=north")
    assert ida.sees("/audit?since=2000-01-01").count("Do not rely") == len(
        garbage
    )  # nobody knows of which day they are


def test_entries_that_were_removed_are_found(ground: Ground, ida: Person) -> None:
    log = ground.hub.audit()
    log.append("site invited", {"site": "east"})
    noted = log.append("site invited", {"site": "west"}).hash
    log.append("site invited", {"site": "valley"})
    whole = audit_file(ground).read_bytes()
    ida.sends("/audit/check", noted=noted.upper())
    assert ended(ida)["state"] == "intact"
    assert "The hash that you noted is that of one of them" in ida.sees("/audit")
    audit_file(ground).write_bytes(b"".join(whole.splitlines(keepends=True)[:-2]))
    ida.sends("/audit/check")
    assert ended(ida)["state"] == "intact"  # what a log cannot show by itself
    ida.calls("POST", "/audit/verification", json={"noted": noted})
    assert "has no entry with the hash that was noted" in ended(ida)["why"]
    answer = ida.sends("/audit/check", noted="abc")
    assert answer[0] == 400
    assert "A hash is 64 digits" in answer[1]
    assert ida.calls("POST", "/audit/verification", json={"noted": "abc"}).status_code == 422


def test_a_log_that_another_key_wrote_anew_is_found(ground: Ground, ida: Person, tmp_path: Path) -> None:
    pki.write_private(tmp_path / "other.key", pki.make_signing_key())
    other = AuditLog(tmp_path / "other.jsonl", pki.load_signing_key(tmp_path / "other.key"), "alliance")
    other.append("site invited", {"site": "east"})
    audit_file(ground).write_bytes((tmp_path / "other.jsonl").read_bytes())
    ida.sends("/audit/check")
    assert "is signed by another key" in ended(ida)["why"]
    assert "its signature is not the holder" in ida.sees("/audit")


def test_one_check_at_a_time(ground: Ground, ida: Person) -> None:
    ada = ground.person("ada", "operator")
    assert 'href="/audit"' in ada.sees("/")
    ada.browser.app = ida.browser.app  # the same pages
    with audit_file(ground).open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # as who writes: the check waits
        assert ada.sends("/audit/check")[0] == 303
        status, page = ida.sends("/audit/check")
        assert status == 409
        assert "A check is at work already." in page
        assert ida.calls("POST", "/audit/verification", json={}).status_code == 409
        running = ida.sees("/audit/check")
        assert 'hx-get="/audit/check" hx-trigger="every 1s"' in running
        assert "entries are checked, as ada asked." in running
    assert ended(ida)["state"] == "intact"
    assert ida.sends("/audit/check")[0] == 303
    assert ended(ida)["person"] == "ida"


def test_the_progress_is_told_while_the_check_is_at_work(ground: Ground) -> None:
    grow(audit_file(ground), ground.hub.keys / "hub.key", 2000)
    total = next(entry_of(line, ground.hub.audit_key).n for _, line in backwards(audit_file(ground)))
    checks, seen = AuditChecks(), set[int]()
    assert checks.start(ground.hub, "ada")
    deadline = time.monotonic() + 60
    while (last := checks.last) is not None and last.state == "running":
        assert time.monotonic() < deadline
        seen.add(last.checked)
        assert last.entries in {0, total}
        time.sleep(0.01)
    assert isinstance(last, Check)
    assert last.found is not None
    assert last.found.entries == total
    assert len(seen) > 3


# Programs and languages -----------------------------------------------------------------------------------------------


def test_programs_read_the_log_part_by_part(ground: Ground, ida: Person) -> None:
    grow(audit_file(ground), ground.hub.keys / "hub.key", 30)
    numbers, end = list[int](), None
    while True:
        params = {"most": 7} if end is None else {"most": 7, "end": end}
        found = ida.calls("GET", "/audit", params=params).json()
        numbers += [entry["n"] for entry in found["entries"]]
        if (end := found["older"]) is None:
            break
    everything = list(entries(audit_file(ground)))
    assert numbers == [entry.n for entry in reversed(everything)]
    found = ida.calls("GET", "/audit", params={"event": "begun"}).json()
    assert found == {"entries": [{**as_json(everything[0]), "wrong": None}], "older": None}
    for wrong in ({"since": "yesterday"}, {"most": 0}, {"most": 10**6}, {"end": -1}):
        assert ida.calls("GET", "/audit", params=wrong).status_code == 422


def as_json(entry: Entry) -> Any:
    return json.loads(json.dumps(asdict(entry)))


def test_in_chinese(ground: Ground, ida: Person) -> None:
    answer = ida.browser.get("/audit", headers={"accept-language": "zh"})
    assert "检查整个日志" in answer.text
    assert "Download the log" not in answer.text
