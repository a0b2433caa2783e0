"""CT of invented patients' lungs with nodules, and where these are in a table as LUNA16 has it.

Coordinates are the patient's, in mm (left, back, head), diameters 4 to 20 mm (Setio et al. 2017,
doi:10.1016/j.media.2017.06.015). Vessels are as bright as the nodules, and longer: what a detector must tell apart. At
strength 1 a solid nodule is as bright as muscle, at 0 as the lung around it.
"""

import csv
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fedward_common.metrics.base import Floats
from fedward_common.streams import stream
from fedward_simulations.ct_slices import CtGrid, CtScanner, grid_of, save, series_of
from fedward_simulations.synthetic import ct

COLUMNS = ("seriesuid", "coordX", "coordY", "coordZ", "diameter_mm")
LUNG, NODULE, BLOOD = -850.0, 40.0, 45.0  # HU
SCANNERS: Mapping[str, CtScanner] = {  # by hospital
    "harbour": CtScanner(manufacturer="SIEMENS", model="Sensation 64", kernel="B50f",
                         slice_mm=1.5, field_mm=360, noise=30, blur_mm=0.5),
    "north": CtScanner(manufacturer="GE MEDICAL SYSTEMS", model="LightSpeed16", kernel="BONE",
                       slice_mm=2.5, field_mm=350, noise=40, blur_mm=0.4, from_head=True),
    "valley": CtScanner(manufacturer="Philips", model="Brilliance 16P", kernel="D",
                        slice_mm=2.0, field_mm=370, noise=35, blur_mm=0.6),
}  # fmt: skip
_LUNG_MIDDLE, _LUNG_HALF = (72.0, 0.0, 0.0), (58.0, 82.0, 130.0)  # mm; on both sides
_HEART: tuple[ct.Place, ct.Place] = ((22, -30, -35), (52, 45, 55))
LEAST_MM, _MOST_MM = 4.0, 20.0
_BRANCHES, _THINNEST_MM = 7, 1.5  # vessels that enter a lung; the radius from which on none forks


@dataclass(frozen=True, kw_only=True, slots=True)
class Nodule:
    """One nodule: where its middle is in the patient (mm), and its diameter."""

    series: str
    centre: ct.Place
    diameter_mm: float


def write(
    folder: Path,
    scanner: CtScanner,
    patients: int,
    *,
    shape: tuple[int, int, int] = (24, 64, 64),
    strength: float = 1.0,
) -> list[Nodule]:
    """`P0000/` and on, a file a slice, and `annotations.csv` of all nodules. Every fourth patient has none."""
    found = [nodule for number in range(patients) for nodule in _patient(folder, scanner, number, shape, strength)]
    _annotate(folder / "annotations.csv", found)
    return found


