"""Evaluations of invented test patients, of every task, for tests: the better the `quality` of the model, 0 to 1.

Half of the patients are women, half men, where a study asks for groups by sex.
"""

from collections.abc import Callable, Mapping

import numpy as np

from fedward_common.metrics import (
    Evaluation,
    MaskScores,
    evaluate_detections,
    evaluate_overlap,
    evaluate_scores,
    evaluate_survival,
    with_subgroups,
)
from fedward_common.study import StudySpec
from fedward_common.study_subgroups import Subgroups

MIN_CELL = 5

Words = dict[Subgroups, np.ndarray[tuple[int], np.dtype[np.str_]]]
Draw = Callable[[StudySpec, int, float, np.random.Generator, Mapping[str, float] | None], Evaluation]


def invented(
    study: StudySpec,
    patients: int,
    quality: float,
    seed: int | list[int],
    thresholds: Mapping[str, float] | None = None,
) -> Evaluation:
    """The evaluation of so many patients: the same for the same seed."""
    return _DRAWS[study.study.task](study, patients, quality, np.random.default_rng(seed), thresholds)


def _groups(study: StudySpec, patients: int) -> Words:
    return {"sex": np.where(np.arange(patients) // 2 % 2, "F", "M")} if "sex" in study.evaluation.subgroups else {}


def _classes(
    study: StudySpec,
    patients: int,
    quality: float,
    random: np.random.Generator,
    thresholds: Mapping[str, float] | None,
) -> Evaluation:
    """Probabilities that say nothing, drawn towards the truth; labels take turns."""
    classes = len(study.cohort.labels)
    truth = np.arange(patients) % classes
    true = truth[:, None] == np.arange(classes)
    scores = random.dirichlet(np.ones(classes), size=patients) * np.exp(2 * quality * true)
    scores /= scores.sum(axis=1, keepdims=True)
    labels = true.astype(np.int64) if study.cohort.multi_label else truth
    whole = evaluate_scores(scores, labels, np.arange(patients), study=study, thresholds=thresholds, min_cell=MIN_CELL)
    return with_subgroups(
        whole,
        scores,
        labels,
        np.arange(patients),
        _groups(study, patients),
        study=study,
        thresholds=thresholds,
        min_cell=MIN_CELL,
    )


def _masks(
    study: StudySpec, patients: int, quality: float, random: np.random.Generator, _: Mapping[str, float] | None
) -> Evaluation:
    """Each structure is harder than the one before."""
    means = [quality - 0.2 * place for place in range(len(study.cohort.labels))]
    dice = np.clip(random.normal(means, 0.05, (patients, len(means))), 0, 1)
    return evaluate_overlap(
        _scores(dice),
        np.ones_like(dice),
        1 - dice[:, 0],
        np.arange(patients),
        study=study,
        min_cell=MIN_CELL,
        groups=_groups(study, patients),
    )


def _pairs(
    study: StudySpec, patients: int, quality: float, random: np.random.Generator, _: Mapping[str, float] | None
) -> Evaluation:
    """Before registration Dice is 0.35."""
    size = (patients, len(study.cohort.labels))
    after, before = (np.clip(random.normal(mean, 0.05, size), 0, 1) for mean in (quality, 0.35))
    return evaluate_overlap(
        _scores(after),
        np.ones(size),
        1 - after.mean(axis=1) if after.size else np.ones(patients),
        np.arange(patients),
        study=study,
        min_cell=MIN_CELL,
        before=_scores(before),
        folding=random.uniform(0, 0.004, patients),
        groups=_groups(study, patients),
    )


def _scores(dice: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> list[MaskScores]:
    return [MaskScores(row, 5 * (1 - row), 20 * (1 - row)) for row in dice] if dice.size else []


def _boxes(
    study: StudySpec, patients: int, quality: float, random: np.random.Generator, _: Mapping[str, float] | None
) -> Evaluation:
    """Two findings and three false positives an image, all of the first kind."""
    truth, found = [], []
    for _number in range(patients):
        centres = random.uniform(10, 90, (2, 2))
        hits = centres[random.random(2) < quality]
        middles = np.concatenate([hits, np.full((3, 2), 200.0)])
        scores = np.concatenate([random.beta(5, 2, len(hits)), random.beta(2, 4, 3)])
        kinds = np.zeros(len(middles), dtype=np.int64)
        found.append((np.concatenate([middles - 4, middles + 4], axis=1), scores, kinds))
        truth.append(np.concatenate([centres - 5, centres + 5, np.zeros((2, 1))], axis=1))
    return evaluate_detections(
        found,
        truth,
        np.ones(patients),
        np.arange(patients),
        study=study,
        min_cell=MIN_CELL,
        groups=_groups(study, patients),
    )


def _risks(
    study: StudySpec, patients: int, quality: float, random: np.random.Generator, _: Mapping[str, float] | None
) -> Evaluation:
    """A third of the patients are censored."""
    risk = random.normal(size=patients)
    times = random.exponential(np.exp(-3 * quality * risk))
    events = np.arange(patients) % 3 > 0
    numbers = np.arange(patients)
    return evaluate_survival(risk, times, events, numbers, min_cell=MIN_CELL, groups=_groups(study, patients))


_DRAWS: Mapping[str, Draw] = {
    "classification": _classes,
    "segmentation": _masks,
    "registration": _pairs,
    "detection": _boxes,
    "survival": _risks,
}
