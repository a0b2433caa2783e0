"""`fedward site backup | restore`: all that cannot be made again, in one file that is whole or refused."""

import hashlib
import io
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, cast

import pytest
from click.testing import Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from fedward_client import catalog, locks
from fedward_client.backup import MEMBERS, backup
from fedward_client.cli import app
from fedward_client.ledger import Ledger
from fedward_client.member import Member
from fedward_client.restore import Restored, restore
from fedward_client.site import Site
from fedward_client.steward import approve, withdraw
from fedward_common import audit
from fedward_common.errors import AuditError, FedwardError, SettingsError, UsageError
from fedward_common.sealed_archives import MANIFEST
from fedward_common.sealing import Sealer, Unsealer
from fedward_common.study import StudySpec

TODAY = datetime.now(UTC).date()
WORDS = "seven dull hospital windows"
MemberMaker = Callable[..., Member]
StudyMaker = Callable[..., StudySpec]


@pytest.fixture
def full(member: MemberMaker, roster_study: StudyMaker) -> Member:
    """A site that was scanned, with an approval."""
    at = member()
    catalog.scan(at.site)
    approve(at, roster_study(at), TODAY)
    return at


def backed_up(at: Member, tmp_path: Path) -> Path:
    path = tmp_path / "north.backup"
    backup(at, path, WORDS, cost=1)
    return path


