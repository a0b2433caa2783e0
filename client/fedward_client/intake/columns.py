"""What the columns of a table are (`TableMap`), and what a cell of each comes to. Pure: text in, numbers out."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from functools import cached_property, lru_cache
from math import isnan, nan
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from fedward_client.intake.delimited import TextFormat
from fedward_common import compounds, dna
from fedward_common.errors import SettingsError
from fedward_common.study_subgroups import YEARS

STRANGERS = ConfigDict(extra="forbid")  # keys that are not settings
_WHOLE = re.compile(r"([+-]?[0-9]+)\.0*")


Described = TypeVar("Described")


class BadRow(Exception):  # noqa: N818 - named for what it is; it never leaves the reader of tables
    """A row cannot be used. Its message names the column, and not what stands there."""


def plain(cell: str) -> str:
    """A cell without the decimals of a whole number: "1.0" and "1" are one level, "01" is another."""
    whole = _WHOLE.fullmatch(cell)
    return whole[1] if whole else cell


@dataclass(frozen=True, kw_only=True)
class Numeric:
    """A column of numbers, one feature."""

    kind: Literal["numeric"] = "numeric"
    column: str
    missing: tuple[str, ...] | None = None  # how the site writes a missing value; None: as in the rest of the table

    __pydantic_config__: ClassVar[ConfigDict] = STRANGERS

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its features."""
        return (self.column,)

    def values(self, cell: str, text: TextFormat) -> tuple[float, ...]:
        """Its features. Raises BadRow."""
        try:
            return (text.number(cell),)
        except ValueError:
            raise BadRow(f"column '{self.column}' holds no number") from None


@dataclass(frozen=True, kw_only=True)
class Category:
    """A column of levels, one feature for each: 1 where it is the row's, else 0."""

    kind: Literal["category"] = "category"
    column: str
    levels: tuple[str, ...]
    missing: tuple[str, ...] | None = None

    __pydantic_config__: ClassVar[ConfigDict] = STRANGERS

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its features: column=level."""
        return tuple(f"{self.column}={level}" for level in self.levels)

    @cached_property
    def _plain_levels(self) -> tuple[str, ...]:
        return tuple(map(plain, self.levels))

    def values(self, cell: str, _text: TextFormat) -> tuple[float, ...]:
        """Its features. Raises BadRow."""
        level = plain(cell)
        found = tuple(float(level == one) for one in self._plain_levels)
        if not any(found):
            raise BadRow(f"column '{self.column}' holds a level that the map does not list")
        return found


@dataclass(frozen=True, kw_only=True)
class Date:
    """A column of dates, one feature: days since `origin`. `form` is that of strptime."""

    kind: Literal["date"] = "date"
    column: str
    origin: date
    form: str = "%Y-%m-%d"
    missing: tuple[str, ...] | None = None

    __pydantic_config__: ClassVar[ConfigDict] = STRANGERS

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its features."""
        return (self.column,)

    def values(self, cell: str, _text: TextFormat) -> tuple[float, ...]:
        """Its features. Raises BadRow."""
        try:
            found = datetime.strptime(cell, self.form).date()
        except ValueError:
            raise BadRow(f"column '{self.column}' holds no date of the form {self.form}") from None
        return (float((found - self.origin).days),)


@dataclass(frozen=True, kw_only=True)
class DnaSequence:
    """A column of DNA, one feature for each of the `length` bases around its middle; beyond its ends they are N."""

    kind: Literal["sequence"] = "sequence"
    column: str
    length: Annotated[int, Field(ge=8, le=dna.MAX_LENGTH)]
    missing: tuple[str, ...] | None = None

    __pydantic_config__: ClassVar[ConfigDict] = STRANGERS

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of its features: column[place], from the middle."""
        return dna.names(self.column, self.length)

    def values(self, cell: str, _text: TextFormat) -> tuple[float, ...]:
        """Its features, `dna.codes`. Raises BadRow."""
        try:
            return dna.codes(cell, self.length)
        except ValueError:
            raise BadRow(f"column '{self.column}' holds letters other than A, C, G, T and N") from None


@dataclass(frozen=True, kw_only=True)
class Compound:
    """A column of compounds written as SMILES, one feature for each bit of their fingerprint."""

    kind: Literal["compound"] = "compound"
    column: str
    radius: Annotated[int, Field(ge=1, le=compounds.MAX_RADIUS)] = 2
    bits: Annotated[int, Field(ge=64, le=compounds.MAX_BITS)] = 1024
    missing: tuple[str, ...] | None = None

    __pydantic_config__: ClassVar[ConfigDict] = STRANGERS

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of its features (`compounds.names`)."""
        return compounds.names(self.column, self.radius, self.bits)

    def values(self, cell: str, _text: TextFormat) -> tuple[float, ...]:
        """Its bits. Raises BadRow."""
        try:
            return compounds.fingerprint(cell, self.radius, self.bits)
        except ValueError:
            raise BadRow(f"column '{self.column}' holds a compound that is no SMILES, or too long a one") from None


