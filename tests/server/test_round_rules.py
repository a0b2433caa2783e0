"""What the engine decides in a round beside the mean: quorum, outliers, offenders, the best round, an early end."""

import gc
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message

from fedward_common import models
from fedward_common.errors import RunError
from fedward_common.records import Arrays, from_array_record, model_sha256, read_question, to_array_record
from fedward_common.study import SiteEntry, StudySpec, resolved
from fedward_common.study_strategy import SHIPPED
from fedward_common.testing import Answerer, FakeGrid, FakeSite, tiny_study
from fedward_server.checkpoints import BEST, latest
from fedward_server.closing import LOCAL_MODELS
from fedward_server.events import RunEvent
from fedward_server.result import RunResult
from fedward_server.rounds import RoundEngine
from fedward_server.watch import across, gains

ROUNDS = 6


@pytest.fixture(autouse=True)
def _few_objects() -> Iterator[None]:
    """Flower's strategies collect garbage at every reply, which takes long where a test process holds much."""
    gc.freeze()
    yield
    gc.unfreeze()


def learns(scale: float = 1.0, seed: int = 0) -> Callable[[Arrays], Arrays]:
    """Training that moves every real array in a direction that is nearly the same at all sites."""

    common, own = np.random.default_rng(5).normal(size=997), np.random.default_rng(seed).normal(size=997)
    step = (scale * (common + 0.1 * own)).astype(np.float32)

    def update(arrays: Arrays) -> Arrays:
        return {
            name: (a + np.resize(step, a.shape)).astype(a.dtype, copy=False) if a.dtype.kind == "f" else a
            for name, a in arrays.items()
        }

    return update


def sites(count: int, **others: FakeSite) -> dict[int, Answerer]:
    honest = [FakeSite(name=f"good-{n}", patients=20, update=learns(seed=n)) for n in range(count)]
    return dict(enumerate([*honest, *others.values()], start=1))


def run(
    folder: Path, study: StudySpec, answering: Mapping[int, Answerer], *, resume: bool = False
) -> tuple[RunResult, list[RunEvent]]:
    events: list[RunEvent] = []
    engine = RoundEngine(
        grid=FakeGrid(answering), study=study, run="run-1", engine="embedded", folder=folder,
        on_round=lambda _row: None, listener=events.append,
    )  # fmt: skip
    return engine(resume=resume), events


def study(**sections: dict[str, Any]) -> StudySpec:
    return tiny_study(**{"training": {"rounds": ROUNDS}, **sections})


def told(events: list[RunEvent], kind: str) -> list[tuple[int, str, str]]:
    return [(event.round, event.site, event.note) for event in events if event.kind == kind]


# Outliers and offenders ----------------------------------------------------------------------------------------------


def flipped() -> FakeSite:
    return FakeSite(name="bad", patients=20, update=learns(-50.0))


def test_an_outlier_is_refused_each_round_told_why_and_left_out_after_three(tmp_path: Path) -> None:
    notices: list[str | None] = []
    counted: dict[str, list[int | None]] = {"bad": [], "good-0": []}
    bad, good = flipped(), sites(3)

    def listening(message: Message) -> Message | None:
        question, _ = read_question(message.content)
        if question.kind == "train":
            notices.append(question.notice)
            counted["bad"].append(question.counted)
        return bad(message)

    def watched(message: Message) -> Message | None:
        question, _ = read_question(message.content)
        if question.kind == "train":
            counted["good-0"].append(question.counted)
        return good[first](message)

    first = min(good)
    result, events = run(tmp_path, study(strategy={"min_cosine": 0.0}), {**good, first: watched, 9: listening})
    assert counted == {"bad": [0, 0, 0], "good-0": list(range(ROUNDS))}
    assert [number for number, site, _ in told(events, "refused") if site == "bad"] == [1, 2, 3]
    assert "points elsewhere than the others'" in told(events, "refused")[0][2]
    assert notices[0] is None
    assert [str(notice)[:32] for notice in notices[1:]] == [
        "the update of round 1 was refuse",
        "the update of round 2 was refuse",
    ]
    [(number, site, sentence)] = told(events, "left-out")
    assert (number, site) == (3, "bad")
    assert result.left_out == (sentence,)
    assert sentence == "bad: left out since round 4, its updates of rounds 1, 2 and 3 were refused"
    assert result.sites["bad"].test is not None, "it is still told what it would gain"
    without, _ = run(tmp_path / "without", study(strategy={"min_cosine": 0.0}), sites(3))
    assert result.model_sha256 == without.model_sha256


