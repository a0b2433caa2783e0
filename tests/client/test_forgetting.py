"""`fedward site forget`: what was made of patients for a study goes, other studies' and the proof of what left stay."""

import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from click.testing import Result
from flwr.app import Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from typer.testing import CliRunner

from fedward_client import locks
from fedward_client.cli import app
from fedward_client.desk import Desk, Reply
from fedward_client.executor import Control, Work, serving
from fedward_client.fleet import Envelope
from fedward_client.forgetting import studies_of
from fedward_client.handlers import Hospital
from fedward_client.member import LinkSettings, Member
from fedward_client.pending import Pending
from fedward_client.reporting import Reporter
from fedward_client.source import SiteSource
from fedward_client.spool import IN, OUT, Parcel
from fedward_client.steward import approve, withdraw
from fedward_client.supernode import Link
from fedward_common import audit, models
from fedward_common.compression import encode_model
from fedward_common.errors import FedwardError, SettingsError, UsageError
from fedward_common.records import Prepared, Question, Trained, question_record
from fedward_common.study import StudySpec

TODAY = datetime.now(UTC).date()
MemberMaker = Callable[..., Member]
StudyMaker = Callable[..., StudySpec]

# what keeps most between rounds: a model of its own, and what compression left out
KEEPS: dict[str, Any] = {"strategy": {"name": "ditto"}, "update": {"compression": "int8"}}
QUICK = {"local_steps": 1, "rounds": 4}


def run(*arguments: str | Path, answer: str | None = None) -> Result:
    return CliRunner().invoke(app, [str(each) for each in arguments], input=answer, env={"COLUMNS": "160"})


def failure(result: Result, kind: type[FedwardError]) -> str:
    assert isinstance(result.exception, kind), result.output
    return str(result.exception)


def desk(at: Member) -> Desk:
    outbox = at.outbox(spool=True)
    return Desk(Hospital(SiteSource(at.site), outbox.tell), outbox, at.ledger)


def ask(at: Desk, study: StudySpec, kind: str, number: int = 0) -> Reply:
    """One question of the run that is named after the study's first digits; it is answered."""
    question = Question.model_validate({"kind": kind, "study": study, "run": f"run-{study.digest[:8]}"})
    config = {**question_record(question, None).config_records["config"], "server-round": number}
    reply = at.answer(config, lambda: encode_model(models.initial_state(study, 1), study.update), "cd" * 32)
    assert not reply.refusal, reply.refusal
    return reply


def learned(at: Member, *studies: StudySpec) -> None:
    """Approved, and two rounds of each are trained."""
    working = desk(at)
    for study in studies:
        approve(at, study, TODAY)
        for kind, number in (("prepare", 0), ("train", 1), ("train", 2)):
            ask(working, study, kind, number)


def files(at: Member) -> set[Path]:
    """All that was made of patients, and all parcels."""
    folders = [at.site.state / name for name in ("cache", "rounds", "runs")] + [at.site.spool / OUT]
    found = {path for folder in folders for path in folder.rglob("*") if path.is_file()}
    return {path.relative_to(at.site.state) for path in found if path.name != ".lock"}


def test_all_of_a_study_goes_and_nothing_else(member: MemberMaker, roster_study: StudyMaker) -> None:
    at = member()
    other = roster_study(at, input={"size": [20, 20]}, training=QUICK, **KEEPS)
    learned(at, other)
    before, receipts = files(at), (at.site.state / "audit.jsonl").read_bytes()
    study = roster_study(at, study={"id": "over"}, training=QUICK, **KEEPS)
    learned(at, study)
    made = files(at) - before
    parts = {path.name.partition("-")[2] for path in made if path.parts[0] == "rounds"}
    assert {"personal.safetensors", "residual.safetensors"} <= parts
    (at.site.state / "cache" / ".building-x").mkdir()
    (at.site.state / "cache" / ".building-x" / "images.npy").write_bytes(b"of a killed process")
    no = run("forget", at.site.folder, "over", answer="n\n")
    assert no.exit_code == 1
    assert files(at) >= made, "it asks first"

    done = run("forget", at.site.folder, "over", answer="y\n")
    assert done.exit_code == 0, done.output
    assert f"Study over, digest {study.digest}" in done.output
    assert "Receipts and the audit log stay" in done.output
    assert files(at) == before
    assert [approval.digest for approval in at.ledger.approvals()] == [other.digest]
    assert len(at.ledger.parcels()) == 2
    assert studies_of(at.site) == {other.digest}
    log = at.site.state / "audit.jsonl"
    assert log.read_bytes().startswith(receipts)
    entries = list(audit.verified(log, public_key=at.key.public_key()))
    assert (entries[-1].event, entries[-1].data) == ("forgotten", {"study": study.digest})
    assert len([entry for entry in entries if entry.event == "left" and entry.data["study_id"] == "over"]) == 3
    assert not [patient for patient in ("P0", "P1") if patient in done.output]


