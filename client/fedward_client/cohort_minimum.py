"""Whether a cohort is large enough for its study and for the site's own rule.

Counts below the site's k are told to nobody, not in an error either.
"""

import logging
from collections import Counter
from collections.abc import Sequence

import numpy as np

from fedward_client.cohort import Cohort, CohortItem
from fedward_client.site import Site
from fedward_client.split import SIDES, sides_in
from fedward_common.errors import DataError
from fedward_common.study import StudySpec

_log = logging.getLogger(__name__)


def too_few(labelled: Sequence[CohortItem], study: StudySpec, site: Site) -> bool:
    """Whether patients with a label are too few to train on, or none has one that every site must have."""
    train = [item for item in labelled if item.side == "train"]
    there = {study.cohort.labels[label] for item in train for label in item.labels}
    return len({item.patient for item in train}) < needed_patients(study, site) or not there.issuperset(
        study.needed_labels
    )


def needed_patients(study: StudySpec, site: Site) -> int:
    """How many patients a site must have to train on: what the study asks for, and never fewer than its own k."""
    return max(study.cohort.min_patients, site.min_cell)


def require(cohort: Cohort, study: StudySpec, site: Site) -> None:
    """Raise DataError where a cohort is too small to train on; log what cannot be evaluated on it.

    A site that only evaluates needs no training patient. One that trains needs as many as the study asks for, and never
    fewer than the site's k, for their number travels with the update. Nor may a fold test fewer than k, and some, who
    would be what two folds' figures and updates differ by. Counts below k are not told.
    """
    if study.only_evaluates(site.name):
        if not cohort.items:
            raise DataError(f"{site.name} has no patient of this study{_told(cohort, site)}")
    else:
        _require_training(cohort, study, site)
    _require_full_folds(cohort, study, site)
    for side in ("validation", "test"):
        counts = cohort.label_counts(side)
        missing = [label for label, count in counts.items() if not count]
        if missing and any(counts.values()):
            _log.warning("%s: no %s patient is labelled %s; figures may need one", site.name, side, ", ".join(missing))


def _require_training(cohort: Cohort, study: StudySpec, site: Site) -> None:
    patients, needed, unlabelled = cohort.patients("train"), needed_patients(study, site), cohort.unlabelled()
    if 0 < unlabelled < site.min_cell:  # files went since they were chosen; their number would travel
        raise DataError(f"{site.name} has {_few(unlabelled, site)} patients without a label left: start a new run")
    if not patients and unlabelled >= needed:
        return
    if patients < needed:
        who = "the study" if needed == study.cohort.min_patients else "the site's own rule ([privacy] min_cell)"
        raise DataError(
            f"{site.name} has {_few(patients, site)} training patients, {who} asks for at least {needed}"
            f"{_told(cohort, site)}"
        )
    counts = cohort.label_counts("train")
    if missing := [label for label in study.needed_labels if not counts[label]]:
        words = ", ".join(f"'{label}'" for label in missing)
        raise DataError(
            f"{site.name} has no training patient labelled {words}, and the study needs one ([cohort] every_label)"
        )
    if study.split.folds is not None:
        _require_in_folds(cohort, study, site, study.split.folds)


def _require_in_folds(cohort: Cohort, study: StudySpec, site: Site, folds: int) -> None:
    """Raise DataError where what one fold leaves to train on is too little."""
    names = study.cohort.labels
    known = [item for item in cohort.items if item.labelled]  # one that has none of several labels trains too
    for fold in range(folds):
        sides = sides_in(fold, folds, np.arange(folds, dtype=np.int16))
        train = [item for item in known if item.fold is not None and sides[item.fold] == SIDES.index("train")]
        there = {names[label] for item in train for label in item.labels}
        few = len({item.patient for item in train}) < needed_patients(study, site)
        if few or not there.issuperset(study.needed_labels):
            raise DataError(
                f"{site.name} has too few training patients in fold {fold + 1} of {folds}, or none of a label: give "
                "[split] more folds, or [cohort] a lower min_patients"
            )


def _require_full_folds(cohort: Cohort, study: StudySpec, site: Site) -> None:
    """Raise DataError where a fold tests fewer patients than the site's k, and some: the next to validate as well."""
    sizes = Counter(fold for fold, _ in {(item.fold, item.patient) for item in cohort.items if item.labelled})
    if study.split.folds is not None and 0 < min(sizes.values(), default=0) < site.min_cell:
        raise DataError(
            f"{site.name} would test fewer than {site.min_cell} patients at a time, which the site's own rule "
            '([privacy] min_cell) forbids: give [split] kind = "folds" and fewer of them, or kind = "hash", or have '
            "the site's steward set a lower min_cell"
        )


def _few(count: int, site: Site) -> str:
    return str(count) if count >= site.min_cell else f"fewer than {site.min_cell}"


def _told(cohort: Cohort, site: Site) -> str:
    """What was left out, as it may be told to others."""
    parts = [f"{_few(count, site)} {reason}" for reason, count in cohort.left_out.items()]
    return f" (left out: {', '.join(parts)})" if parts else ""
