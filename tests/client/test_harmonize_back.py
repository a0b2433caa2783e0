"""What a network finds in a harmonised image, back on the voxels of the image that the device made."""

from itertools import permutations, product
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedward_client.harmonize.grid import restored
from fedward_client.harmonize.recipe import Recipe
from fedward_client.volume import Volume
from fedward_common.study import Input

SHAPE = (7, 9, 11)
# every way in which axes can run: "RAS" and on
LETTERS = ["".join(side[axis] for side, axis in zip(sides, order, strict=True))
           for order in permutations(range(3)) for sides in product(("RAS", "LPI"), repeat=3)]  # fmt: skip


def volume(shape: tuple[int, int, int] = SHAPE, spacing: tuple[float, float, float] = (3.0, 1.5, 1.0)) -> Volume:
    affine = np.diag([*spacing[::-1], 1.0])
    return Volume(np.random.default_rng(0).normal(0, 1, (shape[0], 1, *shape[1:])).astype(np.float32), affine)


def back(recipe: Recipe, image: Volume, found: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    frames, _, rows, columns = image.pixels.shape
    return restored(found.astype(np.float32), recipe.gridded(image)[1], (frames, rows, columns))


def some(shape: tuple[int, int, int] = SHAPE) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 2, (2, *shape), np.uint8)


@settings(max_examples=12, deadline=None)
@given(letters=st.sampled_from(LETTERS))
def test_a_turn_is_undone(letters: str) -> None:
    spacing = (1.5, 1.5, 1.5)
    recipe = Recipe(Input(size=(12, 12, 12), orientation=letters, spacing=spacing))
    image, masks = volume(spacing=spacing), some()
    placed = recipe.masked(image, masks)[1]
    np.testing.assert_array_equal(back(recipe, image, placed) >= 0.5, masks)


@pytest.mark.parametrize("spacing", [None, (2.0, 1.0, 1.2)])
@pytest.mark.parametrize("crop", [None, "foreground"])
def test_a_ball_is_where_it_was(spacing: tuple[float, float, float] | None, crop: Literal["foreground"] | None) -> None:
    shape = (24, 40, 36)
    z, y, x = np.mgrid[:24, :40, :36]
    ball = ((z - 14) * 2.0) ** 2 + (y - 25) ** 2 + ((x - 15) * 1.2) ** 2 < 9**2
    pixels = np.where(((z - 12) * 2.0) ** 2 + (y - 22) ** 2 + ((x - 18) * 1.2) ** 2 < 17**2, 100, 0) + 50 * ball
    image = Volume(pixels[:, None].astype(np.float32), np.diag([1.2, 1.0, 2.0, 1.0]))
    recipe = Recipe(Input(size=(32, 48, 48), spacing=spacing, crop=crop))
    placed = recipe.masked(image, ball[None].astype(np.uint8))[1]
    found = back(recipe, image, placed)[0] >= 0.5
    assert found.shape == shape
    assert 2 * (found & ball).sum() / (found.sum() + ball.sum()) > 0.9


def test_what_was_cut_off_is_nowhere() -> None:
    shape = (12, 14, 16)
    recipe = Recipe(Input(size=(8, 8, 8), spacing=(3.0, 1.5, 1.0)))
    found = back(recipe, volume(shape), np.ones((1, 8, 8, 8)))[0]
    inside = np.zeros(shape, bool)
    inside[2:10, 3:11, 4:12] = True
    np.testing.assert_array_equal(found > 0, inside)


def test_of_a_picture_s_volume_the_middle_frame_is_told() -> None:
    recipe = Recipe(Input(size=(9, 11)))
    masks = some()
    placed = recipe.masked(volume(), masks)[1]
    found = back(recipe, volume(), placed)
    np.testing.assert_array_equal(found[:, 3], masks[:, 3])
    assert not found[:, [0, 1, 2, 4, 5, 6]].any()
