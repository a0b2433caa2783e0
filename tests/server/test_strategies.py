"""Strategies by name: each is made with a study's options, works on our messages, and goes on after a resume."""

import gc
import inspect
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import Strategy

from fedward_common.errors import StudyError
from fedward_common.records import CONTROL, from_array_record, to_array_record
from fedward_common.study import StudySpec
from fedward_common.study_strategy import SHIPPED
from fedward_common.testing import FakeGrid, tiny_study
from fedward_server.facade import RosterGrid
from fedward_server.strategies import make_strategy, restore_state, strategy_state, takes

Arrays = dict[str, npt.NDArray[Any]]

SITES = 7
MEAN = {"fedavg", "fedavgm", "fedprox", "fedadagrad", "fedadam", "fedyogi", "scaffold", "fedbn", "ditto"}


@pytest.fixture(autouse=True)
def _few_objects() -> Iterator[None]:
    """Flower's strategies collect garbage at every reply, which takes long where a test process holds much."""
    gc.freeze()
    yield
    gc.unfreeze()


def study(name: str, **options: float) -> StudySpec:
    more: dict[str, Mapping[str, Any]] = {}
    if name in {"scaffold", "qfedavg"}:
        more["training"] = {"optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.0}}
    if name == "fedbn":
        more = {
            "model": {"name": "resnet10", "options": {"norm": "batch"}},
            "input": {"size": [32, 32]},
            "training": {"batch_norm": "local"},
        }
    return tiny_study(strategy={"name": name, "min_sites": SITES, "options": options}, **more)


def model(seed: int) -> Arrays:
    random = np.random.default_rng(seed)
    return {
        "a.weight": random.normal(size=(4, 3)).astype(np.float32),
        "a.bias": random.normal(size=3).astype(np.float32),
        "scale": np.asarray(random.normal(), np.float32),
    }


def answer(asked: Message, arrays: Mapping[str, npt.NDArray[Any]], *, patients: int, loss: float = 0.5) -> Message:
    metrics = MetricRecord({"num-examples": patients, "train-loss": loss})
    content = RecordDict({"arrays": to_array_record(arrays), "metrics": metrics})
    return Message(content, reply_to=asked)


def one_round(strategy: Strategy, spec: StudySpec, number: int, before: Arrays) -> Arrays:
    """As the engine does: ask, let every site answer (each its own change), aggregate what the strategy takes."""
    grid = RosterGrid(range(1, SITES + 1), FakeGrid({}))
    asked = list(strategy.configure_train(number, to_array_record(before), ConfigRecord(), grid))
    assert len(asked) == SITES
    asked.sort(key=lambda message: message.metadata.dst_node_id)
    answers, patients = [], []
    for message in asked:
        site = message.metadata.dst_node_id
        random = np.random.default_rng([number, site])
        came = from_array_record(message.content.array_records["arrays"])
        assert all(name.startswith(CONTROL) or name in before for name in came)
        answers.append(
            {name: np.asarray(a + random.normal(size=a.shape).astype(a.dtype) / 10) for name, a in came.items()}
        )
        patients.append(10 * site)
    if takes(spec.strategy) == "mean":
        weights = np.array(patients) / sum(patients)
        mean = {
            name: np.tensordot(weights, np.stack([a[name] for a in answers]), 1).astype(np.float32)
            for name in answers[0]
        }
        total = sum(patients)
        replies = [answer(asked[0], mean, patients=total)]
    else:
        replies = [
            answer(message, arrays, patients=p, loss=0.1 * (index + 1))
            for index, (message, arrays, p) in enumerate(zip(asked, answers, patients, strict=True))
        ]
    result, metrics = strategy.aggregate_train(number, replies)
    assert isinstance(result, ArrayRecord)
    assert isinstance(metrics, MetricRecord)
    after = {name: array.astype(before[name].dtype) for name, array in from_array_record(result).items()}
    assert {name: array.shape for name, array in after.items()} == {n: a.shape for n, a in before.items()}
    return after


@pytest.mark.parametrize("name", SHIPPED)
def test_every_strategy_works_on_our_messages_and_goes_on_after_a_resume_with_the_same_bits(name: str) -> None:
    spec = study(name)
    assert takes(spec.strategy) == ("mean" if name in MEAN else "all")
    strategy, state = make_strategy(spec), model(0)
    for number in (1, 2):
        state = one_round(strategy, spec, number, state)
    kept = {key: np.array(array) for key, array in strategy_state(strategy).items()}  # as a checkpoint keeps them
    resumed, again = make_strategy(spec), {key: array.copy() for key, array in state.items()}
    restore_state(resumed, kept)
    for number in (3, 4):
        state, again = one_round(strategy, spec, number, state), one_round(resumed, spec, number, again)
        assert all(state[key].tobytes() == again[key].tobytes() for key in state), f"round {number}"
    assert all(np.isfinite(array).all() for array in state.values())
    assert any(not np.array_equal(state[key], model(0)[key]) for key in state)


@pytest.mark.parametrize("name", ["fedavgm", "fedadagrad", "fedadam", "fedyogi", "scaffold"])
def test_without_its_state_a_resumed_strategy_would_differ(name: str) -> None:
    """So that the test above can fail."""
    spec = study(name)
    strategy = make_strategy(spec)
    state = one_round(strategy, spec, 1, model(0))
    forgetful = make_strategy(spec)
    one, two = one_round(strategy, spec, 2, state), one_round(forgetful, spec, 2, state)
    if name == "scaffold":  # the model does not hang on it at the hub, the control variate does
        one = {key: a for key, a in strategy_state(strategy).items() if key.startswith("control/")}
        two = {key: a for key, a in strategy_state(forgetful).items() if key.startswith("control/")}
    assert any(not np.array_equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize("name", SHIPPED)
def test_options_and_defaults_are_those_of_the_class(name: str) -> None:
    made = make_strategy(study(name))
    parameters = inspect.signature(type(made)).parameters
    ours_on_purpose = {
        ("fedprox", "proximal_mu"),
        ("fedavgm", "server_momentum"),  # flwr's defaults would be FedAvg
        ("fedadagrad", "eta"),
        ("fedadam", "eta"),  # flwr's is as much as most weights are
    }
    for option, value in study(name).strategy.options.items():
        assert option in parameters
        if (name, option) not in ours_on_purpose:
            assert parameters[option].default == value
        assert getattr(made, option) == value


def test_qfedavg_by_hand() -> None:
    """Two sites, one number: Delta_k = F_k^q L (w - w_k), h_k = q F_k^(q-1) L^2 |w - w_k|^2 + L F_k^q."""
    spec = tiny_study(
        strategy={"name": "qfedavg", "options": {"q": 1.0}},
        training={"optimizer": {"name": "sgd", "lr": 0.5, "momentum": 0.0}},
    )
    strategy = make_strategy(spec)
    grid = RosterGrid([1, 2], FakeGrid({}))
    before = {"w": np.array([1.0], np.float32)}
    asked = list(strategy.configure_train(1, to_array_record(before), ConfigRecord(), grid))
    replies = [
        answer(asked[0], {"w": np.array([0.0], np.float32)}, patients=5, loss=2.0),
        answer(asked[1], {"w": np.array([2.0], np.float32)}, patients=500, loss=1.0),
    ]
    result, _ = strategy.aggregate_train(1, replies)
    assert result is not None
    # L = 2: Delta = 2*2*1 and 1*2*-1; h = 1*4 + 2*2 and 1*4 + 2*1
    assert from_array_record(result)["w"][0] == pytest.approx(1.0 - (4.0 - 2.0) / (8.0 + 6.0))


PLUG_IN = """
import numpy as np
from flwr.serverapp.strategy import FedAvg, Strategy

class Halved(FedAvg):
    def __init__(self, *, factor=0.5, **flower):
        super().__init__(**flower)
        self.factor, self.rounds, self.seen = factor, 0, None

class Mean(FedAvg):
    takes = "mean"

class Bare(Strategy):
    def __init__(self, factor): self.factor = factor
    configure_train = aggregate_train = configure_evaluate = aggregate_evaluate = summary = None

no_class = 3
"""


def installed(folder: Path, *points: str) -> None:
    """Install a package with these entry points into a folder."""
    (folder / "acme_rules.py").write_text(PLUG_IN, "utf-8")
    info = folder / "acme_rules-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-rules\nVersion: 1.0\n", "utf-8")
    (info / "entry_points.txt").write_text("\n".join(["[fedward.strategies]", *points, ""]), "utf-8")


@pytest.fixture
def plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "acme_rules", raising=False)
    names = {
        "halved": "Halved",
        "mean": "Mean",
        "bare": "Bare",
        "wrong": "no_class",
        "gone": "absent",
        "krum": "Halved",
    }
    installed(tmp_path, *(f"{name} = acme_rules:{what}" for name, what in names.items()))


