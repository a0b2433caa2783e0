"""An image becomes a tensor. Small answers are worked by hand; the oracle is torch's trilinear kernel, another one."""

import hashlib
from typing import Literal

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedward_client.harmonize import recipe
from fedward_client.harmonize.channels import to_grey
from fedward_client.harmonize.intensity import finite, scale
from fedward_client.harmonize.resample import resample
from fedward_client.volume import Volume
from fedward_common.errors import UnreadableFile
from fedward_common.study import Input

Image = npt.NDArray[np.float32]


def square(*values: float) -> Image:
    """A 2 x 2 image, [1 channel, 1 frame, 2, 2]."""
    return np.array(values, dtype=np.float32).reshape(1, 1, 2, 2)


def noise(*shape: int, seed: int = 0) -> Image:
    return np.random.default_rng(seed).normal(100, 20, shape).astype(np.float32)


# --- intensity


def test_percentiles_become_zero_and_one_and_the_rest_is_clipped() -> None:
    # of 0 10 20 30, the 25th percentile is 7.5 and the 75th 22.5: (10 - 7.5) / 15 = 1/6, (20 - 7.5) / 15 = 5/6
    scaled = scale(square(0, 10, 20, 30), Input(percentiles=(25.0, 75.0)))
    np.testing.assert_allclose(scaled, square(0, 1 / 6, 5 / 6, 1), rtol=1e-6)


def test_a_sparse_image_whose_percentiles_meet_keeps_its_detail() -> None:
    image = np.zeros((1, 1, 20, 20), dtype=np.float32)
    image[0, 0, 3, 4], image[0, 0, 5, 6] = 8, 4
    scaled = scale(image, Input())
    assert scaled[0, 0, 3, 4] == 1.0
    assert scaled[0, 0, 5, 6] == 0.5
    assert scaled.sum() == 1.5


def test_zscore_has_mean_zero_and_deviation_one() -> None:
    # mean 3, squared distances 4 0 0 4, deviation sqrt(2)
    root = 2**0.5
    np.testing.assert_allclose(
        scale(square(1, 3, 3, 5), Input(intensity="zscore")), square(-root, 0, 0, root), rtol=1e-6
    )


def test_a_window_is_linear_exact() -> None:
    # centre 40, width 400: -160 becomes 0, 240 becomes 1
    section = Input(intensity="window", window=(40.0, 400.0))
    np.testing.assert_allclose(scale(square(-1000, -160, 40, 140), section), square(0, 0, 0.5, 0.75), rtol=1e-6)
    assert scale(square(-1000, 240, 3000, 40), section).max() == 1.0


@pytest.mark.parametrize("intensity", ["percentile", "zscore"])
@pytest.mark.parametrize("value", [0.0, 0.1, -7.0, 65535.0, 3e38])
def test_a_constant_image_becomes_zeros(intensity: Literal["percentile", "zscore"], value: float) -> None:
    scaled = recipe(Input(size=(8, 8), intensity=intensity)).apply(Volume(np.full((1, 1, 9, 9), value, np.float32)))
    assert not scaled.any()


def test_a_small_range_on_a_large_offset_keeps_its_digits() -> None:
    scaled = scale(square(30000, 30001, 30002, 30004), Input(percentiles=(0.0, 100.0)))
    np.testing.assert_array_equal(scaled, square(0, 0.25, 0.5, 1))


def test_pixels_that_are_not_finite_take_the_images_extremes() -> None:
    np.testing.assert_array_equal(finite(square(np.nan, -np.inf, 7, 5)), square(5, 5, 7, 5))
    np.testing.assert_array_equal(finite(square(np.inf, 1, 7, 5)), square(7, 1, 7, 5))
    np.testing.assert_array_equal(finite(square(np.nan, np.nan, np.inf, np.nan)), square(0, 0, 0, 0))


# --- channels


def test_colour_becomes_luminance() -> None:
    colour = np.array([[255, 0, 0, 255], [0, 255, 0, 255], [0, 0, 255, 255]], dtype=np.float32).reshape(3, 1, 2, 2)
    np.testing.assert_allclose(to_grey(colour), square(76.245, 149.685, 29.07, 255), rtol=1e-6)


