"""An audit log under whoever writes it at once, whatever stops it in mid-write, and whoever changes it afterwards."""

import base64
import hashlib
import json
import random
import re
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from fedward_common import cli, pki
from fedward_common.audit import MAX_ENTRY_BYTES, AuditLog, Entry, entries, survey, verified, verify
from fedward_common.errors import AuditError

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
WRITER = """
import sys
from pathlib import Path
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fedward_common.audit import AuditLog, entries, verify
from fedward_common.errors import AuditError

def opened(path):
    return AuditLog(Path(path), Ed25519PrivateKey.from_private_bytes(bytes(range(32))), "north")
"""


def writer(program: str, *arguments: Path | str, before: tuple[str, ...] = ()) -> list[str]:
    """The command line of a process that writes to logs with `opened(path)`."""
    return [*before, sys.executable, "-c", WRITER + program, *map(str, arguments)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


@pytest.fixture
def log(path: Path) -> AuditLog:
    """A log of four entries."""
    log = AuditLog(path, KEY, "north")
    for number in range(3):
        log.append("study approved", {"study": f"study-{number}", "sites": ["north", "süd"], "epsilon": 0.5 * number})
    return log


def lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def refusal(check: Callable[[], object]) -> str:
    with pytest.raises(AuditError) as refused:
        check()
    return str(refused.value)


# What is written -----------------------------------------------------------------------------------------------------


def test_the_log_says_who_holds_it_and_what_happened(path: Path, log: AuditLog) -> None:
    written = list(entries(path))
    assert [entry.n for entry in written] == [1, 2, 3, 4]
    assert (written[0].event, written[0].previous) == ("begun", "0" * 64)
    assert written[0].data == {"public_key": pki.public_hex(KEY.public_key()), "holder": "north"}
    assert written[3].data == {"study": "study-2", "sites": ["north", "süd"], "epsilon": 1.0}
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", entry.time) for entry in written)
    assert verify(path) == verify(path, public_key=KEY.public_key()) == written[3]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_an_entry_can_be_checked_without_fedward(path: Path, log: AuditLog) -> None:
    previous = "0" * 64
    for line in lines(path):
        entry = json.loads(line)
        body = {key: value for key, value in entry.items() if key not in {"hash", "signature"}}
        assert body["previous"] == previous
        digest = hashlib.sha256(rfc8785.dumps(body)).digest()
        assert entry["hash"] == digest.hex()
        KEY.public_key().verify(base64.b64decode(entry["signature"]), digest)
        previous = entry["hash"]


def test_append_gives_the_entry_that_stands_in_the_log(path: Path, log: AuditLog) -> None:
    given = log.append("update left", {"round": 3, "receipt": {"bytes": 10, "masked": False}})
    assert given == verify(path)


def test_a_log_that_is_opened_again_goes_on(path: Path, log: AuditLog) -> None:
    assert AuditLog(path, KEY, "north").append("paused", {}).n == 5
    assert verify(path).n == 5


def test_entries_of_one_event(path: Path, log: AuditLog) -> None:
    log.append("paused", {})
    assert [entry.n for entry in entries(path, event="study approved")] == [2, 3, 4]
    assert [entry.n for entry in entries(path, event="nothing")] == []


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
    max_leaves=10,
)


