"""Flags of pixels: each on images of which it is known whether they have it, in every format, and small pictures."""

from base64 import b64decode
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from operator import itemgetter
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont
from pydicom.uid import CTImageStorage

from fedward_client.intake.reading import FEW, Readers
from fedward_client.intake.walk import Entry
from fedward_client.report.quality import (
    BLANK,
    SATURATED,
    TEXT,
    THUMBNAIL,
    is_blank,
    is_saturated,
    look,
    thumbnail,
)
from fedward_client.site import Site

Pixels = npt.NDArray[np.float32]
Write = Callable[..., Path]

SHAPE = (100, 100)
CT = {"Modality": "CT", "SOPClassUID": CTImageStorage}


def noise(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> npt.NDArray[np.uint8]:
    """Values from 1 to 200, all about as frequent."""
    return np.random.default_rng(seed).integers(1, 201, shape).astype(np.uint8)


def image(array: npt.NDArray[Any]) -> Pixels:
    """[rows, columns] or [channels, rows, columns] as one frame."""
    return array.astype(np.float32).reshape(1, -1, *array.shape[-2:])


def filled(array: npt.NDArray[Any], pixels: int, value: float) -> npt.NDArray[Any]:
    """The same with so many of its pixels, spread over it, of one value."""
    out = array.copy()
    out.reshape(-1)[np.random.default_rng(9).permutation(out.size)[:pixels]] = value
    return out


# What is known of pixels ---------------------------------------------------------------------------------------------


def test_blank_is_of_nearly_one_value() -> None:
    black = np.zeros(SHAPE)
    assert is_blank(image(black))
    assert is_blank(image(black + 128))
    assert is_blank(image(filled(black, 100, 255)))  # a hundredth
    assert is_blank(image(np.stack([black + 255, black, black])))  # all red
    assert not is_blank(image(filled(black, 101, 255)))
    assert not is_blank(image(noise()))
    assert not is_blank(image(np.broadcast_to(np.arange(100), SHAPE)))


def test_a_film_is_blank_as_a_whole() -> None:
    film = np.zeros((5, 1, *SHAPE), np.float32)
    assert is_blank(film)
    film[4, 0] = noise()
    assert not is_blank(film)


def test_saturated_is_a_share_of_what_is_not_background() -> None:
    assert not is_saturated(image(noise()))
    lit = noise() + np.uint8(10)
    lit[0] = 0  # of 9,900 pixels that are lit, a twentieth is 495
    lit[1, :95] = lit[2:6] = 255
    assert not is_saturated(image(lit))
    lit[1, 95] = 255
    assert is_saturated(image(lit))
    half = noise()
    half[:50] = 0  # as an ultrasound image has around its sector
    assert not is_saturated(image(half))
    lit = half.copy()
    lit[50:] = filled(half[50:], 300, 255)  # 3 % of the image, 6 % of what is lit
    assert is_saturated(image(lit))
    assert not is_saturated(image(np.zeros(SHAPE)))


def test_saturated_colour_is_white() -> None:
    red = np.stack([filled(noise(), 3000, 255), noise(1), noise(2)])
    assert not is_saturated(image(red))
    white = red.copy()
    white[:, :20] = 255
    assert is_saturated(image(white))


def test_what_is_shown_as_white_saturates() -> None:
    clipped_low = filled(noise(), 1000, 0)
    assert not is_saturated(image(clipped_low))
    assert is_saturated(image(clipped_low), inverted=True)


@given(
    scale=st.integers(-6, 8).map(lambda power: 2.0**power),
    offset=st.integers(-1024, 4096),
    full=st.integers(0, 1500),
    constant=st.integers(0, 10_000),
)
def test_units_do_not_matter(scale: float, offset: int, full: int, constant: int) -> None:
    values = filled(filled(noise(), full, 255), constant, 20)
    plain, other = image(values), image(values * scale + offset * scale)  # exact in float32
    assert (is_blank(plain), is_saturated(plain)) == (is_blank(other), is_saturated(other))


# Files ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site.open(tmp_path)


def found(site: Site, path: Path) -> dict[str, Any]:
    return look(site, "key", ("", Entry(path=path)))


def flags(site: Site, path: Path) -> list[str]:
    return list(filter(None, found(site, path)["flags"].split(", ")))


def test_flags_of_dicom(site: Site, write_dicom: Write) -> None:
    def of(array: npt.NDArray[Any], **tags: Any) -> list[str]:
        return flags(site, write_dicom(site.folder / "image.dcm", patient_id="A", array=array, **tags))

    assert of(noise()) == []
    assert of(np.full(SHAPE, 7, np.uint8)) == [BLANK]
    assert of(filled(noise(), 1000, 255), **CT) == [SATURATED]
    assert of(noise(), BurnedInAnnotation="YES") == [TEXT]
    assert of(np.full(SHAPE, 7, np.uint8), BurnedInAnnotation="YES") == [BLANK, TEXT]
    # a window clips what is shown, not what is there
    assert of(noise().astype(np.uint16) * 9, **CT, WindowCenter=100, WindowWidth=20) == []
    # of an inverted image the least value is the brightest, unless padding was given it
    low = filled(noise(), 1000, 0)
    assert of(low, **CT) == []
    assert of(low, PhotometricInterpretation="MONOCHROME1", **CT) == [SATURATED]
    assert of(low, PhotometricInterpretation="MONOCHROME1", PixelPaddingValue=0, **CT) == []


def written_on(array: npt.NDArray[np.uint8], size: int = 18) -> npt.NDArray[np.uint8]:
    picture = Image.fromarray(array)
    ImageDraw.Draw(picture).text((20, 30), "DOE^JANE 19600101", fill=255, font=ImageFont.load_default(size))
    return np.asarray(picture)


def test_text_is_looked_for_where_a_screen_or_a_camera_was_read(site: Site, write_dicom: Write) -> None:
    y, x = np.mgrid[:90, :220]
    smooth = (40 + y / 2 + x / 4).astype(np.uint8)
    text = written_on(smooth)
    path = site.folder / "image.dcm"
    assert flags(site, write_dicom(path, patient_id="A", array=text)) == [TEXT]
    assert flags(site, write_dicom(path, patient_id="A", array=smooth)) == []
    assert flags(site, write_dicom(path, patient_id="A", array=text, **CT)) == []
    assert flags(site, write_dicom(path, patient_id="A", array=text, ConversionType="DF", **CT)) == [TEXT]
    name = np.zeros((400, 600), np.uint8)
    assert flags(site, write_dicom(path, patient_id="A", array=written_on(name, size=14))) == [BLANK, TEXT]
    large = np.tile(smooth, (1, 20))  # 4,400 columns, of which every second one is looked at
    large[:, :440] = written_on(np.tile(smooth, (1, 2)), size=36)
    assert flags(site, write_dicom(path, patient_id="A", array=large)) == [TEXT]
    film = np.stack([smooth, smooth, text])
    assert flags(site, write_dicom(path, patient_id="A", array=film)) == [TEXT]
    picture = site.folder / "image.png"
    Image.fromarray(text).save(picture)
    assert flags(site, picture) == flags(replace(site, modality="US"), picture) == [TEXT]
    assert flags(replace(site, modality="MR"), picture) == []


def test_flags_of_other_formats(site: Site) -> None:
    volume = np.stack([noise(seed) for seed in range(3)], axis=2).astype(np.int16)
    for name, array, expected in (("a", volume, []), ("b", volume * 0 + 3, [BLANK])):
        nib.Nifti1Image(array, np.eye(4)).to_filename(site.folder / f"{name}.nii.gz")
        assert flags(site, site.folder / f"{name}.nii.gz") == expected
    Image.fromarray(np.full(SHAPE, 9, np.uint8)).save(site.folder / "blank.png")
    assert flags(site, site.folder / "blank.png") == [BLANK]


def test_another_process_sees_what_this_one_sees(site: Site) -> None:
    site.key  # noqa: B018 - made once, before several processes would
    files = {}
    for number in range(FEW):
        path = site.folder / f"{number}.png"
        Image.fromarray(noise(number, (9, 9)) if number % 2 else np.full((9, 9), number, np.uint8)).save(path)
        files[f"{number:02}"] = ("", Entry(path=path))
    with Readers(replace(site, threads=2), look) as readers:
        rows = sorted(readers.rows(files), key=itemgetter("key"))
    assert rows == [look(site, key, one) for key, one in files.items()]
    assert [row["flags"] for row in rows] == [BLANK, ""] * (FEW // 2)


def test_what_cannot_be_read_is_told_apart_from_what_cannot_be_opened(site: Site, write_dicom: Write) -> None:
    path = write_dicom(site.folder / "cut.dcm", patient_id="A", array=noise())
    path.write_bytes(path.read_bytes()[:-1000])
    assert found(site, path) == {"key": "key", "reason": "the pixel data ends early", "passing": False}
    gone = found(site, site.folder / "gone.dcm")
    assert gone["passing"]
    assert "No such file" in gone["reason"]


# Small pictures ------------------------------------------------------------------------------------------------------


def picture(site: Site, path: Path) -> npt.NDArray[np.uint8]:
    png = b64decode(thumbnail(site, "key", ("", Entry(path=path)))["png"])
    with Image.open(BytesIO(png)) as opened:
        assert opened.info == {}  # no text of any kind
        return np.asarray(opened)


def test_the_middle_frame_is_shown_small(site: Site, write_dicom: Write) -> None:
    film = np.zeros((3, 300, 400), np.uint16)
    film[1, :, 200:] = 3000
    shown = picture(site, write_dicom(site.folder / "film.dcm", patient_id="A", array=film))
    assert shown.shape == (96, THUMBNAIL)
    assert (shown[:, :60] == 0).all()
    assert (shown[:, 68:] == 255).all()


def test_small_and_colour_images_are_not_made_larger_or_grey(site: Site, write_dicom: Write) -> None:
    colour = np.zeros((20, 30, 3), np.uint8)
    colour[..., 0] = 200
    shown = picture(site, write_dicom(site.folder / "colour.dcm", patient_id="A", array=colour))
    assert shown.shape == (20, 30, 3)
    assert (shown == [255, 0, 0]).all()


@pytest.mark.parametrize(("x", "y"), [(1, 1), (-1, 1), (1, -1), (-1, -1)])
def test_volumes_are_shown_upright(site: Site, x: int, y: int) -> None:
    """Whichever way its axes go, an image's front is up and the patient's right is on the left."""
    front_right = np.zeros((40, 60, 1), np.int16)  # columns to the right, rows to the front
    front_right[30:, 50:] = 100
    array = front_right[:: 1 if x > 0 else -1, :: 1 if y > 0 else -1]
    nib.Nifti1Image(array, np.diag([x, y, 1.0, 1.0])).to_filename(site.folder / "v.nii")
    shown = picture(site, site.folder / "v.nii")
    assert shown.shape == (60, 40)
    assert shown[:10, :10].min() == 255
    assert shown.sum() == 255 * 100


def test_what_cannot_be_read_has_no_picture(site: Site) -> None:
    (site.folder / "x.png").write_bytes(b"no picture")
    assert thumbnail(site, "key", ("", Entry(path=site.folder / "x.png"))) == {
        "key": "key",
        "content": "",
        "png": "",
    }
