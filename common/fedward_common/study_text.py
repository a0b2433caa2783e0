"""What a study will do, in words for a clinician: `describe` gives headings, each with its sentences.

Of [input]: `study_text_input`; of [model], [[phases]], [training], [strategy] and [update]: `study_text_training`.
"""

from collections.abc import Sequence

from fedward_common.sentences import listed, sentences
from fedward_common.study_cohort import Cohort
from fedward_common.study_small_sections import Privacy
from fedward_common.study_spec import StudySpec
from fedward_common.study_split import Split
from fedward_common.study_subgroups import BANDS
from fedward_common.study_task import Task
from fedward_common.study_text_input import HEADINGS, input_words
from fedward_common.study_text_training import (
    combination_words,
    messages_words,
    network_words,
    phases_words,
    training_words,
)

_PRIMARY = {
    "roc_auc": "the area under the ROC curve (0.5 is chance, 1 is perfect)",
    "dice": "the overlap of masks, mean over the structures (Dice; 0 is none, 1 is perfect)",
    "c_index": "the share of pairs of patients whose risks are in the right order (C-index; 0.5 is chance)",
    "froc": "the sensitivity at 1/8 to 8 false findings an image, their mean (FROC)",
}

_LOSSES: dict[Task, str] = {
    "classification": "the mean negative log-likelihood of the label (lower is better)",
    "segmentation": "the mean loss of the masks, one less Dice and cross-entropy (lower is better)",
    "registration": "the mean dissimilarity of the images after registration (lower is better)",
    "detection": "the mean loss of scores and boxes (lower is better)",
    "survival": "the mean negative log partial likelihood (lower is better)",
}

_SUBGROUPS = {"sex": "sex", "age": f"age ({', '.join(BANDS)})", "vendor": "maker of the scanner"}

# What stands in the column `patient` of a hospital's map where it is no patient, and an example.
_GROUPS = {"sequence": "a gene", "compound": "a series of compounds"}


def describe(spec: StudySpec) -> list[tuple[str, str]]:
    """Headings and their text, in the order in which a study is read."""
    kind, who = spec.input.kind, counted(spec)
    return [
        ("Question", _question(spec)),
        ("Cohort" if kind in _GROUPS else "Patients", cohort_words(spec)),
        ("Split", _split(spec.split, kind, who)),
        (HEADINGS[kind], input_words(spec.input)),
        ("Network", network_words(spec.model)),
        *([("Without labels", phases_words(spec.phases, kind))] if spec.phases else []),
        ("Training", training_words(spec)),
        ("Combination", combination_words(spec.strategy, who)),
        ("Messages", messages_words(spec.update)),
        ("Success", _success(spec, who)),
        ("Hospitals", _hospitals(spec)),
    ]


def privacy_words(privacy: Privacy) -> str:
    """Which protections of the updates are on."""
    aggregation = "on" if privacy.secure_aggregation else "off: the hub saw each hospital’s model update"
    noise = "on" if privacy.dp is not None else "off: what a model remembers of its training patients was not bounded"
    return (
        "Patients’ data and identifiers stay in the hospital. "
        f"Secure aggregation {aggregation}. Differential privacy {noise}."
    )


def counted(spec: StudySpec) -> str:
    """What a study counts and splits by: a patient, or a group of genes or of compounds."""
    return "group" if spec.input.kind in _GROUPS else "patient"


def _question(spec: StudySpec) -> str:
    about = spec.study
    parts = [
        about.title or about.id,
        about.purpose,
        f"Contact: {about.contact}" if about.contact else "",
        f"Last day: {about.ends.isoformat()}" if about.ends else "",
    ]
    return sentences(parts)


_ANY = {
    "image": "Patients with images of any modality and",
    "series": "Patients with recordings and",
    "sequence": "DNA sequences with",
    "compound": "Compounds with",
    "table": "Patients with rows in a table and",
}


def _narrowed(cohort: Cohort) -> list[str]:
    """What else the images and their patients must be."""
    words = {
        "Body part": cohort.body_part,
        "MR sequence": listed(cohort.sequence, "and") if cohort.sequence else None,
        "Scanner made by": listed(cohort.vendors, "or") if cohort.vendors else None,
        "Sex": cohort.sex,
        "Age": f"{cohort.age[0]} to {cohort.age[1]} years" if cohort.age else None,
        "Examined from": f"{cohort.months[0]} to {cohort.months[1]}" if cohort.months else None,
        "Slices of a volume": f"{cohort.slices[0]} to {cohort.slices[1]}" if cohort.slices else None,
        "Scout images": "taken too" if cohort.localizers else None,
    }
    return [f"{what}: {word}" for what, word in words.items() if word]


def cohort_words(spec: StudySpec) -> str:
    """Who is in a study, what must be known of them, and which hospitals do not take part."""
    cohort, kind, who = spec.cohort, spec.input.kind, counted(spec)
    taken = f"Patients with {cohort.modality} images and" if cohort.modality else _ANY[kind]
    truth = _truth(spec)
    return sentences(
        [
            f"{taken} {truth}" if truth else taken.removesuffix(" and"),
            *_narrowed(cohort),
            _looked_for(spec),
            f"A hospital with fewer than {cohort.min_patients} training {who}s does not take part{_nor(spec)}",
            f"{who.capitalize()}s without a label learn too, and hospitals that lack labels"
            if cohort.unlabelled
            else "",
        ]
    )


