"""The networks: shapes, gradients, precision, parameter counts known from elsewhere, torch's own layers as oracle."""

from collections.abc import Iterator, Mapping

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from fedward_common import models
from fedward_common.models import Option
from fedward_common.models.layers import AdaptiveMean, LocalResponseNorm, Pool3d
from fedward_common.models.layerwise import Layered

CLASSIFIERS = [name for name in models.names() if "classification" in models.describe(name).tasks]
SLOW = {("densenet169", 2), ("densenet169", 3), ("resnet34", 3), ("resnet50", 3)}  # more of their smaller kin's layers
LONG_STEPS = SLOW | {
    *(("densenet121", 3), ("resnet10", 3), ("resnet18", 3), ("unet", 3), ("voxelmorph", 3)),
}
CASES, IN_BFLOAT16 = (  # over the latter most processors take long, longest over volumes
    [
        pytest.param(name, dims, id=f"{name}-{dims}d", marks=[pytest.mark.long] if (name, dims) in slow else [])
        for name in names
        for dims in models.describe(name).dims
    ]
    for names, slow in ((CLASSIFIERS, SLOW), (models.names(), LONG_STEPS))
)
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small networks wait for each other's threads longer than they compute, above all beside other tests."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def built(
    name: str,
    size: tuple[int, ...],
    options: Mapping[str, Option] | None = None,
    *,
    channels: int = 1,
    classes: int = 3,
) -> tuple[nn.Module, torch.Tensor]:
    """A network for the first of its tasks and a batch of two examples for it, the same every time."""
    task = models.describe(name).tasks[0]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        outputs = models.outputs(task, classes)
        model = models.build(name, options=options or {}, size=size, channels=channels, classes=outputs, task=task)
        return model, torch.rand(2, *models.example_shape(task, channels, size))


def small(name: str) -> dict[str, Option]:
    widths: dict[str, Option] = {"alexnet": 64, "retinanet": 4, "unet": 4, "voxelmorph": 4}
    return {"width": widths[name]} if name in widths else {}


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def loss_of(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Of the labels, and of every layer that can learn without them; what is no list of logits is to become small."""
    torch.manual_seed(0)
    found: torch.Tensor = model(images)
    if found.shape != (2, 3):
        return found.float().square().mean() + found.float().mean()
    loss = functional.cross_entropy(found, torch.tensor([0, 1], device=found.device))
    if isinstance(model, Layered):
        loss = sum((model.loss(layer, images) for layer in range(len(model.layers))), start=loss)
    return loss


def without_gradient(model: nn.Module, images: torch.Tensor) -> list[str]:
    model.train()
    torch.autograd.backward(loss_of(model, images))
    grads = {name: parameter.grad for name, parameter in model.named_parameters()}
    return [name for name, grad in grads.items() if grad is None or not grad.isfinite().all() or not grad.any()]


@pytest.mark.parametrize(("name", "dims"), CASES)
def test_smallest_and_uneven_sizes_give_logits(name: str, dims: int) -> None:
    least = models.describe(name).min_size
    for channels, size in [(1, (least,) * dims), (3, ((least + 5,) * (dims - 1) + (least + 2,))[:dims])]:
        model, images = built(name, size, small(name), channels=channels)
        model.eval()
        with torch.no_grad():
            logits = model(images)
        assert logits.shape == (2, 3)
        assert logits.isfinite().all()
        assert not torch.equal(logits[0], logits[1])


@pytest.mark.parametrize(("name", "dims"), CASES)
def test_gradient_reaches_every_parameter(name: str, dims: int) -> None:
    size = (72,) * dims if name == "alexnet" else (40,) * dims
    channels = 1 if dims else 4  # one feature alone has a dictionary of signs
    assert without_gradient(*built(name, size, small(name), channels=channels)) == []


@pytest.mark.parametrize("name", ["resnet18", "densenet121"])
def test_gradient_reaches_every_parameter_under_batch_normalisation(name: str) -> None:
    assert without_gradient(*built(name, (64, 64), {"norm": "batch"})) == []


def size_without_2x2x2_maps(name: str, dims: int) -> tuple[int, ...]:
    """On a CPU, torch 2.13's bfloat16 conv3d leaves parts of the weight gradient unwritten for maps of 2 x 2 x 2."""
    if name.startswith("densenet"):
        return (48,) * dims
    return (72,) * dims if name == "alexnet" or name.startswith("resnet") else (40,) * dims


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("name", "dims"), IN_BFLOAT16)
def test_three_steps_under_bfloat16_autocast_are_finite(name: str, dims: int, device: str) -> None:
    model, examples = built(name, size_without_2x2x2_maps(name, dims), small(name))
    model, examples = model.to(device), examples.to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(3):
        with torch.autocast(device, dtype=torch.bfloat16):
            loss = loss_of(model, examples)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        assert loss.isfinite()
        assert all(each.grad is not None and each.grad.isfinite().all() for each in model.parameters())
        optimizer.step()
    assert all(each.isfinite().all() for each in model.state_dict().values())


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_constant_image_is_finite(name: str) -> None:
    dims = models.describe(name).dims[0]
    model, images = built(name, (40 if dims > 2 else 72,) * dims, small(name))
    model.eval()
    for value in (0.0, 1.0):
        assert model(torch.full_like(images, value)).isfinite().all()


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("alexnet", 62_378_344),  # the paper's layers without its two halves
        ("resnet18", 11_689_512),  # this and below: the published networks in torchvision
        ("resnet34", 21_797_672),
        ("resnet50", 25_557_032),
        ("densenet121", 7_978_856),
        ("densenet169", 14_149_480),
    ],
)
def test_parameter_counts_for_imagenet(name: str, count: int) -> None:
    with torch.device("meta"):
        model = models.build(name, options={}, size=(224, 224), channels=3, classes=1000)
    assert parameters(model) == count