@given(data=st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), JSON), event=st.text('abc \n"\\ü'))
def test_whatever_json_an_entry_holds_it_comes_back(
    data: dict[str, Any], event: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("log") / "audit.jsonl"
    AuditLog(path, KEY, "north").append(event, data)
    last = verify(path)
    assert (last.event, last.data) == (event, data)


def test_an_entry_that_is_too_long_is_refused_and_the_log_is_as_it_was(path: Path, log: AuditLog) -> None:
    before = path.read_bytes()
    with pytest.raises(AuditError, match=r"would be over 1048576 bytes: record less of it"):
        log.append("x", {"text": "x" * MAX_ENTRY_BYTES})
    assert path.read_bytes() == before
    log.append("x", {"text": "x" * (MAX_ENTRY_BYTES - 1000)})
    log.append("x", {})
    assert verify(path).n == 6


# Many writers --------------------------------------------------------------------------------------------------------

APPEND_IN_THREADS = """
import threading
log = opened(sys.argv[1])
def work(name):
    for number in range(20):
        entry = log.append("work", {"by": name, "number": number})
        print(f"{entry.hash}\\n", end="", flush=True)  # in one piece: threads write at once
threads = [threading.Thread(target=work, args=(f"{sys.argv[2]}{thread}",)) for thread in range(3)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


def test_processes_and_threads_write_at_once_while_others_read(path: Path) -> None:
    writers = [
        subprocess.Popen(writer(APPEND_IN_THREADS, path, name), stdout=subprocess.PIPE, text=True) for name in "abcd"
    ]
    ended = threading.Event()
    read: list[int] = []

    def follow() -> None:
        while not ended.is_set():
            if path.exists() and path.stat().st_size:
                read.append(verify(path).n)

    reader = threading.Thread(target=follow)
    reader.start()
    acknowledged = {line for each in writers for line in each.communicate(timeout=120)[0].split()}
    ended.set()
    reader.join()
    assert [each.returncode for each in writers] == [0] * 4
    assert verify(path).n == 1 + 4 * 3 * 20
    assert {entry.hash for entry in entries(path, event="work")} == acknowledged
    for by in ("a0", "d2"):
        assert [e.data["number"] for e in entries(path, event="work") if e.data["by"] == by] == list(range(20))
    assert read == sorted(read)


def test_a_reader_never_sees_half_an_entry(path: Path) -> None:
    program = "log = opened(sys.argv[1])\nfor _ in range(25): log.append('work', {'filler': 'x' * 1_000_000})"
    AuditLog(path, KEY, "north")
    with subprocess.Popen(writer(program, path)) as process:
        while process.poll() is None:
            verify(path)
    assert (process.returncode, verify(path).n) == (0, 26)


def test_processes_that_open_a_log_at_once_begin_it_once(path: Path) -> None:
    command = writer("opened(sys.argv[1]).append('up', {})", path)
    starters = [subprocess.Popen(command) for _ in range(4)]
    assert [each.wait(60) for each in starters] == [0] * 4
    assert [entry.event for entry in entries(path)] == ["begun"] + ["up"] * 4
    assert verify(path).n == 5


def test_what_was_acknowledged_outlives_a_kill(path: Path) -> None:
    program = (
        "log = opened(sys.argv[1])\nwhile True: print(log.append('work', {'filler': 'x' * 5000}).hash, flush=True)"
    )
    for _ in range(3):
        process = subprocess.Popen(writer(program, path), stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        acknowledged = [process.stdout.readline() for _ in range(random.randrange(5, 30))]
        process.kill()
        acknowledged += process.stdout.readlines()
        process.stdout.close()
        assert process.wait(60) == -signal.SIGKILL
        AuditLog(path, KEY, "north").append("up again", {})
        verify(path)
        known = {entry.hash for entry in entries(path)}
        assert {line.strip() for line in acknowledged if line.endswith("\n")} <= known


# In mid-write --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [1, 100, -1], ids=["one byte", "a part", "all but the line's end"])
def test_a_torn_last_line_is_cut_off_and_told(path: Path, log: AuditLog, kept: int) -> None:
    whole = path.read_bytes()
    torn = lines(path)[-1][:kept]
    path.write_bytes(whole + torn)
    assert [entry.n for entry in entries(path)] == [1, 2, 3, 4]
    assert "entry 5 (line 5) is cut off" in refusal(lambda: verify(path))
    assert AuditLog(path, KEY, "north").append("up again", {}).n == 6
    verify(path)
    assert path.read_bytes().startswith(whole)
    assert [(entry.event, dict(entry.data)) for entry in entries(path)][4:] == [
        ("torn", {"bytes": len(torn)}),
        ("up again", {}),
    ]


def test_a_torn_line_longer_than_what_follows_leaves_nothing(path: Path, log: AuditLog) -> None:
    with path.open("ab") as file:
        file.write(b"x" * 100_000)
    log.append("up again", {})
    assert [entry.event for entry in entries(path)][4:] == ["torn", "up again"]
    assert verify(path).n == 6


@pytest.mark.parametrize("content", [b"", b'{"data":{"hol'])
def test_a_log_whose_first_line_was_never_finished_is_begun(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    AuditLog(path, KEY, "north").append("up", {})
    assert [entry.event for entry in entries(path)] == ["begun", *(["torn"] if content else []), "up"]
    verify(path)


LIMITED = """
import resource
log = opened(sys.argv[1])
log.append("before", {})
size = Path(sys.argv[1]).stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 50, -1))
try:
    log.append("lost", {"filler": "x" * 500})
