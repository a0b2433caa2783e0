"""`fedward site init | approve | withdraw | pause | resume | status | receipts | log` without a daemon."""

import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import Result
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from fedward_client import cli_daemon, daemon, locks
from fedward_client.cli import app
from fedward_client.member import Member, meet
from fedward_client.site import Site
from fedward_common import audit, certificates, pki
from fedward_common.cards import HubCard, SiteCard
from fedward_common.errors import FedwardError, SettingsError, StudyError, UsageError
from fedward_common.study import StudySpec

TODAY = datetime.now(UTC).date()
MemberMaker = Callable[..., Member]
StudyMaker = Callable[..., StudySpec]


def run(*arguments: str | Path, answer: str | None = None) -> Result:
    return CliRunner().invoke(app, [str(each) for each in arguments], input=answer, env={"COLUMNS": "160"})


def failure(result: Result, kind: type[FedwardError]) -> str:
    assert isinstance(result.exception, kind), result.output
    return str(result.exception)


@pytest.fixture
def folder(site_folder: Callable[..., Path]) -> Path:
    return site_folder({"A": "benign", "B": "malignant"})


def test_init_makes_keys_that_stay_and_a_card_that_goes(folder: Path, tmp_path: Path) -> None:
    card = tmp_path / "card.json"
    first = run("init", folder, "--name", "north", "--card", card)
    assert first.exit_code == 0, first.output
    made = SiteCard.read(card)
    state = folder / ".fedward"
    private = [state / "signing.key", state / "site.key", state / "link" / "node.key", state / "audit.jsonl"]
    assert {path.stat().st_mode & 0o777 for path in private} == {0o600}
    assert {path.stat().st_mode & 0o777 for path in (state, state / "link", state / "spool")} == {0o700}
    assert made.fingerprint.startswith(first.output.split("telephone:")[1].split()[0])
    assert "No hub yet" in first.output
    again = run("init", folder, "--card", card, "--json")
    assert json.loads(again.output) == {
        "site": "north",
        "fingerprint": made.fingerprint,
        "card": str(card),
        "hub": None,
    }
    assert SiteCard.read(card) == made
    run("init", folder, "--card", card, "--new-node-key")
    renewed = SiteCard.read(card)
    assert (renewed.signing_key, renewed.node_key == made.node_key) == (made.signing_key, False)
    assert Site.open(folder).outputs == {"counts", "update", "evaluation"}


def test_init_keeps_the_settings_that_are_there(site_folder: Callable[..., Path], tmp_path: Path) -> None:
    settings = '[site]\nname = "south"\n'
    folder = site_folder({"A": "benign"}, settings=settings)
    said = run("init", folder, "--card", tmp_path / "card.json")
    assert (folder / "site.toml").read_text() == settings
    assert "policy is empty" in said.output
    assert "names this site 'south'" in failure(run("init", folder, "--name", "north"), UsageError)


def test_a_hubs_card_that_was_changed_is_refused(folder: Path, tmp_path: Path) -> None:
    card = tmp_path / "hub.json"
    card.write_text('{"hub": "x"}')
    assert failure(run("init", folder, "--hub", card, "--card", tmp_path / "c.json"), SettingsError)
    assert run("init", folder, "--card", tmp_path / "c.json").exit_code == 0


def test_approve_reads_out_the_study_and_asks(member: MemberMaker, roster_study: StudyMaker, tmp_path: Path) -> None:
    at = member()
    study = roster_study(at)
    at.ledger.asked(study)
    no = run("approve", at.site.folder, "tiny", answer="n\n")
    assert no.exit_code == 1
    assert at.ledger.approvals() == []
    yes = run("approve", at.site.folder, "tiny", answer="y\n")
    assert yes.exit_code == 0, yes.output
    assert f"Digest: {study.digest}" in yes.output
    [approval] = at.ledger.approvals()
    assert approval.until == TODAY + timedelta(days=180)
    path = tmp_path / "study.json"
    path.write_bytes(roster_study(at, training={"rounds": 3}).canonical_json())
    by_file = run("approve", at.site.folder, path, "--until", TODAY.isoformat(), "-y")
    assert by_file.exit_code == 0, by_file.output
    assert len(at.ledger.approvals()) == 2


def test_approve_says_what_cannot_be(member: MemberMaker, roster_study: StudyMaker, tmp_path: Path) -> None:
    at = member()
    folder = at.site.folder
    said = failure(run("approve", folder, "tiny", "-y"), UsageError)
    assert "no hub has asked for a study 'tiny' (asked for: none yet)" in said
    for number in (2, 3):
        at.ledger.asked(roster_study(at, training={"rounds": number}))
    assert "several versions of tiny: name one by its digest" in failure(
        run("approve", folder, "tiny", "-y"), UsageError
    )
    digest = at.ledger.studies()[0].digest
    for until, word in ((TODAY - timedelta(days=1), "is over"), (TODAY + timedelta(days=400), "more than a year away")):
        assert word in failure(run("approve", folder, digest[:12], "--until", until.isoformat(), "-y"), UsageError)
    broken = tmp_path / "study.json"
    broken.write_text("{}")
    assert "is no study as a hub resolves it" in failure(run("approve", folder, broken, "-y"), StudyError)
    unresolved = roster_study(at).model_copy(update={"sites": ()})
    broken.write_bytes(unresolved.canonical_json())
    assert "roster does not name north with its key" in failure(run("approve", folder, broken, "-y"), SettingsError)


