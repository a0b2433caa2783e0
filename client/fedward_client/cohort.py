"""Which patients of a site a study takes, and on which side of the split: resolved once a run, frozen, never changed.

`choose` and `resolve` are values in, values out; `from_catalog` and `freeze` are the IO around them. A cohort holds
pseudonyms keyed by the site's secret, so neither it nor its digest says anything about a patient to somebody else. What
was left out is counted, in words.
"""

import hashlib
import json
import logging
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import rfc8785
from pydantic import BaseModel, ConfigDict, ValidationError

from fedward_client import choosing_rows
from fedward_client.boxing import Corners
from fedward_client.cache_index import purge
from fedward_client.catalog import Catalog, ImageRow, RecordingRow, TableRow, is_scanned, scan
from fedward_client.choosing import Unit, chosen, units
from fedward_client.grouping import groups_of
from fedward_client.intake.fingerprints import Fingerprints, fingerprints
from fedward_client.intake.labels import SPLIT, Row, read_labels
from fedward_client.intake.optout import opted_out
from fedward_client.labelling import (
    MASKED,
    UNKNOWN,
    Label,
    findings_of,
    index_of,
    labels_of,
    nothing,
    rows_of,
    shown_of,
    splits_of,
    structures_of,
)
from fedward_client.masking import masks_digest
from fedward_client.near_duplicates import counted, distinct, link
from fedward_client.site import Site
from fedward_client.split import SIDES, PatientInfo, Side, assign, folds_of, sides_in
from fedward_common.disk import write_durably
from fedward_common.errors import DataError, RunError
from fedward_common.events import Event, Listener, ignore
from fedward_common.study import CompoundInput, Input, SequenceInput, SeriesInput, StudySpec, TableInput

_log = logging.getLogger(__name__)

NOT_LEARNING = "patients without a label, too few or for another side than training"
TOO_FEW = "patients with a label, for another side than training, where too few have one to train on"
RUNS = "runs"  # in a site's state folder
_FILE = "cohort.json"


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class CohortItem(_Value):
    """One image, window or row: its key, patient and files (pseudonyms), label (`labelling`), side, a digest of it."""

    image: str
    files: tuple[str, ...]  # the slices of a volume in order, or the one file
    at: int = 0  # where in its file it begins: the sample of a window, the number of a row
    masks: tuple[tuple[str, str], ...] = ()  # the files that show where structures are in it, and digests of them
    boxes: tuple[Corners, ...] = ()  # findings in it, as the hospital says where they are
    patient: str
    label: Label
    time: float | None = None  # of follow-up, in a study of the time to an event
    side: Side
    fold: int | None = None  # that tests the patient, in a study with folds: their side is then that of the last rounds
    content: str
    groups: tuple[str, ...] = ()  # of its patient, one for each of the study's [evaluation] subgroups
    shown: str = ""  # of its masks, a digest of their content and of how the site reads them

    @property
    def labelled(self) -> bool:
        """Whether anything is known of its labels."""
        return any(value != UNKNOWN for value in ((self.label,) if isinstance(self.label, int) else self.label))

    @property
    def labels(self) -> tuple[int, ...]:
        """The indices of the labels that it has."""
        if isinstance(self.label, int):
            return (self.label,) if self.labelled else ()
        return tuple(index for index, value in enumerate(self.label) if value == 1)


