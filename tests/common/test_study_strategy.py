"""[strategy] and [training] batch_norm: names, options, and what no combination can hold."""

from collections.abc import Mapping
from typing import Any

import pytest

from fedward_common.batch_norm import layers, personal_names, returned_names
from fedward_common.errors import StudyError
from fedward_common.models import has_batch_norm, initial_model, initial_state, network
from fedward_common.study import StudySpec, loads
from fedward_common.study_strategy import SHIPPED
from fedward_common.study_text import describe
from fedward_common.study_text_training import _BATCH_NORM, _STRATEGIES
from fedward_common.testing import tiny_study

BATCH = 'name = "resnet10"\noptions = { norm = "batch" }'

ONE_SITE = '[[sites]]\nname = "a"'


def text(strategy: str, training: str = "", model: str = 'name = "small-cnn"', more: str = "") -> str:
    return f"""
[study]
id = "s"
task = "classification"
[cohort]
labels = ["a", "b", "c"]
[input]
size = [32, 32]
[model]
{model}
[training]
{training}
[strategy]
{strategy}
{more}
"""


def refusal(*args: str, **more: str) -> list[str]:
    with pytest.raises(StudyError) as caught:
        loads(text(*args, **more), "s.toml")
    return str(caught.value).splitlines()


FAULTS: list[tuple[tuple[str, ...], str]] = [
    (('name = "fedavgg"',), '"fedavgg": must be one of fedavg, fedavgm, fedprox,'),
    (('name = "fedavgg"',), "or an installed plug-in; did you mean fedavg?"),
    (("name = 1",), "name = 1: must be the name of a strategy in quotes"),
    (('name = "krum"',), "min_sites: must be at least 3: Krum needs 2f + 3 hospitals, f being num_malicious_nodes = 0"),
    (('name = "krum"\nmin_sites = 4\noptions.num_malicious_nodes = 1',), "min_sites = 4: must be at least 5: Krum"),
    (
        ('name = "multikrum"\nmin_sites = 5\noptions = { num_malicious_nodes = 1, num_nodes_to_select = 3 }',),
        "min_sites = 5: must be at least 6: to choose num_nodes_to_select = 3 of n, it may be at most n - f - 2",
    ),
    (
        ('name = "bulyan"\nmin_sites = 6\noptions.num_malicious_nodes = 1',),
        "must be at least 7: Bulyan needs 4f + 3 hospitals, f being num_malicious_nodes = 1 (El Mhamdi et al. 2018)",
    ),
    (('name = "bulyan"\noptions.num_malicious_nodes = 1.5',), "num_malicious_nodes = 1.5: must be a whole number"),
    (('name = "fedmedian"',), "min_sites: must be at least 3: the median of fewer hospitals protects from none"),
    (('name = "geometric-median"',), "must be at least 3: the geometric median of fewer hospitals protects from none"),
    (('name = "fedtrimmedavg"\nmin_sites = 4',), "must be at least 5: of fewer hospitals beta = 0.2 leaves nobody out"),
    (('name = "fedtrimmedavg"\nmin_sites = 9\noptions.beta = 0.5',), "options.beta = 0.5: must be a number at least"),
    (('name = "qfedavg"\noptions.q = -1',), "options.q = -1: must be a number at least 0 and at most 10"),
    (('name = "qfedavg"\noptions.client_learning_rate = 1',), "unknown key; valid keys: q"),
    (('name = "fedavgm"\noptions.server_momentum = 1',), "must be a number at least 0 and below 1"),
    (('name = "fedadagrad"\noptions.eta_l = 0.1',), "eta_l = 0.1: is the sites' learning rate, and [training]"),
    (('name = "fedavg"\noptions.a = "b"',), 'options.a = "b": must be a number'),
    (('name = "scaffold"',), "[training] optimizer: must be { name ="),
    (('name = "scaffold"', 'optimizer = { name = "sgd" }'), "momentum = 0.0, … } for scaffold: its correction holds"),
    (
        ('name = "qfedavg"',),
        "momentum = 0.0, … } for qfedavg: it takes the way of a hospital for its gradient times the",
    ),
    (('name = "fedbn"',), 'name = "fedbn": keeps BatchNorm layers at their site, and model "small-cnn" has none'),
    (('name = "fedbn"', "", BATCH), '[training] batch_norm is "share"; set batch_norm = "local", or choose another'),
    (('name = "fedbn"', 'batch_norm = "group"', BATCH), '[training] batch_norm is "group"; set batch_norm = "local"'),
    (("", "batch_size = 1", BATCH), "[training] batch_size = 1: must be at least 2: model"),
    (("", 'batch_norm = "local"'), 'batch_norm = "local": has no effect: model "small-cnn" has no BatchNorm layer'),
    (("", 'batch_norm = "group"', 'name = "resnet10"'), 'model "resnet10" has no BatchNorm layer with these options'),
    (("", 'batch_norm = "loca"', BATCH), 'one of "share", "local", "recalibrate", "group"; did you mean local?'),
    (
        ("min_sites = 1", 'batch_norm = "local"', BATCH, f'{ONE_SITE}\n[[sites]]\nname = "b"\nrole = "evaluate"'),
        '[[sites]] item 2 role = "evaluate": leaves out a hospital that would need BatchNorm layers of its own',
    ),
    (
        ("", 'batch_norm = "local"', BATCH, '[split]\nkind = "leave-site-out"\nsite = "a"'),
        '[split] kind = "leave-site-out": leaves out a hospital that would need BatchNorm layers of its own',
    ),
]