def test_without_the_bound_the_same_site_ruins_the_mean(tmp_path: Path) -> None:
    result, events = run(tmp_path, study(), {**sites(3), 9: flipped()})
    assert told(events, "refused") == []
    assert result.model_sha256 != run(tmp_path / "without", study(), sites(3))[0].model_sha256


def test_offences_are_remembered_over_a_resume(tmp_path: Path) -> None:
    spec = study(strategy={"min_cosine": 0.0})
    stop = [3]

    class Stopping(FakeSite):
        def __call__(self, message: Message) -> Message | None:
            question, numbers = read_question(message.content)
            if question.kind == "train" and numbers["server-round"] in stop:
                raise KeyboardInterrupt
            return super().__call__(message)

    answering: dict[int, Answerer] = {
        **sites(3),
        8: Stopping(name="good-9", patients=20, update=learns(seed=9)),
        9: flipped(),
    }
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, spec, answering)
    stop.clear()
    result, events = run(tmp_path, spec, answering, resume=True)
    assert [number for number, site, _ in told(events, "refused") if site == "bad"] == [3]
    whole, _ = run(tmp_path / "whole", spec, answering)
    assert result.model_sha256 == whole.model_sha256
    assert result.left_out == whole.left_out


def test_where_all_are_offenders_the_run_ends_in_words(tmp_path: Path) -> None:
    far = {"max_update_norm": 1e-3, "min_sites": 1}
    with pytest.raises(RunError, match=r"round 1 has updates of 0 sites.*L2 norm"):
        run(tmp_path, study(strategy=far), sites(2))


@pytest.mark.parametrize(
    ("says", "reason"),
    [
        ({"round": 1}, "another question: of round 1"),
        ({"study": "ab" * 32}, "another question: of round 2, study abab"),
    ],
)
def test_an_answer_to_another_question_is_refused(tmp_path: Path, says: dict[str, Any], reason: str) -> None:

    bad = FakeSite(name="bad", patients=20, update=learns())

    def lying(message: Message) -> Message | None:
        reply = bad(message)
        assert reply is not None
        _, numbers = read_question(message.content)
        if numbers.get("server-round") == 2:
            text = str(reply.content.config_records["fedward"]["answer"])
            reply.content["fedward"] = ConfigRecord({"answer": json.dumps({**json.loads(text), **says})})
        return reply

    result, _ = run(tmp_path, study(), {**sites(2), 9: lying})
    assert reason in result.history[1].refused["bad"]
    assert [bool(row.refused) for row in result.history] == [False, True, *[False] * (ROUNDS - 2)]


# Quorum --------------------------------------------------------------------------------------------------------------


def test_a_round_ends_with_its_quorum_and_the_late_reply_is_dropped(tmp_path: Path) -> None:
    late = FakeSite(name="late", patients=20, update=learns(1000.0))

    def silent(message: Message) -> Message | None:
        question, _ = read_question(message.content)
        return None if question.kind == "train" else late(message)

    result, _ = run(tmp_path, study(strategy={"quorum": 2}), {**sites(2), 9: silent})
    assert all(set(row.sites) == {"good-0", "good-1"} for row in result.history)
    assert "quorum" in result.history[0].refused["late"]


# The best round, and an early end ------------------------------------------------------------------------------------


def scored(values: list[float]) -> type[FakeSite]:
    """A site whose loss on validation patients is these values, round by round."""

    class Scored(FakeSite):
        def __call__(self, message: Message) -> Message | None:
            question, numbers = read_question(message.content)
            number = int(numbers.get("server-round", 0))
            self.loss = values[min(number - 2, len(values) - 1)] if question.kind == "train" else values[-1]
            return super().__call__(message)

        def _evaluation(self, *asked: Any, **more: Any) -> Any:
            return super()._evaluation(*asked, **more).model_copy(update={"loss": self.loss})

    return Scored


def by_loss(**rules: Any) -> StudySpec:
    return study(evaluation={"primary": "loss", **rules})


LOSSES = [0.9, 0.5, 0.7, 0.8, 0.6, 0.7]  # of the models of rounds 1 to 6


