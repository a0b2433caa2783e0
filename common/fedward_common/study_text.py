"""What a study will do, in words for a clinician: `describe` gives headings, each with its sentences."""

from collections.abc import Sequence

from fedward_common import models
from fedward_common.study_cohort import Cohort
from fedward_common.study_compound import CompoundInput
from fedward_common.study_faults import toml_value
from fedward_common.study_input import Input
from fedward_common.study_sequence import SequenceInput
from fedward_common.study_series import SeriesInput
from fedward_common.study_spec import AnyInput, Model, StudySpec, Update
from fedward_common.study_split import Split
from fedward_common.study_start import Start
from fedward_common.study_strategy import Strategy
from fedward_common.study_subgroups import BANDS
from fedward_common.study_table import TableInput
from fedward_common.study_task import Task
from fedward_common.study_training import Phase, Training

_EXAMPLES = {"image": "images", "series": "windows", "sequence": "windows", "compound": "compounds", "table": "rows"}

_AUGMENTATION = {
    "flip": "mirror images",
    "affine": "small turns, shifts and zooms",
    "contrast": "changes of contrast",
    "noise": "added noise",
    "reverse-complement": "reading the other strand",
}

_STRATEGIES = {
    "fedavg": "the mean of the hospitals' models, weighted by their training {who}s (FedAvg)",
    "fedavgm": "the last common model moved towards the mean with momentum (FedAvgM)",
    "fedprox": "the mean of the hospitals' models, each held close to the last common one (FedProx)",
    "fedadagrad": "the last common model moved towards the mean by an Adagrad step (FedAdagrad)",
    "fedadam": "the last common model moved towards the mean by an Adam step (FedAdam)",
    "fedyogi": "the last common model moved towards the mean by a Yogi step (FedYogi)",
    "fedmedian": "the median of the hospitals' models, number by number, all hospitals alike (FedMedian)",
    "fedtrimmedavg": "the mean of the hospitals' models, number by number, without those at the ends (trimmed mean)",
    "krum": "the one hospital's model that is nearest to the others' (Krum)",
    "multikrum": "the mean of the hospitals' models that are nearest to each other (Multi-Krum)",
    "bulyan": "a mean around the median of the hospitals' models that are nearest to each other (Bulyan)",
    "qfedavg": "a mean of the hospitals' models in which those with a higher loss weigh more (q-FedAvg)",
    "scaffold": "the mean of the hospitals' models, each corrected for its drift while it trained (SCAFFOLD)",
    "fedbn": "the mean of the hospitals' models without their BatchNorm layers, which stay at each hospital (FedBN)",
    "ditto": "the mean of the hospitals' models; each hospital keeps a model of its own beside it (Ditto)",
    "geometric-median": "the geometric median of the hospitals' models, weighted by their training {who}s",
    "norm-clipped-mean": "the mean of the hospitals' models, after large changes were made smaller (clipped norms)",
}

_BATCH_NORM = {
    "share": "",
    "local": "Statistics of BatchNorm layers stay at each hospital",
    "recalibrate": "Before a model is scored, each hospital measures the statistics of its BatchNorm layers anew",
    "group": "GroupNorm layers stand in the place of BatchNorm layers",
}

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


_COMPRESSION = {
    "none": "Models and updates travel as they are, four bytes a number",
    "bf16": "Models and updates travel at two bytes a number (bf16)",
    "int8": "Models and updates travel at one byte a number (int8)",
    "top-k": "Models travel as they are, and of an update the {:g} % of its values that are largest",
}


_SUBGROUPS = {"sex": "sex", "age": f"age ({', '.join(BANDS)})", "vendor": "maker of the scanner"}

# What stands in the column `patient` of a hospital's map where it is no patient, and an example.
_GROUPS = {"sequence": "a gene", "compound": "a series of compounds"}


def describe(spec: StudySpec) -> list[tuple[str, str]]:
    """Headings and their text, in the order in which a study is read."""
    kind = spec.input.kind
    who = "group" if kind in _GROUPS else "patient"
    return [
        ("Question", _question(spec)),
        ("Cohort" if kind in _GROUPS else "Patients", _patients(spec, who)),
        ("Split", _split(spec.split, kind, who)),
        (HEADINGS[kind], input_words(spec.input)),
        ("Network", _network(spec.model)),
        *([("Without labels", _phases(spec.phases, kind))] if spec.phases else []),
        ("Training", _training(spec)),
        ("Combination", _combination(spec.strategy, who)),
        ("Messages", _messages(spec.update)),
        ("Success", _success(spec, who)),
        ("Hospitals", _hospitals(spec)),
    ]


