"""The hub's database, on real files: rows come back, repeats replace, processes share it, versions are told apart."""

import json
import logging
import sqlite3
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy.schema import CreateTable

from fedward_common import __version__
from fedward_common.errors import RunError, SettingsError
from fedward_server.store import METADATA, RoundRow, RunRow, SiteRoundRow, SiteRow, Store

DIGEST = "d" * 64


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "hub" / "fedward.sqlite"


def started(store: Store, run: str = "run-1") -> None:
    store.start_run(run, "breast", DIGEST, '{"study": {"id": "breast"}}', "embedded")


def round_row(number: int, loss: float | None = None) -> RoundRow:
    return RoundRow(
        run="run-1", round=number, seconds=2.5, train_seconds=2.0, bytes_up=2**40, bytes_down=7, loss=loss, primary=0.9
    )


def test_a_run_comes_back(path: Path) -> None:
    begun = datetime.now(UTC)
    with Store.open(path) as store:
        started(store)
        (row,) = store.runs()
        assert (row.status, row.ended, row.model_sha256) == ("running", None, None)
        store.finish_run("run-1", "finished", "e" * 64)
    with Store.open(path) as store:
        (row,) = store.runs()
    assert row == RunRow(
        run="run-1",
        study_id="breast",
        study_digest=DIGEST,
        study_json={"study": {"id": "breast"}},
        engine="embedded",
        fedward_version=__version__,
        started=row.started,
        ended=row.ended,
        status="finished",
        model_sha256="e" * 64,
    )
    assert row.ended is not None
    assert datetime.fromisoformat(row.started).utcoffset() == begun.utcoffset()
    assert abs((datetime.fromisoformat(row.started) - begun).total_seconds()) < 60
    assert row.started <= row.ended


def test_runs_stand_in_the_order_of_their_start(path: Path) -> None:
    with Store.open(path) as store:
        for run in ("z", "a", "m"):
            started(store, run)
            time.sleep(0.002)  # times are kept in milliseconds
        assert [row.run for row in store.runs()] == ["z", "a", "m"]


def test_rounds_and_sites_come_back(path: Path) -> None:
    north = SiteRoundRow(
        run="run-1",
        round=1,
        site="north",
        patients=40,
        seconds=2.0,
        train_seconds=1.5,
        bytes_up=2**33,
        bytes_down=3,
        loss=0.5,
    )
    south = SiteRoundRow(
        run="run-1", round=1, site="south", status="refused", reason="array 'w' of south holds NaN or Inf"
    )
    with Store.open(path) as store:
        started(store)
        started(store, "run-2")
        for number in (2, 1):
            store.record_round(round_row(number), [south, north] if number == 1 else [])
        assert store.rounds("run-1") == [round_row(1), round_row(2)]
        assert store.site_rounds("run-1") == [north, south]
        assert store.rounds("run-2") == []


def test_a_round_recorded_again_replaces_the_record(path: Path) -> None:
    silent = SiteRoundRow(run="run-1", round=1, site="north", status="refused", reason="silent")
    with Store.open(path) as store:
        started(store)
        store.record_round(round_row(1), [SiteRoundRow(run="run-1", round=1, site="north", patients=40, seconds=1.0)])
        store.record_round(round_row(1, loss=0.25), [silent])
        assert store.rounds("run-1") == [round_row(1, loss=0.25)]
        assert store.site_rounds("run-1") == [silent]


def test_a_run_that_goes_on_keeps_its_start_and_rounds(path: Path) -> None:
    with Store.open(path) as store:
        started(store)
        store.record_round(round_row(1))
        (before,) = store.runs()
        store.finish_run("run-1", "failed", None)
        started(store)
        assert store.runs() == [before]
        assert store.rounds("run-1") == [round_row(1)]


def test_what_does_not_fit_is_refused(path: Path) -> None:
    with Store.open(path) as store:
        started(store)
        with pytest.raises(RunError, match=r"run-1 belongs to another study .digest dddddddddddd…"):
            store.start_run("run-1", "other", "c" * 64, "{}", "ray")
        with pytest.raises(RunError, match="nowhere is not in the hub's database"):
            store.finish_run("nowhere", "finished", None)
        with pytest.raises(RunError, match="FOREIGN KEY"):
            store.record_round(RoundRow(run="nowhere", round=1, seconds=1, train_seconds=1, bytes_up=1, bytes_down=1))
        with pytest.raises(RunError, match="FOREIGN KEY"):  # round 2 is not there: nothing of the batch stays
            store.record_round(round_row(1), [SiteRoundRow(run="run-1", round=r, site="north") for r in (1, 2)])
        assert store.rounds("run-1") == []
        assert store.site_rounds("run-1") == []
        assert [row.study_id for row in store.runs()] == ["breast"]


