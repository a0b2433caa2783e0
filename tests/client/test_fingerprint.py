"""What is known of an image whatever its file: a digest of its pixels, a perceptual hash; kept in the catalog."""

import io
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit
from scipy.fft import dctn  # type: ignore[import-untyped]

from fedward_client import catalog
from fedward_client.catalog import Catalog
from fedward_client.intake.fingerprint import BITS, CROPS, SIDE, fingerprint, looks
from fedward_client.intake.fingerprints import Fingerprints, fingerprints
from fedward_client.near_duplicates import LIMIT
from fedward_client.site import Site
from fedward_client.volume import Volume
from fedward_common.events import Event
from fedward_simulations import busi

Write = Callable[..., Path]
Grey = npt.NDArray[np.uint8]


def hashed(image: npt.NDArray[np.generic]) -> str:
    """The hash of the whole image, "" where there is none."""
    return next(iter(looks(image.astype(np.float32)[None, None])), "")


def apart(one: str, other: str) -> int:
    return (int(one, 16) ^ int(other, 16)).bit_count()


def all_hashes(image: npt.NDArray[np.generic]) -> tuple[str, ...]:
    return looks(image.astype(np.float32)[None, None])


def nearest(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    """By how many bits the nearest hashes of two images differ."""
    return min(apart(left, right) for left in one for right in other)


def ultrasound(count: int) -> list[Grey]:
    """One image of each of so many patients."""
    first = {row.patient: row.file for row in reversed(busi.load_index())}
    files = [first[patient] for patient in sorted(first)[:count]]
    return [np.asarray(Image.open(busi.FOLDER / file).convert("L")) for file in files]


def resized(image: Grey, factor: float) -> Grey:
    rows, columns = image.shape
    return np.asarray(Image.fromarray(image).resize((int(columns * factor), int(rows * factor))))


def jpeg(image: Grey, quality: int) -> Grey:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


# The hash ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(20, 20), (40, 31), (128, 128), (21, 200)])
def test_its_bits_are_scipys_lowest_frequencies_against_their_median(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).random(shape)
    waves = dctn(image, type=2)[1 : SIDE + 1, 1 : SIDE + 1]
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(hashed(image)), np.uint8)).reshape(SIDE, SIDE)
    np.testing.assert_array_equal(bits, waves > np.median(waves))


@pytest.mark.parametrize(
    "change",
    [
        lambda image: jpeg(image, 90),
        lambda image: jpeg(image, 50),
        lambda image: resized(image, 0.5),
        lambda image: resized(image, 1.7),
        lambda image: jpeg(resized(image, 0.5), 75),
        lambda image: 0.5 * image + 20,
        lambda image: 255 * (image / 255) ** 1.3,
        lambda image: image + np.random.default_rng(0).normal(0, 5, image.shape),
        lambda image: image[1:-1, 1:-1],
        lambda image: image[3:-3, 3:-3],
        lambda image: resized(image[4:-4, 4:-4], 1.5),
    ],
    ids=[
        "jpeg 90",
        "jpeg 50",
        "half",
        "larger",
        "half, jpeg 75",
        "darker",
        "gamma",
        "noise",
        "crop",
        "crop 2",
        "crop 3",
    ],
)
def test_an_image_saved_anew_is_known_again(change: Callable[[Grey], npt.NDArray[np.generic]]) -> None:
    for image in ultrasound(40):
        assert nearest(all_hashes(image), all_hashes(change(image))) <= LIMIT


def test_images_of_different_patients_are_far_apart() -> None:
    hashes = [all_hashes(image) for image in ultrasound(100)]
    assert min(nearest(one, other) for one, other in combinations(hashes, 2)) > LIMIT + 12