def test_the_best_rounds_model_is_the_runs(tmp_path: Path) -> None:
    answering: dict[int, Answerer] = {1: scored(LOSSES)(name="a", update=learns())}
    result, _ = run(tmp_path, by_loss(keep="best"), answering)
    assert [row.primary for row in result.history] == LOSSES
    assert result.kept_round == 2
    short, _ = run(
        tmp_path / "short", by_loss().model_copy(update={"training": study(training={"rounds": 2}).training}), answering
    )
    assert result.model_sha256 == short.model_sha256
    kept = latest(tmp_path / BEST, study_digest=by_loss(keep="best").digest)
    assert kept is not None
    assert model_sha256(kept.arrays) == result.model_sha256


def test_without_asking_for_it_the_last_is(tmp_path: Path) -> None:
    result, _ = run(tmp_path, by_loss(), {1: scored(LOSSES)(name="a", update=learns())})
    assert result.kept_round == ROUNDS
    assert not (tmp_path / BEST).exists()


def test_a_run_ends_early_and_says_why(tmp_path: Path) -> None:
    answering: dict[int, Answerer] = {1: scored(LOSSES)(name="a", update=learns())}
    result, events = run(tmp_path, by_loss(keep="best", early_stopping={"patience": 2}), answering)
    assert len(result.history) == 5, "round 4 is scored in the fifth trip"
    assert result.kept_round == 2
    [(number, _, note)] = told(events, "stopping")
    assert number == 5
    assert note == "loss of 0.5000 in round 2 has not become better for 2 rounds"


def test_a_run_that_ended_early_trains_no_more_when_it_is_resumed(tmp_path: Path) -> None:
    """Killed while its model is scored, it scores that model again: sites refuse another one."""
    spec, kinds = by_loss(early_stopping={"patience": 2}), list[str]()

    def answer(message: Message) -> Message | None:
        kinds.append(read_question(message.content)[0].kind)
        return scored(LOSSES)(name="a", update=learns())(message)

    ended, _ = run(tmp_path, spec, {1: answer})
    kinds.clear()
    resumed, events = run(tmp_path, spec, {1: answer}, resume=True)
    assert "train" not in kinds
    assert (resumed.model_sha256, len(resumed.history)) == (ended.model_sha256, len(ended.history))
    assert [number for number, *_ in told(events, "stopping")] == [5]


def test_where_nothing_is_scored_there_is_no_best_and_that_is_said(tmp_path: Path) -> None:
    class Silent(FakeSite):
        def _evaluation(self, *asked: Any, **more: Any) -> Any:
            return super()._evaluation(*asked, **more).model_copy(update={"loss": None})

    with pytest.raises(RunError, match=r"goes by loss, and nothing of it leaves the sites"):
        run(tmp_path, by_loss(keep="best"), {1: Silent(name="a", update=learns())})


def test_the_start_is_that_of_the_study(tmp_path: Path) -> None:
    spec = study(training={"rounds": 1})
    result, _ = run(tmp_path, spec, {1: FakeSite(name="a")})
    assert result.model_sha256 == model_sha256(models.initial_state(spec, spec.training.seed))


# Who gains -----------------------------------------------------------------------------------------------------------


def test_at_the_end_each_hospital_that_trains_is_asked_what_it_makes_of_it_alone(tmp_path: Path) -> None:
    asked: dict[str, Arrays] = {}

    class Listening(FakeSite):
        def __call__(self, message: Message) -> Message | None:
            question, _ = read_question(message.content)
            if question.model == "alone":
                asked[self.name] = from_array_record(message.content.array_records["arrays"])
            return super().__call__(message)

    spec = resolved(study(), sites=[SiteEntry(name="a"), SiteEntry(name="b"), SiteEntry(name="c", role="evaluate")])
    answering = {n: Listening(name=name, update=learns(0.01)) for n, name in enumerate("abc", start=1)}
    engine = RoundEngine(
        grid=FakeGrid(answering), study=spec, run="run-1", engine="embedded", folder=tmp_path,
        on_round=lambda _row: None, listener=lambda _event: None, compares=True,
    )  # fmt: skip
    result = engine()
    start = models.initial_state(spec, spec.training.seed)
    assert set(asked) == {"a", "b"}
    assert model_sha256(asked["a"]) == model_sha256(start) != result.model_sha256
    assert result.sites["a"].alone is not None
    assert result.sites["c"].alone is None
    rows = {row["site"]: row for row in gains(RunResult.read(tmp_path))}
    assert rows["a"]["alone"]["value"] == result.sites["a"].alone.figures["malignant"].roc_auc.value
    assert rows["c"]["alone"] is None
    assert rows["c"]["together"] is not None