def test_what_was_removed_is_told_and_forgetting_again_finds_nothing(
    member: MemberMaker, roster_study: StudyMaker
) -> None:
    at = member()
    study = roster_study(at, training=QUICK)
    learned(at, study)
    cache = sum(path.stat().st_size for path in (at.site.state / "cache").rglob("*") if path.is_file())
    parcels = sum(path.stat().st_size for path in (at.site.spool / OUT).iterdir())
    told = json.loads(run("forget", at.site.folder, study.digest[:8], "--yes", "--json").stdout)
    assert (told["site"], told["studies"]) == ("north", [study.digest])
    removed = told["removed"]
    assert removed["cached images"] == {"files": 3, "size": cache}
    assert removed["frozen cohorts"]["files"] == 1
    assert removed["stored answers"] == {"files": 2, "size": parcels}
    for name in ("tiny", study.digest, study.digest[:8]):  # what a hub asked for stays listed
        again = run("forget", at.site.folder, name, "-y", "--json")
        assert again.exit_code == 0, again.output
        assert not any(size for kind in json.loads(again.stdout)["removed"].values() for size in kind.values())
    assert run("forget", at.site.folder, "ab" * 32, "-y").exit_code == 0, "a whole digest names a study"
    said = failure(run("forget", at.site.folder, "tinny", "-y"), UsageError)
    assert said == "nothing is known here of a study 'tinny' (known: tiny); give an id or a digest"


def test_tensors_that_another_approved_study_uses_stay_as_long(member: MemberMaker, roster_study: StudyMaker) -> None:
    at = member()
    one, two, three = (roster_study(at, study={"id": name}, training=QUICK) for name in ("one", "two", "three"))
    learned(at, one, two, three)
    [cache] = [path for path in (at.site.state / "cache").iterdir() if path.is_dir()]
    withdraw(at, three.digest)
    assert run("forget", at.site.folder, "one", "-y").exit_code == 0
    assert (cache / "images.npy").exists(), "study two is approved"
    assert studies_of(at.site) == {two.digest, three.digest}
    ask(desk(at), two, "prepare")
    assert run("forget", at.site.folder, "two", "-y").exit_code == 0
    assert not cache.exists(), "study three is approved no longer"


def test_every_version_of_a_study_goes_by_its_id_and_one_by_its_digest(
    member: MemberMaker, roster_study: StudyMaker
) -> None:
    at = member()
    versions = [roster_study(at, training={**QUICK, "rounds": rounds}) for rounds in (2, 3)]
    learned(at, *versions)
    run("forget", at.site.folder, versions[0].digest, "-y")
    assert studies_of(at.site) == {version.digest for version in versions[1:]}
    run("forget", at.site.folder, "tiny", "-y")
    assert studies_of(at.site) == set()
    assert files(at) == set()


