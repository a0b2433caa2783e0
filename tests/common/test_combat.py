"""Federated ComBat is ComBat: the oracle is the published algorithm on the pooled table, written out."""

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pydantic import ValidationError

from fedward_common.combat import CombatSums, fit, harmonised, site_sums
from fedward_common.errors import DataError, RecordError, RunError
from fedward_common.study_table import CombatModel

Floats = npt.NDArray[np.float64]
Tables = dict[str, tuple[Floats, Floats]]  # by site, features [n, G] and covariates [n, p]

SIZES = {"north": 37, "harbour": 61, "valley": 12}


def planted(seed: int, *, features: int = 23, covariates: int = 2, sizes: dict[str, int] = SIZES) -> Tables:
    """Sites of unequal size that differ in mean and scale, with patients of another age at each."""
    random = np.random.default_rng(seed)
    base, slope = random.normal(50, 20, features), random.normal(0, 3, (covariates, features))
    tables = {}
    for index, (name, patients) in enumerate(sizes.items()):
        x = random.normal(index, 1, (patients, covariates))
        if covariates > 1:
            x[:, -1] = np.arange(patients) % 2  # a sex, say
        shift, scale = random.normal(4 * index, 2, features), random.gamma(4, 0.5, features)
        y = base + x @ slope + shift + scale * random.normal(0, 2, (patients, features))
        tables[name] = y, x
    return tables


def federated(tables: Tables, **options: Any) -> Tables:
    """What the sites end with when sums travel alone, as JSON."""
    sent = {name: site_sums(y, x, min_cell=5).model_dump_json() for name, (y, x) in tables.items()}
    model = fit({name: CombatSums.model_validate_json(text) for name, text in sent.items()})
    model = CombatModel.model_validate_json(model.model_dump_json())
    return {name: (harmonised(y, x, model, name), x) for name, (y, x) in tables.items()}


def centralised(tables: Tables) -> Tables:
    """Johnson, Li and Rabinovic 2007, sections 3.1 and 3.2, on all patients in one table."""
    names = list(tables)
    y = np.concatenate([tables[name][0] for name in names])
    x = np.concatenate([tables[name][1] for name in names])
    batch = np.concatenate([np.full(len(tables[name][0]), index) for index, name in enumerate(names)])
    design = np.hstack([np.eye(len(names))[batch], x])
    coefficients = np.linalg.lstsq(design, y, rcond=None)[0]
    share = np.bincount(batch) / len(batch)
    sigma = np.sqrt(((y - design @ coefficients) ** 2).mean(axis=0))
    expected = share @ coefficients[: len(names)] + x @ coefficients[len(names) :]
    z = (y - expected) / sigma
    found = np.empty_like(y)
    for index in range(len(names)):
        own = z[batch == index]
        gamma, delta = empirical_bayes(own)
        found[batch == index] = (own - gamma) / np.sqrt(delta) * sigma + expected[batch == index]
    return {name: (found[batch == index], tables[name][1]) for index, name in enumerate(names)}


def empirical_bayes(z: Floats) -> tuple[Floats, Floats]:
    """The posterior means of a site's standardised values [n, G], iterated until they stand."""
    n, gamma_hat, delta_hat = len(z), z.mean(axis=0), z.var(axis=0, ddof=1)
    gamma_bar, tau2 = gamma_hat.mean(), gamma_hat.var(ddof=1)
    mean, variance = delta_hat.mean(), delta_hat.var(ddof=1)
    shape, rate = mean**2 / variance + 2, mean**3 / variance + mean  # moments of the inverse gamma
    gamma, delta = gamma_hat, delta_hat
    for _ in range(2000):
        gamma = (n * tau2 * gamma_hat + delta * gamma_bar) / (n * tau2 + delta)
        delta = (rate + ((z - gamma) ** 2).sum(axis=0) / 2) / (n / 2 + shape - 1)
    return gamma, delta


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("features", "covariates"), [(2, 0), (23, 1), (40, 4)])
def test_sums_give_what_the_pooled_table_gives(seed: int, features: int, covariates: int) -> None:
    tables = planted(seed, features=features, covariates=covariates)
    expected, found = centralised(tables), federated(tables)
    for name in tables:
        np.testing.assert_allclose(found[name][0], expected[name][0], rtol=0, atol=1e-8)


def test_a_large_offset_costs_no_digits() -> None:
    tables = {name: (y + 1e6, x + 1e3) for name, (y, x) in planted(1).items()}
    expected, found = centralised(planted(1)), federated(tables)
    for name in tables:
        np.testing.assert_allclose(found[name][0] - 1e6, expected[name][0], atol=1e-6)


def test_what_sites_add_goes_and_what_a_covariate_explains_stays() -> None:
    random = np.random.default_rng(7)
    slope = np.linspace(-2, 2, 30)
    tables = {}
    for name, shift, scale, age in (("north", 0, 1, 40), ("south", 8, 3, 60)):
        years = random.normal(age, 10, 400)
        noise = random.normal(0, 5, (400, 30))
        tables[name] = (100 + years[:, None] * slope + shift + scale * noise, years[:, None])
    found = federated(tables)
    left = {name: y - x @ slope[None] for name, (y, x) in found.items()}
    before = {name: y - x @ slope[None] for name, (y, x) in tables.items()}
    assert np.abs(before["north"].mean(axis=0) - before["south"].mean(axis=0)).min() > 6
    assert np.abs(left["north"].mean(axis=0) - left["south"].mean(axis=0)).max() < 1.5
    ratio = left["south"].std(axis=0) / left["north"].std(axis=0)
    np.testing.assert_allclose(ratio, 1, atol=0.12)  # it was 3
    together = np.concatenate([y for y, _ in found.values()])
    years = np.concatenate([x for _, x in found.values()])[:, 0]
    kept = np.array([np.polyfit(years, feature, 1)[0] for feature in together.T])
    np.testing.assert_allclose(kept, slope, atol=0.1)


