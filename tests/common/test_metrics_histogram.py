"""What the hub reads off merged histograms, against scikit-learn on the scores that it never sees."""

import time
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve  # type: ignore[import-untyped]
from sklearn.metrics import (  # type: ignore[import-untyped]
    average_precision_score,
    brier_score_loss,
    confusion_matrix,
    precision_recall_curve,
    precision_score,
    roc_auc_score,
    roc_curve,
)

from fedward_common.errors import RunError, StudyError
from fedward_common.metrics import SCORE_EDGES, ClassSketch, MergedHistogram, ScoreSketch, merge, wilson_interval

Scores = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]


def patients(n: int, seed: int, shift: float = 1.5) -> tuple[Scores, Labels]:
    """Binormal logits: well-spread scores of `n` patients, a third of them positive."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(n) % 3 == 0).astype(np.int64)
    scores = 1 / (1 + np.exp(-(rng.normal(size=n) + shift * labels - shift / 2)))
    return scores, labels


def on_grid(n: int, seed: int) -> tuple[Scores, Labels]:
    """Scores that are edges of the base grid: the histogram then loses nothing."""
    scores, labels = patients(n, seed)
    return SCORE_EDGES[np.searchsorted(SCORE_EDGES, scores)], labels


def whole(scores: Scores, labels: Labels) -> MergedHistogram:
    return merge([ScoreSketch.of(scores, labels)])


def calibrated(n: int) -> tuple[Scores, Labels]:
    """Patients whose score is the probability that they have the label."""
    rng = np.random.default_rng(0)
    scores = rng.random(n)
    return scores, (rng.random(n) < scores).astype(np.int64)


# Four patients that fit in the head: negatives at 0.1 and 0.6, positives at 0.4 and 0.9.
FOUR = whole(np.array([0.1, 0.6, 0.4, 0.9]), np.array([0, 0, 1, 1]))


def test_four_patients_by_hand() -> None:
    assert FOUR.roc_auc() == 0.75  # of the four pairs, 0.4 < 0.6 is the one in the wrong order
    curve = FOUR.roc()
    assert curve.fpr.tolist() == [0, 0, 0.5, 0.5, 1]
    assert curve.tpr.tolist() == [0, 0.5, 0.5, 1, 1]
    assert curve.thresholds[0] == np.inf
    assert curve.thresholds[1:] == pytest.approx([0.9, 0.6, 0.4, 0.1], abs=0.006)
    assert FOUR.at(0.5) == (0.5, 0.5, 0.5)
    assert FOUR.at(0.0) == (1.0, 0.0, 0.5)
    assert FOUR.at(0.95) == (0.0, 1.0, None)
    assert FOUR.at(1.0) == (0.0, 1.0, None)
    assert FOUR.brier() == pytest.approx((0.1**2 + 0.6**2 + 0.6**2 + 0.1**2) / 4, abs=0.006)
    assert FOUR.auc_uncertainty() == 0.0  # no bin holds both classes
    calls = FOUR.precision_recall()
    assert calls.recall.tolist() == [0.5, 0.5, 1, 1]
    assert calls.precision == pytest.approx([1, 1 / 2, 2 / 3, 1 / 2])
    assert FOUR.average_precision() == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)


@pytest.mark.parametrize("seed", range(5))
def test_precision_and_recall_equal_scikit_learns_on_grid_scores(seed: int) -> None:
    scores, labels = on_grid(300, seed)
    histogram = whole(scores, labels)
    curve = histogram.precision_recall()
    precision, recall, thresholds = precision_recall_curve(labels, scores)
    np.testing.assert_allclose(
        curve.precision, precision[:-1][::-1], atol=1e-12
    )  # its last point is none of a threshold
    np.testing.assert_allclose(curve.recall, recall[:-1][::-1], atol=1e-12)
    np.testing.assert_array_equal(curve.thresholds, thresholds[::-1])
    assert histogram.average_precision() == pytest.approx(average_precision_score(labels, scores), abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_curve_and_area_equal_scikit_learns_on_grid_scores(seed: int) -> None:
    scores, labels = on_grid(300, seed)
    histogram, curve = whole(scores, labels), whole(scores, labels).roc()
    fpr, tpr, thresholds = roc_curve(labels, scores, drop_intermediate=False)
    np.testing.assert_allclose(curve.fpr, fpr, atol=1e-12)
    np.testing.assert_allclose(curve.tpr, tpr, atol=1e-12)
    np.testing.assert_array_equal(curve.thresholds, thresholds)
    assert histogram.roc_auc() == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert np.trapezoid(curve.tpr, curve.fpr) == pytest.approx(histogram.roc_auc(), abs=1e-12)


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=80),
    st.lists(st.floats(0, 1), min_size=1, max_size=80),
)
def test_the_area_is_scikit_learns_within_the_grids_resolution(positives: list[float], negatives: list[float]) -> None:
    scores = np.array(positives + negatives)
    labels = np.array([1] * len(positives) + [0] * len(negatives))
    histogram = whole(scores, labels)
    assert 0 <= histogram.roc_auc() <= 1
    assert abs(histogram.roc_auc() - roc_auc_score(labels, scores)) <= histogram.auc_uncertainty() + 1e-9


def test_the_resolution_is_enough_for_a_thousand_patients() -> None:
    scores, labels = patients(1000, 3)
    histogram = whole(scores, labels)
    assert histogram.auc_uncertainty() < 0.005
    assert histogram.roc_auc() == pytest.approx(roc_auc_score(labels, scores), abs=5e-4)
    assert histogram.brier() == pytest.approx(brier_score_loss(labels, scores), abs=5e-4)


def hospitals(shape: str, n: int, seed: int) -> list[tuple[Scores, Labels]]:
    """Three hospitals of `n` patients, a third of them positive, each with another shift of its scores."""
    rng = np.random.default_rng([seed, n])
    labels = (np.arange(n) % 3 == 0).astype(np.int64)
    found = []
    for shift in (-0.5, 0.0, 0.5):
        if shape == "binormal":
            logits = rng.normal(2.4 * labels - 1.2 + shift)
        elif shape == "skewed":
            logits = np.where(labels, 3 - rng.gamma(1.5, 1.5, n), rng.gamma(1.5, 1.2, n) - 4) + shift
        else:  # overconfident: nearly all at either end, some of either class at the wrong one
            logits = np.where(rng.random(n) < np.where(labels, 0.95, 0.03), 7, -7) + rng.normal(scale=3, size=n) + shift
        found.append((1 / (1 + np.exp(-logits)), labels))
    return found


@pytest.mark.parametrize("shape", ["binormal", "skewed", "overconfident"])
@pytest.mark.parametrize(("n", "area", "point"), [(30, 0.02, 0.08), (60, 0.015, 0.05), (130, 0.01, 0.03)])
def test_suppressed_sketches_give_the_area_and_the_point_of_all_patients(
    shape: str, n: int, area: float, point: float
) -> None:
    """Root mean squares over draws, against the exact pooled area and the best sensitivity + specificity there is."""
    areas, points = [], []
    for seed in range(20):
        sites = hospitals(shape, n, seed)
        sketches = [ScoreSketch.of(*site).suppressed(5) for site in sites]
        merged = merge(sketch for sketch in sketches if sketch is not None)
        assert merged.total_positives + merged.total_negatives == 3 * n
        scores, labels = np.concatenate([s for s, _ in sites]), np.concatenate([y for _, y in sites])
        fpr, tpr, _ = roc_curve(labels, scores)
        calls = scores >= merged.threshold("youden")
        areas.append(merged.roc_auc() - roc_auc_score(labels, scores))
        points.append((tpr - fpr).max() - (calls[labels == 1].mean() - calls[labels == 0].mean()))
        assert abs(areas[-1]) <= 2 * merged.auc_uncertainty()
    assert np.sqrt(np.mean(np.square(areas))) <= area
    assert np.sqrt(np.mean(np.square(points))) <= point


def test_merged_area_is_not_the_mean_of_sites_areas() -> None:
    low = ScoreSketch.of([0.1, 0.2], [0, 1])
    high = ScoreSketch.of([0.8, 0.9], [0, 1])
    assert merge([low]).roc_auc() == merge([high]).roc_auc() == 1.0
    assert merge([low, high]).roc_auc() == 0.75  # the negative at 0.8 is above the positive at 0.2


def halves(cut: int, below: int, above: int) -> ClassSketch:
    return ClassSketch(edges=(0, cut, 1024), counts=(below, above), mean=0.0, sd=1.0)


def test_auc_uncertainty_by_hand() -> None:
    single = [ClassSketch(edges=(0, 1024), counts=(n,), mean=0.0, sd=1.0) for n in (3, 2)]
    one_bin = merge([ScoreSketch(positives=single[0], negatives=single[1])])
    assert one_bin.roc_auc() == pytest.approx(0.5)
    assert one_bin.auc_uncertainty() == 0.5
    # Bins [0, 512) and [512, 1024): 1 + 3 positives, 2 + 2 negatives; 1 x 2 and 3 x 2 of 16 pairs share a bin.
    two_bins = merge([ScoreSketch(positives=halves(512, 1, 3), negatives=halves(512, 2, 2))])
    assert two_bins.auc_uncertainty() == pytest.approx((1 * 2 + 3 * 2) / 16 / 2)
    # Bins of the classes that overlap in part are unknown too, bins that only touch are not.
    negatives = ClassSketch(edges=(0, 511, 512, 1024), counts=(0, 1, 1), mean=0.0, sd=1.0)
    overlapping = merge([ScoreSketch(positives=halves(512, 1, 0), negatives=negatives)])
    assert overlapping.auc_uncertainty() == pytest.approx(1 / 2 / 2)


def test_one_bin_a_class_gives_the_binormal_area_and_point() -> None:
    """A = Phi((m1 - m0) / sqrt(s1^2 + s0^2)); with equal spreads Youden's point is halfway between the means."""
    positives, negatives = (ClassSketch(edges=(0, 1024), counts=(9,), mean=mean, sd=1.0) for mean in (1.5, -0.5))
    merged = merge([ScoreSketch(positives=positives, negatives=negatives)])
    assert merged.roc_auc() == pytest.approx(NormalDist().cdf(2 / 2**0.5), abs=0.002)
    assert merged.threshold("youden") == pytest.approx(1 / (1 + np.exp(-0.5)), abs=0.01)


