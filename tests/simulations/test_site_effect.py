"""Telling hospitals apart: where there is nothing to tell, where there is, and real tissue before and after."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from fedward_client.harmonize import Recipe, recipe
from fedward_client.site_data import SiteData
from fedward_client.volume import Volume
from fedward_common.combat import fit, harmonised
from fedward_common.combat import site_sums as combat_sums
from fedward_common.errors import DataError
from fedward_common.landmarks import merged, site_sums, standard_scale
from fedward_common.study import Input
from fedward_simulations import busi
from fedward_simulations.scanners import Scanner
from fedward_simulations.site_effect import PERMUTATIONS, change, describe, of_sites, site_effect

Floats = npt.NDArray[np.float64]

PATIENTS = 40  # a hospital
SCANNERS = {
    "north": Scanner(
        manufacturer="Acme", model="A", size=128, resolution=128, gain=1.0, gamma=1.0, speckle=0.0, grain=128
    )
}
SCANNERS["harbour"] = replace(SCANNERS["north"], model="B", gain=0.7, gamma=1.6)
SCANNERS["valley"] = replace(SCANNERS["north"], model="C", gain=0.9, gamma=0.55)


def normal(*shape: int, seed: int) -> Floats:
    return np.random.default_rng(seed).normal(size=shape)


# --- the test itself


def test_hospitals_without_a_difference_cannot_be_told() -> None:
    effect = site_effect([normal(60, 6, seed=1), normal(30, 6, seed=2), normal(15, 6, seed=3)])
    assert effect.chance == pytest.approx(1 / 3)
    assert effect.chance_low < effect.accuracy < effect.chance_high
    assert not effect.found
    assert effect.patients == 105


def test_a_planted_difference_is_told() -> None:
    effect = site_effect([normal(60, 6, seed=1), normal(15, 6, seed=2) + 4])
    assert effect.accuracy > 0.95
    assert effect.found
    assert effect.p_value == pytest.approx(1 / (PERMUTATIONS + 1))
    assert effect.chance_high < 0.8


def test_a_large_hospital_does_not_make_the_figure() -> None:
    # who always says "the large one" is right for 200 of 210 patients, and balanced accuracy is one half
    effect = site_effect([normal(200, 3, seed=1), normal(10, 3, seed=2)])
    assert effect.accuracy < 0.75
    assert effect.chance == 0.5


def test_the_same_question_has_the_same_answer() -> None:
    tables = [normal(20, 3, seed=1), normal(20, 3, seed=2) + 0.5]
    assert site_effect(tables, seed=4) == site_effect(tables, seed=4)
    assert site_effect(tables, seed=4) != site_effect(tables, seed=5)


def test_too_few_to_ask() -> None:
    with pytest.raises(DataError, match="at least two of them"):
        site_effect([normal(20, 3, seed=1)])
    with pytest.raises(DataError, match="at least 5 patients at every hospital"):
        site_effect([normal(20, 3, seed=1), normal(4, 3, seed=2)])


# --- features


def test_the_features_of_stripes_by_hand() -> None:
    # columns 0 1 0 1: mean 1/2, deviation 1/2; the step is 1 along a row and 0 down, so 1/2, of which 1 deviation
    stripes = np.tile(np.array([0, 1], np.float32), (1, 1, 8, 4))
    [found] = describe(stripes)
    assert len(found) == 14
    np.testing.assert_allclose(found[:3], [0.5, 0.5, 0], atol=1e-12)
    np.testing.assert_array_equal(found[[3, -5 - 1]], [0, 1])
    # pixels 1 apart: -1 along, 1 down; 2 and 4 apart: 1 both ways
    np.testing.assert_allclose(found[10:], [1, 0, 1, 1], atol=1e-12)


def test_noise_and_blur_are_told_apart_from_each_other() -> None:
    noise = normal(1, 1, 64, 64, seed=1).astype(np.float32)
    blurred = (noise + np.roll(noise, 1, -1) + np.roll(noise, 1, -2) + np.roll(noise, (1, 1), (-1, -2))) / 4
    sharp, soft = describe(np.concatenate([noise, blurred]))
    assert sharp[10] > 1.3 * soft[10]
    assert soft[11] > sharp[11] + 0.3


def test_a_constant_image_has_features() -> None:
    found = describe(np.full((1, 3, 4, 8, 8), 7, np.float32))
    np.testing.assert_allclose(found, [[7, 0, 0, *[7] * 7, 0, 0, 0, 0]])


def test_a_patient_counts_once() -> None:
    images = normal(20, 1, 8, 8, seed=1).astype(np.float32)
    twice = np.repeat(images, 2, axis=0)
    sites = {
        "north": site_data(images[:10], range(10)),
        "south": site_data(twice[20:], np.repeat(range(10), 2)),
    }
    assert of_sites(sites) == of_sites({**sites, "south": site_data(images[10:], range(10))})


# --- tissue


def site_data(images: npt.NDArray[np.float32], patients: npt.ArrayLike) -> SiteData:
    return SiteData(
        images=images,
        labels=np.zeros(len(images), np.int64),
        patients=np.asarray(patients, np.int64),
        sides=np.zeros(len(images), np.int8),
        cohort_digest="",
    )


@pytest.fixture(scope="module")
def scans() -> dict[str, list[Volume]]:
    """Real tissue of other patients at each hospital, shown by that hospital's scanner."""
    rows = [row for row in busi.load_index() if row.label == "benign"]
    random = np.random.default_rng(0)
    files = iter(random.permutation([row.file for row in rows])[: 3 * PATIENTS].tolist())
    return {
        name: [Volume(scanner.show(busi.read_image(next(files)), random)[None, None]) for _ in range(PATIENTS)]
        for name, scanner in SCANNERS.items()
    }


def tensors(scans: Mapping[str, list[Volume]], made: Recipe) -> dict[str, SiteData]:
    return {name: site_data(np.stack([made.apply(v) for v in own]), range(PATIENTS)) for name, own in scans.items()}


def test_matching_to_federated_landmarks_hides_the_scanner(scans: dict[str, list[Volume]]) -> None:
    section = Input(size=(64, 64), intensity="landmarks")
    measure = recipe(section)
    sums = [site_sums([measure.measure(v) for v in own], range(PATIENTS), min_cell=5) for own in scans.values()]
    matched = recipe(section.model_copy(update={"landmarks": standard_scale(merged(sums))}))
    found = change(tensors(scans, recipe(Input(size=(64, 64)))), tensors(scans, matched))
    assert found.before.accuracy > 0.7
    assert found.before.found
    assert found.after.accuracy < 0.5


def test_combat_hides_the_scanner_in_features(scans: dict[str, list[Volume]]) -> None:
    plain = recipe(Input(size=(64, 64)))
    tables = {name: describe(np.stack([plain.apply(v) for v in own])) for name, own in scans.items()}
    tables = {name: np.delete(table, [3, 9], axis=1) for name, table in tables.items()}  # 0 and 1 by the recipe
    model = fit({name: combat_sums(table, min_cell=5) for name, table in tables.items()})
    after = site_effect([harmonised(table, None, model, name) for name, table in tables.items()])
    before = site_effect(list(tables.values()))
    assert before.accuracy > 0.7
    assert after.accuracy < 0.5
