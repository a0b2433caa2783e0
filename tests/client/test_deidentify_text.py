"""Text in pixels: drawn text is found on every ground, nothing where there is none, and what is found is blanked."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageDraw, ImageFont
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, JPEGLSLossless, MRImageStorage, RLELossless
from scipy import ndimage  # type: ignore[import-untyped]

from fedward_client.deidentify import Profile
from fedward_client.deidentify.burned_in import is_suspicious
from fedward_client.deidentify.files import cleaned
from fedward_client.deidentify.text import Box, find_text
from fedward_client.site import Site
from fedward_common.errors import UnreadableFile

Make = Callable[..., Dataset]
Gray = npt.NDArray[np.float32]

SHAPE = (240, 360)
TEXTS = ("DOE^JANE 19600101", "Name: Meyer, Hans", "ID 4711-0815", "12:03 PM MI 1.2")
# The kinds of ground, and how many of six lines of text must be found: bright structures that touch letters hide some.
KINDS = {
    "black": 6,
    "grey": 6,
    "gradient": 6,
    "noise": 6,
    "speckle": 5,
    "sector": 5,
    "discs": 6,
    "layers": 3,
    "grid": 4,
}


def ground(kind: str, seed: int) -> Gray:
    """An image without text, of range 0 to 255."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    image = np.zeros(SHAPE)
    if kind == "grey":
        image += 90
    elif kind == "gradient":
        image = 20 + 120 * x / SHAPE[1] + 60 * y / SHAPE[0]
    elif kind == "noise":
        image = rng.normal(80, 25, SHAPE)
    elif kind == "discs":
        for row, column, radius, value in rng.uniform((0, 0, 5, 20), (*SHAPE, 80, 220), (20, 4)):
            image[np.hypot(y - row, x - column) < radius] = value
        image += rng.normal(0, 4, SHAPE)
    elif kind == "grid":
        image[::24], image[:, ::24] = 180, 180
    elif kind != "black":
        image = speckle(rng)
    if kind == "sector":
        image[np.abs(np.arctan2(x - SHAPE[1] / 2, y + 30)) > 0.6] = 0
    elif kind == "layers":
        for layer in range(4):
            row = 30 + 50 * layer + (6 * np.sin(np.arange(SHAPE[1]) / 50 + layer)).astype(int)
            for thickness in range(4):
                image[row + thickness, np.arange(SHAPE[1])] = 225
    return np.clip(image, 0, 255).astype(np.float32)


