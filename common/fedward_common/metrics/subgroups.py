"""The figures of groups of a site's patients, of women and men for example, under the small-cell and difference rules.

A partition puts every patient into one group, of those whose word is not known too. The groups' figures leave beside
those of all patients, so what is held back of a group is a difference: patients, their scores, their errors. Therefore

- of each label, with it and without it, a group that is told has at least k patients, and all others together too,
  unless there is nobody else (`cells.told_groups`). So it is with a Dice and without one, with an event and censored,
  with a finding, and with a false positive where anybody has one;
- how many patients of a group have a label and no label at once, or neither is known of, is no small number;
- the same patients take part in a figure as in that of all, for whoever is left out of one only were the difference;
- the groups of a partition have the same bins: some of all patients' bins joined, until each holds at least k of each
  group told, and of the others together. Bins of a group's own would give single scores by subtraction;
- of a group no loss is told, nor a sentence of what was held back: a group of few looks like one of none.

So a count that is a sum or difference of what leaves of one partition is of nobody, or of at least k patients. Not
covered are crossed groups, of several partitions: old women. What leaves bounds their sizes (Fréchet bounds; Hundepool
et al. 2012, "Statistical Disclosure Control", ch. 4), and whoever knows from elsewhere that a crossed group is empty,
that no man is young, can work out others beside it. There are three partitions at most, and a steward approves them.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fedward_common.errors import RunError
from fedward_common.metrics.base import Bools, Ints, Parts
from fedward_common.metrics.cases import Cases, checked
from fedward_common.metrics.cells import counts_in, told_groups
from fedward_common.metrics.evaluation import Evaluation, GroupEvaluation
from fedward_common.metrics.figures import site_figures
from fedward_common.metrics.sketch import ClassSketch, ScoreSketch, base_bins, common_edges
from fedward_common.study import StudySpec
from fedward_common.study_subgroups import Subgroups

Words = Mapping[Subgroups, npt.ArrayLike]
"""Of each partition the group of every image [images]."""

Fields = Mapping[str, Mapping[str, Any]]
"""By group the fields of its `GroupEvaluation`."""


def in_groups(
    whole: Evaluation, patients: Ints, groups: Words, told: Callable[[Parts], Fields], *, min_cell: int
) -> Evaluation:
    """`whole` with the evaluations of groups of its `patients` [images], numbered from 0, each partition by its words.

    `told` gives of a partition the figures of the groups that may be told, each count by itself: who is told of one may
    be dropped, but none be added. A patient's images have one word. Raises `RunError` for a patient in two groups.
    """
    found: dict[Subgroups, dict[str, GroupEvaluation]] = {}
    for by, words in groups.items():
        parts = _parts(patients, np.asarray(words))
        fields = told(parts)
        people = {name: [int(np.count_nonzero(part))] for name, part in parts.items()}
        found[by] = {
            name: GroupEvaluation(patients=people[name][0], loss=None, withheld=None, **fields[name])
            for name in sorted(told_groups(people, min_cell, among=fields))
        }
    return Evaluation(**{**dict(whole), "subgroups": {by: own for by, own in found.items() if own}})


def _parts(patients: Ints, words: npt.NDArray[np.str_]) -> Parts:
    names, place = np.unique(words, return_inverse=True)
    _, first = np.unique(patients, return_index=True)
    if words.shape != patients.shape or (place != place[first][patients]).any():
        raise RunError("a patient's images are in two groups, or in none: give each patient one")
    return {str(name): place[first] == index for index, name in enumerate(names)}


def by_group(**fields: Mapping[str, Mapping[str, Any]]) -> Fields:
    """The figures of fields by label and group, by group, field and label."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for field, labels in fields.items():
        for label, groups in labels.items():
            for name, figure in groups.items():
                found.setdefault(name, {}).setdefault(field, {})[label] = figure
    return found


