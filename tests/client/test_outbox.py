"""The one door: its links in their order, receipts, clipping, refusals, and that nobody else writes to what leaves."""

import ast
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fedward_client
from fedward_client.desk import RUNS, Desk, Reply
from fedward_client.handlers import Hospital
from fedward_client.ledger import Ledger
from fedward_client.member import Member
from fedward_client.outbox import Outbox, Outgoing, clip, quantise
from fedward_client.policy import unsafe_everything
from fedward_client.site_state import RunState
from fedward_client.source import SiteSource
from fedward_client.spool import OUT
from fedward_client.steward import approve
from fedward_common import audit, models
from fedward_common.compression import decode_update, encode_model, encode_update
from fedward_common.distance import update_norm
from fedward_common.errors import AuditError, PolicyError, RecordError
from fedward_common.events import Event
from fedward_common.records import Evaluated, Prepared, Question, Trained, model_sha256, question_record
from fedward_common.study import StudySpec
from fedward_common.testing import tiny_study
from fedward_simulations.phantoms import PhantomSource

TODAY = datetime.now(UTC).date()
MemberMaker = Callable[..., Member]
StudyMaker = Callable[..., StudySpec]


def trained() -> Trained:
    return Trained(
        site="north",
        study="cd" * 32,
        round=1,
        cohort="ab" * 32,
        patients=20,
        images=20,
        steps=1,
        train_loss=0.5,
        incoming=None,
        train_seconds=0.1,
        seconds=0.1,
    )


def outgoing(
    arrays: dict[str, np.ndarray], reference: dict[str, np.ndarray], study: StudySpec | None = None
) -> Outgoing:
    question = Question(kind="train", study=study or tiny_study(), run="run-1")
    return Outgoing(site="north", question=question, round=1, answer=trained(), arrays=arrays, reference=reference)


def test_the_links_stand_in_their_order() -> None:
    names = [link.__qualname__.split(".", maxsplit=1)[0] for link in Outbox("north", unsafe_everything()).links]
    assert names == ["policy", "difference", "clip", "noise", "quantise", "mask", "receipt"]


@given(
    values=st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=20),
    bound=st.floats(0.1, 50),
)
def test_a_clipped_update_is_at_most_as_long_as_the_site_says(values: list[float], bound: float) -> None:
    update: dict[str, np.ndarray] = {"w": np.array(values, np.float32), "n": np.array([3], np.int64)}
    reference: dict[str, np.ndarray] = {"w": np.ones(len(values), np.float32), "n": np.array([0], np.int64)}
    before = update_norm(update, reference)
    clipped = clip(bound)(outgoing(update, reference)).arrays
    assert update_norm(clipped, reference) <= bound * (1 + 1e-5)
    assert clipped["w"].dtype == np.float32
    assert clipped["n"] is update["n"]
    if before <= bound:
        assert clipped is update
    else:
        want = (update["w"] - reference["w"]).astype(np.float64) * (bound / before)
        np.testing.assert_allclose(clipped["w"] - reference["w"], want, atol=1e-4)


def test_a_receipt_is_signed_before_anything_leaves(member: MemberMaker, roster_study: StudyMaker) -> None:
    at = member()
    study = roster_study(at)
    approve(at, study, TODAY)
    outbox = at.outbox(spool=True)
    update, reference = {"w": np.full(4, 2.0, np.float32)}, {"w": np.zeros(4, np.float32)}
    released = outbox.release(outgoing(update, reference, study))
    parcel = outbox.ship(released)
    assert parcel is not None
    assert (at.site.spool / OUT / parcel.sha256).stat().st_size == parcel.size
    [receipt] = audit.entries(at.site.state / "audit.jsonl", event="left")
    assert {**receipt.data, "answer_sha256": ""} == {
        "study": study.digest,
        "study_id": "tiny",
        "run": "run-1",
        "kind": "train",
        "round": 1,
        "fields": sorted(Trained.model_fields),
        "answer_bytes": len(trained().model_dump_json()),
        "answer_sha256": "",
        "arrays": ["w"],
        "array_count": 1,
        "array_bytes": 16,
        "masked": False,
        "model_sha256": model_sha256(update),
        "update_norm": 4.0,
        "compression": "none",
    }
    audit.verify(at.site.state / "audit.jsonl", public_key=at.key.public_key())