def _truth(spec: StudySpec) -> str:
    """What must be known of a patient."""
    labels = listed(spec.cohort.labels, "or")
    match spec.study.task:
        case "segmentation" | "registration":
            return f"a mask that shows at least one of {labels}" if labels else ""
        case "detection":
            return f"a list of where {labels} is seen, an empty one too"
        case "survival":
            return f"a time of follow-up and how it ended: {labels}"
        case "classification":
            known = "a word, yes or no, on at least one of the labels" if spec.several else "one of the labels"
            return f"{known} {labels}"


_LOOKED_FOR: dict[Task, str] = {
    "segmentation": "Each structure is found by itself; a hospital whose masks show some of them teaches those",
    "registration": "Each image is brought onto another one of the same hospital",
    "detection": "Each finding is given a box and a score",
    "survival": "Patients are ranked by their risk; those that are compared are of one hospital",
}


def _looked_for(spec: StudySpec) -> str:
    if spec.study.task in _LOOKED_FOR:
        return _LOOKED_FOR[spec.study.task]
    if spec.cohort.positive:
        return f"Looked for: {spec.cohort.positive}"
    if spec.several:
        return "Each label is judged by itself, on the images of which it is known"
    return "Each label is judged against all others"


def _nor(spec: StudySpec) -> str:
    if spec.several:
        return ""
    if spec.study.task == "survival" and spec.needed_labels:
        return f", nor does one where none of them is labelled {listed(spec.needed_labels, 'or')}"
    return ", nor does one that lacks a label" if spec.needed_labels else "; it may lack a label"


def _split(split: Split, kind: str, who: str) -> str:
    by = f"{who}, such as {_GROUPS[kind]}" if kind in _GROUPS else who
    train, validation, _ = split.shares
    words = {
        "hash": f"By {by}, at random: about {_shares(split.shares)}",
        "column": f"By {by}, as column '{split.column}' of each hospital's label table says",
        "folds": f"By {by}, at random, in {split.folds} folds, each of which is tested in turn",
        "leave-one-patient-out": f"Each {who} of a hospital is tested alone, in up to {split.folds} folds",
        "leave-site-out": f"Hospital {split.site} is only tested; in the others, by {by}: about "
        + _shares((train / (train + validation), validation / (train + validation))),
    }
    if split.folds is None:
        return sentences([words[split.kind], f"No {who} is both trained on and tested"])
    return sentences(
        [
            words[split.kind],
            "The next fold chooses the operating point, the others train",
            f"No model is tested on a {who} that it was trained on",
            "Scores stay at the hospital until all folds are scored, and are evaluated together",
            f"The last model is trained on all {who}s and is the run's; the figures are those of the folds' models",
            f"The hub receives updates with a fold's {who}s and without them",
            f"A hospital refuses where a fold would test fewer of its {who}s than its own small-cell rule tells of",
        ]
    )


_SIDES = ("training", "validation", "test")


def _shares(shares: Sequence[float]) -> str:
    """Shares of the sides in their order, as percentages; the last sides may be missing."""
    return listed([f"{100 * share:.4g} % {side}" for share, side in zip(shares, _SIDES, strict=False)], "and")


def _success(spec: StudySpec, who: str) -> str:
    evaluation, cohort, task = spec.evaluation, spec.cohort, spec.study.task
    measure = _LOSSES[task] if evaluation.primary == "loss" else _PRIMARY[evaluation.primary]
    if evaluation.primary == "roc_auc":
        measure += f" for {cohort.positive}" if cohort.positive else ", mean over the labels"
    stopping = evaluation.early_stopping
    by = listed([_SUBGROUPS[each] for each in evaluation.subgroups], "and")
    return sentences(
        [
            f"Decided by {measure}, on test {who}s",
            _operating_point(spec, who),
            f"The model is that of the round which does best on validation {who}s" * (evaluation.keep == "best"),
            f"Training ends when that has not become better for {stopping.patience} rounds" if stopping else "",
            f"Each hospital that trains{' on labels' * cohort.unlabelled} also does so alone, as long as all rounds "
            "together, to see its gain"
            if evaluation.local_baseline
            else "",
            f"Figures of test {who}s also leave by {by}, of groups of enough {who}s" if by else "",
        ]
    )


def _operating_point(spec: StudySpec, who: str) -> str:
    point = spec.evaluation.operating_point
    if spec.study.task != "classification":
        return ""
    if not spec.split.validates:
        return f"There is no validation {who} to choose an operating point"
    how = (
        "where sensitivity plus specificity is highest (Youden)"
        if point == "youden"
        else f"at a sensitivity of {point['sensitivity']:g}"
    )
    return f"The operating point is chosen on validation {who}s, {how}"


def _hospitals(spec: StudySpec) -> str:
    if not spec.sites:
        return "Those that take part when the study is started."
    return sentences([", ".join(f"{site.name}{_ROLES[site.role]}" for site in spec.sites)])


_ROLES = {"train": "", "evaluate": " (only tested)"}
