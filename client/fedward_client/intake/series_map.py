"""What the columns of a series in a CSV file are (`SeriesMap`). Values only."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar, Literal

from pydantic import TypeAdapter

from fedward_client.intake.columns import STRANGERS, described
from fedward_client.intake.delimited import TextFormat
from fedward_common.errors import SettingsError


@dataclass(frozen=True, kw_only=True, slots=True)
class Channel:
    """One signal of a device and the unit of its values: g, mg, N."""

    name: str
    unit: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SeriesMap:
    """What the columns of a CSV file are, by their names in the first row, or in `columns` where that has no names.

    `time_unit` iso is ISO 8601, UTC where it names no zone. `annotations` says by the text of the annotation column
    what a sample is: 1 to 127, or 0 where it is outside the experiment. Raises SettingsError for a map that is none.
    """

    channels: Mapping[str, Channel]  # by column
    rate_hz: float
    time: str | None = None
    time_unit: Literal["s", "ms", "us", "ns", "iso"] = "s"
    annotation: str | None = None
    annotations: Mapping[str, int] = field(default_factory=dict)
    columns: tuple[str, ...] | None = None
    text: TextFormat = field(default_factory=TextFormat)

    __pydantic_config__: ClassVar[Any] = STRANGERS

    def __post_init__(self) -> None:
        if not self.channels or not self.rate_hz > 0:
            raise SettingsError("a map of a series' columns needs channels and a rate_hz above 0")
        if not all(0 <= value <= 127 for value in self.annotations.values()):
            raise SettingsError("annotations are 1 to 127, or 0 for what is outside the experiment")

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "SeriesMap":
        """The map that TOML describes. Raises SettingsError with the key and what is wrong."""
        return described(_adapter(), settings, "a series")

    @property
    def words(self) -> dict[int, str]:
        """What the numbers of annotations say: of several texts for one the first."""
        return {value: text for text, value in reversed(list(self.annotations.items())) if value}


@lru_cache
def _adapter() -> TypeAdapter[SeriesMap]:
    return TypeAdapter(SeriesMap)
