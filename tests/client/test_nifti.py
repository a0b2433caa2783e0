"""NIfTI files that nibabel writes, read without nibabel's way of reading voxels; and files that are none."""

import gzip
import logging
import os
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedward_client.intake import nifti_file
from fedward_client.intake.nifti import read_header, read_mask, read_pixels
from fedward_common.errors import UnreadableFile

Array = npt.NDArray[Any]
RNG = np.random.default_rng(3)
OBLIQUE = np.array([[-0.9, 0.1, 0.3, 10], [0.1, 1.1, -0.2, -20], [0.2, 0.3, 2.9, 30], [0, 0, 0, 1]])
NAMES = [b"a.nii", b"a.nii.gz", b"line\nbreak.nii.gz", b"not utf-8 \xff.nii"]


def image(
    array: Array, affine: Array | None = OBLIQUE, kind: type[nibabel.Nifti1Image] = nibabel.Nifti1Image
) -> nibabel.Nifti1Image:
    return kind(array, affine, dtype=array.dtype)


def write(path: Path, written: nibabel.Nifti1Image, **header: Any) -> Path:
    """Write an image whose header has values that nibabel would not give it. It is gzip where the name ends so."""
    data = bytearray(written.to_bytes())
    fields = type(written.header)(bytes(data[: written.header.sizeof_hdr]), check=False)
    for name, value in header.items():
        fields[name] = value
    data[: len(fields.binaryblock)] = fields.binaryblock
    path.write_bytes(gzip.compress(data, mtime=0) if path.name.endswith(".gz") else data)
    return path


def refusal(path: Path, read: Callable[[Path], object] = read_pixels) -> str:
    with pytest.raises(UnreadableFile) as caught:
        read(path)
    message = str(caught.value)
    assert str(path.parent) not in message
    assert path.name not in message
    assert "JANE" not in message
    return message


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_voxels_and_their_place_come_back(tmp_path: Path, name: bytes, kind: type[nibabel.Nifti1Image]) -> None:
    array = RNG.integers(-500, 3000, (5, 6, 7)).astype(np.int16)  # i, j, k
    path = write(tmp_path / os.fsdecode(name), image(array, OBLIQUE, kind))
    volume = read_pixels(path)
    assert volume.pixels.dtype == np.float32
    assert volume.pixels.shape == (7, 1, 6, 5)
    np.testing.assert_array_equal(volume.pixels[:, 0], array.T)
    assert volume.affine is not None
    np.testing.assert_allclose(volume.affine, OBLIQUE, rtol=1e-6)
    header = read_header(path)
    assert (header.columns, header.rows, header.frames, header.times, header.dtype) == (5, 6, 7, 1, "int16")
    assert header.spacing == volume.spacing
    assert (header.orientation, header.interval_s) == ("LAS", None)


@pytest.mark.parametrize("dtype", ["u1", "i1", "<i2", ">i2", "u2", "i4", ">u4", "i8", "u8", "f4", ">f4", "f8"])
def test_types_and_byte_orders(tmp_path: Path, dtype: str) -> None:
    array = RNG.integers(0, 100, (3, 4, 2)).astype(dtype)
    order = ">" if dtype.startswith(">") else "<"
    header = nibabel.Nifti1Header(endianness=order)
    header.set_data_dtype(array.dtype)
    path = write(tmp_path / "a.nii", nibabel.Nifti1Image(array, OBLIQUE, header))
    np.testing.assert_array_equal(read_pixels(path).pixels[:, 0], array.T)
    np.testing.assert_array_equal(read_mask(path).labels, array.T)
    assert read_header(path).dtype == array.dtype.name