class Cohort(_Value):
    """A study's patients at one site. `items` are sorted by image; `left_out` counts patients or images a reason.

    `linked` counts patients whose images are another's too, or nearly (`near_duplicates.counted`): for the site's own
    people, small counts included.
    """

    labels: tuple[str, ...]
    items: tuple[CohortItem, ...]
    left_out: dict[str, int]
    linked: dict[str, int] = {}

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of the RFC 8785 JSON of the items."""
        return _sha256([item.model_dump() for item in self.items])

    @cached_property
    def content_digest(self) -> str:
        """SHA-256 (hex) naming the images, masks and boxes alone: cohorts that differ in labels or sides share it."""
        return _sha256([[item.image, item.content, item.shown, item.boxes] for item in self.items])

    @cached_property
    def people(self) -> tuple[str, ...]:
        """The pseudonyms of all patients, sorted."""
        return tuple(sorted({item.patient for item in self.items}))

    @property
    def folded(self) -> bool:
        """Whether folds test the patients in turn."""
        return any(item.fold is not None for item in self.items[:1])

    def patients(self, side: Side) -> int:
        """How many patients with a label are on a side; of a study with folds, in any of them."""
        there = [item for item in self.items if item.labelled and (item.side == side or item.fold is not None)]
        return len({item.patient for item in there})

    def unlabelled(self) -> int:
        """How many patients without a label learn."""
        return len({item.patient for item in self.items if not item.labelled})

    def label_counts(self, side: Side | None = None) -> dict[str, int]:
        """How many patients of each label are on a side, or on all."""
        items = [item for item in self.items if side in {None, item.side}]
        counts = Counter(label for _, label in {(item.patient, label) for item in items for label in item.labels})
        return {label: counts[index] for index, label in enumerate(self.labels)}

    def not_known(self) -> dict[str, int]:
        """How many images there are of which it is not known whether they have a label: of several labels an image."""
        counts = Counter(
            index
            for item in self.items
            if not isinstance(item.label, int) and item.labelled
            for index, value in enumerate(item.label)
            if value == UNKNOWN
        )
        return {label: counts[index] for index, label in enumerate(self.labels) if counts[index]}

    def without(self, images: Collection[str], reason: str) -> "Cohort":
        """The cohort less some images, counted under a reason."""
        items = tuple(item for item in self.items if item.image not in images)
        lost = len(self.items) - len(items)
        left_out = {**self.left_out, reason: self.left_out.get(reason, 0) + lost} if lost else self.left_out
        return Cohort(labels=self.labels, items=items, left_out=left_out, linked=self.linked)


class _Frozen(_Value):
    """What cohort.json holds."""

    study: str
    digest: str
    cohort: Cohort


def freeze(site: Site, study: StudySpec, run: str, listener: Listener = ignore) -> Cohort:
    """The cohort of `run`: resolved and written at the first call, then exactly that, whatever the catalog has become.

    Scans the site's data first where that was never done. Raises RunError for a name that cannot name a run, DataError
    when the run's cohort belongs to another study, when the site's data cannot serve this one, and what
    `check_opted_out` raises.
    """
    path = run_folder(site, run) / _FILE
    listener(Event(site=site.name, stage="cohort", done=0, total=1))
    cohort = _read(path, study, run)
    if cohort is None:
        cohort = from_catalog(site, study, listener)
        require(cohort, study, site)
        frozen = _Frozen(study=study.digest, digest=cohort.digest, cohort=cohort)
        write_durably(path, frozen.model_dump_json().encode())
    check_opted_out(site, run)
    listener(Event(site=site.name, stage="cohort", done=1, total=1, note=_summary(cohort)))
    return cohort


def check_opted_out(site: Site, run: str) -> None:
    """Raise DataError where a patient of a run's frozen cohort has opted out since; their tensors are removed.

    Such a run ends here rather than going on with the others: figures and updates before and after would differ by that
    patient alone, and the hub has both. The sentence says neither who it is nor how many there are.
    """
    out, path = opted_out(site), run_folder(site, run) / "cohort.json"
    if out and path.exists() and not out.isdisjoint(_people(path, path.stat().st_mtime_ns)):
        purge(site, out)
        raise DataError(
            f"{site.name} has patients in run '{run}' who have opted out since it began: stop the run and start a new "
            "one, which leaves them out"
        )


@lru_cache(maxsize=4)  # it is asked before and after every answer of a run, and a frozen cohort never changes
def _people(path: Path, _mtime_ns: int) -> tuple[str, ...]:
    return _frozen(path, path.parent.name).cohort.people


def run_folder(site: Site, run: str) -> Path:
    """Where a site keeps what belongs to a run. Raises RunError for a name that is none, a path for example."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", run):
        raise RunError(
            f"{run[:40]!r} cannot name a run: letters, digits, '.', '_' and '-', at most 128, a letter first"
        )
    return site.state / RUNS / run


def study_of(folder: Path) -> str | None:
    """The digest of the study that a run's folder is of; None where it does not say, or is a link."""
    with suppress(OSError, ValueError):
        found = None if folder.is_symlink() else json.loads((folder / _FILE).read_bytes())
        if isinstance(found, dict) and isinstance(found.get("study"), str):
            study: str = found["study"]
            return study
    return None


def _read(path: Path, study: StudySpec, run: str) -> Cohort | None:
    """The frozen cohort, or None where there is none yet."""
    try:
        frozen = _frozen(path, run)
    except FileNotFoundError:
        return None
    if frozen.study != study.digest:
        raise DataError(
            f"run '{run}' is frozen for another study or another version of it; start a new run for this one"
        )
    if frozen.digest != frozen.cohort.digest:
        raise DataError(f"the frozen cohort of run '{run}' was changed after it was frozen; start a new run")
    return frozen.cohort


def _frozen(path: Path, run: str) -> _Frozen:
    try:
        return _Frozen.model_validate_json(path.read_bytes())
    except ValidationError:
        raise DataError(f"the frozen cohort of run '{run}' is damaged; start a new run") from None


