"""Local training: it learns, it is deterministic, and each option does what its paper says."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fedward_client.evaluation import evaluate
from fedward_client.site_data import SiteData
from fedward_client.training.augment import Augmentation
from fedward_client.training.device import pick_device
from fedward_client.training.freezing import freeze
from fedward_client.training.loop import make_optimizer, train
from fedward_client.training.loss import class_weights, criterion
from fedward_client.training.rules import Proximal
from fedward_common import models
from fedward_common.errors import DataError, ModelError
from fedward_common.events import Event, ignore
from fedward_common.study import Optimizer, StudySpec
from fedward_common.testing import tiny_study
from fedward_simulations.phantoms import PhantomSource

SOURCE = PhantomSource("north", 64, 2.0, 5)
NORMALISED: dict[str, dict[str, Any]] = {  # a network with batch normalisation
    "model": {"name": "resnet10", "options": {"norm": "batch"}},
    "input": {"size": [32, 32]},
}


def build(study: StudySpec) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return models.build(study.model.name, options=study.model.options, size=study.input.size, channels=1, classes=2)


def data(study: StudySpec) -> SiteData:
    return SOURCE.load(study, "run-1", ignore)


def trained(study: StudySpec, *, round_number: int = 1, proximal_mu: float = 0.0) -> dict[str, torch.Tensor]:
    model = build(study)
    train(
        model,
        data(study),
        study,
        site="north",
        round_number=round_number,
        device=pick_device(),
        listener=ignore,
        rule=Proximal(proximal_mu) if proximal_mu else None,
    )
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("augmentation", [[], ["flip", "affine", "contrast", "noise"]])
def test_the_same_round_gives_the_same_bits_and_another_round_does_not(augmentation: list[str]) -> None:
    study = tiny_study(training={"augmentation": augmentation})
    torch.manual_seed(1)
    first = trained(study)
    torch.manual_seed(2)
    assert same(first, trained(study))
    assert not same(first, trained(study, round_number=2))


def test_the_loss_falls_on_a_planted_signal() -> None:
    study = tiny_study(training={"local_epochs": 8, "optimizer": {"name": "adamw", "lr": 0.01}})
    model = build(study)
    losses = [
        train(model, data(study), study, site="n", round_number=r, device=pick_device(), listener=ignore).loss
        for r in (1, 2)
    ]
    assert losses[1] < losses[0] < 0.7
    assert losses[1] < 0.3


def test_steps_and_epochs_count_batches() -> None:
    seen: list[Event] = []
    for training, steps in (({"local_epochs": 2}, 2 * 4), ({"local_steps": 7}, 7)):
        study = tiny_study(training={**training, "batch_size": 8})
        images = len(data(study).indices("train"))
        assert images == 32
        result = train(
            build(study), data(study), study, site="n", round_number=1, device=pick_device(), listener=seen.append
        )
        assert result.steps == steps
        assert (seen[-1].done, seen[-1].total) == (steps, steps)


def test_no_batch_holds_a_single_image() -> None:
    """33 images in batches of 32 would leave one: BatchNorm has no statistics of one image."""
    study = tiny_study(training={"batch_size": 31})
    seen: list[int] = []
    model = build(study)
    model.register_forward_hook(lambda module, inputs, _out: seen.append(len(inputs[0])) if module.training else None)
    train(model, data(study), study, site="n", round_number=1, device=pick_device(), listener=ignore)
    assert seen == [16, 16]
    seen.clear()
    odd = replace(data(study), sides=np.r_[np.zeros(5, np.int8), np.ones(59, np.int8)])
    train(
        model, odd, tiny_study(training={"batch_size": 2}), site="n", round_number=1, device=pick_device(),
        listener=ignore,
    )  # fmt: skip
    assert sorted(seen) == [2, 3]


def test_q_fedavg_is_told_the_loss_of_the_model_as_it_came() -> None:
    """Li et al. 2020 weigh by F_k(w^t), which a hospital that learns fast would make small within its round."""
    spec = {"local_epochs": 20, "optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.0}}
    study = tiny_study(training=spec, strategy={"name": "qfedavg"})
    model, own = build(study), data(study)
    rows = own.indices("train")
    weights = class_weights(own.labels[rows], 2)
    with torch.no_grad():
        scores = model.eval()(torch.from_numpy(own.images[rows]))
        expected = nn.functional.cross_entropy(scores, torch.from_numpy(own.labels[rows]), weights)
    result = train(model, own, study, site="n", round_number=1, device=pick_device(), listener=ignore)
    assert result.loss == pytest.approx(float(expected), rel=1e-5)
    plain = tiny_study(training=spec)
    one, two = build(plain), build(plain)
    low = train(one, own, plain, site="n", round_number=1, device=pick_device(), listener=ignore)
    assert low.loss < 0.8 * result.loss
    train(two, own, study, site="n", round_number=1, device=pick_device(), listener=ignore)
    assert same(one.state_dict(), two.state_dict()), "to look first changes nothing in training"


def test_fedprox_stays_nearer_to_the_global_model() -> None:
    study = tiny_study(training={"local_epochs": 4, "optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.0}})
    start = build(study).state_dict()

    def distance(state: dict[str, torch.Tensor]) -> float:
        return float(sum((state[name] - start[name]).pow(2).sum() for name in start))

    assert distance(trained(study, proximal_mu=1.0)) < distance(trained(study))


def test_class_weights_by_hand() -> None:
    labels = np.array([0, 0, 0, 1])
    assert class_weights(labels, 3).tolist() == pytest.approx([4 / 2 / 3, 4 / 2 / 1, 1.0])
    assert np.average(class_weights(labels, 3).numpy()[labels]) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        (Optimizer(name="sgd", lr=0.1), torch.optim.SGD),
        (Optimizer(name="adam", lr=0.1), torch.optim.Adam),
        (Optimizer(name="adamw", lr=0.1, weight_decay=0.3), torch.optim.AdamW),
    ],
)
def test_optimizers_by_name(spec: Optimizer, kind: type[torch.optim.Optimizer]) -> None:
    optimizer = make_optimizer(nn.Linear(2, 2), tiny_study(), spec)
    assert type(optimizer) is kind
    assert optimizer.param_groups[0]["lr"] == 0.1
    assert optimizer.param_groups[0]["weight_decay"] == spec.weight_decay


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_layers_learn_at_rates_of_their_own(name: str) -> None:
    study = tiny_study(
        model={"learning_rates": {"11.*": 10.0}, "frozen": ["1.*"]}, training={"optimizer": {"name": name, "lr": 0.01}}
    )
    model = build(study)
    freeze(model, study)
    names = {id(parameter): each for each, parameter in model.named_parameters()}
    groups = {
        group["lr"]: {names[id(parameter)] for parameter in group["params"]}
        for group in make_optimizer(model, study, study.training.optimizer).param_groups
    }
    assert groups.keys() == {0.01, 0.1}
    assert groups[0.1] == {"11.weight", "11.bias"}
    assert groups[0.01] == {each for each, _ in model.named_parameters()} - {"11.weight", "11.bias", "1.weight"}


def test_the_factor_of_a_rate_is_the_factor_of_a_first_step() -> None:
    once = {"local_steps": 1, "optimizer": {"name": "sgd", "lr": 0.01, "momentum": 0.0, "weight_decay": 0.0}}
    plain = tiny_study(training=once)
    fast = tiny_study(training=once, model={"learning_rates": {"11.*": 4.0}})
    before, one, four = dict(build(plain).state_dict()), trained(plain), trained(fast)
    for name, start in before.items():
        if name.startswith("11."):
            torch.testing.assert_close(four[name] - start, 4 * (one[name] - start))
        else:
            assert torch.equal(four[name], one[name])


@pytest.mark.parametrize("mu", [0.0, 0.1])
def test_frozen_layers_keep_their_bits_and_their_statistics(mu: float) -> None:
    study = tiny_study(
        **NORMALISED | {"model": {**NORMALISED["model"], "frozen": ["conv1.*", "bn1.*", "layer1.*"]}},
        training={"local_steps": 2, "optimizer": {"name": "adamw", "lr": 0.01, "weight_decay": 0.1}},
    )
    before, after = dict(build(study).state_dict()), trained(study, proximal_mu=mu)
    held = models.frozen_names(study, before)
    assert {"conv1.weight", "bn1.weight", "bn1.running_mean", "bn1.num_batches_tracked"} <= held
    assert {name for name in before if not torch.equal(before[name], after[name])} == before.keys() - held


def test_a_network_that_is_used_again_learns_what_its_study_says() -> None:
    held = tiny_study(**NORMALISED | {"model": {**NORMALISED["model"], "frozen": ["bn1.*"]}})
    model = build(held)
    model.train()
    freeze(model, held)
    assert [name for name, each in model.named_parameters() if not each.requires_grad] == ["bn1.weight", "bn1.bias"]
    assert [path for path, module in model.named_modules() if not module.training] == ["bn1"]
    model.train()
    freeze(model, tiny_study(**NORMALISED))
    assert all(each.requires_grad for each in model.parameters())
    assert all(module.training for module in model.modules())


def test_a_pattern_that_matches_nothing_here_is_refused_at_the_site_too() -> None:
    with pytest.raises(ModelError, match="matches no array"):
        trained(tiny_study(model={"frozen": ["encoder.*"]}))


def test_a_loss_that_is_not_a_number_says_what_to_do() -> None:
    study = tiny_study(training={"local_epochs": 20, "optimizer": {"name": "sgd", "lr": 1e30}})
    with pytest.raises(DataError, match=r"lower \[training\] optimizer.lr"):
        trained(study)


@pytest.mark.parametrize("size", [(16, 16), (8, 12, 16)])
def test_augmentation_keeps_shape_and_draws_by_image(size: tuple[int, ...]) -> None:
    batch = torch.rand(3, 1, *size)
    augment = Augmentation(["flip", "affine", "contrast", "noise"], size)
    one, two = augment(batch, [1, 2, 3]), augment(batch, [1, 2, 3])
    assert one.shape == batch.shape
    assert type(one) is torch.Tensor, "MONAI's own kind makes every operation on it slow"
    assert torch.equal(one, two)
    assert torch.equal(augment(batch[:1], [1])[0], one[0])
    assert not torch.equal(augment(batch, [4, 5, 6]), one)
    assert torch.isfinite(one).all()


def test_flip_is_left_right() -> None:
    image = torch.arange(6, dtype=torch.float32).reshape(1, 1, 2, 3)
    flipped = [Augmentation(["flip"], (2, 3))(image, [seed])[0, 0].tolist() for seed in range(20)]
    assert [[0, 1, 2], [3, 4, 5]] in flipped
    assert [[2, 1, 0], [5, 4, 3]] in flipped
    assert len({str(one) for one in flipped}) == 2


@pytest.mark.parametrize(
    ("name", "grid", "other"),
    [
        ("affine", {"spacing": [1.0, 1.0, 1.0]}, {"spacing": [5.0, 1.0, 1.0]}),
        ("flip", {"orientation": "LPS"}, {"orientation": "PLS"}),
    ],
)
def test_augmentation_follows_the_grid_of_the_study(name: str, grid: dict[str, Any], other: dict[str, Any]) -> None:
    first, plain, second = (
        trained(tiny_study(input={"size": [8, 16, 16], **each}, training={"augmentation": [name]}))
        for each in (grid, {}, other)
    )
    assert same(first, plain)
    assert not same(first, second)


# Labels that are not known -------------------------------------------------------------------------------------------


SEVERAL = tiny_study(
    cohort={"labels": ["effusion", "nodule", "hernia"], "positive": None, "multi_label": True},
    training={"batch_size": 16, "local_epochs": 2, "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.0}},
)


def partial() -> SiteData:
    """Phantoms whose labels are each known of two images in three, "hernia" of none."""
    found = SOURCE.load(SEVERAL, "run-1", ignore)
    labels = (found.labels[:, None] == np.arange(3)).astype(np.int64)
    labels[(np.arange(len(labels))[:, None] // 3 + np.arange(3)) % 3 == 0] = -1
    labels[:, 2] = -1
    return replace(found, labels=labels)


@pytest.mark.parametrize("weighted", [True, False])
def test_the_masked_loss_is_torchs_on_the_known_entries(weighted: bool) -> None:
    study = tiny_study(cohort=SEVERAL.cohort.model_dump(mode="json"), training={"class_weights": weighted})
    labels = partial().labels
    logits = torch.from_numpy(np.random.default_rng(0).normal(size=labels.shape)).float().requires_grad_()
    loss = criterion(study, labels)(logits, torch.from_numpy(labels))
    known = labels >= 0
    weights = np.ones(labels.shape)
    for index, column in enumerate(labels.T):
        for value in (0, 1):
            count = (column == value).sum()
            weights[column == value, index] = (column >= 0).sum() / 2 / count if weighted and count else 1.0
    own = torch.from_numpy(weights[known]).float()
    expected = nn.functional.binary_cross_entropy_with_logits(
        logits.detach()[torch.from_numpy(known)], torch.from_numpy(labels[known]).float(), own, reduction="sum"
    )
    assert float(loss.detach()) == pytest.approx(float(expected / own.sum()), rel=1e-6)
    loss.backward()
    assert logits.grad is not None
    assert not logits.grad[torch.from_numpy(~known)].any(), "nothing is learned from what is not known"
    assert logits.grad[torch.from_numpy(known)].all()


def test_a_batch_of_which_nothing_is_known_teaches_nothing() -> None:
    labels = partial().labels
    logits = torch.zeros(4, 3, requires_grad=True)
    loss = criterion(SEVERAL, labels)(logits, torch.full((4, 3), -1))
    loss.backward()
    assert float(loss.detach()) == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_training_with_partial_labels_learns_the_known_and_leaves_the_unknown_alone() -> None:
    data, model = partial(), models.network(SEVERAL)
    head = [name for name, tensor in model.state_dict().items() if tensor.shape == (3,)][-1]
    before = model.state_dict()[head].clone()
    losses = [
        train(model, data, SEVERAL, site="n", round_number=r, device=pick_device(), listener=ignore).loss
        for r in (1, 2)
    ]
    assert losses[1] < losses[0]
    moved = model.state_dict()[head] != before
    assert moved.tolist() == [True, True, False], "nobody at this site says of any image whether it shows hernia"
    found = evaluate(
        model, data, SEVERAL, "validation",
        site="n", thresholds=None, min_cell=1, device=pick_device(), listener=ignore,
    )  # fmt: skip
    assert set(found.figures) == {"effusion", "nodule"}
