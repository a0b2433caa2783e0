"""What the sections of a study have in common: types of values, and how a section refuses."""

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, ClassVar, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fedward_common.study_faults import Fault, refuse

Slug = Annotated[
    str,
    Field(
        pattern=r"^[a-z0-9][a-z0-9-]{0,62}$",
        description="1 to 63 lower-case letters, digits and hyphens, the first of them no hyphen",
    ),
]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0, le=3.4e38)]  # networks reckon in float32
Fingerprint = Annotated[
    str, Field(pattern=r"^[0-9a-f]{64}$", description="a SHA-256 of 64 lower-case hexadecimal digits")
]
RunId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
Version = Annotated[str, Field(pattern=r"^[0-9A-Za-z.+!_-]{1,64}$")]  # of Fedward, as an installation calls itself
OptionValue = bool | Annotated[int, Field(gt=-(2**53), lt=2**53)] | float | str | tuple[int, ...]


class Rule(NamedTuple):
    """A combination that cannot work: the keys that it looks at, and what it says of their values."""

    needs: tuple[str, ...]
    check: Callable[..., Iterator[Fault]]


def only_with(key: str, default: object, other: str, value: str) -> Rule:
    """The rule that a key with no meaning unless `other` is `value` keeps its default elsewhere."""

    def check(given: object, selector: str) -> Iterator[Fault]:
        if selector != value and given != default:
            yield Fault((key,), f'has no effect without {other} = "{value}"; remove it, or set {other} = "{value}"')

    return Rule((key, other), check)


class Section(BaseModel):
    """Frozen; an unknown key is refused; no number is read from a string; a combination that cannot work is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    rules: ClassVar[tuple[Rule, ...]] = ()

    @classmethod
    def faults(cls, values: Mapping[str, Any]) -> Iterator[Fault]:
        """What is wrong between values that are each valid; a rule that looks at a key not given is skipped."""
        for rule in cls.rules:
            if values.keys() >= set(rule.needs):
                yield from rule.check(*(values[key] for key in rule.needs))

    @model_validator(mode="after")
    def _refuse_faults(self) -> Self:
        refuse(type(self).__name__, self.faults(dict(self)))
        return self


class Unscaled(Section):
    """An [input] for which sites measure no scale together: an example is scaled by itself, or not at all."""

    @property
    def measures_scale(self) -> bool:
        """Never."""
        return False

    def on_scale(self, scale: object | None) -> Self:
        """The same: there is no scale. Raises ValueError where one is given."""
        if scale is not None:
            raise ValueError(f"{type(self).__name__} has no scale that sites measure")
        return self
