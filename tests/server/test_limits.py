"""What is said of figures that a run could not give."""

import numpy as np
import pytest

from fedward_common import study as spec
from fedward_common.metrics import Evaluation, evaluate_scores
from fedward_server.limits import unseen


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
