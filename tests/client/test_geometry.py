"""How slices stack: by where they lie, whatever their names and order; with a gap, not at all."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation  # type: ignore[import-untyped]

from fedward_client.intake.geometry import (
    INCOMPLETE,
    LONE,
    MISSING_SLICES,
    UNEVEN_SLICES,
    Plane,
    Slice,
    affine,
    in_order,
    plane,
    plane_of,
    stacks,
)
from fedward_common.errors import UnreadableFile

angles = st.tuples(*[st.floats(-180, 180)] * 3)


def tilted(angles: tuple[float, float, float], count: int, step: float = 2.5) -> list[Plane]:
    """Slices of 0.5 x 0.75 mm pixels, turned any way, from the first place on."""
    turn = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    found = [
        plane(turn @ [10.0, -20.0, 30.0 + step * number], [*turn[:, 0], *turn[:, 1]], [0.5, 0.75])
        for number in range(count)
    ]
    assert all(found)
    return [one for one in found if one is not None]


@given(angles, st.integers(2, 40), st.randoms())
def test_slices_are_sorted_along_their_normal(
    angles: tuple[float, float, float], count: int, chance: random.Random
) -> None:
    planes = tilted(angles, count)
    shuffled = list(range(count))
    chance.shuffle(shuffled)
    order = in_order([planes[index] for index in shuffled])
    assert order is not None
    assert [shuffled[index] for index in order] == list(range(count))


@given(angles, st.integers(2, 20))
def test_the_affine_takes_a_pixel_to_where_dicom_says(angles: tuple[float, float, float], count: int) -> None:
    """PS3.3 C.7.6.2.1.1, equation C.7.6.2.1-1; x and y turned to NIfTI's axes."""
    planes = tilted(angles, count)
    matrix = affine(planes)
    for number, one in enumerate(planes):
        expected = np.array(one.position) + np.array(one.row) * 0.75 * 3 + np.array(one.column) * 0.5 * 5
        found = matrix @ [3, 5, number, 1]
        np.testing.assert_allclose(found[:3] * [-1, -1, 1], expected, atol=1e-9)
    back = plane_of(matrix)
    np.testing.assert_allclose(back.position, planes[0].position, atol=1e-9)
    np.testing.assert_allclose((*back.row, *back.column), (*planes[0].row, *planes[0].column), atol=1e-9)
    np.testing.assert_allclose(back.spacing, planes[0].spacing, atol=1e-9)


def slices(*places: float, turn: str = "1") -> list[Slice]:
    return [Slice(f"{turn}-{place:g}", place, turn) for place in places]


def test_each_time_point_is_a_volume() -> None:
    first, second = slices(0, 3, 6, turn="1"), slices(0, 3, 6, turn="2")
    found = stacks([*second, *reversed(first)])
    assert found.volumes == [("1-0", "1-3", "1-6"), ("2-0", "2-3", "2-6")]
    assert found.left_out == {}


def test_a_volume_that_lacks_a_slice_of_the_others_is_left_out() -> None:
    found = stacks([*slices(0, 3, 6, turn="1"), *slices(0, 6, turn="2")])
    assert found.volumes == [("1-0", "1-3", "1-6")]
    assert found.left_out == {INCOMPLETE: ["2-0", "2-6"]}


@pytest.mark.parametrize(
    ("places", "reason"),
    [((0, 3, 9, 12), MISSING_SLICES), ((0, 3, 6.6, 9), UNEVEN_SLICES), ((5,), LONE)],
)
def test_slices_that_are_no_whole_volume(places: tuple[float, ...], reason: str) -> None:
    found = stacks(slices(*places))
    assert found.volumes == []
    assert list(found.left_out) == [reason]
    assert sorted(found.left_out[reason]) == sorted(one.key for one in slices(*places))


def test_a_scanners_rounding_is_no_gap() -> None:
    assert len(stacks(slices(0, 3.3, 6.7, 10.0)).volumes) == 1


@given(st.lists(st.tuples(st.floats(-500, 500), st.integers(0, 3)), min_size=1, max_size=60))
def test_every_slice_is_in_one_volume_or_left_out(found: list[tuple[float, int]]) -> None:
    given_slices = [Slice(str(index), place, str(turn)) for index, (place, turn) in enumerate(found)]
    result = stacks(given_slices)
    out = [key for keys in result.volumes for key in keys] + [key for keys in result.left_out.values() for key in keys]
    assert sorted(out) == sorted(one.key for one in given_slices)


@pytest.mark.parametrize(
    ("position", "directions", "spacing"),
    [
        ([0, 0], [1, 0, 0, 0, 1, 0], [1, 1]),
        ([0, 0, 0], [1, 0, 0, 1, 0, 0], [1, 1]),
        ([0, 0, 0], [2, 0, 0, 0, 1, 0], [1, 1]),
        ([0, 0, 0], [1, 0, 0, 0, 1, 0], [1, 0]),
        ([0, 0, float("nan")], [1, 0, 0, 0, 1, 0], [1, 1]),
    ],
)
def test_what_is_no_place_is_none(position: list[float], directions: list[float], spacing: list[float]) -> None:
    assert plane(position, directions, spacing) is None


def test_frames_of_two_stacks_have_no_order_and_no_affine() -> None:
    axial, sagittal = tilted((0, 0, 0), 2), tilted((0, 90, 0), 2)
    assert in_order([*axial, *sagittal]) is None
    with pytest.raises(UnreadableFile, match="not parallel"):
        affine([*axial, *sagittal])
    wide = [Plane(position=one.position, row=one.row, column=one.column, spacing=(9.0, 9.0)) for one in axial[1:]]
    with pytest.raises(UnreadableFile, match="different sizes"):
        affine([axial[0], *wide])
