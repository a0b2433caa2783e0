"""Pictures that Pillow writes, and some that it does not; and files that are none."""

import io
import logging
import os
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, PngImagePlugin, TiffImagePlugin

from fedward_client.intake import pictures
from fedward_client.intake.pictures import PictureHeader, read_header, read_pixels
from fedward_common.errors import UnreadableFile

Array = npt.NDArray[Any]
RNG = np.random.default_rng(5)
GREY8 = RNG.integers(0, 256, (5, 7), np.uint8)
GREY16 = RNG.integers(0, 65536, (5, 7)).astype(np.uint16)
COLOR = RNG.integers(0, 256, (5, 7, 3), np.uint8)
ALPHA = RNG.integers(0, 256, (5, 7), np.uint8)
DEEP = "colours of more than 8 bits are not read; save it with 8 bits, or as grey"
DAMAGED = "it is damaged or ends early"


def save(path: Path, picture: Array | Image.Image, kind: str = "PNG", **options: Any) -> Path:
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image.save(path, kind, **options)
    return path


def gray(path: Path) -> Array:
    """The one grey picture in a file, whose header says the same."""
    pixels, header = read_pixels(path).pixels, read_header(path)
    assert pixels.dtype == np.float32
    assert pixels.shape == (1, 1, header.rows, header.columns)
    assert (header.frames, header.channels) == (1, 1)
    array: Array = pixels[0, 0]
    return array


def color(path: Path) -> Array:
    """The one colour picture in a file, [rows, columns, 3]."""
    pixels, header = read_pixels(path).pixels, read_header(path)
    assert pixels.shape == (1, 3, header.rows, header.columns)
    assert (header.channels, header.bits) == (3, 8)
    return np.moveaxis(pixels[0], 0, -1)


def refusal(path: Path, read: Callable[[Path], object] = read_header) -> str:
    with pytest.raises(UnreadableFile) as caught:
        read(path)
    message = str(caught.value)
    assert str(path.parent) not in message
    assert "JANE" not in message
    return message


@pytest.mark.parametrize("name", [b"a.png", b"line\nbreak.png", b"not utf-8 \xff.tif", b"[bold]"])
def test_header_of_a_picture(tmp_path: Path, name: bytes) -> None:
    path = save(tmp_path / os.fsdecode(name), COLOR)
    assert read_header(path) == PictureHeader(rows=5, columns=7, frames=1, channels=3, bits=8, format="PNG")
    np.testing.assert_array_equal(color(path), COLOR)
    assert read_pixels(path).affine is None


@pytest.mark.parametrize(("kind", "name"), [("PNG", "PNG"), ("PPM", "PGM"), ("TIFF", "TIFF")])
def test_grey_of_8_and_16_bits_keeps_its_values(tmp_path: Path, kind: str, name: str) -> None:
    for array, bits in ((GREY8, 8), (GREY16, 16)):
        path = save(tmp_path / "a", array, kind)
        np.testing.assert_array_equal(gray(path), array)
        header = read_header(path)
        assert (header.bits, header.format) == (bits, name)


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"])
@pytest.mark.parametrize("array", [GREY8, GREY16, COLOR], ids=["8", "16", "colour"])
def test_compressed_tiff(tmp_path: Path, compression: str, array: Array) -> None:
    path = save(tmp_path / "a", array, "TIFF", compression=compression)
    np.testing.assert_array_equal((gray if array.ndim == 2 else color)(path), array)


@pytest.mark.parametrize("order", "<>")
def test_tiff_of_signed_16_bits(tmp_path: Path, order: Literal["<", ">"]) -> None:
    array = (GREY16.astype(np.int32) - 32768).astype(np.int16)
    np.testing.assert_array_equal(gray(plain_tiff(tmp_path / "a", array, order=order, sample_format=2)), array)
    assert read_header(tmp_path / "a").bits == 16


