"""What leaves a site about a model, its small-cell rule, and what the hub makes of all sites' evaluations."""

import json
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from sklearn.metrics import (  # type: ignore[import-untyped]
    brier_score_loss,
    confusion_matrix,
    log_loss,
    precision_score,
    roc_auc_score,
)

from fedward_common import study as spec
from fedward_common.errors import DataError, ModelError, RecordError, RunError, SettingsError
from fedward_common.metrics import (
    Estimate,
    Evaluation,
    ScoreSketch,
    SiteFigures,
    delong_interval,
    evaluate_scores,
    macro_auc,
    patient_scores,
    pooled,
    pooled_at,
    primary_value,
    site_figures,
    wilson_interval,
)


def study(*labels: str, positive: str | None = None, primary: Any = "roc_auc") -> spec.StudySpec:
    return spec.StudySpec(
        study=spec.About(id="lesions", task="classification"),
        cohort=spec.Cohort(labels=labels, positive=positive),
        model=spec.Model(name="small-cnn"),
        evaluation=spec.Evaluation(primary=primary),
    )


TWO = study("benign", "malignant", positive="malignant")
THREE = study("normal", "benign", "malignant")


def two_class(malignant: npt.ArrayLike) -> npt.NDArray[np.float64]:
    score = np.asarray(malignant, dtype=np.float64)
    return np.stack([1 - score, score], axis=1)


def site(n: int, seed: int, *, thresholds: dict[str, float] | None = None, min_cell: int = 5) -> Evaluation:
    """A site of `n` patients with one image each, a third of them malignant."""
    scores, labels = one_image_each(n, seed)
    return evaluate_scores(two_class(scores), labels, np.arange(n), study=TWO, thresholds=thresholds, min_cell=min_cell)


