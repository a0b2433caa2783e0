"""The sections and keys of a study, their defaults, and the combinations that cannot work.

Every rule runs wherever a spec is made: from a file, from the wire, from code. `fedward_common.study` reads files.
"""

import hashlib
from collections.abc import Iterator, Mapping
from datetime import date
from typing import Annotated, Any, Literal, Self

import rfc8785
from packaging.version import InvalidVersion, Version
from pydantic import Discriminator, Field, Tag

from fedward_common import __version__
from fedward_common.errors import ModelError
from fedward_common.study_cohort import Cohort
from fedward_common.study_compound import CompoundInput
from fedward_common.study_faults import Fault, near
from fedward_common.study_input import Input
from fedward_common.study_section import Fingerprint, Fraction, OptionValue, Rule, Section, Slug, only_with
from fedward_common.study_sequence import SequenceInput
from fedward_common.study_series import SeriesInput
from fedward_common.study_split import Split
from fedward_common.study_start import Factors, Patterns, Start, repeated
from fedward_common.study_strategy import COMPARE_COORDINATES, Strategy
from fedward_common.study_subgroups import Subgroups, subgroup_faults
from fedward_common.study_table import FeatureScale, TableInput
from fedward_common.study_task import TASKS, Primary, Task, task_faults
from fedward_common.study_training import Phase, Training, Work

SCHEMA_VERSION: Literal[1] = 1


class About(Section):
    """[study]: what this is and who answers for it."""

    id: Slug
    title: str = ""
    purpose: str = ""
    contact: str = ""
    ends: date | None = None  # the last day on which it may run
    task: Task  # what a model is to say of a patient


INPUTS: Mapping[str, type[Section]] = {
    "image": Input,
    "series": SeriesInput,
    "sequence": SequenceInput,
    "compound": CompoundInput,
    "table": TableInput,
}


def input_kind(section: object) -> str:
    """Which of `INPUTS` a section is; of one that is no table the words for images are as good as any."""
    kind = section.get("kind", "image") if isinstance(section, Mapping) else getattr(section, "kind", "image")
    return kind if isinstance(kind, str) else ""


AnyInput = Annotated[
    Annotated[Input, Tag("image")]
    | Annotated[SeriesInput, Tag("series")]
    | Annotated[SequenceInput, Tag("sequence")]
    | Annotated[CompoundInput, Tag("compound")]
    | Annotated[TableInput, Tag("table")],
    Discriminator(input_kind),
]


Scale = tuple[float, ...] | FeatureScale  # what sites measure: `landmarks` of images, of features of tables


class Model(Section):
    """[model]: a registered network by name; `fedward model list` shows them."""

    name: str
    options: dict[
        str, Annotated[OptionValue, Field(description="true or false, a number, text, or a list of whole numbers")]
    ] = Field(default={})
    start: Start | None = None  # trained weights to begin with; None draws them from the seed
    frozen: Patterns = ()  # layers that do not learn
    learning_rates: Factors = Field(default={})  # of layers: factors on training.optimizer.lr

    rules = (Rule(("frozen",), repeated),)


class Update(Section):
    """[update]: in how many bytes models and updates travel; see `fedward_common.compression`."""

    compression: Literal["none", "bf16", "int8", "top-k"] = "none"
    share: Annotated[float, Field(gt=0.0, le=0.5)] = 0.01  # of the values, for "top-k"; beyond half nothing is saved

    rules = (only_with("share", 0.01, "compression", "top-k"),)


def _not_yet(key: str) -> Rule:
    def check(asked: object) -> Iterator[Fault]:
        if asked not in (False, None):
            yield Fault((key,), "is not in this version of Fedward: remove the key")

    return Rule((key,), check)


class Privacy(Section):
    """[privacy]: asked for here, enforced by each site. This version enforces none of it, so it refuses to be asked."""

    secure_aggregation: bool = False
    dp: dict[str, Any] | None = None

    rules = (_not_yet("secure_aggregation"), _not_yet("dp"))


