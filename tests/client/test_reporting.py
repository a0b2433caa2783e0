"""What a site hears and tells around rounds: its steward's answers, how it is, and nothing of patients."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedward_client.desk import Desk
from fedward_client.handlers import Hospital
from fedward_client.member import Member
from fedward_client.reporting import Reporter
from fedward_client.source import SiteSource
from fedward_client.steward import approve, pause, refuse, resume, withdraw
from fedward_client.stubs import site_pb2
from fedward_common import __version__, audit, models
from fedward_common.errors import RecordError
from fedward_common.events import Event
from fedward_common.records import Question, Trained, question_record
from fedward_common.site_messages import Approval, AskedStudy, HubNews, Notice, NoticeKind, SiteStatus
from fedward_common.study import StudySpec

TODAY = datetime.now(UTC).date()
MemberMaker = Callable[..., Member]
StudyMaker = Callable[..., StudySpec]


def reporter_of(at: Member, listener: Callable[[Event], None] | None = None) -> Reporter:
    outbox = at.outbox(spool=True)
    return Reporter(at, Desk(Hospital(SiteSource(at.site), listener or outbox.tell), outbox, at.ledger))


def news(*studies: StudySpec, notices: tuple[Notice, ...] = ()) -> str:
    asked = tuple(
        AskedStudy(run=f"run-{number}", digest=study.digest, study=study.canonical_json().decode(), approval=None)
        for number, study in enumerate(studies)
    )
    return HubNews(studies=asked, notices=notices).model_dump_json()


def notice(study: StudySpec, number: int = 1, kind: NoticeKind = "refused", reason: str = "NaN in it") -> Notice:
    return Notice(run="run-0", digest=study.digest, round=number, kind=kind, reason=reason)


def told(at: Member) -> list[dict[str, Any]]:
    return list(at.status()["quarantined"])


# What is heard -------------------------------------------------------------------------------------------------------


def test_a_study_waits_for_the_steward_before_it_is_asked_for(member: MemberMaker, roster_study: StudyMaker) -> None:
    at = member()
    study = roster_study(at)
    [answer] = reporter_of(at)(news(study)).approvals
    assert (answer.digest, answer.state, answer.until) == (study.digest, "awaiting", None)
    assert [each["digest"] for each in at.status()["waiting"]] == [study.digest]
    assert StudySpec.from_json(at.ledger.studies()[0].study) == study


def test_answers_follow_what_the_steward_does(member: MemberMaker, roster_study: StudyMaker) -> None:
    at = member()
    study = roster_study(at)
    reporter = reporter_of(at)
    heard = news(study)

    def answer() -> Approval:
        [found] = reporter(heard).approvals
        assert found.time.utcoffset() == timedelta(0)
        return found

    first = answer()
    assert answer() == first, "a wait is told once"
    approve(at, study, TODAY)
    assert (answer().state, answer().until) == ("approved", TODAY)
    withdraw(at, study.digest)
    assert (answer().state, answer().reason) == ("withdrawn", None)
    refuse(at, study.digest, "the board\nhas not met")
    assert (answer().state, answer().reason) == ("refused", "the board\\nhas not met")
    assert at.status()["waiting"] == []
    assert [each["state"] for each in at.status()["declined"]] == ["refused"]
    approve(at, study, TODAY - timedelta(days=1))
    assert (answer().state, answer().reason) == ("awaiting", f"the approval ended on {TODAY - timedelta(days=1)}")
    assert at.status()["declined"] == []


def test_what_the_hub_does_not_ask_for_is_not_told(member: MemberMaker, roster_study: StudyMaker) -> None:
    at = member()
    study, other = roster_study(at), roster_study(at, study={"id": "of-another-hub"})
    approve(at, other, TODAY)
    reporter = reporter_of(at)
    assert reporter("").approvals == ()
    assert [each.digest for each in reporter(news(study)).approvals] == [study.digest]
    assert reporter(news()).approvals == (), "the run has ended"


@pytest.mark.parametrize("wrong", ["key", "name", "digest", "ended", "newer", "weights"])
def test_a_study_that_cannot_run_here_is_passed_by(member: MemberMaker, roster_study: StudyMaker, wrong: str) -> None:
    at = member()
    study = roster_study(at, study={"ends": "2020-01-01"} if wrong == "ended" else {})
    document = json.loads(study.canonical_json())
    if wrong == "key":
        document["sites"][0]["fingerprint"] = "0" * 64
    if wrong == "name":
        document["sites"][0]["name"] = "south"
    if wrong == "newer":
        document["telepathy"] = {}
    if wrong == "weights":
        document["model"]["start"] = {"model": "first"}
    changed = json.dumps(document)
    digest = study.digest if wrong in {"newer", "ended"} else StudySpec.from_json(changed).digest
    asked = AskedStudy(run="run-0", digest="1" * 64 if wrong == "digest" else digest, study=changed, approval=None)
    report = reporter_of(at)(HubNews(studies=(asked,)).model_dump_json())
    assert report.approvals == ()
    assert at.ledger.studies() == []


def test_why_the_hub_went_on_without_this_site_is_written_down_once(
    member: MemberMaker, roster_study: StudyMaker
) -> None:
    at = member()
    study = roster_study(at)
    reporter = reporter_of(at)
    reporter(news(study, notices=(notice(study),)))
    reporter(news(study, notices=(notice(study), notice(study, 3, "left-out", "three in a row"))))
    reporter_of(at)(news(study, notices=(notice(study),)))  # after a restart
    reasons = [
        "round 1 went on without this site: NaN in it",
        "the run went on without this site: three in a row",
    ]
    assert [(each["run"], each["study"], each["reason"]) for each in told(at)] == [
        ("run-0", study.digest, reason) for reason in reasons
    ]
    assert [entry.event for entry in audit.entries(at.site.state / "audit.jsonl")].count("quarantined") == 2


def test_the_same_refusal_by_two_ways_is_one(member: MemberMaker, roster_study: StudyMaker) -> None:
    at = member()
    study = roster_study(at)
    approve(at, study, TODAY)
    reporter = reporter_of(at)
    reporter(news(study, notices=(notice(study),)))
    question = Question(kind="train", study=study, run="run-0", notice="the update of round 1 was refused: NaN in it")
    config = {**question_record(question, None).config_records["config"], "server-round": 2}
    reporter.desk.answer(config, lambda: dict(models.initial_state(study, 7)), "cd" * 32)
    assert len(told(at)) == 1


def test_a_sites_own_words_and_strangers_studies_are_not_written_down(
    member: MemberMaker, roster_study: StudyMaker
) -> None:
    at = member()
    study = roster_study(at)
    reporter = reporter_of(at)
    config = question_record(Question(kind="prepare", study=study, run="run-0"), None).config_records["config"]
    own = reporter.desk.answer(config, dict).refusal
    stranger = notice(study).model_copy(update={"digest": "0" * 64})
    reporter(news(study, notices=(notice(study, 0, "left-out", own), stranger)))
    assert told(at) == []


@given(text=st.one_of(st.text(), st.binary().map(lambda data: data.decode("latin-1"))))
@settings(max_examples=30)
def test_nonsense_from_the_network_side_is_refused(text: str) -> None:
    reporter = Reporter(None, None)  # type: ignore[arg-type]  # neither is looked at
    if text:
        with pytest.raises(RecordError, match="says something that is not agreed"):
            reporter(text)


def test_the_work_socket_offers_nothing_that_approves() -> None:
    work = site_pb2.DESCRIPTOR.services_by_name["Work"]
    assert {method.name for method in work.methods} == {"Query", "Train", "Evaluate", "Report"}


def test_whatever_is_heard_approves_nothing(member: MemberMaker, roster_study: StudyMaker) -> None:
    at = member()
    study = roster_study(at)
    asked = AskedStudy(run="run-0", digest=study.digest, study=study.canonical_json().decode(), approval="approved")
    [answer] = reporter_of(at)(HubNews(studies=(asked,)).model_dump_json()).approvals
    assert answer.state == "awaiting"
    assert at.ledger.approvals() == []


# What is told --------------------------------------------------------------------------------------------------------


def test_how_a_site_is(member: MemberMaker) -> None:
    at = member()
    reporter = reporter_of(at)
    status = reporter("").status
    assert status is not None
    assert (status.fedward, status.state, status.work, status.faults) == (__version__, "idle", None, ())
    pause(at, "the GPU is needed")
    assert (paused := reporter("").status) is not None
    assert paused.state == "paused"
    assert "GPU is needed" not in paused.model_dump_json()
    resume(at)
    assert reporter("").status == status
    assert reporter.desk.outbox.reported == reporter("")


def test_a_disk_that_is_nearly_full_is_a_fault(member: MemberMaker) -> None:
    at = member('[site]\nname = "north"\n[policy]\noutputs = ["counts"]\n[limits]\nmin_free_mib = 1000000000000\n')
    status = reporter_of(at)("").status
    assert status is not None
    assert status.faults == ("less than 1000000000000 MiB is free on a disk of this site",)


@pytest.mark.parametrize("policy", ["outputs = []", 'outputs = ["counts"]\nstatus = false'])
def test_the_policy_keeps_a_status_here_and_the_hub_still_hears_answers(
    member: MemberMaker, roster_study: StudyMaker, policy: str
) -> None:
    at = member(f'[site]\nname = "north"\n[policy]\n{policy}\n')
    report = reporter_of(at)(news(roster_study(at)))
    assert report.status is None
    assert [each.state for each in report.approvals] == ["awaiting"]


def test_progress_is_told_of_a_training_and_in_percent(member: MemberMaker, roster_study: StudyMaker) -> None:
    at = member()
    study = roster_study(at)
    approve(at, study, TODAY)
    seen: list[tuple[str, SiteStatus]] = []

    def listen(event: Event) -> None:
        reporter.desk.outbox.tell(event)
        status = reporter("").status
        assert status is not None
        seen.append((event.stage, status))

    reporter = reporter_of(at, listen)
    for kind, number in (("prepare", 0), ("train", 2)):
        question = Question.model_validate({"kind": kind, "study": study, "run": "run-0"})
        config = {**question_record(question, None).config_records["config"], "server-round": number}
        reply = reporter.desk.answer(config, lambda: dict(models.initial_state(study, 7)), "cd" * 32)
        assert reply.answer is not None, reply.refusal
    assert isinstance(reply.answer, Trained)
    states = {stage: status.state for stage, status in seen}
    assert (states["cache"], states["train"]) == ("preparing", "training")
    percents = [status.work.percent for stage, status in seen if stage == "train" and status.work is not None]
    assert [percent for percent in percents if percent is not None], "steps of a round are several"
    assert {status.work.percent for stage, status in seen if stage != "train" and status.work is not None} == {None}
    last = seen[-1][1]
    assert last.work is not None
    assert (last.work.run, last.work.round) == ("run-0", 2)
    after = reporter("").status
    assert after is not None
    assert (after.state, after.work) == ("idle", None)
    for _, status in seen:
        assert str(reply.answer.patients) not in {str(value) for value in numbers(status.model_dump())}
        assert str(at.site.folder) not in status.model_dump_json()


def numbers(document: dict[str, Any]) -> list[int]:
    """Every number of a status, but for free disk, rounds and shares."""
    apart = {"spool_free_gib", "cache_free_gib", "round", "percent", "memory_gib"}
    return [value for name, value in document.items() if isinstance(value, int) and name not in apart]
