"""Headers and pixels of real DICOM files, good and bad."""

import logging
import struct
import zlib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import config, dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    ComprehensiveSRStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from fedward_client.intake import part10
from fedward_client.intake.dicom import Header, read_header, read_volume
from fedward_client.volume import Pixels
from fedward_common.errors import UnreadableFile

Write = Callable[..., Path]
RAMP = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5


def read_pixels(path: Path, *, voi: bool | None = None) -> Pixels:
    return read_volume(path, voi=voi).pixels


def bundled(name: str) -> Path:
    """A file that comes with pydicom."""
    path = get_testdata_file(name, download=False)
    assert isinstance(path, str), name
    return Path(path)


def header_of(path: Path) -> Header:
    header = read_header(path)
    assert isinstance(header, Header), header
    return header


def refusal(path: Path) -> str:
    """Why a file is refused: in words, by header and pixels alike."""
    with pytest.raises(UnreadableFile) as caught:
        read_header(path)
    message = str(caught.value)
    assert str(path.parent) not in message
    assert "JANE" not in message
    return message


def test_header_of_an_image(tmp_path: Path, write_dicom: Write) -> None:
    path = write_dicom(
        tmp_path / "a", patient_id=" 007 ", array=RAMP, SOPInstanceUID="1.2.3", Manufacturer="A\tB\r\n C"
    )
    header = header_of(path)
    assert isinstance(header, Header)
    expected = {
        "patient_id": "007",
        "instance_uid": "1.2.3",
        "modality": "US",
        "rows": 6,
        "columns": 8,
        "frames": 1,
        "channels": 1,
        "manufacturer": "A B C",
        "device": "Sono 1",
        "transfer_syntax": "Explicit VR Little Endian",
    }
    assert asdict(header).items() >= expected.items()
    assert "007" not in repr(header)
    assert "1.2.3" not in repr(header)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16])
@pytest.mark.parametrize("shape", [(6, 8), (3, 6, 8), (6, 8, 3), (5, 7)])
def test_stored_values_come_back(
    tmp_path: Path, write_dicom: Write, syntax: str, dtype: type[np.integer[Any]], shape: tuple[int, ...]
) -> None:
    limits = np.iinfo(dtype)
    array = np.random.default_rng(1).integers(limits.min, limits.max, shape, dtype, endpoint=True)
    path = write_dicom(tmp_path / "a", patient_id="A", array=array, syntax=syntax)
    pixels = read_pixels(path)
    header = header_of(path)
    assert pixels.dtype == np.float32
    assert pixels.shape == (header.frames, header.channels, header.rows, header.columns)
    expected = np.moveaxis(array, -1, 0)[None] if shape[-1] == 3 else array.reshape(-1, 1, *shape[-2:])
    np.testing.assert_array_equal(pixels, expected)


def test_twelve_bits_in_sixteen(tmp_path: Path, write_dicom: Write) -> None:
    array = np.arange(-2048, 2048, 64, dtype=np.int16).reshape(8, 8)
    stored = (array & 0x0FFF).astype(np.uint16)  # as devices write it: the sign is bit 11, the high bits are not used
    path = write_dicom(tmp_path / "a", patient_id="A", array=stored, BitsStored=12, HighBit=11, PixelRepresentation=1)
    np.testing.assert_array_equal(read_pixels(path)[0, 0], array)


