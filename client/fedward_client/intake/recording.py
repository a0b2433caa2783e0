"""What a wearable sensor recorded (`Recording`), cut for training (`windows`) and at a study's rate (`stretched`).

Time is never made up: where samples are missing there is a gap, and nothing is interpolated or cut across it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from fedward_client.intake.bounds import MAX_VALUES
from fedward_client.intake.series_map import Channel
from fedward_common.errors import DataError, UnreadableFile

MAX_NUMBERS = 2**27  # of one file: 1 GiB while it is read
OUTSIDE = 0  # the annotation of samples that do not belong to the experiment

_RATE_TOLERANCE = 0.02
_REGULAR = (0.5, 1.5)  # periods from one sample to the next; what is outside is a gap
_LEAST_REGULAR = 0.9

Values = npt.NDArray[np.float32]
Annotation = npt.NDArray[np.int8]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Recording:
    """One run of one subject: `values` [time, channels] at `rate_hz`.

    `annotation` [time] holds what an observer said of each sample, 1 to 127, and `OUTSIDE`; None where nobody did.
    `words` are what the numbers say.
    `gaps` are the samples that do not follow the one before, ascending; `left_out` rows of the file could not be used.
    """

    values: Values = field(repr=False)
    rate_hz: float
    channels: tuple[Channel, ...]
    annotation: Annotation | None = field(repr=False, default=None)
    words: Mapping[int, str] = field(default_factory=dict)
    gaps: tuple[int, ...] = ()
    left_out: int = 0
    subject: str = field(repr=False)
    run: str = ""
    study: str = ""  # where a collection is made of several
    group: str = ""  # as the collection names it: patients or controls

    def segments(self) -> list[tuple[int, int]]:
        """The stretches without a gap, as (first sample, sample after the last)."""
        bounds = [0, *self.gaps, len(self.values)]
        return [(begin, end) for begin, end in pairwise(bounds) if begin < end]


def bounded(count: int) -> None:
    """Raises UnreadableFile where a file holds more numbers than are read."""
    if count > MAX_NUMBERS:
        raise UnreadableFile(f"it holds more than {MAX_NUMBERS} numbers")


def float32(numbers: npt.NDArray[np.float64]) -> Values:
    """Numbers of a file as they are kept. Raises UnreadableFile where one is not finite."""
    with np.errstate(over="ignore"):  # what becomes infinite is refused
        values: Values = np.ascontiguousarray(numbers, np.float32)
    if not np.isfinite(values).all():
        raise UnreadableFile("its values are not all finite numbers")
    return values


def gaps(times_s: npt.NDArray[np.float64], rate_hz: float) -> tuple[int, ...]:
    """Where a column of times jumps: samples that come earlier than half or later than 1.5 periods after the last.

    Raises UnreadableFile where the times are not those of `rate_hz`: to 2 %, with a jump in ten samples at most.
    """
    if len(times_s) < 2:
        return ()
    steps = np.diff(times_s) * rate_hz
    regular = (steps > _REGULAR[0]) & (steps < _REGULAR[1])
    if regular.mean() < _LEAST_REGULAR or abs(steps[regular].mean() - 1) > _RATE_TOLERANCE:
        raise UnreadableFile(f"its column of times is not one of {rate_hz:g} samples a second")
    return tuple(int(index) + 1 for index in np.flatnonzero(~regular))


def stretched(values: Values, samples: int) -> Values:
    """A window [time, channels] in another number of samples.

    Linear, with a triangular low-pass filter where there are fewer, the kernel that images are resampled with (torch's
    antialiased one, centres of samples at half-integers). Same bits for the same window.
    """
    import torch
    from torch.nn.functional import interpolate

    if len(values) == samples:
        return values
    rows = torch.from_numpy(np.ascontiguousarray(values.T))[None, None]  # [1, 1, channels, time]
    scaled = interpolate(rows, size=(rows.shape[2], samples), mode="bilinear", antialias=True)
    array: Values = np.ascontiguousarray(scaled[0, 0].numpy().T)
    return array


def windows(recording: Recording, *, seconds: float, step_seconds: float) -> tuple[Values, Annotation | None]:
    """Pieces of `seconds`, one every `step_seconds`, as float32 [n, channels, time], and their annotations [n].

    Pieces begin anew after a gap and never lie across one. One that holds a sample `OUTSIDE` the experiment is left
    out; else its annotation is the one that most of its samples have, of two that are as many the higher. n may be 0.
    Raises DataError for pieces that hold no sample, or are more than fit in memory.
    """
    starts, length, annotation = places(recording, seconds=seconds, step_seconds=step_seconds)
    if len(starts) * length * len(recording.channels) > MAX_VALUES:
        raise DataError(f"{len(starts)} windows of {length} samples are more than fit in memory; use a longer step")
    if not len(starts):  # the recording may be shorter than a window
        return np.empty((0, len(recording.channels), length), np.float32), annotation
    return np.ascontiguousarray(sliding_window_view(recording.values, length, axis=0)[starts]), annotation


def places(
    recording: Recording, *, seconds: float, step_seconds: float
) -> tuple[npt.NDArray[np.int64], int, Annotation | None]:
    """Where the `windows` of a recording begin [n], their length in samples, and their annotations [n].

    It looks at no value. Raises DataError for windows that hold no sample.
    """
    rate = recording.rate_hz
    length, step = round(seconds * rate), round(step_seconds * rate)
    if length < 1 or step < 1:
        raise DataError(
            f"windows of {seconds:g} s every {step_seconds:g} s hold no sample at {rate:g} Hz; use longer ones"
        )
    starts = _starts(recording, length, step)
    if recording.annotation is None:
        return starts, length, None
    if not len(starts):
        return starts, length, np.empty(0, np.int8)
    return starts, length, _majority(sliding_window_view(recording.annotation, length)[starts])


def _starts(recording: Recording, length: int, step: int) -> npt.NDArray[np.int64]:
    """Where the windows begin that lie in one stretch and inside the experiment."""
    stretches = [np.arange(begin, end - length + 1, step, dtype=np.int64) for begin, end in recording.segments()]
    starts = np.concatenate([np.empty(0, np.int64), *stretches])
    if recording.annotation is None:
        return starts
    outside = np.concatenate([[0], np.cumsum(recording.annotation == OUTSIDE)])
    inside: npt.NDArray[np.int64] = starts[outside[starts + length] == outside[starts]]
    return inside


def _majority(notes: Annotation) -> Annotation:
    """Of each row the value that is there most often, of several the highest."""
    kinds = np.unique(notes)[::-1]
    counts = np.stack([(notes == kind).sum(axis=1) for kind in kinds])
    chosen: Annotation = kinds[counts.argmax(axis=0)]
    return chosen
