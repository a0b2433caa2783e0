"""One grey scale from sums: worked by hand, then the properties that hospitals and their patients rely on."""

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import ValidationError

from fedward_common.errors import DataError, RunError
from fedward_common.landmarks import (
    UNIT,
    LandmarkSums,
    mapped,
    merged,
    own_landmarks,
    relative,
    site_sums,
    standard_scale,
)

EVEN = tuple(tenth / 10 for tenth in range(1, 10))
DECILES = tuple((10 * tenth - 1) / 98 for tenth in range(1, 10))  # of 0, 1, … 100: between percentiles 1 and 99


def float32(*values: float) -> npt.NDArray[np.float32]:
    return np.array(values, dtype=np.float32)


def landmarks_of(values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    found = relative(own_landmarks(values))
    assert found is not None
    return found


# --- by hand


def test_the_landmarks_of_a_ramp() -> None:
    # of 0, 1, … 100, percentile p is p: 1 becomes 0 and 99 becomes 1, so that 10 stands at 9/98
    np.testing.assert_array_equal(own_landmarks(range(101)), [1, 10, 20, 30, 40, 50, 60, 70, 80, 90, 99])
    np.testing.assert_allclose(landmarks_of(range(101)), DECILES, rtol=1e-12)


def test_the_scale_of_two_patients_at_two_hospitals_is_their_mean() -> None:
    # patient a has two images, at 0.2 and 0.4 throughout, so 0.3; b has one at 0.5: the mean of the two is 0.4
    north = site_sums([[0.2] * 9, [0.4] * 9], ["a", "a"], min_cell=1)
    south = site_sums([[0.5] * 9], ["b"], min_cell=1)
    assert north == LandmarkSums(patients=1, sums=(300_000,) * 9)
    assert standard_scale(merged([north, south])) == (0.4,) * 9


def test_values_are_moved_along_straight_lines() -> None:
    # landmarks 0, 10, 20, … 100 to a scale that is 0.5 at 10 and rises by 0.05 a step: halfway to 10 is 0.25
    scale = tuple(0.45 + 0.05 * step for step in range(1, 10))
    values = float32(-7, 0, 5, 10, 15, 90, 95, 100, 1000)
    found = mapped(values, np.arange(0.0, 101.0, 10.0), scale)
    np.testing.assert_allclose(found, [0, 0, 0.25, 0.5, 0.525, 0.9, 0.95, 1, 1], rtol=1e-6)


def test_a_background_of_one_value_takes_its_lowest_place_and_the_brightest_becomes_one() -> None:
    landmarks = np.array([5.0] * 6 + [6, 7, 8, 9, 9])  # percentiles 1 to 50 are 5, both 90 and 99 are 9
    np.testing.assert_allclose(mapped(float32(5, 6, 7, 8, 9), landmarks, EVEN), [0, 0.6, 0.7, 0.8, 1], rtol=1e-6)


def test_a_constant_image_has_no_landmarks_and_becomes_zeros() -> None:
    constant = float32(*[3.5] * 20)
    assert relative(own_landmarks(constant)) is None
    assert not mapped(constant, own_landmarks(constant), EVEN).any()


def test_an_image_matched_to_its_own_landmarks_is_scaled_only() -> None:
    ramp = np.arange(101, dtype=np.float32)
    np.testing.assert_allclose(mapped(ramp, own_landmarks(ramp), DECILES), np.clip((ramp - 1) / 98, 0, 1), atol=1e-6)


# --- properties

images = hnp.arrays(np.float32, st.integers(1, 60), elements=st.floats(-1e6, 1e6, width=32))
scales = st.lists(st.integers(0, 100), min_size=9, max_size=9).map(lambda steps: tuple(s / 100 for s in sorted(steps)))


@settings(deadline=None)
@given(images, scales)
def test_the_order_of_grey_values_stays(image: npt.NDArray[np.float32], scale: tuple[float, ...]) -> None:
    found = mapped(image, own_landmarks(image), scale)
    assert (np.diff(found[np.argsort(image, kind="stable")]) >= 0).all()
    assert found.min() >= 0
    assert found.max() <= 1
    assert found.dtype == np.float32


@settings(deadline=None)
@given(images, st.floats(0.1, 10), st.floats(-100, 100))
def test_gain_and_offset_of_a_scanner_go_away(image: npt.NDArray[np.float32], gain: float, offset: float) -> None:
    values = image.astype(np.float64)
    there, here = relative(own_landmarks(values * gain + offset)), relative(own_landmarks(values))
    if there is not None and here is not None and np.ptp(values) > 1:
        np.testing.assert_allclose(there, here, atol=1e-6)


def test_a_scanners_grey_curve_goes_away() -> None:
    tissue = np.random.default_rng(1).gamma(3.0, 20.0, 40_000)
    curved = 900 * (tissue / tissue.max()) ** 0.45 + 30
    scale = standard_scale(site_sums([landmarks_of(tissue), landmarks_of(curved)], [0, 1], min_cell=1))
    one, two = (mapped(image.astype(np.float32), own_landmarks(image), scale) for image in (tissue, curved))
    alike = [np.percentile(image, range(1, 100)) for image in (one, two)]
    plain = [np.clip((i - np.percentile(i, 1)) / np.ptp(np.percentile(i, (1, 99))), 0, 1) for i in (tissue, curved)]
    before = np.abs(np.percentile(plain[0], range(1, 100)) - np.percentile(plain[1], range(1, 100))).max()
    assert before > 0.15
    assert np.abs(alike[0] - alike[1]).max() < before / 10


@given(st.permutations(range(6)))
def test_the_scale_does_not_depend_on_the_order_of_the_sites(order: list[int]) -> None:
    random = np.random.default_rng(2)
    sites = [site_sums(np.sort(random.random((5, 9))), range(5), min_cell=5) for _ in range(6)]
    assert standard_scale(merged(sites[index] for index in order)) == standard_scale(merged(sites))


def test_the_scale_of_the_sites_is_that_of_all_their_patients_together() -> None:
    random = np.random.default_rng(3)
    tables = [np.sort(random.random((count, 9))) for count in (5, 17, 80)]
    scale = standard_scale(merged(site_sums(table, range(len(table)), min_cell=5) for table in tables))
    np.testing.assert_allclose(scale, np.concatenate(tables).mean(axis=0), atol=2e-6)
    assert list(scale) == sorted(scale)


# --- what stays home, and what is refused


def test_sums_over_few_patients_stay_home() -> None:
    table, four = [[0.5] * 9] * 8, [1, 1, 2, 2, 3, 3, 4, 4]
    with pytest.raises(DataError, match=r"fewer than 5 patients .* leave this hospital out of the measuring"):
        site_sums(table, four, min_cell=5)
    assert site_sums(table, four, min_cell=4).patients == 4
    with pytest.raises(DataError, match="fewer than 1 patients"):
        site_sums([], [], min_cell=0)


def test_without_a_hospital_there_is_no_scale() -> None:
    with pytest.raises(RunError, match="no hospital sent landmarks"):
        merged([])


def test_sums_travel_as_json() -> None:
    sums = site_sums([DECILES] * 6, range(6), min_cell=5)
    assert json.loads(sums.model_dump_json()) == {"patients": 6, "sums": [6 * round(UNIT * d) for d in DECILES]}
    assert LandmarkSums.model_validate_json(sums.model_dump_json()) == sums


@pytest.mark.parametrize(
    "change",
    [
        {"patients": 0},
        {"sums": [1] * 8},
        {"sums": [2, 1, *[3] * 7]},
        {"sums": [-1, *[3] * 8]},
        {"sums": [*[3] * 8, 6_000_001]},
        {"sums": [0.5] * 9},
        {"scanner": "Acme"},
    ],
)
def test_sums_that_no_images_have_are_refused(change: dict[str, Any]) -> None:
    good = {"patients": 6, "sums": [6] * 9}
    LandmarkSums.model_validate_json(json.dumps(good))
    with pytest.raises(ValidationError):
        LandmarkSums.model_validate_json(json.dumps(good | change))
