"""Detection: which anchor looks for which box, the loss at written-out examples, what an output means, and learning."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data.box_utils import box_iou

from fedward_client.training.detection import decoded, detection_loss, matched
from fedward_client.training.device import Device
from fedward_common import models
from fedward_common.models.retinanet import RetinaNet

ROW = (16, 16), 1, 8  # a size, how many levels and their finest anchor: places at 2, 6, 10 and 14, boxes of 8 x 8


def network(size: tuple[int, ...], *, classes: int = 1, levels: int = 2, anchor: int = 8, width: int = 8) -> RetinaNet:
    torch.manual_seed(0)
    options = {"width": width, "levels": levels, "anchor": anchor}
    model = models.build("retinanet", options=options, size=size, channels=1, classes=classes, task="detection")
    assert isinstance(model, RetinaNet)
    return model


def anchors_of(size: tuple[int, ...], levels: int, anchor: int) -> tuple[torch.Tensor, tuple[int, ...]]:
    model = network(size, levels=levels, anchor=anchor)
    return model.anchors, model.levels


def padded(*rows: list[float], dims: int = 2) -> torch.Tensor:
    """One image's boxes as [1, rows + 1, 2 * dims + 1]; the last row is none."""
    return torch.tensor([*rows, [0.0] * 2 * dims + [-1.0]])[None]


# Matching -------------------------------------------------------------------------------------------------------------


def test_an_anchor_on_a_box_is_its_only_one() -> None:
    """Of the nearest four the overlaps are 1, 1/3, 1/3, 1/3: mean 1/2 + standard deviation 1/3 leaves the first."""
    anchors, levels = anchors_of(*ROW)
    matches = matched(torch.tensor([[2.0, 2, 10, 10]]), anchors, levels)
    assert matches.tolist() == [-1] * 5 + [0] + [-1] * 10


def test_two_boxes_in_one_place_get_an_anchor_each() -> None:
    anchors, levels = anchors_of(*ROW)
    matches = matched(torch.tensor([[2.0, 2, 10, 10], [2, 2, 10, 10], [1, 1, 2, 2]]), anchors, levels)
    assert {0, 1, 2} <= set(matches.tolist())
    assert int(matches[5]) in {0, 1}


def test_an_image_without_a_box_has_background_only() -> None:
    anchors, levels = anchors_of(*ROW)
    assert matched(torch.zeros(0, 4), anchors, levels).tolist() == [-1] * 16


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([(32, 48), (16, 24, 32)]), st.integers(1, 6), st.integers(0, 2**32))
def test_no_box_is_left_without_an_anchor(size: tuple[int, ...], count: int, seed: int) -> None:
    anchors, levels = anchors_of(size, 2, 8)
    drawn = torch.rand(2, count, len(size), generator=torch.Generator().manual_seed(seed)) * torch.tensor(size)
    boxes = torch.cat([drawn.amin(dim=0), drawn.amax(dim=0) + 0.5], dim=1)
    matches = matched(boxes, anchors, levels)
    assert set(range(count)) <= set(matches.tolist()) <= set(range(-1, count))
    assert torch.equal(matched(boxes, anchors, levels), matches)


# The loss -------------------------------------------------------------------------------------------------------------


def test_loss_at_a_written_out_example() -> None:
    """16 anchors at probability 1/2, one of them on a box half as high as it: rows 4 to 8 beside 2 to 10."""
    anchors, levels = anchors_of(*ROW)
    loss = detection_loss(torch.zeros(1, 16, 1 + 4), padded([4, 2, 8, 10, 0]), anchors, levels)
    matches = matched(torch.tensor([[4.0, 2, 8, 10]]), anchors, levels)
    assert matches[5] == 0
    assert (matches == 0).sum() == 1
    background, finding = 0.75 * 0.5**2 * math.log(2), 0.25 * 0.5**2 * math.log(2)
    height = math.log(2) - 1 / 18  # smooth L1 of log(4 / 8), beta 1/9; the middle and the width are the anchor's
    assert loss.item() == pytest.approx(15 * background + finding + height, rel=1e-6)


def test_images_without_a_box_are_negatives_and_boxes_of_the_batch_divide() -> None:
    anchors, levels = anchors_of(*ROW)
    background, finding = 0.75 * 0.5**2 * math.log(2), 0.25 * 0.5**2 * math.log(2)
    none = detection_loss(torch.zeros(2, 16, 5), padded().expand(2, 1, 5), anchors, levels)
    assert none.item() == pytest.approx(32 * background, rel=1e-6)
    both = torch.cat([padded([2, 2, 10, 10, 0], [6, 6, 14, 14, 0]), padded([0, 0, 0, 0, -1], [0, 0, 0, 0, -1])])
    some = detection_loss(torch.zeros(2, 16, 5), both, anchors, levels)
    assert some.item() == pytest.approx((30 * background + 2 * finding) / 2, rel=1e-6)


def test_the_class_of_a_box_is_its_anchors() -> None:
    anchors, levels = anchors_of(*ROW)
    output = torch.zeros(1, 16, 3 + 4, requires_grad=True)
    torch.autograd.backward(detection_loss(output, padded([2, 2, 10, 10, 2]), anchors, levels))
    assert output.grad is not None
    rising = (output.grad[0, :, :3] < 0).nonzero().tolist()
    assert rising == [[5, 2]]


def test_a_box_without_volume_is_refused() -> None:
    anchors, levels = anchors_of(*ROW)
    with pytest.raises(ValueError, match="NaN or Inf"):
        detection_loss(torch.zeros(1, 16, 5), padded([4, 4, 4, 8, 0]), anchors, levels)


