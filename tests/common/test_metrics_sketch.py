"""Score sketches: the base grid, the small-cell rule, and what a hostile site may not send."""

import json
import math
from itertools import combinations, pairwise
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fedward_common.errors import RunError
from fedward_common.metrics import SCORE_EDGES, ClassSketch, ScoreSketch, merge
from fedward_common.metrics.sketch import LOGITS
from fedward_common.metrics.spread import spread

BINS = 1024


@st.composite
def scored(draw: st.DrawFn, least: int = 1, most: int = 60) -> tuple[list[float], list[int]]:
    """Scores and labels with at least `least` of either class; scores crowd at a few values as well as spread out."""
    score = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 1e-9, 0.25, 0.5, 1.0]))
    positives = draw(st.lists(score, min_size=least, max_size=most))
    negatives = draw(st.lists(score, min_size=least, max_size=most))
    return positives + negatives, [1] * len(positives) + [0] * len(negatives)


def bins(edges: list[int], counts: list[int], mean: float = 0.0, sd: float = 0.0) -> ClassSketch:
    return ClassSketch(edges=tuple(edges), counts=tuple(counts), mean=mean, sd=sd)


def at_bins(counts: dict[int, int]) -> ClassSketch:
    """The base-grid sketch of patients in the middle of the given base bins."""
    middles = (SCORE_EDGES[1:] + SCORE_EDGES[:-1]) / 2
    return ClassSketch.of(np.repeat(middles[list(counts)], list(counts.values())))


def test_the_base_grid_is_fixed_rising_symmetric_and_finer_at_its_ends() -> None:
    widths = np.diff(SCORE_EDGES)
    assert SCORE_EDGES.shape == (BINS + 1,)
    assert (SCORE_EDGES[0], SCORE_EDGES[512], SCORE_EDGES[-1]) == (0.0, 0.5, 1.0)
    assert (widths > 0).all()
    assert np.allclose(SCORE_EDGES, 1 - SCORE_EDGES[::-1], atol=1e-15)
    assert widths.max() < 0.006
    assert widths[10] < widths[300] < widths[512]
    # A histogram of one release must merge with one of the next: these values are part of the format.
    assert SCORE_EDGES[1] == 0.000006144175 == pytest.approx(1 / (1 + math.exp(12)), abs=1e-12)
    assert SCORE_EDGES[600] == 0.887607876296 == pytest.approx(1 / (1 + math.exp(12 - 24 * 599 / 1022)), abs=1e-12)
    with pytest.raises(ValueError, match="read-only"):
        SCORE_EDGES[3] = 0.0


def test_of_counts_each_score_in_the_bin_that_starts_at_or_below_it() -> None:
    found = ScoreSketch.of([0.0, SCORE_EDGES[7], np.nextafter(SCORE_EDGES[7], 0), 0.5, 1.0], [1, 1, 1, 0, 0])
    assert found == ScoreSketch(positives=at_bins({0: 1, 6: 1, 7: 1}), negatives=at_bins({512: 1, BINS - 1: 1}))
    assert [i for i, n in enumerate(found.positives.counts) if n] == [0, 6, 7]
    assert (found.total_positives, found.total_negatives) == (3, 2)


@given(scored())
def test_of_agrees_with_numpy(data: tuple[list[float], list[int]]) -> None:
    scores, labels = np.asarray(data[0]), np.asarray(data[1])
    found = ScoreSketch.of(scores, labels)
    for part, own in ((found.positives, scores[labels == 1]), (found.negatives, scores[labels == 0])):
        assert part.counts == tuple(np.histogram(own, SCORE_EDGES)[0].tolist())
        inside = np.clip(own, SCORE_EDGES[1], SCORE_EDGES[-2])
        logits = np.log(inside / (1 - inside))
        assert part.mean == pytest.approx(logits.mean(), abs=0.02)
        assert part.sd == pytest.approx(logits.std(), abs=0.02)


@pytest.mark.parametrize("scores", [[0.2, np.nan], [0.2, np.inf], [0.2, -0.1], [0.2, 1.1], [0.2, 7.0]])
def test_of_refuses_what_is_no_probability(scores: list[float]) -> None:
    with pytest.raises(RunError, match=r"1 of 2 scores are no probabilities"):
        ScoreSketch.of(scores, [0, 1])


