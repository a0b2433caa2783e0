"""What is said of figures that a run could not give."""

import numpy as np
import pytest

from fedward_common import study as spec
from fedward_common.metrics import Evaluation, evaluate_scores
from fedward_common.testing import tiny_study
from fedward_server.limits import limits, unseen


def classes(*labels: str, positive: str | None = None) -> spec.StudySpec:
    return spec.StudySpec(
        study=spec.About(id="lesions", task="classification"),
        cohort=spec.Cohort(labels=labels, positive=positive),
        model=spec.Model(name="small-cnn"),
    )


def on_patients(counts: list[int], study: spec.StudySpec) -> Evaluation:
    truth = np.repeat(np.arange(len(counts)), counts)
    scores = np.random.default_rng(0).dirichlet(np.ones(len(counts)), truth.size)
    return evaluate_scores(scores, truth, np.arange(truth.size), study=study, thresholds=None, min_cell=5)


@pytest.mark.parametrize(
    ("sites", "without"),
    [
        ([[20, 20, 20], [20, 20, 0]], ""),  # the second can show none, the first all
        ([[20, 20, 0], [30, 20, 0]], "figure of dementia:"),
        ([[20, 0, 0], [30, 0, 0]], "figure of healthy, impaired, dementia:"),
        ([], "figure of healthy, impaired, dementia:"),
    ],
)
def test_a_label_that_nobody_was_tested_for_is_named(sites: list[list[int]], without: str) -> None:
    study = classes("healthy", "impaired", "dementia")
    said = "".join(unseen(study, [on_patients(counts, study) for counts in sites]))
    assert (without in said) if without else not said


def test_of_a_study_with_one_label_to_look_for_nothing_is_added() -> None:
    study = classes("benign", "malignant", positive="malignant")
    assert not list(unseen(study, [on_patients([30, 0], study)]))


@pytest.mark.parametrize(
    ("images", "said"),
    [
        ({"size": [32, 32]}, "grid, 32 × 32 pixels."),
        ({"size": [8, 32, 32], "spacing": [2.5, 1, 1]}, "grid, 8 × 32 × 32 pixels of 2.5 × 1 × 1 mm: what of a struct"),
        ({"size": [32, 32], "crop": "foreground"}, "grid, 32 × 32 pixels: what of a structure lies outside of it is"),
    ],
)
def test_figures_of_masks_say_on_what_grid_they_are(images: dict[str, object], said: str) -> None:
    study = tiny_study(
        study={"task": "segmentation"},
        cohort={"labels": ["liver"], "positive": None},
        input=images,
        model={"name": "unet"},
        evaluation={"primary": "dice"},
    )
    assert said in " ".join(limits(study, ["a"], patients=9))
    assert "grid" not in " ".join(limits(tiny_study(input=images), ["a"], patients=9))


def test_weights_that_were_trained_before_may_have_seen_who_is_tested() -> None:
    study = tiny_study(model={"start": {"file": "w.safetensors"}})
    assert "began with trained weights, which may come of patients who are tested" in " ".join(
        limits(study, ["a"], patients=9)
    )
    assert "trained weights" not in " ".join(limits(tiny_study(), ["a"], patients=9))


def test_where_the_one_hospital_to_be_tested_took_no_part_nobody_was() -> None:
    study = tiny_study(split={"kind": "leave-site-out", "site": "c"})
    assert any(said.startswith("Nobody was tested: c, ") for said in limits(study, ["a", "b"], patients=None))