def _annotate(path: Path, nodules: Iterable[Nodule]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(
            (each.series, *(f"{value:.4f}" for value in (*each.centre, each.diameter_mm))) for each in nodules
        )


def _patient(
    folder: Path, scanner: CtScanner, number: int, shape: tuple[int, int, int], strength: float
) -> list[Nodule]:
    random = stream(0, "synthetic chest", scanner.manufacturer, number)
    grid = grid_of(scanner, shape, random)
    body, lungs = _chest(grid, random)
    count = 0 if number % 4 == 3 else int(random.integers(1, 4))
    drawn = _nodules(body, lungs, grid, count=count, strength=strength, random=random)
    slices = series_of(body, grid, scanner, patient=number, part="CHEST", random=random)
    save(slices, folder / f"P{number:04d}")
    left, back, head = grid.centre
    return [
        Nodule(series=slices[0].SeriesInstanceUID, centre=(x + left, y + back, z + head), diameter_mm=diameter)
        for (x, y, z), diameter in drawn
    ]


def _chest(grid: CtGrid, random: np.random.Generator) -> tuple[Floats, Floats]:
    """A body [slices, rows, columns] in HU, and about how many mm voxels are outside of its lungs."""
    size = random.normal(1, 0.05)
    body = ct.torso(grid, size)
    x, y, z = _LUNG_MIDDLE
    a, b, c = (half * size for half in _LUNG_HALF)
    sides = [ct.outside(grid, (side * x, y, z), (a, b, c)) for side in (-1, 1)]
    centre, half_axes = _HEART
    heart = ct.outside(grid, centre, half_axes)
    lungs: Floats = np.maximum(np.minimum(*sides), -heart)
    ct.paint(body, lungs, random.normal(LUNG, 15))
    ct.paint(body, heart, BLOOD)
    for side in (-1, 1):
        for _ in range(_BRANCHES):
            start = np.array([side * 25.0, 5.0, random.uniform(-60, 60)])
            for vessel in _branches(start, np.array([side, 0, 0]) + random.normal(0, 0.8, 3), 4.0, random):
                _paint_vessel(body, lungs, grid, vessel)
    return body, lungs


class Vessel(NamedTuple):
    """A straight piece of a vessel, half as wide at its end as at its start (mm)."""

    start: Floats
    end: Floats
    radius: float


def _branches(start: Floats, towards: Floats, radius: float, random: np.random.Generator) -> Iterator[Vessel]:
    """A vessel and those into which it forks, each as wide as its end."""
    way = towards / np.linalg.norm(towards)
    end = start + way * random.uniform(20, 35)
    yield Vessel(start, end, radius)
    for _ in range(2 if radius > _THINNEST_MM else 0):
        yield from _branches(end, way + random.normal(0, 0.5, 3), radius / 2, random)


def _paint_vessel(body: Floats, lungs: Floats, grid: CtGrid, vessel: Vessel) -> None:
    """In the lungs alone; of the body only the block that it is in is looked at."""
    low = np.minimum(vessel.start, vessel.end) - vessel.radius - 5 * ct.EDGE_MM
    high = np.maximum(vessel.start, vessel.end) + vessel.radius + 5 * ct.EDGE_MM
    block = [
        slice(*np.searchsorted(place.ravel(), ends).tolist())
        for place, *ends in zip(grid.places(), low, high, strict=True)
    ]
    offsets = [
        place.ravel()[part] - start for place, part, start in zip(grid.places(), block, vessel.start, strict=True)
    ]
    x, y, z = offsets[0][None, None, :], offsets[1][None, :, None], offsets[2][:, None, None]
    run = vessel.end - vessel.start
    along = np.clip((x * run[0] + y * run[1] + z * run[2]) / (run @ run), 0, 1)
    away = np.sqrt((x - along * run[0]) ** 2 + (y - along * run[1]) ** 2 + (z - along * run[2]) ** 2)
    inside = tuple(reversed(block))
    ct.paint(body[inside], np.maximum(away - vessel.radius * (1 - along / 2), lungs[inside]), BLOOD)


def _nodules(
    body: Floats, lungs: Floats, grid: CtGrid, *, count: int, strength: float, random: np.random.Generator
) -> list[tuple[ct.Place, float]]:
    """Paint nodules, apart from each other; their middles (mm from the scan's) and diameters.

    None is thinner than two voxels: what lies between voxels is nowhere to be seen.
    """
    least = max(LEAST_MM, 2 * grid.pixel_mm, 2 * grid.slice_mm)
    most = max(_MOST_MM, least)
    free, drawn = lungs.copy(), []
    for _ in range(count):
        diameter = least * (most / least) ** random.random()  # small ones are the most
        centre = ct.inside_point(free, grid, diameter / 2 + 2, random)
        if centre is None:
            continue
        sphere = ct.outside(grid, centre, (diameter / 2,) * 3)
        ct.paint(body, sphere, LUNG + strength * (NODULE - LUNG))
        free = np.maximum(free, -sphere)
        drawn.append((centre, diameter))
    return drawn