# Interval ------------------------------------------------------------------------------------------------------------


def test_the_bootstrap_interval_is_a_stratified_bootstrap_of_the_patients() -> None:
    scores, labels = patients(150, 1)
    found = whole(scores, labels).roc_auc_interval(seed=7)
    rng = np.random.default_rng(0)
    positives, negatives = scores[labels == 1], scores[labels == 0]
    areas = []
    for _ in range(1000):
        p, n = rng.choice(positives, positives.size), rng.choice(negatives, negatives.size)
        areas.append(roc_auc_score(np.repeat([1, 0], [p.size, n.size]), np.concatenate([p, n])))
    assert found.low == pytest.approx(np.quantile(areas, 0.025), abs=0.012)
    assert found.high == pytest.approx(np.quantile(areas, 0.975), abs=0.012)
    assert found.value == whole(scores, labels).roc_auc()


def test_the_bootstrap_comes_from_the_seed_alone() -> None:
    histogram = whole(*patients(90, 2))
    first = histogram.roc_auc_interval(seed=1)
    np.random.default_rng().random(10)
    assert histogram.roc_auc_interval(seed=1) == first
    assert histogram.roc_auc_interval(seed=2) != first


def test_more_patients_or_a_lower_level_narrow_the_interval() -> None:
    small, large = whole(*patients(60, 4)), whole(*patients(6000, 4))
    wide, narrow = small.roc_auc_interval(0), large.roc_auc_interval(0)
    assert narrow.high - narrow.low < (wide.high - wide.low) / 4
    half = small.roc_auc_interval(0, level=0.5)
    assert wide.low < half.low < half.value < half.high < wide.high