def one_image_each(n: int, seed: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    labels = (np.arange(n) % 3 == 0).astype(np.int64)
    return 1 / (1 + np.exp(-(rng.normal(size=n) + 2.0 * labels - 1))), labels


def of_counts(counts: list[int], of: spec.StudySpec = THREE, min_cell: int = 5) -> Evaluation:
    """A site with `counts` patients a label, one image each, random scores."""
    labels = np.repeat(np.arange(len(counts)), counts)
    probabilities = np.random.default_rng(0).dirichlet(np.ones(len(counts)), size=labels.size)
    return evaluate_scores(probabilities, labels, np.arange(labels.size), study=of, thresholds=None, min_cell=min_cell)


# Patients ------------------------------------------------------------------------------------------------------------


def test_a_patients_score_is_the_mean_over_images() -> None:
    unique, means = patient_scores([0.2, 0.9, 0.4, 0.6], [7, 3, 7, 7])
    assert unique.tolist() == [3, 7]
    assert means == pytest.approx([0.9, 0.4])


def test_patient_scores_of_several_classes() -> None:
    unique, means = patient_scores([[0.2, 0.8], [0.5, 0.5], [0.4, 0.6]], [1, 0, 1])
    assert unique.tolist() == [0, 1]
    np.testing.assert_allclose(means, [[0.5, 0.5], [0.3, 0.7]])


@pytest.mark.parametrize(("scores", "patients"), [([0.1, 0.2], [1]), ([0.1], [[1]]), (0.1, [1])])
def test_patient_scores_needs_a_patient_a_score(scores: Any, patients: Any) -> None:
    with pytest.raises(RunError, match="one patient each"):
        patient_scores(scores, patients)


# A site's figures ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8])
def test_site_figures_are_scikit_learns(seed: int, threshold: float) -> None:
    scores, labels = one_image_each(90, seed)
    found = site_figures(scores, labels, threshold=threshold, min_cell=5)
    (tn, fp), (fn, tp) = confusion_matrix(labels, scores >= threshold)
    assert found is not None
    assert (found.patients, found.positives, found.negatives) == (90, tp + fn, tn + fp)
    assert found.roc_auc == delong_interval(scores, labels)
    assert found.roc_auc.value == pytest.approx(roc_auc_score(labels, scores))
    assert found.brier == pytest.approx(brier_score_loss(labels, scores))
    assert found.sensitivity == wilson_interval(tp, tp + fn)
    assert found.specificity == wilson_interval(tn, tn + fp)
    assert found.precision is not None
    assert found.precision.value == pytest.approx(precision_score(labels, scores >= threshold))
    assert found.threshold == threshold
    assert SiteFigures.model_validate_json(found.model_dump_json()) == found


def test_a_score_at_the_threshold_is_a_positive_call() -> None:
    found = site_figures([0.5, 0.49], [1, 0], threshold=0.5, min_cell=1)
    assert found is not None
    assert found.sensitivity == found.specificity == found.precision == wilson_interval(1, 1)


def test_without_a_threshold_there_are_no_calls_and_without_calls_no_precision() -> None:
    bare = site_figures([0.9, 0.1], [1, 0], threshold=None, min_cell=1)
    strict = site_figures([0.9, 0.1], [1, 0], threshold=0.95, min_cell=1)
    assert bare is not None
    assert strict is not None
    assert (bare.sensitivity, bare.specificity, bare.precision, bare.threshold) == (None, None, None, None)
    assert strict.sensitivity == wilson_interval(0, 1)
    assert strict.precision is None


@pytest.mark.parametrize(("positives", "negatives", "shown"), [(5, 5, True), (4, 50, False), (50, 4, False)])
def test_site_figures_keep_small_cells_home(positives: int, negatives: int, shown: bool) -> None:
    scores = np.linspace(0, 1, positives + negatives)
    labels = np.repeat([1, 0], [positives, negatives])
    assert (site_figures(scores, labels, threshold=0.5, min_cell=5) is not None) is shown
    assert site_figures([0.5], [1], threshold=0.5, min_cell=0) is None  # no area, whatever the rule


@pytest.mark.parametrize("threshold", [7.0, -0.1, math.nan])
def test_a_threshold_off_the_scale_is_refused(threshold: float) -> None:
    with pytest.raises(RecordError, match="not between 0 and 1"):
        site_figures([0.9, 0.1], [1, 0], threshold=threshold, min_cell=1)


# An evaluation -------------------------------------------------------------------------------------------------------


def test_an_evaluation_is_by_patient() -> None:
    scores, labels = one_image_each(60, 1)
    images = np.repeat(np.arange(60), 1 + np.arange(60) % 3)
    order = np.random.default_rng(2).permutation(images.size)
    wobble = np.random.default_rng(3).uniform(-0.01, 0.01, images.size)
    shown = np.clip(scores[images] + wobble, 0, 1)
    means = np.array([shown[images == patient].mean() for patient in range(60)])
    found = evaluate_scores(
        two_class(shown)[order],
        labels[images][order],
        images[order] * 10 + 3,
        study=TWO,
        thresholds={"malignant": 0.5},
        min_cell=5,
    )
    assert found.patients == 60
    assert found.withheld is None
    assert found.loss == pytest.approx(log_loss(labels, two_class(means)))
    assert list(found.sketches) == list(found.figures) == ["malignant"]
    figures, expected = found.figures["malignant"], site_figures(means, labels, threshold=0.5, min_cell=5)
    assert expected is not None
    assert figures.roc_auc.value == pytest.approx(expected.roc_auc.value)
    assert figures.sensitivity == expected.sensitivity
    assert found.sketches["malignant"] == ScoreSketch.of(means, labels).suppressed(5)


def test_a_label_that_is_not_looked_at_keeps_the_loss_home_too() -> None:
    of_one = study("normal", "benign", "malignant", positive="malignant")
    assert of_counts([30, 3, 30], of_one).figures.keys() == {"malignant"}
    assert of_counts([30, 3, 30], of_one).loss is None
    assert of_counts([30, 5, 30], of_one).loss is not None


def test_every_label_counts_in_a_study_without_a_positive_one() -> None:
    found = of_counts([10, 20, 30])
    assert list(found.sketches) == list(found.figures) == ["normal", "benign", "malignant"]
    assert [sketch.total_positives for sketch in found.sketches.values()] == [10, 20, 30]
    assert all(figures.threshold is None for figures in found.figures.values())


def test_thresholds_go_to_their_labels() -> None:
    rng = np.random.default_rng(0)
    found = evaluate_scores(
        rng.dirichlet(np.ones(3), size=60),
        np.arange(60) % 3,
        np.arange(60),
        study=THREE,
        thresholds={"benign": 0.3, "another": 0.9},
        min_cell=5,
    )
    assert {label: figures.threshold for label, figures in found.figures.items()} == {
        "normal": None,
        "benign": 0.3,
        "malignant": None,
    }


def test_a_certain_mistake_does_not_make_the_loss_infinite() -> None:
    labels = np.array([0] * 10 + [1] * 10)
    found = evaluate_scores(two_class(1 - labels), labels, np.arange(20), study=TWO, thresholds=None, min_cell=5)
    assert found.loss == pytest.approx(-math.log(np.finfo(np.float32).eps))
    assert found.figures["malignant"].roc_auc.value == 0.0


# The small-cell rule -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, 1, 4])
def test_too_few_patients_tell_nothing_not_even_how_many(n: int) -> None:
    found = site(n, 0)
    assert found == Evaluation(patients=0, loss=None, sketches={}, figures={}, withheld=found.withheld)
    assert found.withheld is not None
    assert "fewer than 5 patients" in found.withheld


def test_no_images_at_all_need_no_classes() -> None:
    empty = np.empty((0, 0))
    found = evaluate_scores(empty, np.empty(0), np.empty(0), study=TWO, thresholds=None, min_cell=5)
    assert found.patients == 0


@pytest.mark.parametrize("counts", [[4, 40], [40, 4]])
def test_too_few_of_either_class_keep_the_sketch_home(counts: list[int]) -> None:
    found = of_counts(counts, TWO)
    assert (found.sketches, found.figures, found.patients) == ({}, {}, 44)
    assert found.loss is None, "of a model that gives everyone .9 it would be the count"
    assert found.withheld is not None
    assert "fewer than 5" in found.withheld
    assert "malignant" in found.withheld


@pytest.mark.parametrize(
    ("counts", "shown"),
    [
        ([20, 15, 30], {"normal", "benign", "malignant"}),
        ([20, 15, 2], {"normal"}),  # malignant = all - normal - benign: benign is hidden to cover it
        ([20, 4, 3], {"normal"}),  # 7 hidden together, neither count can be worked out
        ([20, 2, 1], set()),  # fewer than 5 are not normal
        ([20, 15, 0], {"normal", "benign"}),  # that no one is malignant tells of no one
        ([20, 0, 0], set()),
    ],
)
def test_no_small_count_can_be_worked_out_from_the_others(counts: list[int], shown: set[str]) -> None:
    found = of_counts(counts)
    assert set(found.sketches) == set(found.figures) == shown
    assert (found.withheld is None) == (len(shown) == 3)


@given(st.lists(st.integers(0, 12), min_size=3, max_size=5), st.integers(1, 6))
def test_what_leaves_holds_no_small_cell(counts: list[int], k: int) -> None:
    labels = tuple(f"label-{index}" for index in range(len(counts)))
    found = of_counts(counts, study(*labels), min_cell=k)
    if sum(counts) < k:
        assert found.patients == 0
        return
    assert found.patients == sum(counts)
    for label, sketch in found.sketches.items():
        assert min(sketch.positives.counts + sketch.negatives.counts) >= k
        assert min(found.figures[label].positives, found.figures[label].negatives) >= k
    hidden = found.patients - sum(sketch.total_positives for sketch in found.sketches.values())
    assert hidden == 0 or hidden >= k
    named = [label for label in labels if label not in found.sketches]
    assert all(label in (found.withheld or "") for label in named)
    assert Evaluation.model_validate_json(found.model_dump_json()) == found


def test_the_reason_does_not_tell_a_small_label_from_one_that_covers_it() -> None:
    assert of_counts([20, 15, 2]).withheld == of_counts([20, 4, 3]).withheld == of_counts([20, 2, 15]).withheld


@pytest.mark.parametrize("min_cell", [0, -1])
def test_a_rule_that_protects_no_one_is_refused(min_cell: int) -> None:
    with pytest.raises(SettingsError, match="at least 1"):
        site(20, 0, min_cell=min_cell)


# Wrong input ---------------------------------------------------------------------------------------------------------


def test_a_diverged_model_is_named() -> None:
    probabilities = two_class(np.full(20, 0.5))
    probabilities[3] = np.nan
    with pytest.raises(RunError, match="the model has diverged"):
        evaluate_scores(probabilities, np.arange(20) % 2, np.arange(20), study=TWO, thresholds=None, min_cell=5)


def test_scores_that_are_not_a_softmax_are_refused() -> None:
    with pytest.raises(RunError, match="add up to 1"):
        evaluate_scores(np.full((20, 2), 0.9), np.arange(20) % 2, np.arange(20), study=TWO, thresholds=None, min_cell=5)


@pytest.mark.parametrize("shape", [(20, 3), (20, 1), (20,)])
def test_a_model_of_other_classes_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match="the study has 2 labels"):
        evaluate_scores(np.full(shape, 1 / 3), np.arange(20) % 2, np.arange(20), study=TWO, thresholds=None, min_cell=5)


