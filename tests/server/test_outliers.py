"""Outliers by cosine, against numbers worked by hand and scikit-learn."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.metrics.pairwise import cosine_similarity  # type: ignore[import-untyped]

from fedward_server.outliers import cosines, gram, outliers

BASE: dict[str, npt.NDArray[Any]] = {"w": np.ones(200_000, np.float32), "n": np.array([4], np.int64)}


def moved(direction: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
    return {"w": (BASE["w"] + direction).astype(np.float32), "n": BASE["n"] + 1}


def directions(count: int, seed: int = 0) -> npt.NDArray[np.float64]:
    """Directions around a common one."""
    random = np.random.default_rng(seed)
    return random.normal(size=200_000) + 0.3 * random.normal(size=(count, 200_000))


def test_the_gram_matrix_is_that_of_the_differences() -> None:
    rows = directions(3) * 1e-2
    updates = [moved(row) for row in rows]
    differences = np.stack([update["w"].astype(np.float64) - BASE["w"] for update in updates])
    np.testing.assert_allclose(gram(updates, BASE), differences @ differences.T, rtol=1e-9)


def test_cosines_to_the_others_mean_direction_as_scikit_learn_has_them() -> None:
    rows = np.random.default_rng(1).normal(size=(5, 7))
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    expected = [cosine_similarity(unit[[i]], np.delete(unit, i, 0).sum(0, keepdims=True))[0, 0] for i in range(5)]
    np.testing.assert_allclose(cosines(rows @ rows.T), expected, rtol=1e-9)


def test_by_hand() -> None:
    """Two along x, one along -x: the third's cosine is -1; for each of the others the rest cancels out."""
    rows = np.array([[1.0, 0.0], [5.0, 0.0], [-1.0, 0.0]])
    np.testing.assert_allclose(cosines(rows @ rows.T), [0.0, 0.0, -1.0], atol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_a_sign_flipped_update_is_found_however_large(scale: float) -> None:
    rows = directions(4)
    updates = {f"site-{n}": moved(row) for n, row in enumerate(rows)} | {"bad": moved(-scale * rows[0])}
    assert list(outliers(updates, BASE, 0.0)) == ["bad"]
    assert outliers(updates, BASE, -0.999) == {}


def test_half_of_the_sites_and_one_more_decide_what_is_elsewhere() -> None:
    """Where it ends: with most of the sites on the other side, the honest ones are the outliers."""
    rows = directions(7)
    honest = {f"good-{n}": moved(row) for n, row in enumerate(rows[:2])}
    flipped = {f"bad-{n}": moved(-row) for n, row in enumerate(rows[2:])}
    assert set(outliers({**honest, **flipped}, BASE, 0.0)) == set(honest)


def test_of_two_that_disagree_neither_is_the_outlier() -> None:
    row = directions(1)[0]
    assert outliers({"a": moved(row), "b": moved(-row)}, BASE, 0.5) == {}


def test_an_update_without_length_has_no_direction() -> None:
    rows = directions(3)
    updates = {f"site-{n}": moved(row) for n, row in enumerate(rows)} | {"idle": BASE}
    assert outliers(updates, BASE, 0.1) == {"idle": 0.0}
