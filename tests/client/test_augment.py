"""What is drawn on an image moves with it: masks and boxes, against the image itself and against MONAI."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.apps.detection.transforms.box_ops import flip_boxes
from monai.data.box_utils import box_iou

from fedward_client.training.augment import Augmentation
from fedward_client.training.boxes import flipped, resampled

ALL = ("flip", "affine", "contrast", "noise")
SIZES = [(40, 56), (24, 32, 40)]
SEEDS = list(range(12))


def ellipsoid(size: tuple[int, ...], box: torch.Tensor) -> torch.Tensor:
    """A mask [*size] of the ellipsoid within a box [2 * dims]."""
    dims = len(size)
    middle, half = (box[:dims] + box[dims:]) / 2, (box[dims:] - box[:dims]) / 2
    places = torch.stack(torch.meshgrid(*[torch.arange(n) + 0.5 for n in size], indexing="ij"), dim=-1)
    return ((places - middle) / half).square().sum(dim=-1) <= 1


def around(mask: torch.Tensor) -> torch.Tensor:
    """The box of the voxels that are set."""
    places = mask.nonzero()
    return torch.cat([places.amin(dim=0), places.amax(dim=0) + 1]).float()


def planted(size: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As many images as SEEDS, each with an ellipsoid of 1 on 0; its mask and its box, and a row that fills up."""
    middle = torch.tensor(size) * torch.tensor([0.4, 0.6, 0.45][: len(size)])
    half = torch.tensor([6.0, 9.0, 7.0][: len(size)])
    box = torch.cat([middle - half, middle + half])
    mask = ellipsoid(size, box)
    rows = torch.stack([torch.cat([around(mask), torch.tensor([1.0])]), torch.zeros(2 * len(size) + 1)])
    rows[1, -1] = -1
    shape = (len(SEEDS), 1, *size)
    return mask.float().expand(shape), mask.to(torch.uint8).expand(shape), rows.expand(len(SEEDS), *rows.shape)


@pytest.mark.parametrize("size", SIZES)
def test_masks_move_with_their_image_and_the_image_is_the_same_bits(size: tuple[int, ...]) -> None:
    images, masks, _ = planted(size)
    augment = Augmentation(["affine", "flip"], size)
    moved, followed = augment.with_masks(images, masks, SEEDS)
    assert torch.equal(moved, augment(images, SEEDS))
    assert followed.dtype == torch.uint8
    assert set(followed.unique().tolist()) == {0, 1}
    for image, mask in zip(moved, followed, strict=True):
        inside = image > 0.5  # interpolated: the mask's voxels, but for a rim
        assert (inside & (mask == 1)).sum() > 0.97 * torch.maximum(inside.sum(), mask.sum())
    assert len({str(each.nonzero().tolist()) for each in followed}) > 6


@pytest.mark.parametrize("size", SIZES)
def test_boxes_move_with_their_image_and_the_image_is_the_same_bits(size: tuple[int, ...]) -> None:
    images, masks, boxes = planted(size)
    augment = Augmentation(ALL, size)
    moved, followed = augment.with_boxes(images, boxes, SEEDS)
    assert torch.equal(moved, augment(images, SEEDS))
    assert torch.equal(followed[:, :, -1], boxes[:, :, -1])
    _, masks = augment.with_masks(images, masks, SEEDS)
    for box, mask in zip(followed[:, 0, :-1], masks[:, 0], strict=True):
        assert box_iou(box[None], around(mask)[None]).item() > 0.8
    one, two = augment.with_boxes(images, boxes, SEEDS), augment.with_boxes(images, boxes, SEEDS)
    assert torch.equal(one[1], two[1])


def test_grey_values_alone_move_nothing() -> None:
    images, masks, boxes = planted(SIZES[0])
    for names in ([], ["contrast", "noise"]):
        augment = Augmentation(names, SIZES[0])
        assert torch.equal(augment.with_masks(images, masks, SEEDS)[1], masks)
        assert torch.equal(augment.with_boxes(images, boxes, SEEDS)[1], boxes)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(SIZES), st.integers(0, 2), st.integers(0, 2**32))
def test_a_flip_is_monais(size: tuple[int, ...], axis: int, seed: int) -> None:
    axis %= len(size)
    corners = torch.rand(2, 5, len(size), generator=torch.Generator().manual_seed(seed)) * torch.tensor(size)
    boxes = torch.cat([corners.amin(dim=0), corners.amax(dim=0), torch.ones(5, 1)], dim=1)
    turned = flipped(boxes, size, axis)
    torch.testing.assert_close(turned[:, :-1], flip_boxes(boxes[:, :-1], size, axis))
    torch.testing.assert_close(flipped(turned, size, axis), boxes)


def test_known_boxes_after_a_quarter_turn_a_shift_and_a_zoom() -> None:
    size = (20, 20)
    boxes = torch.tensor([[2.0, 4, 6, 12, 0], [1, 1, 3, 3, 1], [0, 0, 0, 0, -1]])
    quarter = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])  # old = (-column, row): new row = old column
    assert resampled(boxes, quarter, size)[0].tolist() == [4, 14, 12, 18, 0]
    shift = torch.tensor([[1.0, 0, 3], [0, 1, 0], [0, 0, 1]])  # what was 3 rows further down
    assert resampled(boxes, shift, size)[0].tolist() == [0, 4, 3, 12, 0]  # clipped
    assert resampled(boxes, shift, size)[1, -1] == -1  # its middle was in row 2
    zoom = torch.tensor([[0.5, 0, 0], [0, 0.5, 0], [0, 0, 1]])  # twice as large around the middle
    assert resampled(boxes, zoom, size)[0].tolist() == [0, 0, 2, 14, -1]