def test_what_cannot_be_logged_does_not_leave(member: MemberMaker, roster_study: StudyMaker) -> None:
    at = member()
    study = roster_study(at)
    approve(at, study, TODAY)
    outbox = at.outbox(spool=True)
    log = at.site.state / "audit.jsonl"
    log.unlink()
    log.mkdir()
    with pytest.raises(AuditError):
        outbox.release(outgoing({}, {}, study))


def test_an_approval_that_ends_while_a_site_trains_keeps_the_update_home(
    member: MemberMaker, roster_study: StudyMaker
) -> None:
    at = member()
    study = roster_study(at)
    approve(at, study, TODAY)
    outbox = at.outbox(spool=True)
    outbox.admit(Question(kind="train", study=study, run="run-1"))
    at.ledger.withdraw(study.digest)
    with pytest.raises(PolicyError, match="waits for approval"):
        outbox.release(outgoing({"w": np.zeros(2)}, {"w": np.zeros(2)}, study))
    assert not list(audit.entries(at.site.state / "audit.jsonl", event="left"))


def test_watchers_get_the_last_event_of_each_stage_and_all_after() -> None:
    outbox = Outbox("north", unsafe_everything())
    outbox.tell(Event(site="north", stage="train", done=1, total=3))
    with outbox.watching() as events:
        outbox.tell(Event(site="north", stage="train", done=2, total=3))
        assert events.get(timeout=1).done == 2
    assert [event.done for event in outbox.latest()] == [2]


# Compression ---------------------------------------------------------------------------------------------------------

CODINGS = ("bf16", "int8", "top-k")


def coding_study(compression: str, at: Member | None = None, roster_study: StudyMaker = tiny_study) -> StudySpec:
    sections: dict[str, Any] = {"update": {"compression": compression}, "training": {"rounds": 4}}
    return roster_study(*([] if at is None else [at]), **sections)


def sent_down(study: StudySpec) -> dict[str, np.ndarray]:
    return encode_model(model(study), study.update)


@pytest.mark.parametrize("compression", CODINGS)
def test_a_receipt_tells_of_the_coded_update(member: MemberMaker, roster_study: StudyMaker, compression: str) -> None:
    at = member()
    study = coding_study(compression, at, roster_study)
    approve(at, study, TODAY)
    reply = desk(at).answer(config(study), lambda: sent_down(study))
    assert isinstance(reply.answer, Trained), reply.refusal
    [receipt] = audit.entries(at.site.state / "audit.jsonl", event="left")
    assert receipt.data["compression"] == compression
    assert receipt.data["model_sha256"] == model_sha256(reply.arrays)
    assert receipt.data["array_bytes"] == sum(array.nbytes for array in reply.arrays.values())
    assert receipt.data["arrays"] == sorted(reply.arrays)
    trained = decode_update(reply.arrays, model(study), study.update)
    assert receipt.data["update_norm"] == pytest.approx(update_norm(trained, model(study)), rel=1e-3)
    assert receipt.data["array_bytes"] < sum(array.nbytes for array in model(study).values())


@pytest.mark.parametrize("compression", CODINGS)
def test_a_round_trained_again_gives_the_same_bits(
    member: MemberMaker, roster_study: StudyMaker, compression: str
) -> None:
    """With a new process each time, and from what waited before that round."""
    at = member()
    study = coding_study(compression, at, roster_study)
    approve(at, study, TODAY)
    asked: dict[int, list[str]] = {}
    for turn, number in enumerate((1, 2, 2, 3, 3)):
        # another digest of the question: it is not answered from the ledger
        reply = desk(at).answer(config(study, number=number), lambda: sent_down(study), f"{turn:064x}")
        assert isinstance(reply.answer, Trained), reply.refusal
        asked.setdefault(number, []).append(model_sha256(reply.arrays))
    assert [len(set(asked[number])) for number in (1, 2, 3)] == [1, 1, 1]
    assert len({asked[number][0] for number in (1, 2, 3)}) == 3
    [folder] = (at.site.state / "rounds" / study.digest).iterdir()
    assert sorted(path.name for path in folder.iterdir()) == [f"00000{n}-residual.safetensors" for n in (2, 3)]