def test_one_bit(tmp_path: Path, write_dicom: Write) -> None:
    bits = np.random.default_rng(1).integers(0, 2, (2, 5, 7), np.uint8)
    packed = np.packbits(bits.reshape(-1), bitorder="little").tobytes()
    tags = {"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0, "PixelData": packed + b"\0" * (len(packed) % 2)}
    path = write_dicom(tmp_path / "a", patient_id="A", array=bits, **tags)
    np.testing.assert_array_equal(read_pixels(path)[:, 0], bits)


def test_big_endian() -> None:
    pixels = read_pixels(bundled("MR_small_bigendian.dcm"))
    np.testing.assert_array_equal(pixels, read_pixels(bundled("MR_small.dcm")))
    assert header_of(bundled("MR_small_bigendian.dcm")).transfer_syntax == ExplicitVRBigEndian.name


@pytest.mark.parametrize(
    "name",
    [
        "MR_small_RLE.dcm",
        "MR_small_jp2klossless.dcm",
        "MR_small_jpeg_ls_lossless.dcm",
        "MR_small_padded.dcm",
        "MR_small_expb.dcm",
    ],
)
def test_lossless_compression_gives_the_same_pixels(name: str) -> None:
    np.testing.assert_array_equal(read_pixels(bundled(name)), read_pixels(bundled("MR_small.dcm")))


def test_jpeg_baseline_color_is_rgb() -> None:
    path = bundled("SC_rgb_jpeg_dcmtk.dcm")
    dataset = dcmread(path)
    assert dataset.PhotometricInterpretation == "YBR_FULL"
    pixels = read_pixels(path)
    np.testing.assert_array_equal(pixels[0], np.moveaxis(dataset.pixel_array, -1, 0))
    assert (pixels[0, 0, 5] > pixels[0, 1, 5] + 100).all(), "the picture begins with a red bar"


def test_jpeg_extended_of_twelve_bits() -> None:
    pixels = read_pixels(bundled("JPEG-lossy.dcm"))[0, 0]
    assert (pixels[420, 140], pixels[230, 120]) == (244, 95)  # pydicom's own reference values for this file
    assert pixels.max() > 255


def test_no_preamble_and_no_meta(tmp_path: Path, make_dicom: Callable[..., Dataset]) -> None:
    for implicit, little in ((True, True), (False, True), (False, False)):
        array = RAMP.astype(np.uint16 if little else ">u2")
        dataset = make_dicom(patient_id="A", array=RAMP.astype(np.uint16), PixelData=array.tobytes())
        dataset.file_meta = FileMetaDataset()
        path = tmp_path / f"{implicit}{little}"
        dataset.save_as(path, implicit_vr=implicit, little_endian=little, enforce_file_format=False)
        assert path.read_bytes()[128:132] != b"DICM"
        np.testing.assert_array_equal(read_pixels(path)[0, 0], RAMP)
        assert header_of(path).patient_id == "A"


def test_ct_is_in_hounsfield_units_whatever_its_window(tmp_path: Path, write_dicom: Write) -> None:
    stored = np.arange(0, 4000, 50, dtype=np.uint16).reshape(8, 10)
    tags = {
        "Modality": "CT",
        "RescaleSlope": "2",
        "RescaleIntercept": "-1024",
        "WindowCenter": "40",
        "WindowWidth": "400",
    }
    path = write_dicom(tmp_path / "a", patient_id="A", array=stored, PhotometricInterpretation="MONOCHROME1", **tags)
    np.testing.assert_array_equal(read_pixels(path)[0, 0], stored * 2.0 - 1024)
    shown = read_pixels(path, voi=True)[0, 0]
    assert (shown.min(), shown.max()) == (0, 1)
    assert shown[0, 0] == 1, "MONOCHROME1 is turned where the image is shown"


def test_without_voi_nothing_is_windowed_or_turned(tmp_path: Path, write_dicom: Write) -> None:
    tags = {"WindowCenter": "100", "WindowWidth": "20", "PhotometricInterpretation": "MONOCHROME1"}
    path = write_dicom(tmp_path / "a", patient_id="A", array=RAMP, **tags)
    np.testing.assert_array_equal(read_pixels(path, voi=False)[0, 0], RAMP)


def test_monochrome1_is_turned_in_its_own_range(tmp_path: Path, write_dicom: Write) -> None:
    path = write_dicom(tmp_path / "a", patient_id="A", array=RAMP + 7, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_array_equal(read_pixels(path)[0, 0], (RAMP + 7)[::-1, ::-1])


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("center", "width"), [(100, 60), (0.5, 1), (128, 256), (1000, 10)])
def test_windows_are_those_of_the_standard(
    tmp_path: Path, write_dicom: Write, function: str, center: float, width: float
) -> None:
    stored = np.arange(240, dtype=np.uint8).reshape(12, 20)
    tags: dict[str, Any] = {"WindowCenter": [str(center), "9"], "WindowWidth": [str(width), "9"]}
    path = write_dicom(tmp_path / "a", patient_id="A", array=stored, VOILUTFunction=function, **tags)
    oracle = apply_voi_lut(stored, dcmread(path)) / 255  # pydicom gives 0 to 2^BitsStored - 1
    np.testing.assert_allclose(read_pixels(path)[0, 0], oracle, atol=1e-6)


@pytest.mark.parametrize(
    "tags",
    [
        {"WindowCenter": "3", "WindowWidth": "0"},
        {"WindowCenter": "3", "WindowWidth": "-5", "VOILUTFunction": "SIGMOID"},
        {"WindowCenter": "3", "WindowWidth": "9", "VOILUTFunction": "CUBIC"},
        {"WindowCenter": "", "WindowWidth": ""},
        {"WindowWidth": "9"},
        {"RescaleSlope": "2"},
    ],
)
def test_a_transform_that_is_none_changes_nothing(tmp_path: Path, write_dicom: Write, tags: dict[str, str]) -> None:
    path = write_dicom(tmp_path / "a", patient_id="A", array=RAMP, **tags)
    np.testing.assert_array_equal(read_pixels(path)[0, 0], RAMP)


def lut(first: int, entries: list[int], bits: int, *, vr: str = "US") -> Sequence:
    item = Dataset()
    item.add_new("LUTDescriptor", "US" if first >= 0 else "SS", [len(entries), first, bits])
    item.add_new("LUTData", vr, entries if vr == "US" else struct.pack(f"<{len(entries)}H", *entries))
    item.ModalityLUTType = "US"
    return Sequence([item])


@pytest.mark.parametrize("vr", ["US", "OW"])
@pytest.mark.parametrize("first", [0, 40])
def test_luts_are_those_of_the_standard(tmp_path: Path, write_dicom: Write, vr: str, first: int) -> None:
    modality = lut(first, [1000 - 4 * index for index in range(100)], 16, vr=vr)
    voi = lut(600, [index * 5 for index in range(300)], 12, vr=vr)
    path = write_dicom(tmp_path / "a", patient_id="A", array=RAMP, ModalityLUTSequence=modality)
    dataset = dcmread(path)
    np.testing.assert_array_equal(read_pixels(path)[0, 0], apply_modality_lut(RAMP, dataset))
    path = write_dicom(
        tmp_path / "a", patient_id="A", array=RAMP, ModalityLUTSequence=modality, VOILUTSequence=voi, WindowCenter="1"
    )
    dataset = dcmread(path)
    oracle = apply_voi_lut(apply_modality_lut(RAMP, dataset), dataset) / (2**12 - 1)
    np.testing.assert_allclose(read_pixels(path)[0, 0], oracle, atol=1e-6)


def test_a_lut_of_signed_pixels_may_begin_below_zero(tmp_path: Path, write_dicom: Write) -> None:
    array = np.arange(-24, 24, dtype=np.int16).reshape(6, 8)
    path = write_dicom(tmp_path / "a", patient_id="A", array=array, ModalityLUTSequence=lut(-24, list(range(48)), 16))
    np.testing.assert_array_equal(read_pixels(path)[0, 0], array + 24)


@pytest.mark.parametrize(
    "sequence", [lut(0, [1], 0), lut(0, [1], 99), Sequence([Dataset()])], ids=["0 bits", "99 bits", "empty item"]
)
def test_a_broken_lut_is_named(tmp_path: Path, write_dicom: Write, sequence: Sequence) -> None:
    path = write_dicom(tmp_path / "a", patient_id="A", array=RAMP, VOILUTSequence=sequence)
    with pytest.raises(UnreadableFile, match=r"its attribute LUT (Data|Descriptor) cannot be read"):
        read_pixels(path)


@pytest.mark.parametrize(("padding", "limit"), [(-2000, None), (63536, None), (-2000, -1990), (-1990, -2000)])
def test_padding_takes_the_least_value(tmp_path: Path, write_dicom: Write, padding: int, limit: int | None) -> None:
    array = np.arange(100, 148, dtype=np.int16).reshape(6, 8)
    array[0, :4] = -2000
    array[0, 4] = -2000 if limit is None else -1995
    dataset: dict[str, Any] = {"RescaleSlope": "1", "RescaleIntercept": "-50"}
    path = write_dicom(tmp_path / "a", patient_id="A", array=array, **dataset)
    read = dcmread(path)
    read.add_new("PixelPaddingValue", "SS" if padding < 0 else "US", padding)
    if limit is not None:
        read.add_new("PixelPaddingRangeLimit", "SS", limit)
    read.save_as(path)
    expected = array.astype(float) - 50
    expected[0, :5] = expected[0, 5]
    np.testing.assert_array_equal(read_pixels(path)[0, 0], expected)


def test_an_image_of_padding_alone_is_left_as_it_is(tmp_path: Path, write_dicom: Write) -> None:
    array = np.full((4, 4), 9, np.uint8)
    path = write_dicom(tmp_path / "a", patient_id="A", array=array, PixelPaddingValue=9)
    np.testing.assert_array_equal(read_pixels(path)[0, 0], array)


def test_padding_stays_dark_in_monochrome1(tmp_path: Path, write_dicom: Write) -> None:
    array = RAMP + 10
    array[0, 0] = 255
    tags = {"PixelPaddingValue": 255, "PhotometricInterpretation": "MONOCHROME1"}
    pixels = read_pixels(write_dicom(tmp_path / "a", patient_id="A", array=array, **tags))[0, 0]
    assert pixels[0, 0] == pixels.min() == 15
    assert pixels[0, 1] == pixels.max()


def transform(slope: float, center: float) -> Dataset:
    values, window, group = Dataset(), Dataset(), Dataset()
    values.RescaleSlope, values.RescaleIntercept, values.RescaleType = str(slope), "1", "US"
    window.WindowCenter, window.WindowWidth = str(center), "100"
    group.PixelValueTransformationSequence = Sequence([values])
    group.FrameVOILUTSequence = Sequence([window])
    return group


def test_enhanced_objects_have_transforms_of_their_frames(tmp_path: Path, write_dicom: Write) -> None:
    array = np.stack([RAMP] * 3)
    own = [transform(2, 100), Dataset(), transform(4, 200)]
    tags = {
        "SharedFunctionalGroupsSequence": Sequence([transform(3, 150)]),
        "PerFrameFunctionalGroupsSequence": Sequence(own),
    }
    path = write_dicom(tmp_path / "a", patient_id="A", array=array, RescaleSlope="9", RescaleIntercept="9", **tags)
    values = read_pixels(path, voi=False)[:, 0]
    np.testing.assert_array_equal(values, [RAMP * float(slope) + 1 for slope in (2, 3, 4)])
    shown = read_pixels(path)[:, 0]
    for frame, center in enumerate((100, 150, 200)):
        oracle = np.clip((values[frame] - (center - 0.5)) / 99 + 0.5, 0, 1)
        np.testing.assert_allclose(shown[frame], oracle, atol=1e-6)


def test_palette_becomes_rgb(tmp_path: Path, write_dicom: Write) -> None:
    table = np.random.default_rng(1).integers(0, 255, (3, 256), np.uint8)
    tags: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for color, entries in zip(("Red", "Green", "Blue"), table, strict=True):
        tags[f"{color}PaletteColorLookupTableDescriptor"] = [256, 0, 8]
        tags[f"{color}PaletteColorLookupTableData"] = entries.tobytes()
    path = write_dicom(tmp_path / "a", patient_id="A", array=RAMP, **tags)
    assert header_of(path).channels == 3
    np.testing.assert_array_equal(read_pixels(path)[0], table[:, RAMP])


def test_uncompressed_ybr_becomes_rgb(tmp_path: Path, write_dicom: Write) -> None:
    ybr = np.zeros((4, 4, 3), np.uint8)
    ybr[...] = (76, 85, 255)  # red, by PS3.3 C.7.6.3.1.2
    path = write_dicom(tmp_path / "a", patient_id="A", array=ybr, PhotometricInterpretation="YBR_FULL")
    np.testing.assert_allclose(read_pixels(path)[0, :, 0, 0], [255, 0, 0], atol=2)


@pytest.mark.parametrize("size", [0, 1, 100, 131])
def test_files_too_short_to_be_dicom(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x" * size)
    if size == 0:
        assert refusal(path) == "the file is empty"
    else:
        assert read_header(path) == "not DICOM"
        with pytest.raises(UnreadableFile, match="not DICOM"):
            read_pixels(path)


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({"PatientID": None}, "no patient id"),
        ({"PatientID": ""}, "no patient id"),
        ({"PatientID": "  "}, "no patient id"),
        ({"Rows": None}, "no rows"),
        ({"Columns": None}, "no columns"),
        ({"Rows": 0}, "no rows"),
        ({"Rows": 7}, "the pixel data ends early"),
        ({"NumberOfFrames": "2"}, "the pixel data ends early"),
        ({"BitsAllocated": 16}, "the pixel data ends early"),
        ({"BitsAllocated": None}, "no bitsallocated"),
        ({"Rows": 60_000, "Columns": 60_000}, "1 frames of 60000 x 60000 pixels are more than can be read at once"),
        ({"PhotometricInterpretation": None}, "photometric interpretation is missing"),
        ({"PhotometricInterpretation": "JANE DOE"}, "photometric interpretation is missing or not one"),
        ({"SamplesPerPixel": 3}, "3 samples per pixel do not go with photometric interpretation MONOCHROME2"),
        ({"PixelData": None}, "the file ends before the pixel data"),
        ({"PixelData": b""}, "the pixel data ends early"),
    ],
)
def test_images_that_cannot_be_used(tmp_path: Path, write_dicom: Write, tags: dict[str, Any], words: str) -> None:
    assert words in refusal(write_dicom(tmp_path / "JANE^DOE.dcm", patient_id="JANE^DOE", array=RAMP, **tags))


