"""What cannot stand together in a study about its task, its data, its network and its training.

Each rule takes values that are valid by themselves and gives a `Fault` for each thing that is wrong between them.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from packaging.version import InvalidVersion, Version

from fedward_common import __version__
from fedward_common.errors import ModelError
from fedward_common.study_cohort import Cohort
from fedward_common.study_faults import Fault
from fedward_common.study_input import Input
from fedward_common.study_inputs import AnyInput
from fedward_common.study_section import OptionValue
from fedward_common.study_series import SeriesInput
from fedward_common.study_small_sections import About, Evaluation, Model, Update
from fedward_common.study_split import Split
from fedward_common.study_strategy import COMPARE_COORDINATES, Strategy
from fedward_common.study_subgroups import subgroup_faults
from fedward_common.study_table import TableInput
from fedward_common.study_task import TASKS, task_faults
from fedward_common.study_training import Phase, Training


def min_fedward(min_fedward: str) -> Iterator[Fault]:
    """A version, and none that is newer than this one."""
    try:
        needed = Version(min_fedward)
    except InvalidVersion:
        yield Fault(("min_fedward",), f'must be a version such as "{__version__}"')
        return
    if needed > Version(__version__):
        yield Fault(
            ("min_fedward",), f"needs a newer Fedward: {__version__} is installed; pip install 'fedward>={needed}'"
        )


def model(about: About, model: Model, inputs: AnyInput, cohort: Cohort) -> Iterator[Fault]:
    """What the registry refuses: the name, else the options, else the network at this size."""
    from fedward_common import models  # the registry reads StudySpec

    def refused(options: Mapping[str, OptionValue]) -> str | None:
        try:
            classes = models.outputs(about.task, max(len(cohort.labels), TASKS[about.task].labels[0]))
            models.check(model.name, options, inputs.size, inputs.channels, classes, task=about.task)
        except ModelError as error:
            return str(error)
        return None

    if reason := refused(model.options):
        in_options = model.options and model.name in models.names() and refused({}) is None
        yield Fault(("model", "options" if in_options else "name"), reason)
    elif model.name == "retinanet":
        options = {**models.describe(model.name).options, **model.options}
        yield from _anchors(options, inputs.size)


def _anchors(options: Mapping[str, Any], size: tuple[int, ...]) -> Iterator[Fault]:
    """No finding is as large as an anchor that is longer than every side of the image."""
    largest = options["anchor"] * 2 ** (options["levels"] - 1)
    if largest > max(size):
        yield Fault(
            ("model", "options"),
            f"give anchors of up to {largest} pixels, and no side of [input] size is as long; lower levels or anchor",
        )


def visible(model: Model, inputs: AnyInput) -> Iterator[Fault]:
    """Binary visible units are chances, and see what lies in [0, 1]; Gaussian ones see mean 0 and deviation 1.

    Of what lies in [0, 1] and varies by less than the Gaussian's deviation a machine learns that there is nothing to
    be learned (Hinton 2010, UTML TR 2010-003, sections 13.1 and 13.2).
    """
    if model.name not in {"rbm", "dbn"}:
        return
    units, given = model.options.get("visible", "binary"), "visible" in model.options
    if units == "binary" and not _in_unit_interval(inputs):
        what = "is for" if given else 'is "binary" where nothing else is said, for'
        yield Fault(
            ("model", "options", "visible"),
            f'{what} inputs between 0 and 1, and those of this study lie around 0; set visible = "gaussian"',
        )
    if units == "gaussian" and not isinstance(inputs, TableInput) and _in_unit_interval(inputs):
        instead = ', or [input] intensity = "zscore"' if isinstance(inputs, Input) else ""
        yield Fault(
            ("model", "options", "visible"),
            "is for inputs of mean 0 and deviation 1, and those of this study lie between 0 and 1; set "
            f'visible = "binary"{instead}',
        )


def _in_unit_interval(inputs: AnyInput) -> bool:
    match inputs:
        case Input():
            return inputs.intensity != "zscore"
        case TableInput():  # a study's own scale may make shares of it
            return inputs.scale is not None and not any(inputs.scale.centre)
        case SeriesInput():
            return False
        case _:
            return True


_UNSIGNED = {"CR", "DX", "MG", "MR", "NM", "PT", "US"}  # their values are not below 0, but phases of MR around it


def modality(cohort: Cohort, inputs: AnyInput) -> Iterator[Fault]:
    """What is said of images of one modality, of a study that names another one."""
    if isinstance(inputs, Input) and inputs.window is not None and cohort.modality in _UNSIGNED:
        centre = inputs.window[0]
        if centre < 0 or (centre == 0 and cohort.modality != "MR"):
            yield Fault(
                ("input", "window"),
                f'lies around {centre:g}, as for CT, and [cohort] modality is "{cohort.modality}", whose values are '
                'not below 0; set intensity = "percentile"',
            )
    if cohort.modality in {None, "MR"}:
        return
    if cohort.sequence:
        yield Fault(("cohort", "sequence"), f'is said of MR images, and modality is "{cohort.modality}"; remove it')
    if isinstance(inputs, Input) and inputs.bias_field is not None:
        yield Fault(
            ("input", "bias_field"), f'is said of MR images, and [cohort] modality is "{cohort.modality}"; remove it'
        )


def inflate(model: Model, inputs: AnyInput) -> Iterator[Fault]:
    """Kernels are spread along a depth, so there must be one."""
    if model.start is not None and model.start.inflate and len(inputs.size) != 3:
        yield Fault(
            ("model", "start", "inflate"), "has an effect on 3-D images only; remove it, or give [input] size a depth"
        )


def task(about: About, inputs: AnyInput, cohort: Cohort, evaluation: Evaluation, training: Training) -> Iterator[Fault]:
    """What the rest of a study says that its task cannot have."""
    yield from task_faults(
        about.task,
        kind=inputs.kind,
        labels=cohort.labels,
        positive=cohort.positive,
        multi_label=cohort.multi_label,
        primary=evaluation.primary,
    )
    yield from subgroup_faults(inputs.kind, evaluation.subgroups)
    if about.task != "registration" and training.smoothness != Training.model_fields["smoothness"].default:
        yield Fault(("training", "smoothness"), 'has no effect without [study] task = "registration"; remove it')
    if about.task != "classification" and not training.class_weights:
        yield Fault(("training", "class_weights"), 'has no effect without [study] task = "classification"; remove it')
    if about.task != "classification" and evaluation.operating_point != "youden":
        yield Fault(
            ("evaluation", "operating_point"), 'has no effect without [study] task = "classification"; remove it'
        )
    if about.task == "registration" and training.batch_size < 2:
        yield Fault(("training", "batch_size"), "must be at least 2: images of a batch are brought onto each other")
    if about.task == "registration" and {"flip", "affine"} & set(training.augmentation):
        yield Fault(
            ("training", "augmentation"), "must not move images that come onto each other: remove flip and affine"
        )
    if about.task == "survival" and training.batch_size < 2:
        yield Fault(("training", "batch_size"), "must be at least 2: patients of a batch are compared with each other")


_OF_IMAGES = ("modality", "body_part", "sequence", "vendors", "sex", "age", "months", "slices", "localizers")
_TAKEN = {
    "image": "images",
    "series": "recordings",
    "sequence": "sequences",
    "compound": "compounds",
    "table": "tables",
}


def images_only(inputs: AnyInput, cohort: Cohort) -> Iterator[Fault]:
    """What is said of images, of a study that has none."""
    if isinstance(inputs, Input):
        if cohort.slices is not None and len(inputs.size) == 2:
            yield Fault(("cohort", "slices"), "has no effect on 2-D images; remove it, or give [input] size a depth")
        return
    what = _TAKEN[inputs.kind]
    for key in _OF_IMAGES:
        if getattr(cohort, key) != Cohort.model_fields[key].default:
            yield Fault(("cohort", key), f"is said of images, and this study takes {what}; remove it")
    if cohort.multi_label:
        yield Fault(("cohort", "multi_label"), f"is not in this version of Fedward for {what}; remove it")


def varied(inputs: AnyInput, training: Training) -> Iterator[Fault]:
    """An augmentation is of one kind of input."""
    taken = _TAKEN[inputs.kind]
    varied = {"sequences" if name == "reverse-complement" else "images" for name in training.augmentation}
    for what in sorted(varied - {taken}):
        yield Fault(("training", "augmentation"), f"varies {what}, and this study takes {taken}; remove it")


def unlabelled(cohort: Cohort, phases: tuple[Phase, ...], training: Training) -> Iterator[Fault]:
    """Who has no label takes part in phases, and where the model's own word is taken; that needs some of them."""
    if cohort.unlabelled and not phases and training.pseudo_labels_after is None:
        yield Fault(
            ("cohort", "unlabelled"),
            "has no effect without [[phases]] or [training] pseudo_labels_after; remove it, or add one of them",
        )
    if training.pseudo_labels_after is not None and not cohort.unlabelled:
        yield Fault(
            ("training", "pseudo_labels_after"),
            "has no effect without [cohort] unlabelled = true; set it, or remove this",
        )


