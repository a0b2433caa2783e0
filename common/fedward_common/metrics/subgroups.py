"""The figures of groups of a site's patients, of women and men for example, under the small-cell and difference rules.

A partition puts every patient into one group, of those whose word is not known too. The groups' figures leave beside
those of all patients, so what is held back of a group is a difference: patients, their scores, their errors. Therefore

- of each label, with it and without it, a group that is told has at least k patients, and all others together too,
  unless there is nobody else (`cells.told_groups`);
- the groups of a partition have the same bins: some of all patients' bins joined, until each holds at least k of each
  group told, and of the others together. Bins of a group's own would give single scores by subtraction;
- of a group no loss is told, nor a sentence of what was held back: a group of few looks like one of none.

So a count that is a sum or difference of what leaves of one partition is of nobody, or of at least k patients. Not
covered are crossed groups, of several partitions: old women. What leaves bounds their sizes (Fréchet bounds; Hundepool
et al. 2012, "Statistical Disclosure Control", ch. 4), and whoever knows from elsewhere that a crossed group is empty,
that no man is young, can work out others beside it. There are three partitions at most, and a steward approves them.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from fedward_common.errors import RunError
from fedward_common.metrics.base import Ints
from fedward_common.metrics.cases import Cases, Images, checked
from fedward_common.metrics.cells import told_groups
from fedward_common.metrics.evaluation import Evaluation, GroupEvaluation
from fedward_common.metrics.figures import SiteFigures, site_figures
from fedward_common.metrics.sketch import BINS, ClassSketch, ScoreSketch
from fedward_common.study import StudySpec
from fedward_common.study_subgroups import Subgroups

Parts = Mapping[str, Images]  # a partition: images by the group of their patients


def with_subgroups(
    whole: Evaluation,
    probabilities: npt.ArrayLike,
    labels: npt.ArrayLike,
    patients: npt.ArrayLike,
    groups: Mapping[Subgroups, npt.ArrayLike],
    *,
    study: StudySpec,
    thresholds: Mapping[str, float] | None,
    min_cell: int,
) -> Evaluation:
    """An evaluation with those of groups of its patients, each partition by the words [images] of `groups`.

    `whole` is what `evaluate_scores` gives of the same images, and the rest is what that takes. A patient's images have
    one word. Raises what `evaluate_scores` raises, `RunError` for a patient in two groups.
    """
    if not groups or not whole.figures:
        return whole
    images = checked(probabilities, labels, patients, study=study)
    parts = {by: _parts(images, np.asarray(words)) for by, words in groups.items()}
    told = {by: _told(own, whole, study, thresholds, min_cell) for by, own in parts.items()}
    return Evaluation(**{**dict(whole), "subgroups": {by: found for by, found in told.items() if found}})


def _parts(images: Images, words: npt.NDArray[np.str_]) -> Parts:
    names, place = np.unique(words, return_inverse=True)
    _, first = np.unique(images.patients, return_index=True)
    if words.shape != images.patients.shape or (place != place[first][images.patients]).any():
        raise RunError("a patient's images are in two groups, or in none: give each patient one")
    return {str(name): images.taken(place == index) for index, name in enumerate(names)}


def _told(
    parts: Parts, whole: Evaluation, study: StudySpec, thresholds: Mapping[str, float] | None, min_cell: int
) -> dict[str, GroupEvaluation]:
    sketches: dict[str, dict[str, ScoreSketch]] = {name: {} for name in sorted(parts)}
    figures: dict[str, dict[str, SiteFigures]] = {name: {} for name in parts}
    for label, told in _told_by_label(parts, whole, study, min_cell).items():
        cases = {name: part.cases(study.cohort.labels.index(label)) for name, part in parts.items()}
        for name, sketch in _sketches(cases, told, whole.sketches[label], min_cell).items():
            threshold = (thresholds or {}).get(label)
            one = site_figures(cases[name].scores, cases[name].truth, threshold=threshold, min_cell=min_cell)
            if one is not None:  # never: who is told has enough
                sketches[name][label], figures[name][label] = sketch, one
    return {
        name: GroupEvaluation(
            patients=parts[name].people, loss=None, sketches=own, figures=figures[name], withheld=None
        )
        for name, own in sketches.items()
        if own
    }


def _told_by_label(parts: Parts, whole: Evaluation, study: StudySpec, min_cell: int) -> dict[str, set[str]]:
    """The groups that are told of each label that is told of all patients.

    Where an image has one label, a group is told of all of these or of none, with those who have another label as one
    more count: labels and groups make up a table, of which only whole rows are held back.
    """
    every = range(len(study.cohort.labels))
    labels = {label: study.cohort.labels.index(label) for label in whole.figures}
    if study.cohort.multi_label:
        told = {
            label: told_groups({name: _counts(part, [index]) for name, part in parts.items()}, min_cell)
            for label, index in labels.items()
        }
    else:
        others = [index for index in every if index not in labels.values()] if study.positive_index is None else []
        rest = {name: sum(part.cases(index).with_it for index in others) for name, part in parts.items()}
        more = {name: [many] if any(rest.values()) else [] for name, many in rest.items()}
        table = {name: _counts(part, labels.values()) + more[name] for name, part in parts.items()}
        told = dict.fromkeys(labels, told_groups(table, min_cell))
    people = {name: [part.people] for name, part in parts.items()}
    left = told_groups(people, min_cell, among=set[str]().union(*told.values()))
    return {label: names & left for label, names in told.items()}


def _counts(part: Images, labels: Iterable[int]) -> list[int]:
    """Patients with each label and without it."""
    cases = [part.cases(index) for index in labels]
    return [count for one in cases for count in (one.with_it, one.without)]


def _sketches(
    cases: Mapping[str, Cases], told: Collection[str], whole: ScoreSketch, min_cell: int
) -> dict[str, ScoreSketch]:
    """The histograms of the groups that are told, in bins that they and the others together fill."""
    exact = {name: ScoreSketch.of(one.scores, one.truth) for name, one in cases.items()}
    positives, negatives = (
        _classes({name: getattr(sketch, side) for name, sketch in exact.items()}, told, getattr(whole, side), min_cell)
        for side in ("positives", "negatives")
    )
    return {name: ScoreSketch(positives=positives[name], negatives=negatives[name]) for name in told}


def _classes(
    exact: Mapping[str, ClassSketch], told: Collection[str], whole: ClassSketch, min_cell: int
) -> dict[str, ClassSketch]:
    others = sum((np.asarray(sketch.counts) for name, sketch in exact.items() if name not in told), np.zeros(BINS, int))
    rows = [np.asarray(exact[name].counts) for name in told]
    edges = _common([*rows, others] if others.any() else rows, whole.edges, min_cell)
    return {name: exact[name].between(edges) for name in told}


def _common(rows: Sequence[Ints], edges: Sequence[int], min_cell: int) -> list[int]:
    """Of the `edges` of all patients' bins those between which each of `rows` [1024] has at least `min_cell` patients.

    A bin is closed as soon as it may be, left to right; what is left over joins the last, as in `ClassSketch`.
    """
    bins = np.add.reduceat(np.stack(rows), edges[:-1], axis=1) if rows else np.zeros((0, len(edges) - 1), int)
    left, inside, kept = bins.sum(axis=1), np.zeros(len(rows), int), [edges[0]]
    for edge, column in zip(edges[1:-1], bins.T, strict=False):
        inside, left = inside + column, left - column
        if inside.min(initial=min_cell) >= min_cell and left.min(initial=min_cell) >= min_cell:
            kept.append(edge)
            inside = np.zeros(len(rows), int)
    return [*kept, edges[-1]]