def test_grey_stays_and_becomes_three_equal_channels_when_asked() -> None:
    pixels = noise(1, 1, 10, 10)
    one = recipe(Input(size=(8, 8))).apply(Volume(pixels))
    three = recipe(Input(size=(8, 8), channels=3)).apply(Volume(pixels))
    assert three.shape == (3, 8, 8)
    for band in three:
        np.testing.assert_array_equal(band, one[0])


def test_colour_keeps_its_hue_when_three_channels_are_asked() -> None:
    # statistics are over the channels together: a red that is constant stays brighter than the rest
    pixels = np.zeros((1, 3, 8, 8), dtype=np.float32)
    pixels[:, 0], pixels[:, 1] = 200, 100
    image = recipe(Input(size=(8, 8), channels=3, percentiles=(0.0, 100.0))).apply(Volume(pixels))
    np.testing.assert_array_equal(image[:, 0, 0], [1, 0.5, 0])


# --- resampling


def test_halving_weighs_neighbours_as_a_triangle() -> None:
    # a row of 4 to 2: the filter of support 2 around 0.5 and 2.5 weighs 3 3 1 (of 7) and 1 3 3
    row = np.array([0, 7, 14, 28], dtype=np.float32).reshape(1, 1, 1, 4)
    np.testing.assert_allclose(resample(row, (1, 2)), [[[35 / 7, (7 + 42 + 84) / 7]]], rtol=1e-6)


def test_doubling_is_linear_between_pixel_centres() -> None:
    np.testing.assert_allclose(
        resample(square(0, 4, 8, 12), (4, 4))[0],
        [[0, 1, 3, 4], [2, 3, 5, 6], [6, 7, 9, 10], [8, 9, 11, 12]],
        rtol=1e-6,
    )


def test_the_same_size_is_the_same_image() -> None:
    image = noise(1, 5, 9, 11)
    np.testing.assert_array_equal(resample(image, (5, 9, 11)), image)
    np.testing.assert_array_equal(resample(image[:, :1], (9, 11)), image[:, 0])


def test_growing_a_volume_agrees_with_the_trilinear_kernel() -> None:
    image = noise(1, 4, 5, 6)
    expected = torch.nn.functional.interpolate(torch.from_numpy(image)[None], size=(7, 10, 13), mode="trilinear")[0]
    np.testing.assert_allclose(resample(image, (7, 10, 13)), expected.numpy(), rtol=1e-5)


def test_shrinking_a_volume_averages_what_lies_between() -> None:
    checker = np.indices((16, 16, 16)).sum(axis=0)[None].astype(np.float32) % 2
    small = resample(checker, (4, 4, 4))
    np.testing.assert_allclose(small, 0.5, atol=0.02)  # without a low-pass filter this would be 0s and 1s


# --- the whole recipe


def test_a_flat_size_takes_the_middle_frame() -> None:
    pixels = np.stack([np.full((1, 8, 8), frame, dtype=np.float32) for frame in range(5)])
    pixels[:, 0, 0, 0] = -1
    section = Input(size=(8, 8), intensity="window", window=(2.0, 4.0))
    assert recipe(section).apply(Volume(pixels))[0, 4, 4] == 0.5  # frame 2 of 0..4
    assert recipe(section).apply(Volume(pixels[:4]))[0, 4, 4] == 0.5  # frame 2 of 0..3


def test_a_volume_size_takes_frames_as_depth() -> None:
    pixels = noise(12, 1, 20, 30)
    volume = recipe(Input(size=(8, 9, 10), percentiles=(0.0, 100.0))).apply(Volume(pixels))
    assert volume.shape == (1, 8, 9, 10)
    low, high = pixels.min(), pixels.max()
    expected = resample(((pixels - low) / (high - low)).transpose(1, 0, 2, 3), (8, 9, 10))
    np.testing.assert_allclose(volume, expected, atol=1e-5)


def test_one_frame_fills_a_volume() -> None:
    volume = recipe(Input(size=(8, 9, 10))).apply(Volume(noise(1, 1, 20, 30)))
    np.testing.assert_allclose(volume, np.repeat(volume[:, :1], 8, axis=1), rtol=1e-6)