def tree(folder: Path) -> dict[str, str]:
    """Every file of a folder and a digest of it; locks come and go."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".lock"
    }


def put_back(path: Path, folder: Path, *, replace: bool = False) -> Restored:
    return restore(folder, path, WORDS, replace=replace)


def refused(path: Path, folder: Path, kind: type[FedwardError] = SettingsError) -> str:
    """What a restore is refused with; it changed nothing and left nothing."""
    before = tree(folder) if folder.exists() else None
    with pytest.raises(kind) as told:
        put_back(path, folder)
    assert (tree(folder) if folder.exists() else None) == before
    assert not list(folder.rglob(".restoring-*"))
    return str(told.value)


def contents(path: Path) -> dict[str, bytes]:
    with path.open("rb") as file, tarfile.open(fileobj=cast("IO[bytes]", Unsealer(file, WORDS)), mode="r|") as archive:
        return {info.name: cast("IO[bytes]", archive.extractfile(info)).read() for info in archive}


def packed(path: Path, members: dict[str, bytes | tarfile.TarInfo]) -> Path:
    """A backup made by hand."""
    with path.open("wb") as file:
        sealer = Sealer(file, WORDS, cost=1)
        with tarfile.open(fileobj=cast("IO[bytes]", sealer), mode="w|") as archive:
            for name, content in members.items():
                if isinstance(content, tarfile.TarInfo):
                    archive.addfile(content)
                    continue
                info = tarfile.TarInfo(name.removesuffix("!"))
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        sealer.finish()
    return path


def test_a_site_comes_back_on_another_machine(full: Member, tmp_path: Path) -> None:
    (full.site.state / ".backup-of-a-killed-process").mkdir()
    path, folder = backed_up(full, tmp_path), tmp_path / "new" / "north"
    assert not list(full.site.state.glob(".backup-*"))
    assert path.stat().st_mode & 0o777 == 0o600
    assert contents(path).keys() == set(MEMBERS) - {"link/hub.json"}
    for name in ("P0", "P1"):
        shutil.copytree(full.site.folder / name, folder / name)
    shutil.copy2(full.site.folder / "labels.csv", folder)
    done = put_back(path, folder)
    assert (done.site, done.aside, [approval.study_id for approval in done.approvals]) == ("north", None, ["tiny"])

    site = Site.open(folder)
    for key in ("site.key", "signing.key", "link/node.key"):
        assert (site.state / key).read_bytes() == (full.site.state / key).read_bytes()
    private = [path for path in site.state.rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert {path.stat().st_mode & 0o777 for path in private} == {0o600}
    assert {path.stat().st_mode & 0o777 for path in (site.state, site.link, site.spool)} == {0o700}
    assert not [path.name for path in site.state.iterdir() if path.name.endswith(("-wal", "-shm"))]
    with catalog.Catalog.open(full.site) as before, catalog.Catalog.open(site) as after:
        assert after.images() == before.images()
    member = Member.open(site)
    with member.ledger:
        assert member.ledger.approvals() == full.ledger.approvals()
        assert member.ledger.studies() == full.ledger.studies()
        assert member.ledger.paused() is not None, "withdrawn approvals are back: a person looks first"
        member.ledger.resume()
        withdraw(member, member.ledger.approvals()[0].digest)
    events = [entry.event for entry in audit.verified(site.state / "audit.jsonl", public_key=full.key.public_key())]
    assert events == ["begun", "approved", "backed up", "restored", "withdrawn"]


def test_a_backup_of_a_site_at_work_is_of_one_moment(full: Member, tmp_path: Path) -> None:
    """Each number is bound under two names in turn: the second is never there without the first."""
    stopping, bound = threading.Event(), threading.Event()

    def work() -> None:
        with Ledger.open(full.site.state) as ledger:
            number = 0
            while not stopping.is_set():
                number += 1
                ledger.once(f"run-{number}", "a", "first")
                ledger.once(f"run-{number}", "b", "second")
                full.log.append("paused", {"reason": "at work"})
                bound.set()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert bound.wait(60)
        backups = [tmp_path / f"{number}.backup" for number in range(3)]
        for path in backups:
            backup(full, path, WORDS, cost=1)
    finally:
        stopping.set()
        thread.join()
    for number, path in enumerate(backups):
        restore(tmp_path / f"new-{number}", path, WORDS)
        with closing(sqlite3.connect(tmp_path / f"new-{number}" / ".fedward" / "ledger.sqlite")) as ledger:
            names = [{row[0] for row in ledger.execute(f"SELECT run FROM bound WHERE name = '{it}'")} for it in "ab"]
        assert names[1] <= names[0]
        assert len(names[0] - names[1]) <= 1


def test_what_is_there_is_kept(full: Member, tmp_path: Path) -> None:
    path = backed_up(full, tmp_path)
    with pytest.raises(UsageError, match="is there already and was left as it is"):
        backup(full, path, WORDS)
    said = refused(path, full.site.folder, UsageError)
    assert "the state folder of a site is there already: restore into an empty folder, or say --replace" in said
    held = locks.claimed(full.site.state, "north", locks.EXECUTOR)
    with held, pytest.raises(SettingsError, match="another daemon"):
        put_back(path, full.site.folder, replace=True)
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    (fresh / "site.toml").write_text('[site]\nname = "south"\n')
    assert refused(path, fresh, UsageError).startswith("site.toml of a site is there already")


def test_replacing_moves_aside_what_was_there(full: Member, tmp_path: Path) -> None:
    path, state = backed_up(full, tmp_path), full.site.state
    (full.site.folder / "site.toml").write_text('[site]\nname = "south"\n')
    full.log.append("paused", {"reason": "since the backup"})
    before = tree(state)
    for time in range(2):
        done = put_back(path, full.site.folder, replace=True)
        assert done.aside is not None
        if not time:
            aside = tree(done.aside)
            assert aside.pop("site.toml") == hashlib.sha256(b'[site]\nname = "south"\n').hexdigest()
            assert {name: aside[name] for name in before if "sqlite" not in name} == {
                name: before[name] for name in before if "sqlite" not in name
            }
    assert Site.open(full.site.folder).name == "north"
    entries = [entry.event for entry in audit.verified(state / "audit.jsonl")]
    assert entries == ["begun", "approved", "backed up", "restored"]
    assert len([path for path in state.iterdir() if path.name.startswith("replaced-")]) == 2


def test_the_state_folder_is_where_the_settings_say_or_the_caller(full: Member, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (full.site.folder / "site.toml").write_text(f'[site]\nname = "north"\nstate = "{elsewhere}"\n')
    path = backed_up(full, tmp_path)
    assert put_back(path, tmp_path / "a").state == elsewhere
    assert Site.open(tmp_path / "a").state == elsewhere
    done = restore(tmp_path / "b", path, WORDS, state=tmp_path / "b-state")
    assert (done.state, (tmp_path / "b-state" / "signing.key").exists()) == (tmp_path / "b-state", True)


@pytest.fixture
def whole(full: Member, tmp_path: Path) -> bytes:
    """A backup."""
    return backed_up(full, tmp_path).read_bytes()


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_backup_with_a_changed_byte_or_without_its_end_is_refused(
    whole: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, len(whole) - 1).filter(lambda place: place != 17))  # scrypt's cost: seconds
    changed = bytearray(whole)
    changed[place] ^= data.draw(st.integers(1, 255))
    folder = tmp_path_factory.mktemp("damage")
    (folder / "broken").write_bytes(data.draw(st.sampled_from([bytes(changed), whole[:place], whole + b"\0"])))
    assert refused(folder / "broken", folder / "new").startswith("broken: it ")
    assert not (folder / "new").exists()


def test_another_passphrase_and_other_files_are_refused_in_words(full: Member, tmp_path: Path) -> None:
    path = backed_up(full, tmp_path)
    with pytest.raises(SettingsError, match=r"north\.backup: it was sealed with another passphrase"):
        restore(tmp_path / "new", path, WORDS + "!")
    (tmp_path / "text").write_text("a letter")
    assert "text: it is nothing that Fedward sealed" in refused(tmp_path / "text", tmp_path / "new")
    assert "absent cannot be read or written (No such file" in refused(tmp_path / "absent", tmp_path / "new")
    with (tmp_path / "other").open("wb") as file:
        sealer = Sealer(file, WORDS, cost=1)
        sealer.write(b"no archive at all" * 100)
        sealer.finish()
    assert refused(tmp_path / "other", tmp_path / "new") == "other: it is no backup of a site: name another file"


def link(name: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
    return info


def test_what_is_no_backup_of_this_version_is_refused(full: Member, tmp_path: Path) -> None:
    members: dict[str, bytes | tarfile.TarInfo] = dict(contents(backed_up(full, tmp_path)))
    manifest, key = cast("bytes", members[MANIFEST]), members["site.key"]

    def refusal(**changes: bytes | tarfile.TarInfo | None) -> str:
        changed = {name: value for name, value in (members | changes).items() if value is not None}
        return refused(packed(tmp_path / "changed", changed), tmp_path / "new")

    assert "made by a newer Fedward" in refusal(**{MANIFEST: manifest.replace(b'"format":1', b'"format":2')})
    assert "made by a newer Fedward" in refusal(**{MANIFEST: manifest[:-1] + b',"more":1}'})
    assert "it is the backup of a hub: use `fedward hub restore`" in refusal(
        **{MANIFEST: manifest.replace(b'"site":', b'"hub":')}
    )
    assert "where manifest.json should be" in refusal(**{MANIFEST: None})
    for foreign in ("../up", "/etc/cron.d/x", "cache/images.npy", "link/../../up"):
        assert "it holds what no backup of a site does" in refusal(**{foreign: b"x"})
    assert "it holds what no backup of a site does" in refusal(**{"site.key": link("site.key")})
    assert "it holds what no backup of a site does" in refusal(**{"site.key!": cast("bytes", key)})
    for name in ("signing.key", "ledger.sqlite", "audit.jsonl", "link/node.key", "site.key"):
        assert f"it lacks {name}" in refusal(**{name: None})
    assert "site.key in it does not hold 32 bytes" in refusal(**{"site.key": b"short"})
    for database in ("ledger.sqlite", "catalog.sqlite"):
        assert f"{database} is damaged (" in refusal(**{database: b"no database at all" * 100})
    assert "holds no private key" in refusal(**{"signing.key": b"short"})
    log = cast("bytes", members["audit.jsonl"])
    assert refused_log(log.replace(b'"tiny"', b'"shiny"'), members, tmp_path).startswith("audit.jsonl: entry 2")
    ledger = tmp_path / "ledger.sqlite"
    ledger.write_bytes(cast("bytes", members["ledger.sqlite"]))
    with closing(sqlite3.connect(ledger)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'r9999'")
        connection.commit()
    assert "ledger.sqlite was written by a newer Fedward" in refusal(**{"ledger.sqlite": ledger.read_bytes()})


def refused_log(log: bytes, members: dict[str, bytes | tarfile.TarInfo], tmp_path: Path) -> str:
    return refused(packed(tmp_path / "changed", {**members, "audit.jsonl": log}), tmp_path / "new", AuditError)


def test_what_could_not_be_restored_is_not_backed_up(full: Member, tmp_path: Path) -> None:
    key, log = full.site.link / "node.key", full.site.state / "audit.jsonl"
    key.rename(full.site.link / "other.key")
    with pytest.raises(SettingsError, match=r"link/node\.key is missing: run `fedward site init`"):
        backup(full, tmp_path / "north.backup", WORDS, cost=1)
    (full.site.link / "other.key").rename(key)
    log.write_bytes(log.read_bytes().replace(b'"tiny"', b'"t1ny"'))
    with pytest.raises(AuditError, match="entry 2"):
        backup(full, tmp_path / "north.backup", WORDS, cost=1)
    assert not [path.name for path in tmp_path.iterdir() if path.name != "north"]
    assert not list(full.site.state.glob(".backup-*"))


FULL = """
import resource, sys
from pathlib import Path
from fedward_client.backup import backup
from fedward_client.member import Member
from fedward_client.restore import restore
from fedward_client.site import Site
from fedward_common.errors import SettingsError