def speckle(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Fully developed speckle, compressed as on a screen."""
    parts = [ndimage.gaussian_filter(rng.normal(size=SHAPE), 1.2) for _ in range(2)]
    echo = np.hypot(*parts)
    return np.asarray(np.clip((20 * np.log10(echo / echo.max() + 1e-4) + 50) / 50, 0, 1) * 190)


def written_on(image: Gray, text: str, size: int, at: tuple[int, int], value: int) -> tuple[Gray, Box]:
    """An image with a line of text, and where it is; `at` is the column and the row."""
    picture = Image.fromarray(image.astype(np.uint8))
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(size)
    draw.text(at, text, fill=value, font=font)
    left, top, right, bottom = (int(edge) for edge in draw.textbbox(at, text, font=font))
    return np.asarray(picture).astype(np.float32), Box(top, left, bottom, right)


def share_covered(found: list[Box], wanted: Box) -> float:
    mask = np.zeros(SHAPE, bool)
    for box in found:
        mask[box.top : box.bottom, box.left : box.right] = True
    return float(mask[wanted.top : wanted.bottom, wanted.left : wanted.right].mean())


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_text_is_found_on_every_ground(kind: str) -> None:
    covered = []
    for seed, size in enumerate((10, 12, 14, 18, 24, 30)):
        image, place = written_on(ground(kind, seed), TEXTS[seed % 4], size, (10 + 7 * seed, 20 + 25 * seed), 255)
        covered.append(share_covered(find_text(image[None]), place))
    assert sum(share >= 0.95 for share in covered) >= KINDS[kind], covered


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_no_text_is_found_where_there_is_none(kind: str) -> None:
    assert sum(bool(find_text(ground(kind, seed)[None])) for seed in range(6)) <= 1


@pytest.mark.parametrize("size", [12, 16, 24, 40])
def test_dark_text_on_paper_is_found(size: int) -> None:
    image, place = written_on(np.full(SHAPE, 240, np.float32), "ID 4711-08", size, (20, 80), 20)
    assert share_covered(find_text(image[None]), place) > 0.95


def test_range_and_units_do_not_matter() -> None:
    image, place = written_on(ground("speckle", 1), TEXTS[0], 16, (30, 100), 255)
    boxes = find_text(image[None])
    assert share_covered(boxes, place) > 0.95
    assert find_text(image[None] * np.float32(13) - 1024) == boxes
    assert find_text(np.full((1, *SHAPE), 7, np.float32)) == []


def test_colored_text_is_found_and_blood_flow_is_none() -> None:
    """Flow is as bright, as thin and as much in a row as letters are, but of many hues."""
    rng = np.random.default_rng(1)
    flow = np.stack([ground("black", 0)] * 3)
    for number in range(12):
        branch = flow[:, 100:118, 40 + 16 * number : 43 + 16 * number]
        branch[:] = np.array([255, 0, 0])[:, None, None]
        branch[1] = np.linspace(0, 255, 18)[rng.permutation(18), None]
    assert find_text(flow) == []
    image, place = written_on(ground("black", 0), TEXTS[0], 16, (20, 40), 255)
    yellow = flow + np.stack([image, image, 0 * image])
    assert share_covered(find_text(yellow), place) == 1
    assert all(box.bottom < 100 for box in find_text(yellow))


def test_small_letters_are_found() -> None:
    image, place = written_on(ground("black", 0), TEXTS[0], 8, (20, 40), 230)
    assert share_covered(find_text(image[None]), place) == 1


def test_two_lines_are_two_boxes() -> None:
    image, first = written_on(ground("black", 0), TEXTS[0], 16, (20, 40), 255)
    image, second = written_on(image, TEXTS[1], 16, (20, 140), 200)
    boxes = find_text(image[None])
    assert min(share_covered(boxes, place) for place in (first, second)) == 1
    assert all(box.bottom < 100 or box.top > 100 for box in boxes)


# What is done with it ------------------------------------------------------------------------------------------------


@pytest.fixture
def site(tmp_path: Path) -> Site:
    (tmp_path / "site").mkdir()
    return Site.open(tmp_path / "site")


def deidentified(site: Site, dataset: Dataset, profile: Profile | None = None) -> tuple[FileDataset, bool]:
    path = site.folder / "source"
    dataset.save_as(path, enforce_file_format=True)
    file = cleaned(site, path, profile or Profile())
    return dcmread(BytesIO(file.data)), file.blanked


def marked(dtype: type[Any] = np.uint8, kind: str = "sector") -> tuple[npt.NDArray[Any], Box]:
    """Stored pixels with a line of text over the range of their type, and where it is."""
    image, place = written_on(ground(kind, 3), TEXTS[0], 16, (8, 6), 255)
    if np.issubdtype(dtype, np.signedinteger):
        return ((image - 128) * 100).astype(dtype), place
    return (image * (np.iinfo(dtype).max // 255)).astype(dtype), place


def inside(pixels: npt.NDArray[Any], box: Box) -> npt.NDArray[Any]:
    return pixels[..., box.top : box.bottom, box.left : box.right]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless, JPEGLSLossless])
def test_text_is_blanked_and_the_rest_stays(site: Site, make_dicom: Make, dtype: type[Any], syntax: str) -> None:
    array, place = marked(dtype)
    dataset = make_dicom(patient_id="A", array=array)
    if syntax != ExplicitVRLittleEndian:
        dataset.compress(syntax, generate_instance_uid=False)
    found, blanked = deidentified(site, dataset)
    pixels = found.pixel_array
    assert blanked
    assert found.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert found.BurnedInAnnotation == "NO"
    assert "113101" in {item.CodeValue for item in found.DeidentificationMethodCodeSequence}
    assert pixels.dtype == array.dtype
    assert (inside(pixels, place) == array.min()).all()
    changed = np.flatnonzero((pixels != array).any(axis=1))
    assert changed.max() < place.bottom + 10
    assert not find_text(pixels[None].astype(np.float32))


def test_color_is_blanked(site: Site, make_dicom: Make) -> None:
    gray, place = marked()
    array = np.stack([gray, gray, gray // 4], axis=-1)
    found, blanked = deidentified(site, make_dicom(patient_id="A", array=array))
    assert blanked
    assert (found.pixel_array[place.top : place.bottom, place.left : place.right] == 0).all()
    np.testing.assert_array_equal(found.pixel_array[60:], array[60:])


def test_inverted_gray_is_blanked_to_black(site: Site, make_dicom: Make) -> None:
    array, place = marked()
    dataset = make_dicom(patient_id="A", array=255 - array, PhotometricInterpretation="MONOCHROME1")
    found, _ = deidentified(site, dataset)
    assert (inside(found.pixel_array, place) == 255).all()


def test_big_endian_is_blanked_in_its_order(site: Site, make_dicom: Make) -> None:
    array, place = marked(np.uint16)
    dataset = make_dicom(patient_id="A", array=array, PixelData=array.astype(">u2").tobytes())
    dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    found, _ = deidentified(site, dataset)
    assert (inside(found.pixel_array, place) == 0).all()
    np.testing.assert_array_equal(found.pixel_array[60:], array[60:])


def test_text_in_one_frame_is_blanked_in_all(site: Site, make_dicom: Make) -> None:
    array, place = marked()
    film = np.stack([np.full_like(array, 40)] * 4 + [array])
    found, _ = deidentified(site, make_dicom(patient_id="A", array=film))
    assert (inside(found.pixel_array, place) == 0).all()
    assert (found.pixel_array[0, 60:] == 40).all()


def test_outside_of_ultrasound_regions_all_is_blanked(site: Site, make_dicom: Make) -> None:
    array = np.full(SHAPE, 99, np.uint8)
    dataset = make_dicom(patient_id="A", array=array)
    region = Dataset()
    region.RegionLocationMinX0, region.RegionLocationMinY0 = 20, 30
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = 319, 199
    dataset.SequenceOfUltrasoundRegions = [region]
    dataset.PixelData = (array + np.eye(*SHAPE, dtype=np.uint8)).tobytes()
    found, blanked = deidentified(site, dataset)
    assert blanked
    expected = np.full(SHAPE, 99, np.uint8)
    expected[30:200, 20:320] += np.eye(*SHAPE, dtype=np.uint8)[30:200, 20:320]
    np.testing.assert_array_equal(found.pixel_array, expected)
    dataset.PixelData = (np.arange(array.size, dtype=np.uint32) % 7).astype(np.uint8).tobytes()
    found, _ = deidentified(site, dataset)
    assert found.pixel_array[0:30].max() == found.pixel_array[200:].max() == found.pixel_array[:, 320:].max() == 0
    assert found.pixel_array[30:200, 20:320].max() == 6


def test_the_site_chooses(site: Site, make_dicom: Make) -> None:
    array, _ = marked()
    dataset = make_dicom(patient_id="A", array=array)
    with pytest.raises(UnreadableFile, match="text is burned into it"):
        deidentified(site, dataset, Profile(burned_in="quarantine"))
    found, blanked = deidentified(site, dataset, Profile(burned_in="keep"))
    assert not blanked
    assert "BurnedInAnnotation" not in found
    assert "113101" not in {item.CodeValue for item in found.DeidentificationMethodCodeSequence}
    np.testing.assert_array_equal(found.pixel_array, array)
    clean = make_dicom(patient_id="A", array=ground("discs", 1).astype(np.uint8))
    found, blanked = deidentified(site, clean, Profile(burned_in="quarantine"))
    assert not blanked
    assert found.BurnedInAnnotation == "NO"


def test_text_that_is_said_to_be_there_and_not_found_is_refused(site: Site, make_dicom: Make) -> None:
    dataset = make_dicom(patient_id="A", array=np.zeros(SHAPE, np.uint8), BurnedInAnnotation="YES")
    with pytest.raises(UnreadableFile, match="none was found to blank"):
        deidentified(site, dataset)


def test_pixels_that_cannot_be_looked_at_are_refused(site: Site) -> None:
    path = Path(str(get_testdata_file("JPEG2000.dcm", download=False)))
    dataset = dcmread(path)
    dataset.Modality = "US"
    half = len(dataset.PixelData) // 2
    dataset.PixelData = dataset.PixelData[:half] + bytes(half)
    with pytest.raises(UnreadableFile):
        deidentified(site, dataset)


def test_what_a_detector_measured_is_not_suspicious(make_dicom: Make) -> None:
    measured = {"patient_id": "A", "array": np.zeros((4, 4), np.uint8), "SOPClassUID": MRImageStorage, "Modality": "MR"}
    assert not is_suspicious(make_dicom(**measured))
    assert not is_suspicious(make_dicom(**measured, BurnedInAnnotation="NO"))
    assert is_suspicious(make_dicom(**measured, BurnedInAnnotation="YES"))
    assert is_suspicious(make_dicom(**measured, ConversionType="WSD"))
    assert is_suspicious(make_dicom(**measured, ImageType=["DERIVED", "SECONDARY", "SCREEN SAVE"]))
    for modality in ("US", "XA", "SC", "OT", "ES"):
        assert is_suspicious(make_dicom(**{**measured, "Modality": modality}))
    assert is_suspicious(make_dicom(**{**measured, "SOPClassUID": "1.2.840.10008.5.1.4.1.1.7.4"}))


def test_a_palette_is_blanked_in_its_indices(site: Site, make_dicom: Make) -> None:
    array, place = marked()
    dataset = make_dicom(patient_id="A", array=array, PhotometricInterpretation="PALETTE COLOR")
    for color in ("Red", "Green", "Blue"):
        setattr(dataset, f"{color}PaletteColorLookupTableDescriptor", [256, 0, 16])
        setattr(dataset, f"{color}PaletteColorLookupTableData", np.arange(256, dtype="<u2").tobytes())
    found, blanked = deidentified(site, dataset)
    assert blanked
    assert found.PhotometricInterpretation == "PALETTE COLOR"
    assert (inside(found.pixel_array, place) == 0).all()
    np.testing.assert_array_equal(found.pixel_array[60:], array[60:])


def test_blanked_bits_cannot_be_written_in_other_sizes(site: Site, make_dicom: Make) -> None:
    array = marked()[0].astype(np.uint32) * 2**20
    with pytest.raises(UnreadableFile, match="not of 8 or 16 bits"):
        deidentified(site, make_dicom(patient_id="A", array=array))
