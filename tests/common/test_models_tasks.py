"""Networks for segmentation, registration and survival: shapes at any size, gradients, precision, known answers."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime  # type: ignore[import-untyped]
import pytest
import torch
from torch import nn

from fedward_common import models
from fedward_common.models import Option, onnx_file
from fedward_common.models.voxelmorph import integrate
from fedward_common.models.warp import jacobian_determinant, warp
from fedward_common.study_task import Task

SMALL: Mapping[str, dict[str, Option]] = {"unet": {"width": 4}, "voxelmorph": {"width": 4, "integration": 2}}
OF_IMAGES: list[tuple[str, Task, int]] = [
    ("unet", "segmentation", 2),
    ("unet", "segmentation", 3),
    ("voxelmorph", "registration", 2),
    ("voxelmorph", "registration", 3),
]


def built(
    name: str,
    task: Task,
    size: tuple[int, ...],
    *,
    channels: int = 1,
    labels: int = 3,
    **options: Option,
) -> tuple[nn.Module, torch.Tensor]:
    """A small network and a batch of two examples for it, the same every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = models.build(
            name,
            options={**SMALL.get(name, {}), **options},
            size=size,
            channels=channels,
            classes=models.outputs(task, labels),
            task=task,
        )
        return model, torch.rand(2, *models.example_shape(task, channels, size))


@pytest.mark.parametrize(("name", "task", "dims"), OF_IMAGES)
@pytest.mark.parametrize("size", [(8, 8, 8), (35, 51, 35), (17, 32, 9)])
def test_what_comes_out_is_as_large_as_what_went_in(name: str, task: Task, dims: int, size: tuple[int, ...]) -> None:
    model, images = built(name, task, size[:dims], channels=2)
    model.eval()
    with torch.no_grad():
        found = model(images)
    assert found.shape == (2, 3 if task == "segmentation" else dims, *size[:dims])
    assert found.isfinite().all()
    assert not torch.equal(found[0], found[1])


@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize(("name", "task", "dims"), OF_IMAGES)
def test_gradient_reaches_every_parameter(name: str, task: Task, dims: int, bfloat16: bool) -> None:
    model, images = built(name, task, (40, 33, 36)[:dims])
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
        found = model(images)
    torch.autograd.backward(found.float().square().mean() + found.float().mean())
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
        assert parameter.grad.any()


@pytest.mark.parametrize(("name", "task", "dims"), OF_IMAGES)
def test_no_layer_lacks_a_deterministic_gradient_on_a_gpu(name: str, task: Task, dims: int) -> None:
    model, _ = built(name, task, (16,) * dims)
    assert not any(isinstance(each, nn.MaxPool3d | nn.AvgPool3d) for each in model.modules())
    upsampling = [each.mode for each in model.modules() if isinstance(each, nn.Upsample)]
    assert set(upsampling) <= {"nearest"}


def test_a_u_net_of_32_channels_has_the_parameters_of_the_published_one() -> None:
    """That of Buda 2019 (doi:10.1016/j.compbiomed.2019.05.002): three channels, one structure, batch normalisation."""
    with torch.device("meta"):
        model = models.build(
            "unet",
            options={"width": 32, "norm": "batch"},
            size=(256, 256),
            channels=3,
            classes=1,
            task="segmentation",
        )
    assert sum(parameter.numel() for parameter in model.parameters()) == 7_763_041


def test_options_of_a_u_net_reach_it() -> None:
    batch, _ = built("unet", "segmentation", (16, 16), norm="batch")
    group, _ = built("unet", "segmentation", (16, 16))
    assert [sum(isinstance(each, nn.BatchNorm2d) for each in model.modules()) for model in (batch, group)] == [18, 0]
    shallow, _ = built("unet", "segmentation", (16, 16), depth=2)
    assert sum(isinstance(each, nn.ConvTranspose2d) for each in shallow.modules()) == 2
    assert list(shallow.state_dict())[-1] == "last.bias"  # what `transfer` takes for the head


