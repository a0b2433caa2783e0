"""One NIfTI file: what its header says (`read_header`), an image (`read_pixels`), a label map (`read_mask`).

Axes are not turned: NIfTI's i is the column, j the row, k the frame, so its affine is the one of `Volume` as it stands,
and two files of one grid fit voxel by voxel. No text of a header is taken: names stand in them.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedIOBase
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fedward_client.intake import nifti_file
from fedward_client.intake.bounds import opened
from fedward_client.intake.nifti_file import Layout
from fedward_client.volume import Affine, Volume
from fedward_common.errors import UnreadableFile

_CHUNK = 2**20  # voxels that are turned at once, so that stored voxels and values never both fill memory
_SLACK = 1e-3  # a scaled label may miss its whole number by this: slopes are float32, and programs choose odd ones

Labels = npt.NDArray[np.int32]
Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class NiftiHeader:
    """What a header says. `affine` is that of `Volume`; with it None there is no orientation, and `orientation` is "".

    `orientation`: where column, row and frame lead, as "RAS" for right, anterior, superior. `dtype`: of what is stored.
    """

    columns: int
    rows: int
    frames: int
    times: int  # volumes in time, 1 for a single image
    spacing: tuple[float, float, float] | None  # millimetres from a frame, a row and a column to the next
    interval_s: float | None  # from volume to volume, None where there is one or the file does not say
    orientation: str
    affine: Affine | None
    dtype: str


@dataclass(frozen=True, slots=True, eq=False)
class Mask:
    """A label map: `labels` [frames, rows, columns], each as it is stored, and the affine of `Volume`."""

    labels: Labels
    affine: Affine | None = None


def read_header(path: Path) -> NiftiHeader:
    """What a file's header says. Reads no voxels.

    Raises UnreadableFile, with a reason in words, for what is no NIfTI or an image that cannot be used.
    """
    with _parsed(path) as (_, found):
        columns, rows, frames = found.shape
        return NiftiHeader(
            columns=columns,
            rows=rows,
            frames=frames,
            times=found.times,
            spacing=_spacing(found),
            interval_s=found.interval_s,
            orientation=_orientation(found.affine),
            affine=found.affine,
            dtype=found.dtype.name,
        )


def read_pixels(path: Path, *, time: int = 0) -> Volume:
    """The volume at `time` as float32 [frames, 1, rows, columns], scaled by scl_slope and scl_inter, and its affine.

    Whole numbers beyond 2^24 are rounded to float32. Raises UnreadableFile with a reason in words, also for voxels
    that are not finite, and for a `time` that the file does not have.
    """
    with _parsed(path) as (stream, found):
        values = np.empty(prod(found.shape), np.float32)
        _fill(stream, found, values, time=time, turn=_as_float)
        spacing = _spacing(found)
        return Volume(values.reshape(found.shape[::-1])[:, None], found.affine, spacing and spacing[1:])


def read_mask(path: Path) -> Mask:
    """A label map: int32 [frames, rows, columns], every label exactly as it is, and its affine.

    Labels may be stored as floats and may be scaled, as programs write them. Raises UnreadableFile with a reason in
    words, also for voxels that are no whole numbers of 32 bits, and for a series in time.
    """
    with _parsed(path) as (stream, found):
        if found.times > 1:
            raise UnreadableFile("it is a series in time, so it is no label map")
        labels = np.empty(prod(found.shape), np.int32)
        _fill(stream, found, labels, time=0, turn=_as_labels)
        return Mask(labels.reshape(found.shape[::-1]), found.affine)


@contextmanager
def _parsed(path: Path) -> Iterator[tuple[BufferedIOBase, Layout]]:
    with opened(path) as file, nifti_file.unpacked(file) as stream:
        yield stream, nifti_file.layout(stream, file)


def _spacing(found: Layout) -> tuple[float, float, float] | None:
    if found.affine is None:
        return found.zooms and found.zooms[::-1]
    column, row, frame = np.linalg.norm(found.affine[:3, :3], axis=0)
    return float(frame), float(row), float(column)


def _orientation(affine: Affine | None) -> str:
    from nibabel.orientations import aff2axcodes

    return "" if affine is None else "".join(aff2axcodes(affine))


def _fill(
    stream: BufferedIOBase, found: Layout, out: Array, *, time: int, turn: Callable[[Array, Layout], Array]
) -> None:
    """Read the voxels of one volume into `out`, chunk by chunk, and the stream to its end."""
    if not 0 <= time < found.times:
        raise UnreadableFile(f"it has {found.times} volumes in time, and none at {time}")
    stream.seek(found.offset + time * found.volume_bytes)
    for start in range(0, len(out), _CHUNK):
        part = out[start : start + _CHUNK]
        data = stream.read(len(part) * found.dtype.itemsize)
        if len(data) < len(part) * found.dtype.itemsize:
            raise UnreadableFile("the voxels end early")
        part[:] = turn(np.frombuffer(data, found.dtype), found)
    nifti_file.finish(stream, found)


def _scaled(stored: Array, found: Layout) -> Array:
    if found.scaling is None:
        return stored
    slope, intercept = found.scaling
    scaled: Array = stored.astype(np.float64) * slope + intercept
    return scaled


def _as_float(stored: Array, found: Layout) -> Array:
    with np.errstate(over="ignore", invalid="ignore"):  # what becomes infinite is refused
        values = _scaled(stored, found).astype(np.float32)
    if not np.isfinite(values).all():
        raise UnreadableFile("its voxels are not all finite numbers")
    return values


def _as_labels(stored: Array, found: Layout) -> Array:
    limits = np.iinfo(np.int32)
    with np.errstate(over="ignore", invalid="ignore"):
        values = _scaled(stored, found)
        good = (values >= limits.min) & (values <= limits.max)
        nearest = values
        if values.dtype.kind == "f":
            nearest = np.rint(values)
            good &= abs(nearest - values) <= (0 if found.scaling is None else _SLACK)
    if not good.all():
        raise UnreadableFile("its voxels are not whole numbers of 32 bits, so it is no label map")
    return nearest.astype(np.int32)