def patched(path: Path, old: bytes, new: bytes) -> Path:
    data = path.read_bytes()
    assert data.count(old) == 1
    path.write_bytes(data.replace(old, new))
    return path


def test_values_of_a_wrong_kind(tmp_path: Path, write_dicom: Write) -> None:
    rows = b"\x28\x00\x10\x00US\x02\x00\x06\x00"
    path = patched(write_dicom(tmp_path / "a", patient_id="A", array=RAMP), rows, b"\x28\x00\x10\x00LO\x02\x00AB")
    assert refusal(path) == "its attribute Rows cannot be read"
    path = patched(write_dicom(tmp_path / "b", patient_id="A", array=RAMP), rows, b"\x28\x00\x10\x00FD\x02\x00AB")
    assert refusal(path) == "its attribute Rows cannot be read"
    path = write_dicom(tmp_path / "c", patient_id="A", array=np.stack([RAMP] * 2), NumberOfFrames="10")
    assert refusal(patched(path, b"IS\x02\x0010", b"IS\x02\x001A")) == "its attribute Number of Frames cannot be read"


def test_a_file_cut_anywhere_is_told_from_a_whole_one(tmp_path: Path, write_dicom: Write) -> None:
    path = write_dicom(tmp_path / "a", patient_id="A", array=RAMP)
    data = path.read_bytes()
    end_of_meta = data.index(b"\x08\x00\x16\x00UI")
    for size in range(end_of_meta + 40, len(data)):
        path.write_bytes(data[:size])
        assert refusal(path).startswith(("the file ends", "the pixel data ends", "its header is damaged")), size