def test_scaling(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    scaled = write(tmp_path / "a.nii.gz", image(array), scl_slope=2.5, scl_inter=-1024)
    np.testing.assert_array_equal(read_pixels(scaled).pixels[:, 0], array.T * 2.5 - 1024)
    np.testing.assert_array_equal(read_pixels(scaled).pixels[:, 0], nibabel.load(scaled).get_fdata().T)  # type: ignore[attr-defined]
    for none in ((0, 7), (np.nan, 7), (np.inf, np.nan)):
        path = write(tmp_path / "b.nii", image(array), scl_slope=none[0], scl_inter=none[1])
        np.testing.assert_array_equal(read_pixels(path).pixels[:, 0], array.T)
    broken = write(tmp_path / "c.nii", image(array), scl_slope=2, scl_inter=np.nan)
    assert refusal(broken) == refusal(broken, read_header) == "the scaling in its header is damaged"
    beyond = write(tmp_path / "d.nii", image(array.astype(np.float64) * 1e300))
    assert refusal(beyond) == "its voxels are not all finite numbers"


def test_sform_goes_before_qform(tmp_path: Path) -> None:
    written = image(np.zeros((2, 3, 4), np.uint8))
    scanner = np.diag([1.0, 2.0, 3.0, 1.0])
    written.header.set_qform(scanner, code=1)
    both = read_header(write(tmp_path / "a.nii", written))
    assert both.affine is not None
    np.testing.assert_allclose(both.affine, OBLIQUE, rtol=1e-6)
    one = read_header(write(tmp_path / "b.nii", written, sform_code=0))
    assert one.affine is not None
    np.testing.assert_allclose(one.affine, scanner)
    assert (one.orientation, one.spacing) == ("RAS", (3.0, 2.0, 1.0))


def test_without_an_orientation_there_is_no_affine(tmp_path: Path) -> None:
    written = image(np.zeros((2, 3, 4), np.uint8), np.diag([1.0, 2.0, 3.0, 1.0]))
    path = write(tmp_path / "a.nii", written, sform_code=0, qform_code=0)
    header = read_header(path)
    assert (header.affine, header.orientation, header.spacing) == (None, "", (3.0, 2.0, 1.0))
    volume = read_pixels(path)
    assert (volume.affine, volume.pixel_mm) == (None, (2.0, 1.0))
    path = write(tmp_path / "a.nii", written, sform_code=0, qform_code=0, pixdim=[1, 0, 2, 3, 0, 0, 0, 0])
    assert read_header(path).spacing is None


def test_other_units_become_millimetres_and_seconds(tmp_path: Path) -> None:
    series = image(np.zeros((2, 3, 4, 5), np.uint8), np.diag([1000.0, 2000.0, 3000.0, 1.0]))
    microns = {"xyzt_units": 3 + 16, "pixdim": [1, 1000, 2000, 3000, 1500, 0, 0, 0]}
    header = read_header(write(tmp_path / "a.nii", series, **microns))
    assert (header.spacing, header.interval_s, header.times) == ((3.0, 2.0, 1.0), 1.5, 5)
    assert read_header(write(tmp_path / "a.nii", series, xyzt_units=1)).spacing == (3e6, 2e6, 1e6)
    assert read_header(write(tmp_path / "a.nii", series, xyzt_units=7)).spacing == (3000, 2000, 1000)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_a_series_is_read_volume_by_volume(tmp_path: Path, name: str) -> None:
    array = RNG.integers(0, 1000, (2, 3, 4, 5)).astype(np.int16)
    path = write(tmp_path / name, image(array))
    for time in range(5):
        np.testing.assert_array_equal(read_pixels(path, time=time).pixels[:, 0], array[..., time].T)
    np.testing.assert_array_equal(read_pixels(path).pixels, read_pixels(path, time=0).pixels)
    for time in (-1, 5):
        assert refusal(path, lambda path: read_pixels(path, time=time)) == (  # noqa: B023 - it is called at once
            f"it has 5 volumes in time, and none at {time}"
        )
    assert refusal(path, read_mask) == "it is a series in time, so it is no label map"


@pytest.mark.parametrize("shape", [(4,), (4, 5), (4, 5, 6, 1, 1)])
def test_fewer_and_idle_dimensions(tmp_path: Path, shape: tuple[int, ...]) -> None:
    array = RNG.integers(0, 9, shape).astype(np.uint8)
    path = write(tmp_path / "a.nii", image(array))
    columns, rows, frames, *_ = (*shape, 1, 1)
    np.testing.assert_array_equal(read_pixels(path).pixels, array.T.reshape(frames, 1, rows, columns))


def test_labels_are_kept_exactly(tmp_path: Path) -> None:
    labels = np.array([[[0, 1, 2], [16_777_217, 2**31 - 1, -(2**31)]]])
    for dtype in (np.int32, np.int64, np.float64):
        mask = read_mask(write(tmp_path / "a.nii.gz", image(labels.astype(dtype))))
        assert mask.labels.dtype == np.int32
        np.testing.assert_array_equal(mask.labels, labels.T)
        assert mask.affine is not None
    percent = write(tmp_path / "b.nii", image(np.array([[[0, 50, 100]]], np.uint8)), scl_slope=0.02, scl_inter=0)
    np.testing.assert_array_equal(read_mask(percent).labels.ravel(), [0, 1, 2])
    percent = write(tmp_path / "b.nii", image(np.array([[[0, 51, 100]]], np.uint8)), scl_slope=0.02, scl_inter=0)
    assert refusal(percent, read_mask) == "its voxels are not whole numbers of 32 bits, so it is no label map"
    packed = nibabel.Nifti1Image(np.array([[[0.0, 1, 2, 7]]]), OBLIQUE, dtype=np.int16)
    path = write(tmp_path / "c.nii", packed)
    assert not (read_pixels(path).pixels % 1 == 0).all(), "nibabel scales floats to the whole of 16 bits"
    np.testing.assert_array_equal(read_mask(path).labels.ravel(), [0, 1, 2, 7])


@pytest.mark.parametrize(
    "values", [[0.5, 1], [np.nan, 1], [np.inf, 1], [2.0**31, 1], [-(2.0**31) - 1, 1]], ids=lambda values: str(values[0])
)
def test_what_is_no_label_map(tmp_path: Path, values: list[float]) -> None:
    path = write(tmp_path / "a.nii", image(np.array([[values]])))
    assert refusal(path, read_mask) == "its voxels are not whole numbers of 32 bits, so it is no label map"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_not_finite(tmp_path: Path, value: float) -> None:
    array = np.zeros((2, 3, 4), np.float32)
    array[1, 2, 3] = value
    assert refusal(write(tmp_path / "a.nii", image(array))) == "its voxels are not all finite numbers"


def test_texts_of_a_header_are_not_taken(tmp_path: Path, every_log: pytest.LogCaptureFixture) -> None:
    written = image(np.zeros((2, 3, 4), np.uint8))
    for field in ("descrip", "db_name", "intent_name", "aux_file"):
        written.header[field] = "JANE DOE"
    written.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"JANE DOE" * 100))
    path = write(tmp_path / "a.nii", written)
    assert b"JANE" in path.read_bytes()
    assert "JANE" not in repr(read_header(path))
    assert read_pixels(path).pixels.shape == (4, 1, 3, 2)
    assert not every_log.records


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({"dim": [0, 2, 3, 4, 1, 1, 1, 1]}, "the size in its header is damaged"),
        ({"dim": [8, 2, 3, 4, 1, 1, 1, 1]}, "the size in its header is damaged"),
        ({"dim": [3, -1, 1, 1, 1, 1, 1, 1], "glmin": 27307}, "the size in its header is damaged"),  # FreeSurfer's way
        ({"dim": [5, 2, 3, 4, 1, 3, 1, 1]}, "it has more dimensions than space and time"),
        ({"dim": [3, 2, 3, 5, 1, 1, 1, 1]}, "the voxels end early"),
        ({"dim": [3, 32000, 32000, 32000, 1, 1, 1, 1]}, "1 volumes of 32000 x 32000 x 32000 voxels are more than can"),
        ({"dim": [4, 800, 800, 800, 32000, 1, 1, 1]}, "32000 volumes of 800 x 800 x 800 voxels are more than can be"),
        ({"datatype": 9999}, "the type of its voxels is unknown"),
        ({"datatype": 128}, "its voxels are neither whole numbers nor floats"),
        ({"datatype": 32}, "its voxels are neither whole numbers nor floats"),
        ({"datatype": 1}, "its voxels are neither whole numbers nor floats"),
        ({"datatype": 0}, "its voxels are neither whole numbers nor floats"),
        ({"vox_offset": 0}, "its header does not say where the voxels begin"),
        ({"vox_offset": 352.5}, "its header does not say where the voxels begin"),
        ({"vox_offset": np.nan}, "its header does not say where the voxels begin"),
        ({"vox_offset": 1e12}, "its header does not say where the voxels begin"),
        ({"vox_offset": 353}, "the voxels end early"),
        ({"srow_x": [np.nan, 0, 0, 0]}, "the orientation in its header is damaged"),
        ({"srow_y": np.frombuffer(bytes.fromhex("0000a07f") * 4, "<f4")}, "the orientation in its header is damaged"),
        ({"srow_x": [0, 0, 0, 0]}, "the orientation in its header is damaged"),
        ({"srow_x": [0, 1, 0, 0], "srow_y": [0, 1, 0, 0]}, "the orientation in its header is damaged"),
        ({"sform_code": 0, "qform_code": 1, "quatern_b": 7}, "the orientation in its header is damaged"),
        ({"sform_code": 0, "qform_code": 1, "pixdim": [1, np.nan, 1, 1, 0, 0, 0, 0]}, "the orientation in its header"),
    ],
)
def test_headers_that_promise_what_is_not_there(tmp_path: Path, header: dict[str, Any], words: str) -> None:
    path = write(tmp_path / "JANE^DOE.nii", image(np.zeros((2, 3, 4), np.uint8)), **header)
    assert refusal(path, read_header).startswith(words)
    assert refusal(path) == refusal(path, read_header) == refusal(path, read_mask)