def test_tiff_of_32_bits(tmp_path: Path) -> None:
    for array in (GREY16.astype(np.int32) - 40000, GREY16.astype(np.float32) / 7):
        np.testing.assert_array_equal(gray(save(tmp_path / "a", array, "TIFF")), array)
        assert read_header(tmp_path / "a").bits == 32
    not_finite = np.array([[1.0, np.nan]], np.float32)
    assert refusal(save(tmp_path / "a", not_finite, "TIFF"), read_pixels) == "its pixels are not all finite numbers"


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_white_is_zero_is_turned(
    tmp_path: Path, dtype: type[np.unsignedinteger[Any]], order: Literal["<", ">"]
) -> None:
    array = GREY16.astype(dtype)
    path = plain_tiff(tmp_path / "a", array, order=order, photometric=0)
    if order == ">" and dtype == np.uint16:  # Pillow knows no such file
        assert refusal(path) == "it is no PNG, JPEG, PGM or TIFF picture that can be read"
    else:
        np.testing.assert_array_equal(gray(path), np.iinfo(dtype).max - array.astype(int))


def plain_tiff(
    path: Path, array: Array, *, order: Literal["<", ">"] = "<", photometric: int = 1, sample_format: int = 1
) -> Path:
    """A grey TIFF of one strip, which Pillow would not write."""
    data = array.astype(array.dtype.newbyteorder(order)).tobytes()
    rows, columns = array.shape
    short, long = 3, 4
    entries = [
        (256, long, columns),
        (257, long, rows),
        (258, short, array.dtype.itemsize * 8),
        (259, short, 1),
        (262, short, photometric),
        (273, long, 8),
        (277, short, 1),
        (278, long, rows),
        (279, long, len(data)),
        (339, short, sample_format),
    ]
    packed = [
        struct.pack(f"{order}HHI", tag, kind, 1) + struct.pack(f"{order}{'Hxx' if kind == short else 'I'}", value)
        for tag, kind, value in entries
    ]
    head = struct.pack(f"{order}2sHI", b"II" if order == "<" else b"MM", 42, 8 + len(data))
    directory = struct.pack(f"{order}H", len(packed)) + b"".join(packed) + b"\0\0\0\0"
    path.write_bytes(head + data + directory)
    return path


@pytest.mark.parametrize("greatest", [1, 100, 254, 255, 256, 4095, 65534, 65535])
@pytest.mark.parametrize("plain", [False, True])
def test_pgm_keeps_its_values_whatever_its_greatest(tmp_path: Path, greatest: int, plain: bool) -> None:
    array = RNG.integers(0, greatest + 1, (40, 50)).astype(">u2" if greatest > 255 else "u1")
    array[0, :2] = 0, greatest
    data = " ".join(map(str, array.ravel())).encode() if plain else array.tobytes()
    (tmp_path / "a").write_bytes(b"P%d # JANE\n50 40\n%d\n" % (2 if plain else 5, greatest) + data)
    np.testing.assert_array_equal(gray(tmp_path / "a"), array)
    assert read_header(tmp_path / "a").bits == (16 if greatest > 255 else 8)


def test_every_value_of_plain_pgm(tmp_path: Path) -> None:
    """Pillow scales to 255 or 65535 and rounds; the way back is exact for all values that there are."""
    for greatest in (254, 256, 1023, 4095, 32767, 40_001, 65_534):
        values = np.arange(greatest + 1)
        (tmp_path / "a").write_text(f"P2 {len(values)} 1 {greatest}\n{' '.join(map(str, values))}", "ascii")
        np.testing.assert_array_equal(gray(tmp_path / "a")[0], values)


@pytest.mark.parametrize("plain", [False, True])
def test_ppm_keeps_its_values_too(tmp_path: Path, plain: bool) -> None:
    array = COLOR % 100
    data = " ".join(map(str, array.ravel())).encode() if plain else array.tobytes()
    (tmp_path / "a").write_bytes(b"P%d 7 5 99\n" % (3 if plain else 6) + data)
    np.testing.assert_array_equal(color(tmp_path / "a"), array)


def test_values_beyond_the_greatest_are_the_greatest(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"P5 2 1 1000\n" + struct.pack(">2H", 999, 1001))
    np.testing.assert_array_equal(gray(tmp_path / "a"), [[999, 1000]])
    (tmp_path / "a").write_bytes(b"P5 2 2 1000\n" + struct.pack(">2H", 999, 1001))
    assert refusal(tmp_path / "a", read_pixels) == DAMAGED