@pytest.mark.parametrize(("parts", "says"), FAULTS, ids=[says[:60] for _, says in FAULTS])
def test_a_fault_is_told_in_one_line(parts: tuple[str, ...], says: str) -> None:
    lines = refusal(*parts)
    assert len(lines) == 1, lines
    assert says in lines[0]


@pytest.mark.parametrize(
    ("strategy", "training", "options"),
    [
        ("fedavgm", "", {"server_learning_rate": 1.0, "server_momentum": 0.9}),
        ("krum", "", {"num_malicious_nodes": 0}),
        ("multikrum", "", {"num_malicious_nodes": 0, "num_nodes_to_select": 1}),
        ("fedtrimmedavg", "", {"beta": 0.2}),
        ("qfedavg", 'optimizer = { name = "sgd", momentum = 0.0 }', {"q": 0.1}),
        ("ditto", "", {"proximal_lambda": 0.1}),
        ("geometric-median", "", {"nu": 1e-6}),
        ("norm-clipped-mean", "", {}),
        ("scaffold", 'optimizer = { name = "sgd", momentum = 0.0 }', {"eta": 1.0}),
    ],
)
def test_options_are_resolved_and_keep_their_kind(strategy: str, training: str, options: dict[str, float]) -> None:
    spec = loads(text(f'name = "{strategy}"\nmin_sites = 5', training))
    assert spec.strategy.options == options
    assert [type(value) for value in spec.strategy.options.values()] == [type(value) for value in options.values()]
    again = StudySpec.from_json(spec.canonical_json())
    assert again == spec
    assert again.digest == spec.digest


def test_the_largest_beta_and_the_least_have_their_least_sites() -> None:
    for beta, least in ((0.49, 3), (0.3, 4), (0.1, 10), (1e-4, 10_000)):
        loads(text(f'name = "fedtrimmedavg"\nmin_sites = {least}\noptions.beta = {beta}'))
        assert (
            f"must be at least {least}" in refusal(f'name = "fedtrimmedavg"\nmin_sites = 2\noptions.beta = {beta}')[0]
        )


def test_every_strategy_and_policy_has_its_words() -> None:
    assert tuple(_STRATEGIES) == SHIPPED
    spec = loads(text('name = "fedbn"', 'batch_norm = "local"', BATCH))
    words = dict(describe(spec))
    assert "which stay at each hospital (FedBN)" in words["Combination"]
    assert _BATCH_NORM["local"] in words["Training"]


def bn_study(**sections: Mapping[str, Any]) -> StudySpec:
    base: dict[str, Mapping[str, Any]] = {
        "model": {"name": "resnet10", "options": {"norm": "batch"}},
        "input": {"size": [32, 32]},
    }
    return tiny_study(**{**base, **sections})


def test_which_networks_have_batch_normalisation() -> None:
    assert has_batch_norm("resnet10", {"norm": "batch"})
    assert not has_batch_norm("resnet10", {})
    assert not has_batch_norm("small-cnn", {})


def test_what_stays_at_a_site_by_policy() -> None:
    names = list(initial_state(bn_study(), 1))
    statistics = {n for n in names if n.endswith(("running_mean", "running_var", "num_batches_tracked"))}
    whole = statistics | {f"{layer}.{kind}" for layer in layers(names) for kind in ("weight", "bias")}
    assert len(whole) == 5 * len(layers(names)) > 0
    local = bn_study(training={"batch_norm": "local"})
    fedbn = bn_study(training={"batch_norm": "local"}, strategy={"name": "fedbn"})
    assert returned_names(bn_study(), names, 1) == names
    assert returned_names(bn_study(training={"batch_norm": "recalibrate"}), names, 1) == names
    assert set(personal_names(local, names)) == statistics
    assert set(personal_names(fedbn, names)) == whole
    assert returned_names(fedbn, names, 1) == [name for name in names if name not in whole]


def test_group_replaces_every_batch_norm_layer_and_keeps_the_names_of_parameters() -> None:
    plain, group = bn_study(), bn_study(training={"batch_norm": "group"})
    state, parameters = initial_model(group)
    assert not layers(state)
    assert parameters == initial_model(plain)[1] == frozenset(state)
    assert "BatchNorm" not in str(network(group))
    assert "GroupNorm" in str(network(group))
