"""Figures of groups of patients: what they are, and that no difference to those of all patients tells of few."""

from itertools import chain, combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from sklearn.metrics import roc_auc_score  # type: ignore[import-untyped]

from fedward_common.errors import RunError, StudyError
from fedward_common.metrics import (
    ClassSketch,
    Evaluation,
    GroupEvaluation,
    evaluate_scores,
    pooled,
    told_groups,
    with_subgroups,
)
from fedward_common.study import StudySpec, loads
from fedward_common.study_subgroups import BANDS, NOT_KNOWN, OTHER, band_of, vendor_of
from fedward_common.study_text import describe
from fedward_common.testing import tiny_study

STUDY = """[study]
id = "s"
task = "classification"
[cohort]
labels = ["benign", "malignant"]
positive = "malignant"
[model]
name = "{network}"
{more}
[evaluation]
subgroups = {groups}
"""
K = 3
TWO = tiny_study()
THREE = tiny_study(cohort={"labels": ("normal", "benign", "malignant"), "positive": None})
SEVERAL = tiny_study(cohort={"labels": ("nodule", "effusion"), "positive": None, "multi_label": True})
SEXES = ("F", "M", "O")
Images = npt.NDArray[np.int64]


def evaluated(
    scores: npt.ArrayLike,
    labels: npt.ArrayLike,
    words: npt.ArrayLike,
    *,
    study: StudySpec = TWO,
    thresholds: dict[str, float] | None = None,
    patients: npt.ArrayLike | None = None,
) -> Evaluation:
    probabilities, truth = np.asarray(scores, np.float64), np.asarray(labels)
    if probabilities.ndim == 1:
        probabilities = np.stack([1 - probabilities, probabilities], axis=1)
    people = np.arange(len(truth)) if patients is None else patients
    how: dict[str, Any] = {"study": study, "thresholds": thresholds, "min_cell": K}
    whole = evaluate_scores(probabilities, truth, people, **how)
    return with_subgroups(whole, probabilities, truth, people, {"sex": np.asarray(words)}, **how)


def patients(n: int, seed: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64], npt.NDArray[np.str_]]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    return np.clip(rng.normal(0.4 + 0.2 * labels, 0.2), 0, 1), labels, rng.choice(["F", "M"], n)


# What they are -------------------------------------------------------------------------------------------------------


def test_a_groups_figures_are_those_of_its_patients_alone() -> None:
    scores, labels, words = patients(120, 1)
    found = evaluated(scores, labels, words, thresholds={"malignant": 0.5})
    assert found.subgroups.keys() == {"sex"}
    assert found.subgroups["sex"].keys() == {"F", "M"}
    for word, group in found.subgroups["sex"].items():
        own = words == word
        figures = group.figures["malignant"]
        assert figures.roc_auc.value == pytest.approx(roc_auc_score(labels[own], scores[own]))
        assert figures.sensitivity is not None
        assert figures.sensitivity.value == pytest.approx(np.mean(scores[own & (labels == 1)] >= 0.5))
        assert (group.patients, figures.positives) == (own.sum(), labels[own].sum())
        assert (group.loss, group.withheld) == (None, None)
        merged = pooled([group], "malignant")
        assert merged is not None
        assert merged.roc_auc() == pytest.approx(roc_auc_score(labels[own], scores[own]), abs=0.03)


def test_nothing_is_added_where_no_group_is_asked_for_or_none_may_be_told() -> None:
    scores, labels, words = patients(60, 2)
    whole = evaluate_scores(
        np.stack([1 - scores, scores], axis=1), labels, np.arange(60), study=TWO, thresholds=None, min_cell=K
    )
    assert "subgroups" not in whole.model_dump_json()
    few = np.where(np.arange(60) < 2, "F", "M")
    assert evaluated(scores, labels, few) == whole, "two women: not the men either, or they were the difference"
    assert evaluated(scores, labels, words).model_copy(update={"subgroups": {}}) == whole


def test_a_patient_is_in_one_group() -> None:
    scores, labels, _ = patients(20, 3)
    with pytest.raises(RunError, match="two groups"):
        evaluated(scores, labels, ["F", "M"] * 10, patients=np.repeat(np.arange(10), 2))


