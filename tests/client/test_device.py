"""The device: in which precision a network trains on it, in which layout, and what seeds it."""

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from fedward_client.evaluation import evaluate
from fedward_client.training.device import Device, pick_device
from fedward_client.training.loop import train
from fedward_common import models
from fedward_common.events import ignore
from fedward_common.testing import tiny_study
from fedward_simulations.phantoms import PhantomSource

BFLOAT16 = Device(torch.device("cpu"), amp=True)
Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
CONVOLUTIONS: dict[int, type[Convolution]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


@pytest.mark.parametrize("dims", [0, 1, 2, 3])
def test_a_layout_fits_its_batches(dims: int) -> None:
    """Of rows and of recordings there is no layout but the usual one, on a GPU too."""
    device = Device(torch.device("cuda"), amp=False)
    batch = torch.rand(2, 3, *[4] * dims).contiguous(memory_format=device.layout(dims))
    assert batch.is_contiguous() == (dims < 2)


def test_a_network_trains_in_bfloat16_and_scores_in_float32() -> None:
    study = tiny_study(input={"size": [32, 32]})
    model, seen = models.network(study), list[tuple[bool, torch.dtype]]()
    own = PhantomSource("north", 64, 2.0, 5).load(study, "run-1", ignore)
    model.register_forward_hook(lambda module, _inputs, found: seen.append((module.training, found.dtype)))
    train(model, own, study, site="n", round_number=1, device=BFLOAT16, listener=ignore)
    evaluate(model, own, study, "test", site="n", thresholds=None, min_cell=1, device=BFLOAT16, listener=ignore)
    assert set(seen) == {(True, torch.bfloat16), (False, torch.float32)}


@pytest.mark.parametrize(
    ("name", "options", "shape", "dtype"),
    [
        ("mlp", {}, (13,), torch.float32),
        ("cnn-1d", {}, (9, 64), torch.bfloat16),
        ("unet", {}, (1, 32, 32), torch.bfloat16),
        ("unet", {"depth": 2}, (1, 16, 32, 32), torch.bfloat16),
        ("unet", {"depth": 3}, (1, 16, 32, 32), torch.float32),
        ("unet", {"depth": 4}, (1, 32, 32), torch.bfloat16),
        ("retinanet", {"levels": 2, "anchor": 8}, (1, 24, 32, 24), torch.bfloat16),
        ("retinanet", {"levels": 2, "anchor": 8}, (1, 16, 24, 16), torch.float32),
        ("retinanet", {"levels": 3, "anchor": 4}, (1, 16, 16), torch.bfloat16),
        ("retinanet", {"levels": 4, "anchor": 4}, (1, 16, 16), torch.float32),
        ("resnet10", {}, (1, 32, 32), torch.float32),
        ("enhanced-alexnet", {}, (1, 32, 32), torch.float32),
        ("enhanced-alexnet", {}, (1, 64, 64), torch.bfloat16),
        ("resnet10", {}, (1, 64, 64), torch.bfloat16),
    ],
)
def test_what_is_cast(name: str, options: dict[str, Any], shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """No rows, and no network in which a kernel is wider than what it looks at: with strides, large, or of volumes."""
    task = models.describe(name).tasks[0]
    channels, *size = shape
    model = models.build(name, options=options, size=tuple(size), channels=channels, classes=2, task=task)
    with BFLOAT16.autocast(model, shape):
        assert nn.Linear(3, 2)(torch.rand(4, 3)).dtype == dtype
    assert model.training


def test_a_device_is_seeded_as_torch_seeds_it() -> None:
    torch.manual_seed(5)
    meant = torch.rand(9)
    pick_device().seed(5)
    assert torch.equal(torch.rand(9), meant)


def convolutions(dims: int) -> Iterator[tuple[Convolution, tuple[int, ...]]]:
    """Convolutions, each with what it looks at: narrower than its kernel or stride, as wide, or a little wider."""
    for kernel, stride, channels in itertools.product(
        (1, 2, 3, 5) if dims == 3 else (1, 2, 3, 5, 7, 11), (1, 2, 4), ((1, 16), (48, 20), (128, 128))
    ):
        if kernel**dims * channels[0] > 5000:
            continue
        for size in sorted({1, 2, 3, kernel - 1, kernel, max(kernel, stride) + 1} - {0}):
            layer = CONVOLUTIONS[dims](*channels, kernel, stride=stride, padding=kernel // 2)
            if size + 2 * (kernel // 2) >= kernel:
                yield layer, (channels[0], *[size] * dims)


def spoil_memory() -> None:
    """Fill what is free with no numbers, so that what is never written shows."""
    held = [torch.full((2**power,), torch.nan) for power in range(6, 20) for _ in range(3)]
    del held


@pytest.mark.parametrize("dims", CONVOLUTIONS)
def test_in_the_precision_of_a_device_all_of_a_gradient_is_written(dims: int) -> None:
    torch.manual_seed(0)
    for layer, shape in convolutions(dims):
        examples, gradients = torch.randn(2, *shape), list[torch.Tensor]()
        for device in (Device(torch.device("cpu"), amp=False), BFLOAT16):
            layer.zero_grad()
            spoil_memory()
            with device.autocast(layer, shape):
                found = layer(examples)
            spoil_memory()
            found.float().square().sum().backward()
            assert layer.weight.grad is not None
            gradients.append(layer.weight.grad)
        exact, cast = gradients
        assert (cast - exact).abs().max() <= 0.1 * exact.abs().max(), f"{layer} on {shape}"