def test_fewer_bits_become_8(tmp_path: Path) -> None:
    bits = GREY8 > 100
    for kind, options in (("PNG", {}), ("TIFF", {}), ("TIFF", {"compression": "group4"}), ("PPM", {})):
        np.testing.assert_array_equal(gray(save(tmp_path / "a", bits, kind, **options)), bits * 255)
        assert read_header(tmp_path / "a").bits == 8


def test_jpeg(tmp_path: Path) -> None:
    smooth = np.add.outer(np.arange(64), np.arange(48)).astype(np.uint8)
    np.testing.assert_allclose(gray(save(tmp_path / "a", smooth, "JPEG", quality=100)), smooth, atol=3)
    red = np.full((16, 16, 3), (200, 20, 20), np.uint8)
    np.testing.assert_allclose(color(save(tmp_path / "b", red, "JPEG", quality=100)), red, atol=3)
    progressive = save(tmp_path / "c", smooth, "JPEG", quality=100, progressive=True)
    np.testing.assert_array_equal(gray(progressive), gray(tmp_path / "a"))


def test_a_palette_becomes_rgb(tmp_path: Path) -> None:
    palette = RNG.integers(0, 256, (256, 3), np.uint8)
    image = Image.fromarray(GREY8).convert("P")
    image.putpalette(palette.ravel().tolist())
    for kind in ("PNG", "TIFF"):
        np.testing.assert_array_equal(color(save(tmp_path / "a", image, kind)), palette[GREY8])
    opaque = np.full(256, 255, np.uint8)
    opaque[:128] = 0
    expected = palette[GREY8] * (GREY8 >= 128)[..., None]
    np.testing.assert_array_equal(color(save(tmp_path / "b", image, transparency=opaque.tobytes())), expected)


def test_what_is_transparent_lies_on_black(tmp_path: Path) -> None:
    rgba = np.dstack([COLOR, ALPHA])
    expected = COLOR * (ALPHA / np.float32(255))[..., None]
    for kind in ("PNG", "TIFF"):
        np.testing.assert_allclose(color(save(tmp_path / "a", rgba, kind)), expected, rtol=1e-6)
    path = save(tmp_path / "b", Image.fromarray(np.dstack([GREY8, ALPHA])))
    np.testing.assert_allclose(gray(path), GREY8 * (ALPHA / np.float32(255)), rtol=1e-6)


