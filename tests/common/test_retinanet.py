"""RetinaNet: shapes at any size, anchors and boxes with MONAI as oracle, parameters only, the same in ONNX."""

from pathlib import Path

import numpy as np
import onnxruntime  # type: ignore[import-untyped]
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.apps.detection.utils.anchor_utils import AnchorGenerator
from monai.apps.detection.utils.box_coder import BoxCoder
from torch import nn

from fedward_common import models
from fedward_common.models import Option, onnx_file
from fedward_common.models.retinanet import Findings, RetinaNet, placed
from fedward_common.models.transfer import transfer


def built(size: tuple[int, ...], *, channels: int = 1, classes: int = 2, **options: Option) -> RetinaNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = models.build(
            "retinanet",
            options={"width": 4, **options},
            size=size,
            channels=channels,
            classes=classes,
            task="detection",
        )
    assert isinstance(model, RetinaNet)
    return model.eval()


@pytest.mark.parametrize("size", [(16, 16), (35, 51), (16, 16, 16), (24, 19, 33)])
@pytest.mark.parametrize("options", [{}, {"levels": 1, "anchor": 4}, {"levels": 5, "anchor": 6}])
def test_every_anchor_has_an_answer(size: tuple[int, ...], options: dict[str, Option]) -> None:
    model = built(size, channels=2, classes=3, **options)
    images = torch.rand(2, 2, *size, generator=torch.Generator().manual_seed(0))
    images[1, :] = 0.5
    with torch.no_grad():
        found = model(images)
    assert found.shape == (2, len(model.anchors), 3 + 2 * len(size))
    assert sum(model.levels) == len(model.anchors)
    assert found.isfinite().all()
    assert not torch.equal(found[0], found[1])
    assert (found[..., :3].sigmoid() - 0.01).abs().max() < 0.01  # section 3.3: rare, as training begins


@pytest.mark.parametrize(("size", "ratios"), [((32, 48), (1.0,)), ((32, 16, 48), ((1.0, 1.0),))])
def test_anchors_are_monais(size: tuple[int, ...], ratios: tuple[object, ...]) -> None:
    generator = AnchorGenerator(((8,), (16,), (32,)), (ratios,) * 3)
    grids = [[length // stride for length in size] for stride in (4, 8, 16)]
    strides = [[torch.tensor(stride)] * len(size) for stride in (4, 8, 16)]
    model = built(size)
    assert torch.equal(model.anchors, torch.cat(generator.grid_anchors(grids, strides)))
    assert model.levels == tuple(int(np.prod(grid)) for grid in grids)


@pytest.mark.parametrize(("anchor", "stride"), [(4, 2), (6, 2), (8, 4), (15, 4), (16, 8), (128, 64)])
def test_places_lie_at_most_half_an_anchor_apart(anchor: int, stride: int) -> None:
    model = built((64, 64), levels=1, anchor=anchor)
    assert model.strides == [stride]
    assert model.levels == ((64 // stride) ** 2,)
    half = (stride - anchor) / 2
    assert model.anchors[0].tolist() == [half, half, half + anchor, half + anchor]


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([2, 3]), st.integers(0, 2**32))
def test_boxes_are_placed_as_monai_does(dims: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(2, 6, dims, generator=generator) * 40
    anchors = torch.cat([drawn.amin(dim=0), drawn.amax(dim=0) + 1], dim=1)
    differences = torch.randn(6, 2 * dims, generator=generator) * 3
    theirs = BoxCoder([1.0] * 2 * dims).decode_single(differences, anchors)
    assert torch.allclose(placed(differences, anchors), theirs, atol=1e-4)


def test_what_is_averaged_is_parameters_only() -> None:
    model = built((32, 32, 32))
    assert set(model.state_dict()) == {name for name, _ in model.named_parameters()}
    assert not any(isinstance(each, nn.MaxPool3d | nn.AvgPool3d) for each in model.modules())


def test_a_detector_of_other_kinds_of_finding_is_a_start() -> None:
    start, other = (
        {name: each.numpy() for name, each in built((32, 32), classes=classes).state_dict().items()}
        for classes in (1, 3)
    )
    _, done = transfer(start, other, prefixes={}, inflate=False, take_head=True, strides={}, channels=1, classes=1)
    assert list(done.head) == ["classification.12.weight", "classification.12.bias"]
    assert len(done.taken) == len(start) - 2


@pytest.mark.long
@pytest.mark.parametrize("size", [(35, 51), (24, 19, 33)])
def test_it_is_the_same_in_onnx(size: tuple[int, ...], tmp_path: Path) -> None:
    model, out = built(size), tmp_path / "model.onnx"
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))
    last, output = onnx_file.ending("detection", multi_label=False, anchors=model.anchors)
    assert isinstance(last, Findings)
    whole = nn.Sequential(model, last).eval()
    difference = onnx_file.write(whole, out, shape=(1, *size), output=output, metadata={"use": "research"}, seed=3)
    assert difference < onnx_file.MOST_DIFFERENCE
    images = torch.rand(3, 1, *size, generator=torch.Generator().manual_seed(0))
    [found] = onnxruntime.InferenceSession(out).run([output], {"input": images.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(found, whole(images), atol=1e-4)
    assert ((found[..., :2] >= 0) & (found[..., :2] <= 1)).all()
    assert np.ptp(found[..., 0]) > 1e-4
