"""From finished runs to the numbers of results.json."""

from pathlib import Path

import numpy as np
import pytest

from fedward_common.metrics import ScoreSketch, merge
from fedward_common.testing import tiny_study
from fedward_server.figures.pooling import area_of
from fedward_simulations import plots, wording
from fedward_simulations.benchmarks.update_compression import federated
from fedward_simulations.compare import Comparison
from fedward_simulations.results import Results, combine
from fedward_simulations.summary import summarize


def test_a_strategy_with_personal_models_shows_them_beside_the_others(one_seed: Results, tmp_path: Path) -> None:
    study = tiny_study(input={"size": [32, 32]}, training={"rounds": 2}, strategy={"min_sites": 4, "name": "ditto"})
    run = federated(study, 60)
    locally = dict.fromkeys(run.sites, run)  # stands in: what counts here is the personal models
    comparison = Comparison(seed=1, folder=tmp_path, wall_s=1.0, federated=run, local=locally, pooled=None, failed={})
    seed = summarize(comparison, workers=2)
    for site in seed.sites:
        personal = run.sites[site.name].personal
        assert personal is not None
        assert site.personal is not None
        assert site.personal.roc_auc is not None
        assert site.personal.roc_auc.value == personal.figures["malignant"].roc_auc.value
    assert seed.overall.personal is not None
    assert seed.overall.personal.roc_auc is None, "each hospital has a model of its own"
    assert seed.roc.keys() == {"federated"}
    results = combine([seed], study=one_seed.study, engine="embedded", created=one_seed.created, wall_s=1.0)
    assert wording.shown(results) == ["local", "federated", "personal"]
    assert results.overall.personal is not None
    assert results.overall.personal.mean.roc_auc is not None
    assert "personal" in plots.gain_alt(results)
    assert "Personal" in plots.gain(results)


def test_without_such_models_nothing_is_shown_of_them(one_seed: Results) -> None:
    assert one_seed.overall.personal is None
    assert "personal" not in wording.shown(one_seed)


@pytest.mark.parametrize(("patients", "spread", "told"), [(20, 0.1, True), (20, 0.01, False), (2000, 0.2, False)])
def test_an_area_is_told_where_ties_hide_little_beside_what_chance_leaves_open(
    patients: int, spread: float, told: bool
) -> None:
    """Of scores about a half: of few patients a hundredth more or less of the area is nothing beside its interval."""
    rng = np.random.default_rng(0)
    labels = np.arange(patients) % 2
    scores = 1 / (1 + np.exp(-spread * (rng.normal(size=patients) + labels)))
    half = patients // 2
    merged = merge([ScoreSketch.of(scores[:half], labels[:half]), ScoreSketch.of(scores[half:], labels[half:])])
    assert merged.tied() > 0.02
    assert (area_of(merged, tiny_study()) is not None) == told