TURNS: dict[int, Callable[[Array], Array]] = {
    1: lambda stored: stored,
    2: np.fliplr,
    3: lambda stored: np.rot90(stored, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.rot90(stored, 2).T,
    8: np.rot90,
    9: lambda stored: stored,  # there is none
}


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("array", [GREY8, GREY16], ids=["8", "16"])
def test_exif_orientation(tmp_path: Path, orientation: int, array: Array) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    expected = TURNS[orientation](array)
    np.testing.assert_array_equal(gray(save(tmp_path / "a", array, exif=exif)), expected)
    np.testing.assert_array_equal(gray(save(tmp_path / "b", array, "TIFF", exif=exif)), expected)
    smooth = np.add.outer(np.arange(32), np.arange(16)).astype(np.uint8)
    turned = gray(save(tmp_path / "c", smooth, "JPEG", quality=100, exif=exif))
    np.testing.assert_allclose(turned, TURNS[orientation](smooth), atol=4)


def test_a_damaged_exif_block_is_no_orientation(tmp_path: Path) -> None:
    for exif in (b"Exif\0\0nonsense", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0"):
        np.testing.assert_array_equal(gray(save(tmp_path / "a", GREY8, exif=exif)), GREY8)


def test_pages_of_a_tiff_are_frames(tmp_path: Path) -> None:
    stack = RNG.integers(0, 65536, (4, 5, 7)).astype(np.uint16)
    pages = [Image.fromarray(page) for page in stack]
    path = save(tmp_path / "a", pages[0], "TIFF", save_all=True, append_images=pages[1:])
    assert read_header(path).frames == 4
    np.testing.assert_array_equal(read_pixels(path).pixels[:, 0], stack)
    for other in (Image.fromarray(GREY8), Image.fromarray(GREY16[:, :4]), Image.fromarray(COLOR)):
        save(path, pages[0], "TIFF", save_all=True, append_images=[other])
        assert refusal(path) == "its pages differ in size or colours; save each as a file of its own"


def test_too_many_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "MAX_PAGES", 3)
    pages = [Image.fromarray(GREY8)] * 4
    path = save(tmp_path / "a", pages[0], "TIFF", save_all=True, append_images=pages[1:])
    assert refusal(path) == "it has more than 3 pages"
    save(path, pages[0], "TIFF", save_all=True, append_images=pages[2:])
    assert read_header(path).frames == 3


def test_pages_that_lead_back_to_the_first(tmp_path: Path) -> None:
    path = plain_tiff(tmp_path / "a", GREY8)
    data = bytearray(path.read_bytes())
    data[-4:] = data[4:8]  # the next directory is the first
    path.write_bytes(data)
    with suppress(UnreadableFile):
        assert read_header(path).frames == 1


@pytest.mark.parametrize(("mode", "kind"), [("CMYK", "JPEG"), ("CMYK", "TIFF"), ("LAB", "TIFF")])
def test_colours_that_are_no_light(tmp_path: Path, mode: str, kind: str) -> None:
    path = save(tmp_path / "a", Image.new(mode, (4, 4)), kind)
    assert refusal(path) == refusal(path, read_pixels) == "its colours are neither grey nor RGB; save it as one of them"


def test_luma_and_chroma_become_rgb(tmp_path: Path) -> None:
    path = save(tmp_path / "a", Image.new("YCbCr", (4, 4), (76, 85, 255)), "TIFF")
    np.testing.assert_allclose(color(path)[0, 0], [255, 0, 0], atol=2)  # red, by ITU-R BT.601


def png(depth: int, kind: int, samples: int, rows: int = 2, columns: int = 2) -> bytes:
    """A black PNG of any depth and colour type, as Pillow does not write them."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    line = b"\0" * (1 + columns * samples * depth // 8)
    head = struct.pack(">IIBBBBB", columns, rows, depth, kind, 0, 0, 0)
    body = zlib.compress(line * rows, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def test_colours_of_16_bits_are_refused_rather_than_cut(tmp_path: Path) -> None:
    path = tmp_path / "a"
    for kind, samples in ((2, 3), (4, 2), (6, 4)):
        path.write_bytes(png(16, kind, samples))
        assert refusal(path) == refusal(path, read_pixels) == DEEP
        path.write_bytes(png(8, kind, samples))
        assert read_pixels(path).pixels.shape == (1, 1 if kind == 4 else 3, 2, 2)
    path.write_bytes(b"P6 2 2 65535\n" + b"\0" * 24)
    assert refusal(path) == DEEP
    path.write_bytes(b"P6 2 2 255\n" + b"\1" * 12)
    np.testing.assert_array_equal(color(path), np.ones((2, 2, 3)))
    ifd = TiffImagePlugin.ImageFileDirectory_v2()
    ifd[258] = (16, 16, 16)
    save(path, Image.new("RGB", (4, 4)), "TIFF", tiffinfo=ifd)
    data = path.read_bytes()
    if struct.pack("<3H", 8, 8, 8) in data:  # Pillow writes what it has, so the file is changed by hand
        path.write_bytes(data.replace(struct.pack("<3H", 8, 8, 8), struct.pack("<3H", 16, 16, 16)))
    assert refusal(path) == DEEP


def test_what_is_no_picture(tmp_path: Path) -> None:
    path, buffer = tmp_path / "a", io.BytesIO()
    Image.fromarray(GREY8).save(buffer, "GIF")
    for data in (b"x", b"hello world" * 100, buffer.getvalue(), b"\x89PNG\r\n\x1a\n", b"%!PS-Adobe-3.0 EPSF-3.0"):
        path.write_bytes(data)
        assert refusal(path) == refusal(path, read_pixels), data
        assert refusal(path) in {"it is no PNG, JPEG, PGM or TIFF picture that can be read", DAMAGED}
    path.write_bytes(b"")
    assert refusal(path) == "the file is empty"
    assert refusal(tmp_path / "gone") == "the file system refuses it: No such file or directory"
    assert refusal(tmp_path) == "the file system refuses it: Is a directory"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "PPM", "TIFF"])
def test_a_file_cut_anywhere_is_told_from_a_whole_one(tmp_path: Path, kind: str) -> None:
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    array = RNG.integers(0, 256, (24, 24), np.uint8)
    path = save(tmp_path / "a", array, kind)
    data, whole = path.read_bytes(), gray(path)
    for size in range(1, len(data)):
        path.write_bytes(data[:size])
        try:
            np.testing.assert_array_equal(gray(path), whole)
            assert len(data) - size <= 20, "only what follows the pixels may be missing: PNG's checksums and IEND"
        except UnreadableFile:
            continue


def test_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    path.write_bytes(png(8, 0, 1, rows=10_000, columns=10_000))
    assert path.stat().st_size < 120_000
    tracemalloc.start()
    assert refusal(path) == refusal(path, read_pixels) == "it has more pixels than can be read at once"
    path.write_bytes(b"P5 60000 60000 255\n" + b"\0" * 100)
    assert refusal(path) == refusal(path, read_pixels) == "it has more pixels than can be read at once"
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10 * 2**20
    monkeypatch.setattr(pictures, "MAX_VALUES", 2 * GREY8.size - 1)
    save(path, Image.fromarray(GREY8), "TIFF", save_all=True, append_images=[Image.fromarray(GREY8)])
    assert refusal(path) == "2 pages of 5 x 7 pixels are more than can be read at once"


def test_a_bomb_of_text_is_refused(tmp_path: Path) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "JANE" * 10**7, zip=True)
    path = save(tmp_path / "a", GREY8, pnginfo=text)
    assert path.stat().st_size < 100_000
    assert refusal(path) == DAMAGED


def test_texts_stay_in_the_file(tmp_path: Path, every_log: pytest.LogCaptureFixture) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("PatientName", "JANE DOE")
    exif = Image.Exif()
    exif[270] = exif[315] = "JANE DOE"
    for kind, options in (("PNG", {"pnginfo": text}), ("JPEG", {"exif": exif}), ("TIFF", {"exif": exif})):
        path = save(tmp_path / "a", GREY8, kind, **options)
        assert b"JANE" in path.read_bytes()
        every_log.clear()  # Pillow writes with less reserve
        assert "JANE" not in repr(read_header(path))
        read_pixels(path)
        path.write_bytes(path.read_bytes()[:-20])
        with suppress(UnreadableFile):
            read_pixels(path)
        assert not every_log.records
    assert logging.getLogger("PIL").level == logging.NOTSET


def files() -> tuple[bytes, ...]:
    """Small pictures of every format."""
    exif = Image.Exif()
    exif[274] = 6
    made: list[tuple[Array, str, dict[str, Any]]] = [
        (GREY8, "PNG", {"exif": exif}),
        (GREY16, "PNG", {}),
        (COLOR, "JPEG", {"exif": exif}),
        (GREY8, "PPM", {}),
        (GREY16, "PPM", {}),
        (GREY16, "TIFF", {}),
        (COLOR, "TIFF", {"compression": "tiff_lzw"}),
        (COLOR, "TIFF", {"compression": "jpeg", "exif": exif}),
        (GREY8 > 100, "TIFF", {"compression": "group4"}),
    ]
    buffers = []
    for array, kind, options in made:
        buffer = io.BytesIO()
        Image.fromarray(array).save(buffer, kind, **options)
        buffers.append(buffer.getvalue())
    plain = b"P2 7 5 99\n" + " ".join(map(str, GREY8.ravel() % 100)).encode()
    return (*buffers, plain)


FILES = files()


@pytest.mark.long
@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_gives_an_answer_or_a_reason(
    tmp_path: Path, damaged: Callable[[tuple[bytes, ...]], st.SearchStrategy[bytes]], data: st.DataObject
) -> None:
    path = tmp_path / "a"
    path.write_bytes(data.draw(damaged(FILES)))
    with suppress(UnreadableFile):
        header = read_header(path)
        if header.rows * header.columns * header.frames < 10**7:
            pixels = read_pixels(path).pixels
            assert pixels.shape == (header.frames, header.channels, header.rows, header.columns)