except AuditError as error:
    print(error)
assert Path(sys.argv[1]).stat().st_size == size
resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
log.append("after", {})
"""


def test_a_failed_write_leaves_the_log_as_it_was(path: Path) -> None:
    result = subprocess.run(writer(LIMITED, path), capture_output=True, text=True, check=True)
    assert result.stdout == "audit.jsonl cannot be written (File too large): free space on its disk\n"
    assert [entry.event for entry in entries(path)] == ["begun", "before", "after"]
    verify(path)


FULL_DISK = """
import subprocess
folder = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], check=True)
(folder / "ballast").write_bytes(b"x" * 100_000)
log = opened(folder / "audit.jsonl")
last = None
try:
    for number in range(1000):
        last = log.append("work", {"number": number, "filler": "x" * 3000})
except AuditError as error:
    print(error)
assert verify(folder / "audit.jsonl") == last
(folder / "ballast").unlink()
assert log.append("after", {}).n == last.n + 1
assert verify(folder / "audit.jsonl").event == "after"
assert not list(entries(folder / "audit.jsonl", event="torn"))
"""


def test_a_full_disk_is_told_and_nothing_is_lost(tmp_path: Path) -> None:
    unshare = ("unshare", "--user", "--map-root-user", "--mount")
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine lets nobody make a mount namespace, and with it a small disk")
    result = subprocess.run(
        writer(FULL_DISK, tmp_path, before=unshare), capture_output=True, text=True, check=False, timeout=120
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == "audit.jsonl cannot be written (No space left on device): free space on its disk\n"


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(AuditError, match=r"^audit\.jsonl cannot be written \(No such file or directory\)"):
        AuditLog(tmp_path / "nothing" / "audit.jsonl", KEY, "north")


# Nothing is chained to what was changed ------------------------------------------------------------------------------


def test_a_log_of_another_key_is_not_written_to(path: Path, log: AuditLog) -> None:
    before = path.read_bytes()
    assert "last entry of audit.jsonl is not this key's" in refusal(lambda: AuditLog(path, OTHER, "north"))
    AuditLog(path.with_name("other.jsonl"), OTHER, "north")
    path.with_name("other.jsonl").replace(path)
    assert "is shorter than it was" in refusal(lambda: log.append("x", {}))
    path.write_bytes(before)
    assert log.append("x", {}).n == 5


def test_a_changed_last_or_first_entry_is_not_followed(path: Path, log: AuditLog) -> None:
    whole = lines(path)
    path.write_bytes(b"".join(whole).replace(b"study-2", b"study-9"))
    assert "the last entry of audit.jsonl is not this key's, or was changed" in refusal(lambda: log.append("x", {}))
    assert "the last entry" in refusal(lambda: AuditLog(path, KEY, "north"))
    path.write_bytes(b"".join(whole[1:]))
    assert "the first entry" in refusal(lambda: AuditLog(path, KEY, "north"))


def test_a_log_cut_short_or_removed_while_it_is_open_is_told(path: Path, log: AuditLog) -> None:
    path.write_bytes(b"".join(lines(path)[:-1]))
    assert "audit.jsonl is shorter than it was, entries were removed" in refusal(lambda: log.append("x", {}))
    path.unlink()
    assert "cannot be written (No such file or directory)" in refusal(lambda: log.append("x", {}))
    assert not path.exists()


# Whoever changes it is found -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a log of five entries."""
    path = tmp_path_factory.mktemp("whole") / "audit.jsonl"
    log = AuditLog(path, KEY, "north")
    for number in range(4):
        log.append("study approved", {"study": f"study-{number}", "accuracy": 1e21, "note": 'a "quoted" ü\n'})
    return path.read_bytes()


