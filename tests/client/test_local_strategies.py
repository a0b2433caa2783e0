"""The sites' half of each strategy, with the hub's own half: numbers by hand, and what stays at a site."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import Strategy
from torch import nn

from fedward_client import handlers
from fedward_client.handlers import Hospital, network
from fedward_client.site_state import RunState
from fedward_client.training.device import pick_device
from fedward_client.training.local import load_state, state_arrays
from fedward_client.training.loop import _batches
from fedward_client.training.loss import class_weights
from fedward_client.training.recalibrate import recalibrated
from fedward_common import models
from fedward_common.batch_norm import layers, personal_names, returned_names
from fedward_common.errors import DataError, RecordError
from fedward_common.events import ignore
from fedward_common.records import CONTROL, Question, Trained, from_array_record, to_array_record
from fedward_common.study import StudySpec
from fedward_common.testing import FakeGrid, tiny_study
from fedward_server.facade import RosterGrid
from fedward_server.strategies import make_strategy
from fedward_simulations.phantoms import PhantomSource

Arrays = dict[str, Any]  # of arrays
SGD = {"name": "sgd", "lr": 0.05, "momentum": 0.0, "weight_decay": 0.01}
PATIENTS = {"north": 24, "south": 40}


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training on processors with tiles for bfloat16 too: the algorithms are held against ones in float32."""
    device = replace(pick_device(), amp=False)
    monkeypatch.setattr(handlers, "pick_device", lambda: device)


def hospital(folder: Path | None, name: str = "north") -> Hospital:
    return Hospital(PhantomSource(name, PATIENTS[name], 2.0, 2, folder))


def question(study: StudySpec, kind: str = "train", **more: object) -> Question:
    return Question.model_validate({"kind": kind, "study": study, "run": "run-1", **more})


def start(study: StudySpec) -> Arrays:
    return dict(models.initial_state(study, study.training.seed))


@dataclass
class Federation:
    """Two hospitals and the hub's strategy, as the round engine drives one that takes the mean."""

    study: StudySpec
    folder: Path
    strategy: Strategy
    state: Arrays

    @classmethod
    def of(cls, study: StudySpec, folder: Path) -> "Federation":
        return cls(study, folder, make_strategy(study), start(study))

    def round(self, number: int) -> dict[str, tuple[Trained, Arrays]]:
        """One round, each hospital a new process as it were; gives what the hospitals sent."""
        parameters = models.parameter_names(network(self.study.canonical_json()))
        sent = to_array_record({name: array for name, array in self.state.items() if name in parameters})
        grid = RosterGrid([1, 2], FakeGrid({}))
        asked = next(iter(self.strategy.configure_train(number, sent, ConfigRecord(), grid)))
        came = {**self.state, **from_array_record(asked.content.array_records["arrays"])}
        answers = {
            name: hospital(self.folder, name).train(question(self.study), came, round_number=number)
            for name in PATIENTS
        }
        total = sum(trained.patients for trained, _ in answers.values())
        mean = {
            name: np.asarray(
                sum(t.patients / total * update[name].astype(np.float64) for t, update in answers.values())
            )
            for name in next(iter(answers.values()))[1]
        }
        mean = {name: array.astype(came[name].dtype) for name, array in mean.items()}
        through = {name: array for name, array in mean.items() if name in parameters or name.startswith(CONTROL)}
        metrics = MetricRecord({"num-examples": total, "roster-examples": total, "train-loss": 0.5})
        content = RecordDict({"arrays": to_array_record(through), "metrics": metrics})
        learned, _ = self.strategy.aggregate_train(number, [Message(content, reply_to=asked)])
        assert learned is not None
        self.state = {**self.state, **mean, **from_array_record(learned)}
        self.state = {name: array for name, array in self.state.items() if not name.startswith(CONTROL)}
        return answers

    def kept(self, name: str) -> RunState:
        return RunState.of(self.folder / name, self.study, "run-1")


# SCAFFOLD ------------------------------------------------------------------------------------------------------------


def scaffold_study(rates: dict[str, float] | None = None, **training: object) -> StudySpec:
    return tiny_study(
        model={"learning_rates": rates or {}}, training={"optimizer": SGD, **training}, strategy={"name": "scaffold"}
    )