@pytest.mark.parametrize(("labels", "patients"), [(19, 20), (20, 19), (0, 20)])
def test_images_without_label_or_patient_are_refused(labels: int, patients: int) -> None:
    with pytest.raises(RunError, match="a label and a patient each"):
        evaluate_scores(
            two_class(np.full(20, 0.5)),
            np.arange(labels) % 2,
            np.arange(patients),
            study=TWO,
            thresholds=None,
            min_cell=5,
        )


@pytest.mark.parametrize("label", [2, -1])
def test_a_label_outside_the_study_is_refused(label: int) -> None:
    labels = np.arange(20) % 2
    labels[4] = label
    with pytest.raises(DataError, match="outside the study's 2 labels"):
        evaluate_scores(two_class(np.full(20, 0.5)), labels, np.arange(20), study=TWO, thresholds=None, min_cell=5)


# Several labels ------------------------------------------------------------------------------------------------------


def test_a_patient_whose_images_differ_counts_once_with_a_label_and_once_without_it() -> None:
    scores, labels = one_image_each(60, 4)
    patients = np.arange(60) // 2  # of two images each: 1 or 0 of them malignant
    found = evaluate_scores(two_class(scores), labels, patients, study=TWO, thresholds={"malignant": 0.5}, min_cell=5)
    cases = {(patient, label) for patient, label in zip(patients, labels, strict=True)}
    means = {case: scores[(patients == case[0]) & (labels == case[1])].mean() for case in cases}
    truth = [label for _, label in means]
    assert found.patients == 30
    assert found.figures["malignant"].patients == len(cases) > 30
    assert found.figures["malignant"].roc_auc.value == pytest.approx(roc_auc_score(truth, list(means.values())))
    assert found.loss == pytest.approx(log_loss(truth, two_class(list(means.values()))))