def test_of_exclusive_labels_whole_groups_are_told_and_of_several_an_image_each_label_by_itself() -> None:
    labels = np.array([0] * 12 + [1] * 12 + [2] * 12)
    words = np.array(["F"] * 8 + ["M"] * 4 + ["F"] * 8 + ["M"] * 4 + ["F"] * 10 + ["M"] * 2)
    probabilities = np.random.default_rng(0).dirichlet(np.ones(3), size=36)
    assert evaluated(probabilities, labels, words, study=THREE).subgroups == {}, "of men with the third label are two"
    several = np.stack([labels == 1, labels == 2], axis=1).astype(np.int64)
    found = evaluated(probabilities[:, :2], several, words, study=SEVERAL).subgroups["sex"]
    assert {word: list(group.figures) for word, group in found.items()} == {"F": ["nodule"], "M": ["nodule"]}


# What may not be told of them ----------------------------------------------------------------------------------------


def test_who_stays_home_is_covered() -> None:
    assert told_groups({"F": [9, 9], "M": [8, 8]}, 5) == {"F", "M"}
    assert told_groups({"F": [9, 9], "M": [8, 4]}, 5) == set(), "men would be the difference"
    assert told_groups({"F": [9, 9], "M": [8, 4], "O": [7, 6]}, 5) == {"F"}, "the smallest other covers them"
    assert told_groups({"F": [9, 9], "M": [3, 3], "O": [2, 2]}, 5) == {"F"}, "together they are enough"
    assert told_groups({"F": [9, 9], "M": [0, 0]}, 5) == {"F"}, "nobody is nobody's"
    assert told_groups({"F": [9], "M": [9], "O": [9]}, 5, among={"F", "M"}) == {"F", "M"}


def _unions(names: list[str]) -> list[tuple[str, ...]]:
    return list(chain.from_iterable(combinations(names, size) for size in range(len(names) + 1)))


def _is_safe(count: int) -> bool:
    return count == 0 or count >= K


def _inside(sketch: ClassSketch, low: int, high: int) -> int:
    """Patients in the bins that lie between two edges whole."""
    bins = zip(sketch.edges, sketch.edges[1:], sketch.counts, strict=False)
    return sum(count for begin, end, count in bins if low <= begin and end <= high)


def _check_differences(whole: Evaluation, *, exclusive: bool) -> None:
    """No difference of all patients and of told groups is of 1 to K - 1 patients, with a label or without, by score.

    Nor do the patients and those with a label and those without it differ by as many, who have both or of whom it is
    not known; nor the patients and those with any label, where an image has one.
    """
    for held in (whole, *(group for groups in whole.subgroups.values() for group in groups.values())):
        for figures in held.figures.values():
            assert _is_safe(abs(held.patients - figures.patients))
        if exclusive and len(held.figures) > 1:
            assert _is_safe(abs(held.patients - sum(figures.positives for figures in held.figures.values())))
    for groups in whole.subgroups.values():
        for names in _unions(sorted(groups)):
            assert _is_safe(whole.patients - sum(groups[name].patients for name in names))
        for label in whole.sketches:
            told = {name: group for name, group in groups.items() if label in group.sketches}
            for names in _unions(sorted(told)):
                for side in ("positives", "negatives"):
                    everybody: ClassSketch = getattr(whole.sketches[label], side)
                    own: list[ClassSketch] = [getattr(told[name].sketches[label], side) for name in names]
                    for low, high in combinations(everybody.edges, 2):
                        count = _inside(everybody, low, high) - sum(_inside(one, low, high) for one in own)
                        assert _is_safe(count), (label, side, names, low, high)
                figures = whole.figures[label]
                assert _is_safe(figures.positives - sum(told[name].figures[label].positives for name in names))


@st.composite
def sites(draw: st.DrawFn) -> tuple[StudySpec, npt.NDArray[np.float64], npt.NDArray[np.int64], Images, list[str]]:
    """Scores, labels and patients of images, of some patients several, and the patients' words."""
    study = draw(st.sampled_from([TWO, THREE, SEVERAL]))
    classes, n = len(study.cohort.labels), draw(st.integers(1, 50))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shares = draw(st.lists(st.floats(0.01, 1), min_size=3, max_size=3))
    of = np.where(rng.random(n) < draw(st.sampled_from([0.0, 0.1, 0.9])), rng.integers(0, n, n), np.arange(n))
    words = rng.choice(SEXES, n, p=np.array(shares) / sum(shares))[of].tolist()
    if study is SEVERAL:
        unknown = rng.random((n, classes)) < draw(st.sampled_from([0.0, 0.05, 0.3]))
        return study, rng.random((n, classes)), np.where(unknown, -1, rng.integers(0, 2, (n, classes))), of, words
    return study, rng.dirichlet(np.ones(classes), n), rng.integers(0, classes, n), of, words


