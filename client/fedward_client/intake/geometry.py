"""Where frames lie in the patient, and how they stack to a volume. Pure: numbers in, numbers out.

DICOM says where a frame's first pixel is and which way its rows and columns run (PS3.3 C.7.6.2.1.1); the order of
files, their names and instance numbers say nothing. So slices are sorted by their distance along the normal.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fedward_client.volume import Affine
from fedward_common.errors import UnreadableFile

PARALLEL = 1e-3  # of a direction's components: headers are written with few digits
SAME_PLACE_MM = 1e-2
MISSING = 1.5  # of the usual gap: a larger one lacks a slice
UNEVEN = 0.1  # of the usual gap; scanners round, a tilted gantry does not
_TO_RAS = np.array([-1.0, -1.0, 1.0])

Vector = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Plane:
    """One frame. `position` is its first pixel's centre (mm, DICOM's axes); `spacing` is from row to row, then columns.

    `row` and `column` are unit vectors: along a row, from column to column; and down a column.
    """

    position: Vector
    row: Vector
    column: Vector
    spacing: tuple[float, float]

    @property
    def normal(self) -> Vector:
        """The unit vector across the frame."""
        (a, b, c), (d, e, f) = self.row, self.column
        return b * f - c * e, c * d - a * f, a * e - b * d

    @property
    def place_mm(self) -> float:
        """How far along its normal the frame lies."""
        return _dot(self.normal, self.position)

    def place_of(self, position: Sequence[float]) -> float | None:
        """How far along this one's normal a parallel frame lies; None where that does not say where it begins."""
        if len(position) != 3 or not all(map(math.isfinite, position)):
            return None
        return _dot(self.normal, position)

    @property
    def orientation(self) -> str:
        """Both directions to three digits: what frames of one stack share."""
        return " ".join(f"{value:.3f}".replace("-0.000", "0.000") for value in (*self.row, *self.column))


def plane(position: Sequence[float], directions: Sequence[float], spacing: Sequence[float]) -> Plane | None:
    """A frame from its attributes' values; None where they are missing or are no directions at a right angle."""
    if (len(position), len(directions), len(spacing)) != (3, 6, 2):
        return None
    if not all(map(math.isfinite, (*position, *directions, *spacing))) or min(spacing) <= 0:
        return None
    row, column = directions[:3], directions[3:]
    row_length, column_length = math.hypot(*row), math.hypot(*column)
    if abs(row_length - 1) > 0.01 or abs(column_length - 1) > 0.01 or abs(_dot(row, column)) > 0.01:
        return None
    return Plane(
        position=(float(position[0]), float(position[1]), float(position[2])),
        row=(row[0] / row_length, row[1] / row_length, row[2] / row_length),
        column=(column[0] / column_length, column[1] / column_length, column[2] / column_length),
        spacing=(float(spacing[0]), float(spacing[1])),
    )


def _dot(one: Sequence[float], other: Sequence[float]) -> float:
    """Of two vectors; numpy takes ten times as long for three numbers."""
    return one[0] * other[0] + one[1] * other[1] + one[2] * other[2]


class Slice(NamedTuple):
    """One slice of a series, as the catalog knows it."""

    key: str
    place_mm: float
    turn: str  # sorts the slices at one place: time points, echoes, weightings


class Stacks(NamedTuple):
    """The volumes in a series, each slice keys in order, and the slices that belong to none, by reason."""

    volumes: list[tuple[str, ...]]
    left_out: dict[str, list[str]]


LONE, INCOMPLETE, MISSING_SLICES, UNEVEN_SLICES = (
    "slices that stand alone",
    "slices of volumes that lack others",
    "slices of volumes with a gap",
    "slices at uneven distances",
)


def stacks(slices: Sequence[Slice]) -> Stacks:
    """Parallel slices of one series as volumes: one where each place has one slice, n where each has n.

    A volume with a gap is left out: a network would take its missing slices for anatomy.
    """
    places = _places(slices)
    depth = min(len(at) for at in places)
    left_out: dict[str, list[str]] = {}
    if rest := [one.key for at in places for one in at[depth:]]:
        left_out[INCOMPLETE] = rest
    found = [tuple(at[number].key for at in places) for number in range(depth)]
    if len(places) < 2:
        return Stacks([], {**left_out, LONE: [key for keys in found for key in keys]})
    gaps = np.diff([at[0].place_mm for at in places])
    usual = float(np.median(gaps))
    wrong = next((why for why, limit in _GAPS.items() if np.abs(gaps - usual).max() > limit * usual), None)
    if wrong is not None:
        return Stacks([], {**left_out, wrong: [key for keys in found for key in keys]})
    return Stacks(found, left_out)


_GAPS = {MISSING_SLICES: MISSING - 1, UNEVEN_SLICES: UNEVEN}  # the first that holds is told


def _places(slices: Sequence[Slice]) -> list[list[Slice]]:
    """Slices by place, from the least on; those at one place by their turn."""
    places: list[list[Slice]] = []
    for one in sorted(slices, key=lambda one: (one.place_mm, one.key)):
        if not places or one.place_mm - places[-1][0].place_mm > SAME_PLACE_MM:
            places.append([])
        places[-1].append(one)
    return [sorted(at, key=lambda one: (one.turn, one.key)) for at in places]


def affine(planes: Sequence[Plane]) -> Affine:
    """(column, row, frame, 1) to millimetres, as NIfTI's world is, of planes in order along their normal.

    Of a single plane the third step is a millimetre. Raises UnreadableFile where they are not of one stack.
    """
    first, last = planes[0], planes[-1]
    for one in planes:
        if not np.allclose((*one.row, *one.column), (*first.row, *first.column), atol=PARALLEL):
            raise UnreadableFile("its frames are not parallel")
        if not np.allclose(one.spacing, first.spacing, rtol=PARALLEL):
            raise UnreadableFile("its frames have pixels of different sizes")
    matrix = np.eye(4)
    matrix[:3, 0] = np.array(first.row) * first.spacing[1]
    matrix[:3, 1] = np.array(first.column) * first.spacing[0]
    step = np.subtract(last.position, first.position) / (len(planes) - 1) if len(planes) > 1 else first.normal
    matrix[:3, 2] = step
    matrix[:3, 3] = first.position
    matrix[:3] *= _TO_RAS[:, None]
    return matrix


def in_order(planes: Sequence[Plane]) -> list[int] | None:
    """The frames of one file along their normal; None where they are no stack: several volumes, or frames missing."""
    if len(planes) == 1:
        return [0]
    if len({one.orientation for one in planes}) > 1:
        return None
    slices = [Slice(str(index), one.place_mm, f"{index:09d}") for index, one in enumerate(planes)]
    found = stacks(slices)
    return [int(key) for key in found.volumes[0]] if len(found.volumes) == 1 and not found.left_out else None


def plane_of(matrix: Affine) -> Plane:
    """The first frame of an affine."""
    columns = matrix[:3] * _TO_RAS[:, None]
    found = plane(
        columns[:, 3].tolist(),
        [*(columns[:, 0] / np.linalg.norm(columns[:, 0])), *(columns[:, 1] / np.linalg.norm(columns[:, 1]))],
        [float(np.linalg.norm(columns[:, 1])), float(np.linalg.norm(columns[:, 0]))],
    )
    assert found is not None
    return found