def test_a_cut_compressed_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(bundled("MR_small_RLE.dcm").read_bytes()[:-2000])
    assert refusal(path) == "the pixel data ends early"


def test_absurd_sizes_cost_no_memory(tmp_path: Path, write_dicom: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_dicom(tmp_path / "a", patient_id="A", array=RAMP, Rows=20_000, Columns=20_000)
    monkeypatch.setattr(np, "empty", pytest.fail)  # what holds decoded pixels must not be asked for
    assert refusal(path) == "the pixel data ends early"
    with pytest.raises(UnreadableFile, match="ends early"):
        read_pixels(path)


def test_a_deflated_bomb_is_measured_first(tmp_path: Path, write_dicom: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part10, "MAX_INFLATED", 10**6)
    path = write_dicom(
        tmp_path / "a", patient_id="A", array=np.zeros((1001, 1000), np.uint8), syntax=DeflatedExplicitVRLittleEndian
    )
    assert path.stat().st_size < 10_000
    assert refusal(path) == "it inflates to more than 1000000 bytes"
    with pytest.raises(UnreadableFile, match="inflates"):
        read_pixels(path)


def test_a_damaged_deflated_file(tmp_path: Path, write_dicom: Write) -> None:
    path = write_dicom(tmp_path / "a", patient_id="A", array=RAMP, syntax=DeflatedExplicitVRLittleEndian)
    data = path.read_bytes()
    start = 132 + 12 + int.from_bytes(data[140:144], "little")  # the meta information's own length
    path.write_bytes(data[:start] + b"\xff" * 20 + data[start + 20 :])
    with pytest.raises(zlib.error):
        dcmread(path)
    assert refusal(path) == "its header is damaged"


@pytest.mark.parametrize(
    ("syntax", "words"),
    [
        ("1.2.840.10008.1.2.4.100", "transfer syntax MPEG2 Main Profile / Main Level is not supported"),
        ("1.2.826.0.1.3680043.9.9", "its transfer syntax is private or unknown"),
    ],
)
def test_unsupported_transfer_syntaxes_are_named(
    tmp_path: Path, make_dicom: Callable[..., Dataset], syntax: str, words: str
) -> None:
    path = tmp_path / "a"
    dataset = make_dicom(patient_id="A", array=RAMP, PixelData=encapsulate([b"no picture"]))
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    dataset.save_as(path, implicit_vr=False, little_endian=True, enforce_file_format=False)
    assert refusal(path) == words


def test_compressed_pixels_that_do_not_decode(tmp_path: Path) -> None:
    dataset = dcmread(bundled("MR_small_RLE.dcm"))
    dataset.Rows = 999
    dataset.save_as(tmp_path / "a")
    assert header_of(tmp_path / "a").rows == 999
    with pytest.raises(UnreadableFile, match=r"^its pixels \(RLE Lossless\) do not decode$"):
        read_pixels(tmp_path / "a")


def test_pixels_that_are_not_numbers(tmp_path: Path, write_dicom: Write) -> None:
    array = np.array([[1.0, np.nan], [2.0, np.inf]], np.float32)
    tags = {"PixelData": None, "FloatPixelData": array.tobytes()}
    path = write_dicom(tmp_path / "a", patient_id="A", array=array.view(np.uint32), **tags)
    with pytest.raises(UnreadableFile, match="not all finite"):
        read_pixels(path)


@pytest.mark.parametrize("keyword", ["RescaleSlope", "WindowWidth"])
def test_attributes_of_the_pipeline_that_are_no_numbers(tmp_path: Path, write_dicom: Write, keyword: str) -> None:
    tags = {"RescaleSlope": "1", "RescaleIntercept": "0", "WindowCenter": "1", "WindowWidth": "1", keyword: "7777"}
    path = patched(write_dicom(tmp_path / "a", patient_id="A", array=RAMP, **tags), b"7777", b"JANE")
    with pytest.raises(UnreadableFile, match=r"its attribute .* cannot be read") as caught:
        read_pixels(path)
    assert "JANE" not in str(caught.value)


def test_objects_that_are_no_images(tmp_path: Path, write_dicom: Write) -> None:
    gone = dict.fromkeys(("PixelData", "Rows", "Columns"))
    path = write_dicom(tmp_path / "a", patient_id="A", array=RAMP, SOPClassUID=ComprehensiveSRStorage, **gone)
    assert read_header(path) == "no pixels"
    assert read_header(bundled("rtstruct.dcm")) == "no pixels"  # it has no preamble either
    assert read_header(bundled("DICOMDIR")) == "DICOMDIR"
    assert read_header(bundled("README.txt")) == "not DICOM"


def test_files_that_the_system_refuses(tmp_path: Path) -> None:
    assert refusal(tmp_path / "gone") == "the file system refuses it: No such file or directory"
    assert refusal(tmp_path).startswith("the file system refuses it")


def test_pydicom_stays_quiet_and_keeps_its_settings(
    tmp_path: Path, write_dicom: Write, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_dicom(tmp_path / "a", patient_id="A", array=RAMP, NumberOfFrames="1")
    data = path.read_bytes()
    data += b"\x28\x00"
    path.write_bytes(data.replace(b"UI", b"ui", 1))
    before = (config.settings.reading_validation_mode, logging.getLogger("pydicom").level)
    with caplog.at_level(logging.DEBUG):
        for name in ("MR_truncated.dcm", "badVR.dcm", "JPEG-lossy.dcm"):
            for read in (read_header, read_pixels):
                try:
                    read(bundled(name))
                except UnreadableFile:
                    continue
        read_header(path)
    assert (config.settings.reading_validation_mode, logging.getLogger("pydicom").level) == before
    assert not caplog.records


@st.composite
def damaged(draw: st.DrawFn, files: tuple[bytes, ...]) -> bytes:
    data = bytearray(draw(st.sampled_from(files)))
    for _ in range(draw(st.integers(0, 8))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.one_of(st.just(len(data)), st.integers(0, len(data))))])


FILES = tuple(
    bundled(name).read_bytes()
    for name in ("MR_small.dcm", "MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "rtstruct.dcm", "image_dfl.dcm")
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=damaged(FILES))
def test_damage_gives_an_answer_or_a_reason(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a"
    path.write_bytes(data)
    for read in (read_header, read_pixels):
        try:
            answer: object = read(path)
        except UnreadableFile as error:
            answer = str(error)
        assert answer is not None
