"""The evaluations of segmentation, registration, survival and detection: siblings of `evaluate_scores`.

Arrays in, an `Evaluation` out, under the same small-cell rule. `patients` [images] are any integers; a patient's figure
is the mean over that patient's images. Losses [images] are at least 0, those that training goes by; their mean stays
home with the figures of what it is of. `groups` are words [images] that put patients into groups, whose figures are
told too (`subgroups`); `RunError` for a patient in two.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from fedward_common.errors import DataError, ModelError, RunError
from fedward_common.metrics.base import Bools, Floats, Ints, Parts
from fedward_common.metrics.evaluation import Evaluation, nothing, too_few
from fedward_common.metrics.figures import patient_scores
from fedward_common.metrics.froc import Detections, ImageHits, image_hits
from fedward_common.metrics.overlap import MaskScores, Moments, Overlap
from fedward_common.metrics.subgroups import Fields, Words, by_group, in_groups
from fedward_common.metrics.survival import Concordance, cox_loss
from fedward_common.study import StudySpec

Found = tuple[Floats, Floats, Ints]
"""The boxes of an image [m, 2 * dimensions], their scores [m] in [0, 1] and their kinds [m]."""


def evaluate_overlap(
    scores: Sequence[MaskScores],
    labels: npt.ArrayLike,
    losses: npt.ArrayLike,
    patients: npt.ArrayLike,
    *,
    study: StudySpec,
    min_cell: int,
    before: Sequence[MaskScores] = (),
    folding: npt.ArrayLike | None = None,
    groups: Words | None = None,
) -> Evaluation:
    """The evaluation of masks, by structure: the `scores` of images, or in registration of pairs of them.

    A site without masks, whose images are only registered, has no scores.
    `labels` [images, structures] are -1 where a site does not annotate a structure: the image takes no part in its
    figures. In registration `before` are the scores of the masks that were not warped, and `folding` [pairs] the share
    of voxels at which the Jacobian determinant of the displacement is 0 or less. `RunError` for scores that do not fit.
    """
    people, index = np.unique(np.asarray(patients, dtype=np.int64), return_inverse=True)
    if too_few(people.size, min_cell):
        return nothing(min_cell)
    structures = study.cohort.labels
    known = np.asarray(labels, dtype=np.int64) >= 0
    after, unmoved = (_of_patients(each, known, index, structures) for each in (scores, before))
    shown, unregistered = _overlaps(after, min_cell), _overlaps(unmoved, min_cell)
    hidden = [structure for structure in structures if structure not in shown]
    annotated = {structure for structure, own in zip(structures, known.T, strict=True) if own.any()}
    of_masks = study.study.task != "registration"  # whose loss is of images alone
    whole = Evaluation(
        patients=people.size,
        loss=_mean(losses, index, told=not (of_masks and annotated - shown.keys())),
        overlaps=shown,
        unregistered=unregistered,
        folding=None if folding is None else Moments.of(patient_scores(folding, index)[1]),
        withheld=_withheld(hidden, f"fewer than {min_cell} patients with a score"),
    )

    def told(parts: Parts) -> Fields:
        return by_group(
            overlaps={each: one.of_groups(after[each], parts, min_cell) for each, one in shown.items()},
            unregistered={each: one.of_groups(unmoved[each], parts, min_cell) for each, one in unregistered.items()},
        )

    return in_groups(whole, index, groups or {}, told, min_cell=min_cell)


def evaluate_survival(
    log_risks: npt.ArrayLike,
    times: npt.ArrayLike,
    events: npt.ArrayLike,
    patients: npt.ArrayLike,
    *,
    min_cell: int,
    groups: Words | None = None,
) -> Evaluation:
    """The evaluation of `log_risks` [n], the higher the sooner, of patients followed for `times` [n].

    `events` [n] are 1 where the event ended the follow-up, 0 where it was censored. A patient of several rows has one
    follow-up, and the mean of their risks. The loss is `cox_loss` of the site's patients. With fewer than `min_cell`
    events, or with some but fewer censored, neither leaves. `RunError` for risks that are no numbers, `DataError` for
    rows of a patient that differ.
    """
    numbers = np.asarray(patients, dtype=np.int64)
    people, risks = patient_scores(log_risks, numbers)
    if too_few(people.size, min_cell):
        return nothing(min_cell)
    if not np.isfinite(risks).all():
        raise RunError("the model's risks are no numbers: it has diverged, try a lower learning rate")
    first, index = np.unique(numbers, return_index=True, return_inverse=True)[1:]
    when, had = np.asarray(times, dtype=np.float64), np.asarray(events).astype(bool)
    if (when != when[first][index]).any() or (had != had[first][index]).any():
        raise DataError("a patient has two follow-up times: give each patient one time and event")
    when, had = when[first], had[first]
    found = Concordance.of(risks, when, had, min_cell)
    why = f"fewer than {min_cell} patients with the event or censored, or none to compare: C and loss stay home"
    whole = Evaluation(
        patients=people.size,
        loss=None if found is None else cox_loss(risks, when, had),
        concordance=found,
        withheld=why if found is None else None,
    )

    def told(parts: Parts) -> Fields:
        own = Concordance.of_groups(risks, when, had, parts, min_cell)
        return {name: {"concordance": one} for name, one in own.items()}

    return whole if found is None else in_groups(whole, index, groups or {}, told, min_cell=min_cell)


def evaluate_detections(
    found: Sequence[Found],
    truth: Sequence[npt.ArrayLike],
    losses: npt.ArrayLike,
    patients: npt.ArrayLike,
    *,
    study: StudySpec,
    min_cell: int,
    groups: Words | None = None,
) -> Evaluation:
    """The evaluation of the boxes `found` in each image, by kind of finding.

    `truth` [images] of [boxes, 2 * dimensions + 1] are the true boxes (`image_hits` says how they are written) and
    their kinds, an index into the study's labels, or -1 for a row that only pads. A box is held against true boxes of
    its own kind. `ModelError` for a kind that is none.
    """
    people, index = np.unique(np.asarray(patients, dtype=np.int64), return_inverse=True)
    if too_few(people.size, min_cell):
        return nothing(min_cell)
    kinds, shown = study.cohort.labels, dict[str, Detections]()
    if any(((each < 0) | (each >= len(kinds))).any() for _, _, each in found):
        raise ModelError(f"the model finds kinds that are none of the study's {len(kinds)} labels")
    boxes, images = [np.asarray(each, dtype=np.float64) for each in truth], dict[str, list[ImageHits]]()
    for number, kind in enumerate(kinds):
        images[kind] = [
            image_hits(own[each == number], scores[each == number], real[real[:, -1] == number, :-1])
            for (own, scores, each), real in zip(found, boxes, strict=True)
        ]
        detections = Detections.of(images[kind], index, min_cell)
        if detections is not None:
            shown[kind] = detections
    whole = Evaluation(
        patients=people.size,
        loss=_mean(losses, index, told=len(shown) == len(kinds)),
        detections=shown,
        withheld=_withheld(
            [kind for kind in kinds if kind not in shown],
            f"fewer than {min_cell} patients with a finding, or with a false positive",
        ),
    )

    def told(parts: Parts) -> Fields:
        return by_group(
            detections={kind: one.of_groups(images[kind], index, parts, min_cell) for kind, one in shown.items()}
        )

    return in_groups(whole, index, groups or {}, told, min_cell=min_cell)


def _overlaps(scores: Mapping[str, MaskScores], min_cell: int) -> dict[str, Overlap]:
    found = {structure: Overlap.of(each, min_cell) for structure, each in scores.items()}
    return {structure: overlap for structure, overlap in found.items() if overlap is not None}


def _of_patients(
    scores: Sequence[MaskScores], known: Bools, index: Ints, structures: Sequence[str]
) -> dict[str, MaskScores]:
    """By structure the scores of patients; nothing without any."""
    if not structures or not scores:
        return {}
    images = MaskScores(*(np.stack(each) for each in zip(*scores, strict=True)))
    if images.dice.shape != known.shape:
        raise RunError(f"scores of shape {images.dice.shape} do not fit {known.shape} images and structures")
    return {
        structure: MaskScores(
            *(_patient_means(np.where(known[:, number], each[:, number], np.nan), index) for each in images)
        )
        for number, structure in enumerate(structures)
    }


def _patient_means(values: Floats, index: Ints) -> Floats:
    """The mean over each patient's images, `index` [images] from 0; NaN images are left out, NaN where all are."""
    given, people = ~np.isnan(values), int(index.max()) + 1
    sums = np.bincount(index[given], values[given], minlength=people)
    counts = np.bincount(index[given], minlength=people)
    means: Floats = np.divide(sums, counts, out=np.full(people, np.nan), where=counts > 0)
    return means


def _mean(values: npt.ArrayLike, index: Ints, *, told: bool) -> float | None:
    """The mean over patients of the mean over each one's images; None where it is not to be `told`."""
    mean = float(patient_scores(values, index)[1].mean())
    if not np.isfinite(mean):
        raise RunError("the model's loss is no number: it has diverged, try a lower learning rate")
    return mean if told else None


def _withheld(hidden: Sequence[str], why: str) -> str | None:
    return f"{why}: figures of {', '.join(hidden)} stay home"[:2000] if hidden else None
