"""Studies without a positive label: each label against the rest and their mean, from evaluations to the page."""

from pathlib import Path
from statistics import fmean

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score  # type: ignore[import-untyped]

from fedward_common.metrics import Evaluation, evaluate_scores, pooled
from fedward_common.records import Prepared
from fedward_common.study import StudySpec
from fedward_common.testing import tiny_study
from fedward_server.figures.pooling import MIXED
from fedward_server.result import RoundHistory, RunResult, SiteResult, SiteRound
from fedward_simulations import plots, wording
from fedward_simulations.compare import Comparison
from fedward_simulations.model_card import render_model_card
from fedward_simulations.report import render_report
from fedward_simulations.results import METRICS, Results, StudyInfo, combine
from fedward_simulations.studies.running import figure
from fedward_simulations.summary import summarize

LABELS = ("healthy", "mild", "severe")
STUDY = tiny_study(cohort={"labels": LABELS, "positive": None})
SEVERAL = tiny_study(cohort={"labels": LABELS, "positive": None, "multi_label": True})
SITES = {"harbour": 150, "north": 120, "valley": 90}  # test patients; valley has none that are severe
POINT = 0.4

Drawn = tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]


def drawn(name: str, quality: float, seed: int) -> Drawn:
    """Probabilities and classes of a hospital's test patients."""
    rng = np.random.default_rng([seed, SITES[name]])
    truth = np.arange(SITES[name]) % (2 if name == "valley" else 3)
    logits = rng.normal(size=(truth.size, 3))
    logits[np.arange(truth.size), truth] += quality
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), truth


def evaluated(name: str, quality: float, seed: int, study: StudySpec) -> Evaluation:
    scores, truth = drawn(name, quality, seed)
    if study.cohort.multi_label:  # of which valley knows two labels only
        truth = (truth[:, None] == np.arange(3)).astype(np.int64)
        truth[:, 2] -= name == "valley"
    points = dict.fromkeys(LABELS, POINT)
    return evaluate_scores(scores, truth, np.arange(len(truth)), study=study, thresholds=points, min_cell=5)


def run_result(study: StudySpec, quality: float, seed: int) -> RunResult:
    def site(name: str) -> SiteResult:
        prepared = Prepared(
            site=name, fedward="0.1.0", cohort="ab" * 32, total=500, patients={"train": 60}, seconds=1.0
        )
        return SiteResult(prepared=prepared, test=evaluated(name, quality, seed, study))

    part = SiteRound(train_loss=0.5, patients=9, train_seconds=0.5, seconds=1.0, bytes_up=1, bytes_down=1)
    return RunResult(
        run="run-1",
        engine="embedded",
        study=study,
        sites={name: site(name) for name in SITES},
        history=(RoundHistory(round=1, seconds=1.0, train_loss=0.5, sites=dict.fromkeys(SITES, part)),),
        kept_round=1,
        left_out=(),
        thresholds=dict.fromkeys(LABELS, POINT),
        model_sha256="ab" * 32,
        wall_s=1.0,
    )


def results_of(study: StudySpec, example: Results) -> Results:
    """Two seeds, in which the federated model does better than each hospital's own."""

    def comparison(seed: int) -> Comparison:
        federated, alone, together = (run_result(study, quality, seed) for quality in (1.5, 0.8, 1.7))
        return Comparison(
            seed=seed,
            folder=Path(),
            wall_s=1.0,
            federated=federated,
            local=dict.fromkeys(SITES, alone),
            pooled=together,
            failed={},
        )

    seeds = [summarize(comparison(seed), workers=2) for seed in (1, 2)]
    return combine(seeds, study=StudyInfo.of(study), engine="embedded", created=example.created, wall_s=1.0)


@pytest.fixture(scope="module")
def classes(one_seed: Results) -> Results:
    return results_of(STUDY, one_seed)


def test_each_labels_figures_are_those_of_all_hospitals_patients(classes: Results) -> None:
    run = classes.runs[0]
    overall = run.overall.federated
    assert overall.labels.keys() == set(LABELS)
    for index, (label, block) in enumerate(overall.labels.items()):
        names = [name for name in SITES if (name, label) != ("valley", "severe")]
        scores, truth = (np.concatenate(each) for each in zip(*(drawn(name, 1.5, 1) for name in names), strict=True))
        own, has = scores[:, index], truth == index
        merged = pooled([evaluated(name, 1.5, 1, STUDY) for name in names], label)
        assert merged is not None
        assert block.roc_auc is not None
        assert block.roc_auc.low < block.roc_auc.value < block.roc_auc.high
        assert abs(block.roc_auc.value - roc_auc_score(has, own)) <= 2 * merged.auc_uncertainty()
        assert block.roc_auc.value == pytest.approx(roc_auc_score(has, own), abs=0.01)
        assert block.average_precision == pytest.approx(average_precision_score(has, own), abs=0.03)
        assert block.sensitivity is not None
        assert block.sensitivity.value == pytest.approx(np.mean(own[has] >= POINT))
        assert (block.patients, block.positives) == (len(own), has.sum())
        curve = run.roc["federated"][label]
        assert np.trapezoid(curve.tpr, curve.fpr) == pytest.approx(block.roc_auc.value, abs=1e-9)
        assert run.precision_recall["federated"][label].recall[-1] == 1
        assert sum(point.patients for point in run.calibration["federated"][label]) == pytest.approx(len(own))
    assert run.roc.keys() == {"federated", "pooled"}


