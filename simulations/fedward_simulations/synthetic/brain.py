"""Axial MR slices through the midbrain of invented patients, as DICOM of three makers' scanners.

T1-weighted, with the contrast that shows neuromelanin. Two findings are planted. In Parkinson's disease and in multiple
system atrophy the substantia nigra is hardly brighter than the midbrain around it (Sasaki et al. 2006,
doi:10.1097/01.wnr.0000227984.84927.a7; Matsuura et al. 2013, European Neurology 70:70); in multiple system atrophy the
putamina are thin, too (Gilman et al. 2008, Neurology 71:670). Nothing else differs between the labels.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fedward_common.metrics.base import Floats
from fedward_common.streams import stream
from fedward_simulations.mr_slices import slice_of

NIGRA: Mapping[str, float] = {"healthy": 0.3, "parkinson": 0.05, "msa": 0.05}  # how much brighter than the midbrain
PUTAMEN: Mapping[str, float] = {"healthy": 1.0, "parkinson": 1.0, "msa": 0.5}  # its width, of a healthy one
_TALL, _WIDE = 240, 200  # mm that an image shows
_EDGE = 0.5  # mm over which one tissue becomes the other
# Tissues, the later ones over the earlier: signal of white matter's, middle (to the left and to the back, in mm), half
# width, half length, turn in degrees. What is not in the middle is on both sides.
_CSF, _MIDBRAIN = 0.25, 0.9
_TISSUES: Mapping[str, tuple[float, float, float, float, float, float]] = {
    "scalp": (0.95, 0, 0, 76, 97, 0),
    "skull": (0.1, 0, 0, 70, 91, 0),
    "cerebrospinal fluid": (_CSF, 0, 0, 66, 86, 0),
    "grey matter": (0.75, 0, 0, 64, 84, 0),
    "white matter": (1.0, 0, 0, 55, 75, 0),
    "temporal horn": (_CSF, 36, 12, 2.5, 8, -15),
    "third ventricle": (_CSF, 0, -22, 1.8, 7, 0),
    "caudate nucleus": (0.78, 10, -40, 5, 8, 0),
    "pallidum": (0.88, 18, -18, 4, 9, -25),
    "putamen": (0.78, 26, -20, 5, 13, -25),
    "cisterns": (_CSF, 0, 4, 23, 20, 0),
    "midbrain": (_MIDBRAIN, 0, 4, 19, 16, 0),
    "aqueduct": (_CSF, 0, 13, 1.2, 1.5, 0),
    "red nucleus": (0.85, 5, 4, 3, 3, 0),
    "substantia nigra": (_MIDBRAIN, 10, -2, 2.5, 7, -50),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class MrScanner:
    """How one make of scanner shows the same head."""

    manufacturer: str
    model: str
    protocol: str
    spacing: float  # mm from pixel to pixel
    gain: float  # the stored value of white matter
    bias: float  # how much brighter the coil shows what is 100 mm from the middle, as a share
    noise: float  # standard deviation, of white matter's signal


SCANNERS: Mapping[str, MrScanner] = {  # by hospital
    "harbour": MrScanner(manufacturer="SIEMENS", model="Skyra", protocol="t1_tse_nm_tra",
                         spacing=0.8, gain=400, bias=0.4, noise=0.03),
    "north": MrScanner(manufacturer="GE MEDICAL SYSTEMS", model="DISCOVERY MR750", protocol="Ax T1 FSE NM",
                       spacing=0.94, gain=2100, bias=0.2, noise=0.05),
    "valley": MrScanner(manufacturer="Philips Medical Systems", model="Ingenia", protocol="T1W_TSE_NM",
                        spacing=0.7, gain=1100, bias=-0.2, noise=0.04),
}  # fmt: skip


def write(folder: Path, scanner: MrScanner, number: int, label: str, *, strength: float = 1.0) -> None:
    """`P0003.dcm`: one patient's slice; `strength` 0 plants nothing, 1 what the tables above say."""
    random = stream(0, "synthetic brain", scanner.manufacturer, number)
    pixels = _stored(_head(random, scanner.spacing, label, strength), scanner, random)
    dataset = slice_of(number, 0, pixels)
    dataset.Manufacturer, dataset.ManufacturerModelName = scanner.manufacturer, scanner.model
    dataset.SeriesDescription = dataset.ProtocolName = scanner.protocol
    dataset.SliceThickness, dataset.PixelSpacing = 3.0, [scanner.spacing, scanner.spacing]
    dataset.save_as(folder / f"P{number:04d}.dcm", enforce_file_format=True)


def _head(random: np.random.Generator, spacing: float, label: str, strength: float) -> Floats:
    """The signal [rows, columns] of a head, which is not quite straight and not quite in the middle."""
    y, x = _places(spacing)
    turn, centre, size = random.normal(0, 0.06), random.normal(0, 4, 2), random.normal(1, 0.04, 2)
    x, y = _turned((x - centre[0]) / size[0], (y - centre[1]) / size[1], turn)
    folds = 1 + 0.05 * np.sin(random.integers(14, 22) * np.arctan2(y, x) + random.uniform(0, 6))
    nigra, putamen = (found["healthy"] + strength * (found[label] - found["healthy"]) for found in (NIGRA, PUTAMEN))
    brighter, wider = {"substantia nigra": 1 + nigra}, {"putamen": putamen}
    head = np.zeros_like(x)
    for tissue, (usual, left, back, half_width, half_length, angle) in _TISSUES.items():
        signal = usual * random.normal(1, 0.02) * brighter.get(tissue, 1.0)
        width, length = random.normal((half_width, half_length), 0.3)
        width *= wider.get(tissue, 1.0)
        for side in (-1, 1) if left else (1,):
            across, along = _turned(side * x - left, y - back, np.radians(angle))
            distance = np.hypot(across / width, along / length) * (folds if tissue == "white matter" else 1)
            inside = 1 / (1 + np.exp((distance - 1) * min(width, length) / _EDGE))
            head += (signal - head) * inside
    return head


def _stored(head: Floats, scanner: MrScanner, random: np.random.Generator) -> npt.NDArray[np.uint16]:
    """What the scanner makes of it: its coil's bias field, the noise of a magnitude image, its own scale."""
    y, x = _places(scanner.spacing)
    lean = random.normal(0, 0.1, 2)
    seen = head * (1 + scanner.bias * (x**2 + y**2) / 1e4 + (lean[0] * x + lean[1] * y) / 100)
    real, imaginary = random.normal(0, scanner.noise, (2, *head.shape))
    magnitude = np.hypot(seen + real, imaginary)  # Rician (Gudbjartsson and Patz 1995, doi:10.1002/mrm.1910340618)
    stored: npt.NDArray[np.uint16] = np.clip(np.rint(magnitude * scanner.gain), 0, 4095).astype(np.uint16)
    return stored


def _places(spacing: float) -> tuple[Floats, Floats]:
    """How far each pixel is to the back and to the left of the middle, in mm."""
    rows, columns = round(_TALL / spacing), round(_WIDE / spacing)
    y, x = np.mgrid[:rows, :columns]
    return (y + 0.5 - rows / 2) * spacing, (x + 0.5 - columns / 2) * spacing


def _turned(x: Floats, y: Floats, angle: float) -> tuple[Floats, Floats]:
    return np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