@pytest.mark.parametrize("labels", [[0, 2], [0], [[0, 1]], [0.5, 1]])
def test_of_refuses_labels_that_are_not_one_0_or_1_a_score(labels: list[Any]) -> None:
    with pytest.raises(RunError, match="labels of 0 or 1"):
        ScoreSketch.of([0.2, 0.4], labels)


def test_a_softmax_a_rounding_error_over_one_counts_as_one() -> None:
    assert ScoreSketch.of(np.array([1.0000001, 0.0], dtype=np.float32), [1, 0]) == ScoreSketch.of([1.0, 0.0], [1, 0])


# The small-cell rule -------------------------------------------------------------------------------------------------


def test_suppressed_by_hand() -> None:
    exact = at_bins({100: 1, 200: 2, 500: 1, 900: 3})
    moments = exact.mean, exact.sd
    # 2 each: full at bin 200, at 900; 1 of the 3 at 900 cannot be parted from the rest. The edge stands halfway through
    # the empty bins 201..499.
    assert exact.suppressed(2) == bins([0, (201 + 500) // 2, BINS], [3, 4], *moments)
    assert exact.suppressed(3) == bins([0, (201 + 500) // 2, BINS], [3, 4], *moments)
    assert exact.suppressed(4) == bins([0, BINS], [7], *moments)
    assert exact.suppressed(7) == bins([0, BINS], [7], *moments)
    assert exact.suppressed(8) is None


@given(scored(least=0), st.integers(1, 12))
def test_every_cell_of_what_leaves_holds_k_of_its_class(data: tuple[list[float], list[int]], k: int) -> None:
    exact = ScoreSketch.of(*data)
    coarse = exact.suppressed(k)
    if min(exact.total_positives, exact.total_negatives) < k:
        assert coarse is None
        return
    assert coarse is not None
    for whole, part in ((exact.positives, coarse.positives), (exact.negatives, coarse.negatives)):
        assert min(part.counts) >= k
        assert part.counts == tuple(sum(whole.counts[a:b]) for a, b in pairwise(part.edges))
        assert (part.mean, part.sd) == (whole.mean, whole.sd)
    assert coarse.suppressed(k) == coarse


@given(st.lists(st.integers(0, 3), min_size=1, max_size=9), st.integers(1, 4))
def test_suppressed_keeps_the_most_bins_of_all_ways_to_merge(counts: list[int], k: int) -> None:
    n = len(counts)
    own = bins([*range(n), BINS], counts)

    def holds(cuts: tuple[int, ...]) -> bool:
        return all(sum(counts[a:b]) >= k for a, b in pairwise((0, *cuts, n)))

    most = max((m + 1 for m in range(n) for cuts in combinations(range(1, n), m) if holds(cuts)), default=0)
    coarse = own.suppressed(k)
    assert (0 if coarse is None else len(coarse.counts)) == most


def test_a_class_with_fewer_than_k_keeps_both_home() -> None:
    assert ScoreSketch.of([0.1] * 4 + [0.9] * 50, [0] * 4 + [1] * 50).suppressed(5) is None
    assert ScoreSketch.of([0.1] * 50 + [0.9] * 4, [0] * 50 + [1] * 4).suppressed(5) is None


def test_an_edge_does_not_stand_right_behind_the_patient_who_filled_the_bin() -> None:
    coarse = at_bins({300: 5, 800: 5}).suppressed(5)
    assert coarse is not None
    assert coarse.edges == (0, (301 + 800) // 2, BINS)


@pytest.mark.parametrize("k", [0, -3])
def test_a_k_below_one_counts_as_one(k: int) -> None:
    exact = at_bins({3: 1, 9: 2})
    assert exact.suppressed(k) == exact.suppressed(1) == bins([0, (4 + 9) // 2, BINS], [1, 2], exact.mean, exact.sd)
    assert at_bins({}).suppressed(k) is None


# On the wire ---------------------------------------------------------------------------------------------------------


@given(scored(least=0), st.integers(1, 4))
def test_json_round_trip(data: tuple[list[float], list[int]], k: int) -> None:
    exact = ScoreSketch.of(*data)
    assert ScoreSketch.model_validate_json(exact.model_dump_json()) == exact
    coarse = exact.suppressed(k)
    if coarse is not None:
        assert ScoreSketch.model_validate_json(coarse.model_dump_json()) == coarse


GOOD = {"edges": [0, 512, 1024], "counts": [5, 6], "mean": -1.5, "sd": 2}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"edges": [0, 600, 512, 1024], "counts": [5, 6, 1]}, "edges must rise"),
        ({"edges": [0, 0, 1024]}, "edges must rise"),
        ({"edges": [1, 512, 1024]}, "edges go from 0 to 1024"),
        ({"edges": [0, 512, 1023]}, "edges go from 0 to 1024"),
        ({"edges": [0, 512, 1025]}, "less than or equal to 1024"),
        ({"edges": [-1, 512, 1024]}, "greater than or equal to 0"),
        ({"edges": [0]}, "at least 2"),
        ({"edges": [*range(1025), 1024]}, "at most 1025"),
        ({"counts": [5, -1]}, "greater than or equal to 0"),
        ({"counts": [5, 10**30]}, "less than or equal to"),
        ({"counts": [5]}, "3 edges make 2 bins"),
        ({"counts": [5, 6, 7]}, "3 edges make 2 bins"),
        ({"counts": [5, 6.5]}, "valid integer"),
        ({"counts": [5, "6"]}, "valid integer"),
        ({"counts": [5, True]}, "valid integer"),
        ({"counts": [5, None]}, "valid integer"),
        ({"mean": math.nan}, "finite number"),
        ({"mean": -math.inf}, "finite number"),
        ({"mean": 12.1}, "less than or equal to 12"),
        ({"mean": -1e300}, "greater than or equal to -12"),
        ({"mean": "0"}, "valid number"),
        ({"mean": None}, "valid number"),
        ({"sd": math.nan}, "finite number"),
        ({"sd": math.inf}, "finite number"),
        ({"sd": -0.1}, "greater than or equal to 0"),
        ({"sd": 12.1}, "less than or equal to 12"),
        ({"scores": [0.1, 0.7]}, "Extra inputs"),
    ],
)
def test_a_hostile_sketch_is_refused(change: dict[str, Any], why: str) -> None:
    good = json.dumps({"positives": GOOD, "negatives": GOOD})
    part = bins([0, 512, BINS], [5, 6], -1.5, 2.0)
    assert ScoreSketch.model_validate_json(good) == ScoreSketch(positives=part, negatives=part)
    with pytest.raises(ValidationError, match=why):
        ScoreSketch.model_validate_json(json.dumps({"positives": GOOD, "negatives": {**GOOD, **change}}))


@pytest.mark.parametrize("missing", list(GOOD))
def test_a_sketch_with_a_part_missing_is_refused(missing: str) -> None:
    with pytest.raises(ValidationError, match="Field required"):
        ClassSketch.model_validate_json(json.dumps({key: value for key, value in GOOD.items() if key != missing}))
    with pytest.raises(ValidationError, match="Field required"):
        ScoreSketch.model_validate_json(json.dumps({"positives": GOOD}))


def test_a_sketch_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        bins([0, BINS], [1]).edges = (0, 5, BINS)  # type: ignore[misc]


# Merging -------------------------------------------------------------------------------------------------------------


@given(st.lists(scored(), min_size=2, max_size=5), st.randoms(use_true_random=False))
def test_merge_is_commutative_to_the_bit(parts: list[tuple[list[float], list[int]]], random: Any) -> None:
    sketches = [s for s in (ScoreSketch.of(*part).suppressed(1) for part in parts) if s is not None]
    shuffled = random.sample(sketches, len(sketches))
    one, other = merge(sketches), merge(shuffled)
    assert one == other
    assert one.positives.tobytes() == other.positives.tobytes()
    assert one.negatives.tobytes() == other.negatives.tobytes()
    assert one.roc_auc() == other.roc_auc()


@given(scored(), scored(), scored())
def test_merge_is_associative(
    a: tuple[list[float], list[int]], b: tuple[list[float], list[int]], c: tuple[list[float], list[int]]
) -> None:
    x, y, z = (ScoreSketch.of(*part).suppressed(1) or ScoreSketch.of(*part) for part in (a, b, c))
    whole = merge([x, y, z])
    left, right = merge([x, y]), merge([y, z])
    assert merge([*left.sketches, z]) == merge([x, *right.sketches]) == whole
    assert np.allclose(left.positives + merge([z]).positives, whole.positives, rtol=0, atol=1e-9)
    assert np.allclose(merge([x]).negatives + right.negatives, whole.negatives, rtol=0, atol=1e-9)


@given(scored(), scored())
def test_exact_sketches_merge_into_the_sketch_of_all_patients(
    a: tuple[list[float], list[int]], b: tuple[list[float], list[int]]
) -> None:
    merged = merge([ScoreSketch.of(*a), ScoreSketch.of(*b)])
    together = ScoreSketch.of(a[0] + b[0], a[1] + b[1])
    assert as_counts(merged.positives) == together.positives.counts
    assert as_counts(merged.negatives) == together.negatives.counts


def as_counts(values: npt.NDArray[np.float64]) -> tuple[int, ...]:
    assert (values == values.astype(int)).all()
    return tuple(values.astype(int).tolist())


# Spreading -----------------------------------------------------------------------------------------------------------


def test_one_bin_spreads_as_the_normal_curve_of_its_moments() -> None:
    found = spread(bins([0, BINS], [40], -1.3, 0.8))
    assert found == pytest.approx(40 * np.diff(normal_below(-1.3, 0.8)), abs=0.002)


def test_a_normal_class_spreads_as_its_normal_curve_in_every_bin() -> None:
    """Counts and moments of the curve itself: each bin gets back what it held, tails too."""
    curve = 1000 * np.diff(normal_below(1.0, 2.0))
    edges = [0, 300, 460, 500, 700, BINS]
    counts = np.add.reduceat(curve, edges[:-1]).round().astype(int).tolist()
    assert spread(bins(edges, counts, 1.0, 2.0)) == pytest.approx(curve, abs=0.1)


def normal_below(mean: float, sd: float) -> npt.NDArray[np.float64]:
    """The share of a normal logit below each edge of the base grid."""
    finite = [NormalDist(mean, sd).cdf(math.log(edge / (1 - edge))) for edge in SCORE_EDGES[1:-1]]
    return np.array([0.0, *finite, 1.0])


@given(scored(least=0), st.integers(1, 12))
def test_a_spread_keeps_every_count_and_the_moments(data: tuple[list[float], list[int]], k: int) -> None:
    coarse = ScoreSketch.of(*data).suppressed(k)
    for part in (coarse.positives, coarse.negatives) if coarse else ():
        found = spread(part)
        assert np.add.reduceat(found, part.edges[:-1]) == pytest.approx(part.counts, rel=1e-9)
        shares = found / part.total
        mean = float(LOGITS @ shares)
        assert mean == pytest.approx(part.mean, abs=0.02)
        assert LOGITS**2 @ shares == pytest.approx(part.mean**2 + part.sd**2, abs=0.2)


@given(
    st.lists(st.integers(1, BINS - 1), max_size=8, unique=True),
    st.lists(st.integers(0, 10**9), min_size=9, max_size=9),
    st.floats(-12, 12),
    st.floats(0, 12),
)
def test_absurd_moments_move_no_one_out_of_a_bin(cuts: list[int], counts: list[int], mean: float, sd: float) -> None:
    edges = [0, *sorted(cuts), BINS]
    hostile = bins(edges, counts[: len(edges) - 1], mean, sd)
    found = spread(hostile)
    assert np.isfinite(found).all()
    assert (found >= 0).all()
    assert np.add.reduceat(found, edges[:-1]) == pytest.approx(hostile.counts, rel=1e-9)


def test_merged_totals_are_exact() -> None:
    merged = merge(
        ScoreSketch(positives=bins([0, cut, BINS], [6, 7], 0.3, 1.0), negatives=bins([0, BINS], [9], -1.0, 0.5))
        for cut in (500, 600)
    )
    assert (merged.total_positives, merged.total_negatives) == (26, 18)
    assert merged.positives.sum() == pytest.approx(26, abs=1e-9)
    assert merged.negatives.sum() == pytest.approx(18, abs=1e-9)


@given(scored(least=3), st.integers(1, 3))
def test_auc_uncertainty_bounds_what_suppression_did_to_the_area(data: tuple[list[float], list[int]], k: int) -> None:
    exact = ScoreSketch.of(*data)
    coarse = exact.suppressed(k)
    assert coarse is not None
    merged = merge([coarse])
    assert 0 <= merged.auc_uncertainty() <= 0.5
    assert abs(merged.roc_auc() - merge([exact]).roc_auc()) <= 2 * merged.auc_uncertainty() + 1e-9