def test_the_order_of_the_sites_does_not_matter() -> None:
    sums = {name: site_sums(y, x, min_cell=5) for name, (y, x) in planted(3).items()}
    assert fit(sums) == fit(dict(reversed(sums.items())))


def test_features_that_all_vary_alike_are_no_division_by_zero() -> None:
    one = np.random.default_rng(4).normal(0, 1, (20, 1))
    tables = {
        "north": (np.hstack([one, one]), np.zeros((20, 0))),
        "south": (np.hstack([one, one]) * 2 + 3, np.zeros((20, 0))),
    }
    found = federated(tables)
    np.testing.assert_allclose(found["north"][0], found["south"][0], atol=1e-9)


# --- what stays home


def test_sums_over_few_patients_stay_home() -> None:
    y, x = planted(0)["valley"]
    with pytest.raises(
        DataError, match=r"with 2 covariates this hospital needs at least 7 patients \(\[privacy\] min_cell"
    ):
        site_sums(y[:6], x[:6], min_cell=5)
    with pytest.raises(DataError, match="at least 5 patients"):
        site_sums(y[:4], min_cell=5)
    assert site_sums(y[:5], min_cell=5).patients == 5
    with pytest.raises(DataError, match="at least 2 patients"):  # one has no variance
        site_sums(y[:1], min_cell=1)


def test_a_group_of_few_patients_stays_home() -> None:
    y, x = planted(0)["north"]
    rare = np.hstack([x, (np.arange(len(x)) < 4)[:, None]])
    with pytest.raises(DataError, match="make a group of fewer than 5 patients"):
        site_sums(y, rare, min_cell=5)
    crossed = np.stack([np.arange(37) < 18, np.arange(37) < 16], axis=1)  # each value is common, the pair is not
    with pytest.raises(DataError, match="group of fewer than 5"):
        site_sums(y, crossed, min_cell=5)
    assert site_sums(y, crossed, min_cell=2).patients == 37


# --- what is refused


@pytest.mark.parametrize(
    ("features", "covariates", "words"),
    [
        (np.ones(9), None, "at least two, a row a patient"),
        (np.ones((9, 1)), None, "at least two, a row a patient"),
        (np.ones((9, 2)), np.ones((8, 1)), "a row for each patient"),
        (np.ones((9, 2)), np.ones(9), "a row for each patient"),
        (np.full((9, 2), np.nan), None, "missing or not finite"),
        (np.ones((9, 2)), np.full((9, 1), np.inf), "missing or not finite"),
    ],
)
def test_tables_that_are_none(features: Floats, covariates: Floats | None, words: str) -> None:
    with pytest.raises(DataError, match=words):
        site_sums(features, covariates, min_cell=5)


def test_sites_that_cannot_be_compared() -> None:
    sums = {name: site_sums(y, x, min_cell=5) for name, (y, x) in planted(0).items()}
    with pytest.raises(RunError, match="at least two"):
        fit({"north": sums["north"]})
    other = planted(0, features=3)["valley"]
    with pytest.raises(RecordError, match="different features or covariates"):
        fit(sums | {"valley": site_sums(*other, min_cell=5)})


def test_covariates_that_cannot_be_told_apart() -> None:
    tables = planted(0)
    twice = {name: site_sums(y, np.hstack([x, 1000 * x[:, :1]]), min_cell=5) for name, (y, x) in tables.items()}
    with pytest.raises(DataError, match="cannot be told apart"):
        fit(twice)
    by_site = {
        name: site_sums(y, np.full((len(y), 1), index + 0.1), min_cell=5)
        for index, (name, (y, _)) in enumerate(tables.items())
    }
    with pytest.raises(DataError, match="cannot be told apart"):
        fit(by_site)


def test_features_that_do_not_vary() -> None:
    tables = planted(0)
    flat = {
        name: np.hstack([y[:, :3], np.full((len(y), 1), i + 0.1)]) for i, (name, (y, _)) in enumerate(tables.items())
    }
    with pytest.raises(DataError, match="feature 4 does not vary within any hospital"):
        fit({name: site_sums(y, min_cell=5) for name, y in flat.items()})
    still = {name: site_sums(np.ones_like(y) if name == "valley" else y, min_cell=5) for name, (y, _) in tables.items()}
    with pytest.raises(DataError, match="no feature varies within site valley"):
        fit(still)


def test_a_model_serves_the_sites_and_tables_that_it_was_fitted_with() -> None:
    tables = planted(0)
    model = fit({name: site_sums(y, x, min_cell=5) for name, (y, x) in tables.items()})
    y, x = tables["north"]
    with pytest.raises(DataError, match="site coast sent no sums"):
        harmonised(y, x, model, "coast")
    with pytest.raises(DataError, match="takes 2 covariates and 23 features"):
        harmonised(y, x[:, :1], model, "north")


@pytest.mark.parametrize(
    "change",
    [
        {"patients": 1},
        {"yy": [1.0]},
        {"yy": [-1.0, 1.0]},
        {"xx": [[1.0, 2.0]]},
        {"xy": []},
        {"y_mean": [1.0]},
        {"more": 1},
    ],
)
def test_sums_of_another_shape_are_refused(change: dict[str, Any]) -> None:
    good = {"patients": 9, "x_mean": [1.0], "y_mean": [1.0, 2.0], "xx": [[1.0]], "xy": [[1.0, 2.0]], "yy": [1.0, 2.0]}
    CombatSums.model_validate_json(json.dumps(good))
    with pytest.raises(ValidationError):
        CombatSums.model_validate_json(json.dumps(good | change))