def test_a_stopped_run_does_not_become_a_failed_one_but_a_finished_one(path: Path) -> None:
    with Store.open(path) as store:
        started(store)
        store.set_flower_run("run-1", "18446744073709551615")
        store.finish_run("run-1", "stopped", None, "by the operator")
        store.finish_run("run-1", "failed", None, "interrupted")
        row = store.run("run-1")
        assert (row.status, row.reason, row.flower_run) == ("stopped", "by the operator", "18446744073709551615")
        started(store)  # its process began just now
        assert store.run("run-1").status == "stopped"
        assert not store.go_on("run-1", "interrupted")
        assert store.go_on("run-1", "stopped")
        assert (store.run("run-1").status, store.run("run-1").reason) == ("running", None)
        store.finish_run("run-1", "stopped", None, "by the operator")
        store.finish_run("run-1", "finished", "e" * 64)
        assert (store.run("run-1").status, store.run("run-1").reason) == ("finished", None)
        with pytest.raises(RunError, match="run nowhere is not known here"):
            store.run("nowhere")


def test_a_run_is_interrupted_only_while_it_is_at_work(path: Path) -> None:
    with Store.open(path) as store:
        started(store)
        assert [row.run for row in store.unfinished("embedded")] == ["run-1"]
        assert store.unfinished("deployment") == []
        assert store.interrupt_run("run-1", "the hub was stopped")
        assert (store.run("run-1").status, store.run("run-1").reason) == ("interrupted", "the hub was stopped")
        assert not store.interrupt_run("run-1", "again")
        assert [row.status for row in store.unfinished("embedded")] == ["interrupted"]
        assert store.go_on("run-1", "interrupted")
        store.finish_run("run-1", "finished", "e" * 64)
        assert not store.interrupt_run("run-1", "too late")
        assert store.unfinished("embedded") == []


# Sites ---------------------------------------------------------------------------------------------------------------


def site_row(name: str, number: int = 1) -> SiteRow:
    return SiteRow(
        site=name,
        fingerprint=f"{number:064x}",
        node_key=f"ecdsa-sha2-nistp384 {number}",
        signing_key=f"{number + 9:064x}",
        added="2027-01-01T00:00:00.000+00:00",
    )


def test_sites_come_back_by_name(path: Path) -> None:
    with Store.open(path) as store:
        store.add_site(site_row("valley", 2))
        store.add_site(site_row("north", 1))
        store.set_node("valley", "17")
    with Store.open(path) as store:
        assert list(store.sites()) == ["north", "valley"]
        assert store.sites()["north"] == site_row("north", 1)
        assert store.sites()["valley"].node_id == "17"
        store.remove_site("valley")
        store.remove_site("valley")
        assert list(store.sites()) == ["north"]


def test_two_sites_share_no_name_and_no_key(path: Path) -> None:
    with Store.open(path) as store:
        store.add_site(site_row("north", 1))
        for other in (site_row("north", 2), site_row("valley", 1)):
            with pytest.raises(SettingsError, match=r"the name or a key of .* is enrolled already"):
                store.add_site(other)
        assert list(store.sites()) == ["north"]


# The schema ----------------------------------------------------------------------------------------------------------


def test_migrations_make_what_the_code_expects(path: Path) -> None:
    Store.open(path).close()
    engine = sa.create_engine(sa.URL.create("sqlite", database=str(path)))
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, METADATA) == []
        assert set(sa.inspect(connection).get_table_names()) == {*METADATA.tables, "alembic_version"}
    engine.dispose()


def test_a_database_of_the_first_version_is_brought_up_to_date(path: Path) -> None:
    path.parent.mkdir()
    engine = sa.create_engine(sa.URL.create("sqlite", database=str(path)))
    with engine.begin() as connection:
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", "fedward_server:migrations")
        command.upgrade(config, "0001")
        connection.execute(
            sa.text(
                "INSERT INTO runs (run, study_id, study_digest, study_json, engine, fedward_version, started, status) "
                "VALUES ('old', 'breast', :digest, :study, 'embedded', '0.1.0', '2026-01-01', 'finished')"
            ),
            {"digest": DIGEST, "study": '{"sites": [{"name": "north", "fingerprint": "a1"}, {"name": "south"}]}'},
        )
    engine.dispose()
    with Store.open(path) as store:
        row = store.run("old")
        assert (row.status, row.flower_run, row.reason) == ("finished", None, None)
        assert store.newest(1, site=("north", "a1")) == [row]
        assert store.newest(1, site=("north", "b2")) == store.newest(1, site=("south", "")) == []
        assert store.sites() == {}