def first_bad(content: bytes, folder: Path, public_key: Ed25519PublicKey | None = None) -> int:
    """The entry that a check of these bytes names; all those before it were given as good."""
    path = folder / "changed.jsonl"
    path.write_bytes(content)
    good: list[Entry] = []

    def check() -> None:
        good.extend(verified(path, public_key=public_key))

    found = re.match(r"changed\.jsonl: entry (\d+) \(line \1\) ", refusal(check))
    assert found
    assert len(good) == int(found[1]) - 1
    assert refusal(lambda: verify(path, public_key=public_key)).startswith(found[0])
    return int(found[1])


def test_every_byte_counts(whole: bytes, tmp_path: Path) -> None:
    for place in range(len(whole)):
        changed = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
        assert first_bad(changed, tmp_path) == whole[:place].count(b"\n") + 1


@given(st.data())
def test_any_changed_byte_is_found_and_the_first_bad_entry_named(
    whole: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, len(whole) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != whole[place]) | st.just(whole[place] ^ 0x20))
    changed = whole[:place] + bytes([byte]) + whole[place + 1 :]
    assert first_bad(changed, tmp_path_factory.getbasetemp()) == whole[:place].count(b"\n") + 1


@given(place=st.integers(0, 10**6), added=st.binary(min_size=1, max_size=20), removed=st.integers(0, 20))
def test_any_bytes_put_in_or_taken_out_are_found(
    whole: bytes, tmp_path_factory: pytest.TempPathFactory, place: int, added: bytes, removed: int
) -> None:
    place %= len(whole)
    changed = whole[:place] + added + whole[place + removed :]
    if changed != whole:
        assert first_bad(changed, tmp_path_factory.getbasetemp()) <= whole[:place].count(b"\n") + 1


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'","', b'", "'),
        (b"}\n", b"}\r\n"),
        ("ü".encode(), b"\\u00fc"),
        (b'"n":2', b'"n":2.0'),
        (b'"n":2', b'"n":1,"n":2'),
        (b"1e+21", b"1e21"),
    ],
)
def test_the_same_content_written_otherwise_is_found(whole: bytes, tmp_path: Path, old: bytes, new: bytes) -> None:
    begun, second, *rest = whole.splitlines(keepends=True)
    changed = second.replace(old, new, 1)
    assert changed != second
    assert first_bad(b"".join([begun, changed, *rest]), tmp_path) == 2


def test_bits_of_a_signature_that_nobody_reads_count(whole: bytes, tmp_path: Path) -> None:
    digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    begun, second, *rest = whole.splitlines(keepends=True)
    signature = json.loads(second)["signature"]
    other = f"{signature[:-3]}{digits[digits.index(signature[-3]) ^ 1]}=="
    assert base64.b64decode(other) == base64.b64decode(signature)
    changed = second.replace(signature.encode(), other.encode())
    assert first_bad(b"".join([begun, changed, *rest]), tmp_path) == 2