def test_alexnet_needs_no_adaptive_pooling_at_its_own_sizes() -> None:
    for size in (224, 227):
        model, images = built("alexnet", (size, size), {"width": 16}, channels=3)
        assert isinstance(model, nn.Sequential)
        place = next(index for index, part in enumerate(model) if isinstance(part, AdaptiveMean))
        with torch.no_grad():
            assert model[:place](images).shape == (2, 256, 6, 6)


def test_enhanced_alexnet_is_small_enough_to_send() -> None:
    model, _ = built("enhanced-alexnet", (128, 128), classes=2)
    convolutions = 11**2 * 32 + 5**2 * 32 * 64 + 3**2 * (64 * 128 + 2 * 128 * 128)
    norms = 2 * (32 + 64 + 3 * 128)
    assert parameters(model) == convolutions + norms + 256 * 2 + 2 == 425_186


def test_options_reach_the_network() -> None:
    narrow, _ = built("enhanced-alexnet", (32, 32), {"width": 16, "dropout": 0.1})
    wide, _ = built("enhanced-alexnet", (32, 32), {"width": 32})
    assert parameters(narrow) < parameters(wide)
    assert [each.p for each in narrow.modules() if isinstance(each, nn.Dropout)] == [0.1]
    group, _ = built("resnet10", (32, 32))
    batch, _ = built("resnet10", (32, 32), {"norm": "batch"})
    assert parameters(group) == parameters(batch)
    assert not any(isinstance(each, nn.BatchNorm2d) for each in group.modules())
    assert not any(isinstance(each, nn.GroupNorm) for each in batch.modules())