def test_nothing_in_the_schema_is_sqlites_own() -> None:
    dialect = sa.make_url("postgresql://").get_dialect()()
    for table in METADATA.sorted_tables:
        assert "CREATE TABLE" in str(CreateTable(table).compile(dialect=dialect))


def test_opening_leaves_logging_and_output_alone(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before = (root.level, list(root.handlers), logging.getLogger("fedward_server.store").disabled)
    Store.open(path).close()
    assert (root.level, list(root.handlers), logging.getLogger("fedward_server.store").disabled) == before
    assert capfd.readouterr() == ("", "")


def test_a_database_of_a_newer_fedward(path: Path) -> None:
    Store.open(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    with pytest.raises(SettingsError, match=r"written by a newer Fedward than this one, .*: install that version"):
        Store.open(path)


def test_a_migration_that_fails_leaves_nothing_behind(path: Path) -> None:
    path.parent.mkdir()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE site_rounds (other TEXT)")
    with pytest.raises(SettingsError, match=r"cannot be opened as the hub's database .*site_rounds already exists"):
        Store.open(path)
    assert connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall() == [("site_rounds",)]
    connection.close()


def test_files_that_are_no_database(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database at all, but long enough to look at" * 100)
    for other in (tmp_path / "text", tmp_path, tmp_path / "text" / "below"):
        with pytest.raises(SettingsError, match=r"cannot be opened as the hub's database .*: name another file"):
            Store.open(other)


def test_odd_characters_in_a_path(tmp_path: Path) -> None:
    path = tmp_path / "50% of ä?b#c" / "hub.sqlite"
    with Store.open(path) as store:
        started(store)
    assert path.exists()


# More than one process -----------------------------------------------------------------------------------------------

WRITER = """
import sys
from pathlib import Path
from fedward_server.store import RoundRow, SiteRoundRow, Store
run = sys.argv[2]
sys.stdin.readline()
with Store.open(Path(sys.argv[1])) as store:
    store.start_run(run, "breast", "d" * 64, "{}", "embedded")
    for number in range(1, 31):
        row = RoundRow(run=run, round=number, seconds=1, train_seconds=1, bytes_up=1, bytes_down=1)
        store.record_round(row, [SiteRoundRow(run=run, round=number, site=site) for site in ("north", "south")])
    store.finish_run(run, "finished", None)
"""


def test_processes_share_a_new_database(path: Path) -> None:
    runs = ["run-1", "run-2", "run-3"]
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), run], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for run in runs
    ]
    for writer in writers:  # all make the file and its tables at once
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        _, trouble = writer.communicate(timeout=120)
        assert writer.returncode == 0, trouble
    with Store.open(path) as store:
        assert sorted(row.run for row in store.runs()) == runs
        assert all(row.status == "finished" for row in store.runs())
        assert all([row.round for row in store.rounds(run)] == list(range(1, 31)) for run in runs)
        assert all(len(store.site_rounds(run)) == 60 for run in runs)


FULL_DISK = """
import subprocess, sys
from pathlib import Path
from fedward_common.errors import SettingsError
from fedward_server.store import Store
path = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(path.parent)], check=True)
def fails():
    try:
        Store.open(path)
    except SettingsError as error:
        print(error)
with (path.parent / "ballast").open("wb", buffering=0) as ballast:
    ballast.write(b"x" * 2**21)
fails()
path.unlink()
(path.parent / "ballast").unlink()
Store.open(path).close()
with (path.parent / "ballast").open("wb", buffering=0) as ballast:
    ballast.write(b"x" * 2**21)
fails()
"""


def test_a_full_disk_wants_room_and_no_restoring(path: Path) -> None:
    unshare = ("unshare", "--user", "--map-root-user", "--mount")
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine lets nobody make a mount namespace, and with it a small disk")
    path.parent.mkdir()
    command = [*unshare, sys.executable, "-c", FULL_DISK, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    words = "fedward.sqlite cannot be opened as the hub's database ({}): make room on its disk"
    assert done.stdout.splitlines() == [words.format("database or disk is full"), words.format("disk I/O error")]


def test_a_reader_does_not_wait_for_a_writer(path: Path) -> None:
    with Store.open(path) as store:
        started(store)
        writer = sqlite3.connect(path)
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("UPDATE runs SET engine = 'other'")
        assert [row.engine for row in store.runs()] == ["embedded"]
        writer.rollback()
        writer.close()


def test_study_json_is_kept_as_an_object(path: Path) -> None:
    with Store.open(path) as store:
        started(store)
    with sqlite3.connect(path) as connection:
        (text,) = connection.execute("SELECT study_json FROM runs").fetchone()
    connection.close()
    assert json.loads(text) == {"study": {"id": "breast"}}