Feature = Annotated[Numeric | Category | Date | DnaSequence | Compound, Field(discriminator="kind")]


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """Two classes of a number: `below` the `value`, and `above` from it on."""

    value: Annotated[float, Field(strict=True, allow_inf_nan=False)]
    below: str
    above: str

    __pydantic_config__: ClassVar[ConfigDict] = STRANGERS

    def __post_init__(self) -> None:
        if self.below == self.above:
            raise SettingsError("a threshold has two classes: give above another name than below")


@dataclass(frozen=True, kw_only=True)
class Target:
    """The column to be predicted: `classes` of its levels, or of numbers by a `threshold`; else it is a number."""

    column: str
    classes: Mapping[str, str] | None = None
    threshold: Threshold | None = None
    missing: tuple[str, ...] | None = None

    __pydantic_config__: ClassVar[ConfigDict] = STRANGERS

    def __post_init__(self) -> None:
        if self.classes is not None and self.threshold is not None:
            raise SettingsError("a target has classes of its levels or a threshold, not both")

    def value(self, cell: str, text: TextFormat) -> str:
        """Its class, or its number as text. Raises BadRow."""
        if self.threshold is not None:
            (number,) = Numeric(column=self.column).values(cell, text)
            return self.threshold.below if number < self.threshold.value else self.threshold.above
        if self.classes is None:
            return repr(*Numeric(column=self.column).values(cell, text))
        for alike in (plain, lambda text: plain(text).casefold()):
            named = {name for level, name in self.classes.items() if alike(level) == alike(cell)}
            if len(named) == 1:
                return named.pop()
        raise BadRow(f"its target, column '{self.column}', is of no class that the map lists")


@dataclass(frozen=True, kw_only=True)
class Sex:
    """The column of patients' sex, and what each of its words means; of any other word it is not known."""

    column: str
    words: Mapping[str, Literal["F", "M", "O"]]

    __pydantic_config__: ClassVar[ConfigDict] = STRANGERS

    @cached_property
    def _plain_words(self) -> dict[str, str]:
        return {plain(word): sex for word, sex in self.words.items()}

    def value(self, cell: str) -> str:
        """What its word means, "" where that is not known."""
        return self._plain_words.get(plain(cell), "")


def years_of(cell: str, text: TextFormat) -> int | None:
    """The age that a cell holds in whole years, of the last age band the least; None where it holds none."""
    try:
        years = text.number(cell)
    except ValueError:
        return None
    return min(int(years), YEARS[-1]) if years >= 0 else None


