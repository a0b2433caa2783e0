"""Patient and background, and what hangs on them: cropping, statistics, the bias field, a study's landmarks."""

import hashlib
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK as sitk  # noqa: N813 - its own name for itself
from hypothesis import given
from hypothesis import strategies as st

from fedward_client.harmonize import Recipe, recipe
from fedward_client.harmonize.bias import corrected
from fedward_client.harmonize.foreground import box_of, foreground
from fedward_client.harmonize.intensity import scale
from fedward_client.volume import Pixels, Volume
from fedward_common.errors import DataError, UnfitImage
from fedward_common.landmarks import merged, site_sums, standard_scale
from fedward_common.study import Input


def cropped(image: Pixels) -> Pixels:
    """An image within the box around its foreground."""
    return image[(slice(None), *box_of(image))]


def head(side: int = 48, *, seed: int = 0, air: float = 2.0) -> Pixels:
    """A bright, noisy ball off the centre of dark, noisy air: [1, side / 2, side, side]."""
    random = np.random.default_rng(seed)
    z, y, x = np.ogrid[0 : side // 2, 0:side, 0:side]
    ball = ((z - side / 4) * 2) ** 2 + (y - side / 2) ** 2 + (x - side / 3) ** 2 < (side / 4) ** 2
    tissue = random.normal(100, 10, ball.shape) * ball + np.abs(random.normal(0, air, ball.shape))
    return tissue[None].astype(np.float32)


def inside(image: Pixels) -> npt.NDArray[np.bool_]:
    bright: npt.NDArray[np.bool_] = image[0] > 50
    return bright


# --- foreground


def test_otsus_threshold_is_itks() -> None:
    image = head()
    expected = sitk.OtsuThreshold(sitk.GetImageFromArray(image[0]), 0, 1, 256)
    assert (foreground(image) == sitk.GetArrayFromImage(expected).astype(bool)).mean() > 0.9999


def test_a_few_very_bright_pixels_do_not_move_it() -> None:
    image = head()
    expected = foreground(image)
    image[0, 0, 0, :20] = 1e5
    found = foreground(image)
    assert found[0, 0, :20].all()
    np.testing.assert_array_equal(found.reshape(-1)[20:], expected.reshape(-1)[20:])


@given(st.floats(0.01, 100), st.floats(-1000, 1000))
def test_gain_and_offset_do_not_move_it(gain: float, offset: float) -> None:
    image = head(16).astype(np.float64)
    moved = foreground((image * gain + offset).astype(np.float32))
    assert (moved != foreground(image.astype(np.float32))).mean() < 0.01


def test_colour_is_judged_by_its_mean_and_a_constant_image_is_all_foreground() -> None:
    colour = np.zeros((3, 1, 4, 4), np.float32)
    colour[0, 0, :2] = 200  # red above, black below
    np.testing.assert_array_equal(foreground(colour)[0, :, 0], [True, True, False, False])
    assert foreground(np.full((1, 2, 3, 4), 7, np.float32)).all()


# --- crop


def test_the_box_is_around_the_patient_with_a_margin() -> None:
    # rows 10 to 29 and columns 20 to 39 are bright: 20 long, so a margin of 1 at each end
    image = np.zeros((1, 1, 60, 70), np.float32)
    image[..., 10:30, 20:40] = 100
    image[0, 0, 11, 21] = 99
    np.testing.assert_array_equal(cropped(image), image[:, :, 9:31, 19:41])


def test_specks_do_not_count_and_both_legs_do() -> None:
    image = np.zeros((1, 1, 300, 300), np.float32)
    image[..., 100:200, 50:90] = image[..., 100:200, 210:250] = 100
    image[0, 0, 5, 5] = image[0, 0, 290, 295] = 100
    assert cropped(image).shape == (1, 1, 110, 220)


def test_an_image_without_a_patient_stays_whole() -> None:
    constant = np.full((1, 2, 30, 30), 5, np.float32)
    assert cropped(constant).shape == constant.shape
    speck = np.zeros((1, 1, 200, 200), np.float32)
    speck[0, 0, 3, 4] = 9
    assert cropped(speck).shape == speck.shape


def test_cropped_heads_agree_whatever_air_is_around_them() -> None:
    section = Input(size=(16, 32, 32), crop="foreground", percentiles=(0.0, 100.0))
    ball = head(air=0)
    wide = np.pad(ball, ((0, 0), (6, 10), (30, 5), (0, 50)))
    tight, loose = (recipe(section).apply(Volume(image.transpose(1, 0, 2, 3))) for image in (ball, wide))
    np.testing.assert_array_equal(tight, loose)


# --- statistics of the foreground


@pytest.mark.parametrize("air", [0, 200])
def test_zscore_of_the_foreground_does_not_see_the_air(air: int) -> None:
    image = np.pad(head(air=0), ((0, 0), (0, 0), (0, air), (0, 0)))
    scaled = scale(image, Input(intensity="zscore", statistics="foreground"))[0]
    np.testing.assert_allclose(scaled[inside(image)].mean(), 0, atol=1e-3)
    np.testing.assert_allclose(scaled[inside(image)].std(), 1, rtol=1e-3)


def test_percentiles_of_the_foreground() -> None:
    # a foreground of 101 to 200 beside as much air: percentiles 0 and 100 of it are 101 and 200
    image = np.concatenate([np.zeros(100), np.arange(101, 201)]).astype(np.float32).reshape(1, 1, 10, 20)
    scaled = scale(image, Input(statistics="foreground", percentiles=(0.0, 100.0)))
    np.testing.assert_allclose(
        np.sort(scaled.reshape(-1)), np.clip((np.sort(image.reshape(-1)) - 101) / 99, 0, 1), atol=1e-6
    )


def test_a_foreground_of_one_value_gives_way_to_the_image() -> None:
    mask = np.zeros((1, 1, 8, 8), np.float32)
    mask[..., :4] = 1
    for intensity in ("zscore", "percentile"):
        given = scale(mask, Input(intensity=intensity, statistics="foreground"))
        np.testing.assert_array_equal(given, scale(mask, Input(intensity=intensity)))


# --- landmarks of a study


def test_scanners_with_a_grey_curve_of_their_own_agree_after_matching() -> None:
    scans = [(1.0, 1.0), (0.6, 9.0), (1.7, 0.01)]  # gamma, gain
    images = [
        [Volume((gain * head(32, seed=s) ** gamma).transpose(1, 0, 2, 3)) for s in range(3)] for gamma, gain in scans
    ]
    measure = recipe(Input(size=(16, 32, 32), intensity="landmarks", statistics="foreground"))
    sums = [site_sums([measure.measure(v) for v in patients], range(3), min_cell=3) for patients in images]
    matched = recipe(measure.input.model_copy(update={"landmarks": standard_scale(merged(sums))}))
    plain = recipe(Input(size=(16, 32, 32), statistics="foreground"))

    def apart(made: Recipe) -> float:
        tensors = [made.apply(patients[0]) for patients in images]
        tissue = inside(head(32))
        return float(max(np.abs(a[0][tissue] - b[0][tissue]).mean() for a, b in pairwise(tensors)))

    assert apart(plain) > 0.05
    assert apart(matched) < 0.01


def test_what_is_measured_is_what_will_be_matched() -> None:
    volume = Volume(head(32).transpose(1, 0, 2, 3))
    section = Input(size=(16, 32, 32), intensity="landmarks")
    found = recipe(section).measure(volume)
    assert list(found) == sorted(found)
    cropped_too = recipe(section.model_copy(update={"crop": "foreground"})).measure(volume)
    assert cropped_too[-1] > found[-1] + 0.1  # less air


def test_landmarks_that_are_not_known_or_not_there() -> None:
    section = Input(size=(8, 8), intensity="landmarks")
    with pytest.raises(DataError, match=r"not measured yet: give \[input\] landmarks"):
        recipe(section).apply(Volume(head(16).transpose(1, 0, 2, 3)))
    with pytest.raises(UnfitImage, match="has no landmarks"):
        recipe(section).measure(Volume(np.full((1, 1, 8, 8), 3, np.float32)))


# --- bias field


def tilted(image: Pixels) -> Pixels:
    """A field that rises along the columns and falls along the rows, of 0.5 to 1.5."""
    rows, columns = np.linspace(-0.25, 0.25, image.shape[2])[:, None], np.linspace(-0.25, 0.25, image.shape[3])
    return (image * (1 + columns - rows)).astype(np.float32)


def unevenness(image: Pixels) -> float:
    tissue = image[0][inside(head())]
    return float(tissue.std() / tissue.mean())


def test_n4_takes_a_planted_field_away() -> None:
    image = head(air=0.5)
    before, after = unevenness(tilted(image)), unevenness(corrected(tilted(image)))
    assert before > 1.3 * unevenness(image)
    assert after < 1.1 * unevenness(image)


def test_n4_on_one_frame_goes_in_its_plane() -> None:
    image = head(air=0.5)[:, 12:13]
    whole = inside(image)
    found = corrected(tilted(image))
    assert found.shape == image.shape
    assert found[0][whole].std() / found[0][whole].mean() < 1.15 * image[0][whole].std() / image[0][whole].mean()


def test_the_bits_of_n4_do_not_depend_on_the_number_of_threads() -> None:
    section = Input(size=(16, 32, 32), bias_field="n4", spacing=(2.0, 1.5, 1.5))
    volume = Volume(tilted(head(64)).transpose(1, 0, 2, 3), np.diag([1.0, 1, 1.5, 1]))
    found = set()
    for threads in (1, 2, 4):
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
        found.add(hashlib.sha256(recipe(section).apply(volume).tobytes()).hexdigest())
    assert len(found) == 1


def test_n4_leaves_what_has_no_field() -> None:
    for image in (np.full((1, 4, 8, 8), 3, np.float32), np.zeros((1, 1, 8, 8), np.float32), -head(16)):
        np.testing.assert_array_equal(corrected(image), image)


def test_n4_refuses_colour_and_what_is_too_small() -> None:
    with pytest.raises(UnfitImage, match="colour image"):
        corrected(np.zeros((3, 1, 8, 8), np.float32))
    with pytest.raises(UnfitImage, match="needs 4 pixels or more on every side"):
        corrected(np.zeros((1, 3, 8, 8), np.float32))


def test_a_bias_field_is_looked_for_in_modality_units() -> None:
    assert recipe(Input(bias_field="n4")).voi is False
