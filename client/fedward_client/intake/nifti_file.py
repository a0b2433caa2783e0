"""A NIfTI file as bytes (NIfTI-1.1 and NIfTI-2): what its header promises, and a stream that has so many voxels.

Only single files (.nii, and gzip of it). A header of a pair (.hdr, .img) is refused, and so is ANALYZE 7.5, which does
not say left from right. Nothing is allocated on a header's word: what it promises is compared with the file, and what a
gzip stream gives beyond that is a bomb. The texts of a header (descrip, db_name, intent_name, extensions) stay unread.
"""

import gzip
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedIOBase, BufferedReader
from math import isfinite, prod
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fedward_client.intake.bounds import MAX_VALUES
from fedward_client.volume import Affine
from fedward_common.errors import UnreadableFile

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Header

MAX_BYTES = 2**34  # of all voxels of a file: a long functional series is a quarter of that
MAX_OFFSET = 2**24  # bytes before the voxels: the header and its extensions

_RATIO = 1032  # deflate packs no more than this many bytes into one (zlib's technical details)
_AFTER = 2**20  # bytes that may follow the voxels
_FURTHEST_MM = 1e9  # from a voxel to the next, whatever unit was meant
_MILLIMETRES = {
    0: 1.0,
    1: 1000.0,
    2: 1.0,
    3: 0.001,
}  # of the codes of xyzt_units; 0, unknown, is read as everybody does
_SECONDS = {8: 1.0, 16: 1e-3, 24: 1e-6}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Layout:
    """Where the voxels are and what they mean. `shape` is (i, j, k), i runs fastest; then come `times` volumes."""

    shape: tuple[int, int, int]
    times: int
    dtype: np.dtype[Any]
    offset: int  # bytes before the first voxel
    scaling: tuple[float, float] | None  # slope and intercept, None where stored values are the values
    affine: Affine | None  # (i, j, k, 1) to millimetres
    zooms: tuple[float, float, float] | None  # millimetres from voxel to voxel along i, j, k
    interval_s: float | None

    @property
    def volume_bytes(self) -> int:
        """Bytes of one volume."""
        return prod(self.shape) * self.dtype.itemsize

    @property
    def end(self) -> int:
        """Bytes up to the end of the last voxel."""
        return self.offset + self.times * self.volume_bytes


@contextmanager
def unpacked(file: BufferedReader) -> Iterator[BufferedIOBase]:
    """The bytes of a file, those of its gzip stream where it is one; a damaged stream is an UnreadableFile."""
    if file.peek(2)[:2] != b"\x1f\x8b":
        yield file
        return
    try:
        with gzip.GzipFile(fileobj=file, mode="rb") as stream:
            yield stream
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise UnreadableFile("its gzip stream is damaged or ends early") from None


def layout(stream: BufferedIOBase, file: BufferedReader) -> Layout:
    """What the header at the beginning of `stream` says, once `file` is long enough for what it promises.

    Raises UnreadableFile where it is no NIfTI or cannot be read.
    """
    found = _layout(_header(stream.read(540)))
    size = os.fstat(file.fileno()).st_size
    if found.end > (size if stream is file else size * _RATIO):
        raise UnreadableFile("the voxels end early")
    return found


def finish(stream: BufferedIOBase, promised: Layout) -> None:
    """Read a gzip stream to its end, which proves its checksum: cut, damaged or longer than promised, it is refused."""
    if not isinstance(stream, gzip.GzipFile):
        return
    end = stream.seek(promised.end + _AFTER)
    if end < promised.end:
        raise UnreadableFile("the voxels end early")
    if end == promised.end + _AFTER:
        raise UnreadableFile("it inflates to more than its header promises")


def _header(block: bytes) -> "Nifti1Header":
    """The header of a single file, in its own byte order."""
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    for endianness in ("<", ">"):
        size = int.from_bytes(block[:4], "little" if endianness == "<" else "big")
        if size == 348 and block[344:348] == b"n+1\0":
            return Nifti1Header(block[:348], endianness, check=False)
        if size == len(block) == 540 and block[4:8] == b"n+2\0":
            return Nifti2Header(block, endianness, check=False)
        if size == 348 and block[344:348] == b"ni1\0":
            raise UnreadableFile("it is the header of a pair; save image and header as one .nii file")
        if size == 348 and len(block) >= 348:
            raise UnreadableFile("it is ANALYZE, which does not say left from right; save it as NIfTI")
    raise UnreadableFile("it is not NIfTI")


