"""Warping: identity, shifts, torch's grid_sample as oracle; and the determinant of what a displacement does."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from fedward_common.models.warp import jacobian_determinant, warp

sizes = st.lists(st.integers(2, 7), min_size=2, max_size=3).map(tuple)


def grid_sample(images: torch.Tensor, displacement: torch.Tensor) -> torch.Tensor:
    """torch's, which takes coordinates from -1 to 1, the last axis first."""
    axes = [torch.arange(length, dtype=torch.float32) for length in images.shape[2:]]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij")) + displacement
    scale = torch.tensor(images.shape[2:]).reshape(-1, *(1,) * (images.dim() - 2)) - 1
    grid = (2 * points / scale - 1).movedim(1, -1).flip(-1)
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=True)


@settings(max_examples=15, deadline=None)
@given(sizes, st.integers(1, 3), st.floats(0.1, 4.0), st.integers(0, 2**32))
def test_warping_and_its_gradients_are_those_of_grid_sample(
    size: tuple[int, ...], channels: int, reach: float, seed: int
) -> None:
    random = torch.Generator().manual_seed(seed)
    images = torch.rand(2, channels, *size, generator=random).requires_grad_()
    displacement = (reach * torch.randn(2, len(size), *size, generator=random)).requires_grad_()
    weights = torch.rand(2, channels, *size, generator=random)
    ours, theirs = warp(images, displacement), grid_sample(images, displacement)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    gradients = [torch.autograd.grad((each * weights).sum(), (images, displacement)) for each in (ours, theirs)]
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("size", [(5, 4), (3, 5, 4), (1, 6, 6)])
def test_no_displacement_leaves_an_image_as_it_is(size: tuple[int, ...]) -> None:
    images = torch.rand(2, 3, *size)
    assert torch.equal(warp(images, torch.zeros(2, len(size), *size)), images)


def test_a_whole_shift_moves_voxels_along_its_axis_and_repeats_the_edge() -> None:
    image = torch.arange(12.0).reshape(1, 1, 3, 4)
    down = torch.tensor([1.0, 0.0]).reshape(1, 2, 1, 1).expand(1, 2, 3, 4)
    assert warp(image, down)[0, 0].tolist() == [[4, 5, 6, 7], [8, 9, 10, 11], [8, 9, 10, 11]]
    left = torch.tensor([0.0, -2.0]).reshape(1, 2, 1, 1).expand(1, 2, 3, 4)
    assert warp(image, left)[0, 0].tolist() == [[0, 0, 0, 1], [4, 4, 4, 5], [8, 8, 8, 9]]


def test_half_a_voxel_is_the_mean_of_two() -> None:
    image = torch.tensor([0.0, 1.0, 0.0]).reshape(1, 1, 1, 3)
    half = torch.tensor([0.0, 0.5]).reshape(1, 2, 1, 1).expand(1, 2, 1, 3)
    assert warp(image, half).flatten().tolist() == [0.5, 0.5, 0.0]


def test_a_displacement_that_is_no_number_gives_none_and_reads_nothing_beyond() -> None:
    displacement = torch.full((1, 2, 3, 3), torch.nan)
    displacement[..., 0] = torch.inf
    found = warp(torch.ones(1, 1, 3, 3), displacement)
    assert found[..., 0].isfinite().all()
    assert found[..., 1:].isnan().all()


# What a displacement does to volumes ----------------------------------------------------------------------------------


def linear(*rates: float, length: int = 6) -> torch.Tensor:
    """u(x) = rate * x along each axis."""
    dims = len(rates)
    places = torch.arange(float(length))
    fields = [
        (rate * places).reshape([length if each == axis else 1 for each in range(dims)]).expand((length,) * dims)
        for axis, rate in enumerate(rates)
    ]
    return torch.stack(fields)[None]


@pytest.mark.parametrize(
    ("rates", "grows"),
    [
        ((0.0, 0.0), 1.0),
        ((0.0, 0.0, 0.0), 1.0),
        ((0.5, -0.2), 1.5 * 0.8),
        ((0.1, 0.1, 0.1), 1.1**3),
        ((-2.0, 0.0), -1.0),  # turned round: a fold
        ((0.0, 0.0, -1.5), -0.5),
    ],
)
def test_volumes_of_a_linear_displacement(rates: tuple[float, ...], grows: float) -> None:
    found = jacobian_determinant(linear(*rates))
    assert found.shape == (1, *(6,) * len(rates))
    torch.testing.assert_close(found, torch.full_like(found, grows))


@pytest.mark.parametrize("dims", [2, 3])
def test_volumes_of_any_affine_displacement(dims: int) -> None:
    matrix = torch.randn(dims, dims, generator=torch.Generator().manual_seed(dims))
    places = torch.stack(torch.meshgrid(*(torch.arange(5.0),) * dims, indexing="ij"))
    found = jacobian_determinant(torch.einsum("ij,j...->i...", matrix, places)[None])
    expected = torch.linalg.det(torch.eye(dims) + matrix)
    torch.testing.assert_close(found, torch.full_like(found, float(expected)), atol=1e-4, rtol=1e-4)


def test_a_rotation_keeps_volumes_and_a_local_fold_is_seen_where_it_is() -> None:
    quarter = torch.tensor([[0.0, -1.0], [1.0, 0.0]]) - torch.eye(2)
    places = torch.stack(torch.meshgrid(torch.arange(5.0), torch.arange(5.0), indexing="ij"))
    torch.testing.assert_close(
        jacobian_determinant(torch.einsum("ij,jhw->ihw", quarter, places)[None]), torch.ones(1, 5, 5)
    )
    folded = torch.zeros(1, 2, 8, 8)
    folded[0, 1, :, 3], folded[0, 1, :, 5] = 2.0, -2.0  # the columns to both sides pass each other
    assert set((jacobian_determinant(folded) < 0).nonzero()[:, 2].tolist()) == {4}
