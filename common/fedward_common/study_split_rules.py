"""What cannot stand together in a study about its sites and its split, as rules like those of `study_rules`."""

from collections.abc import Iterator

from fedward_common.study_faults import Fault, near
from fedward_common.study_inputs import AnyInput
from fedward_common.study_small_sections import About, Evaluation, Sites
from fedward_common.study_split import Split
from fedward_common.study_strategy import Strategy
from fedward_common.study_training import Phase, Training

_NO_LAYERS = (
    'leaves out a hospital that would need BatchNorm layers of its own, for [training] batch_norm = "local" '
    "sends none: let it take part"
)


def local_layers(training: Training, split: Split, sites: Sites) -> Iterator[Fault]:
    """Who trains nothing has no layers of its own, and the ones that nobody sends were never trained."""
    if training.batch_norm != "local":
        return
    for index, site in enumerate(sites):
        if site.role == "evaluate":
            yield Fault(("sites", index, "role"), f"{_NO_LAYERS} to train, or choose another batch_norm")
    if split.kind == "leave-site-out":
        yield Fault(("split", "kind"), f"{_NO_LAYERS}, or choose another batch_norm")


def roster(sites: Sites) -> Iterator[Fault]:
    """Each site is there once."""
    first: dict[str, int] = {}
    for index, site in enumerate(sites):
        if first.setdefault(site.name, index) != index:
            yield Fault(
                ("sites", index, "name"), f"is also the name of item {first[site.name] + 1}; name each site once"
            )


def quorum(strategy: Strategy, split: Split, sites: Sites) -> Iterator[Fault]:
    """A roster must be able to reach the quorum: sites that only evaluate do not train."""
    left_out = split.site if split.kind == "leave-site-out" else None
    training = sum(site.role == "train" and site.name != left_out for site in sites)
    for key, least in (("min_sites", strategy.min_sites), ("quorum", strategy.quorum)):
        if sites and least != "all" and least > training:
            yield Fault(("strategy", key), f"must be at most {training}, the number of sites in [[sites]] that train")


def decided_by_validation(evaluation: Evaluation, split: Split) -> Iterator[Fault]:
    """The best round and the last one are told by validation patients, of whom there must be some."""
    none = not split.validates
    if none and evaluation.keep == "best":
        yield Fault(("evaluation", "keep"), "needs validation patients: give [split] shares a second number above 0")
    if none and evaluation.early_stopping is not None:
        yield Fault(("evaluation", "early_stopping"), "needs validation patients: give [split] shares a second number")
    if none and evaluation.operating_point != "youden":
        yield Fault(("evaluation", "operating_point"), "needs validation patients: give [split] shares a second number")


def folds(about: About, split: Split, phases: tuple[Phase, ...], evaluation: Evaluation) -> Iterator[Fault]:
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


def anew(split: Split, strategy: Strategy, training: Training, inputs: AnyInput) -> Iterator[Fault]:
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


def left_out_site(split: Split, sites: Sites) -> Iterator[Fault]:
    """The site that is left out is one of the roster."""
    names = [site.name for site in sites]
    if split.kind == "leave-site-out" and split.site is not None and names and split.site not in names:
        yield Fault(("split", "site"), f"must be one of the sites: {', '.join(names)}{near(split.site, names)}")
