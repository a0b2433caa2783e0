"""What a study trains and how, and what becomes of the hospitals' models, in words for a clinician."""

from collections.abc import Mapping, Sequence

from fedward_common import models
from fedward_common.sentences import listed, sentences
from fedward_common.study_faults import toml_value
from fedward_common.study_small_sections import Model, Update
from fedward_common.study_spec import StudySpec
from fedward_common.study_start import Start
from fedward_common.study_strategy import Strategy
from fedward_common.study_table import TableInput
from fedward_common.study_text_input import combat_words
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

_HEAD = {
    None: "the last layer where it is of the same labels",
    True: "the last layer where it fits",
    False: "not the last layer, which stays at its random start",
}

_COMPRESSION = {
    "none": "Models and updates travel as they are, four bytes a number",
    "bf16": "Models and updates travel at two bytes a number (bf16)",
    "int8": "Models and updates travel at one byte a number (int8)",
    "top-k": "Models travel as they are, and of an update the {:g} % of its values that are largest",
}


def network_words(model: Model) -> str:
    """The network, what it begins with, and what of it learns."""
    card = models.describe(model.name)
    chosen = {**card.options, **model.options}
    options = f" with {_settings(chosen)}" if chosen else ""
    rates = [f"{pattern} times {factor:g}" for pattern, factor in model.learning_rates.items()]
    return sentences(
        [
            f"{card.title} ({model.name}{options})",
            *initial_words(model),
            f"Learning rates of layers: {listed(rates, 'and')}" if rates else "",
        ]
    )


def initial_words(model: Model) -> list[str]:
    """What a network begins with but random weights, and what of it stays so, in sentences without a full stop."""
    start = [] if model.start is None else [_start(model.start)]
    return [*start, *([f"Held as they are: {listed(model.frozen, 'and')}"] if model.frozen else [])]


def _start(start: Start) -> str:
    source = start.file if start.model is None else f"the registered model {start.model}"
    shown = f"SHA-256 {start.sha256}" if start.sha256 is not None else "SHA-256 filled in when the study is started"
    taken = [f"{old or 'all names'} as {new or 'without a prefix'}" for old, new in start.map.items()]
    parts = [
        f"Begins with the weights of {source} ({shown})",
        f"taking {listed(taken, 'and')}" if taken else "",
        "2-D kernels spread along the depth" if start.inflate else "",
        _HEAD[start.head],
    ]
    return ", ".join(part for part in parts if part)


def phases_words(phases: Sequence[Phase], kind: str) -> str:
    """Layers that learn without labels, one after the other."""
    examples = _EXAMPLES[kind]
    layers = [
        f"Layer {index}: {_rounds(phase, examples)}; {_optimizer(phase).lower()}"
        for index, phase in enumerate(phases, start=1)
    ]
    why = f"First one layer after the other learns from training {examples} alone, without their labels"
    return sentences([why, *layers])


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
    momentum = f", momentum {optimizer.momentum:g}" if optimizer.name == "sgd" and optimizer.momentum else ""
    rate = f"Optimizer {optimizer.name}, learning rate {optimizer.lr:g}{momentum}"
    return f"{rate}, weight decay {optimizer.weight_decay:g}"


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


def training_words(spec: StudySpec) -> str:
    """What a hospital does in a round."""
    training, kind, folds = spec.training, spec.input.kind, spec.split.folds
    examples = _EXAMPLES[kind]
    changes = listed([_AUGMENTATION[name] for name in training.augmentation], "and")
    return sentences(
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


def combination_words(strategy: Strategy, who: str) -> str:
    """What becomes of the hospitals' models, and which rounds count."""
    options = f", {_settings(strategy.options)}" if strategy.options else ""
    norm, cosine = strategy.max_update_norm, strategy.min_cosine
    return sentences(
        [
            f"{combined(strategy, who)}{options}",
            f"The run stops when fewer than {strategy.min_sites} hospitals answer in a round",
            f"A round waits at most {strategy.round_deadline_s:g} s for them"
            + (", and not so long for one that is gone or far slower than before" * (strategy.deadline == "adaptive")),
            f"It ends as soon as {strategy.quorum} have answered" if strategy.quorum != "all" else "",
            f"An update that is longer than {norm:g} (L2 norm) is refused" if norm is not None else "",
            f"An update that goes another way than the others do is refused (cosine to their mean below {cosine:g})"
            if cosine is not None
            else "",
        ]
    )


def combined(strategy: Strategy, who: str) -> str:
    """What becomes of the hospitals' models, as a sentence without a full stop."""
    plug_in = f"what the installed plug-in '{strategy.name}' makes of the hospitals' models"
    return f"After each round: {_STRATEGIES.get(strategy.name, plug_in)}".replace("{who}", who)


def hospital_words(spec: StudySpec) -> list[str]:
    """What a study does about hospitals that differ, in sentences without a full stop; empty where nothing."""
    own_layers = _BATCH_NORM[spec.training.batch_norm] if spec.training.batch_norm in {"local", "recalibrate"} else ""
    parts = [
        "Each hospital keeps a model of its own beside the common one (Ditto)" * (spec.strategy.name == "ditto"),
        own_layers,
        combat_words(spec.input) if isinstance(spec.input, TableInput) else "",
        "Risks are compared within each hospital only" * (spec.study.task == "survival"),
    ]
    return [part for part in parts if part]


def messages_words(update: Update) -> str:
    """In how many bytes models and updates travel."""
    coded = update.compression != "none"
    return sentences(
        [
            _COMPRESSION[update.compression].format(100 * update.share),
            "What this leaves out of a hospital's update waits there, and is added to its next" if coded else "",
        ]
    )


def _settings(options: Mapping[str, object]) -> str:
    return ", ".join(f"{name} = {toml_value(value)}" for name, value in options.items())
