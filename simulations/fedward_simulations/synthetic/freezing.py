"""Recordings as Daphnet has them (Baechlin et al. 2010, doi:10.1109/TITB.2009.2036165): nine accelerations at 64 Hz.

Walking swings ankle, thigh and trunk about once a second. In a freeze the swing dies down and the legs tremble at 3 to
8 Hz (Moore et al. 2008, doi:10.1016/j.jneumeth.2007.08.023): `strength` 1 plants that, 0 leaves the swing as it is.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from fedward_common.streams import stream

HZ = 64
_WALK_S, _FREEZE_S = (12.0, 20.0), (6.0, 10.0)
_BEFORE_S = 2.0  # the experiment begins
_SWING = np.array([500, 800, 300, 400, 500, 200, 150, 250, 200])  # mg, in the order of the columns
_TREMBLE = np.array([300, 400, 250, 250, 300, 150, 60, 80, 60])
_GRAVITY = np.array([0, 1000, 0] * 3)


def write(folder: Path, hospital: str, number: int, strength: float, *, seconds: float = 120.0) -> None:
    """One patient's run, `S07R01.txt`: milliseconds, accelerations, an annotation (0 before, 1 no freeze, 2 freeze)."""
    random = stream(0, "synthetic freezing", hospital, number)
    notes = _annotation(random, round(seconds * HZ))
    swing, tremble = (_wave(random, notes, *band) for band in ((0.8, 1.2), (4.0, 6.5)))
    share = np.where(notes == 2, strength, 0.0)[:, None]  # of the swing that is lost to trembling
    body = random.uniform(0.8, 1.2)
    values = _GRAVITY + body * ((1 - 0.8 * share) * swing * _SWING + share * tremble * _TREMBLE)
    values = np.rint(values + random.normal(0, 90, values.shape)).astype(int)
    times = (np.arange(len(notes)) + 1) * 1000 // HZ
    rows = np.column_stack([times, values, notes])
    text = "\n".join(" ".join(map(str, row)) for row in rows.tolist()) + "\n"
    (folder / f"S{number:02d}R01.txt").write_text(text, "ascii")


def _annotation(random: np.random.Generator, samples: int) -> npt.NDArray[np.int64]:
    """Walking and freezing in turns [samples], after a while that does not belong to the experiment."""
    notes = [np.zeros(round(_BEFORE_S * HZ), np.int64)]
    while sum(map(len, notes)) < samples:
        for note, length in ((1, _WALK_S), (2, _FREEZE_S)):
            notes.append(np.full(round(random.uniform(*length) * HZ), note, np.int64))
    return np.concatenate(notes)[:samples]


def _wave(
    random: np.random.Generator, notes: npt.NDArray[np.int64], low: float, high: float
) -> npt.NDArray[np.float64]:
    """A wave [samples, 9] whose frequency (Hz) wanders between two, each channel at a phase of its own."""
    knots = np.arange(0, len(notes) + HZ, HZ)  # the frequency of each second
    frequency = np.interp(np.arange(len(notes)), knots, random.uniform(low, high, len(knots)))
    phase = 2 * np.pi * np.cumsum(frequency) / HZ
    return np.asarray(np.sin(phase[:, None] + random.uniform(0, 2 * np.pi, 9)))
