"""[input] kind = "table": how a row of a hospital's table becomes numbers that mean the same everywhere.

What a column is, and how a hospital writes it, its own map says; a study names features. Before round 1 its sites
measure one scale together, from sums: each feature's mean and deviation, and, where the study asks for it, what every
hospital's device adds to some features (ComBat; see `fedward_common.combat`).
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from fedward_common.study_faults import Fault, near
from fedward_common.study_section import Positive, Rule, Section, Slug

MAX_FEATURES = 4096

Name = Annotated[str, Field(min_length=1, max_length=256)]
Row = tuple[float, ...]
Table = tuple[Row, ...]


class SiteEffect(Section):
    """What a site adds, for each feature: `gamma` [G] and `delta` [G] (a variance), in units of sigma and sigma^2."""

    gamma: Row
    delta: tuple[Positive, ...]


class CombatModel(Section):
    """What `combat.fit` found: `alpha` [G], `beta` [p, G], `sigma` [G] of all sites, each site's effect by its name."""

    alpha: Row
    beta: Table
    sigma: tuple[Positive, ...]
    sites: dict[Slug, SiteEffect]


class FeatureScale(Section):
    """The scale of a table: what of each feature becomes 0 and 1, after `combat` where the study asks for it."""

    centre: Row
    spread: tuple[Positive, ...]
    combat: CombatModel | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(self.centre) != len(self.spread):
            raise ValueError("a scale has a centre and a spread for each feature")
        return self


def _once(key: str) -> Rule:
    def check(names: tuple[str, ...]) -> Iterator[Fault]:
        if len(set(names)) < len(names):
            yield Fault((key,), "names one feature twice; name each once")

    return Rule((key,), check)


def _combat(combat: tuple[str, ...], covariates: tuple[str, ...], features: tuple[str, ...]) -> Iterator[Fault]:
    for key, names in (("combat", combat), ("covariates", covariates)):
        for index, name in enumerate(names):
            if name not in features:
                yield Fault((key, index), f"must be one of the features{near(name, features)}")
    if len(combat) == 1:
        yield Fault(("combat",), "must name at least two features: ComBat learns from many at once")
    if both := sorted(set(combat) & set(covariates)):
        yield Fault(("covariates",), f'holds "{both[0]}", which combat changes; a covariate is left as it is')
    if covariates and not combat:
        yield Fault(("covariates",), "has no effect without combat; remove it, or name the features for combat")


def _scale(scale: FeatureScale | None, features: tuple[str, ...], combat: tuple[str, ...]) -> Iterator[Fault]:
    if scale is None:
        return
    if len(scale.centre) != len(features):
        yield Fault(("scale", "centre"), f"must be {len(features)} numbers, one for each feature")
    if (scale.combat is not None) != bool(combat):
        yield Fault(("scale", "combat"), "is there exactly where [input] combat names features")
    elif (model := scale.combat) is not None:
        effects = [row for site in model.sites.values() for row in (site.gamma, site.delta)]
        if any(len(row) != len(combat) for row in (model.alpha, model.sigma, *model.beta, *effects)):
            yield Fault(("scale", "combat"), f"must have {len(combat)} numbers in each row, one a feature of combat")


class TableInput(Section):
    """[input] of tables: `features` by the names that the sites' maps of columns give them."""

    kind: Literal["table"]
    features: Annotated[tuple[Name, ...], Field(min_length=1, max_length=MAX_FEATURES)]
    missing: Literal["mean", "leave-out"] = "mean"  # a missing value is the mean's; or its row takes no part
    combat: tuple[Name, ...] = ()  # features that every hospital's device shifts and scales in its own way
    covariates: tuple[Name, ...] = ()  # features whose effect on those ComBat keeps, age for example
    scale: FeatureScale | None = None  # None: measured before round 1

    rules = (
        _once("features"),
        _once("combat"),
        _once("covariates"),
        Rule(("combat", "covariates", "features"), _combat),
        Rule(("scale", "features", "combat"), _scale),
    )

    @property
    def size(self) -> tuple[int, ...]:
        """A row has no extent."""
        return ()

    @property
    def channels(self) -> int:
        """How many features."""
        return len(self.features)

    @property
    def measures_scale(self) -> bool:
        """Whether the sites of a run measure the scale before its first round."""
        return self.scale is None

    @property
    def positions(self) -> tuple[list[int], list[int]]:
        """Where the features of `combat` and of `covariates` are among the features."""
        place: Mapping[str, Any] = {name: index for index, name in enumerate(self.features)}
        return [place[name] for name in self.combat], [place[name] for name in self.covariates]

    def on_scale(self, scale: object | None) -> "TableInput":
        """The same with a scale that was measured, checked as a study's own is; None leaves it as it is."""
        if scale is None:
            return self
        if not isinstance(scale, FeatureScale):
            raise ValueError("a table's scale is that of its features")  # noqa: TRY004 - of a message, as pydantic's
        return TableInput.model_validate({**dict(self), "scale": scale})
