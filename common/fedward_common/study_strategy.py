"""[strategy] of a study: which rule turns updates into the next model, and the options that each rule takes.

A strategy that is none of these is an installed plug-in, named by an entry point of the group `fedward.strategies`. Its
options are numbers that are handed on as they are.
"""

from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from math import ceil, floor
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from fedward_common.study_faults import Fault, explain, near, refuse
from fedward_common.study_section import Positive, Rule, Section

ENTRY_POINTS = "fedward.strategies"
MAX_NAME = 128

Takes = Literal["mean", "all"]  # one pre-averaged update, or every site's
Decay = Annotated[float, Field(ge=0.0, lt=1.0)]
Whole = Annotated[int, Field(gt=-(2**53), lt=2**53)]
Byzantine = Annotated[int, Field(ge=0, le=10_000)]


class Options(Section):
    """The options of one strategy, and what it needs of a round."""

    takes: ClassVar[Takes] = "mean"
    makes_statistics: ClassVar[bool] = True  # where it takes all: BatchNorm's too, so that a robust rule protects them

    def least_sites(self) -> tuple[int, str]:
        """How many updates a round needs for the rule to do what it is for, and why."""
        return 1, ""


class FedAvgOptions(Options):
    """None: the mean of the updates, weighted by training patients (McMahan et al. 2017, arXiv 1602.05629)."""


class FedAvgMOptions(Options):
    """Hsu et al. 2019 (arXiv 1909.06335): the hub moves by a momentum of the mean updates.

    0.9 is the paper's momentum. Flower's own default, 0, would be FedAvg.
    """

    server_learning_rate: Positive = 1.0
    server_momentum: Decay = 0.9


class FedProxOptions(Options):
    """Li et al. 2020 (arXiv 1812.06127): a penalty of mu/2 times the squared distance from the round's model.

    0.01 is one of the values the paper tunes over (0.001, 0.01, 0.1, 1). Flower's own default, 0, would be FedAvg.
    """

    proximal_mu: Annotated[float, Field(ge=0.0)] = 0.01


class FedAdagradOptions(Options):
    """Reddi et al. 2021 (arXiv 2003.00295), names of flwr.serverapp.strategy.FedAdagrad 1.41, and defaults but eta.

    In its first rounds every weight moves by nearly eta, and Flower's own 0.1 is as much as most weights are.
    """

    eta: Positive = 0.01  # the hub's learning rate
    eta_l: Positive | None = None  # the sites' learning rate: nothing but training.optimizer.lr, see study_rules
    tau: Positive = 1e-3


class FedAdamOptions(Options):
    """Reddi et al. 2021 (arXiv 2003.00295), names of flwr.serverapp.strategy.FedAdam 1.41, and defaults but eta.

    0.01 for the reason that FedAdagrad's options tell.
    """

    eta: Positive = 0.01  # the hub's learning rate
    eta_l: Positive | None = None  # the sites' learning rate: nothing but training.optimizer.lr, see study_rules
    beta_1: Decay = 0.9
    beta_2: Decay = 0.99
    tau: Positive = 1e-3


class FedYogiOptions(FedAdamOptions):
    """As FedAdam, with the defaults of flwr.serverapp.strategy.FedYogi 1.41, eta too."""


class FedMedianOptions(Options):
    """None: the median of every number by itself (Yin et al. 2018, arXiv 1803.01498), patients not weighed."""

    takes: ClassVar[Takes] = "all"

    def least_sites(self) -> tuple[int, str]:
        """Of two updates the median is the mean."""
        return 3, "the median of fewer hospitals protects from none of them (Yin et al. 2018)"


class FedTrimmedAvgOptions(Options):
    """Yin et al. 2018 (arXiv 1803.01498): of every number, the share beta at either end is left out of the mean."""

    takes: ClassVar[Takes] = "all"
    beta: Annotated[float, Field(ge=1e-4, lt=0.5)] = 0.2

    def least_sites(self) -> tuple[int, str]:
        """Where beta times the updates is below 1, none is left out."""
        least = next(n for n in range(floor(1 / self.beta), ceil(1 / self.beta) + 2) if int(self.beta * n) >= 1)
        return least, f"of fewer hospitals beta = {self.beta:g} leaves nobody out (Yin et al. 2018)"