@pytest.mark.parametrize("size", [(32, 24), (24, 32, 24), (16, 24, 16)])
@pytest.mark.parametrize("bfloat16", [False, True])
def test_gradient_reaches_every_parameter(size: tuple[int, ...], bfloat16: bool) -> None:
    """In the precision in which a client trains: the last size has maps for which that is float32 everywhere."""
    dims = len(size)
    model = network(size, classes=2)
    boxes = torch.cat(
        [padded([3.0] * dims + [12.0] * dims + [1], dims=dims), padded([0.0] * 2 * dims + [-1], dims=dims)]
    )
    with Device(torch.device("cpu"), amp=bfloat16).autocast(model, (1, *size)):
        loss = detection_loss(model(torch.rand(2, 1, *size)), boxes, model.anchors, model.levels)
    assert loss.dtype == torch.float32
    torch.autograd.backward(loss)
    grads = {name: each.grad for name, each in model.named_parameters()}
    assert [name for name, grad in grads.items() if grad is None or not grad.isfinite().all() or not grad.any()] == []


# What an output means -------------------------------------------------------------------------------------------------


def test_decoding_turns_the_loss_s_differences_round() -> None:
    """An output that says exactly what the loss wants gives the boxes back, each once, within the image."""
    size = (32, 40)
    anchors, levels = anchors_of(size, 2, 8)
    truth = torch.tensor([[3.0, 4, 12, 15], [14, 20, 30, 38], [1, 30, 7, 39]])
    output = torch.zeros(1, len(anchors), 2 + 4)
    output[..., :2] = -9
    matches = matched(truth, anchors, levels)
    for anchor in (matches >= 0).nonzero().flatten().tolist():
        box, place = truth[matches[anchor]], anchors[anchor]
        lengths = place[2:] - place[:2]
        output[0, anchor, matches[anchor] % 2] = 3 - float(matches[anchor])
        output[0, anchor, 2:4] = ((box[:2] + box[2:]) - (place[:2] + place[2:])) / 2 / lengths
        output[0, anchor, 4:] = torch.log((box[2:] - box[:2]) / lengths)
    [found] = decoded(output, anchors, size)
    assert torch.allclose(found.boxes, truth, atol=1e-4)
    assert torch.allclose(found.scores, torch.tensor([3.0, 2.0, 1.0]).sigmoid())
    assert found.classes.tolist() == [0, 1, 0]
    [first] = decoded(output, anchors, size, most=1)
    assert len(first.boxes) == 1
    assert decoded(output, anchors, size, least_score=0.99)[0].boxes.shape == (0, 4)


def test_decoding_clips_and_drops_what_overlaps_within_a_class() -> None:
    anchors, _ = anchors_of(*ROW)
    output = torch.full((2, 16, 2 + 4), -9.0)
    output[..., 2:] = 0
    output[0, 0, 0], output[0, 1, 0], output[0, 1, 1] = 3, 2, 1  # boxes of rows -2 to 6, columns -2 to 6 and 2 to 10
    found, nothing = decoded(output, anchors, (16, 16), most_overlap=0.3)
    assert found.boxes.tolist() == [[0, 0, 6, 6], [0, 2, 6, 10]]  # 24 / 60 of them is common: one is of another class
    assert found.classes.tolist() == [0, 1]
    assert nothing.boxes.shape == (0, 4)
    assert nothing.classes.dtype == torch.int64


# Learning -------------------------------------------------------------------------------------------------------------


def planted(images: int, size: tuple[int, ...], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise, and in two images of three a bright block of 6 to 10 voxels an edge; boxes [images, 1, 2 * dims + 1]."""
    draw, dims = torch.Generator().manual_seed(seed), len(size)
    batch, boxes = torch.rand(images, 1, *size, generator=draw) * 0.6, torch.zeros(images, 1, 2 * dims + 1)
    for index in range(images):
        edges = torch.randint(6, 11, (dims,), generator=draw)
        lower = (torch.rand(dims, generator=draw) * (torch.tensor(size) - edges)).long()
        boxes[index, 0] = torch.cat([lower, lower + edges, torch.tensor([0 if index % 3 else -1])])
        if index % 3:
            places = (slice(int(low), int(low + edge)) for low, edge in zip(lower, edges, strict=True))
            batch[index, 0][tuple(places)] += 0.4
    return batch, boxes


@pytest.mark.long
@pytest.mark.parametrize("size", [(32, 32), (24, 24, 16)])
def test_bright_blocks_in_noise_are_found(size: tuple[int, ...]) -> None:
    """In images that it has not seen: 9 of 10 at an overlap of 0.3 or more, with less than one mistake in 4 images."""
    model, steps, batch_size = network(size, levels=1), 80, 8
    anchors, levels = model.anchors, model.levels
    images, boxes = planted(steps * batch_size, size, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0.02, steps)
    for start in range(0, len(images), batch_size):
        batch = slice(start, start + batch_size)
        loss = detection_loss(model(images[batch]), boxes[batch], anchors, levels)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        decay.step()
    unseen, truth = planted(30, size, 2)
    with torch.no_grad():
        found = decoded(model(unseen), anchors, size, least_score=0.2)
    hits = mistakes = 0
    for its, rows in zip(found, truth, strict=True):
        right = torch.as_tensor(box_iou(its.boxes, rows[rows[:, -1] >= 0, :-1])) >= 0.3
        hits += int(right.any(dim=0).sum())
        mistakes += int((~right.any(dim=1)).sum())
    assert hits >= 18
    assert mistakes < 30 / 4