def compared(folder: Path, spec: StudySpec, answering: Mapping[int, Answerer]) -> tuple[RunResult, list[RunEvent]]:
    events: list[RunEvent] = []
    engine = RoundEngine(
        grid=FakeGrid(answering), study=spec, run="run-1", engine="embedded", folder=folder,
        on_round=lambda _row: None, listener=events.append, compares=True,
    )  # fmt: skip
    return engine(), events


def test_each_hospitals_own_model_is_scored_at_every_other_site_where_all_lend_it(tmp_path: Path) -> None:
    scored: dict[str, list[str]] = {}

    class Listening(FakeSite):
        def __call__(self, message: Message) -> Message | None:
            question, _ = read_question(message.content)
            if question.model == "other":
                digest = model_sha256(from_array_record(message.content.array_records["arrays"]))
                scored.setdefault(self.name, []).append(digest)
            return super().__call__(message)

    spec = resolved(study(), sites=[SiteEntry(name="a"), SiteEntry(name="b"), SiteEntry(name="c", role="evaluate")])
    answering = {
        n: Listening(name=name, update=learns(0.01 * n, seed=n), local_model=True)
        for n, name in enumerate("abc", start=1)
    }
    start = models.initial_state(spec, spec.training.seed)
    own = {name: model_sha256(answering[n].update(start)) for n, name in ((1, "a"), (2, "b"))}
    result, _ = compared(tmp_path, spec, answering)
    assert scored == {"a": [own["b"]], "b": [own["a"]], "c": [own["a"], own["b"]]}
    assert {site: sorted(found.across) for site, found in result.sites.items()} == {
        "a": ["b"], "b": ["a"], "c": ["a", "b"],
    }  # fmt: skip
    assert not (tmp_path / LOCAL_MODELS).exists(), "the hub keeps no hospital's own model"
    rows = across(RunResult.read(tmp_path))
    assert {(row["trained_at"], row["tested_at"]) for row in rows} == {
        (maker, tester) for maker in "ab" for tester in "abc"
    }
    diagonal = next(row for row in rows if (row["trained_at"], row["tested_at"]) == ("a", "a"))
    alone = result.sites["a"].alone
    assert alone is not None
    assert diagonal["figure"]["value"] == alone.figures["malignant"].roc_auc.value


def test_one_site_that_keeps_its_model_home_and_nobody_is_asked_for_theirs(tmp_path: Path) -> None:
    asked: list[bool] = []

    def listening(site: FakeSite) -> Answerer:
        def answer(message: Message) -> Message | None:
            question, _ = read_question(message.content)
            if question.kind == "evaluate":
                asked.append(question.hand_over or question.model == "other")
            return site(message)

        return answer

    answering = {n: listening(FakeSite(name=f"site-{n}", local_model=n > 1)) for n in (1, 2, 3)}
    result, _ = compared(tmp_path, study(), answering)
    assert asked
    assert not any(asked)
    assert all(found.alone is not None and not found.across for found in result.sites.values())
    assert across(RunResult.read(tmp_path)) == []


def test_an_own_model_of_another_shape_is_named_and_left_out_of_the_matrix(tmp_path: Path) -> None:
    class Odd(FakeSite):
        def __call__(self, message: Message) -> Message | None:
            reply = super().__call__(message)
            question, _ = read_question(message.content)
            if reply is not None and question.hand_over:
                reply.content["arrays"] = to_array_record({"w": np.zeros(3, np.float32)})
            return reply

    answering = {1: Odd(name="a", local_model=True), 2: FakeSite(name="b", local_model=True)}
    result, events = compared(tmp_path, study(), answering)
    [(_, site, note)] = told(events, "refused")
    assert site == "a"
    assert "lacks" in note
    assert {site: sorted(found.across) for site, found in result.sites.items()} == {"a": ["b"], "b": []}


# Every strategy ------------------------------------------------------------------------------------------------------