@pytest.mark.parametrize("compression", CODINGS)
@given(seed=st.integers(0, 2**32), scale=st.sampled_from([0.01, 1.0, 100.0]))
def test_what_waited_does_not_make_an_update_longer_than_the_site_says(
    tmp_path_factory: pytest.TempPathFactory, compression: str, seed: int, scale: float
) -> None:
    random = np.random.default_rng(seed)
    study = coding_study(compression)
    waiting = RunState(tmp_path_factory.mktemp("state") / "study" / "run")
    link = quantise(lambda _study, _run: waiting, 1.0)
    reference = {"w": random.standard_normal((40, 50)).astype(np.float32)}
    waiting.save("residual", 1, {"residual": (scale * random.standard_normal(2000)).astype(np.float32)})
    step = random.standard_normal((40, 50)) / 50
    update = clip(1.0)(outgoing({"w": (reference["w"] + step).astype(np.float32)}, reference, study))
    released = link(replace(update, round=2))
    assert released.norm is not None
    assert released.norm <= 1.0
    back = decode_update(released.arrays, reference, study.update)
    assert update_norm(back, reference) <= 1.0 + 1e-4
    left = waiting.load("residual", before=3)
    assert left
    nothing = {"w": np.zeros((40, 50), np.float32)}
    later = encode_update(nothing, nothing, study.update, residual=left, random=None)
    assert np.isfinite(later.norm)
    assert released.norm == pytest.approx(1.0, rel=0.01) or scale == 0.01 or compression == "top-k"


def test_an_update_that_went_astray_stays_and_nothing_waits(tmp_path: Path) -> None:
    study, waiting = coding_study("int8"), RunState(tmp_path / "study" / "run")
    reference = {"w": np.zeros(2000, np.float32)}
    with pytest.raises(RecordError, match="went astray"):
        quantise(lambda _study, _run: waiting, None)(
            outgoing({"w": np.full(2000, np.nan, np.float32)}, reference, study)
        )
    assert waiting.load("residual") == {}


@pytest.mark.parametrize("compression", CODINGS)
def test_what_waited_in_one_fold_reaches_no_other(tmp_path: Path, compression: str) -> None:
    """It is of updates that were trained on the next fold's test patients: each fold codes as the first one does."""
    split = {"kind": "folds", "folds": 3, "shares": [0.6, 0.2, 0.2]}
    study = tiny_study(update={"compression": compression}, split=split, training={"rounds": 2})
    waiting = RunState(tmp_path / "study" / "run")
    link = quantise(lambda _study, _run: waiting, None)
    random = np.random.default_rng(1)
    reference = {"w": random.standard_normal(2000).astype(np.float32)}
    update = outgoing({"w": reference["w"] + random.standard_normal(2000).astype(np.float32)}, reference, study)
    for number in range(1, 9):
        link(replace(update, round=number))
    parts = {path.name[:6]: path.name[7:] for path in waiting.folder.iterdir()}
    folds = [*(f"residual-fold-{fold}.safetensors" for fold in (0, 0, 1, 1, 2, 2)), *["residual.safetensors"] * 2]
    assert parts == {f"{number:06d}": part for number, part in enumerate(folds, start=1)}


def test_a_model_to_be_evaluated_comes_as_it_is(member: MemberMaker, roster_study: StudyMaker) -> None:
    at = member()
    study = coding_study("int8", at, roster_study)
    approve(at, study, TODAY)
    assert desk(at).answer(config(study, "evaluate"), lambda: model(study)).answer is not None
    refused = desk(at).answer(config(study, "evaluate"), lambda: sent_down(study), "cd" * 32).refusal
    assert "the arrays do not fit the study's network" in refused
    assert "is missing" in desk(at).answer(config(study), lambda: model(study)).refusal


# Who may write -------------------------------------------------------------------------------------------------------