@pytest.mark.parametrize("size", [5, 50])
def test_perfect_separation_does_not_claim_certainty(size: int) -> None:
    histogram = merge([ScoreSketch.of([0.1] * size + [0.9] * size, [0] * size + [1] * size)])
    found = histogram.roc_auc_interval(0)
    assert (found.value, found.high) == (1.0, 1.0)
    assert 0.5 < found.low < 1.0


def test_the_bootstrap_is_vectorised() -> None:
    histogram = whole(*patients(20_000, 5))
    started = time.perf_counter()
    histogram.roc_auc_interval(0)
    assert time.perf_counter() - started < 10  # a Python loop over replicates and patients takes minutes


# Operating points ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_youden_is_the_best_of_scikit_learns_curve(seed: int) -> None:
    scores, labels = on_grid(200, seed)
    fpr, tpr, _ = roc_curve(labels, scores, drop_intermediate=False)
    threshold = whole(scores, labels).threshold("youden")
    calls = scores >= threshold
    assert calls[labels == 1].mean() - calls[labels == 0].mean() == pytest.approx((tpr - fpr).max(), abs=1e-12)


def test_youden_takes_the_middle_of_a_gap_between_the_classes() -> None:
    separated = whole(np.array([0.1, 0.2, 0.8, 0.9]), np.array([0, 0, 1, 1]))
    assert separated.threshold("youden") == pytest.approx(0.5, abs=0.01)
    assert separated.at(separated.threshold("youden")) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("wanted", [0.0, 0.5, 0.8, 0.95, 1.0])