def by(name: str) -> StudySpec:
    more: dict[str, dict[str, Any]] = {}
    if name in {"scaffold", "qfedavg"}:
        more = {"training": {"rounds": 4, "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.0}}}
    if name == "fedbn":
        more = {
            "model": {"name": "resnet10", "options": {"norm": "batch"}},
            "input": {"size": [32, 32]},
            "training": {"rounds": 4, "batch_norm": "local"},
        }
    sections: dict[str, dict[str, Any]] = {"training": {"rounds": 4}, "strategy": {"name": name, "min_sites": 5}}
    return tiny_study(**{**sections, **more})


class Cut(FakeSite):
    """A site at which the run is cut off when it is asked for round 3."""

    off = False

    def __call__(self, message: Message) -> Message | None:
        question, numbers = read_question(message.content)
        if self.off and question.kind == "train" and numbers["server-round"] == 3:
            raise KeyboardInterrupt
        return super().__call__(message)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_strategy_runs_through_the_engine_and_over_a_cut_to_the_same_bits(tmp_path: Path, name: str) -> None:
    cut = Cut(name="good-9", patients=20, update=learns(0.01, seed=9))
    honest = [FakeSite(name=f"good-{n}", patients=20 + n, update=learns(0.01, seed=n)) for n in range(4)]
    answering: dict[int, Answerer] = dict(enumerate([*honest, cut], start=1))
    whole, _ = run(tmp_path / "whole", by(name), answering)
    cut.off = True
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", by(name), answering)
    cut.off = False
    resumed, _ = run(tmp_path / "cut", by(name), answering, resume=True)
    assert resumed.model_sha256 == whole.model_sha256
    assert all(len(row.sites) == 5 and not row.refused for row in whole.history)
    assert whole.model_sha256 != model_sha256(models.initial_state(by(name), by(name).training.seed))
    assert not (tmp_path / "cut" / ".updates").exists()


@pytest.mark.parametrize(
    "factor", [-1.0, pytest.param(0.0, marks=pytest.mark.long), pytest.param(100.0, marks=pytest.mark.long)]
)
@pytest.mark.parametrize("name", ["fedmedian", "fedtrimmedavg", "krum", "geometric-median"])
def test_a_robust_strategy_is_hardly_moved_by_one_site_its_batchnorm_statistics_too(
    tmp_path: Path, name: str, factor: float
) -> None:
    """Zeros, sign-flipped and scaled: of the model and its buffers alike."""

    def attack(arrays: Arrays) -> Arrays:
        learned = learns(0.01)(arrays)
        return {
            key: (a + factor * (learned[key] - a) * (100 if factor else 0) - (a if factor == 0 else 0)).astype(a.dtype)
            if a.dtype.kind == "f"
            else a + 10**6
            for key, a in arrays.items()
        }

    spec = tiny_study(
        model={"name": "resnet10", "options": {"norm": "batch"}},
        input={"size": [32, 32]},
        training={"rounds": 2},
        strategy={"name": name, "min_sites": 5, "options": {"beta": 0.2} if name == "fedtrimmedavg" else {}},
    )
    if name == "krum":
        spec = tiny_study(
            model={"name": "resnet10", "options": {"norm": "batch"}}, input={"size": [32, 32]},
            training={"rounds": 2}, strategy={"name": name, "min_sites": 5, "options": {"num_malicious_nodes": 1}},
        )  # fmt: skip
    honest = [FakeSite(name=f"good-{n}", patients=20, update=learns(0.01, seed=n)) for n in range(5)]
    bad = FakeSite(name="bad", patients=20, update=attack)
    run(tmp_path / "with", spec, dict(enumerate([*honest, bad], start=1)))
    run(tmp_path / "without", spec, dict(enumerate(honest, start=1)))
    ends = [latest(tmp_path / each, study_digest=spec.digest) for each in ("with", "without")]
    assert ends[0] is not None
    assert ends[1] is not None
    start = models.initial_state(spec, spec.training.seed)
    for key, array in ends[0].arrays.items():
        if array.dtype.kind == "f":
            moved = np.linalg.norm((ends[1].arrays[key] - start[key]).astype(np.float64))
            assert np.linalg.norm((array - ends[1].arrays[key]).astype(np.float64)) < 0.5 * moved + 1e-6, key
        else:
            assert array.max() < 10**6, key
