"""Harrell's C and the partial likelihood: by hand, by brute force, and what of them leaves a site."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from sklearn.metrics import roc_auc_score  # type: ignore[import-untyped]

from fedward_common.errors import DataError, RunError
from fedward_common.metrics import (
    Concordance,
    Evaluation,
    cox_loss,
    delong_interval,
    evaluate_survival,
    pooled_concordance,
    wilson_interval,
)

# Risks and times on a coarse grid, so that ties of either are common.
Case = tuple[float, float, bool]
cases = st.lists(st.tuples(st.integers(-3, 3).map(float), st.integers(1, 6).map(float), st.booleans()), max_size=25)


def columns(of: list[Case]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    risks, times, events = (np.array([case[i] for case in of]) for i in range(3))
    return risks.astype(np.float64), times.astype(np.float64), events.astype(bool)


def pairs(of: list[Case]) -> tuple[float, int]:
    """Concordant pairs, ties of risk counting half, and comparable ones: the definition, pair by pair."""
    right, comparable = 0.0, 0
    for risk, time, event in of:
        for other, later, had in of:
            if event and (later > time or (later == time and not had)):
                comparable += 1
                right += 1.0 if risk > other else 0.5 if risk == other else 0.0
    return right, comparable


def test_five_patients_by_hand() -> None:
    # A has the event at 1, B at 2, C at 2 too, D is censored at 2, E at 4. Comparable: A with all, B and C with D (who
    # was still without it at 2) and with E; not B with C. Risks are in order but for C, who ties with D.
    found = Concordance.of(*columns([(5, 1, True), (4, 2, True), (2, 2, True), (2, 2, False), (1, 4, False)]), 1)
    assert found is not None
    assert (found.patients, found.events, found.comparable, found.concordant) == (5, 3, 8, 7.5)
    assert found.value == 7.5 / 8


@given(cases, st.integers(1, 4))
def test_concordance_is_that_of_all_pairs_and_of_no_few_patients(of: list[Case], k: int) -> None:
    found = Concordance.of(*columns(of), k)
    right, comparable = pairs(of)
    events = sum(event for _, _, event in of)
    if found is None:
        assert events < k or 0 < len(of) - events < k or not comparable
        return
    assert (found.concordant, found.comparable) == (right, comparable)
    assert found.events == events >= k
    assert found.patients - events == 0 or found.patients - events >= k
    interval = found.interval()
    assert 0 <= interval.low <= found.value <= interval.high <= 1
    assert interval.high > interval.low


def test_with_one_time_of_events_it_is_the_area_under_the_roc_curve_with_delongs_variance() -> None:
    rng = np.random.default_rng(0)
    events = np.arange(60) % 3 == 0
    risks = rng.normal(size=60) + events
    found = Concordance.of(risks, np.where(events, 1.0, 2.0), events, 5)
    assert found is not None
    assert found.value == pytest.approx(roc_auc_score(events, risks))
    of_risk = 1 / (1 + np.exp(-risks))
    theirs = delong_interval(of_risk, events)  # which divides by n - 1 where the jackknife divides by n
    assert (found.interval().low, found.interval().high) == pytest.approx((theirs.low, theirs.high), abs=0.005)


def test_perfect_order_is_not_certain() -> None:
    found = Concordance.of(np.arange(6.0)[::-1], np.arange(1.0, 7.0), np.ones(6, dtype=bool), 5)
    assert found is not None
    assert found.value == 1
    assert found.interval() == wilson_interval(6, 6)


@given(st.lists(cases, max_size=4))
def test_pooled_pairs_are_those_within_a_site(sites: list[list[Case]]) -> None:
    parts = [found for of in sites if (found := Concordance.of(*columns(of), 1)) is not None]
    pooled = pooled_concordance(parts)
    if not parts:
        assert pooled is None
        return
    assert pooled is not None
    told = [pairs(of) for of in sites if Concordance.of(*columns(of), 1) is not None]
    assert pooled.concordant == sum(right for right, _ in told)
    assert pooled.comparable == sum(comparable for _, comparable in told)
    assert pooled.patients == sum(part.patients for part in parts)
    assert pooled_concordance(parts[:1]) == parts[0]


def test_the_loss_by_hand() -> None:
    risks = [0.3, -1.0, 0.7]
    everyone = math.log(sum(map(math.exp, risks)))
    found = cox_loss(np.array(risks), np.array([1.0, 2.0, 3.0]), np.array([True, False, True]))
    assert found == pytest.approx((everyone - 0.3 + 0.0) / 3)  # the last is alone at risk
    assert cox_loss(np.array([800.0, -800.0]), np.array([2.0, 1.0]), np.array([True, True])) == pytest.approx(800)


@given(cases.filter(bool))
def test_the_loss_is_breslows(of: list[Case]) -> None:
    expected = sum(
        math.log(sum(math.exp(other) for other, later, _ in of if later >= time)) - risk
        for risk, time, event in of
        if event
    )
    assert cox_loss(*columns(of)) == pytest.approx(expected / len(of), abs=1e-9)


def test_rows_of_a_patient_are_one_and_must_agree() -> None:
    rng = np.random.default_rng(1)
    risks, times, events = rng.normal(size=20), rng.uniform(1, 9, 20), np.arange(20) % 2 == 0
    once = evaluate_survival(risks, times, events, np.arange(20), min_cell=5)
    twice = evaluate_survival(
        np.concatenate([risks - 1, risks + 1]),
        *(np.tile(each, 2) for each in (times, events, np.arange(20))),
        min_cell=5,
    )
    assert once.concordance is not None
    assert twice.concordance == once.concordance
    assert twice.loss == pytest.approx(once.loss)
    assert once.loss == pytest.approx(cox_loss(risks, times, events))
    assert Evaluation.model_validate_json(once.model_dump_json()) == once
    with pytest.raises(DataError, match="two follow-up times"):
        evaluate_survival(risks, times, events, np.arange(20) // 2, min_cell=5)
    with pytest.raises(RunError, match="diverged"):
        evaluate_survival(np.full(20, np.nan), times, events, np.arange(20), min_cell=5)


@pytest.mark.parametrize("events", [2, 17])
def test_few_events_or_few_censored_stay_home(events: int) -> None:
    found = evaluate_survival(np.zeros(20), np.arange(1, 21), np.arange(20) < events, np.arange(20), min_cell=5)
    assert (found.patients, found.loss, found.concordance) == (20, None, None)
    assert "C and loss stay home" in (found.withheld or "")
    assert evaluate_survival(np.zeros(4), np.ones(4), np.ones(4), np.arange(4), min_cell=5).patients == 0


def test_pairs_that_no_such_patients_have_are_refused() -> None:
    held = Concordance(patients=10, events=6, concordant=20.0, comparable=30, variance=0.01)
    for wrong in ({"events": 11}, {"comparable": 46}, {"concordant": 30.5}):
        with pytest.raises(ValidationError, match=r"patients have no such|are among the comparable"):
            Concordance.model_validate({**dict(held), **wrong})
    with pytest.raises(ValidationError, match="more than the 9 patients"):
        Evaluation(patients=9, loss=None, concordance=held, withheld=None)