def test_a_wanted_sensitivity_is_met_at_the_highest_specificity(wanted: float) -> None:
    scores, labels = on_grid(300, 8)
    fpr, tpr, _ = roc_curve(labels, scores, drop_intermediate=False)
    threshold = whole(scores, labels).threshold({"sensitivity": wanted})
    point = whole(scores, labels).at(threshold)
    assert 0 <= threshold < 1
    assert point.sensitivity >= wanted - 1e-12
    assert point.specificity == pytest.approx(1 - fpr[tpr >= wanted - 1e-12].min(), abs=1e-12)


def test_a_rule_without_a_sensitivity_is_refused() -> None:
    with pytest.raises(StudyError, match="operating_point"):
        FOUR.threshold({})


@pytest.mark.parametrize("threshold", SCORE_EDGES[[1, 300, 480, 512, 530, 700]].tolist())
def test_at_an_edge_the_figures_are_scikit_learns(threshold: float) -> None:
    scores, labels = patients(400, 9)
    calls = scores >= threshold
    (tn, fp), (fn, tp) = confusion_matrix(labels, calls)
    point = whole(scores, labels).at(threshold)
    assert point.sensitivity == pytest.approx(tp / (tp + fn), abs=1e-12)
    assert point.specificity == pytest.approx(tn / (tn + fp), abs=1e-12)
    if calls.any():
        assert point.precision == pytest.approx(precision_score(labels, calls), abs=1e-12)
    else:
        assert point.precision is None


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_higher_threshold_never_calls_more_patients(one: float, other: float) -> None:
    histogram = whole(*patients(60, 10))
    low, high = histogram.at(min(one, other)), histogram.at(max(one, other))
    assert 0 <= high.sensitivity <= low.sensitivity <= 1
    assert 0 <= low.specificity <= high.specificity <= 1


# Calibration ---------------------------------------------------------------------------------------------------------


def test_calibration_is_scikit_learns_by_quantile() -> None:
    scores, labels = patients(2000, 11)
    observed, predicted = calibration_curve(labels, scores, n_bins=10, strategy="quantile")
    groups = whole(scores, labels).calibration()
    assert [group.observed.value for group in groups] == pytest.approx(observed, abs=0.03)
    assert [group.predicted for group in groups] == pytest.approx(predicted, abs=0.01)
    assert sum(group.patients for group in groups) == pytest.approx(2000)
    assert all(100 < group.patients < 300 for group in groups)


