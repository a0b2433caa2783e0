"""Recordings as PhysioNet's Gait in Parkinson's Disease has them: 100 Hz, 16 sensors and two totals in newton.

Each foot's force over a step has two peaks, heel strike and push-off, with a dip between them. In Parkinson's disease
the dip is shallow and the steps are irregular (Hausdorff et al. 1998, doi:10.1002/mds.870130310): both are planted.
"""

import lzma
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fedward_common.streams import stream

HZ, SECONDS = 100, 60
_STRIDE_S, _STANCE = 1.1, 0.62  # of a stride
_DIP = {"Co": 0.3, "Pt": 0.1}  # how far the force falls between the peaks, of the peaks
_IRREGULAR = {"Co": 0.02, "Pt": 0.06}  # deviation of a stride's time, of its mean


def write(folder: Path, study: str, number: int, group: str) -> None:
    """One subject's walk, `GaPt03_01.txt.xz`; `group` is "Co" or "Pt"."""
    random = stream(0, "synthetic gait", study, group, number)
    weight = random.normal(720, 90)  # newton
    dip = _DIP[group] + random.normal(0, 0.03)
    feet = [_foot(random, weight, dip, _IRREGULAR[group], start) for start in (0.0, 0.5)]
    shares = random.dirichlet(np.full(8, 8.0), 2)  # of the force, by sensor
    sensors = [foot[:, None] * share for foot, share in zip(feet, shares, strict=True)]
    times = np.arange(HZ * SECONDS) / HZ
    table = np.column_stack([times, *sensors, *feet])
    text = "\n".join("\t".join(f"{value:.2f}" for value in row) for row in table) + "\n"
    path = folder / f"{study}{group}{number:02d}_01.txt.xz"
    path.write_bytes(lzma.compress(text.encode(), preset=1))


def _foot(
    random: np.random.Generator, weight: float, dip: float, irregular: float, start: float
) -> npt.NDArray[np.float64]:
    """The force under one foot [samples], whose first step begins `start` strides after the recording does."""
    strides = _STRIDE_S * np.maximum(1 + random.normal(0, irregular, int(2 * SECONDS / _STRIDE_S)), 0.5)
    begins = start * _STRIDE_S + np.concatenate(([0.0], np.cumsum(strides)[:-1]))
    times = np.arange(HZ * SECONDS) / HZ
    step = np.maximum(np.searchsorted(begins, times, side="right") - 1, 0)
    phase = (times - begins[step]) / (strides[step] * _STANCE)  # 0 to 1 while the foot stands
    stands = (phase >= 0) & (phase < 1)
    shape = np.sin(np.pi * np.clip(phase, 0, 1)) ** 0.5 * (1.1 - dip * np.sin(np.pi * np.clip(phase, 0, 1)) ** 4)
    force = np.where(stands, weight * shape, 0.0) + np.abs(random.normal(0, 4, len(times)))
    return np.asarray(force)
