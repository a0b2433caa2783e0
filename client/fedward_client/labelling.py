"""Which label each image of a study has: rows of the label table joined to images, in the study's own words. Pure.

In a study of one label an image, that is the label's index. In a study of several it is 1, 0 or -1 for each label:
there, not there, not known; an image of which nothing is known has no label. What has none is left out and counted.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from fedward_client.choosing import Unit
from fedward_client.intake.box_table import UNUSABLE
from fedward_client.intake.labels import NOT_THERE, THERE, Row, said_of, words_in
from fedward_client.label_settings import PLURALS
from fedward_client.mask_settings import Shown
from fedward_client.site import Site
from fedward_common.errors import DataError
from fedward_common.study import Cohort, StudySpec

UNLABELLED = "patients without a label, or with two that differ"
OTHER_LABEL = "patients with another label"
UNUSABLE_PATIENTS = "patients of whom a row of the table of findings cannot be used"
UNUSABLE_IMAGES = "images of which a row of the table of findings cannot be used"
UNLABELLED_IMAGES = "images without a label, or with two that differ, of patients with a label"
OTHER_IMAGES = "images with another label, of patients with a label"
TWO_SPLITS = "patients whose rows name different sides of the split"
UNKNOWN = -1
MASKED = ("segmentation", "registration")  # tasks whose truth is in masks

Label = int | tuple[int, ...]


def rows_of(
    units: Sequence[Unit],
    there: Iterable[tuple[str, ...]],
    table: Mapping[str, Row],
    site: Site,
    left_out: Counter[str],
) -> dict[str, list[Row]]:
    """By unit (its key), the rows that say what it shows: its own word, or those of the label table.

    Rows of the table of which there is nothing are counted; `there` are the names of all that the site has.
    """
    used = {name for names in there for name in names}
    unused = sum(bool(words_in(site, table[key])) for key in table.keys() - used)
    left_out[f"labelled {PLURALS[site.labels.by]} without images"] += unused
    found: dict[str, list[Row]] = {}
    for unit in units:
        said = [row for names in unit.names if (row := said_of(table, names)) is not None]
        own = {site.labels.label: site.labels.word(unit.word)}
        found[unit.key] = [{**row, **own} for row in said or ({},)] if unit.word else said
    return found


def labels_of(
    units: Sequence[Unit], rows: Mapping[str, Sequence[Row]], study: StudySpec, site: Site, left_out: Counter[str]
) -> dict[str, Label]:
    """The label of each unit (by its key) that has one of the study's; UNKNOWN where the study takes these too.

    Raises DataError where the site's table says another kind of label than the study asks for.
    """
    wanted = study.cohort
    _check_kind(wanted, site)
    read = _findings if wanted.multi_label else _word
    return _joined(units, {unit.key: read(rows[unit.key], wanted, site) for unit in units}, study, left_out)


def structures_of(units: Sequence[Unit], study: StudySpec, site: Site, left_out: Counter[str]) -> dict[str, Label]:
    """Of each unit with a mask, which of the study's structures the site's masks show: 1, or -1 where they do not say.

    Others as `labels_of`. Where the study names no structure, images need no mask: each has the label 0. Raises
    DataError where the site has no masks of any of them.
    """
    labels = study.cohort.labels
    if not labels:
        return {unit.key: 0 for unit in units}
    shown = shown_of(labels, site)
    if site.masks is None or not any(each is not None for each in shown):
        raise DataError(
            f"{site.name}: the study looks for {', '.join(labels)} in masks, and none is known here: say under "
            "[masks] in site.toml which files are masks, and what they show, then run `fedward site scan`"
        )
    known = tuple(UNKNOWN if each is None else 1 for each in shown)
    return _joined(units, {unit.key: (known if unit.masks else None, False) for unit in units}, study, left_out)


def findings_of(units: Sequence[Unit], study: StudySpec, site: Site, left_out: Counter[str]) -> dict[str, Label]:
    """Of each unit, whether it has a finding of each of the study's kinds: every image was read.

    One with a row that cannot be used has no label: where nothing is marked, nothing may be found.

    Raises DataError where the site has no table of findings.
    """
    if site.boxes is None:
        raise DataError(
            f"{site.name}: the study looks for {', '.join(study.cohort.labels)}, and where they are is not known here: "
            "name the table of findings under [boxes] in site.toml, then run `fedward site scan`"
        )
    if units and not any(unit.boxes for unit in units):
        raise DataError(
            f"{site.name}: no row of the table of findings is of an image that the study takes: check that its column "
            "of images holds what [boxes] in site.toml says, then run `fedward site scan`"
        )
    said: dict[str, tuple[Label | None, bool]] = {}
    for unit in units:
        kinds = {index_of(box.kind, study.cohort.labels) for box in unit.boxes}
        label = tuple(int(index in kinds) for index in range(len(study.cohort.labels)))
        said[unit.key] = None if UNUSABLE in unit.boxes else label, False
    return _joined(units, said, study, left_out, without=(UNUSABLE_PATIENTS, UNUSABLE_IMAGES))


def shown_of(labels: Sequence[str], site: Site) -> tuple[Shown | None, ...]:
    """How the site's masks show each of a study's structures; None where they do not."""
    structures = {} if site.masks is None else dict(site.masks.structures)
    places = {index_of(name, labels): shown for name, shown in structures.items()}
    return tuple(places.get(index) for index in range(len(labels)))


def nothing(study: StudySpec) -> Label:
    """The label of what has none."""
    return (UNKNOWN,) * len(study.cohort.labels) if study.several else UNKNOWN


def _joined(
    units: Sequence[Unit],
    said: Mapping[str, tuple[Label | None, bool]],
    study: StudySpec,
    left_out: Counter[str],
    *,
    without: tuple[str, str] = (UNLABELLED, UNLABELLED_IMAGES),
) -> dict[str, Label]:
    """The labels of units; `said` has each unit's, and whether it has one that the study does not know.

    `without` is why patients, and images of patients with a label, have none.
    """
    found: dict[str, Label] = {}
    others: set[str] = set()  # units that have a label, and none of the study's
    for unit in units:
        label, other = said[unit.key]
        if label is not None:
            found[unit.key] = label
        elif other:
            others.add(unit.key)
    labelled = {unit.patient for unit in units if unit.key in found}
    patients: dict[str, bool] = defaultdict(bool)
    for unit in units:
        if unit.key in found:
            continue
        if unit.patient in labelled:
            left_out[OTHER_IMAGES if unit.key in others else without[1]] += 1
        else:
            patients[unit.patient] |= unit.key in others
    unlabelled = {patient for patient, other in patients.items() if not other}
    left_out[OTHER_LABEL] += len(patients) - len(unlabelled)
    if study.cohort.unlabelled:
        return found | {unit.key: nothing(study) for unit in units if unit.patient in unlabelled}
    left_out[without[0]] += len(unlabelled)
    return found


def splits_of(
    units: Sequence[Unit], rows: Mapping[str, Sequence[Row]], column: str, left_out: Counter[str]
) -> dict[str, str | None]:
    """The word of each patient in the column to split by, None without one; patients with two words are left out."""
    words: dict[str, set[str | None]] = defaultdict(set)
    for unit in units:
        words[unit.patient].update(row.get(column) for row in rows[unit.key])
    left_out[TWO_SPLITS] += sum(len(said) > 1 for said in words.values())
    return {patient: next(iter(said)) for patient, said in words.items() if len(said) == 1}


def index_of(word: str, labels: Sequence[str]) -> int | None:
    """The label that a word is: exactly, else but for upper and lower case where that leaves one choice."""
    if word in labels:
        return labels.index(word)
    alike = [index for index, label in enumerate(labels) if label.casefold() == word.casefold()]
    return alike[0] if len(alike) == 1 else None


def _check_kind(wanted: Cohort, site: Site) -> None:
    if wanted.multi_label and not site.labels.findings:
        raise DataError(
            f"{site.name}: the study has several labels an image; say which columns of the label table hold findings, "
            "under [labels] findings in site.toml, or which labels each of its words stands for, as lists under "
            "[labels] words, then run `fedward site scan`"
        )
    if site.labels.findings and not wanted.multi_label:
        raise DataError(
            f"{site.name}: the study has one label an image, and the label table is read as several; name its column "
            "of labels under [labels] in site.toml, no findings, and words that stand for one label each, then run "
            "`fedward site scan`"
        )


def _word(rows: Sequence[Row], wanted: Cohort, site: Site) -> tuple[Label | None, bool]:
    """The label of an image's rows, where they agree; and whether it has one that the study does not know."""
    words = {row.get(site.labels.label, "") for row in rows} - {""}
    if len(words) != 1:
        return None, False
    index = index_of(words.pop(), wanted.labels)
    return index, index is None


def _findings(rows: Sequence[Row], wanted: Cohort, site: Site) -> tuple[Label | None, bool]:
    """What an image's rows say of each label, where they agree; None where they say nothing of any."""
    said: list[set[str]] = [set() for _ in wanted.labels]
    others = False
    for row in rows:
        for name in (site.labels.word(column) for column in site.labels.findings):
            index = index_of(name, wanted.labels)
            if index is None:
                others |= row.get(name, "") != ""
            else:
                said[index].add(row.get(name, ""))
    values = {frozenset({THERE}): 1, frozenset({NOT_THERE}): 0}
    label = tuple(values.get(frozenset(words - {""}), UNKNOWN) for words in said)
    return (label, False) if any(value != UNKNOWN for value in label) else (None, others)
