"""What is drawn on an image moves with it: masks and boxes, against the image itself."""

import numpy as np
import pytest
import torch
from monai.data.box_utils import box_iou

from fedward_client.training.augment import Augmentation
from fedward_client.training.boxes import flipped, resampled
from fedward_client.training.transforms import DEGREES, _affine

ALL = ("flip", "affine", "contrast", "noise")
SIZES = [(40, 56), (24, 32, 40)]
SEEDS = list(range(8))


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
    assert set(followed.flatten().tolist()) == {0, 1}
    for image, mask in zip(moved, followed, strict=True):
        inside = image > 0.5  # interpolated: the mask's voxels, but for a rim
        assert 2 * (inside & (mask == 1)).sum() > 0.96 * (inside.sum() + mask.sum())
    assert len({str(around(each[0]).tolist()) for each in followed}) > len(SEEDS) / 2


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
    assert torch.equal(augment.with_boxes(images, boxes, SEEDS)[1], followed)


@pytest.mark.parametrize("spacing", [(5.0, 0.9), (1.0, 1.0, 1.0), (5.0, 0.9, 0.9), (0.9, 5.0, 0.9), (0.9, 0.9, 5.0)])
def test_an_axis_turns_by_ten_degrees_in_millimetres_at_most(spacing: tuple[float, ...]) -> None:
    dims = len(spacing)
    affine, others = _affine((8,) * dims, spacing), ~np.eye(dims, dtype=bool)
    turns = np.zeros((dims, dims))
    for seed in range(300):
        affine.set_random_state(seed=seed)
        affine(torch.zeros(1, *(8,) * dims))
        if (matrix := affine.rand_affine_grid.get_transformation_matrix()) is not None:
            axes = matrix.numpy()[:dims, :dims] * np.array(spacing)[:, None]
            turns = np.maximum(turns, np.degrees(np.arctan(np.abs(axes / axes.diagonal()))))  # seen in each plane
    assert np.maximum(turns, turns.T)[others].min() > 9
    assert turns[others].max() < (10.01 if dims == 2 else 12)  # of three turns, one after the other, a little more


@pytest.mark.parametrize("size", SIZES)
def test_without_a_spacing_voxels_are_cubes(size: tuple[int, ...]) -> None:
    images, _, _ = planted(size)
    cubes = Augmentation(["affine"], size, spacing=(0.7,) * len(size))
    assert torch.equal(cubes(images, SEEDS), Augmentation(["affine"], size)(images, SEEDS))
    assert {*_affine(size, None).rand_affine_grid.rotate_range} == {10 * DEGREES}


@pytest.mark.parametrize(("orientation", "axis"), [("LPS", 2), ("PRS", 1), ("SAL", 0), (None, 2)])
def test_flip_exchanges_left_and_right_and_what_is_drawn_follows(orientation: str | None, axis: int) -> None:
    images, masks, boxes = planted(SIZES[1])
    augment = Augmentation(["flip"], SIZES[1], orientation=orientation)
    mirrored = [not torch.equal(*pair) for pair in zip(augment(images, SEEDS), images, strict=True)]
    assert 0 < sum(mirrored) < len(SEEDS)
    moved, followed = augment.with_masks(images, masks, SEEDS)
    _, turned = augment.with_boxes(images, boxes, SEEDS)
    for index in np.flatnonzero(mirrored):
        assert torch.equal(moved[index], images[index].flip(axis + 1))
        assert torch.equal(followed[index], masks[index].flip(axis + 1))
        assert torch.equal(turned[index, 0, :-1], around(masks[index, 0].flip(axis)))


def test_grey_values_alone_move_nothing() -> None:
    images, masks, boxes = planted(SIZES[0])
    for names in ([], ["contrast", "noise"]):
        augment = Augmentation(names, SIZES[0])
        assert torch.equal(augment.with_masks(images, masks, SEEDS)[1], masks)
        assert torch.equal(augment.with_boxes(images, boxes, SEEDS)[1], boxes)


@pytest.mark.parametrize(("size", "axis"), [(size, axis) for size in SIZES for axis in range(len(size))])
def test_a_box_is_flipped_to_the_box_of_what_is_flipped(size: tuple[int, ...], axis: int) -> None:
    _, masks, boxes = planted(size)
    turned = flipped(boxes[0], size, axis)
    assert torch.equal(turned[0, :-1], around(masks[0, 0].flip(axis)))
    assert torch.equal(turned[:, -1], boxes[0, :, -1])


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