class EarlyStopping(Section):
    """The run ends when the primary metric has not become better for `patience` rounds, by more than `min_delta`."""

    patience: Annotated[int, Field(ge=1, le=10_000)]
    min_delta: Annotated[float, Field(ge=0.0)] = 0.0


class Evaluation(Section):
    """[evaluation]: what decides. The primary metric is that of all sites' validation patients."""

    primary: Primary = "roc_auc"  # of each task its own: see `study_task`
    keep: Literal["last", "best"] = "last"  # the round whose model is the run's; best by the primary metric
    early_stopping: EarlyStopping | None = None
    local_baseline: bool = True  # on real sites: each also trains alone, so that it sees what it gained
    operating_point: Annotated[  # chosen on validation data
        Literal["youden"] | Annotated[dict[Literal["sensitivity"], Fraction], Field(min_length=1)],
        Field(description='"youden", or { sensitivity = a number from 0 to 1 }'),
    ] = "youden"
    subgroups: Annotated[tuple[Subgroups, ...], Field(max_length=8)] = ()  # of test patients, whose figures leave too


class SiteEntry(Section):
    """One line of the roster."""

    name: Slug
    fingerprint: Fingerprint | None = None  # SHA-256 of the site's Ed25519 key; None only in simulations
    role: Literal["train", "evaluate"] = "train"


Sites = tuple[SiteEntry, ...]


def _min_fedward(min_fedward: str) -> Iterator[Fault]:
    try:
        needed = Version(min_fedward)
    except InvalidVersion:
        yield Fault(("min_fedward",), f'must be a version such as "{__version__}"')
        return
    if needed > Version(__version__):
        yield Fault(
            ("min_fedward",), f"needs a newer Fedward: {__version__} is installed; pip install 'fedward>={needed}'"
        )


def _model(about: About, model: Model, inputs: AnyInput, cohort: Cohort) -> Iterator[Fault]:
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


def _inflate(model: Model, inputs: AnyInput) -> Iterator[Fault]:
    if model.start is not None and model.start.inflate and len(inputs.size) != 3:
        yield Fault(
            ("model", "start", "inflate"), "has an effect on 3-D images only; remove it, or give [input] size a depth"
        )


def _task(
    about: About, inputs: AnyInput, cohort: Cohort, evaluation: Evaluation, training: Training
) -> Iterator[Fault]:
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


def _images_only(inputs: AnyInput, cohort: Cohort) -> Iterator[Fault]:
    """What is said of images, of a study that has none."""
    if isinstance(inputs, Input):
        return
    what = _TAKEN[inputs.kind]
    for key in _OF_IMAGES:
        if getattr(cohort, key) != Cohort.model_fields[key].default:
            yield Fault(("cohort", key), f"is said of images, and this study takes {what}; remove it")
    if cohort.multi_label:
        yield Fault(("cohort", "multi_label"), f"is not in this version of Fedward for {what}; remove it")


def _varied(inputs: AnyInput, training: Training) -> Iterator[Fault]:
    """An augmentation is of one kind of input."""
    taken = _TAKEN[inputs.kind]
    varied = {"sequences" if name == "reverse-complement" else "images" for name in training.augmentation}
    for what in sorted(varied - {taken}):
        yield Fault(("training", "augmentation"), f"varies {what}, and this study takes {taken}; remove it")


def _unlabelled(cohort: Cohort, phases: tuple[Phase, ...], training: Training) -> Iterator[Fault]:
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