def _question(spec: StudySpec) -> str:
    about = spec.study
    parts = [
        about.title or about.id,
        about.purpose,
        f"Contact: {about.contact}" if about.contact else "",
        f"Last day: {about.ends.isoformat()}" if about.ends else "",
    ]
    return _sentences(parts)


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
        "MR sequence": _listed(cohort.sequence, "and") if cohort.sequence else None,
        "Scanner made by": _listed(cohort.vendors, "or") if cohort.vendors else None,
        "Sex": cohort.sex,
        "Age": f"{cohort.age[0]} to {cohort.age[1]} years" if cohort.age else None,
        "Examined from": f"{cohort.months[0]} to {cohort.months[1]}" if cohort.months else None,
        "Slices of a volume": f"{cohort.slices[0]} to {cohort.slices[1]}" if cohort.slices else None,
        "Scout images": "taken too" if cohort.localizers else None,
    }
    return [f"{what}: {word}" for what, word in words.items() if word]


def _patients(spec: StudySpec, who: str) -> str:
    cohort, kind = spec.cohort, spec.input.kind
    taken = f"Patients with {cohort.modality} images and" if cohort.modality else _ANY[kind]
    return _sentences(
        [
            f"{taken} {_truth(spec)}",
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
    labels = _listed(spec.cohort.labels, "or")
    match spec.study.task:
        case "segmentation" | "registration":
            return f"a mask that shows at least one of {labels}" if labels else "nothing else"
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
        return f", nor does one where none of them is labelled {_listed(spec.needed_labels, 'or')}"
    return ", nor does one that lacks a label" if spec.needed_labels else "; it may lack a label"


def _split(split: Split, kind: str, who: str) -> str:
    by = f"{who}, such as {_GROUPS[kind]}" if kind in _GROUPS else who
    shares = _listed([f"{share:.4g} % {side}" for share, side in zip(_percent(split), _SIDES, strict=True)], "and")
    words = {
        "hash": f"By {by}, at random: about {shares}",
        "column": f"By {by}, as column '{split.column}' of each hospital's label table says",
        "folds": f"By {by}, at random, in {split.folds} folds, each of which is tested in turn",
        "leave-one-patient-out": f"Each {who} of a hospital is tested alone, in up to {split.folds} folds",
        "leave-site-out": f"Hospital {split.site} is only tested; in the others, by {by}: about {shares}",
    }
    if split.folds is None:
        return _sentences([words[split.kind], f"No {who} is both trained on and tested"])
    return _sentences(
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


def _percent(split: Split) -> list[float]:
    return [100 * share for share in split.shares]


HEADINGS = {
    "image": "Images",
    "series": "Recordings",
    "sequence": "Sequences",
    "compound": "Compounds",
    "table": "Tables",
}


def input_words(section: AnyInput) -> str:
    """How an image, a window of a recording or of DNA, a row of a table becomes a network's input, in sentences."""
    match section:
        case Input():
            return _images(section)
        case SeriesInput():
            return _recordings(section)
        case SequenceInput():
            return _sequences(section)
        case CompoundInput():
            return _compounds(section)
        case TableInput():
            return _tables(section)


def _recordings(series: SeriesInput) -> str:
    step = series.window_s if series.step_s is None else series.step_s
    scaled = (
        "Each signal of a window is brought to mean 0 and standard deviation 1"
        if series.intensity == "zscore"
        else f"{series.scale:g} {series.unit} become 1"
    )
    return _sentences(
        [
            f"Windows of {series.window_s:g} s, one every {step:g} s, at {series.rate_hz:g} Hz",
            f"Signals: {_listed(series.signals, 'and')}",
            scaled,
        ]
    )


def _sequences(sequence: SequenceInput) -> str:
    return _sentences(
        [
            f"Windows of DNA, {sequence.length} bases around the middle of the sequences in column {sequence.column}",
            "One channel each for A, C, G and T; an unknown base is a quarter of each",
        ]
    )


def _compounds(compound: CompoundInput) -> str:
    around = f"which substructures of up to {compound.radius} bonds around an atom it has (ECFP{2 * compound.radius})"
    return _sentences(
        [
            f"Compounds written as SMILES in column {compound.column}",
            f"Each is a fingerprint of {compound.bits} bits: {around}",
        ]
    )


def _tables(table: TableInput) -> str:
    missing = "is set to the mean" if table.missing == "mean" else "leaves its row out"
    combat = f"What each hospital adds to {_listed(table.combat, 'and')} is taken out (ComBat)" if table.combat else ""
    kept = f"; the effect of {_listed(table.covariates, 'and')} stays" if table.covariates else ""
    measured = ", which they measure together before round 1" * table.measures_scale
    return _sentences(
        [
            f"Features: {_listed(table.features, 'and')}",
            f"A missing value {missing}",
            f"{combat}{kept}",
            f"Features are brought to mean 0 and standard deviation 1 over all hospitals{measured}",
        ]
    )


def _images(images: Input) -> str:
    axes = ("height", "width") if len(images.size) == 2 else ("depth", "height", "width")
    size = " x ".join(str(length) for length in images.size)
    window = images.window or (0.0, 0.0)
    colour, values = ("grey", "grey values") if images.channels == 1 else ("colour", "colour values")
    words = {
        "percentile": values + " from percentile {:g} to percentile {:g} become 0 to 1".format(*images.percentiles),
        "zscore": f"{values} are brought to mean 0 and standard deviation 1",
        "window": values + " in the window with centre {:g} and width {:g} become 0 to 1".format(*window),
        "landmarks": f"{values} are matched to the hospitals' common scale, from 0 to 1"
        + ", which they measure together before round 1" * images.measures_scale,
    }
    measured = ", measured on the foreground" * (images.statistics == "foreground")
    scaled = f"{size} ({' x '.join(axes)}), {colour}; {words[images.intensity]}{measured}"
    return _sentences(
        [*before_scaling(images), f"Resized to {scaled}" if images.spacing is None else f"Cut or padded to {scaled}"]
    )


def before_scaling(images: Input) -> list[str]:
    """What happens to an image besides size and grey values, in sentences without a full stop."""
    turned = f"Axes are turned to {images.orientation}" if images.orientation else ""
    corrected = "The bias field is taken out (N4)" * (images.bias_field is not None)
    cut = "Images are cropped to their foreground" * (images.crop is not None)
    respaced = (
        ""
        if images.spacing is None
        else (
            f"One pixel is {' x '.join(f'{mm:g}' for mm in images.spacing)} mm; images more than "
            f"{images.max_upsampling:g} times as coarse are left out"
        )
    )
    return [sentence for sentence in (turned, corrected, cut, respaced) if sentence]


def _network(model: Model) -> str:
    options = f" with {_settings(model.options)}" if model.options else ""
    title = models.describe(model.name).title
    rates = [f"{pattern} times {factor:g}" for pattern, factor in model.learning_rates.items()]
    return _sentences(
        [
            f"{title} ({model.name}{options})",
            _start(model.start) if model.start is not None else "",
            f"Held as they are: {_listed(model.frozen, 'and')}" if model.frozen else "",
            f"Learning rates of layers: {_listed(rates, 'and')}" if rates else "",
        ]
    )


def _start(start: Start) -> str:
    source = start.file if start.model is None else f"the registered model {start.model}"
    shown = f"SHA-256 {start.sha256}" if start.sha256 is not None else "SHA-256 filled in when the study is started"
    taken = [f"{old or 'all names'} as {new or 'without a prefix'}" for old, new in start.map.items()]
    parts = [
        f"Begins with the weights of {source} ({shown})",
        f"taking {_listed(taken, 'and')}" if taken else "",
        "2-D kernels spread along the depth" if start.inflate else "",
    ]
    return ", ".join(part for part in parts if part)


def _phases(phases: Sequence[Phase], kind: str) -> str:
    examples = _EXAMPLES[kind]
    layers = [
        f"Layer {index}: {_rounds(phase, examples)}; {_optimizer(phase).lower()}"
        for index, phase in enumerate(phases, start=1)
    ]
    why = f"First one layer after the other learns from training {examples} alone, without their labels"
    return _sentences([why, *layers]) if phases else ""


def _rounds(work: Phase | Training, examples: str) -> str:
    if work.local_steps is None:
        epochs = work.local_epochs or 0
        amount = "one pass" if epochs == 1 else f"{epochs} passes"
        amount += f" over a hospital's training {examples}"
    else:
        amount = f"{work.local_steps} batches at a hospital"
    return f"{_so_many_rounds(work.rounds)}, each of {amount}, {work.batch_size} {examples} a batch"


def _optimizer(work: Phase | Training) -> str:
    optimizer = work.optimizer
    return f"Optimizer {optimizer.name}, learning rate {optimizer.lr:g}, weight decay {optimizer.weight_decay:g}"


def _weights(spec: StudySpec, examples: str) -> str:
    if spec.study.task == "registration":
        return f"A smooth displacement weighs {spec.training.smoothness:g} times as much as similar images"
    if spec.study.task == "survival":
        return "A patient is compared with those of the batch"
    if spec.study.task != "classification":
        return ""
    return "Rare labels weigh more" if spec.training.class_weights else f"All {examples} weigh the same"


def own_word(after: int, examples: str) -> str:
    """Which labels are no doctor's after so many rounds of [training], as a sentence without a full stop."""
    return (
        f"After {_so_many_rounds(after)} of known labels alone, training {examples} without a label are learned from "
        "by the model's own word, the label that it finds most likely"
    )


def _so_many_rounds(rounds: int) -> str:
    return f"{rounds} round{'s' * (rounds != 1)}"


def _training(spec: StudySpec) -> str:
    training, kind, folds = spec.training, spec.input.kind, spec.split.folds
    examples = _EXAMPLES[kind]
    changes = _listed([_AUGMENTATION[name] for name in training.augmentation], "and")
    return _sentences(
        [
            _rounds(training, examples),
            f"All this for each of {folds} folds and once more for all, {spec.rounds} rounds together" if folds else "",
            _optimizer(training),
            f"Training {examples} are varied by {changes}" if changes else f"Training {examples} are not varied",
            _BATCH_NORM[training.batch_norm],
            _weights(spec, examples),
            own_word(training.pseudo_labels_after, examples) if training.pseudo_labels_after else "",
            f"Seed {training.seed}",
        ]
    )


def _combination(strategy: Strategy, who: str) -> str:
    combined = _STRATEGIES.get(strategy.name, _plug_in(strategy.name)).replace("{who}", who)
    options = f", {_settings(strategy.options)}" if strategy.options else ""
    norm, cosine = strategy.max_update_norm, strategy.min_cosine
    return _sentences(
        [
            f"After each round: {combined}{options}",
            f"The run stops when fewer than {strategy.min_sites} hospitals answer in a round",
            f"A round waits at most {strategy.round_deadline_s:g} s for them"
            + (", and not so long for one that is gone or far slower than before" * (strategy.deadline == "adaptive")),
            f"It ends as soon as {strategy.quorum} have answered" if strategy.quorum != "all" else "",
            f"An update with an L2 norm above {norm:g} is refused" if norm is not None else "",
            f"An update whose cosine to the others' mean direction is below {cosine:g} is refused"
            if cosine is not None
            else "",
        ]
    )


def _plug_in(name: str) -> str:
    return f"what the installed plug-in '{name}' makes of the hospitals' models"


def _messages(update: Update) -> str:
    coded = update.compression != "none"
    return _sentences(
        [
            _COMPRESSION[update.compression].format(100 * update.share),
            "What this leaves out of a hospital's update waits there, and is added to its next" if coded else "",
        ]
    )


def _success(spec: StudySpec, who: str) -> str:
    evaluation, cohort, task = spec.evaluation, spec.cohort, spec.study.task
    measure = _LOSSES[task] if evaluation.primary == "loss" else _PRIMARY[evaluation.primary]
    if evaluation.primary == "roc_auc":
        measure += f" for {cohort.positive}" if cohort.positive else ", mean over the labels"
    point, stopping = evaluation.operating_point, evaluation.early_stopping
    by = _listed([_SUBGROUPS[each] for each in evaluation.subgroups], "and")
    chosen = (
        "where sensitivity plus specificity is highest (Youden)"
        if point == "youden"
        else f"at a sensitivity of {point['sensitivity']:g}"
    )
    return _sentences(
        [
            f"Decided by {measure}, on test {who}s",
            f"The operating point is chosen on validation {who}s, {chosen}" if task == "classification" else "",
            f"The model is that of the round which does best on validation {who}s" * (evaluation.keep == "best"),
            f"Training ends when that has not become better for {stopping.patience} rounds" if stopping else "",
            f"Figures of test {who}s also leave by {by}, of groups of enough {who}s" if by else "",
        ]
    )


def _hospitals(spec: StudySpec) -> str:
    if not spec.sites:
        return "Those that take part when the study is started."
    return _sentences([", ".join(f"{site.name}{_ROLES[site.role]}" for site in spec.sites)])


_ROLES = {"train": "", "evaluate": " (only tested)"}


def _settings(options: object) -> str:
    return toml_value(options).strip("{}")


def _listed(items: Sequence[str], joint: str) -> str:
    """`a`, `a and b`, `a, b and c`."""
    *first, last = items or ("",)
    return f"{', '.join(first)} {joint} {last}" if first else last


def _sentences(parts: Sequence[str]) -> str:
    return " ".join(part if part.endswith((".", "?", "!")) else f"{part}." for part in parts if part)
