"""[strategy] of a study: which rule turns updates into the next model, and the options that each rule takes."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator

from fedward_common.study_faults import Fault, explain, refuse
from fedward_common.study_section import Positive, Rule, Section

Decay = Annotated[float, Field(ge=0.0, lt=1.0)]


class FedAvgOptions(Section):
    """None: the mean of the updates, weighted by training patients (McMahan et al. 2017, arXiv 1602.05629)."""


class FedProxOptions(Section):
    """Li et al. 2020 (arXiv 1812.06127): a penalty of mu/2 times the squared distance from the round's model.

    0.01 is one of the values the paper tunes over (0.001, 0.01, 0.1, 1). Flower's own default, 0, would be FedAvg.
    """

    proximal_mu: Annotated[float, Field(ge=0.0)] = 0.01


class FedAdamOptions(Section):
    """Reddi et al. 2021 (arXiv 2003.00295), names and defaults of flwr.serverapp.strategy.FedAdam 1.41."""

    eta: Positive = 0.1  # the hub's learning rate
    eta_l: Positive | None = None  # the sites' learning rate: nothing but training.optimizer.lr, see study_spec
    beta_1: Decay = 0.9
    beta_2: Decay = 0.99
    tau: Positive = 1e-3


class FedYogiOptions(FedAdamOptions):
    """As FedAdam, with the defaults of flwr.serverapp.strategy.FedYogi 1.41."""

    eta: Positive = 0.01


_OPTIONS: Mapping[str, type[Section]] = {
    "fedavg": FedAvgOptions,
    "fedprox": FedProxOptions,
    "fedadam": FedAdamOptions,
    "fedyogi": FedYogiOptions,
}


def _quorum(quorum: Literal["all"] | int, min_sites: int) -> Iterator[Fault]:
    if quorum != "all" and quorum < min_sites:
        yield Fault(("quorum",), f'must be at least min_sites, which is {min_sites}, or "all"')


class Strategy(Section):
    """[strategy]: how updates become the next model; `options` go to the flwr strategy of that name."""

    name: Literal["fedavg", "fedprox", "fedadam", "fedyogi"] = "fedavg"
    min_sites: Annotated[int, Field(ge=1, le=10_000)] = 2  # with fewer updates there is no next model
    quorum: Annotated[  # a round ends as soon as so many updates are there
        Literal["all"] | Annotated[int, Field(ge=1, le=10_000)],
        Field(description='"all", or the number of updates with which a round ends'),
    ] = "all"
    round_deadline_s: Positive = 600.0
    deadline: Literal["adaptive", "fixed"] = "adaptive"  # fixed: every site has round_deadline_s, dead or alive
    max_update_norm: Positive | None = None  # an update with a larger L2 norm is refused
    min_cosine: Annotated[float, Field(ge=-1.0, lt=1.0)] | None = None  # to the other updates' mean direction

    rules = (Rule(("quorum", "min_sites"), _quorum),)
    options: dict[str, float] = Field(default={}, validate_default=True)

    @field_validator("options")
    @classmethod
    def _resolve_options(cls, options: dict[str, float], info: ValidationInfo) -> dict[str, float]:
        """The options of the named strategy, its defaults filled in, so that the digest covers them."""
        if "name" not in info.data:
            return options
        kind = _OPTIONS[info.data["name"]]
        try:
            return kind.model_validate(options).model_dump(exclude_none=True)
        except ValidationError as error:
            refuse(cls.__name__, explain(error, options, kind.model_json_schema()))
            raise
