"""Score sketches: the base grid, the small-cell rule, and what a hostile site may not send."""

import json
import math
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fedward_common.errors import RunError
from fedward_common.metrics import SCORE_EDGES, ScoreSketch, merge

BINS = 1024


@st.composite
def scored(draw: st.DrawFn, least: int = 1, most: int = 60) -> tuple[list[float], list[int]]:
    """Scores and labels with at least `least` of either class; scores crowd at a few values as well as spread out."""
    score = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 1e-9, 0.25, 0.5, 1.0]))
    positives = draw(st.lists(score, min_size=least, max_size=most))
    negatives = draw(st.lists(score, min_size=least, max_size=most))
    return positives + negatives, [1] * len(positives) + [0] * len(negatives)


def sketch(edges: list[int], positives: list[int], negatives: list[int]) -> ScoreSketch:
    return ScoreSketch(edges=tuple(edges), positives=tuple(positives), negatives=tuple(negatives))


def fine(positives: dict[int, int], negatives: dict[int, int]) -> ScoreSketch:
    """A base-grid sketch with counts at the given base bins."""
    return sketch(
        list(range(BINS + 1)),
        [positives.get(i, 0) for i in range(BINS)],
        [negatives.get(i, 0) for i in range(BINS)],
    )


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
    assert found == fine({0: 1, 7: 1, 6: 1}, {512: 1, BINS - 1: 1})
    assert (found.total_positives, found.total_negatives) == (3, 2)


@given(scored())
def test_of_agrees_with_numpy_histogram(data: tuple[list[float], list[int]]) -> None:
    scores, labels = np.asarray(data[0]), np.asarray(data[1])
    found = ScoreSketch.of(scores, labels)
    assert found.positives == tuple(np.histogram(scores[labels == 1], SCORE_EDGES)[0].tolist())
    assert found.negatives == tuple(np.histogram(scores[labels == 0], SCORE_EDGES)[0].tolist())


@pytest.mark.parametrize("scores", [[0.2, np.nan], [0.2, np.inf], [0.2, -0.1], [0.2, 1.1], [0.2, 7.0]])
def test_of_refuses_what_is_no_probability(scores: list[float]) -> None:
    with pytest.raises(RunError, match=r"1 of 2 scores are no probabilities"):
        ScoreSketch.of(scores, [0, 1])


@pytest.mark.parametrize("labels", [[0, 2], [0], [[0, 1]], [0.5, 1]])
def test_of_refuses_labels_that_are_not_one_0_or_1_a_score(labels: list[Any]) -> None:
    with pytest.raises(RunError, match="labels of 0 or 1"):
        ScoreSketch.of([0.2, 0.4], labels)


def test_a_softmax_a_rounding_error_over_one_counts_as_one() -> None:
    assert ScoreSketch.of(np.array([1.0000001, 0.0], dtype=np.float32), [1, 0]) == fine({BINS - 1: 1}, {0: 1})


# The small-cell rule -------------------------------------------------------------------------------------------------


def test_suppressed_by_hand() -> None:
    exact = fine({100: 1, 200: 2, 500: 1, 900: 3}, {50: 1, 210: 1, 400: 3, 950: 1})
    # 2 of each: filled at bin 210 (3 positives, 2 negatives); the rest up to 900 has 4 and 3 but 950 alone could not
    # fill a bin, so all else is one bin. The edge stands halfway through the empty bins 211..399.
    assert exact.suppressed(2) == sketch([0, (211 + 400) // 2, BINS], [3, 4], [2, 4])
    assert exact.suppressed(4) == sketch([0, BINS], [7], [6])
    assert exact.suppressed(6) == sketch([0, BINS], [7], [6])
    assert exact.suppressed(7) is None


@given(scored(least=0), st.integers(1, 12))
def test_suppressed_keeps_totals_and_every_bin_has_k_of_each_class(data: tuple[list[float], list[int]], k: int) -> None:
    exact = ScoreSketch.of(*data)
    coarse = exact.suppressed(k)
    if min(exact.total_positives, exact.total_negatives) < k:
        assert coarse is None
        return
    assert coarse is not None
    assert min(coarse.positives + coarse.negatives) >= k
    for fine_counts, counts in ((exact.positives, coarse.positives), (exact.negatives, coarse.negatives)):
        assert counts == tuple(sum(fine_counts[a:b]) for a, b in pairwise(coarse.edges))
    assert coarse.suppressed(k) == coarse


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=9),
    st.integers(1, 4),
)
def test_suppressed_keeps_the_most_bins_of_all_ways_to_merge(counts: list[tuple[int, int]], k: int) -> None:
    n = len(counts)
    own = sketch([*range(n), BINS], [p for p, _ in counts], [q for _, q in counts])

    def holds(cuts: tuple[int, ...]) -> bool:
        bounds = (0, *cuts, n)
        return all(min(sum(own.positives[a:b]), sum(own.negatives[a:b])) >= k for a, b in pairwise(bounds))

    most = max((m + 1 for m in range(n) for cuts in combinations(range(1, n), m) if holds(cuts)), default=0)
    coarse = own.suppressed(k)
    assert (0 if coarse is None else len(coarse.positives)) == most