def test_what_is_no_nifti(tmp_path: Path) -> None:
    path = tmp_path / "a.nii"
    for data, words in (
        (b"", "the file is empty"),
        (b"x" * 600, "it is not NIfTI"),
        (b"\x5c\x01\0\0", "it is not NIfTI"),
        (gzip.compress(b"hello"), "it is not NIfTI"),
        (gzip.compress(b"hello")[:-3], "its gzip stream is damaged or ends early"),
        (b"\x1f\x8bnonsense", "its gzip stream is damaged or ends early"),
    ):
        path.write_bytes(data)
        assert refusal(path) == refusal(path, read_header) == words
    assert refusal(tmp_path / "gone") == "the file system refuses it: No such file or directory"
    assert refusal(tmp_path) == "the file system refuses it: Is a directory"


def test_pairs_are_told_what_to_do(tmp_path: Path) -> None:
    pair = nibabel.Nifti1Pair(np.zeros((2, 3, 4), np.uint8), OBLIQUE)
    nibabel.save(pair, tmp_path / "a.hdr")
    assert refusal(tmp_path / "a.hdr", read_header).startswith("it is the header of a pair; save")
    analyze = nibabel.AnalyzeImage(np.zeros((2, 3, 4), np.uint8), None)
    nibabel.save(analyze, tmp_path / "b.hdr")
    assert refusal(tmp_path / "b.hdr", read_header).startswith("it is ANALYZE, which does not say left from right")


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_a_file_cut_anywhere_is_told_from_a_whole_one(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, image(RNG.integers(0, 255, (4, 5, 6)).astype(np.uint8)))
    data = path.read_bytes()
    for size in range(1, len(data)):
        path.write_bytes(data[:size])
        assert refusal(path) in {
            "it is not NIfTI",
            "the voxels end early",
            "its gzip stream is damaged or ends early",
        }, size