def moved(rows: list[bytes]) -> Iterator[tuple[str, list[bytes], int]]:
    """What can be done with whole lines, and the first entry that is then wrong."""
    a, b, c, d, e = rows
    yield "one removed", [a, b, d, e], 3
    yield "the first removed", [b, c, d, e], 1
    yield "two changed places", [a, c, b, d, e], 2
    yield "one twice", [a, b, b, c, d, e], 3
    yield "the first again", [a, a, b], 2
    yield "an empty line", [a, b, b"\n", c], 3
    yield "an old end on a new one", [a, b, c, d, e, c, d, e], 6


@pytest.mark.parametrize("number", range(7))
def test_moved_lines_are_found(whole: bytes, tmp_path: Path, number: int) -> None:
    _what, changed, bad = list(moved(whole.splitlines(keepends=True)))[number]
    assert first_bad(b"".join(changed), tmp_path) == bad


def forged(line: bytes, key: Ed25519PrivateKey, **changes: Any) -> bytes:
    """An entry changed by somebody who knows the format: the hash is right, the signature another key's."""
    entry = {**json.loads(line), **changes}
    body = {name: value for name, value in entry.items() if name not in {"hash", "signature"}}
    digest = hashlib.sha256(rfc8785.dumps(body)).digest()
    signature = base64.b64encode(key.sign(digest)).decode()
    return rfc8785.dumps({**body, "hash": digest.hex(), "signature": signature}) + b"\n"


def test_who_knows_the_format_but_not_the_key_is_found(whole: bytes, tmp_path: Path) -> None:
    rows = whole.splitlines(keepends=True)
    for number in range(5):
        changed = [*rows]
        changed[number] = forged(rows[number], OTHER, data={**json.loads(rows[number])["data"], "study": "another"})
        assert first_bad(b"".join(changed), tmp_path) == number + 1
    previous = json.loads(rows[-1])["hash"]
    added = forged(rows[-1], OTHER, n=6, previous=previous)
    assert first_bad(whole + added, tmp_path) == 6


def test_a_whole_log_of_another_key_is_found(path: Path, log: AuditLog, tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    AuditLog(other, OTHER, "north").append("study approved", {})
    verify(other)
    assert first_bad(other.read_bytes(), tmp_path, KEY.public_key()) == 1
    theirs = {"public_key": pki.public_hex(OTHER.public_key()), "holder": "north"}
    rows = lines(path)
    assert first_bad(b"".join([forged(rows[0], KEY, data=theirs), *rows[1:]]), tmp_path) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"event": "study approved"},
        {"data": {}},
        {"data": {"public_key": 7, "holder": "north"}},
        {"data": {"public_key": "00", "holder": "north"}},
        {"data": {"public_key": "00" * 32, "holder": 7}},
        {"n": True},
        {"n": 2},
        {"time": None},
        {"previous": "1" * 64},
        {"more": 1},
    ],
    ids=str,
)
def test_a_first_entry_that_begins_nothing_is_refused(
    path: Path, log: AuditLog, tmp_path: Path, change: dict[str, Any]
) -> None:
    assert first_bad(forged(lines(path)[0], KEY, **change), tmp_path) == 1


@pytest.mark.parametrize(
    "line",
    [
        b"[]",
        b"7",
        b"{}",
        b"\xff\xfe",
        b"[" * 100_000,
        b"9" * 10_000,
        b'{"n": NaN}',
        b"x" * (MAX_ENTRY_BYTES + 10),
        b"\0" * 100,
    ],
    ids=lambda line: repr(line[:10]),
)
def test_what_is_no_entry_is_refused(whole: bytes, tmp_path: Path, line: bytes) -> None:
    assert first_bad(whole + line + b"\n", tmp_path) == 6
    with pytest.raises(AuditError, match=r"entry 6 \(line 6\) is no entry"):
        list(entries(tmp_path / "changed.jsonl"))


def test_a_cut_end_is_found_by_who_noted_a_hash(path: Path, log: AuditLog) -> None:
    noted = verify(path).hash
    log.append("paused", {})
    assert survey(path, noted=noted).entries == 5
    path.write_bytes(b"".join(lines(path)[:3]))
    assert verify(path).n == 3
    assert "has no entry with the hash that was noted: its end was cut off" in refusal(
        lambda: survey(path, noted=noted)
    )