@pytest.mark.parametrize("shape", [(8, 8), (1, 2, 8, 8), (1, 4, 8, 8), (0, 1, 8, 8), (1, 1, 0, 8)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UnreadableFile, match="1 or 3 channels"):
        recipe(Input()).apply(Volume(np.zeros(shape, dtype=np.float32)))


SCALE = (0.05, 0.1, 0.2, 0.3, 0.5, 0.5, 0.6, 0.8, 0.9)
inputs = (
    st.builds(
        Input,
        size=st.sampled_from([(8, 8), (9, 16), (8, 9, 10)]),
        channels=st.sampled_from([1, 3]),
        intensity=st.sampled_from(["percentile", "zscore"]),
        statistics=st.sampled_from(["image", "foreground"]),
        crop=st.sampled_from([None, "foreground"]),
    )
    | st.builds(
        Input,
        size=st.just((8, 9, 10)),
        orientation=st.sampled_from([None, "RAS", "SPL"]),
        spacing=st.just((1.0, 2.0, 0.5)),
        intensity=st.just("landmarks"),
        landmarks=st.just(SCALE),
    )
    | st.builds(Input, size=st.just((8, 8)), intensity=st.just("window"), window=st.just((40.0, 400.0)))
)
images = st.tuples(st.integers(1, 3), st.sampled_from([1, 3]), st.integers(1, 12), st.integers(1, 12)).flatmap(
    lambda shape: hnp.arrays(np.float32, shape, elements=st.floats(width=32))
)


@settings(deadline=None)
@given(inputs, images)
def test_any_pixels_become_a_finite_contiguous_float32_of_the_asked_shape(section: Input, pixels: Image) -> None:
    before = pixels.copy()
    pixels.flags.writeable = False
    made = recipe(section)
    image = made.apply(Volume(pixels, np.eye(4)))
    assert image.shape == made.shape == (section.channels, *section.size)
    assert image.dtype == np.float32
    assert image.flags.c_contiguous
    assert np.isfinite(image).all()
    np.testing.assert_array_equal(pixels, before)
    if section.intensity != "zscore":
        assert image.min() >= 0
        assert image.max() <= 1


@pytest.mark.parametrize("size", [(128, 128), (16, 64, 64)])
def test_the_bits_do_not_depend_on_the_number_of_threads(size: tuple[int, ...]) -> None:
    pixels, made = noise(24, 3, 300, 200), recipe(Input(size=size, channels=3))
    threads = torch.get_num_threads()
    found = set()
    try:
        for count in (1, 2, 4):
            torch.set_num_threads(count)
            found.add(hashlib.sha256(made.apply(Volume(pixels)).tobytes()).hexdigest())
    finally:
        torch.set_num_threads(threads)
    assert len(found) == 1


def test_the_digest_names_everything_that_changes_the_outcome() -> None:
    sections = [
        Input(),
        Input(size=(64, 64)),
        Input(channels=3),
        Input(intensity="zscore"),
        Input(percentiles=(0.0, 100.0)),
        Input(intensity="window", window=(40.0, 400.0)),
        Input(intensity="window", window=(40.0, 80.0)),
        Input(intensity="landmarks", landmarks=SCALE),
        Input(intensity="landmarks", landmarks=(0.01, *SCALE[1:])),
        Input(statistics="foreground"),
        Input(crop="foreground"),
        Input(bias_field="n4"),
        Input(spacing=(1.0, 1.0)),
        Input(spacing=(1.0, 2.0)),
        Input(spacing=(1.0, 1.0), max_upsampling=2.0),
        Input(size=(8, 8, 8)),
        Input(size=(8, 8, 8), orientation="RAS"),
        Input(size=(8, 8, 8), orientation="LPS"),
    ]
    assert len({recipe(section).digest for section in sections}) == len(sections)
    assert recipe(Input()).digest == recipe(Input(size=(128, 128))).digest


def test_windows_and_volumes_read_modality_units() -> None:
    assert recipe(Input()).voi is None
    assert recipe(Input(size=(8, 8, 8))).voi is False
    assert recipe(Input(intensity="window", window=(40.0, 400.0))).voi is False