def test_only_the_outbox_writes_to_what_leaves() -> None:
    """Of the data side; the network side writes what came. The import contract holds the same for the modules."""
    writers, tellers = set(), set()
    for path in Path(fedward_client.__path__[0]).rglob("*.py"):
        tree = ast.parse(path.read_text("utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom | ast.Import) and "spool_writer" in ast.unparse(node):
                writers.add(path.stem)
            if isinstance(node, ast.Attribute) and node.attr in {"put_nowait", "_watchers"}:
                tellers.add(path.stem)
    assert writers == {"bulk", "outbox", "supernode"}
    assert tellers == {"outbox"}


# The desk ------------------------------------------------------------------------------------------------------------


def config(study: StudySpec, kind: str = "train", number: int = 1, **more: Any) -> dict[str, Any]:
    question = Question.model_validate({"kind": kind, "study": study, "run": "run-1", **more})
    return {**question_record(question, None).config_records["config"], "server-round": number}


def desk(at: Member) -> Desk:
    outbox = at.outbox(spool=True)
    return Desk(Hospital(SiteSource(at.site), outbox.tell), outbox, at.ledger)


def model(study: StudySpec) -> dict[str, np.ndarray]:
    return dict(models.initial_state(study, study.training.seed))


def test_a_question_asked_again_gets_the_stored_bytes(member: MemberMaker, roster_study: StudyMaker) -> None:
    at = member()
    study = roster_study(at)
    approve(at, study, TODAY)
    asked = config(study)
    first = desk(at).answer(asked, lambda: model(study), "cd" * 32)
    assert isinstance(first.answer, Trained)
    again = desk(at).answer(asked, lambda: pytest.fail("nothing is computed twice"), "cd" * 32)
    assert again.answer == first.answer
    assert again.parcel == first.parcel
    assert len(list(audit.entries(at.site.state / "audit.jsonl", event="left"))) == 1
    another = desk(at).answer(asked, lambda: model(study), "ef" * 32)  # the same round, another model
    assert isinstance(another.answer, Trained)
    assert len(list(audit.entries(at.site.state / "audit.jsonl", event="left"))) == 2


def test_a_study_is_scored_by_so_many_runs_and_by_no_more(member: MemberMaker, roster_study: StudyMaker) -> None:
    at = member()
    study = roster_study(at)
    approve(at, study, TODAY)
    for number in range(RUNS):
        asked = config(study, "evaluate", run=f"run-{number}", side="test", thresholds={"malignant": 0.5})
        assert isinstance(desk(at).answer(asked, lambda: model(study)).answer, Evaluated)
    one_more = config(study, "evaluate", run="run-x", side="test", thresholds={"malignant": 0.6})
    assert f"has given {RUNS} runs figures of this study" in desk(at).answer(one_more, lambda: model(study)).refusal
    again = config(study, "evaluate", run="run-0", side="validation")
    assert isinstance(desk(at).answer(again, lambda: model(study)).answer, Evaluated)
    other = roster_study(at, training={"rounds": 3})
    approve(at, other, TODAY)
    asked = config(other, "evaluate", run="run-x", side="test")
    assert isinstance(desk(at).answer(asked, lambda: model(other)).answer, Evaluated)


def test_the_spool_holds_the_last_two_rounds(member: MemberMaker, roster_study: StudyMaker) -> None:
    at = member()
    study = roster_study(at, training={"rounds": 4})
    approve(at, study, TODAY)
    parcels = []
    for number in range(1, 5):
        reply = desk(at).answer(config(study, number=number), lambda: model(study), "cd" * 32)
        assert reply.parcel is not None
        parcels.append(reply.parcel.sha256)
    assert {path.name for path in (at.site.spool / OUT).iterdir()} == set(parcels[-2:])


def test_an_unapproved_study_is_remembered_for_the_steward(member: MemberMaker, roster_study: StudyMaker) -> None:
    at = member()
    study = roster_study(at)
    asked = config(study, "prepare")
    for _ in range(3):
        reply = desk(at).answer(asked, dict)
        assert reply.refusal.startswith("waits for approval")
    assert [each["digest"] for each in at.status()["waiting"]] == [study.digest]
    approve(at, study, TODAY)
    assert isinstance(desk(at).answer(asked, dict).answer, Prepared)
    assert at.status()["waiting"] == []


def test_a_question_of_another_kind_than_it_came_as_is_refused(member: MemberMaker, roster_study: StudyMaker) -> None:
    at = member()
    reply = desk(at).answer(config(roster_study(at), "prepare"), dict, kind="evaluate")
    assert reply.refusal == "a question of kind 'prepare' came as 'evaluate'"


def test_the_site_has_the_last_word_on_the_norm(member: MemberMaker, roster_study: StudyMaker) -> None:
    at = member('[site]\nname = "north"\n[policy]\noutputs = ["update"]\nmax_update_norm = 0.001\n')
    study = roster_study(at)
    approve(at, study, TODAY)
    reply = desk(at).answer(config(study), lambda: model(study))
    assert update_norm(reply.arrays, model(study)) == pytest.approx(0.001, rel=1e-3)
    [receipt] = audit.entries(at.site.state / "audit.jsonl", event="left")
    assert receipt.data["update_norm"] == pytest.approx(0.001, rel=1e-3)


@pytest.mark.parametrize(("outputs", "rides"), [('"update"', False), ('"update", "evaluation"', True)])
def test_figures_ride_on_an_update_only_where_evaluations_may_leave(
    member: MemberMaker, roster_study: StudyMaker, outputs: str, rides: bool
) -> None:
    at = member(f'[site]\nname = "north"\n[policy]\noutputs = [{outputs}]\n')
    study = roster_study(at)
    approve(at, study, TODAY)
    reply = desk(at).answer(config(study, score_incoming=True), lambda: model(study))
    assert isinstance(reply.answer, Trained)
    assert (reply.answer.incoming is not None) is rides


OUTPUTS = '"counts", "update", "evaluation"'


@pytest.mark.parametrize("named", [True, False])
def test_a_hospitals_own_model_leaves_whole_where_its_policy_names_it_and_not_else(
    member: MemberMaker, roster_study: StudyMaker, named: bool
) -> None:
    own = ', "local_model"' if named else ""
    at = member(f'[site]\nname = "north"\n[policy]\noutputs = [{OUTPUTS}{own}]\nmax_update_norm = 0.001\n')
    study = roster_study(at)
    approve(at, study, TODAY)
    prepared = desk(at).answer(config(study, "prepare"), dict).answer
    assert isinstance(prepared, Prepared)
    assert prepared.local_model is named
    of_another = desk(at).answer(config(study, "evaluate", side="test", model="other"), lambda: model(study))
    assert (of_another.answer is not None) is named
    asked = config(study, "evaluate", side="test", model="alone", hand_over=True)
    reply = desk(at).answer(asked, lambda: model(study))
    if not named:
        assert "scores others' models only where it lends its own" in of_another.refusal
        assert "does not let 'local_model' leave" in reply.refusal
        assert not reply.arrays
        return
    assert update_norm(reply.arrays, model(study)) > 0.001, "it is no update"
    [receipt] = [entry for entry in audit.entries(at.site.state / "audit.jsonl", event="left") if entry.data["arrays"]]
    assert receipt.data["kind"] == "evaluate"
    assert receipt.data["arrays"] == sorted(reply.arrays)
    figures_alone = config(study, "evaluate", side="test", model="alone")
    assert not desk(at).answer(figures_alone, lambda: model(study)).arrays


def test_who_waits_for_another_run_is_told_why() -> None:
    import threading

    started, goes_on = threading.Event(), threading.Event()

    class Slow(Hospital):
        def prepare(self, question: Question) -> Prepared:
            started.set()
            assert goes_on.wait(30)
            return Hospital.prepare(self, question)

    outbox = Outbox("north", unsafe_everything())
    at = Desk(Slow(PhantomSource("north", 40, 2.0, 5), outbox.tell), outbox)
    replies: list[Reply] = []
    asked = config(tiny_study(), "prepare")
    threads = [threading.Thread(target=lambda: replies.append(at.answer(asked, dict))) for _ in range(2)]
    with outbox.watching() as events:
        threads[0].start()
        assert started.wait(30)
        threads[1].start()
        event = events.get(timeout=30)
        goes_on.set()
    for thread in threads:
        thread.join()
    assert (event.stage, event.note) == ("wait", "run-1 waits: this site works for another run")
    assert [type(reply.answer) for reply in replies] == [Prepared, Prepared]


def test_operating_points_are_bound_in_the_ledger(member: MemberMaker, roster_study: StudyMaker) -> None:
    at = member()
    study = roster_study(at)
    approve(at, study, TODAY)
    points = config(study, "evaluate", side="validation", thresholds={"malignant": 0.5})
    assert desk(at).answer(points, lambda: model(study)).answer is not None
    others = config(study, "evaluate", side="validation", thresholds={"malignant": 0.6})
    assert "at other operating points already" in desk(at).answer(others, lambda: model(study)).refusal
    with Ledger.open(at.site.state) as ledger:
        assert ledger.once("run-1", "operating points, validation", "x") == '{"malignant": 0.5}'