def test_a_log_that_is_empty_or_not_there(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert refusal(lambda: verify(tmp_path / "empty")) == "empty is empty: restore it from a backup"
    assert "cannot be read (No such file or directory)" in refusal(lambda: verify(tmp_path / "nothing"))
    assert "cannot be read (Is a directory)" in refusal(lambda: list(entries(tmp_path)))


# fedward audit verify ------------------------------------------------------------------------------------------------


def run(*args: Path | str) -> Any:
    return CliRunner().invoke(cli.app, ["audit", "verify", *map(str, args)], env={"COLUMNS": "200"})


def test_the_command_says_what_a_log_is(path: Path, log: AuditLog) -> None:
    last = verify(path)
    found = json.loads(run(path, "--json").stdout)
    assert found == {
        "ok": True,
        "holder": "north",
        "fingerprint": pki.fingerprint(KEY.public_key()),
        "entries": 4,
        "first": next(entries(path)).time,
        "last": last.time,
        "hash": last.hash,
    }
    assert found == {"ok": True, **asdict(survey(path))}
    shown = run(path)
    assert shown.exit_code == 0
    assert all(str(value) in shown.stdout for key, value in found.items() if key != "ok")


def test_the_command_takes_the_folder_of_a_site_or_a_hub(tmp_path: Path) -> None:
    (tmp_path / "north" / ".fedward").mkdir(parents=True)
    AuditLog(tmp_path / "north" / ".fedward" / "audit.jsonl", KEY, "north")
    for folder in ("north", "north/.fedward", "north/.fedward/audit.jsonl"):
        assert json.loads(run(tmp_path / folder, "--json").stdout)["holder"] == "north"
    refused = run(tmp_path)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "holds no audit log: give a hub's folder, a site's, or the file audit.jsonl itself" in refused.stderr


def test_the_command_fails_in_one_sentence(path: Path, log: AuditLog) -> None:
    path.write_bytes(path.read_bytes().replace(b"study-1", b"study-9"))
    refused = run(path)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert refused.stderr == (
        "fedward: audit.jsonl: entry 3 (line 3) was changed: its content is not what its hash was made of\n"
    )


def test_the_command_holds_a_log_against_what_was_noted(path: Path, log: AuditLog) -> None:
    mine, noted = pki.fingerprint(KEY.public_key()), verify(path).hash
    assert run(path, "--fingerprint", mine, "--last", noted).exit_code == 0
    other = run(path, "--fingerprint", pki.fingerprint(OTHER.public_key()))
    assert other.exit_code == 1
    grouped = pki.grouped(mine)  # as every command prints it
    assert run(path, "--fingerprint", grouped.upper(), "--last", f" {noted.upper()}").exit_code == 0
    for option in ("--fingerprint", "--last"):
        short = run(path, option, mine[:-1])
        assert short.exit_code == 2
        assert "either has 64 hex digits" in short.stderr
    assert f"audit.jsonl is signed by another key, that with the fingerprint {mine}" in other.stderr
    assert run(path, "--last", "0" * 64).exit_code == 1


def test_a_log_does_not_steer_the_terminal(path: Path) -> None:
    AuditLog(path, KEY, "north\x1b[2J")
    assert "\x1b" not in run(path).stdout


def test_the_help_shows_an_example_that_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = CliRunner().invoke(cli.app, ["audit", "verify", "--help"], env={"COLUMNS": "200", "TERMINAL_WIDTH": "200"})
    example = shown.stdout.partition("Example: fedward ")[2].split("\n")[0].split()
    assert example == ["audit", "verify", "north"]
    (tmp_path / "north" / ".fedward").mkdir(parents=True)
    AuditLog(tmp_path / "north" / ".fedward" / "audit.jsonl", KEY, "north")
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(cli.app, example).exit_code == 0
