"""The round engine on a grid in memory: real strategies, records and checkpoints; only training is a function."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Timer
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message

from fedward_common import models
from fedward_common.errors import CheckpointError, ModelError, RunError
from fedward_common.metrics import Evaluation, pooled
from fedward_common.records import (
    Arrays,
    answer_record,
    from_array_record,
    model_sha256,
    read_answer,
    read_question,
    to_array_record,
)
from fedward_common.records import Trained as TrainedAnswer
from fedward_common.study import SiteEntry, StudySpec
from fedward_common.testing import Answerer, FakeGrid, FakeSite, tiny_study
from fedward_server import pausing
from fedward_server.checkpoints import latest, newest
from fedward_server.events import Listener, RunEvent
from fedward_server.facade import RosterGrid
from fedward_server.result import FILE as RESULT
from fedward_server.result import RoundHistory, RunResult
from fedward_server.rounds import RoundEngine


def shift(amount: float) -> Callable[[Arrays], Arrays]:
    """Training that adds `amount` to every floating array."""
    return lambda arrays: {
        name: (a + np.asarray(amount, a.dtype)) if a.dtype.kind == "f" else a for name, a in arrays.items()
    }


def poison(value: float) -> Callable[[Arrays], Arrays]:
    """Training that ends with one number of one array replaced."""

    def update(arrays: Arrays) -> Arrays:
        name = next(iter(arrays))
        broken = arrays[name].copy()
        broken.flat[0] = value
        return {**arrays, name: broken}

    return update


def engine(
    sites: Mapping[int, Answerer],
    study: StudySpec,
    folder: Path,
    events: list[RunEvent] | None = None,
    listener: Listener | None = None,
) -> RoundEngine:
    rows: list[RoundHistory] = []
    return RoundEngine(
        grid=FakeGrid(sites),
        study=study,
        run="run-1",
        engine="embedded",
        folder=folder,
        on_round=rows.append,
        listener=listener or (events if events is not None else []).append,
    )


def final_arrays(folder: Path, study: StudySpec) -> Mapping[str, np.ndarray[Any, Any]]:
    checkpoint = latest(folder, study_digest=study.digest)
    assert checkpoint is not None
    return checkpoint.arrays


def start(study: StudySpec) -> Mapping[str, np.ndarray[Any, Any]]:
    return models.initial_state(study, study.training.seed)


def test_fedavg_weighs_by_training_patients(tmp_path: Path) -> None:
    study = tiny_study(training={"rounds": 1})
    sites = {
        1: FakeSite(name="a", patients=30, update=shift(1.0)),
        2: FakeSite(name="b", patients=10, update=shift(3.0)),
    }
    result = engine(sites, study, tmp_path)()
    for name, array in final_arrays(tmp_path, study).items():
        expected = start(study)[name] + (30 * 1.0 + 10 * 3.0) / 40 if array.dtype.kind == "f" else start(study)[name]
        np.testing.assert_allclose(array, expected, rtol=1e-6, atol=1e-6)
    assert result.model_sha256 == model_sha256(final_arrays(tmp_path, study))
    assert RunResult.read(tmp_path) == result
    (tmp_path / RESULT).write_text('{"run": "of another Fedward"}')
    with pytest.raises(ModelError, match="cannot be read: restore its folder from a backup"):
        RunResult.read(tmp_path)


def test_bits_do_not_depend_on_the_order_of_nodes(tmp_path: Path) -> None:
    study = tiny_study(training={"rounds": 3})
    a, b, c = (
        FakeSite(name=n, patients=p, update=shift(s)) for n, p, s in [("a", 31, 0.1), ("b", 17, 0.7), ("c", 9, 1.3)]
    )
    one = engine({1: a, 2: b, 3: c}, study, tmp_path / "one")()
    two = engine({1: c, 2: a, 3: b}, study, tmp_path / "two")()
    assert one.model_sha256 == two.model_sha256


@pytest.mark.parametrize("rule", ["youden", {"sensitivity": 0.95}])
def test_the_operating_point_is_chosen_on_validation_patients(tmp_path: Path, rule: str | dict[str, float]) -> None:
    study = tiny_study(evaluation={"operating_point": rule})
    result = engine({1: FakeSite(name="a"), 2: FakeSite(name="bb")}, study, tmp_path)()
    sides = [[site.validation for site in result.sites.values()], [site.test for site in result.sites.values()]]
    chosen, of_test = ({"malignant": _threshold(side, study)} for side in sides)
    assert result.thresholds == chosen != of_test


def _threshold(evaluations: list[Evaluation | None], study: StudySpec) -> float:
    merged = pooled([each for each in evaluations if each is not None], "malignant")
    assert merged is not None
    return merged.threshold(study.evaluation.operating_point)


def test_every_round_has_its_validation_figures(tmp_path: Path) -> None:
    study = tiny_study(training={"rounds": 3})
    result = engine({1: FakeSite(name="a"), 2: FakeSite(name="b")}, study, tmp_path)()
    assert [row.round for row in result.history] == [1, 2, 3]
    assert all(row.primary is not None and row.validation_loss is not None for row in result.history)
    test = result.sites["a"].test
    assert test is not None
    assert test.figures["malignant"].threshold == result.thresholds["malignant"]
    assert result.history[0].sites["a"].bytes_up > sum(a.nbytes for a in start(study).values())


@pytest.mark.parametrize(
    ("name", "options", "client"),
    [
        ("fedprox", {"proximal_mu": 0.1}, 0.1),
        ("fedadam", {"eta": 0.01, "beta_1": 0.9, "beta_2": 0.99, "tau": 0.001}, None),
        ("fedyogi", {"eta": 0.01, "beta_1": 0.9, "beta_2": 0.99, "tau": 0.001}, None),
    ],
)
def test_flwr_strategies_by_name(tmp_path: Path, name: str, options: dict[str, float], client: float | None) -> None:
    seen: list[ConfigRecord] = []

    class Listening(FakeSite):
        def __call__(self, message: Message) -> Message | None:
            if message.metadata.message_type == "train":
                seen.append(message.content.config_records["config"])
            return super().__call__(message)

    study = tiny_study(training={"rounds": 2}, strategy={"name": name, "options": options})
    result = engine(
        {1: Listening(name="a", update=shift(0.5)), 2: FakeSite(name="b", update=shift(0.5))}, study, tmp_path
    )()
    assert len(result.history) == 2
    assert [config.get("proximal-mu") for config in seen] == [client, client]
    moved = final_arrays(tmp_path, study)
    assert any(not np.array_equal(moved[key], value) for key, value in start(study).items())


def test_fedadam_first_step_by_hand(tmp_path: Path) -> None:
    """Reddi et al. 2021 (arXiv:2003.00295), alg. 2, with flwr's bias correction as in Adam."""
    options = {"eta": 0.1, "beta_1": 0.9, "beta_2": 0.99, "tau": 1e-3}
    study = tiny_study(training={"rounds": 1}, strategy={"name": "fedadam", "options": options})
    engine({1: FakeSite(name="a", update=shift(0.5))}, study, tmp_path)()
    delta = 0.5
    m, v = (1 - 0.9) * delta, (1 - 0.99) * delta**2
    eta = 0.1 * np.sqrt(1 - 0.99**2) / (1 - 0.9**2)
    step = eta * m / (np.sqrt(v) + 1e-3)
    name = next(name for name, array in start(study).items() if array.dtype.kind == "f")
    np.testing.assert_allclose(final_arrays(tmp_path, study)[name], start(study)[name] + step, rtol=1e-3)