def from_catalog(site: Site, study: StudySpec, listener: Listener = ignore) -> Cohort:
    """The cohort as it would be now; scans first without a catalog. Raises DataError without images or labels."""
    if not is_scanned(site):
        scan(site, listener)
    out = opted_out(site)  # the list may be younger than the catalog
    with Catalog.open(site) as catalog:
        there = [row for row in offered(catalog, study) if row.patient not in out]
        table = {key: row for key, row in catalog.labels().items() if key not in out}
    if study.split.kind == "column" and study.split.column in {site.labels.patient, site.labels.key}:
        raise DataError(f"{site.name}: the study splits by the column of ids; name another [split] column")
    if study.split.kind == "column" and study.split.column != SPLIT:  # the catalog keeps one column to split by
        table = {k: v for k, v in read_labels(site, split=study.split.column).rows.items() if k not in out}
    if not there:
        what = {"image": "image", "series": "recording"}.get(study.input.kind, "row of a table")
        raise DataError(f"{site.name}: no readable {what} is in the catalog; `fedward site report` says what was found")
    choice = choose(there, table, study, site)
    if not choice.units and not table:
        raise DataError(f"{site.name}: no patient has a label; give a label table, then run `fedward site scan` again")
    images = isinstance(study.input, Input)
    prints = fingerprints(site, {unit.middle for unit in choice.units}, listener) if images else {}
    return resolve(choice, prints, study, site)


Offered = ImageRow | RecordingRow | TableRow