class KrumOptions(Options):
    """Blanchard et al. 2017 (arXiv 1703.02757): the update that is nearest to the others becomes the model."""

    takes: ClassVar[Takes] = "all"
    num_malicious_nodes: Byzantine = 0  # f: how many hospitals may send anything at all

    def least_sites(self) -> tuple[int, str]:
        """2f + 3."""
        return 2 * self.num_malicious_nodes + 3, f"Krum needs 2f + 3 hospitals, {self._named} (Blanchard et al. 2017)"

    @property
    def _named(self) -> str:
        return f"f being num_malicious_nodes = {self.num_malicious_nodes}"


class MultiKrumOptions(KrumOptions):
    """Blanchard et al. 2017, section 5: the mean of the m updates that Krum finds best, weighted by patients.

    m may be at most n - f - 2 (Damaskinos et al. 2019, "AggregaThor", theorem 1).
    """

    num_nodes_to_select: Annotated[int, Field(ge=1, le=10_000)] = 1

    def least_sites(self) -> tuple[int, str]:
        """2f + 3, and m + f + 2."""
        by_choice = self.num_nodes_to_select + self.num_malicious_nodes + 2
        least, why = super().least_sites()
        if least >= by_choice:
            return least, why
        reason = f"to choose num_nodes_to_select = {self.num_nodes_to_select} of n, it may be at most n - f - 2"
        return by_choice, f"{reason}, {self._named} (Damaskinos et al. 2019)"


class BulyanOptions(KrumOptions):
    """El Mhamdi et al. 2018 (arXiv 1802.07927): of the updates that Krum chooses, a mean around the median."""

    def least_sites(self) -> tuple[int, str]:
        """4f + 3."""
        why = f"Bulyan needs 4f + 3 hospitals, {self._named} (El Mhamdi et al. 2018)"
        return 4 * self.num_malicious_nodes + 3, why


class QFedAvgOptions(Options):
    """Li et al. 2020 (arXiv 1905.10497): hospitals with a higher training loss weigh more; 0 weighs all the same.

    The paper's Lipschitz constant is 1 / learning rate, and that is training.optimizer.lr: how far plain SGD goes is a
    gradient only by it. The normalisation counts every number, so statistics of BatchNorm are averaged beside it.
    """

    takes: ClassVar[Takes] = "all"
    makes_statistics: ClassVar[bool] = False
    q: Annotated[float, Field(ge=0.0, le=10.0)] = 0.1


class GeometricMedianOptions(Options):
    """Pillutla et al. 2022 (arXiv 1912.13445): the point with the least sum of distances, weighted by patients."""

    takes: ClassVar[Takes] = "all"
    nu: Positive = 1e-6  # smoothing: distances below it count as it; the paper's value

    def least_sites(self) -> tuple[int, str]:
        """Of two updates the heavier one is the geometric median."""
        return 3, "the geometric median of fewer hospitals protects from none of them (Pillutla et al. 2022)"


class NormClippedMeanOptions(Options):
    """Sun et al. 2019 (arXiv 1911.07963): the mean of updates that are scaled down to a largest L2 norm."""

    takes: ClassVar[Takes] = "all"
    max_norm: Positive | None = None  # None: the median of the round's norms


class ScaffoldOptions(Options):
    """Karimireddy et al. 2020 (arXiv 1910.06378), option II: control variates correct every local step."""

    eta: Positive = 1.0  # the hub's learning rate, the paper's eta_g


class FedBNOptions(Options):
    """None: the mean of everything but the BatchNorm layers, which stay at their site (Li et al. 2021, 2102.07623)."""


class DittoOptions(Options):
    """Li et al. 2021 (arXiv 2012.04221): beside the common model, each site keeps one of its own, held to the common.

    0.1 is one of the values the paper tunes over (0.05, 0.1, 0.2; 0.1, 1, 2).
    """

    proximal_lambda: Annotated[float, Field(ge=0.0)] = 0.1


