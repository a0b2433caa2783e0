"""A site's edge towards Flower: whatever happens, the hub gets an answer or a reason, never a path."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict

from fedward_client.app import answer, app, simulated
from fedward_client.desk import SETTINGS_UNUSABLE
from fedward_client.handlers import Hospital
from fedward_client.member import Member
from fedward_client.site_data import SiteData
from fedward_client.steward import approve
from fedward_common import audit, models
from fedward_common.errors import DataError, SettingsError
from fedward_common.events import Listener
from fedward_common.packing import block_of, packed, unpacked
from fedward_common.records import Question, Trained, question_record, read_answer, to_array_record
from fedward_common.study import Scale, StudySpec
from fedward_common.testing import FakeGrid, tiny_study
from fedward_simulations.phantoms import PhantomSource

SECRET = "/srv/hospital/Mueller^Anna"


def message(kind: str = "prepare", **numbers: float) -> Message:
    FakeGrid({})  # gives the process the identity that Flower wants of who makes messages
    study = tiny_study()
    arrays = None if kind == "prepare" else to_array_record(models.initial_state(study, study.training.seed))
    content = question_record(Question.model_validate({"kind": kind, "study": study, "run": "run-1"}), arrays)
    content.config_records["config"].update(numbers)
    return Message(content, 1, "query" if kind == "prepare" else kind)


def refusal(reply: Message) -> str:
    assert reply.has_error()
    reason = reply.error.reason or ""
    assert "/" not in reason
    assert "Mueller" not in reason
    return reason


@dataclass(frozen=True)
class Broken(PhantomSource):
    """A source of tensors that fails."""

    error: Exception = field(default_factory=KeyError)

    def load(self, study: StudySpec, run: str, listener: Listener, scale: Scale | None = None) -> SiteData:
        raise self.error


def broken(error: Exception) -> Hospital:
    return Hospital(Broken("north", 40, 2.0, 5, error=error))


@pytest.mark.parametrize(
    ("node", "run_config", "reason"),
    [
        ({}, {}, SETTINGS_UNUSABLE),
        ({"site": SECRET}, {}, SETTINGS_UNUSABLE),
        ({"partition-id": "x"}, {"sites": "."}, "ValueError at the site; its log says where"),
        ({"partition-id": 7}, {"sites": "."}, "IndexError at the site; its log says where"),
        ({"partition-id": 0}, {"sites": SECRET}, SETTINGS_UNUSABLE),
        ({}, {"threads": SECRET}, "ValueError at the site; its log says where"),
    ],
)
def test_a_site_that_cannot_be_opened_answers_so(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    node: dict[str, str | int | float | bool],
    run_config: dict[str, str | int | float | bool],
    reason: str,
) -> None:
    (tmp_path / "north").mkdir()
    monkeypatch.chdir(tmp_path)
    reply = app(message(), Context(1, 1, node, RecordDict(), {"threads": 1, **run_config}))
    assert refusal(reply) == reason
    assert "Traceback" in caplog.text


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (PermissionError(13, "Permission denied", SECRET), "PermissionError at the site; its log says where"),
        (KeyError(SECRET), "KeyError at the site; its log says where"),
        (SettingsError(f"{SECRET} cannot be written"), SETTINGS_UNUSABLE),
        (DataError("north has no patient of this study"), "north has no patient of this study"),
    ],
)
def test_a_failure_travels_without_its_own_text(error: Exception, reason: str) -> None:
    assert refusal(answer(message(), simulated(broken(error)))) == reason


def test_a_message_that_is_no_question_is_refused() -> None:
    FakeGrid({})
    reply = answer(Message(RecordDict({"config": ConfigRecord({})}), 1, "train"), simulated(broken(KeyError())))
    assert "no Fedward question" in refusal(reply)


def test_a_block_that_is_none_is_refused() -> None:
    for block, reason in ((b"no block", "no whole head"), ("text", "no bytes")):
        asked = Message(RecordDict({"config": ConfigRecord({"fedward.block": block})}), 1, "train")
        assert reason in refusal(answer(asked, simulated(broken(KeyError()))))


def test_a_hub_that_steers_otherwise_than_the_study_says_is_refused() -> None:
    site = simulated(Hospital(PhantomSource("north", 40, 2.0, 5)))
    assert read_answer(answer(message("train", **{"server-round": 2}), site).content, Trained).site == "north"
    assert "1 to 2" in refusal(answer(message("train", **{"server-round": 3}), site))
    other = message("train", **{"server-round": 1, "proximal-mu": 5.0})
    assert "another proximal_mu" in refusal(answer(other, site))


def test_a_stock_node_answers_for_a_member_and_its_policy_holds(
    member: Callable[..., Member], roster_study: Callable[..., StudySpec]
) -> None:
    at = member()
    study = roster_study(at)
    arrays = to_array_record(models.initial_state(study, 7))
    question = Question(kind="train", study=study, run="run-1")
    content = question_record(question, arrays, ConfigRecord({"server-round": 1}))
    asked = Message(packed(content), 1, "train")
    context = Context(1, 1, {"site": str(at.site.folder)}, RecordDict(), {"threads": 1})
    assert refusal(app(asked, context)).startswith("waits for approval: the steward of north has not approved")
    approve(at, study, datetime.now(UTC).date())
    reply = app(asked, context)
    assert read_answer(reply.content, Trained).site == "north"
    assert block_of(reply.content) is not None  # as it was asked
    assert unpacked(reply.content).array_records["arrays"].keys() == arrays.keys()
    assert [entry.data["kind"] for entry in audit.entries(at.site.state / "audit.jsonl", event="left")] == ["train"]