def test_an_edge_does_not_stand_right_behind_the_patient_who_filled_the_bin() -> None:
    coarse = fine({300: 5, 800: 5}, {300: 5, 800: 5}).suppressed(5)
    assert coarse is not None
    assert coarse.edges == (0, (301 + 800) // 2, BINS)


@pytest.mark.parametrize("k", [0, -3])
def test_a_k_below_one_counts_as_one(k: int) -> None:
    exact = fine({3: 1, 9: 2}, {3: 1, 700: 1})
    assert exact.suppressed(k) == exact.suppressed(1) == sketch([0, (4 + 9) // 2, BINS], [1, 2], [1, 1])


# On the wire ---------------------------------------------------------------------------------------------------------


@given(scored(least=0), st.integers(1, 4))
def test_json_round_trip(data: tuple[list[float], list[int]], k: int) -> None:
    exact = ScoreSketch.of(*data)
    assert ScoreSketch.model_validate_json(exact.model_dump_json()) == exact
    coarse = exact.suppressed(k)
    if coarse is not None:
        assert ScoreSketch.model_validate_json(coarse.model_dump_json()) == coarse


GOOD = {"edges": [0, 512, 1024], "positives": [5, 6], "negatives": [7, 8]}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"edges": [0, 600, 512, 1024], "positives": [5, 6, 1], "negatives": [7, 8, 1]}, "edges must rise"),
        ({"edges": [0, 0, 1024]}, "edges must rise"),
        ({"edges": [1, 512, 1024]}, "edges go from 0 to 1024"),
        ({"edges": [0, 512, 1023]}, "edges go from 0 to 1024"),
        ({"edges": [0, 512, 1025]}, "less than or equal to 1024"),
        ({"edges": [-1, 512, 1024]}, "greater than or equal to 0"),
        ({"edges": [0]}, "at least 2"),
        ({"edges": [*range(1025), 1024]}, "at most 1025"),
        ({"positives": [5, -1]}, "greater than or equal to 0"),
        ({"negatives": [-7, 22]}, "greater than or equal to 0"),
        ({"positives": [5, 10**30]}, "less than or equal to"),
        ({"positives": [5]}, "3 edges make 2 bins"),
        ({"negatives": [5, 6, 7]}, "3 edges make 2 bins"),
        ({"positives": [5, 6.5]}, "valid integer"),
        ({"positives": [5, "6"]}, "valid integer"),
        ({"positives": [5, True]}, "valid integer"),
        ({"positives": [5, None]}, "valid integer"),
        ({"scores": [0.1, 0.7]}, "Extra inputs"),
    ],
)
def test_a_hostile_sketch_is_refused(change: dict[str, Any], why: str) -> None:
    assert ScoreSketch.model_validate_json(json.dumps(GOOD)) == sketch([0, 512, BINS], [5, 6], [7, 8])
    with pytest.raises(ValidationError, match=why):
        ScoreSketch.model_validate_json(json.dumps({**GOOD, **change}))


@pytest.mark.parametrize("missing", ["edges", "positives", "negatives"])
def test_a_sketch_with_a_part_missing_is_refused(missing: str) -> None:
    with pytest.raises(ValidationError, match="Field required"):
        ScoreSketch.model_validate_json(json.dumps({key: value for key, value in GOOD.items() if key != missing}))


def test_a_sketch_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        fine({1: 1}, {2: 1}).edges = (0, BINS)  # type: ignore[misc]


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
    assert as_counts(merged.positives) == together.positives
    assert as_counts(merged.negatives) == together.negatives


def as_counts(values: npt.NDArray[np.float64]) -> tuple[int, ...]:
    assert (values == values.astype(int)).all()
    return tuple(values.astype(int).tolist())


def test_a_merged_bin_spreads_evenly_and_totals_stay_exact() -> None:
    merged = merge([sketch([0, 4, BINS], [6, 7], [5, 9]), sketch([0, 3, BINS], [1, 1], [1, 1])])
    assert merged.positives[:4] == pytest.approx([6 / 4 + 1 / 3] * 3 + [6 / 4 + 1 / 1021])
    assert merged.negatives[-1] == pytest.approx(9 / 1020 + 1 / 1021)
    assert (merged.total_positives, merged.total_negatives) == (15, 16)
    assert merged.positives.sum() == pytest.approx(15, abs=1e-9)


@given(scored(least=3), st.integers(1, 3))
def test_auc_uncertainty_bounds_what_suppression_did_to_the_area(data: tuple[list[float], list[int]], k: int) -> None:
    exact = ScoreSketch.of(*data)
    coarse = exact.suppressed(k)
    assert coarse is not None
    merged = merge([coarse])
    assert 0 <= merged.auc_uncertainty() <= 0.5
    assert abs(merged.roc_auc() - merge([exact]).roc_auc()) <= merged.auc_uncertainty() + 1e-9
