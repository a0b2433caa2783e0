"""Groups of patients from evaluations to results.json, the report and the model card."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score  # type: ignore[import-untyped]

from fedward_common.metrics import Evaluation, evaluate_scores, with_subgroups
from fedward_common.records import Prepared
from fedward_common.study import StudySpec
from fedward_common.testing import tiny_study
from fedward_server.result import RoundHistory, RunResult, SiteResult, SiteRound
from fedward_simulations import subgroup_report
from fedward_simulations.compare import Comparison
from fedward_simulations.model_card import render_model_card
from fedward_simulations.report import render_report
from fedward_simulations.results import Figure, GroupBlock, Results, StudyInfo, combine
from fedward_simulations.summary import summarize

K = 5


ROUND = SiteRound(train_loss=0.5, patients=9, train_seconds=0.5, seconds=1.0, bytes_up=1, bytes_down=1)


def prepared(name: str) -> Prepared:
    return Prepared(site=name, fedward="0.1.0", cohort="ab" * 32, total=300, patients={"train": 60}, seconds=1.0)


def evaluated(scores: np.ndarray, labels: np.ndarray, words: np.ndarray, study: StudySpec) -> Evaluation:
    given = (np.stack([1 - scores, scores], axis=1), labels, np.arange(len(labels)))
    whole = evaluate_scores(*given, study=study, thresholds={"malignant": 0.5}, min_cell=K)
    return with_subgroups(whole, *given, {"sex": words}, study=study, thresholds={"malignant": 0.5}, min_cell=K)


def test_groups_of_several_hospitals_are_put_together(one_seed: Results, tmp_path: Path) -> None:
    study = tiny_study(evaluation={"subgroups": ("sex", "age")})
    rng, sites, seen = np.random.default_rng(5), {}, []
    for index, name in enumerate(("harbour", "north", "valley")):
        labels, words = rng.integers(0, 2, 200), np.where(rng.random(200) < 0.5, "F", "M")
        if index == 0:
            words[:] = "M"
        scores = 1 / (1 + np.exp(-rng.normal(2.0 * labels * (words == "M") - 1, 1)))
        seen.append((scores, labels, words))
        sites[name] = SiteResult(prepared=prepared(name), test=evaluated(scores, labels, words, study))
    run = RunResult(
        run="run-1",
        engine="embedded",
        study=study,
        sites=sites,
        history=(RoundHistory(round=1, seconds=1.0, train_loss=0.5, sites=dict.fromkeys(sites, ROUND)),),
        kept_round=1,
        left_out=(),
        thresholds={"malignant": 0.5},
        model_sha256="ab" * 32,
        wall_s=1.0,
    )
    comparison = Comparison(
        seed=1, folder=tmp_path, wall_s=1.0, federated=run, local=dict.fromkeys(sites, run), pooled=None, failed={}
    )
    seed = summarize(comparison, workers=2)
    assert seed.subgroups.keys() == {"sex"}, "of ages nothing was told"
    scores, labels, words = (np.concatenate(each) for each in zip(*seen, strict=True))
    for word, hospitals in (("F", len(sites) - 1), ("M", len(sites))):
        block = seed.subgroups["sex"][word]["malignant"]
        own = words == word
        assert (block.sites, block.patients, block.positives) == (hospitals, own.sum(), labels[own].sum())
        assert block.roc_auc is not None
        assert block.roc_auc.value == pytest.approx(roc_auc_score(labels[own], scores[own]), abs=0.01)
        assert block.sensitivity is not None
        assert block.sensitivity.value == pytest.approx(np.mean(scores[own & (labels == 1)] >= 0.5))
    results = combine(
        [seed, seed.model_copy(update={"seed": 2})],
        study=StudyInfo.of(study),
        engine="embedded",
        created=one_seed.created,
        wall_s=1.0,
    )
    assert results.subgroups["sex"]["F"]["malignant"].sites == len(sites) - 1
    assert results == Results.model_validate_json(results.model_dump_json())
    assert len(list(subgroup_report.notes(results))) == 2, "women and men differ, and ages are not known"


def block(area: float, half: float, patients: int = 40) -> GroupBlock:
    figure = Figure(value=area, low=area - half, high=area + half)
    return GroupBlock(
        roc_auc=figure, sensitivity=figure, specificity=figure, patients=patients, positives=patients // 4, sites=2
    )


@pytest.fixture
def grouped(one_seed: Results) -> Results:
    spec = one_seed.study.spec
    asked = spec.evaluation.model_copy(update={"subgroups": ("sex", "age", "vendor")})
    return one_seed.model_copy(
        update={
            "study": StudyInfo.of(spec.model_copy(update={"evaluation": asked})),
            "subgroups": {
                "sex": {"M": {"malignant": block(0.9, 0.03)}},
                "age": {
                    "40 to 59": {"malignant": block(0.91, 0.03)},
                    "60 to 74": {"malignant": block(0.7, 0.1)},
                    "not known": {"malignant": block(0.85, 0.1)},
                },
            },
        }
    )


def test_a_clinician_reads_where_groups_differ_and_of_whom_nothing_is_known(grouped: Results) -> None:
    differs, women, ages, vendors = subgroup_report.notes(grouped)
    assert differs == (
        "The federated model does not do alike in all groups by age: the ROC-AUC for “malignant” is 0.91 (0.88–0.94) "
        "in age 40 to 59, 0.70 (0.60–0.80) in age 60 to 74; the 95 % intervals do not overlap."
    )
    assert women == "No figure for women: too few test patients at any hospital, or none."
    assert ages == "No figure for age under 40 or age 75 and over: too few test patients at any hospital, or none."
    assert vendors == "No figure by maker of the scanner: no hospital has enough test patients in its groups."
    page, card = render_report(grouped), render_model_card(grouped)
    for note in subgroup_report.notes(grouped):
        assert note in page
        assert note in card
    assert "By group of patients" in page
    assert "<svg" in page.split("Groups of patients")[1]
    assert "Men 0.90 (0.87–0.93); Age 40 to 59 0.91 (0.88–0.94)" in card
    assert "not crossed" in card


def test_a_study_that_asks_for_none_says_so(one_seed: Results) -> None:
    page, card = render_report(one_seed), render_model_card(one_seed)
    assert "By group of patients" not in page
    assert "not split by age, sex" in page
    assert "not analysed" in card
    assert "subgroups" not in one_seed.model_dump_json(exclude={"study"})