def test_its_size_and_place_do_not_matter_but_the_pixels_do() -> None:
    image = np.random.default_rng(0).random((2, 3, 20, 30)).astype(np.float32)
    one = fingerprint(Volume(image))
    assert one == fingerprint(Volume(np.asfortranarray(image), np.eye(4)))
    assert len(one.pixels) == 32
    assert [len(look) for look in one.looks] == [BITS // 4] * 2, "20 x 30 pixels are too few for each crop"
    image[0, 0, 0, 0] += 1e-6  # of the first frame; the second is the middle one
    other = fingerprint(Volume(image))
    assert (other.pixels != one.pixels, other.looks == one.looks) == (True, True)
    assert fingerprint(Volume(image.reshape(2, 3, 30, 20))).pixels != other.pixels


@pytest.mark.parametrize("value", [0.0, 7.5, np.nan, np.inf])
def test_an_image_of_one_value_shows_nothing(value: float) -> None:
    assert hashed(np.full((20, 20), value)) == ""


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1), st.booleans())
def test_any_image_has_a_hash_and_the_same_one_again(rows: int, columns: int, seed: int, odd: bool) -> None:
    image = np.random.default_rng(seed).integers(0, 3, (rows, columns)).astype(np.float32)
    if odd:
        image[0, 0] = np.nan
    assert hashed(image) == hashed(image.copy())
    assert len(hashed(image)) in {0, BITS // 4}


def test_an_image_has_a_hash_a_crop() -> None:
    image = np.random.default_rng(0).random((1, 1, 200, 100)).astype(np.float32)
    found = looks(image)
    assert len(found) == len(CROPS)
    assert found[2] == looks(image[:, :, 6:-6, 3:-3])[0]
    image[:, :, 6:-6, 3:-3] = 0.5  # only the edge shows something
    assert len(looks(image)) == 2


def test_small_images_are_like_equal_ones_only() -> None:
    from sklearn.datasets import load_digits  # type: ignore[import-untyped]

    images = load_digits().images[:300]
    hashes = [all_hashes(image) for image in images]
    assert hashes == [all_hashes(image.copy()) for image in images]
    different = {image.tobytes(): look for image, look in zip(images, hashes, strict=True)}
    assert min(nearest(one, other) for one, other in combinations(different.values(), 2)) > LIMIT + 12


def test_rounding_decides_over_no_bit_of_a_symmetric_image() -> None:
    half = np.random.default_rng(0).random((64, 32))
    image = np.concatenate([half, half[:, ::-1]], axis=1)  # its odd frequencies are 0
    assert hashed(image) == hashed(image[:, ::-1]) == hashed(3 * image + 1)


# In the catalog ------------------------------------------------------------------------------------------------------


def known(site: Site) -> tuple[Fingerprints, int]:
    """The fingerprints of all images, and how many files were read for them."""
    events: list[Event] = []
    with Catalog.open(site) as opened:
        keys = [row.key for row in opened.images()]
    found = fingerprints(site, keys, events.append)
    assert found.keys() <= set(keys)
    return found, max((event.total for event in events), default=0)


@pytest.fixture
def site(site_folder: Write) -> Site:
    found = Site.open(site_folder({"A": "x", "B": "y"}))
    catalog.scan(found)
    return found


def test_a_file_is_read_once_and_again_when_it_changed(site: Site, write_dicom: Write) -> None:
    before, read = known(site)
    assert (len(before), read) == (4, 4)
    assert known(site) == (before, 0)
    write_dicom(site.data / "A" / "image0.dcm", patient_id="A", array=np.eye(24, dtype=np.uint8))
    catalog.scan(site)
    after, read = known(site)
    assert (len(after), read) == (4, 1)
    assert len(dict(after.items() ^ before.items())) == 1
    catalog.scan(Site.open(site.data))
    assert known(site) == (after, 0)


def test_a_file_that_went_or_changed_since_the_scan_has_none(site: Site, write_dicom: Write) -> None:
    write_dicom(site.data / "A" / "image0.dcm", patient_id="A", array=np.eye(20, dtype=np.uint8))
    (site.data / "A" / "image1.dcm").unlink()
    for _ in range(2):
        found, _ = known(site)
        assert found.keys() >= {site.pseudonym("file", f"B/image{number}.dcm") for number in (0, 1)}
        with Catalog.open(site) as opened:
            assert opened.quarantine() == {}
    catalog.scan(site)
    assert len(known(site)[0]) == 3


def test_a_file_that_does_not_decode_is_in_quarantine(site: Site, write_dicom: Write) -> None:
    broken = {"syntax": JPEGBaseline8Bit, "PixelData": encapsulate([b"\xff\xd8 no JPEG at all"])}
    array = np.zeros((24, 32), np.uint8)
    write_dicom(site.data / "A" / "torn.dcm", patient_id="A", array=array, **broken)
    catalog.scan(site)
    key = site.pseudonym("file", "A/torn.dcm")
    found, read = known(site)
    assert (found[key], read) == (None, 5)
    with Catalog.open(site) as opened:
        assert opened.quarantine().keys() == {key}
    assert known(site)[1] == 0


def test_what_a_killed_process_had_read_is_kept(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(event: Event) -> None:
        if event.done == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("fedward_client.intake.fingerprints.BATCH", 2)
    with Catalog.open(site) as opened:
        keys = [row.key for row in opened.images()]
    with pytest.raises(KeyboardInterrupt):
        fingerprints(site, keys, stop)
    assert known(site)[1] == 2