@dataclass(frozen=True, kw_only=True)
class TableMap:
    """What the columns of a table are; `columns` are their names where the first row has none.

    `missing` are the texts that stand for a missing value, where a column has none of its own; a number stands for
    itself however it is written ("-9" for "-9.0").
    """

    features: tuple[Feature, ...]
    target: Target | None = None
    time: str | None = (
        None  # the column of follow-up: how long a patient was observed, until the target happened or not
    )
    patient: str | None = None
    sex: Sex | None = None  # with `age`, the column of whole years: the groups by which a study's figures are told too
    age: str | None = None
    columns: tuple[str, ...] | None = None
    missing: tuple[str, ...] = ("", "NA")
    text: TextFormat = field(default_factory=TextFormat)

    __pydantic_config__: ClassVar[ConfigDict] = STRANGERS

    def __post_init__(self) -> None:
        if not self.features or len(set(self.names)) < len(self.names):
            raise SettingsError("a map of a table needs features, each of another name")

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "TableMap":
        """The map that TOML describes. Raises SettingsError with the key and what is wrong."""
        return described(_adapter(), settings, "a table")

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of all features, in their order."""
        return tuple(name for feature in self.features for name in feature.names)

    @cached_property
    def feature_columns(self) -> tuple[str, ...]:
        """The columns of the features, in their order."""
        return tuple(feature.column for feature in self.features)

    @cached_property
    def wanted(self) -> tuple[str, ...]:
        """The columns that a table must have."""
        target, sex = (None if each is None else each.column for each in (self.target, self.sex))
        more = filter(None, (self.patient, target, self.time, sex, self.age))
        return tuple(dict.fromkeys([*self.feature_columns, *more]))

    def values(self, row: Mapping[str, str]) -> tuple[list[float], list[str]]:
        """A row's features, NaN where they are missing, and the columns where they are. Raises BadRow."""
        values, absent = [], []
        for feature in self.features:
            if self._is_missing(row[feature.column], feature.missing):
                values += [nan] * len(feature.names)
                absent.append(feature.column)
            else:
                values += feature.values(row[feature.column], self.text)
        return values, absent

    def missing_in(self, values: Sequence[float]) -> tuple[str, ...]:
        """The features that are missing in a row, by name.

        The middle one of all bases or bits stands for them: any study that takes one of them takes that one.
        """
        found, start = list[str](), 0
        for feature in self.features:
            if isnan(values[start]):
                middle = len(feature.names) // 2
                wide = isinstance(feature, DnaSequence | Compound)
                found += feature.names[middle : middle + 1] if wide else feature.names
            start += len(feature.names)
        return tuple(found)

    def target_of(self, row: Mapping[str, str]) -> tuple[str, ...]:
        """A row's target, () where the map has none, "" where the row has none. Raises BadRow."""
        if self.target is None:
            return ()
        if self._is_missing(row[self.target.column], self.target.missing):
            return ("",)
        return (self.target.value(row[self.target.column], self.text),)

    def time_of(self, row: Mapping[str, str]) -> float:
        """How long a row's patient was followed, NaN where neither the map nor the row says. Raises BadRow."""
        if self.time is None or self._is_missing(row[self.time], None):
            return nan
        (found,) = Numeric(column=self.time).values(row[self.time], self.text)
        if found < 0:
            raise BadRow(f"column '{self.time}' holds a negative time of follow-up")
        return found

    def sex_of(self, row: Mapping[str, str]) -> tuple[str, ...]:
        """One of "F", "M", "O", "" where it is not known; () where the map does not say."""
        return () if self.sex is None else (self.sex.value(row[self.sex.column]),)

    def age_of(self, row: Mapping[str, str]) -> tuple[int | None, ...]:
        """As `years_of`, None also where the map says that it is missing; () where the map has no column of ages."""
        if self.age is None:
            return ()
        return (None if self._is_missing(row[self.age], None) else years_of(row[self.age], self.text),)

    def patient_of(self, row: Mapping[str, str], number: int) -> str:
        """Whose row it is. Raises BadRow where that is missing."""
        if self.patient is None:
            return f"row {number}"
        if self._is_missing(row[self.patient], None):
            raise BadRow("it names no patient")
        return row[self.patient]

    def _is_missing(self, cell: str, own: tuple[str, ...] | None) -> bool:
        return plain(cell) in _plain(self.missing if own is None else own)


def described(adapter: TypeAdapter[Described], settings: Mapping[str, Any], what: str) -> Described:
    """The map of columns that TOML describes. Raises SettingsError with the key and what is wrong."""
    try:
        return adapter.validate_python(settings)
    except ValidationError as error:
        first: Any = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise SettingsError(f"the map of {what}'s columns is wrong at '{where}': {first['msg']}") from None


@lru_cache
def _plain(cells: tuple[str, ...]) -> frozenset[str]:
    return frozenset(map(plain, cells))


@lru_cache
def _adapter() -> TypeAdapter[TableMap]:
    return TypeAdapter(TableMap)