def gradients(study: StudySpec, state: Arrays, name: str, batch: npt.NDArray[np.int64]) -> Arrays:
    """The gradient of the loss of a batch, weight decay included, by the names of parameters."""
    data = PhantomSource(name, PATIENTS[name], 2.0, 2).load(study, "run-1", ignore)
    model = models.network(study)
    load_state(model, state)
    model.train()
    weights = class_weights(data.labels[data.indices("train")], 2)
    loss = nn.functional.cross_entropy(
        model(torch.from_numpy(data.images[batch])), torch.from_numpy(data.labels[batch]), weights
    )
    loss.backward()  # type: ignore[no-untyped-call]
    decay = study.training.optimizer.weight_decay
    found: Arrays = {}
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None
        found[key] = (parameter.grad + decay * parameter.detach()).numpy()
    return found


def reference_scaffold(study: StudySpec, rounds: int) -> tuple[Arrays, Arrays, dict[str, Arrays]]:
    """Algorithm 1 of the paper in float64, option II, as it is written there: x, c and every c_i."""
    x = {key: array.astype(np.float64) for key, array in start(study).items()}
    c = {key: np.zeros_like(array) for key, array in x.items()}
    own = {name: {key: np.zeros_like(array) for key, array in x.items()} for name in PATIENTS}
    rate, share = study.training.optimizer.lr, {name: n / sum(PATIENTS.values()) for name, n in PATIENTS.items()}
    for number in range(1, rounds + 1):
        delta_y, delta_c = {key: 0.0 * a for key, a in x.items()}, {key: 0.0 * a for key, a in x.items()}
        for name, patients in PATIENTS.items():
            data = PhantomSource(name, patients, 2.0, 2).load(study, "run-1", ignore)
            y, steps = {key: array.copy() for key, array in x.items()}, 0
            for epoch in range(study.training.local_epochs or 0):
                for batch, _ in _batches(data.indices("train"), study, name, number, epoch):
                    g = gradients(study, {key: a.astype(np.float32) for key, a in y.items()}, name, batch)
                    y = {key: y[key] - rate * (g[key] - own[name][key] + c[key]) for key in y}
                    steps += 1
            plus = {key: own[name][key] - c[key] + (x[key] - y[key]) / (steps * rate) for key in x}
            for key, before in x.items():
                delta_y[key] += share[name] * (y[key] - before)
                delta_c[key] += share[name] * (plus[key] - own[name][key])
            own[name] = plus
        x = {key: x[key] + delta_y[key] for key in x}
        c = {key: c[key] + delta_c[key] for key in x}
    return x, c, own


def test_scaffold_is_the_papers_algorithm(tmp_path: Path) -> None:
    study = scaffold_study()
    federation = Federation.of(study, tmp_path)
    for number in (1, 2, 3):
        federation.round(number)
    x, c, own = reference_scaffold(study, 3)
    control = vars(federation.strategy)["control"]
    for key in x:
        np.testing.assert_allclose(federation.state[key], x[key], atol=2e-5)
        np.testing.assert_allclose(control[key], c[key], atol=2e-4)
        for name in PATIENTS:
            np.testing.assert_allclose(federation.kept(name).load("control")[key], own[name][key], atol=2e-4)
    assert max(np.abs(array).max() for array in c.values()) > 0.01, "the control variate is not nothing"


def test_scaffold_corrects_towards_the_others(tmp_path: Path) -> None:
    """So that the test above can fail: without the control variates the models differ by far more than it allows."""
    study = scaffold_study(local_epochs=2)
    plain = tiny_study(training={"optimizer": SGD, "local_epochs": 2})
    one, two = Federation.of(study, tmp_path / "one"), Federation.of(plain, tmp_path / "two")
    for number in (1, 2):
        one.round(number)
        two.round(number)
    assert max(np.abs(one.state[key] - two.state[key]).max() for key in one.state) > 1e-3


@pytest.mark.parametrize("factor", [1.0, 3.0])
def test_one_step_of_scaffold_sends_back_the_gradient_whatever_a_layers_rate(tmp_path: Path, factor: float) -> None:
    first = next(iter(start(scaffold_study())))
    study, at = scaffold_study({first: factor}, local_steps=1, batch_size=64), hospital(tmp_path)
    model = start(study)
    came = {**model, **{CONTROL + key: np.zeros_like(array) for key, array in model.items()}}
    _, sent = at.train(question(study), came, round_number=1)
    images = at.source.load(study, "run-1", ignore).indices("train")
    for key, gradient in gradients(study, model, "north", images).items():
        np.testing.assert_allclose(sent[CONTROL + key], gradient, atol=1e-5)
        assert sent[CONTROL + key].dtype == model[key].dtype