@pytest.mark.parametrize(("integration", "dims"), [(0, 2), (7, 2), (3, 3)])
def test_voxelmorph_begins_as_the_identity(integration: int, dims: int) -> None:
    model, pairs = built("voxelmorph", "registration", (19, 24, 16)[:dims], integration=integration, labels=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model(pairs)
    assert found.dtype == torch.float32
    assert 0 < found.abs().max() < 1e-3


def test_saving_memory_changes_no_gradient() -> None:
    model, pairs = built("voxelmorph", "registration", (16, 24))
    gradients = []
    for training in (True, False):
        model.train(training).zero_grad()
        torch.autograd.backward((1e4 * model(pairs)).square().sum())
        gradients.append([parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None])
    assert all(torch.equal(one, two) for one, two in zip(*gradients, strict=True))


def test_a_constant_velocity_moves_by_itself() -> None:
    velocity = torch.tensor([3.0, -1.5]).reshape(1, 2, 1, 1).expand(1, 2, 12, 9)
    torch.testing.assert_close(integrate(velocity, 7), velocity)
    torch.testing.assert_close(integrate(velocity, 0), velocity)


def test_a_velocity_linear_in_space_grows_as_its_exponential() -> None:
    """Of dx/dt = a x the solution is x exp(a t)."""
    places = torch.arange(41.0) - 20
    velocity = torch.stack([(0.3 * places)[:, None].expand(41, 41), (-0.2 * places)[None].expand(41, 41)])[None]
    found = integrate(velocity, 10)[..., 8:33, 8:33]  # farther out it leaves the image
    torch.testing.assert_close(found[0, 0, :, 0], (np.exp(0.3) - 1) * places[8:33], atol=5e-3, rtol=1e-3)
    torch.testing.assert_close(found[0, 1, 0], (np.exp(-0.2) - 1) * places[8:33], atol=5e-3, rtol=1e-3)


def test_an_integral_folds_nothing_and_that_of_the_opposite_undoes_it() -> None:
    velocity = torch.rand(1, 2, 4, 4, generator=torch.Generator().manual_seed(0)) - 0.5
    velocity = nn.functional.interpolate(30 * velocity, (48, 48), mode="bicubic", align_corners=True)
    window = torch.hann_window(48, periodic=False)
    velocity = velocity * window[:, None] * window[None]  # nothing leaves the image
    there, back = integrate(velocity, 7), integrate(-velocity, 7)
    assert jacobian_determinant(velocity).min() < 0 < jacobian_determinant(there).min()
    assert there.abs().max() > 4
    assert (there + warp(back, there)).abs().max() < 0.5


def test_cox_is_linear_and_begins_with_the_same_risk_for_all() -> None:
    model, rows = built("cox", "survival", (), channels=5, labels=2)
    assert {name: tuple(each.shape) for name, each in model.state_dict().items()} == {"weight": (1, 5)}
    assert torch.equal(model(rows), torch.zeros(2, 1))


def test_a_perceptron_gives_one_log_risk() -> None:
    model, rows = built("mlp", "survival", (), channels=5, labels=2)
    assert model(rows).shape == (2, 1)


@pytest.mark.parametrize(
    ("name", "task", "size"),
    [
        pytest.param("cox", "survival", (), marks=pytest.mark.long),
        pytest.param("unet", "segmentation", (35, 51), marks=pytest.mark.long),
        pytest.param("unet", "segmentation", (19, 16, 35), marks=pytest.mark.long),
        pytest.param("voxelmorph", "registration", (35, 51), marks=pytest.mark.long),
        pytest.param("voxelmorph", "registration", (19, 16, 35), marks=pytest.mark.long),
    ],
)
def test_every_network_is_the_same_in_onnx(name: str, task: Task, size: tuple[int, ...], tmp_path: Path) -> None:
    model, examples = built(name, task, size, channels=2)  # and with larger weights, so that much comes out
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))
    last, output = onnx_file.ending(task, multi_label=False)
    whole = nn.Sequential(model, last).eval()
    out = tmp_path / "model.onnx"
    difference = onnx_file.write(
        whole, out, shape=tuple(examples.shape[1:]), output=output, metadata={"use": "research"}, seed=3
    )
    assert difference < onnx_file.MOST_DIFFERENCE
    [found] = onnxruntime.InferenceSession(out).run([output], {"input": examples.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(found, whole(examples), atol=1e-4)
    assert np.ptp(found) > 0.01
