"""One scale for all hospitals' features: scikit-learn on the pooled table is the oracle, and ComBat on it."""

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from sklearn.preprocessing import StandardScaler  # type: ignore[import-untyped]

from fedward_common import combat
from fedward_common.errors import DataError, RecordError, RunError
from fedward_common.feature_scale import FeatureSums, by_patient, fit, scaled, site_sums
from fedward_common.study import FeatureScale, TableInput

Floats = npt.NDArray[np.float64]

NAMES = ("age", "volume", "thickness", "male")
PLAIN = TableInput(kind="table", features=NAMES)
COMBAT = TableInput(kind="table", features=NAMES, combat=("volume", "thickness"), covariates=("age",))
SIZES = {"north": 37, "harbour": 61, "valley": 43}


def planted(seed: int = 0, missing: float = 0.0) -> dict[str, Floats]:
    """Hospitals whose devices shift and scale two features, with patients of another age at each."""
    random = np.random.default_rng(seed)
    tables = {}
    for index, (name, patients) in enumerate(SIZES.items()):
        age = random.normal(60 + 5 * index, 8, patients)
        table = np.stack(
            [
                age,
                7 - 0.05 * age + 3 * index + (1 + index) * random.normal(0, 0.3, patients),
                2.5 - 0.01 * age - index + (2 - 0.5 * index) * random.normal(0, 0.1, patients),
                np.arange(patients) % 2,
            ],
            axis=1,
        )
        table[random.random(table.shape) < missing] = np.nan
        tables[name] = table
    return tables


def measured(tables: dict[str, Floats], section: TableInput) -> TableInput:
    """The study's input on the scale that sums give which travel as JSON, and back."""
    sent = {
        name: site_sums(table, np.arange(len(table)), section, min_cell=5).model_dump_json()
        for name, table in tables.items()
    }
    scale = fit({name: FeatureSums.model_validate_json(text) for name, text in sent.items()}, section)
    return section.on_scale(FeatureScale.model_validate_json(scale.model_dump_json()))


@pytest.mark.parametrize("missing", [0.0, 0.4])
def test_the_scale_is_that_of_the_pooled_table(missing: float) -> None:
    tables = planted(missing=missing)
    section = measured(tables, PLAIN)
    oracle = StandardScaler().fit(np.concatenate(list(tables.values())))
    for name, table in tables.items():
        expected = np.nan_to_num(oracle.transform(table), nan=0.0)
        found = scaled(table, section, name)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_combat_comes_first_and_is_that_of_the_pooled_table() -> None:
    """Of `combat`, which tests/common/test_combat.py holds against the published algorithm."""
    tables = planted()
    section = measured(tables, COMBAT)
    sums = {name: combat.site_sums(table[:, 1:3], table[:, :1], min_cell=5) for name, table in tables.items()}
    model = combat.fit(sums)
    assert section.scale is not None
    assert section.scale.combat is not None
    np.testing.assert_allclose(section.scale.combat.alpha, model.alpha)
    np.testing.assert_allclose(section.scale.combat.sites["valley"].gamma, model.sites["valley"].gamma)
    found = {name: scaled(table, section, name) for name, table in tables.items()}
    for name, table in tables.items():
        freed = combat.harmonised(table[:, 1:3], table[:, :1], model, name)
        centre, spread = np.array(section.scale.centre), np.array(section.scale.spread)
        np.testing.assert_allclose(found[name][:, 1:3], (freed - centre[1:3]) / spread[1:3], atol=1e-5)
    everybody = np.concatenate(list(found.values()))
    np.testing.assert_allclose(everybody[:, 0].mean(), 0, atol=1e-6)
    np.testing.assert_allclose(everybody[:, 0].std(), 1, atol=1e-6)
    np.testing.assert_allclose(everybody[:, 1:3].mean(axis=0), 0, atol=0.05)
    np.testing.assert_allclose(everybody[:, 1:3].std(axis=0), 1, atol=0.15)


def test_after_combat_hospitals_differ_by_their_patients_only() -> None:
    """The shift of 3 and 6 that devices add is gone; what age explains stays, with its sign."""
    tables = planted()
    found = {name: scaled(table, measured(tables, COMBAT), name) for name, table in tables.items()}
    residuals = {
        name: (
            each[:, 1] - np.polyval(np.polyfit(everybody(found)[:, 0], everybody(found)[:, 1], 1), each[:, 0])
        ).mean()
        for name, each in found.items()
    }
    assert max(map(abs, residuals.values())) < 0.1
    assert np.polyfit(everybody(found)[:, 0], everybody(found)[:, 1], 1)[0] < -0.3
    plain = {name: scaled(table, measured(tables, PLAIN), name) for name, table in tables.items()}
    assert plain["valley"][:, 1].mean() - plain["north"][:, 1].mean() > 1.5


