"""Layers that learn without labels: against exact sums of small machines, scikit-learn, and written-out formulas."""

from collections.abc import Iterator
from itertools import product

import numpy as np
import pytest
import torch
from sklearn.decomposition import sparse_encode  # type: ignore[import-untyped]
from torch import nn

from fedward_common import models
from fedward_common.models.layerwise import Layer, Layered
from fedward_common.models.lista import SparseCoder
from fedward_common.models.rbm import RestrictedBoltzmannMachine
from fedward_common.models.sparse_autoencoder import SparseAutoencoder

VISIBLE, HIDDEN = 6, 4


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        yield


def machine(*, gaussian: bool = False, steps: int = 1) -> RestrictedBoltzmannMachine:
    """With weights large enough to matter."""
    found = RestrictedBoltzmannMachine(VISIBLE, HIDDEN, gaussian=gaussian, steps=steps)
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return found


def states(units: int) -> torch.Tensor:
    return torch.tensor(list(product([0.0, 1.0], repeat=units)))


def taught(layer: Layer, examples: torch.Tensor, steps: int, lr: float) -> list[float]:
    optimizer = torch.optim.Adam(layer.parameters(), lr=lr)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = layer.loss(examples)
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(loss.item())
    return losses


# Restricted Boltzmann machines ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("gaussian", [False, True])
def test_free_energy_is_the_sum_over_all_hidden_states(gaussian: bool) -> None:
    rbm = machine(gaussian=gaussian)
    visible = torch.randn(5, VISIBLE) if gaussian else states(VISIBLE)[::13]
    b, c, w = rbm.visible_bias, rbm.hidden_bias, rbm.weight
    for v, free in zip(visible, rbm.free_energy(visible), strict=True):
        own = 0.5 * (v - b).square().sum() if gaussian else -(v @ b)
        energies = torch.stack([own - h @ c - h @ w @ v for h in states(HIDDEN)])
        assert free.item() == pytest.approx(-(-energies).logsumexp(0).item(), abs=1e-4)


def test_hidden_units_follow_the_energy() -> None:
    rbm, v = machine(), states(VISIBLE)[37]
    energies = torch.stack([-(v @ rbm.visible_bias) - h @ rbm.hidden_bias - h @ rbm.weight @ v for h in states(HIDDEN)])
    chances = (-energies).softmax(0)
    assert torch.allclose(rbm(v[None])[0], chances @ states(HIDDEN), atol=1e-5)


@pytest.mark.parametrize(("gaussian", "steps"), [(False, 1), (False, 3), (True, 1)])
def test_the_gradient_is_that_of_contrastive_divergence(gaussian: bool, steps: int) -> None:
    """Hinton 2010, equation 8: the update of w is <v h> of the examples less that of the k-th reconstruction."""
    rbm = machine(gaussian=gaussian, steps=steps)
    v = torch.randn(9, VISIBLE) if gaussian else states(VISIBLE)[::8]
    torch.manual_seed(11)
    torch.autograd.backward(rbm.loss(v))
    torch.manual_seed(11)
    with torch.no_grad():
        sampled = v
        for _ in range(steps):
            h = torch.bernoulli((sampled @ rbm.weight.T + rbm.hidden_bias).sigmoid())
            mean = h @ rbm.weight + rbm.visible_bias
            sampled = mean + torch.randn_like(mean) if gaussian else torch.bernoulli(mean.sigmoid())
        positive, negative = rbm(v).T @ v / len(v), rbm(sampled).T @ sampled / len(v)
        assert rbm.weight.grad is not None
        assert torch.allclose(rbm.weight.grad, negative - positive, atol=1e-5)


def test_what_is_shown_is_the_error_of_a_reconstruction() -> None:
    rbm, v = machine(), states(VISIBLE)[::5]
    reconstruction = (rbm(v) @ rbm.weight + rbm.visible_bias).sigmoid()
    assert rbm.loss(v).item() == pytest.approx((reconstruction - v).square().sum(dim=1).mean().item(), rel=1e-5)


