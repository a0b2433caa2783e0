"""Free-response ROC: what a box hits, the curve against MONAI, and the small-cell rule on findings and false alarms."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from monai.metrics.froc import compute_fp_tp_probs_nd, compute_froc_curve_data, compute_froc_score

from fedward_common import study as spec
from fedward_common.errors import ModelError, RunError
from fedward_common.metrics import (
    SCORE_EDGES,
    ClassSketch,
    Detections,
    Evaluation,
    ImageHits,
    evaluate_detections,
    image_hits,
    merged_froc,
    primary_value,
    wilson_interval,
)
from fedward_common.metrics.froc import RATES


def study() -> spec.StudySpec:
    whole = spec.StudySpec(
        study=spec.About(id="nodules", task="classification"),
        cohort=spec.Cohort(labels=("nodule", "cyst", "none")),
        model=spec.Model(name="small-cnn"),
    )
    cohort = whole.cohort.model_copy(update={"labels": ("nodule", "cyst")})
    evaluation = whole.evaluation.model_copy(update={"primary": "froc"})
    return whole.model_copy(update={"cohort": cohort, "evaluation": evaluation})


NODULES = study()


def box(centre: tuple[float, ...], half: float = 1.0) -> list[float]:
    return [c - half for c in centre] + [c + half for c in centre]


@st.composite
def readings(draw: st.DrawFn) -> tuple[list[ImageHits], np.ndarray]:
    """Images with a few findings and false alarms, and their patients; scores crowd."""
    score = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.5, 1.0]))
    finding = st.one_of(score, st.just(-1.0))
    images = draw(
        st.lists(st.tuples(st.lists(finding, max_size=3), st.lists(score, max_size=3)), min_size=1, max_size=25)
    )
    patients = draw(st.lists(st.integers(0, 12), min_size=len(images), max_size=len(images)))
    return [ImageHits(np.array(hits, dtype=float), np.array(false, dtype=float)) for hits, false in images], np.array(
        patients
    )


# One image -----------------------------------------------------------------------------------------------------------


def test_four_boxes_by_hand() -> None:
    truth = np.array([[0, 0, 10, 20], [30, 30, 34, 34.0]])  # half axes of 5 and 10, and of 2
    boxes = np.array([box((5, 19)), box((5, 10), 40.0), box((9.5, 19)), box((32, 32))])
    found = image_hits(boxes, np.array([0.3, 0.9, 0.8, 0.2]), truth)
    # The first two hit the first finding, whatever their size, and the better counts; the third is in its box but
    # beyond the ellipsoid: 0.9^2 + 0.9^2 > 1.
    assert found.findings.tolist() == [0.9, 0.2]
    assert found.false_positives.tolist() == [0.8]


def test_an_image_without_findings_or_without_boxes() -> None:
    none = np.empty((0, 6))
    assert image_hits(np.array([box((1, 1, 1))]), np.array([0.4]), none).false_positives.tolist() == [0.4]
    assert image_hits(none, np.empty(0), np.array([box((1, 1, 1))])).findings.tolist() == [-1]
    with pytest.raises(RunError, match="do not fit"):
        image_hits(np.empty((2, 4)), np.empty(2), none)
    with pytest.raises(RunError, match="no probabilities"):
        image_hits(np.array([box((1, 1))]), np.array([1.2]), np.array([box((1, 1))]))


def test_hits_are_those_of_monai_with_the_ellipsoids_as_its_mask() -> None:
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in (40, 60, 20)), indexing="ij"), axis=-1)
    truth = np.array([[2, 3, 1, 14, 13, 9], [20, 30, 5, 38, 52, 17], [5, 40, 10, 12, 50, 18.0]])
    mask = np.zeros(grid.shape[:3], dtype=np.int64)
    for number, each in enumerate(truth, start=1):
        centre, half = (each[:3] + each[3:]) / 2, (each[3:] - each[:3]) / 2
        mask[(((grid - centre) / half) ** 2).sum(axis=-1) <= 1] = number
    centres = rng.integers(0, (40, 60, 20), (300, 3))
    scores = rng.random(300)
    found = image_hits(np.concatenate([centres - 2.0, centres + 2.0], axis=1), scores, truth)
    false, true, targets = compute_fp_tp_probs_nd(scores, centres, mask)
    assert targets == 3
    assert found.findings == pytest.approx(true)
    assert found.false_positives.tolist() == list(false)


# The curve -----------------------------------------------------------------------------------------------------------


def exact(hits: np.ndarray, missed: int, false: np.ndarray, images: int) -> Detections:
    """The record of a site without a small-cell rule, on the base grid."""
    return Detections(images=images, hits=ClassSketch.of(hits), missed=missed, false_positives=ClassSketch.of(false))


def test_the_curve_and_its_score_are_those_of_monai() -> None:
    rng = np.random.default_rng(0)
    # Scores on edges of the base grid, which then loses nothing, and none of the lowest, which MONAI leaves out.
    hits = SCORE_EDGES[rng.integers(400, 1000, 70)]
    false = np.concatenate([SCORE_EDGES[rng.integers(300, 800, 900)], [SCORE_EDGES[1]]])
    curve = merged_froc([exact(hits[:30], 10, false[:500], 40), exact(hits[30:], 20, false[500:], 60)])
    assert curve is not None
    rates, sensitivity = compute_froc_curve_data(false, np.concatenate([hits, np.zeros(30)]), 100, 100)
    points = curve.curve()
    assert points.false_positives[:-1] == pytest.approx(rates[::-1][: points.thresholds.size - 1])
    assert points.sensitivity[:-1] == pytest.approx(sensitivity[::-1][: points.thresholds.size - 1])
    assert curve.sensitivities() == pytest.approx(np.interp(RATES, rates[::-1], sensitivity[::-1]))
    assert curve.score() == pytest.approx(compute_froc_score(rates, sensitivity, RATES))


def test_the_interval_holds_the_score_is_repeatable_and_never_certain() -> None:
    rng = np.random.default_rng(1)
    curve = merged_froc([exact(rng.beta(4, 2, 60), 20, rng.beta(2, 4, 200), 50)])
    assert curve is not None
    interval = curve.interval(seed=3)
    assert interval == curve.interval(seed=3)
    assert interval.low < curve.score() < interval.high
    assert interval.high - interval.low < 0.3
    perfect = merged_froc([Detections(images=10, hits=ClassSketch.of(np.ones(12)), missed=0, false_positives=None)])
    assert perfect is not None
    assert perfect.interval(seed=3) == wilson_interval(12, 12)
    assert merged_froc([]) is None


# The small-cell rule -------------------------------------------------------------------------------------------------


@given(readings(), st.integers(1, 5))
def test_no_step_tells_of_fewer_than_k_patients(data: tuple[list[ImageHits], np.ndarray], k: int) -> None:
    images, patients = data
    found = Detections.of(images, patients, k)
    findings = [(score, who) for image, who in zip(images, patients, strict=True) for score in image.findings]
    false = [(score, who) for image, who in zip(images, patients, strict=True) for score in image.false_positives]
    if found is None:
        assert len({who for _, who in findings}) < k or 0 < len({who for _, who in false}) < k
        return
    assert found.images == len(images)
    assert found.findings == len(findings)
    assert found.missed >= sum(score < 0 for score, _ in findings)  # never too few
    ranked = sorted(findings, key=lambda pair: pair[0])
    missed, hits = ranked[: found.missed], ranked[found.missed :]
    assert not missed or len({who for _, who in missed}) >= k
    told = 0 if found.hits is None else found.hits.total
    assert told == len(hits)
    for sketch, of in ((found.hits, hits), (found.false_positives, false)):
        if sketch is None:
            assert not of
            continue
        edges = SCORE_EDGES[list(sketch.edges)]
        inside = np.clip(np.searchsorted(edges, [score for score, _ in of], side="right") - 1, 0, len(edges) - 2)
        for number, count in enumerate(sketch.counts):
            assert count == np.count_nonzero(inside == number)
            assert len({who for (_, who), step in zip(of, inside, strict=True) if step == number}) >= k


def test_few_missed_take_the_lowest_hits_with_them() -> None:
    images = [ImageHits(np.array([score]), np.array([0.2])) for score in (-1.0, 0.1, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9)]
    found = Detections.of(images, np.arange(8), 3)
    assert found is not None
    assert found.hits is not None
    assert (found.missed, found.hits.total) == (3, 5)
    none = Detections.of(images[:6], np.arange(6), 4)  # four missed leave two hits, of whom nothing is told
    assert none is not None
    assert (none.missed, none.hits) == (6, None)
    assert Detections.of(images[:4], np.arange(4), 5) is None


# Evaluations ---------------------------------------------------------------------------------------------------------


def site(patients: int, score: float) -> Evaluation:
    """Each patient has a nodule that is found, and a false cyst; half of them a second nodule that is not."""
    found, truth = [], []
    for number in range(patients):
        boxes = np.array([box((5, 5)), box((20, 20))])
        found.append((boxes, np.array([score, 0.3]), np.array([0, 1])))
        rows = [[*box((5, 5), 2.0), 0.0], [*box((30, 30), 2.0), 0.0], [0.0] * 4 + [-1.0]]
        truth.append(np.array(rows if number % 2 else [rows[0], rows[2]]))
    return evaluate_detections(found, truth, np.ones(patients), np.arange(patients), study=NODULES, min_cell=5)


def test_each_kind_is_held_against_its_own() -> None:
    found = site(10, 0.8)
    assert found.patients == 10
    nodules = found.detections["nodule"]
    assert nodules.hits is not None
    assert (nodules.images, nodules.hits.total, nodules.missed, nodules.false_positives) == (10, 10, 5, None)
    assert found.withheld is not None
    assert "figures of cyst stay home" in found.withheld  # nobody has one
    assert Evaluation.model_validate_json(found.model_dump_json()) == found
    assert site(4, 0.8).patients == 0
    with pytest.raises(ModelError, match="none of the study's 2 labels"):
        evaluate_detections(
            [(np.array([box((1, 1))]), np.array([0.5]), np.array([2]))] * 5,
            [np.empty((0, 5))] * 5,
            np.ones(5),
            np.arange(5),
            study=NODULES,
            min_cell=5,
        )


def test_the_primary_score_is_that_of_the_sites_together() -> None:
    assert primary_value([site(10, 0.8), site(20, 0.9), site(3, 0.9)], NODULES) == pytest.approx(2 / 3)
    assert primary_value([site(3, 0.9)], NODULES) is None