def test_a_changed_voxel_in_a_gzip_stream_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nii.gz", image(RNG.integers(0, 255, (4, 5, 6)).astype(np.uint8)))
    data = bytearray(path.read_bytes())
    data[-8] ^= 1  # the checksum
    path.write_bytes(data)
    assert refusal(path) == "its gzip stream is damaged or ends early"


def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = image(np.zeros((2, 3, 4), np.uint8)).to_bytes()
    longer, path = gzip.compress(written + b"\0" * 10**7), tmp_path / "a.nii.gz"
    path.write_bytes(longer)
    assert read_header(path).columns == 2
    assert refusal(path) == "it inflates to more than its header promises"
    path.write_bytes(gzip.compress(written + b"\0" * 1000))
    assert read_pixels(path).pixels.shape == (4, 1, 3, 2)
    monkeypatch.setattr(nifti_file, "MAX_VALUES", 23)
    assert refusal(path, read_header).startswith("1 volumes of 2 x 3 x 4 voxels are more than")


def test_absurd_sizes_cost_no_memory(tmp_path: Path) -> None:
    written = image(np.zeros((2, 3, 4), np.uint8))
    tracemalloc.start()
    for name in ("a.nii", "a.nii.gz"):
        path = write(tmp_path / name, written, dim=[3, 700, 700, 1000, 1, 1, 1, 1])
        for read in (read_header, read_pixels, read_mask):
            assert refusal(path, read) == "the voxels end early"
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20 * 2**20


def files() -> tuple[bytes, ...]:
    """Small files of either kind, whole numbers and floats, alone and in a series."""
    small = RNG.integers(0, 200, (3, 4, 5)).astype(np.int16)
    images = (image(small), image(small.astype(np.float32), kind=nibabel.Nifti2Image), image(np.stack([small] * 3, -1)))
    plain = [one.to_bytes() for one in images]
    return (*plain, *(gzip.compress(data, mtime=0) for data in plain))


FILES = files()


@pytest.mark.long
@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_gives_an_answer_or_a_reason(
    tmp_path: Path, damaged: Callable[[tuple[bytes, ...]], st.SearchStrategy[bytes]], data: st.DataObject
) -> None:
    path = tmp_path / "a.nii"
    path.write_bytes(data.draw(damaged(FILES)))
    for read in (read_header, read_pixels, read_mask):
        with suppress(UnreadableFile):
            read(path)


@pytest.mark.parametrize("huge", [1e200, 1e307, 2e9])
def test_voxels_of_no_size_that_there_is_are_damage(tmp_path: Path, huge: float) -> None:
    written = image(np.zeros((2, 3, 4), np.uint8), kind=nibabel.Nifti2Image)
    path = write(tmp_path / "a.nii", written, srow_x=[huge, 0, 0, 0])
    for read in (read_header, read_pixels, read_mask):
        assert refusal(path, read) == "the orientation in its header is damaged"


def test_nibabel_stays_quiet(tmp_path: Path, every_log: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "a.nii", image(np.zeros((2, 3, 4), np.uint8)), bitpix=77, pixdim=[9, -1, 0, 2, 0, 0, 0, 0])
    assert read_pixels(path).pixels.shape == (4, 1, 3, 2)
    assert logging.getLogger("nibabel").level == logging.NOTSET
    assert not every_log.records