@pytest.mark.parametrize(("name", "dims"), CASES)
def test_no_layer_lacks_a_deterministic_gradient_on_a_gpu(name: str, dims: int) -> None:
    """The layers that torch.use_deterministic_algorithms refuses on CUDA; adaptive pooling to one place is a mean."""
    model, _ = built(name, (72,) * dims, small(name))
    refused = nn.MaxPool3d | nn.AvgPool3d | nn.AdaptiveMaxPool2d | nn.LocalResponseNorm
    assert [each for each in model.modules() if isinstance(each, refused)] == []
    adaptive = [each for each in model.modules() if isinstance(each, nn.AdaptiveAvgPool2d | nn.AdaptiveAvgPool3d)]
    assert all(set(np.atleast_1d(np.asarray(each.output_size))) == {1} for each in adaptive)


def test_networks_learn_a_bright_square() -> None:
    torch.manual_seed(0)
    labels = torch.arange(32) % 2
    images = torch.rand(32, 1, 32, 32) * 0.5
    images[labels == 1, :, 8:24, 8:24] += 0.4
    for name in ("small-cnn", "enhanced-alexnet"):
        model, _ = built(name, (32, 32), classes=2)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        for _ in range(30):
            loss = functional.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
        model.eval()
        assert (model(images).argmax(dim=1) == labels).all()


def test_without_pooling_a_network_knows_where_something_is() -> None:
    pulses = torch.zeros(2, 1, 40)
    pulses[0, 0, 12], pulses[1, 0, 25] = 1, 1
    for pooling, same in (("global", True), ("none", False)):
        model, _ = built("cnn-1d", (40,), {"pooling": pooling})
        first, second = model.eval()(pulses)
        assert torch.allclose(first, second, atol=1e-5) == same
    assert parameters(model) == 8 * 64 + 5 * 64 * 128 + 3 * 128 * 64 + 2 * (64 + 128 + 64) + 41 * 64 * 3 + 3


# The parts, with torch's own layers as oracle.


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 17), st.integers(1, 17), st.integers(1, 8), st.integers(0, 2**32))
def test_adaptive_mean_is_adaptive_average_pooling(height: int, width: int, places: int, seed: int) -> None:
    maps = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(seed))
    expected = functional.adaptive_avg_pool2d(maps, places)
    torch.testing.assert_close(AdaptiveMean(places)(maps), expected)


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(["max", "avg"]),
    st.tuples(*[st.integers(3, 9)] * 3),
    st.sampled_from([(3, 2, 0), (3, 2, 1), (2, 2, 0), (3, 1, 1)]),
    st.integers(0, 2**32),
)
def test_pooling_in_two_steps_is_3d_pooling(
    kind: str, size: tuple[int, int, int], how: tuple[int, int, int], seed: int
) -> None:
    volumes = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(seed), requires_grad=True)
    ours = Pool3d(functional.max_pool2d if kind == "max" else functional.avg_pool2d, *how)(volumes)
    theirs = (functional.max_pool3d if kind == "max" else functional.avg_pool3d)(volumes, *how)
    torch.testing.assert_close(ours, theirs)
    weights = torch.rand(ours.shape, generator=torch.Generator().manual_seed(1))
    gradients = [torch.autograd.grad((each * weights).sum(), volumes)[0] for each in (ours, theirs)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("channels", [1, 3, 5, 96])
def test_local_response_normalisation_is_the_papers_formula(channels: int) -> None:
    maps = torch.randn(2, channels, 4, 5, generator=torch.Generator().manual_seed(0)) * 50
    torch.testing.assert_close(LocalResponseNorm()(maps), nn.LocalResponseNorm(5, alpha=5e-4, k=2.0)(maps))
    a = maps.double().numpy()
    expected = np.empty_like(a)
    for i in range(channels):  # Krizhevsky et al. 2012, section 3.3, with n = 5
        low, high = max(0, i - 2), min(channels - 1, i + 2)
        expected[:, i] = a[:, i] / (2 + 1e-4 * (a[:, low : high + 1] ** 2).sum(axis=1)) ** 0.75
    np.testing.assert_allclose(LocalResponseNorm()(maps).numpy(), expected, rtol=1e-5)