def pseudo_labels(
    about: About, cohort: Cohort, split: Split, strategy: Strategy, training: Training
) -> Iterator[Fault]:
    """One label an image; one split, for a fold knows its patients with a label only; weights that may change."""
    if training.pseudo_labels_after is None:
        return
    key = ("training", "pseudo_labels_after")
    if about.task != "classification":
        yield Fault(key, f'needs labels to tell apart, which [study] task = "{about.task}" has not; remove it')
    if cohort.multi_label:
        yield Fault(key, "needs one label an image, and [cohort] multi_label = true allows several; remove one of them")
    if split.folds is not None:
        yield Fault(key, f'cannot stand beside [split] kind = "{split.kind}"; remove it, or split by "hash"')
    if strategy.name == "scaffold":
        yield Fault(
            key,
            'cannot stand beside [strategy] name = "scaffold", in which hospitals keep their weights over all rounds; '
            "choose another strategy",
        )


def stops_after_them(training: Training, evaluation: Evaluation) -> Iterator[Fault]:
    """A run does not end before its first round of pseudo-labels."""
    after, stopping = training.pseudo_labels_after, evaluation.early_stopping
    if after is not None and stopping is not None and stopping.patience <= after:
        yield Fault(
            ("evaluation", "early_stopping", "patience"),
            f"must be above [training] pseudo_labels_after = {after}, or the run may end before a round that takes the "
            "model's word",
        )