def test_a_round_of_scaffold_again_begins_where_it_began(tmp_path: Path) -> None:
    study = scaffold_study()
    federation = Federation.of(study, tmp_path)
    federation.round(1)
    model, control = dict(federation.state), {k: a.copy() for k, a in vars(federation.strategy)["control"].items()}
    first = federation.round(2)
    federation.state = model
    vars(federation.strategy)["control"] = control
    again = federation.round(2)
    for name in PATIENTS:
        assert all(np.array_equal(first[name][1][key], again[name][1][key]) for key in first[name][1])


def test_scaffolds_own_control_variate_is_that_of_the_last_update_that_counted(tmp_path: Path) -> None:
    """Else the mean of all c_i would be another than c for good, after one update that was lost on its way."""
    study = scaffold_study()
    model = start(study)
    random = np.random.default_rng(1)
    came = {**model, **{CONTROL + key: 0.1 * random.normal(size=a.shape).astype(a.dtype) for key, a in model.items()}}

    def sent(folder: Path, number: int, counted: int) -> Arrays:
        return hospital(folder).train(question(study, counted=counted), came, round_number=number)[1]

    def same(one: Arrays, two: Arrays) -> bool:
        return all(np.array_equal(one[key], two[key]) for key in one)

    sent(tmp_path / "lost", 1, 0)
    sent(tmp_path / "lost", 2, 0)
    afresh = sent(tmp_path / "new", 3, 0)
    assert same(sent(tmp_path / "lost", 3, 0), afresh), "nothing of rounds 1 and 2 counted"
    sent(tmp_path / "counted", 1, 0)
    sent(tmp_path / "counted", 2, 1)
    after_one = sent(tmp_path / "counted", 3, 1)
    sent(tmp_path / "straight", 1, 0)
    assert same(after_one, sent(tmp_path / "straight", 3, 1)), "round 2 did not count, round 1 did"
    assert not same(after_one, afresh)


@pytest.mark.parametrize("change", ["missing", "another", "of another strategy"])
def test_control_arrays_that_do_not_fit_are_refused(tmp_path: Path, change: str) -> None:
    study = tiny_study() if change == "of another strategy" else scaffold_study()
    model = start(study)
    came = {**model, **{CONTROL + key: np.zeros_like(array) for key, array in model.items()}}
    if change == "missing":
        came = model
    elif change == "another":
        came[CONTROL + "odd"] = np.zeros(3, np.float32)
    with pytest.raises(RecordError, match="control"):
        hospital(tmp_path).train(question(study), came, round_number=1)


def test_what_keeps_nothing_is_refused_where_a_strategy_needs_it() -> None:
    study = scaffold_study()
    with pytest.raises(DataError, match="north keeps nothing between rounds"):
        hospital(None).train(question(study), start(study), round_number=1)


# Ditto ---------------------------------------------------------------------------------------------------------------


def ditto_study(proximal_lambda: float) -> StudySpec:
    options = {"proximal_lambda": proximal_lambda}
    return tiny_study(training={"optimizer": SGD}, strategy={"name": "ditto", "options": options})


def test_dittos_common_model_is_fedavgs_and_its_own_model_is_held_to_what_was_sent(tmp_path: Path) -> None:
    fedavg = Federation.of(tiny_study(training={"optimizer": SGD}), tmp_path / "fedavg")
    distance: dict[float, float] = {}
    for number in (1, 2, 3):
        fedavg.round(number)
    for held in (0.0, 1.0, 15.0):
        ditto = Federation.of(ditto_study(held), tmp_path / f"ditto-{held}")
        for number in (1, 2, 3):
            sent = ditto.state
            ditto.round(number)
        assert all(np.array_equal(ditto.state[key], fedavg.state[key]) for key in ditto.state)
        own = ditto.kept("north").load("personal")
        distance[held] = float(np.sqrt(sum(np.sum((own[key] - sent[key]) ** 2) for key in sent)))
    assert distance[0.0] > distance[1.0] > distance[15.0] > 0


def test_one_step_of_dittos_own_model_by_hand(tmp_path: Path) -> None:
    """v <- v - lr (g(v) + lambda (v - w)), v being what the site kept."""
    study = tiny_study(
        training={"optimizer": SGD, "local_steps": 1, "batch_size": 64},
        strategy={"name": "ditto", "options": {"proximal_lambda": 2.0}},
    )
    at, w = hospital(tmp_path), start(study)
    v = dict(models.initial_state(study, 99))
    RunState.of(tmp_path / "north", study, "run-1").save("personal", 1, v)
    at.train(question(study), w, round_number=2)
    after = RunState.of(tmp_path / "north", study, "run-1").load("personal")
    images = at.source.load(study, "run-1", ignore).indices("train")
    for key, gradient in gradients(study, v, "north", images).items():
        np.testing.assert_allclose(after[key], v[key] - 0.05 * (gradient + 2.0 * (v[key] - w[key])), atol=1e-5)