@pytest.mark.usefixtures("plug_in")
def test_a_plug_in_is_found_by_name_and_made_with_the_studys_numbers() -> None:
    spec = study("halved", factor=0.25)
    assert takes(spec.strategy) == "all"
    made = make_strategy(spec)
    assert type(made).__name__ == "Halved"
    assert vars(made)["factor"] == 0.25
    assert vars(made)["min_train_nodes"] == 1
    assert takes(study("mean").strategy) == "mean"
    assert type(make_strategy(study("krum"))).__module__.startswith("fedward_server"), "nothing replaces a name"
    assert vars(make_strategy(study("bare", factor=2)))["factor"] == 2


@pytest.mark.usefixtures("plug_in")
def test_a_plug_ins_arrays_and_numbers_are_carried_over() -> None:
    made = make_strategy(study("halved"))
    vars(made).update(rounds=3, seen=np.arange(3.0), more=[np.ones(2), np.zeros(1)])
    again = make_strategy(study("halved"))
    restore_state(again, strategy_state(made))
    assert vars(again)["rounds"] == 3
    assert isinstance(vars(again)["rounds"], int)
    assert vars(again)["seen"].tolist() == [0.0, 1.0, 2.0]
    assert [array.tolist() for array in vars(again)["more"]] == [[1.0, 1.0], [0.0]]


@pytest.mark.usefixtures("plug_in")
@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("halved", {"factr": 1}, 'the strategy "halved" cannot be made .*factr.*; correct'),
        ("bare", {}, "missing 1 required positional argument: 'factor'; correct"),
        ("wrong", {}, "is no flwr Strategy: repair or uninstall it"),
        ("gone", {}, "cannot be imported: .*absent.*; repair or uninstall it"),
    ],
)
def test_a_plug_in_that_does_not_work_is_refused_in_words(name: str, options: dict[str, float], says: str) -> None:
    with pytest.raises(StudyError, match=says):
        make_strategy(study(name, **options))


def test_a_plug_in_that_is_not_installed_here_is_refused(plug_in: None, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = study("halved")
    monkeypatch.setattr(sys, "path", [part for part in sys.path if not (Path(part) / "acme_rules.py").exists()])
    with pytest.raises(StudyError, match='no one installed plug-in that brings the strategy "halved"'):
        make_strategy(spec)


def test_a_study_names_strategies_without_importing_flwr() -> None:
    code = "import sys, fedward_common.study; sys.exit('flwr' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