def offered(catalog: Catalog, study: StudySpec) -> Sequence[Offered]:
    """What a study may choose from."""
    match study.input:
        case SeriesInput():
            return catalog.recordings()
        case CompoundInput() | SequenceInput() | TableInput():
            return catalog.table_rows()
        case Input():
            return catalog.images(None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """What a study would take by headers and labels alone: images of the patients in `infos`; `left_out` by reason."""

    units: list[Unit]
    labels: dict[str, Label]  # by unit (its key)
    infos: dict[str, PatientInfo]
    left_out: Counter[str]
    groups: dict[str, tuple[str, ...]] = field(default_factory=dict)  # by patient, where the study asks for some


def choose(there: Sequence[Offered], table: Mapping[str, Mapping[str, str]], study: StudySpec, site: Site) -> Choice:
    """A study's images at a site, or windows, or rows, and their labels, by the label table as the catalog has it.

    Raises DataError where the study asks for another kind of label than the table says, or a feature that no map has.
    """
    left_out: Counter[str] = Counter()
    found = units_of(there, study, site, left_out)
    rows = rows_of(found, [row.names for row in there], table, site, left_out)
    labels = _truth_of(found, rows, study, site, left_out)
    taken = [unit for unit in found if unit.key in labels]
    if study.study.task == "survival":
        columns = None if site.table is None else site.table.columns
        taken = choosing_rows.followed(taken, labels, columns, left_out, site.name)
    words: Mapping[str, str | None] = dict.fromkeys(unit.patient for unit in taken)
    if study.split.kind == "column":
        words = splits_of(taken, rows, study.split.column, left_out)
    used = {key for unit in taken for key in (unit.key, *unit.files)} if study.evaluation.subgroups else set[str]()
    return Choice(
        units=[unit for unit in taken if unit.patient in words],
        labels=labels,
        infos={patient: PatientInfo(word) for patient, word in words.items()},
        left_out=left_out,
        groups=groups_of(
            (row for row in there if isinstance(row, ImageRow | TableRow) and row.key in used),
            study.evaluation.subgroups,
        ),
    )


def _truth_of(
    found: Sequence[Unit], rows: Mapping[str, Sequence[Row]], study: StudySpec, site: Site, left_out: Counter[str]
) -> dict[str, Label]:
    match study.study.task:
        case "segmentation" | "registration":
            return structures_of(found, study, site, left_out)
        case "detection":
            return findings_of(found, study, site, left_out)
        case "classification" | "survival":
            return labels_of(found, rows, study, site, left_out)


def _corners(unit: Unit, study: StudySpec) -> tuple[Corners, ...]:
    """The findings in an image that the study looks for."""
    if study.study.task != "detection":
        return ()
    kinds = [(index_of(box.kind, study.cohort.labels), box) for box in unit.boxes]
    return tuple((float(kind), *box.lower, *box.upper) for kind, box in kinds if kind is not None)


def units_of(there: Sequence[Offered], study: StudySpec, site: Site, left_out: Counter[str]) -> list[Unit]:
    """What a study's network would see of them; whatever it does not take is counted. Raises DataError as `choose`."""
    match study.input:
        case SeriesInput():
            recordings = [row for row in there if isinstance(row, RecordingRow)]
            return choosing_rows.windows(recordings, study.input, left_out)
        case CompoundInput() | SequenceInput() | TableInput():
            columns = None if site.table is None else site.table.columns
            rows = [row for row in there if isinstance(row, TableRow)]
            return choosing_rows.rows(rows, study.input, columns, left_out, site.name)
        case Input():
            images = [row for row in there if isinstance(row, ImageRow)]
            return units(chosen(images, study.cohort, left_out), study.input, study.cohort, left_out)


def resolve(choice: Choice, prints: Fingerprints, study: StudySpec, site: Site) -> Cohort:
    """A study's cohort: each image once, linked patients on one side. `prints` are of the images' middle files.

    Raises DataError when the study splits by a column that does not serve.
    """
    taken, left_out = distinct(choice.units, prints)
    links = link((unit.patient, one) for unit in taken if (one := prints.get(unit.middle)) is not None)
    infos = {unit.patient: choice.infos[unit.patient] for unit in taken}

    def sides(groups: Mapping[str, str]) -> dict[str, Side]:
        split, seed = study.split, study.training.seed
        return assign(infos, groups=groups, split=split, seed=seed, key=site.key, site_name=site.name)

    together, alone = sides(links.groups), sides({})
    masked, shown = study.study.task in MASKED, shown_of(study.cohort.labels, site)
    folds = folds_of(
        infos, groups=links.groups, split=study.split, seed=study.training.seed, key=site.key, site_name=site.name
    )
    items = [
        CohortItem(
            image=unit.key,
            files=unit.files,
            at=unit.at,
            patient=unit.patient,
            label=choice.labels[unit.key],
            time=unit.time if study.study.task == "survival" else None,
            side=together[unit.patient],
            fold=folds.get(unit.patient),
            content=unit.content,
            masks=tuple((mask.key, mask.content) for mask in unit.masks) if masked else (),
            boxes=_corners(unit, study),
            groups=choice.groups.get(unit.patient, ()),
            shown=masks_digest([mask.content for mask in unit.masks], shown) if masked else "",
        )
        for unit in taken
    ]
    items = _learning(items, study, site, left_out)
    moved = sum(side != alone[patient] for patient, side in together.items())
    return Cohort(
        labels=study.cohort.labels,
        items=tuple(sorted(items, key=lambda item: item.image)),
        left_out={reason: count for reason, count in sorted((choice.left_out + left_out).items()) if count},
        linked={
            what: count for what, count in counted(links, _labels_by_patient(taken, choice), moved).items() if count
        },
    )


def _learning(items: list[CohortItem], study: StudySpec, site: Site, left_out: Counter[str]) -> list[CohortItem]:
    """The items of a study that takes patients without a label too, less those of whom it makes no use.

    Without a label they learn, each on the side that it would have with one, so that nobody is tested later who was
    learned from; and not where they are fewer than the site's k, for their number travels with the update. Where too
    few have a label to train on, they learn as if they had none.
    """
    trains = study.cohort.unlabelled and not study.only_evaluates(site.name)
    labelled = [item for item in items if item.labelled]
    enough = len({item.patient for item in items if item.side == "train"}) >= _needed(study, site)
    if trains and enough and _too_few(labelled, study, site):
        left_out[TOO_FEW] += len({item.patient for item in labelled if item.side != "train"})
        items = [
            item.model_copy(update={"label": nothing(study)})
            for item in items
            if not item.labelled or item.side == "train"
        ]
    unlabelled = {item.patient for item in items if not item.labelled}
    learning = {item.patient for item in items if not item.labelled and item.side == "train"}
    if len(learning) < site.min_cell or not trains:
        learning = set()
    left_out[NOT_LEARNING] += len(unlabelled - learning)
    return [item for item in items if item.labelled or item.patient in learning]


def _too_few(labelled: Sequence[CohortItem], study: StudySpec, site: Site) -> bool:
    """Whether patients with a label are too few to train on."""
    train = [item for item in labelled if item.side == "train"]
    there = {study.cohort.labels[label] for item in train for label in item.labels}
    return len({item.patient for item in train}) < _needed(study, site) or not there.issuperset(study.needed_labels)


def _needed(study: StudySpec, site: Site) -> int:
    return max(study.cohort.min_patients, site.min_cell)


def _labels_by_patient(units: Sequence[Unit], choice: Choice) -> dict[str, frozenset[Label]]:
    found: dict[str, frozenset[Label]] = {}
    for unit in units:
        found[unit.patient] = found.get(unit.patient, frozenset()) | {choice.labels[unit.key]}
    return found


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
    patients, needed, unlabelled = cohort.patients("train"), _needed(study, site), cohort.unlabelled()
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
        few = len({item.patient for item in train}) < _needed(study, site)
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


def _summary(cohort: Cohort) -> str:
    patients = len({item.patient for item in cohort.items})
    parts = [f"{patients} patients", f"{len(cohort.items)} images"]
    return ", ".join(parts + [f"left out: {count} {reason}" for reason, count in cohort.left_out.items()])


def _sha256(value: Any) -> str:
    return hashlib.sha256(rfc8785.dumps(value)).hexdigest()
