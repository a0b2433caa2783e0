"""[training] and [[phases]]: what a site does in a round, and how many rounds there are."""

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from fedward_common.study_faults import Fault
from fedward_common.study_section import Positive, Rule, Section, only_with

Rounds = Annotated[int, Field(ge=1, le=10_000)]


class Optimizer(Section):
    """The local optimizer, made anew each round."""

    name: Literal["sgd", "adam", "adamw"] = "adamw"
    lr: Positive = 3e-4
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.01
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9  # sgd only

    rules = (only_with("momentum", 0.9, "name", "sgd"),)


def _epochs(given: dict[str, Any]) -> int | None:
    return 1 if given.get("local_steps") is None else None


def _epochs_or_steps(epochs: int | None, steps: int | None) -> Iterator[Fault]:
    if epochs is not None and steps is not None:
        yield Fault(("local_steps",), "cannot stand beside local_epochs; keep the one that ends a site's round")
    if epochs is None and steps is None:
        yield Fault(("local_epochs",), "missing; a round needs local_epochs or local_steps")


def _augmentation(names: tuple[str, ...]) -> Iterator[Fault]:
    if len(set(names)) < len(names):
        yield Fault(("augmentation",), "names one augmentation twice; name each once")


class Work(Section):
    """Rounds, and what a site does in each: for how long, in which batches, by which optimizer."""

    rounds: Rounds
    local_steps: Annotated[int, Field(ge=1, le=1_000_000)] | None = None  # instead of epochs: batches a round
    local_epochs: Annotated[int, Field(ge=1, le=10_000)] | None = Field(
        default_factory=_epochs
    )  # 1 without local_steps
    batch_size: Annotated[int, Field(ge=1, le=65_536)] = 32
    optimizer: Optimizer = Optimizer()

    rules: ClassVar[tuple[Rule, ...]] = (Rule(("local_epochs", "local_steps"), _epochs_or_steps),)


class Phase(Work):
    """[[phases]]: rounds before those of [training], in which one layer learns from examples without their labels.

    The first phase trains the network's first layer, the second its second, on what the first one gives (greedy
    layer-wise training: Hinton, Osindero, Teh 2006; Bengio et al. 2007).
    """


def _in_time(after: int | None, rounds: int) -> Iterator[Fault]:
    if after is not None and after >= rounds:
        yield Fault(
            ("pseudo_labels_after",), f"must be less than rounds = {rounds}, or no round takes the model's word"
        )


class Training(Work):
    """[training]: the rounds in which the whole network learns from labels."""

    rounds: Rounds = 20
    augmentation: tuple[Literal["flip", "affine", "contrast", "noise", "reverse-complement"], ...] = ()
    class_weights: bool = True  # weigh the loss by inverse class frequency at the site
    batch_norm: Literal["share", "local", "recalibrate", "group"] = "share"  # see fedward_common.batch_norm
    smoothness: Annotated[float, Field(ge=0.0, le=1000.0)] = 1.0  # of displacements: its weight in their loss
    pseudo_labels_after: Rounds | None = None  # rounds of labels alone; then images without one have the model's word
    seed: Annotated[int, Field(ge=0, lt=2**53)] = 42

    rules = (
        *Work.rules,
        Rule(("augmentation",), _augmentation),
        Rule(("pseudo_labels_after", "rounds"), _in_time),
    )