def test_a_machine_becomes_a_likelier_model_of_its_examples() -> None:
    """By the exact likelihood, whose partition sum is over all states of a machine this small."""
    rbm = RestrictedBoltzmannMachine(VISIBLE, HIDDEN, gaussian=False, steps=1)
    examples = torch.tensor([[1.0, 1, 1, 0, 0, 0], [0.0, 0, 0, 1, 1, 1]]).repeat(20, 1)

    def likelihood() -> float:
        with torch.no_grad():
            partition = (-rbm.free_energy(states(VISIBLE))).logsumexp(0)
            return float((-rbm.free_energy(examples) - partition).mean())

    before = likelihood()
    taught(rbm, examples, steps=300, lr=0.05)
    assert before == pytest.approx(-VISIBLE * np.log(2), abs=0.05)
    assert likelihood() > -1.2, "two patterns in two: log 2 is the best there is, 0.69"


# Sparse autoencoders --------------------------------------------------------------------------------------------------


def test_the_loss_is_error_and_divergence_as_written_out() -> None:
    layer = SparseAutoencoder(VISIBLE, HIDDEN, sparsity=0.1, penalty=2.0)
    x = torch.randn(7, VISIBLE)
    with torch.no_grad():
        hidden = 1 / (1 + np.exp(-(x.numpy() @ layer.weight.numpy().T)))
        error = 0.5 * ((hidden @ layer.weight.numpy() - x.numpy()) ** 2).sum() / 7
        mean = 1e-4 + (1 - 2e-4) * hidden.mean(axis=0)
        divergence = (0.1 * np.log(0.1 / mean) + 0.9 * np.log(0.9 / (1 - mean))).sum()
        assert float(layer.loss(x)) == pytest.approx(error + 2.0 * divergence, rel=1e-5)


def test_units_become_sparse_where_that_is_asked_for() -> None:
    x = torch.randn(200, VISIBLE)
    means = []
    for penalty in (0.0, 10.0):
        torch.manual_seed(0)
        layer = SparseAutoencoder(VISIBLE, 12, sparsity=0.05, penalty=penalty)
        losses = taught(layer, x, steps=400, lr=0.02)
        assert losses[-1] < losses[0]
        with torch.no_grad():
            means.append(float(layer(x).mean()))
    assert means[1] < 0.1 < means[0]


# Sparse coding --------------------------------------------------------------------------------------------------------


def test_many_steps_solve_the_lasso() -> None:
    """Before it has learned the network is ISTA, which converges to scikit-learn's solution of the same problem."""
    coder, x = SparseCoder(8, 12, penalty=0.2, steps=3000), torch.randn(5, 8)
    with torch.no_grad():
        codes = coder(x).numpy()
    lasso = sparse_encode(
        x.double().numpy(), coder.dictionary.detach().double().numpy().T, algorithm="lasso_cd", alpha=0.2
    )
    assert np.abs(codes - lasso).max() < 1e-3
    assert 0.1 < (codes == 0).mean() < 0.9


def test_learning_lowers_the_loss_in_the_same_number_of_steps() -> None:
    true = nn.functional.normalize(torch.randn(16, 24), dim=0)
    z = torch.randn(400, 24) * (torch.rand(400, 24) < 0.1)
    layer = SparseCoder(16, 24, penalty=0.05, steps=3)
    losses = taught(layer, z @ true.T, steps=150, lr=0.01)
    assert losses[-1] < 0.7 * losses[0]


# Networks -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in models.names() if models.unsupervised_layers(name, {})])
def test_a_layer_learns_alone_on_what_is_below(name: str) -> None:
    network = models.build(name, options={}, size=(5, 6), channels=2, classes=3)
    assert isinstance(network, Layered)
    count = models.unsupervised_layers(name, {})
    assert len(network.layers) == count
    images = torch.rand(4, 2, 5, 6)
    for layer in range(count):
        network.zero_grad()
        torch.autograd.backward(network.loss(layer, images))
        reached = {key for key, parameter in network.named_parameters() if parameter.grad is not None}
        own = {key for key in network.state_dict() if models.of_layer(key, layer)}
        assert reached == own != set()


def test_a_stack_has_the_widths_that_are_asked_for() -> None:
    options: dict[str, models.Option] = {"hidden": (7, 5, 3), "visible": "binary"}
    network = models.build("dbn", options=options, size=(), channels=9, classes=2)
    shapes = {name: tuple(array.shape) for name, array in network.state_dict().items() if name.endswith("weight")}
    assert list(shapes.values()) == [(7, 9), (5, 7), (3, 5), (2, 3)]
    assert models.unsupervised_layers("dbn", options) == 3
    assert models.unsupervised_layers("mlp", {}) == 0