def test_the_figure_of_all_labels_is_their_mean_and_its_interval_as_wide_as_theirs(classes: Results) -> None:
    overall = classes.runs[0].overall.federated
    for metric in METRICS:
        figure, own = overall.figure(metric), [block.figure(metric) for block in overall.labels.values()]
        assert figure is not None
        for end in ("value", "low", "high"):
            assert getattr(figure, end) == pytest.approx(fmean(getattr(one, end) for one in own))
    assert overall.patients == sum(SITES.values())
    assert overall.withheld == "severe is shown by harbour and north"


def test_a_hospital_keeps_the_labels_that_it_shows(classes: Results) -> None:
    harbour, north, valley = (site.federated for site in classes.sites)
    assert valley.labels.keys() == {"healthy", "mild"}
    assert valley.roc_auc is None, "a mean over two labels cannot stand beside one over three"
    assert "severe" in (valley.withheld or "")
    for block in (harbour, north):
        assert block.roc_auc is not None
        assert block.roc_auc.value == pytest.approx(fmean(one.roc_auc.value for one in block.labels.values()))  # type: ignore[union-attr]
    assert classes.overall.federated.mean.sites == 2


def test_several_labels_an_image_are_the_mean_of_those_that_a_hospital_knows(one_seed: Results) -> None:
    found = results_of(SEVERAL, one_seed)
    valley = found.sites[2].federated
    assert valley.labels.keys() == {"healthy", "mild"}
    assert valley.roc_auc is not None
    assert found.overall.federated.labels.keys() == set(LABELS)
    assert found.overall.federated.roc_auc is not None


def test_each_hospitals_own_models_are_counted_and_not_ranked(classes: Results) -> None:
    local = classes.overall.local
    assert local.roc_auc is None
    assert local.sensitivity is not None
    assert MIXED in (local.withheld or "")
    assert all(block.roc_auc is None and block.sensitivity is not None for block in local.labels.values())


def test_no_hospital_shows_a_label(one_seed: Results) -> None:
    four = tiny_study(cohort={"labels": (*LABELS, "unheard"), "positive": None})
    run = run_result(STUDY, 1.5, 1)
    run = run.model_copy(update={"study": four})
    comparison = Comparison(
        seed=1, folder=Path(), wall_s=1.0, federated=run, local=dict.fromkeys(SITES, run), pooled=None, failed={}
    )
    overall = summarize(comparison, workers=2).overall.federated
    assert overall.roc_auc is not None
    assert "unheard is shown by no hospital" in (overall.withheld or "")


def test_the_report_shows_a_curve_and_a_row_a_label(classes: Results) -> None:
    page, card = render_report(classes), render_model_card(classes)
    for label in LABELS:
        block = classes.overall.federated.labels[label]
        assert block.roc_auc is not None
        assert f"ROC-AUC: {label}" in page
        assert f"ROC-AUC: {label}" in card
        assert wording.figure_text(block.roc_auc) in card
        for draw in (plots.roc, plots.precision_recall, plots.calibration):
            assert f">{label}<" in draw(classes)
        assert f"{label}: Local only –; Federated {block.roc_auc.value:.2f}" in plots.roc_alt(classes)
    assert plots.roc(classes).count("Federated ") == 2 * len(LABELS)  # a legend a panel, and the words beside it
    assert "each label against the rest" in page
    assert "severe is shown by harbour and north" in page
    assert "no figure over all hospitals" not in page


def test_the_page_of_results_tells_value_interval_and_spread(classes: Results) -> None:
    area = classes.overall.federated.roc_auc
    assert area is not None
    told = figure(classes.overall.federated.figure("roc_auc"))
    assert told == f"{area.value:.3f} ({area.low:.3f} to {area.high:.3f}, sd {area.sd:.3f})"
    means = [fmean(s.local.roc_auc.value for s in run.sites if s.local.roc_auc) for run in classes.runs]
    assert classes.overall.local.mean.sd == pytest.approx(np.std(means, ddof=1))


def test_a_label_is_said_not_to_be_tested_where_no_seed_could_show_it() -> None:
    whole = run_result(STUDY, 1.5, 1)
    few = whole.model_copy(update={"sites": {"valley": whole.sites["valley"]}})  # which has none that are severe
    assert any(LABELS[2] in note for note in few.notes())
    assert any(LABELS[2] in note for note in few.notes([few]))
    assert not list(few.notes([whole]))