def phases(phases: tuple[Phase, ...], model: Model, strategy: Strategy) -> Iterator[Fault]:
    """A layer for each phase; and nothing that a site keeps over rounds of a whole network."""
    from fedward_common import models

    if not phases:
        return
    if strategy.name in {"scaffold", "ditto"}:
        yield Fault(
            ("strategy", "name"), f'"{strategy.name}" follows a whole network, and [[phases]] train a layer at a time'
        )
    if model.frozen:
        yield Fault(("model", "frozen"), "cannot stand beside [[phases]], which train layers; remove one of them")
    try:
        layers = models.unsupervised_layers(model.name, model.options)
    except ModelError:  # told at its own key
        return
    if not layers:
        able = ", ".join(name for name in models.names() if models.unsupervised_layers(name, {}))
        yield Fault(
            ("phases",), f'has no effect: model "{model.name}" learns from labels alone; remove it, or choose {able}'
        )
    elif len(phases) > layers:
        yield Fault(
            ("phases",),
            f'has {len(phases)} phases, and model "{model.name}" has {layers} layer{"s" * (layers > 1)} to train in '
            "them with these options; remove some",
        )


def batch_norm(model: Model, training: Training, strategy: Strategy) -> Iterator[Fault]:
    """A policy for BatchNorm layers needs some, and FedBN is that they stay at their site."""
    from fedward_common import models

    policy = training.batch_norm
    try:
        has_layers = models.has_batch_norm(model.name, model.options)
    except ModelError:  # told at its own key
        return
    if policy != "share" and not has_layers:
        yield Fault(
            ("training", "batch_norm"),
            f'has no effect: model "{model.name}" has no BatchNorm layer with these options; remove it',
        )
    elif has_layers and training.batch_size < 2:
        yield Fault(
            ("training", "batch_size"),
            f'must be at least 2: model "{model.name}" has BatchNorm layers with these options, and one image has no '
            "batch statistics",
        )
    elif strategy.name == "fedbn" and not has_layers:
        yield Fault(
            ("strategy", "name"),
            f'keeps BatchNorm layers at their site, and model "{model.name}" has none with these options; '
            "choose a model with BatchNorm, or fedavg",
        )
    elif strategy.name == "fedbn" and policy != "local":
        yield Fault(
            ("strategy", "name"),
            f'keeps BatchNorm layers at their site, and [training] batch_norm is "{policy}"; '
            'set batch_norm = "local", or choose another strategy',
        )


_PLAIN = {
    "scaffold": "its correction holds for plain SGD only",
    "qfedavg": "it takes the way of a hospital for its gradient times the learning rate",
}


def plain_sgd(strategy: Strategy, training: Training) -> Iterator[Fault]:
    """SCAFFOLD's option II and q-FedAvg read the gradient off the way that plain SGD went; no other goes so."""
    optimizer = training.optimizer
    if strategy.name in _PLAIN and (optimizer.name != "sgd" or optimizer.momentum != 0):
        yield Fault(
            ("training", "optimizer"),
            f'must be {{ name = "sgd", momentum = 0.0, … }} for {strategy.name}: {_PLAIN[strategy.name]}',
        )


def eta_l(strategy: Strategy, training: Training) -> Iterator[Fault]:
    """Flower takes eta_l and uses it nowhere: sites learn at training.optimizer.lr; a study must not say otherwise."""
    eta_l, rate = strategy.options.get("eta_l"), training.optimizer.lr
    if eta_l is not None and eta_l != rate:
        yield Fault(
            ("strategy", "options", "eta_l"),
            f"is the sites' learning rate, and [training] optimizer.lr says {rate:g}; remove eta_l",
        )


def compared(update: Update, strategy: Strategy) -> Iterator[Fault]:
    """Of updates that are mostly zeros, the middle of each value is zero, and distances say who kept which values."""
    if update.compression == "top-k" and strategy.name in COMPARE_COORDINATES:
        yield Fault(
            ("update", "compression"),
            f'cannot stand beside [strategy] name = "{strategy.name}", which compares updates value by value; '
            'use "int8", "bf16" or "none"',
        )
