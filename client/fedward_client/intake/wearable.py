"""Recordings of wearable sensors as they are published and as devices write them.

- `read_daphnet`: Daphnet Freezing of Gait (Baechlin et al., IEEE TITB 14:436, 2010; UCI 245), S01R01.txt
- `read_gait`: Gait in Parkinson's Disease (PhysioNet gaitpdb 1.0.0), GaPt03_01.txt, also packed by xz
- `read_strides`: Gait in Aging and Disease (PhysioNet gaitdb 1.0.0), pd1-si.txt

Any other CSV is read by `fedward_client.intake.series`, with a map of its columns.
Who was recorded is in the files' names, so a file of another name is refused; no error holds a name.
"""

import re
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fedward_client.intake.delimited import lines
from fedward_client.intake.recording import Recording, Values, bounded, float32, gaps
from fedward_client.intake.series_map import Channel
from fedward_common.errors import UnreadableFile

_DAPHNET_HZ = 64.0
_DAPHNET = tuple(
    Channel(name=f"{place} {axis}", unit="mg")
    for place in ("ankle", "thigh", "trunk")
    for axis in ("forward", "vertical", "lateral")
)
_DAPHNET_WORDS = {1: "no freeze", 2: "freeze"}
_DAPHNET_NAME = re.compile(r"(S[0-9]{2})(R[0-9]{2})\.txt(\.xz)?")

_GAIT_HZ = 100.0
_GAIT = tuple(
    Channel(name=name, unit="N")
    for name in (*(f"left {n}" for n in range(1, 9)), *(f"right {n}" for n in range(1, 9)), "left total", "right total")
)
_GAIT_NAME = re.compile(r"((Ga|Ju|Si)(Co|Pt)[0-9]{2})_([0-9]{2})\.txt(\.xz)?")
_STRIDES_NAME = re.compile(r"((y|o|pd)[0-9]{1,2})(-[0-9]{2})?(-si)?\.txt(\.xz)?")

Numbers = npt.NDArray[np.float64]


def reader_of(name: str) -> Callable[[Path], Recording] | None:
    """What reads a recording, by the name of its file; None for a file that is none of these collections'."""
    readers = {_DAPHNET_NAME: read_daphnet, _GAIT_NAME: read_gait}
    return next((reader for pattern, reader in readers.items() if pattern.fullmatch(name)), None)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Strides:
    """A subject's strides, both [strides]: the file's times in seconds, and how long each stride took.

    A stride's time is its beginning for y and o, and its end for pd, as the files have it.
    """

    times_s: Numbers = field(repr=False)
    intervals_s: Values = field(repr=False)
    subject: str = field(repr=False)
    group: str  # y (young), o (old), pd (Parkinson's disease)


def read_daphnet(path: Path) -> Recording:
    """Nine accelerations in mg at 64 Hz; annotations 0 (not in the experiment), 1 (no freeze), 2 (freeze).

    Raises UnreadableFile with a reason in words.
    """
    name = _named(_DAPHNET_NAME, path, "S01R01.txt")
    numbers = _numbers(path, 11)
    if not np.isin(numbers[:, 10], (0, 1, 2)).all():
        raise UnreadableFile("its annotations are not 0, 1 and 2")
    return Recording(
        values=float32(numbers[:, 1:10]),
        rate_hz=_DAPHNET_HZ,
        channels=_DAPHNET,
        annotation=numbers[:, 10].astype(np.int8),
        words=_DAPHNET_WORDS,
        gaps=gaps(numbers[:, 0] / 1e3, _DAPHNET_HZ),
        subject=name[1],
        run=name[2],
    )


def read_gait(path: Path) -> Recording:
    """The vertical force under eight sensors of each foot and under each foot, in N at 100 Hz; groups Co and Pt.

    Raises UnreadableFile with a reason in words.
    """
    name = _named(_GAIT_NAME, path, "GaPt03_01.txt")
    numbers = _numbers(path, 19)
    return Recording(
        values=float32(numbers[:, 1:]),
        rate_hz=_GAIT_HZ,
        channels=_GAIT,
        gaps=gaps(numbers[:, 0], _GAIT_HZ),
        subject=name[1],
        run=name[4],
        study=name[2],
        group=name[3],
    )


def read_strides(path: Path) -> Strides:
    """A subject's strides. Raises UnreadableFile with a reason in words."""
    name = _named(_STRIDES_NAME, path, "pd1-si.txt")
    numbers = _numbers(path, 2)
    if not (np.diff(numbers[:, 0]) > 0).all() or not (numbers[:, 1] > 0).all():
        raise UnreadableFile("its strides do not follow one another")
    return Strides(times_s=numbers[:, 0], intervals_s=float32(numbers[:, 1]), subject=name[1], group=name[2])


def _named(pattern: re.Pattern[str], path: Path, example: str) -> re.Match[str]:
    found = pattern.fullmatch(path.name)
    if found is None:
        raise UnreadableFile(f"its name does not say who was recorded; the collection's names are like {example}")
    return found


def _numbers(path: Path, width: int) -> Numbers:
    """A file of `width` numbers a line, with space between, as [lines, width]."""
    numbers = array("d")
    for number, line in enumerate(lines(path, "ascii"), 1):
        cells = line.split()
        try:
            numbers.extend([float(cell) for cell in cells])
        except ValueError:
            cells = ["not a number"]
        if cells and len(cells) != width:
            raise UnreadableFile(f"line {number} is not {width} numbers")
        bounded(len(numbers))
    if not numbers:
        raise UnreadableFile("it holds no numbers")
    found: Numbers = np.frombuffer(numbers, np.float64).reshape(-1, width)
    if not np.isfinite(found).all():
        raise UnreadableFile("its values are not all finite numbers")
    return found