folder, path, new = map(Path, sys.argv[1:])
member = Member.open(Site.open(folder))
whole = path.with_name("whole")
backup(member, whole, "seven dull hospital windows", cost=1)
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, -1))
for work in (
    lambda: backup(member, path, "seven dull hospital windows", cost=1),
    lambda: restore(new, whole, "seven dull hospital windows"),
):
    try:
        work()
    except SettingsError as error:
        print(error)
print(sorted(one.name for one in path.parent.iterdir()), new.exists())
"""


def test_a_full_disk_leaves_no_part_of_a_file(full: Member, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    command = [sys.executable, "-c", FULL, *map(str, (full.site.folder, out / "north.backup", tmp_path / "new"))]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    *told, left = done.stdout.splitlines()
    assert len(told) == 2
    assert all("cannot be" in line for line in told), told
    assert left == "['whole'] False"
    assert not list(full.site.state.glob(".backup-*"))


def run(*arguments: str | Path, answer: str | None = None) -> Result:
    return CliRunner().invoke(app, [str(each) for each in arguments], input=answer, env={"COLUMNS": "160"})


def test_the_commands(full: Member, tmp_path: Path) -> None:
    path, words = tmp_path / "north.backup", tmp_path / "words"
    words.write_text(WORDS + "\n")
    assert "can be read by others: chmod 600 it" in str(
        run("backup", full.site.folder, path, "--passphrase-file", words).exception
    )
    short = run("backup", full.site.folder, path, answer="short\nshort\n")
    assert isinstance(short.exception, UsageError)
    assert "at least 12 characters" in str(short.exception)
    assert not path.exists()
    done = run("backup", full.site.folder, path, answer=f"{WORDS}\n{WORDS}\n")
    assert done.exit_code == 0, done.output
    assert "Site north is backed up: " in done.output
    words.chmod(0o600)
    back = run("restore", tmp_path / "new", path, "--passphrase-file", words)
    assert back.exit_code == 0, back.output
    assert "Approved then: tiny (digest " in back.output
    assert "and paused" in back.output
    replaced = run("restore", tmp_path / "new", path, "--replace", "--passphrase-file", words)
    assert "What was there is now in " in replaced.output
    assert WORDS not in done.output + back.output + replaced.output