OPTIONS: Mapping[str, type[Options]] = {
    "fedavg": FedAvgOptions,
    "fedavgm": FedAvgMOptions,
    "fedprox": FedProxOptions,
    "fedadagrad": FedAdagradOptions,
    "fedadam": FedAdamOptions,
    "fedyogi": FedYogiOptions,
    "fedmedian": FedMedianOptions,
    "fedtrimmedavg": FedTrimmedAvgOptions,
    "krum": KrumOptions,
    "multikrum": MultiKrumOptions,
    "bulyan": BulyanOptions,
    "qfedavg": QFedAvgOptions,
    "scaffold": ScaffoldOptions,
    "fedbn": FedBNOptions,
    "ditto": DittoOptions,
    "geometric-median": GeometricMedianOptions,
    "norm-clipped-mean": NormClippedMeanOptions,
}
SHIPPED = tuple(OPTIONS)  # no plug-in replaces one of these


def plug_ins() -> list[str]:
    """The names of the installed plug-ins."""
    return [point.name for point in entry_points(group=ENTRY_POINTS) if point.name not in OPTIONS]


def _known(name: str) -> str:
    if name in OPTIONS:
        return name
    installed = plug_ins()
    known = [*OPTIONS, *sorted(set(installed))]
    if installed.count(name) > 1:
        reason = "is the name of more than one installed plug-in; uninstall all but one"
    elif name not in installed:
        reason = f"must be one of {', '.join(known)}, or an installed plug-in{near(name, known)}"
    else:
        return name
    raise PydanticCustomError("study_rule", "{reason}", {"reason": reason})


def _enough_sites(name: str, min_sites: int, options: Mapping[str, float]) -> Iterator[Fault]:
    """The quorum is the least that a round is aggregated from: what a rule promises must hold for it."""
    if name not in OPTIONS:
        return
    try:
        least, why = OPTIONS[name].model_validate(options).least_sites()
    except ValidationError:  # told at its own key
        return
    if min_sites < least:
        yield Fault(("min_sites",), f"must be at least {least}: {why}")


def _quorum(quorum: Literal["all"] | int, min_sites: int) -> Iterator[Fault]:
    if quorum != "all" and quorum < min_sites:
        yield Fault(("quorum",), f'must be at least min_sites, which is {min_sites}, or "all"')


# Those that compare sites' updates value by value: they need whole updates, not each site's largest values.
COMPARE_COORDINATES = frozenset({"bulyan", "fedmedian", "fedtrimmedavg", "krum", "multikrum"})


class Strategy(Section):
    """[strategy]: how updates become the next model; `options` go to the strategy of that name."""

    name: Annotated[
        str, Field(max_length=MAX_NAME, description="the name of a strategy in quotes"), AfterValidator(_known)
    ] = "fedavg"
    min_sites: Annotated[int, Field(ge=1, le=10_000)] = 2  # with fewer updates there is no next model
    quorum: Annotated[  # a round ends as soon as so many updates are there
        Literal["all"] | Annotated[int, Field(ge=1, le=10_000)],
        Field(description='"all", or the number of updates with which a round ends'),
    ] = "all"
    round_deadline_s: Positive = 600.0
    deadline: Literal["adaptive", "fixed"] = "adaptive"  # fixed: every site has round_deadline_s, dead or alive
    max_update_norm: Positive | None = None  # an update with a larger L2 norm is refused
    min_cosine: Annotated[float, Field(ge=-1.0, lt=1.0)] | None = None  # to the other updates' mean direction
    options: dict[str, Annotated[Whole | float, Field(description="a number")]] = Field(
        default={}, validate_default=True
    )

    rules = (Rule(("name", "min_sites", "options"), _enough_sites), Rule(("quorum", "min_sites"), _quorum))

    @property
    def takes(self) -> Takes:
        """What the strategy is given of a round; plug-ins say so themselves, see fedward_server.strategies."""
        return OPTIONS[self.name].takes if self.name in OPTIONS else "all"

    @field_validator("options")
    @classmethod
    def _resolve_options(cls, options: dict[str, float], info: ValidationInfo) -> dict[str, float]:
        """The options of the named strategy, its defaults filled in, so that the digest covers them."""
        kind = OPTIONS.get(info.data.get("name", ""))
        if kind is None:
            return options
        try:
            return kind.model_validate(options).model_dump(exclude_none=True)
        except ValidationError as error:
            refuse(cls.__name__, explain(error, options, kind.model_json_schema()))
            raise
