"""The sections of a study that are too small for a module each."""

from collections.abc import Iterator
from datetime import date
from typing import Annotated, Any, Literal

from pydantic import Field

from fedward_common.study_faults import Fault
from fedward_common.study_section import Fingerprint, OptionValue, Rule, Section, Slug, only_with
from fedward_common.study_start import Factors, Patterns, Start, repeated
from fedward_common.study_subgroups import Subgroups
from fedward_common.study_task import Primary, Task


def _readable(key: str) -> Rule:
    def check(text: str) -> Iterator[Fault]:
        if not text.replace("\n", "").isprintable():  # a terminal obeys some of what cannot be seen
            yield Fault((key,), "must be printable text")

    return Rule((key,), check)


class About(Section):
    """[study]: what this is and who answers for it."""

    id: Slug
    title: str = ""
    purpose: str = ""
    contact: str = ""
    ends: date | None = None  # the last day on which it may run
    task: Task  # what a model is to say of a patient

    rules = (_readable("title"), _readable("purpose"), _readable("contact"))


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


_Wanted = Annotated[float, Field(gt=0.0, le=1.0)]


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
        Literal["youden"] | Annotated[dict[Literal["sensitivity"], _Wanted], Field(min_length=1)],
        Field(description='"youden", or { sensitivity = a number above 0, up to 1 }'),
    ] = "youden"
    subgroups: Annotated[tuple[Subgroups, ...], Field(max_length=8)] = ()  # of test patients, whose figures leave too


class SiteEntry(Section):
    """One line of the roster."""

    name: Slug
    fingerprint: Fingerprint | None = None  # SHA-256 of the site's Ed25519 key; None only in simulations
    role: Literal["train", "evaluate"] = "train"


Sites = tuple[SiteEntry, ...]
