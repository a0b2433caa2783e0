"""Wilson, DeLong and Newcombe intervals: published examples, independent formulas, coverage."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.stats import binomtest, norm  # type: ignore[import-untyped]
from sklearn.metrics import roc_auc_score  # type: ignore[import-untyped]

from fedward_common.errors import RunError
from fedward_common.metrics import Estimate, auc_score_interval, delong_interval, wilson_interval

Z = 1.959963984540054


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_newcombes_published_examples(successes: int, trials: int, low: float, high: float) -> None:
    found = wilson_interval(successes, trials)  # Newcombe (1998), table I, method 3
    assert found.low == pytest.approx(low, abs=5e-5)
    assert found.high == pytest.approx(high, abs=5e-5)
    assert found.value == successes / trials


@given(st.integers(1, 500), st.data(), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_wilson_is_scipys(trials: int, data: st.DataObject, level: float) -> None:
    successes = data.draw(st.integers(0, trials))
    found = wilson_interval(successes, trials, level)
    expected = binomtest(successes, trials).proportion_ci(level, method="wilson")
    assert found.low == pytest.approx(expected.low, abs=1e-9)
    assert found.high == pytest.approx(expected.high, abs=1e-9)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.low < found.high


@pytest.mark.parametrize(("successes", "trials"), [(1, 0), (0, 0), (-1, 5), (6, 5), (math.nan, 5)])
def test_wilson_refuses_what_is_no_proportion(successes: float, trials: float) -> None:
    with pytest.raises(RunError, match="no proportion"):
        wilson_interval(successes, trials)


# DeLong --------------------------------------------------------------------------------------------------------------


def delong_by_definition(positives: list[float], negatives: list[float]) -> tuple[float, float]:
    """Area and variance, from the kernel of every pair (DeLong 1988, eq. 3 to 6)."""
    psi = np.array([[1.0 if x > y else 0.5 if x == y else 0.0 for y in negatives] for x in positives])
    auc = psi.mean()
    s10 = ((psi.mean(axis=1) - auc) ** 2).sum() / (len(positives) - 1)
    s01 = ((psi.mean(axis=0) - auc) ** 2).sum() / (len(negatives) - 1)
    return float(auc), float(s10 / len(positives) + s01 / len(negatives))


SCORE = st.one_of(st.floats(0, 1), st.sampled_from([0.2, 0.5, 0.8]))


@given(st.lists(SCORE, min_size=2, max_size=25), st.lists(SCORE, min_size=2, max_size=25))
def test_delong_is_its_definition_on_the_logit_scale(positives: list[float], negatives: list[float]) -> None:
    auc, variance = delong_by_definition(positives, negatives)
    labels = [1] * len(positives) + [0] * len(negatives)
    found = delong_interval(positives + negatives, labels)
    assert found.value == pytest.approx(auc, abs=1e-12)
    assert found.value == pytest.approx(roc_auc_score(labels, positives + negatives), abs=1e-12)
    if variance > 1e-12:
        half = Z * math.sqrt(variance) / (auc * (1 - auc))
        logit = math.log(auc / (1 - auc))
        assert found.low == pytest.approx(1 / (1 + np.exp(min(half - logit, 700))), abs=1e-9)
        assert found.high == pytest.approx(1 / (1 + np.exp(-half - logit)), abs=1e-9)
    else:
        assert found == auc_score_interval(found.value, len(positives), len(negatives))
    assert 0 <= found.low < found.high <= 1


def test_delong_by_hand() -> None:
    # Positives 0.8 and 0.4, negatives 0.1, 0.3 and 0.6: of six pairs, 0.4 < 0.6 is in the wrong order.
    # V10 = (1, 2/3), V01 = (1, 1, 1/2): variance (1/18)/2 + (1/12)/3 = 1/18.
    found = delong_interval([0.8, 0.4, 0.1, 0.3, 0.6], [1, 1, 0, 0, 0])
    half = Z * math.sqrt(1 / 18) / (5 / 36)
    assert found.value == pytest.approx(5 / 6)
    assert found.low == pytest.approx(1 / (1 + math.exp(half) / 5))
    assert found.high == pytest.approx(1 / (1 + math.exp(-half) / 5))


def test_delong_agrees_with_the_plain_interval_for_many_patients() -> None:
    rng = np.random.default_rng(1)
    labels = np.repeat([0, 1], [3000, 2000])
    scores = norm.cdf(rng.normal(size=5000) + labels)
    found = delong_interval(scores, labels)
    assert found.value == pytest.approx(norm.cdf(1 / math.sqrt(2)), abs=0.02)
    assert found.high - found.value == pytest.approx(found.value - found.low, rel=0.05)


def test_delong_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    labels = np.repeat([0, 1], [40, 30])
    truth = norm.cdf(1.5 / math.sqrt(2))
    intervals = [delong_interval(norm.cdf(rng.normal(size=70) + 1.5 * labels), labels) for _ in range(1000)]
    assert 0.93 <= np.mean([found.low <= truth <= found.high for found in intervals]) <= 0.98


def test_complementing_scores_mirrors_the_interval() -> None:
    rng = np.random.default_rng(3)
    scores, labels = rng.random(50), np.arange(50) % 2
    found, mirrored = delong_interval(scores, labels), delong_interval(1 - scores, labels)
    assert mirrored.low == pytest.approx(1 - found.high)
    assert mirrored.high == pytest.approx(1 - found.low)


@pytest.mark.parametrize("labels", [[1, 1, 1], [0, 0, 0]])
def test_delong_needs_both_classes(labels: list[int]) -> None:
    with pytest.raises(RunError, match="at least one positive and one negative"):
        delong_interval([0.1, 0.2, 0.3], labels)


# Where DeLong has no variance ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("positives", "negatives"), [(5, 5), (10, 40), (200, 300)])
def test_perfect_separation_does_not_claim_certainty(positives: int, negatives: int) -> None:
    found = delong_interval([0.9] * positives + [0.1] * negatives, [1] * positives + [0] * negatives)
    assert (found.value, found.high) == (1.0, 1.0)
    assert 0.5 < found.low < 1.0
    worst = delong_interval([0.1] * positives + [0.9] * negatives, [1] * positives + [0] * negatives)
    assert (worst.low, worst.value) == (0.0, 0.0)
    assert worst.high == pytest.approx(1 - found.low)


def test_one_score_for_all_does_not_claim_certainty() -> None:
    found = delong_interval([0.5] * 20, [0, 1] * 10)
    assert found.value == 0.5
    assert found.low < 0.35
    assert found.high > 0.65


def test_a_single_positive_has_an_interval() -> None:
    found = delong_interval([0.6, 0.1, 0.7, 0.2], [1, 0, 0, 0])
    assert found.value == pytest.approx(2 / 3)
    assert found.low < 0.3
    assert found.high > 0.9


def hanley_mcneil(area: float, size: float, pairs: float) -> float:
    """Hanley & McNeil (1982) in their own terms, Q1 and Q2, with `size` for either class in the covariances."""
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    return (area * (1 - area) + (size - 1) * (q1 - area**2) + (size - 1) * (q2 - area**2)) / pairs


@given(st.floats(0, 1), st.integers(1, 300), st.integers(1, 300))
def test_the_score_interval_ends_where_the_score_test_does(auc: float, positives: int, negatives: int) -> None:
    found = auc_score_interval(auc, positives, negatives)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.high - found.low > 0
    for end in (found.low, found.high):
        if 1e-6 < end < 1 - 1e-6:
            variance = hanley_mcneil(end, (positives + negatives) / 2, positives * negatives)
            assert abs(auc - end) == pytest.approx(Z * math.sqrt(variance), rel=1e-5)


def test_the_score_interval_by_hand() -> None:
    # One patient of either class: V(A) = A (1 - A), so (1 - A)^2 = z^2 A (1 - A) and A = 1 / (1 + z^2).
    assert auc_score_interval(1.0, 1, 1).low == pytest.approx(1 / (1 + Z**2))


def test_the_score_interval_covers_when_classes_are_all_but_separated() -> None:
    rng = np.random.default_rng(4)
    labels = np.repeat([0, 1], [15, 15])
    truth = norm.cdf(3 / math.sqrt(2))
    intervals = [delong_interval(norm.cdf(rng.normal(size=30) + 3.0 * labels), labels) for _ in range(500)]
    assert np.mean([found.value == 1.0 for found in intervals]) > 0.1  # or this test would say nothing
    assert np.mean([found.low <= truth <= found.high for found in intervals]) >= 0.93


# Estimate ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        '{"value": 0.9, "low": 0.95, "high": 0.99}',
        '{"value": 0.9, "low": 0.8, "high": 0.85}',
        '{"value": NaN, "low": 0.8, "high": 0.95}',
        '{"value": 0.9, "low": -Infinity, "high": 0.95}',
        '{"value": 0.9, "low": 0.8}',
        '{"value": "0.9", "low": 0.8, "high": 0.95}',
        '{"value": 0.9, "low": 0.8, "high": 0.95, "score": 0.1}',
    ],
)
def test_an_absurd_estimate_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        Estimate.model_validate_json(text)


def test_an_estimate_may_be_of_a_difference() -> None:
    found = Estimate(value=-0.05, low=-0.1, high=2.0)
    assert Estimate.model_validate_json(found.model_dump_json()) == found