def with_subgroups(
    whole: Evaluation,
    probabilities: npt.ArrayLike,
    labels: npt.ArrayLike,
    patients: npt.ArrayLike,
    groups: Words,
    *,
    study: StudySpec,
    thresholds: Mapping[str, float] | None,
    min_cell: int,
) -> Evaluation:
    """An evaluation of classes with those of groups of its patients, each partition by the words [images] of `groups`.

    `whole` is what `evaluate_scores` gives of the same images, and the rest is what that takes. A patient's images have
    one word. Raises what `evaluate_scores` raises, `RunError` for a patient in two groups.
    """
    if not groups or not whole.figures:
        return whole
    images = checked(probabilities, labels, patients, study=study)
    cases = {label: images.cases(index, min_cell=min_cell) for index, label in enumerate(study.cohort.labels)}

    def told(parts: Parts) -> Fields:
        sketches, figures = dict[str, dict[str, Any]](), dict[str, dict[str, Any]]()
        for label, names in _told_by_label(parts, cases, whole, study, min_cell).items():
            if names:
                one, threshold = cases[label], (thresholds or {}).get(label)
                sketches[label] = _sketches(one, parts, names, whole.sketches[label], min_cell)
                figures[label] = {
                    name: site_figures(one.scores[own], one.truth[own], threshold=threshold, min_cell=min_cell)
                    for name in names
                    for own in [parts[name][one.patients]]
                }
        return by_group(sketches=sketches, figures=figures)

    return in_groups(whole, images.patients, groups, told, min_cell=min_cell)


def _told_by_label(
    parts: Parts, cases: Mapping[str, Cases], whole: Evaluation, study: StudySpec, min_cell: int
) -> dict[str, set[str]]:
    """The groups that are told of each label that is told of all patients.

    Where an image has one label, a group is told of all of these or of none, with those who have another label as one
    more count: labels and groups make up a table, of which only whole rows are held back.
    """
    sides = {label: (one.patients[one.truth], one.patients[~one.truth]) for label, one in cases.items()}
    if study.cohort.multi_label:
        return {
            label: told_groups(counts_in(parts, *sides[label]), min_cell)
            for label in whole.figures
            if _parts_whole(parts, [cases[label].patients], min_cell)
        }
    others = (
        [] if study.positive_index is not None else [sides[label][0] for label in sides.keys() - whole.figures.keys()]
    )
    table = [side for label in whole.figures for side in sides[label]]
    shown = [cases[label].patients for label in whole.figures]
    having = [sides[label][0] for label in whole.figures] if study.positive_index is None else []
    if not _parts_whole(parts, [*shown, np.concatenate([*having, np.zeros(0, np.int64)])], min_cell):
        return {}
    told = told_groups(counts_in(parts, *table, np.concatenate([*others, np.zeros(0, np.int64)])), min_cell)
    return dict.fromkeys(whole.figures, told)


def _parts_whole(parts: Parts, counted: Sequence[Ints], min_cell: int) -> bool:
    """Whether in no group the patients and the cases that are `counted` of them differ by a small number."""
    differences = [
        abs(np.count_nonzero(part) - np.count_nonzero(part[owners]))
        for owners in counted
        if owners.size
        for part in parts.values()
    ]
    return not any(0 < difference < min_cell for difference in differences)


def _sketches(
    cases: Cases, parts: Parts, told: Collection[str], whole: ScoreSketch, min_cell: int
) -> dict[str, ScoreSketch]:
    """The histograms of the groups that are told, in bins that they and the others together fill."""

    def classes(side: Bools, edges: Sequence[int]) -> dict[str, ClassSketch]:
        scores, owners = cases.scores[side], cases.patients[side]
        joined = common_edges(base_bins(scores), owners, parts, told, edges, k=min_cell)
        return {name: ClassSketch.of(scores[parts[name][owners]]).between(joined) for name in told}

    positives, negatives = classes(cases.truth, whole.positives.edges), classes(~cases.truth, whole.negatives.edges)
    return {name: ScoreSketch(positives=positives[name], negatives=negatives[name]) for name in told}