def test_dittos_own_model_is_scored_beside_the_common_one_also_after_a_restart(tmp_path: Path) -> None:
    study = ditto_study(0.1)
    before = hospital(tmp_path).evaluate(question(study, "evaluate"), start(study))
    assert before.personal is None
    _, update = hospital(tmp_path).train(question(study), start(study), round_number=1)
    scored = hospital(tmp_path).evaluate(question(study, "evaluate"), start(study))
    assert scored.evaluation == before.evaluation
    assert scored.personal is not None
    own = RunState.of(tmp_path / "north", study, "run-1").load("personal")
    assert scored.personal == hospital(tmp_path).evaluate(question(study, "evaluate"), own).evaluation
    assert scored.personal != scored.evaluation
    assert update.keys() == start(study).keys()


# BatchNorm -----------------------------------------------------------------------------------------------------------


def bn_study(policy: str, **strategy: object) -> StudySpec:
    return tiny_study(
        input={"size": [32, 32]},
        model={"name": "resnet10", "options": {"norm": "batch"}},
        training={"optimizer": SGD, "batch_norm": policy, "batch_size": 12},
        strategy=strategy,
    )


@pytest.mark.parametrize(("policy", "strategy"), [("local", "fedbn"), ("local", "fedavg")])
def test_own_layers_never_leave_and_are_what_the_site_scores_with(tmp_path: Path, policy: str, strategy: str) -> None:
    study = bn_study(policy, name=strategy)
    names = list(start(study))
    federation = Federation.of(study, tmp_path)
    for number in (1, 2):
        sent = dict(federation.state)
        answers = federation.round(number)
        for _, update in answers.values():
            assert list(update) == returned_names(study, names, 1)
    own = federation.kept("north").load("layers")
    assert set(own) == set(personal_names(study, names))
    assert all(np.array_equal(federation.state[name], start(study)[name]) for name in own), "the hub's stay as drawn"
    tracked = next(name for name in own if name.endswith("num_batches_tracked"))
    assert own[tracked] == 2, "the second round began with the first one's layers"
    scored = hospital(tmp_path).evaluate(question(study, "evaluate"), federation.state)
    by_hand = network(study.canonical_json())
    load_state(by_hand, {**federation.state, **own})
    share = bn_study("share")
    assert scored.evaluation == hospital(None).evaluate(question(share, "evaluate"), state_arrays(by_hand)).evaluation
    again, _ = hospital(tmp_path).train(question(study, score_incoming=True), sent, round_number=2)
    assert again.incoming is not None


@pytest.mark.parametrize("known", [0, 5, 20])
def test_recalibrated_statistics_are_those_of_the_training_images_and_go_back_afterwards(known: int) -> None:
    """Of those without a label too."""
    study = bn_study("recalibrate")
    data = PhantomSource("north", 40, 2.0, 2).load(study, "run-1", ignore)
    data.labels[data.indices("train")[known:]] = -1
    model = network(study.canonical_json())
    load_state(model, start(study))
    before = state_arrays(model)
    seen: list[torch.Tensor] = []
    (first,) = layers(before)[:1]
    handle = model.get_submodule(first).register_forward_hook(lambda _module, inputs, _out: seen.append(inputs[0]))
    with recalibrated(model, data, dims=2, device=pick_device()):
        during = state_arrays(model)
    handle.remove()
    (maps,) = seen
    assert len(maps) == 20 > len(data.indices("validation"))
    np.testing.assert_allclose(during[f"{first}.running_mean"], maps.mean(dim=(0, 2, 3)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(during[f"{first}.running_var"], maps.var(dim=(0, 2, 3)), rtol=1e-4, atol=1e-5)
    after = state_arrays(model)
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert isinstance(model.get_submodule(first), nn.BatchNorm2d)
    assert vars(model.get_submodule(first))["momentum"] == 0.1


@pytest.mark.parametrize("policy", ["share", "recalibrate", "group"])
def test_each_policy_trains_and_scores(tmp_path: Path, policy: str) -> None:
    study = bn_study(policy)
    trained, update = hospital(tmp_path).train(question(study, score_incoming=True), start(study), round_number=2)
    assert list(update) == list(start(study))
    assert trained.incoming is not None
    assert not list(tmp_path.rglob("*.safetensors")), "nothing needs to be kept"
    plain = hospital(None).evaluate(question(study, "evaluate"), start(study)).evaluation
    assert plain == trained.incoming