@settings(deadline=None, max_examples=20)
@given(sites())
def test_no_difference_is_of_few(
    site: tuple[StudySpec, npt.NDArray[np.float64], npt.NDArray[np.int64], Images, list[str]],
) -> None:
    study, probabilities, labels, of, words = site
    found = evaluated(probabilities, labels, words, study=study, patients=of)
    _check_differences(found, exclusive=study is THREE)


def test_the_check_of_differences_finds_one() -> None:
    """Bins of a group's own, as `suppressed` makes them, give single patients away."""
    scores, labels, _ = patients(60, 4)
    words = np.where(np.arange(60) % 5, "F", "M")
    found = evaluated(scores, labels, words)
    _check_differences(found, exclusive=False)
    own = words == "F"
    women = evaluate_scores(
        np.stack([1 - scores, scores], axis=1)[own],
        labels[own],
        np.arange(own.sum()),
        study=TWO,
        thresholds=None,
        min_cell=K,
    )
    naive = found.model_copy(update={"subgroups": {"sex": {"F": women}}})
    with pytest.raises(AssertionError):
        _check_differences(naive, exclusive=False)


def test_a_record_with_strange_groups_is_refused() -> None:
    group = GroupEvaluation(patients=6, loss=None, withheld=None)
    with pytest.raises(ValidationError, match="'Dr Smith' is no group"):
        Evaluation(patients=9, loss=None, withheld=None, subgroups={"sex": {"Dr Smith": group}})
    with pytest.raises(ValidationError, match="more than the 9 patients"):
        Evaluation(patients=9, loss=None, withheld=None, subgroups={"sex": {"F": group, "M": group}})


# Which groups --------------------------------------------------------------------------------------------------------


def test_groups_are_the_same_everywhere() -> None:
    assert [band_of(years) for years in (0, 39, 40, 59, 60, 74, 75, 90)] == [each for each in BANDS for _ in range(2)]
    assert [vendor_of(name) for name in ("SIEMENS", "Siemens Healthineers", "GE MEDICAL SYSTEMS", "TOSHIBA_MEC")] == [
        "Siemens",
        "Siemens",
        "GE",
        "Toshiba",
    ]
    assert [vendor_of(name) for name in ("Scanner of Dr Smith", " ", "")] == [OTHER, NOT_KNOWN, NOT_KNOWN]


def test_a_study_says_its_groups_and_cannot_ask_for_what_is_not_known() -> None:
    said = dict(describe(tiny_study(evaluation={"subgroups": ("sex", "age")})))["Success"]
    assert (
        "also leave by sex and age (under 40, 40 to 59, 60 to 74, 75 and over), of groups of enough patients." in said
    )
    with pytest.raises(ValidationError, match="names one twice"):
        tiny_study(evaluation={"subgroups": ("sex", "sex")})


@pytest.mark.parametrize(
    ("network", "more", "groups", "words"),
    [
        ("small-cnn", "", '["race"]', 'subgroups item 1 = "race": must be one of "sex", "age", "vendor"'),
        (
            "mlp",
            '[input]\nkind = "table"\nfeatures = ["age"]\n',
            '["sex", "vendor"]',
            'has "vendor", the maker of a scanner, and only images come from one; remove it',
        ),
        (
            "cnn-1d",
            '[input]\nkind = "sequence"\ncolumn = "window"\nlength = 64\n',
            '["sex"]',
            'needs [input] kind = "image", "table" or "series": others are of no sex or age; remove it',
        ),
    ],
)
def test_groups_that_cannot_be_are_refused_in_one_sentence(network: str, more: str, groups: str, words: str) -> None:
    text = STUDY.format(network=network, more=more, groups=groups)
    with pytest.raises(StudyError) as refused:
        loads(text, "s.toml")
    assert words in str(refused.value)
    assert loads(STUDY.format(network="small-cnn", more="", groups='["vendor"]'), "s.toml").evaluation.subgroups