def test_calibration_by_hand() -> None:
    low, high = FOUR.calibration(bins=2)
    assert (low.patients, high.patients) == (2, 2)
    assert low.predicted == pytest.approx((0.1 + 0.4) / 2, abs=0.006)
    assert high.predicted == pytest.approx((0.6 + 0.9) / 2, abs=0.006)
    assert low.observed == high.observed == wilson_interval(1, 2)
    assert FOUR.calibration_error(bins=2) == pytest.approx((abs(0.25 - 0.5) + abs(0.75 - 0.5)) / 2, abs=0.006)


def test_the_calibration_error_is_that_of_the_groups() -> None:
    scores, labels = patients(2000, 11)
    observed, predicted = calibration_curve(labels, scores, n_bins=10, strategy="quantile")
    expected = np.abs(observed - predicted).mean()  # groups of like size
    assert whole(scores, labels).calibration_error() == pytest.approx(expected, abs=0.01)
    assert whole(scores, labels).calibration_error() > 2 * whole(*calibrated(2000)).calibration_error()


def test_patients_with_one_score_are_one_calibration_group() -> None:
    (group,) = whole(np.full(40, 0.25), np.arange(40) % 4 == 0).calibration()
    assert (group.patients, group.observed.value) == (40, 0.25)
    assert group.predicted == pytest.approx(0.25, abs=0.006)


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 1)), min_size=1, max_size=60), st.integers(1, 12))
def test_calibration_groups_hold_every_patient_in_rising_order(data: list[tuple[float, int]], bins: int) -> None:
    histogram = merge([ScoreSketch.of([s for s, _ in data], [y for _, y in data])])
    groups = histogram.calibration(bins)
    assert 1 <= len(groups) <= bins
    assert sum(g.patients for g in groups) == pytest.approx(len(data))
    assert sum(g.patients * g.observed.value for g in groups) == pytest.approx(sum(y for _, y in data))
    assert [g.predicted for g in groups] == sorted(g.predicted for g in groups)
    assert 0 <= histogram.brier() <= 1


def test_calibration_has_no_sliver_of_a_group_between_crowded_scores() -> None:
    # The lone patient between is at ranks 301 to 302 of 1004: a fifth of it falls in the third tenth, to 301.2.
    ends = ClassSketch(edges=(0, 1, 1023, 1024), counts=(301, 1, 702), mean=4.8, sd=11.0)
    nobody = ClassSketch(edges=(0, 1024), counts=(0,), mean=0.0, sd=0.0)
    groups = merge([ScoreSketch(positives=ends, negatives=nobody)]).calibration()
    assert [group.patients for group in groups] == pytest.approx([301, 0.8, 702], abs=0.1)


def test_calibration_has_no_more_groups_than_patients() -> None:
    two = ClassSketch(edges=(0, 1024), counts=(1,), mean=0.0, sd=2.0)
    assert len(merge([ScoreSketch(positives=two, negatives=two)]).calibration()) == 2


# Nothing there -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", [[], [0, 0], [1, 1]])
def test_without_both_classes_there_is_no_curve(labels: list[int]) -> None:
    histogram = merge([ScoreSketch.of([0.3] * len(labels), labels)])
    for figure in (histogram.roc, histogram.roc_auc, histogram.auc_uncertainty):
        with pytest.raises(RunError, match="no positive or no negative"):
            figure()
    with pytest.raises(RunError, match="no positive or no negative"):
        histogram.roc_auc_interval(0)
    with pytest.raises(RunError, match="no positive or no negative"):
        histogram.threshold("youden")
    with pytest.raises(RunError, match="no positive or no negative"):
        histogram.at(0.5)


def test_without_patients_there_is_no_calibration() -> None:
    for figure in (merge([]).brier, merge([]).calibration):
        with pytest.raises(RunError, match="no patient"):
            figure()
    assert merge([ScoreSketch.of([0.5, 0.5], [1, 1])]).brier() == pytest.approx(0.25, abs=0.006)


def test_scores_that_the_grid_cannot_tell_apart_are_ties() -> None:
    apart = merge([ScoreSketch.of([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1])])
    assert apart.tied() == 0
    close = merge([ScoreSketch.of([0.5, 0.5, 0.5, 0.9], [0, 0, 1, 1])])
    assert close.tied() == 0.5