def test_q_fedavg_makes_weights_alone_and_batchnorms_statistics_are_averaged(tmp_path: Path) -> None:
    """Its normalisation sums the squares of all that it makes: statistics, which move far, would hold the weights."""
    study = tiny_study(
        model={"name": "resnet10", "options": {"norm": "batch"}},
        input={"size": [32, 32]},
        training={"rounds": 1, "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.0}},
        strategy={"name": "qfedavg"},
    )

    def learned(statistics: float) -> Callable[[Arrays], Arrays]:
        def update(arrays: Arrays) -> Arrays:
            amounts = {name: statistics if "running" in name else 0.01 for name in arrays}
            return {name: shift(amounts[name])({name: array})[name] for name, array in arrays.items()}

        return update

    sites = {
        number: FakeSite(name=name, patients=patients, update=learned(much))
        for number, (name, patients, much) in enumerate((("a", 30, 2.0), ("b", 10, 6.0)), start=1)
    }
    engine(sites, study, tmp_path / "far")()
    engine(
        {1: replace(sites[1], update=learned(0.0)), 2: replace(sites[2], update=learned(0.0))}, study, tmp_path / "near"
    )()
    before, far, near = start(study), final_arrays(tmp_path / "far", study), final_arrays(tmp_path / "near", study)
    for name, array in before.items():
        if "running" in name:
            np.testing.assert_allclose(far[name], array + 3.0, rtol=1e-5)
        elif array.dtype.kind == "f":
            np.testing.assert_array_equal(far[name], near[name])
            assert (far[name] != array).any(), name


@pytest.mark.parametrize(
    ("update", "reason"),
    [
        (poison(np.nan), "NaN"),
        (poison(np.inf), "Inf"),
        (lambda arrays: dict(list(arrays.items())[1:]), "lacks array"),
        (lambda arrays: {**arrays, "extra": np.zeros(2, np.float32)}, "extra"),
        (lambda arrays: {n: a.reshape(-1) for n, a in arrays.items()}, "shape"),
        (lambda arrays: {n: a.astype(np.float64) for n, a in arrays.items()}, "float64"),
        (shift(1e6), "norm"),
    ],
)
def test_a_bad_update_is_left_out_with_its_reason(
    tmp_path: Path, update: Callable[[Arrays], Arrays], reason: str
) -> None:
    study = tiny_study(training={"rounds": 1}, strategy={"max_update_norm": 1e4})
    good = FakeSite(name="good", update=shift(1.0))
    result = engine({1: FakeSite(name="bad", update=update), 2: good}, study, tmp_path / "with")()
    assert reason.lower() in result.history[0].refused["bad"].lower()
    assert engine({2: good}, study, tmp_path / "without")().model_sha256 == result.model_sha256


def test_a_reply_that_is_no_answer_is_left_out(tmp_path: Path) -> None:
    def rude(message: Message) -> Message | None:
        reply = FakeSite(name="rude")(message)
        if reply is not None and message.metadata.message_type == "train":
            reply.content["fedward"] = ConfigRecord({"answer": '{"site": "rude"}'})
        return reply

    result = engine({1: rude, 2: FakeSite(name="kind")}, tiny_study(), tmp_path)()
    assert "does not fit" in result.history[0].refused["rude"]


def test_a_site_that_answers_for_another_is_left_out(tmp_path: Path) -> None:
    def liar(message: Message) -> Message | None:
        reply = FakeSite(name="liar")(message)
        if reply is not None and message.metadata.message_type == "train":
            trained = read_answer(reply.content, TrainedAnswer).model_copy(update={"site": "honest"})
            return Message(answer_record(trained, reply.content.array_records["arrays"]), reply_to=message)
        return reply

    result = engine({1: liar, 2: FakeSite(name="honest")}, tiny_study(), tmp_path)()
    assert "honest" in result.history[0].refused["liar"]


def test_a_cohort_that_changes_is_left_out(tmp_path: Path) -> None:
    site = FakeSite(name="moving")

    def moving(message: Message) -> Message | None:
        if message.metadata.message_type == "train":
            return replace(site, cohort="f" * 64)(message)
        return site(message)

    result = engine({1: moving, 2: FakeSite(name="still")}, tiny_study(), tmp_path)()
    assert "cohort changed" in result.history[0].refused["moving"]


def test_a_site_cannot_choose_its_weight(tmp_path: Path) -> None:
    site = FakeSite(name="heavy")

    def heavy(message: Message) -> Message | None:
        if message.metadata.message_type == "train":
            return _with_patients(site(message), message, 10**8)
        return site(message)

    result = engine({1: heavy, 2: FakeSite(name="fair")}, tiny_study(), tmp_path)()
    assert "another number of training patients" in result.history[0].refused["heavy"]


def _with_patients(reply: Message | None, asked: Message, patients: int) -> Message:
    assert reply is not None
    trained = read_answer(reply.content, TrainedAnswer).model_copy(update={"patients": patients})
    return Message(answer_record(trained, reply.content.array_records["arrays"]), reply_to=asked)


def test_a_silent_site_costs_the_deadline_and_is_named(tmp_path: Path) -> None:
    site = FakeSite(name="mute")
    study = tiny_study(training={"rounds": 1}, strategy={"round_deadline_s": 0.2})
    result = engine(
        {1: lambda m: None if m.metadata.message_type == "train" else site(m), 2: FakeSite(name="loud")},
        study,
        tmp_path,
    )()
    assert "0.2 s is the limit of this study" in result.history[0].refused["mute"]


def test_a_site_that_fails_is_named_and_the_run_goes_on(tmp_path: Path) -> None:
    def failing(message: Message) -> Message | None:
        if message.metadata.message_type == "train":
            raise ZeroDivisionError("no images")
        return FakeSite(name="failing")(message)

    result = engine({1: failing, 2: FakeSite(name="fine")}, tiny_study(), tmp_path)()
    assert result.history[0].refused["failing"] == "no images"


def test_too_few_updates_stop_the_run_and_say_why(tmp_path: Path) -> None:
    study = tiny_study(strategy={"min_sites": 2})
    sites = {1: FakeSite(name="bad", update=poison(np.nan)), 2: FakeSite(name="good")}
    with pytest.raises(RunError, match=r"round 1 has updates of 1 sites.*at least 2.*bad: .*NaN"):
        engine(sites, study, tmp_path)()


def test_too_few_sites_stop_before_round_one(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="1 sites are ready to train, the study asks for at least 3"):
        engine({1: FakeSite(name="alone")}, tiny_study(strategy={"min_sites": 3}), tmp_path)()


def test_another_major_version_is_refused_before_round_one(tmp_path: Path) -> None:
    events: list[RunEvent] = []
    sites = {1: FakeSite(name="old", fedward="99.1.0"), 2: FakeSite(name="new")}
    result = engine(sites, tiny_study(), tmp_path, events)()
    assert set(result.sites) == {"new"}
    assert any(event.kind == "left-out" and "99.1.0" in event.note for event in events)


def test_a_site_off_the_roster_is_left_out(tmp_path: Path) -> None:
    study = tiny_study().model_copy(update={"sites": (SiteEntry(name="known"),)})
    result = engine({1: FakeSite(name="known"), 2: FakeSite(name="stranger")}, study, tmp_path)()
    assert set(result.sites) == {"known"}


def test_a_site_that_only_evaluates_trains_nothing(tmp_path: Path) -> None:
    roster = (SiteEntry(name="trains"), SiteEntry(name="watches", role="evaluate"))
    study = tiny_study().model_copy(update={"sites": roster})
    sites = {1: FakeSite(name="trains"), 2: FakeSite(name="watches", update=poison(np.nan))}
    result = engine(sites, study, tmp_path)()
    assert set(result.history[0].sites) == {"trains"}
    assert result.sites["watches"].test is not None


def test_resume_ends_with_the_same_bits(tmp_path: Path) -> None:
    options = {"eta": 0.01, "beta_1": 0.9, "beta_2": 0.99, "tau": 0.001}
    study = tiny_study(training={"rounds": 4}, strategy={"name": "fedadam", "options": options})

    def grow(arrays: Arrays) -> Arrays:
        return {n: (a * np.asarray(1.1, a.dtype)) if a.dtype.kind == "f" else a for n, a in arrays.items()}

    undisturbed = engine({1: FakeSite(name="a", update=grow)}, study, tmp_path / "whole")()
    asked = 0

    def dies_in_round_three(message: Message) -> Message | None:
        nonlocal asked
        asked += message.metadata.message_type == "train"
        if asked == 3:
            raise KeyboardInterrupt
        return FakeSite(name="a", update=grow)(message)

    with pytest.raises(KeyboardInterrupt):
        engine({1: dies_in_round_three}, study, tmp_path / "broken")()
    resumed = engine({1: FakeSite(name="a", update=grow)}, study, tmp_path / "broken")(resume=True)
    assert resumed.model_sha256 == undisturbed.model_sha256
    assert [row.round for row in resumed.history] == [1, 2, 3, 4]
    assert [row.primary for row in resumed.history] == [row.primary for row in undisturbed.history]


def test_a_paused_run_keeps_its_round_asks_nothing_and_ends_with_the_same_bits(tmp_path: Path) -> None:
    study, events = tiny_study(training={"rounds": 3}), list[RunEvent]()
    sites = {1: FakeSite(name="a", update=shift(0.1))}
    undisturbed = engine(sites, study, tmp_path / "whole")()
    folder = tmp_path / "paused"
    folder.mkdir()
    asked: list[int] = []

    class PausesInRoundTwo(FakeSite):
        def __call__(self, message: Message) -> Message | None:
            if message.metadata.message_type == "train":
                asked.append(int(read_question(message.content)[1]["server-round"]))
                if asked[-1] == 2:
                    pausing.pause(folder)
            return super().__call__(message)

    def told(event: RunEvent) -> None:
        events.append(event)
        if event.kind == "paused":
            assert newest(folder) == 2, "a pause may be long: what was done is on the disk"
            assert asked == [1, 2]
            Timer(0.3, pausing.go_on, [folder]).start()

    paused = engine({1: PausesInRoundTwo(name="a", update=shift(0.1))}, study, folder, listener=told)()
    assert paused.model_sha256 == undisturbed.model_sha256
    order = [event.kind for event in events if event.kind in {"paused", "continued", "round"}]
    assert order == ["round", "round", "paused", "continued", "round"]
    assert asked == [1, 2, 3]


def test_sites_work_while_the_last_round_goes_to_the_disk(tmp_path: Path) -> None:
    study, events, on_disk = tiny_study(training={"rounds": 3}), list[RunEvent](), list[int]()

    class Looking(FakeSite):
        def __call__(self, message: Message) -> Message | None:
            if message.metadata.message_type == "train":
                on_disk.append(newest(tmp_path))
            return super().__call__(message)

    engine({1: Looking(name="a", update=shift(0.1))}, study, tmp_path, events)()
    assert on_disk == [0, 0, 1], "round 2 is asked for before round 1 is saved, and round 1 is saved before round 3"
    told = [(event.kind, event.round) for event in events if event.kind in {"round", "aggregated", "closing"}]
    rounds = [(kind, number) for number in (1, 2, 3) for kind in ("round", "aggregated")]
    assert told == [*rounds, ("closing", 3)]


def test_who_interrupts_a_round_as_it_begins_does_not_lose_the_one_before(tmp_path: Path) -> None:
    class Interrupted(FakeSite):
        def __call__(self, message: Message) -> Message | None:
            if message.metadata.message_type == "train" and read_question(message.content)[1]["server-round"] == 2:
                raise KeyboardInterrupt
            return super().__call__(message)

    with pytest.raises(KeyboardInterrupt):
        engine({1: Interrupted(name="a")}, tiny_study(training={"rounds": 3}), tmp_path)()
    assert newest(tmp_path) == 1


def test_a_checkpoint_of_another_study_is_refused(tmp_path: Path) -> None:
    engine({1: FakeSite(name="a")}, tiny_study(), tmp_path)()
    with pytest.raises(CheckpointError, match="another study"):
        engine({1: FakeSite(name="a")}, tiny_study(training={"rounds": 5}), tmp_path)(resume=True)


def test_a_strategy_cannot_talk_past_the_engine() -> None:
    grid = RosterGrid([3, 5], FakeGrid({3: FakeSite(name="a"), 5: FakeSite(name="b")}))
    assert grid.get_node_ids() == [3, 5]
    for call in (grid.push_messages, grid.pull_messages, grid.send_and_receive):
        with pytest.raises(RunError, match="round engine"):
            call([])


def test_arrays_survive_the_trip() -> None:
    arrays: dict[str, np.ndarray[Any, Any]] = {
        "w": np.arange(6, dtype=np.float32).reshape(2, 3),
        "n": np.asarray(7, np.int64),
        "e": np.zeros((0, 2), np.float32),
    }
    back = from_array_record(to_array_record(arrays))
    assert list(back) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name], array)
        assert back[name].dtype == array.dtype


def test_runs_in_threads_start_from_the_same_weights() -> None:
    study = tiny_study(model={"name": "enhanced-alexnet"})
    with ThreadPoolExecutor(8) as pool:
        digests = set(pool.map(lambda _: model_sha256(models.initial_model(study)[0]), range(32)))
    assert digests == {model_sha256(models.initial_state(study, study.training.seed))}