def test_withdraw_pause_resume_and_what_status_says(member: MemberMaker, roster_study: StudyMaker) -> None:
    at = member()
    folder = at.site.folder
    at.ledger.asked(roster_study(at))
    run("approve", folder, "tiny", "-y")
    assert run("pause", folder, "--reason", "the GPU is needed").exit_code == 0
    status = json.loads(run("status", folder, "--json").output)
    assert not status["up"]
    assert status["paused"] is not None
    assert [each["study"] for each in status["approved"]] == ["tiny"]
    shown = " ".join(run("status", folder).output.split())
    assert "down: start it with `fedward site up`" in shown
    assert "`fedward site resume` goes on" in shown
    with locks.claimed(at.site.state, at.site.name, locks.DAEMON):  # before its data side answers
        assert "its data side is starting, or cannot" in " ".join(run("status", folder).output.split())
        status = json.loads(run("status", folder, "--json").output)
        assert (status["up"], status["starting"]) == (False, True)
    assert run("resume", folder).exit_code == 0
    assert run("withdraw", folder, "tiny").exit_code == 0
    status = json.loads(run("status", folder, "--json").output)
    assert status["paused"] is None
    assert [each["study"] for each in status["waiting"]] == ["tiny"]
    assert "no study 'tiny' is approved" in failure(run("withdraw", folder, "tiny"), UsageError)
    events = [entry.event for entry in audit.entries(at.site.state / "audit.jsonl")]
    assert events == ["begun", "approved", "paused", "resumed", "withdrawn"]


def test_refusing_a_study_and_approving_it_after_all(member: MemberMaker, roster_study: StudyMaker) -> None:
    at = member()
    folder = at.site.folder
    assert "no hub has asked for a study 'tiny'" in failure(run("refuse", folder, "tiny"), UsageError)
    at.ledger.asked(roster_study(at))
    for reason in ("x" * 201, "two\nlines"):
        assert "one line of at most 200" in failure(run("refuse", folder, "tiny", "--reason", reason), UsageError)
    assert run("refuse", folder, "tiny", "--reason", "not now").exit_code == 0
    status = json.loads(run("status", folder, "--json").output)
    assert status["waiting"] == []
    assert [(each["state"], each["reason"]) for each in status["declined"]] == [("refused", "not now")]
    shown = " ".join(run("status", folder).output.split())
    assert "Refused tiny (digest" in shown
    assert "not now" in shown
    assert run("approve", folder, "tiny", "-y").exit_code == 0
    assert json.loads(run("status", folder, "--json").output)["declined"] == []
    events = [entry.event for entry in audit.entries(at.site.state / "audit.jsonl")]
    assert events == ["begun", "declined", "approved"]


def test_commands_that_need_a_daemon_or_a_member_say_so(folder: Path, member: MemberMaker) -> None:
    assert "has no keys yet: let it join a hub first, with `fedward site join`" in failure(
        run("status", folder), SettingsError
    )
    assert "has no log yet" in failure(run("receipts", folder), SettingsError)
    assert "has no log yet: start it" in failure(run("log", folder), SettingsError)
    assert "no daemon serves site" in failure(run("down", folder), SettingsError)
    assert "no daemon serves site" in failure(run("watch", folder), SettingsError)
    assert "has no hub yet: run `fedward site join` with the code" in failure(run("up", folder), SettingsError)


def test_a_key_that_others_can_read_is_refused(member: MemberMaker) -> None:
    at = member()
    (at.site.state / "signing.key").chmod(0o644)
    assert "signing.key can be read by others: chmod 600 it" in failure(run("status", at.site.folder), SettingsError)
    (at.site.state / "signing.key").chmod(0o600)
    assert pki.load_signing_key(at.site.state / "signing.key")


def joined(member: MemberMaker) -> Site:
    """A site that can be started, though its hub never answers."""
    site = member().site
    authority = certificates.make_authority("hub")
    meet(site.link, HubCard.make("west", "127.0.0.1:9", authority, Ed25519PrivateKey.generate()))
    return site


@pytest.mark.parametrize("key", ["signing.key", "site.key", "link/node.key"])
def test_a_site_whose_keys_cannot_be_used_does_not_start(member: MemberMaker, key: str) -> None:
    site = joined(member)
    (site.state / key).chmod(0o644)
    assert f"{Path(key).name} can be read by others: chmod 600 it" in failure(run("up", site.folder), SettingsError)
    (site.state / key).unlink()
    assert f"{Path(key).name} is missing: restore it" in failure(run("up", site.folder, "--detach"), SettingsError)
    assert not (site.state / key).exists()


def test_a_start_that_fails_leaves_no_daemon(member: MemberMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli_daemon, "START_LIMIT_S", 2.0)
    site = joined(member)
    shutil.rmtree(site.spool)
    with locks.claimed(site.state, site.name, locks.EXECUTOR):  # so that its data side cannot start
        said = failure(run("up", site.folder, "--detach", "--unsafe-no-walls"), SettingsError)
    assert "site 'north' was not ready within 2 s and is down again; `fedward site log` says why" in said
    assert daemon.pid(site) is None
    assert (site.spool / "out").is_dir(), "a lost spool is made anew"