def _layout(header: "Nifti1Header") -> Layout:
    shape, times = _shape(header)
    affine = _affine(header)
    found = Layout(
        shape=shape,
        times=times,
        dtype=_dtype(header),
        offset=_offset(header),
        scaling=_scaling(header),
        affine=affine,
        zooms=_zooms(header) if affine is None else None,
        interval_s=_interval(header, times),
    )
    if prod(shape) > MAX_VALUES or times * found.volume_bytes > MAX_BYTES:
        size = " x ".join(map(str, shape))
        raise UnreadableFile(f"{times} volumes of {size} voxels are more than can be read at once")
    return found


def _shape(header: "Nifti1Header") -> tuple[tuple[int, int, int], int]:
    """(i, j, k) and the number of volumes in time."""
    count, *dims = (int(dim) for dim in header["dim"])
    if not 1 <= count <= 7 or min(dims[:count]) < 1:
        raise UnreadableFile("the size in its header is damaged")
    columns, rows, frames, times, *vector = [*dims[:count], *[1] * (7 - count)]
    if max(vector) > 1:
        raise UnreadableFile("it has more dimensions than space and time")
    return (columns, rows, frames), times


def _dtype(header: "Nifti1Header") -> np.dtype[Any]:
    try:
        dtype: np.dtype[Any] = header.get_data_dtype()
    except KeyError:
        raise UnreadableFile("the type of its voxels is unknown") from None
    if dtype.kind not in "iuf" or not 1 <= dtype.itemsize <= 8:
        raise UnreadableFile("its voxels are neither whole numbers nor floats of 32 or 64 bits")
    return dtype


def _offset(header: "Nifti1Header") -> int:
    offset = float(header["vox_offset"])
    if not header.sizeof_hdr <= offset <= MAX_OFFSET or offset != int(offset):
        raise UnreadableFile("its header does not say where the voxels begin")
    return int(offset)


def _scaling(header: "Nifti1Header") -> tuple[float, float] | None:
    """scl_slope and scl_inter; a slope of 0 means that there are none (nifti1.h, "DATA SCALING")."""
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or not isfinite(slope) or (slope, intercept) == (1, 0):
        return None
    if not isfinite(intercept):
        raise UnreadableFile("the scaling in its header is damaged")
    return slope, intercept


def _affine(header: "Nifti1Header") -> Affine | None:
    """The sform, else the qform (nifti1.h, methods 3 and 2), else None: method 1 knows of no orientation."""
    if int(header["sform_code"]) > 0:
        with np.errstate(all="ignore"):  # a NaN that signals: what is no number is told below
            found = header.get_sform()
    elif int(header["qform_code"]) > 0:
        found = _qform(header)
    else:
        return None
    affine: Affine = np.asarray(found, np.float64)
    with np.errstate(over="ignore", invalid="ignore"):  # what becomes infinite is refused
        affine[:3] *= _millimetres(header)
        sizes = np.linalg.norm(affine[:3, :3], axis=0) if np.isfinite(affine).all() else np.zeros(3)
    if not ((sizes > 0) & (sizes < _FURTHEST_MM)).all() or abs(np.linalg.det(affine[:3, :3] / sizes)) < 1e-6:
        raise UnreadableFile("the orientation in its header is damaged")
    return affine


def _qform(header: "Nifti1Header") -> npt.NDArray[Any]:
    from nibabel.spatialimages import HeaderDataError

    try:
        with np.errstate(all="ignore"):
            found: npt.NDArray[Any] = header.get_qform()
    except (HeaderDataError, ValueError):
        raise UnreadableFile("the orientation in its header is damaged") from None
    return found


def _millimetres(header: "Nifti1Header") -> float:
    return _MILLIMETRES.get(int(header["xyzt_units"]) & 7, 1.0)


def _zooms(header: "Nifti1Header") -> tuple[float, float, float] | None:
    """pixdim, which must be positive (nifti1.h)."""
    column, row, frame = (float(size) * _millimetres(header) for size in header["pixdim"][1:4])
    return (column, row, frame) if all(isfinite(size) and size > 0 for size in (column, row, frame)) else None


def _interval(header: "Nifti1Header", times: int) -> float | None:
    unit, interval = _SECONDS.get(int(header["xyzt_units"]) & 56), float(header["pixdim"][4])
    if times == 1 or unit is None or not isfinite(interval) or interval <= 0:
        return None
    return interval * unit