def test_nothing_behind_a_link_is_removed(member: MemberMaker, roster_study: StudyMaker, tmp_path: Path) -> None:
    at = member()
    study = roster_study(at, training=QUICK, **KEEPS)
    learned(at, study)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").write_text("somebody else's")
    rounds = at.site.state / "rounds"
    (rounds / study.digest / "to-a-folder").symlink_to(elsewhere)
    (rounds / study.digest / "to-a-file").symlink_to(elsewhere / "kept")
    (at.site.state / "runs" / "other").symlink_to(elsewhere)
    aside = rounds.rename(tmp_path / "rounds")
    rounds.symlink_to(aside)
    before = files(at)
    said = failure(run("forget", at.site.folder, "tiny", "-y"), SettingsError)
    assert "'rounds' in the state folder is a link, and nothing behind a link is removed" in said
    assert files(at) == before
    assert at.ledger.approvals(), "nothing is done by halves"
    rounds.unlink()
    aside.rename(rounds)
    assert run("forget", at.site.folder, "tiny", "-y").exit_code == 0
    assert not (rounds / study.digest).exists()
    assert [path.name for path in elsewhere.iterdir()] == ["kept"]
    (rounds / study.digest).symlink_to(elsewhere)
    assert run("forget", at.site.folder, "tiny", "-y").exit_code == 0
    assert (elsewhere / "kept").read_text() == "somebody else's"


class Held(Hospital):
    """Prepares when it is told to."""

    started, goes_on = threading.Event(), threading.Event()

    def prepare(self, question: Question) -> Prepared:
        self.started.set()
        assert self.goes_on.wait(60)
        return Hospital.prepare(self, question)


def test_a_study_is_not_forgotten_while_a_round_of_it_is_in_hand(member: MemberMaker, roster_study: StudyMaker) -> None:
    at = member()
    study, other = roster_study(at), roster_study(at, study={"id": "other"})
    learned(at, other)
    approve(at, study, TODAY)
    outbox = at.outbox(spool=True)
    working = Desk(Held(SiteSource(at.site), outbox.tell), outbox, at.ledger)
    round_ = threading.Thread(target=ask, args=(working, study, "prepare"))
    with serving(
        at.site, Work(working, at.site.spool / IN, Reporter(at, working)), Control(at, working, threading.Event())
    ):
        round_.start()
        try:
            assert Held.started.wait(60)
            said = failure(run("forget", at.site.folder, "tiny", "-y"), SettingsError)
            assert "site 'north' is at work for a round of this study: wait until it is over" in said
            assert len(at.ledger.approvals()) == 2
            assert run("forget", at.site.folder, "other", "-y").exit_code == 0, "another study's can go meanwhile"
        finally:
            Held.goes_on.set()
            round_.join()
        assert run("forget", at.site.folder, "tiny", "-y").exit_code == 0
        assert files(at) == set()
    question = question_record(Question(kind="prepare", study=study, run="run-1"), None)
    assert "waits for approval" in working.answer(question.config_records["config"], dict).refusal


def test_a_daemon_that_does_not_answer_keeps_everything(member: MemberMaker, roster_study: StudyMaker) -> None:
    at = member()
    learned(at, roster_study(at))
    before = files(at)
    with locks.claimed(at.site.state, "north", locks.EXECUTOR):
        assert "another daemon (process " in failure(run("forget", at.site.folder, "tiny", "-y"), SettingsError)
    assert files(at) == before


def test_an_answer_that_was_forgotten_on_its_way_is_told_to_the_hub(member: MemberMaker, tmp_path: Path) -> None:
    at = member()
    said: list[str | None] = []

    class Fleet:
        def push(self, envelope: Envelope, make: Callable[[Message], Message], *, whole: bool) -> None:
            TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 7, 1, 0
            said.append(make(Message(RecordDict(), dst_node_id=1, message_type="train")).error.reason)

    link = Link(at.site.link, LinkSettings.read(at.site.link), Fleet(), threading.Event())  # type: ignore[arg-type]
    pending = Pending.of(b"message", b"tree", message_id="ab" * 32, run=7, kind="train")
    numbers = {"patients": 20, "images": 20, "steps": 1, "train_loss": 0.5, "train_seconds": 0.1, "seconds": 0.1}
    trained = {"site": "north", "study": "cd" * 32, "round": 1, "cohort": "ab" * 32, "incoming": None, **numbers}
    answer = Trained.model_validate(trained).model_dump_json()
    gone = {"answer": answer, "answer_parcel": Parcel(sha256="ab" * 32, size=8)}
    link._deliver(pending.model_copy(update=gone))
    assert said == ["the answer is gone: a parcel is not in the spool (No such file or directory)"]