def everybody(found: dict[str, npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
    return np.concatenate(list(found.values()))


@settings(max_examples=30, deadline=None)
@given(st.permutations(sorted(SIZES)), st.integers(0, 100))
def test_the_order_of_sites_makes_no_difference(order: list[str], seed: int) -> None:
    tables = planted(seed, missing=0.1)
    sums = {name: site_sums(tables[name], np.arange(SIZES[name]), COMBAT, min_cell=5) for name in order}
    assert fit(sums, COMBAT) == fit(dict(sorted(sums.items())), COMBAT)


def test_a_patient_counts_once_with_the_mean_of_what_is_known() -> None:
    rows = [[1.0, np.nan], [3.0, 4.0], [5.0, np.nan], [7.0, np.nan]]
    np.testing.assert_array_equal(by_patient(rows, ["b", "b", "a", "a"]), [[6.0, np.nan], [2.0, 4.0]])
    section = TableInput(kind="table", features=("x",))
    once = site_sums(np.arange(20.0)[:, None], np.arange(20), section, min_cell=5)
    twice = site_sums(np.repeat(np.arange(20.0), 2)[:, None], np.repeat(np.arange(20), 2), section, min_cell=5)
    assert once == twice


def test_small_cells_stay_home() -> None:
    table = np.random.default_rng(1).normal(size=(40, 4))
    table[:, 1] = np.arange(40) < 3  # a level that three patients have: a mean would count them
    table[:2, 2] = np.nan  # two lack it: a count would tell so
    table[:37, 3] = np.nan  # three have it
    sums = site_sums(table, np.arange(40), PLAIN, min_cell=5)
    assert sums.known == (40, 0, 40, 0)
    assert (sums.mean[1], sums.squares[1], sums.mean[3], sums.squares[3]) == (0, 0, 0, 0)
    with pytest.raises(DataError, match="fewer than 5 training patients have a row"):
        site_sums(table[:4], np.arange(4), PLAIN, min_cell=5)


def test_what_combat_looks_at_is_told_once() -> None:
    """A mean over all beside one over those who have everything would tell the rest by subtraction."""
    table = planted()["north"]
    table[:2, 1] = np.nan
    sums = site_sums(table, np.arange(len(table)), COMBAT, min_cell=5)
    assert sums.known == (0, 0, 0, 37)
    assert sums.combat is not None
    assert sums.combat.patients == 35


def test_combat_refuses_a_feature_of_two_values_that_few_have() -> None:
    table = np.random.default_rng(1).normal(size=(40, 4))
    table[:, 1] = np.arange(40) < 3
    with pytest.raises(DataError, match="a two-valued feature is one of them at fewer than 5 patients"):
        site_sums(table, np.arange(40), COMBAT, min_cell=5)


def test_a_feature_of_one_value_becomes_0_and_an_untold_one_stays_as_it_is() -> None:
    tables = {"north": np.tile([50.0, 3.0, np.nan, 1.0], (20, 1))}
    found = scaled(tables["north"], measured(tables, PLAIN), "north")
    np.testing.assert_array_equal(found, np.zeros((20, 4)))
    rare = tables | {"north": np.column_stack([np.arange(20.0), np.ones((20, 2)), np.arange(20) < 2])}
    np.testing.assert_array_equal(scaled(rare["north"], measured(rare, PLAIN), "north")[:3, 3], [1, 1, 0])


def test_a_hospital_without_sums_has_no_place_in_combat() -> None:
    section = measured(planted(), COMBAT)
    with pytest.raises(DataError, match="site island sent no sums to this ComBat model"):
        scaled(planted()["north"], section, "island")
    with pytest.raises(DataError, match="not measured yet"):
        scaled(planted()["north"], COMBAT, "north")


def test_sums_that_do_not_fit_are_refused() -> None:
    tables = planted()
    plain = {name: site_sums(table, np.arange(len(table)), PLAIN, min_cell=5) for name, table in tables.items()}
    with pytest.raises(RecordError, match="other features than the study's"):
        fit(plain, COMBAT)
    with pytest.raises(RecordError, match="other features than the study's"):
        fit(plain, TableInput(kind="table", features=("age",)))
    with pytest.raises(RunError, match="no hospital sent sums"):
        fit({}, PLAIN)
    with pytest.raises(RunError, match="at least two"):
        fit({"north": site_sums(tables["north"], np.arange(37), COMBAT, min_cell=5)}, COMBAT)


@pytest.mark.parametrize("change", [{"yy": (1e308, 1e308)}, {"y_mean": (1e308, -1e308)}])
def test_sums_beyond_all_measure_end_a_run_in_words(change: dict[str, Any]) -> None:
    sums = {name: site_sums(table, np.arange(len(table)), COMBAT, min_cell=5) for name, table in planted().items()}
    own = sums["north"].combat
    assert own is not None
    wrong = sums["north"].model_copy(update={"combat": own.model_copy(update=change)})
    with pytest.raises(RunError, match="beyond all measure"):
        fit(sums | {"north": wrong}, COMBAT)


@pytest.mark.parametrize(
    "change",
    [
        {"known": [40, 40, 40]},
        {"known": []},
        {"squares": [-1.0, 0.0, 0.0, 0.0]},
        {"mean": [float("nan"), 0.0, 0.0, 0.0]},
        {"known": [2**40, 1, 1, 1]},
        {"mean": [1e39, 0.0, 0.0, 0.0]},
        {"squares": [1e300, 0.0, 0.0, 0.0]},
    ],
)
def test_impossible_sums_are_refused_on_reading(change: dict[str, Any]) -> None:
    good = json.loads(site_sums(planted()["north"], np.arange(37), PLAIN, min_cell=5).model_dump_json())
    FeatureSums.model_validate_json(json.dumps(good))
    with pytest.raises(ValidationError):
        FeatureSums.model_validate_json(json.dumps(good | change))


def test_levels_of_a_column_are_told_together_or_not_at_all() -> None:
    """Of 100 patients 8 are of neither level: the sums of the two would tell them."""
    levels = np.repeat([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], (8, 40, 52), axis=0)
    values = np.column_stack([levels, np.arange(100)])
    section = TableInput(kind="table", features=("cp=2", "cp=3", "age"))
    assert site_sums(values, np.arange(100), section, min_cell=5).known == (100, 100, 100)
    assert site_sums(values, np.arange(100), section, min_cell=10).known == (0, 0, 100)
