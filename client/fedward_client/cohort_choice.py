"""Which patients of a site a study takes, and on which side of the split: values in, values out.

What is left out is counted, in words.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fedward_client import choosing_rows
from fedward_client.boxing import Corners
from fedward_client.catalog import Catalog
from fedward_client.catalog_rows import ImageRow, RecordingRow, TableRow
from fedward_client.choosing import Unit, chosen, units
from fedward_client.cohort import Cohort, CohortItem
from fedward_client.cohort_minimum import needed_patients, too_few
from fedward_client.grouping import groups_of
from fedward_client.intake.fingerprints import Fingerprints
from fedward_client.intake.labels import Row
from fedward_client.labelling import (
    MASKED,
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
from fedward_client.split import PatientInfo, Side, assign, folds_of
from fedward_common.study import CompoundInput, Input, SequenceInput, SeriesInput, StudySpec, TableInput

NOT_LEARNING = "patients without a label, too few or for another side than training"
SMALL_SIDE = "patients on a side of the split with too few to tell of"
TOO_FEW = "patients with a label, for another side than training, where these are too few or of one label only"

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
            taken,
            (row for row in there if isinstance(row, ImageRow | TableRow) and row.key in used),
            rows,
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
    items = _on_told_sides(items, study, site, left_out)
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


def _on_told_sides(items: list[CohortItem], study: StudySpec, site: Site, left_out: Counter[str]) -> list[CohortItem]:
    """The items less those of sides with a label of which there are fewer patients than the site's k.

    No figure of them would leave, and how many they are would be what the other sides' numbers, which travel with an
    update and with figures, differ by from all patients of the study. They do not train instead: later there may be
    enough, and nobody is tested who was learned from. Of who trains, `cohort_minimum` asks for enough.
    """
    labelled = {(item.side, item.patient) for item in items if item.labelled}
    sizes = Counter(side for side, _ in labelled)
    untold = {side for side, size in sizes.items() if size < site.min_cell}
    if not study.only_evaluates(site.name):
        untold.discard("train")
    left_out[SMALL_SIDE] += sum(sizes[side] for side in untold)
    return [item for item in items if not item.labelled or item.side not in untold]


def _learning(items: list[CohortItem], study: StudySpec, site: Site, left_out: Counter[str]) -> list[CohortItem]:
    """The items of a study that takes patients without a label too, less those of whom it makes no use.

    Without a label they learn, each on the side that it would have with one, so that nobody is tested later who was
    learned from; and not where they are fewer than the site's k, for their number travels with the update. Where too
    few have a label to train on, or none has one that every site must have, they learn as if they had none.
    """
    trains = study.cohort.unlabelled and not study.only_evaluates(site.name)
    labelled = [item for item in items if item.labelled]
    enough = len({item.patient for item in items if item.side == "train"}) >= needed_patients(study, site)
    if trains and enough and too_few(labelled, study, site):
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


def _labels_by_patient(units: Sequence[Unit], choice: Choice) -> dict[str, frozenset[Label]]:
    found: dict[str, frozenset[Label]] = {}
    for unit in units:
        found[unit.patient] = found.get(unit.patient, frozenset()) | {choice.labels[unit.key]}
    return found