def _pseudo_labels(
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


def _stops_after_them(training: Training, evaluation: Evaluation) -> Iterator[Fault]:
    """A run does not end before its first round of pseudo-labels."""
    after, stopping = training.pseudo_labels_after, evaluation.early_stopping
    if after is not None and stopping is not None and stopping.patience <= after:
        yield Fault(
            ("evaluation", "early_stopping", "patience"),
            f"must be above [training] pseudo_labels_after = {after}, or the run may end before a round that takes the "
            "model's word",
        )


def _phases(phases: tuple[Phase, ...], model: Model, strategy: Strategy) -> Iterator[Fault]:
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


def _batch_norm(model: Model, training: Training, strategy: Strategy) -> Iterator[Fault]:
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


def _local_layers(training: Training, split: Split, sites: Sites) -> Iterator[Fault]:
    """Who trains nothing has no layers of its own, and the ones that nobody sends were never trained."""
    if training.batch_norm != "local":
        return
    for index, site in enumerate(sites):
        if site.role == "evaluate":
            yield Fault(("sites", index, "role"), f"{_NO_LAYERS} to train, or choose another batch_norm")
    if split.kind == "leave-site-out":
        yield Fault(("split", "kind"), f"{_NO_LAYERS}, or choose another batch_norm")


_NO_LAYERS = (
    'leaves out a hospital that would need BatchNorm layers of its own, for [training] batch_norm = "local" '
    "sends none: let it take part"
)


def _scaffold(strategy: Strategy, training: Training) -> Iterator[Fault]:
    """SCAFFOLD's option II reads the mean gradient off the way that plain SGD went; no other optimizer goes so."""
    optimizer = training.optimizer
    if strategy.name == "scaffold" and (optimizer.name != "sgd" or optimizer.momentum != 0):
        yield Fault(
            ("training", "optimizer"),
            'must be { name = "sgd", momentum = 0.0, … } for scaffold: its correction holds for plain SGD only',
        )


def _eta_l(strategy: Strategy, training: Training) -> Iterator[Fault]:
    """Flower takes eta_l and uses it nowhere: sites learn at training.optimizer.lr; a study must not say otherwise."""
    eta_l, rate = strategy.options.get("eta_l"), training.optimizer.lr
    if eta_l is not None and eta_l != rate:
        yield Fault(
            ("strategy", "options", "eta_l"),
            f"is the sites' learning rate, and [training] optimizer.lr says {rate:g}; remove eta_l",
        )


def _compared(update: Update, strategy: Strategy) -> Iterator[Fault]:
    """Of updates that are mostly zeros, the middle of each value is zero, and distances say who kept which values."""
    if update.compression == "top-k" and strategy.name in COMPARE_COORDINATES:
        yield Fault(
            ("update", "compression"),
            f'cannot stand beside [strategy] name = "{strategy.name}", which compares updates value by value; '
            'use "int8", "bf16" or "none"',
        )


def _roster(sites: Sites) -> Iterator[Fault]:
    first: dict[str, int] = {}
    for index, site in enumerate(sites):
        if first.setdefault(site.name, index) != index:
            yield Fault(
                ("sites", index, "name"), f"is also the name of item {first[site.name] + 1}; name each site once"
            )


def _quorum(strategy: Strategy, split: Split, sites: Sites) -> Iterator[Fault]:
    """A roster must be able to reach the quorum: sites that only evaluate do not train."""
    left_out = split.site if split.kind == "leave-site-out" else None
    training = sum(site.role == "train" and site.name != left_out for site in sites)
    for key, least in (("min_sites", strategy.min_sites), ("quorum", strategy.quorum)):
        if sites and least != "all" and least > training:
            yield Fault(("strategy", key), f"must be at most {training}, the number of sites in [[sites]] that train")


def _decided_by_validation(evaluation: Evaluation, split: Split) -> Iterator[Fault]:
    """The best round and the last one are told by validation patients, of whom there must be some."""
    none = split.kind == "hash" and split.shares[1] == 0
    if none and evaluation.keep == "best":
        yield Fault(("evaluation", "keep"), "needs validation patients: give [split] shares a second number above 0")
    if none and evaluation.early_stopping is not None:
        yield Fault(("evaluation", "early_stopping"), "needs validation patients: give [split] shares a second number")


def _folds(about: About, split: Split, phases: tuple[Phase, ...], evaluation: Evaluation) -> Iterator[Fault]:
    """Of single folds nothing is told, so nothing can go by it."""
    if split.folds is None:
        return
    if about.task != "classification":
        yield Fault(
            ("split", "kind"),
            f'keeps probabilities of labels over folds, which [study] task = "{about.task}" has not; split by "hash"',
        )
    if phases:
        yield Fault(("phases",), f'cannot stand beside [split] kind = "{split.kind}"; remove them, or split by "hash"')
    untold = f'goes by figures of each round, and [split] kind = "{split.kind}" tells none before its last fold'
    if evaluation.keep == "best":
        yield Fault(("evaluation", "keep"), f'{untold}; set keep = "last"')
    if evaluation.early_stopping is not None:
        yield Fault(("evaluation", "early_stopping"), f"{untold}; remove it")


def _anew(split: Split, strategy: Strategy, training: Training, inputs: AnyInput) -> Iterator[Fault]:
    """A fold must know nothing of its test patients, whom the fold before has trained on."""
    if split.folds is None:
        return
    if strategy.name in {"scaffold", "ditto"}:
        yield Fault(
            ("strategy", "name"),
            f'"{strategy.name}" keeps at each hospital what it learned in all rounds, and each fold of [split] begins '
            "anew; choose another strategy",
        )
    if training.batch_norm == "local":
        yield Fault(
            ("training", "batch_norm"),
            "keeps layers at each hospital over all rounds, and each fold of [split] begins anew; choose another",
        )
    if inputs.measures_scale:
        yield Fault(
            ("split", "kind"),
            "cannot stand beside a scale that hospitals measure on training patients, for each is tested in a fold: "
            'give [input] the scale, or split by "hash"',
        )


def _left_out_site(split: Split, sites: Sites) -> Iterator[Fault]:
    names = [site.name for site in sites]
    if split.kind == "leave-site-out" and split.site is not None and names and split.site not in names:
        yield Fault(("split", "site"), f"must be one of the sites: {', '.join(names)}{near(split.site, names)}")


class StudySpec(Section):
    """A whole study, defaults filled in."""

    schema_version: Literal[1] = SCHEMA_VERSION
    min_fedward: str = "0.1.0"
    study: About
    cohort: Cohort
    split: Split = Split()
    input: AnyInput = Input()
    model: Model
    phases: Annotated[tuple[Phase, ...], Field(max_length=16)] = ()
    training: Training = Training()
    strategy: Strategy = Strategy()
    update: Update = Update()
    privacy: Privacy = Privacy()
    evaluation: Evaluation = Evaluation()
    sites: Sites = ()

    rules = (
        Rule(("min_fedward",), _min_fedward),
        Rule(("study", "input", "cohort", "evaluation", "training"), _task),
        Rule(("study", "model", "input", "cohort"), _model),
        Rule(("model", "input"), _inflate),
        Rule(("input", "cohort"), _images_only),
        Rule(("input", "training"), _varied),
        Rule(("cohort", "phases", "training"), _unlabelled),
        Rule(("study", "cohort", "split", "strategy", "training"), _pseudo_labels),
        Rule(("training", "evaluation"), _stops_after_them),
        Rule(("phases", "model", "strategy"), _phases),
        Rule(("model", "training", "strategy"), _batch_norm),
        Rule(("training", "split", "sites"), _local_layers),
        Rule(("strategy", "training"), _scaffold),
        Rule(("strategy", "training"), _eta_l),
        Rule(("update", "strategy"), _compared),
        Rule(("sites",), _roster),
        Rule(("strategy", "split", "sites"), _quorum),
        Rule(("split", "sites"), _left_out_site),
        Rule(("evaluation", "split"), _decided_by_validation),
        Rule(("study", "split", "phases", "evaluation"), _folds),
        Rule(("split", "strategy", "training", "input"), _anew),
    )

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the RFC 8785 JSON of the resolved study."""
        return hashlib.sha256(self.canonical_json()).hexdigest()

    def canonical_json(self) -> bytes:
        """RFC 8785 (JCS) JSON of the resolved study, defaults included."""
        return rfc8785.dumps(self.model_dump(mode="json"))

    @classmethod
    def from_json(cls, text: bytes | str) -> Self:
        """Read what `canonical_json` wrote."""
        return cls.model_validate_json(text)

    @property
    def rounds(self) -> int:
        """Of all phases and of [training], which are done once a fold and once with all patients."""
        return sum(phase.rounds for phase in self.phases) + self.training.rounds * ((self.split.folds or 0) + 1)

    def fold(self, round_number: int) -> int | None:
        """The fold of a round, from 0; None without folds, and in the last rounds, which train on all patients."""
        return self.split.fold(round_number, self.training.rounds)

    def stage(self, round_number: int) -> str:
        """What a round is of, in words: "fold 2 of 5", "all patients" after the last fold; "" without folds."""
        if self.split.folds is None:
            return ""
        fold = self.fold(round_number)
        return "all patients" if fold is None else f"fold {fold + 1} of {self.split.folds}"

    def ends_fold(self, round_number: int) -> bool:
        """Whether a round is the last of a fold: then its test patients are scored."""
        fold = self.fold(round_number)
        return fold is not None and fold != self.fold(round_number + 1)

    def begins_anew(self, round_number: int) -> bool:
        """Whether a strategy begins anew with a round: the first of another layer, or after a fold."""
        before = round_number - 1
        return before > 0 and (self.layer(round_number) != self.layer(before) or self.ends_fold(before))

    def layer(self, round_number: int) -> int | None:
        """Which layer learns alone in a round, from 0; None in the rounds of [training], where all learn."""
        last = 0
        for index, phase in enumerate(self.phases):
            last += phase.rounds
            if round_number <= last:
                return index
        return None

    def pseudo_labelled(self, round_number: int) -> bool:
        """Whether the model's own word is taken for labels in a round."""
        after = self.training.pseudo_labels_after
        return after is not None and round_number > sum(phase.rounds for phase in self.phases) + after

    def takes_unlabelled(self, round_number: int) -> bool:
        """Whether patients without a label take part in a round."""
        return self.layer(round_number) is not None or self.pseudo_labelled(round_number)

    def work(self, round_number: int) -> Work:
        """What a site does in a round: a phase's, or that of [training]."""
        layer = self.layer(round_number)
        return self.training if layer is None else self.phases[layer]

    def round_of_strategy(self, round_number: int) -> int:
        """A round as its strategy counts them, from 1: it begins anew with each layer and each fold."""
        first = round_number
        while first > 1 and not self.begins_anew(first):
            first -= 1
        return round_number - first + 1

    @property
    def positive_index(self) -> int | None:
        """Index into `cohort.labels` of the positive label, None where there is none (then every class counts)."""
        return None if self.cohort.positive is None else self.cohort.labels.index(self.cohort.positive)

    @property
    def several(self) -> bool:
        """Whether an example may have several of the labels or none: 1, 0, or -1 of each where it is not known."""
        return self.cohort.multi_label or TASKS[self.study.task].several

    @property
    def needed_labels(self) -> tuple[str, ...]:
        """The labels of which a site needs a training patient each: all; none of several an example; or the event."""
        if not self.cohort.every_label or self.several:
            return ()
        return self.asked_labels if self.study.task == "survival" else self.cohort.labels

    @property
    def asked_labels(self) -> tuple[str, ...]:
        """The labels that have an operating point: the positive one, or all where there is none."""
        return self.cohort.labels if self.cohort.positive is None else (self.cohort.positive,)

    def only_evaluates(self, site: str) -> bool:
        """Whether a site trains nothing here: its role says so, or it is the site left out of the split."""
        left_out = self.split.kind == "leave-site-out" and self.split.site == site
        return left_out or any(entry.name == site and entry.role == "evaluate" for entry in self.sites)

    def measures(self, site: str) -> bool:
        """Whether a site's patients are in the scale that sites measure: where it trains.

        Where devices are compared (ComBat) every site's are, for what its own adds is not known otherwise.
        """
        compared = isinstance(self.input, TableInput) and bool(self.input.combat)
        return compared or not self.only_evaluates(site)

    def ended(self, today: date) -> bool:
        """Whether the study's last day is over; a run must not start then. Reading such a study is no error."""
        return self.study.ends is not None and today > self.study.ends