def test_few_patients_whose_images_differ_count_once_and_many_twice() -> None:
    """Of 24 with one image and some with one of each kind: four are too few to be told as a difference."""
    for both in (0, 4, 5):
        labels = np.array([0, 1] * (12 + both))
        patients = np.concatenate([np.arange(24), 24 + np.arange(2 * both) // 2])
        scores = np.random.default_rng(both).random(labels.size)
        found = evaluate_scores(two_class(scores), labels, patients, study=TWO, thresholds=None, min_cell=5)
        figures = found.figures["malignant"]
        twice = both if both == 5 else 0
        assert (found.patients, figures.positives, figures.negatives) == (24 + both, 12 + both, 12 + twice)
        counted = np.flatnonzero((labels == 1) | (patients < 24) | (twice > 0))
        assert figures.roc_auc.value == pytest.approx(roc_auc_score(labels[counted], scores[counted]))


def test_few_of_whom_a_label_is_not_known_are_not_told_as_a_difference() -> None:
    scores, labels = partly(90, 1)
    labels[:, :2] = np.arange(90)[:, None] % 2
    labels[:4, 0], labels[:5, 1] = -1, -1
    found = evaluate_scores(scores, labels, np.arange(90), study=SEVERAL, thresholds=None, min_cell=5)
    assert set(found.figures) == {"nodule"}
    assert found.figures["nodule"].patients == 85


def test_few_patients_with_two_labels_are_not_what_the_sum_is_above_all() -> None:
    """30 patients have one of three labels, four two of them: so not all labels are told."""
    labels = np.concatenate([np.arange(30) % 3, np.arange(4) % 3])
    patients = np.concatenate([np.arange(30), 1 + np.arange(4)])
    probabilities = np.random.default_rng(0).dirichlet(np.ones(3), labels.size)
    found = evaluate_scores(probabilities, labels, patients, study=THREE, thresholds=None, min_cell=5)
    assert len(found.figures) == 2
    assert found.withheld is not None
    told = evaluate_scores(probabilities, labels, patients, study=THREE, thresholds=None, min_cell=4)
    assert len(told.figures) == 3


SEVERAL = spec.StudySpec(
    study=spec.About(id="chest", task="classification"),
    cohort=spec.Cohort(labels=("effusion", "nodule", "hernia"), multi_label=True),
    model=spec.Model(name="small-cnn"),
)


def partly(n: int, seed: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Scores and labels [n, 3], each label known of two images in three, of "hernia" only two there."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, (n, 3))
    labels[:, 2] = np.arange(n) < 2
    scores = 1 / (1 + np.exp(-(rng.normal(size=(n, 3)) + 2.0 * labels - 1)))
    labels[(np.arange(n)[:, None] + np.arange(3)) % 3 == 0] = -1
    return scores, labels


def test_what_is_not_known_of_a_label_takes_no_part_in_its_figures() -> None:
    scores, labels = partly(90, 1)
    found = evaluate_scores(scores, labels, np.arange(90), study=SEVERAL, thresholds={"nodule": 0.4}, min_cell=5)
    assert found.patients == 90
    for index, label in enumerate(("effusion", "nodule")):
        known = labels[:, index] >= 0
        own, truth = scores[known, index], labels[known, index]
        assert found.figures[label] == site_figures(own, truth, threshold={"nodule": 0.4}.get(label), min_cell=5)
        assert found.figures[label].roc_auc.value == pytest.approx(roc_auc_score(truth, own))
        assert found.sketches[label] == ScoreSketch.of(own, truth).suppressed(5)
    assert "hernia" not in found.figures, "it is there for fewer than five"
    assert "hernia" in (found.withheld or "")
    assert found.loss is None
    every = labels >= 0
    other = np.where(every, scores, 1 - scores)
    again = evaluate_scores(other, labels, np.arange(90), study=SEVERAL, thresholds={"nodule": 0.4}, min_cell=5)
    assert again == found, "scores of what is not known change nothing"
    assert Evaluation.model_validate_json(found.model_dump_json()) == found


def test_a_label_of_which_nothing_is_known_has_no_figures() -> None:
    scores, labels = partly(60, 2)
    labels[:, [0, 2]] = -1
    found = evaluate_scores(scores, labels, np.arange(60), study=SEVERAL, thresholds=None, min_cell=5)
    assert set(found.figures) == {"nodule"}
    known = labels >= 0
    assert found.loss == pytest.approx(log_loss(labels[known], two_class(scores[known])))
    assert primary_value([found], SEVERAL) == macro_auc([found], ["nodule"])


def test_several_labels_are_known_or_not_and_nothing_else() -> None:
    scores, labels = partly(60, 3)
    with pytest.raises(DataError, match="outside the study's 3 labels"):
        evaluate_scores(scores, labels + 1, np.arange(60), study=SEVERAL, thresholds=None, min_cell=5)
    with pytest.raises(RunError, match="a label and a patient each"):
        evaluate_scores(scores, labels[:, 0], np.arange(60), study=SEVERAL, thresholds=None, min_cell=5)


# On the wire ---------------------------------------------------------------------------------------------------------


def hostile(**change: Any) -> str:
    """The JSON of a good evaluation with values at dotted paths replaced."""
    found = json.loads(site(60, 0, thresholds={"malignant": 0.5}).model_dump_json())
    for path, value in change.items():
        *parents, last = path.split("__")
        where = found
        for parent in parents:
            where = where[parent]
        where[last] = value
    return json.dumps(found)


SURE = {"value": 7.0, "low": 7.0, "high": 7.0}
FIGURES = "figures__malignant__"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({FIGURES + "roc_auc": SURE}, "not within 0 and 1"),
        ({FIGURES + "roc_auc": {"value": -0.1, "low": -0.2, "high": 0.1}}, "not within 0 and 1"),
        ({FIGURES + "roc_auc": {"value": 0.8, "low": 0.7, "high": 1.2}}, "not within 0 and 1"),
        ({FIGURES + "roc_auc__value": math.nan}, "finite number"),
        ({FIGURES + "roc_auc__high": math.inf}, "finite number"),
        ({FIGURES + "roc_auc__low": 0.9999}, "not within its own interval"),
        ({FIGURES + "roc_auc": None}, "should be an object"),
        ({FIGURES + "sensitivity": SURE}, "not within 0 and 1"),
        ({FIGURES + "sensitivity": None}, "come with a threshold"),
        ({FIGURES + "threshold": None}, "with a threshold"),
        ({FIGURES + "threshold": 7.0}, "less than or equal to 1"),
        ({FIGURES + "precision": SURE}, "not within 0 and 1"),
        ({FIGURES + "brier": 1.5}, "less than or equal to 1"),
        ({FIGURES + "brier": math.nan}, "finite number"),
        ({FIGURES + "positives": 21}, "60 patients cannot be"),
        ({FIGURES + "positives": 0, FIGURES + "negatives": 60}, "at least one of each"),
        ({FIGURES + "positives": 30, FIGURES + "negatives": 30}, "of other patients"),
        ({FIGURES + "patients": -60}, "greater than or equal to 0"),
        ({FIGURES + "scores": [0.1, 0.2]}, "Extra inputs"),
        ({"patients": 39}, "counts more than the 39 patients"),
        ({"patients": 10**12}, "less than or equal to"),
        ({"patients": 0, "sketches": {}, "figures": {}}, "loss over no patients"),
        ({"loss": -0.1}, "greater than or equal to 0"),
        ({"loss": 1e300}, "less than or equal to 1000000000"),
        ({"loss": math.nan}, "finite number"),
        ({"loss": "0.4"}, "valid number"),
        ({"withheld": "x" * 2001}, "at most 2000"),
        ({"sketches": {"x" * 257: {}}}, "at most 256"),
        ({"sketches": [1]}, "should be an object"),
        ({"sketches__malignant__positives__edges": [0, 1025]}, "less than or equal to 1024"),
        ({"sketches__malignant__positives__counts": [-5]}, "greater than or equal to 0"),
        ({"sketches__malignant__negatives__sd": math.inf}, "finite number"),
        ({"names": ["DOE^JANE"]}, "Extra inputs"),
    ],
)
def test_a_hostile_evaluation_is_refused(change: dict[str, Any], why: str) -> None:
    assert Evaluation.model_validate_json(hostile()).patients == 60
    with pytest.raises(ValidationError, match=why):
        Evaluation.model_validate_json(hostile(**change))


def test_figures_alone_are_of_no_more_patients_than_there_are() -> None:
    figures = site(60, 0).figures
    assert Evaluation(patients=60, loss=None, sketches={}, figures=figures, withheld=None).figures == figures
    with pytest.raises(ValidationError, match="of other patients"):
        Evaluation(patients=39, loss=None, sketches={}, figures=figures, withheld=None)


def test_json_round_trip() -> None:
    found = site(60, 0, thresholds={"malignant": 0.123456789012345})
    assert Evaluation.model_validate_json(found.model_dump_json()) == found


def test_no_score_is_in_what_leaves() -> None:
    scores, _ = one_image_each(60, 0)
    text = site(60, 0, thresholds={"malignant": 0.5}).model_dump_json()
    assert not any(str(score)[:8] in text for score in scores)


# All sites -----------------------------------------------------------------------------------------------------------


def test_pooled_merges_the_sites_that_have_the_label() -> None:
    sites = [site(60, 0), site(90, 1), site(4, 2), of_counts([40, 3], TWO)]
    merged = pooled(iter(sites), "malignant")
    assert merged is not None
    assert (merged.total_positives, merged.total_negatives) == (20 + 30, 40 + 60)
    assert pooled(sites, "benign") is None
    assert pooled([], "malignant") is None


def test_a_pool_of_one_class_is_none() -> None:
    sketch = ScoreSketch.of([0.4] * 6, [0] * 6)
    lone = Evaluation(patients=6, loss=0.1, sketches={"malignant": sketch}, figures={}, withheld=None)
    assert pooled([lone], "malignant") is None
    assert primary_value([lone], TWO) is None


def test_pooled_at_is_as_if_all_patients_were_at_one_site() -> None:
    sizes = [(60, 0), (90, 1), (33, 2)]
    sites = [site(n, seed, thresholds={"malignant": 0.4}) for n, seed in sizes]
    scores = np.concatenate([one_image_each(n, seed)[0] for n, seed in sizes])
    labels = np.concatenate([one_image_each(n, seed)[1] for n, seed in sizes])
    whole = site_figures(scores, labels, threshold=0.4, min_cell=5)
    assert whole is not None
    over_the_wire = (Evaluation.model_validate_json(found.model_dump_json()) for found in sites)
    assert pooled_at(over_the_wire, "malignant") == {
        "sensitivity": whole.sensitivity,
        "specificity": whole.specificity,
        "precision": whole.precision,
    }


@given(st.integers(5, 10_000), st.integers(5, 10_000), st.data())
def test_counts_are_recovered_exactly_from_figures(positives: int, negatives: int, data: st.DataObject) -> None:
    true, false = data.draw(st.integers(0, positives)), data.draw(st.integers(0, negatives))
    figures = SiteFigures(
        patients=positives + negatives,
        positives=positives,
        negatives=negatives,
        roc_auc=Estimate(value=0.5, low=0.4, high=0.6),
        sensitivity=wilson_interval(true, positives),
        specificity=wilson_interval(negatives - false, negatives),
        precision=wilson_interval(true, true + false) if true + false else None,
        brier=0.2,
        threshold=0.5,
    )
    found = Evaluation(
        patients=positives + negatives, loss=None, sketches={}, figures={"malignant": figures}, withheld=None
    )
    twice = pooled_at([found, found], "malignant")
    assert twice["sensitivity"] == wilson_interval(2 * true, 2 * positives)
    assert twice["specificity"] == wilson_interval(2 * (negatives - false), 2 * negatives)
    assert twice.get("precision") == (wilson_interval(2 * true, 2 * (true + false)) if true + false else None)


def test_pooled_at_without_thresholds_or_sites_is_empty() -> None:
    assert pooled_at([site(60, 0), site(4, 1)], "malignant") == {}
    assert pooled_at([], "malignant") == {}


def test_pooled_at_counts_each_site_at_its_own_threshold() -> None:
    points = [(60, 0, 0.4), (90, 1, 0.7)]
    sites = [site(n, seed, thresholds={"malignant": threshold}) for n, seed, threshold in points]
    tables = []
    for n, seed, threshold in points:
        scores, labels = one_image_each(n, seed)
        tables.append(confusion_matrix(labels, scores >= threshold))
    (tn, fp), (fn, tp) = sum(tables)
    assert pooled_at(sites, "malignant") == {
        "sensitivity": wilson_interval(tp, tp + fn),
        "specificity": wilson_interval(tn, tn + fp),
        "precision": wilson_interval(tp, tp + fp),
    }


def test_the_primary_value_is_the_merged_area_of_the_positive_label() -> None:
    sites = [site(60, 0), site(90, 1)]
    merged = pooled(sites, "malignant")
    assert merged is not None
    assert primary_value(iter(sites), TWO) == merged.roc_auc()
    assert primary_value([site(4, 0)], TWO) is None
    assert primary_value([], TWO) is None


def test_the_primary_value_without_a_positive_label_is_the_macro_mean() -> None:
    found = of_counts([20, 30, 25])
    areas = [histogram.roc_auc() for label in THREE.cohort.labels if (histogram := pooled([found], label))]
    assert len(areas) == 3
    assert primary_value([found], THREE) == macro_auc([found], THREE.cohort.labels) == pytest.approx(np.mean(areas))
    assert macro_auc([found], ["malignant", "unknown"]) == areas[2]
    assert macro_auc([found], []) is None


def test_the_primary_loss_weighs_patients_alike() -> None:
    of_loss = study("benign", "malignant", positive="malignant", primary="loss")
    small, large = site(30, 0), site(90, 1)
    assert small.loss is not None
    assert large.loss is not None
    expected = (30 * small.loss + 90 * large.loss) / 120
    assert primary_value([small, large, site(4, 2)], of_loss) == pytest.approx(expected)
    assert primary_value([site(4, 2)], of_loss) is None
