"""One scale for the features of every hospital's table, from sums. Pure functions.

Each feature's mean becomes 0 and its standard deviation 1, over the training patients of all sites; a value that is
missing becomes 0. Features that a study names for ComBat are first freed of what each hospital adds (`combat`). A
patient's rows count as one, with their mean.

    site:  sums = site_sums(values, patients, section, min_cell=5)     what travels
    hub:   scale = fit({"north": sums_of_north, "south": …}, section)  what travels back
    site:  scaled(values, section.on_scale(scale), "north")
"""

from collections.abc import Mapping
from itertools import chain
from typing import Annotated, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationError, model_validator

from fedward_common import combat
from fedward_common.combat import CombatSums, smallest_of_two
from fedward_common.errors import DataError, RecordError, RunError
from fedward_common.feature_statistics import levels_kept_home
from fedward_common.metrics.base import MAX_PATIENTS, Floats, Record
from fedward_common.study_table import MAX_FEATURES, CombatModel, FeatureScale, TableInput

LARGEST = 3.5e38  # that a feature can be: they are float32
Row = Annotated[tuple[Annotated[float, Field(ge=-LARGEST, le=LARGEST)], ...], Field(max_length=MAX_FEATURES)]


class FeatureSums(Record):
    """A site's sums over its training patients, for each of G features; `combat` of those that a study names for it.

    `known` [G] are the patients whose value is known, 0 for a feature whose sums stay home; `squares` [G] are about the
    site's own `mean` [G].
    """

    known: Annotated[
        tuple[Annotated[int, Field(ge=0, le=MAX_PATIENTS)], ...], Field(min_length=1, max_length=MAX_FEATURES)
    ]
    mean: Row
    squares: Annotated[
        tuple[Annotated[float, Field(ge=0.0, le=MAX_PATIENTS * LARGEST**2)], ...], Field(max_length=MAX_FEATURES)
    ]
    combat: CombatSums | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not len(self.known) == len(self.mean) == len(self.squares):
            raise ValueError("sums are a count, a mean and squares for each feature")
        return self


def site_sums(values: npt.ArrayLike, patients: npt.ArrayLike, section: TableInput, *, min_cell: int) -> FeatureSums:
    """A site's sums of `values` [rows, G], NaN where one is missing; `patients` [rows] say whose a row is.

    The small-cell rule: of a feature that fewer than `min_cell` patients have, or one of two values of which fewer have
    one, nothing leaves; where fewer lack it, it counts as known of all. What ComBat looks at is in its sums alone: they
    are over those of whom all of it is known, and beside other sums would tell the rest. Levels of a column are told
    together or not at all (`feature_statistics.levels_kept_home`). Raises DataError where there
    are fewer than `min_cell` patients, or ComBat's sums may not leave (`combat.site_sums`).
    """
    table, least = by_patient(values, patients), max(min_cell, 1)
    if len(table) < least:
        raise DataError(
            f"fewer than {least} training patients have a row, and sums over so few stay home ([privacy] min_cell): "
            "leave this hospital out of the measuring, it can use the scale"
        )
    known = [_told(column[np.isfinite(column)], len(table), least) for column in table.T]
    kept_home = levels_kept_home(dict(zip(section.features, table.T, strict=True)), min_cell=least)
    levels = [index for index, name in enumerate(section.features) if name in kept_home]
    for index in chain(*section.positions, levels):
        known[index] = 0
    shown = [
        column[np.isfinite(column)] if count else np.zeros(1) for column, count in zip(table.T, known, strict=True)
    ]
    return FeatureSums(
        known=tuple(known),
        mean=tuple(float(column.mean()) for column in shown),
        squares=tuple(float(((column - column.mean()) ** 2).sum()) for column in shown),
        combat=_combat_sums(table, section, min_cell) if section.combat else None,
    )


def by_patient(values: npt.ArrayLike, patients: npt.ArrayLike) -> Floats:
    """The mean of each patient's rows [patients, G] of what is known; patients in ascending order."""
    table = np.asarray(values, dtype=np.float64)
    names, whose = np.unique(np.asarray(patients), return_inverse=True)
    known = np.isfinite(table)
    sums, counts = np.zeros((len(names), table.shape[1])), np.zeros((len(names), table.shape[1]))
    np.add.at(sums, whose, np.where(known, table, 0.0))
    np.add.at(counts, whose, known)
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)


def _told(values: Floats, patients: int, least: int) -> int:
    """Of how many patients a feature's sums say they are; 0 where they stay home."""
    if len(values) < least or smallest_of_two(values) < least:
        return 0
    return patients if patients - len(values) < least else len(values)


def _combat_sums(table: Floats, section: TableInput, min_cell: int) -> CombatSums:
    """Of the patients of whom everything is known that ComBat looks at."""
    features, covariates = section.positions
    whole = table[np.isfinite(table[:, features + covariates]).all(axis=1)]
    return combat.site_sums(whole[:, features], whole[:, covariates], min_cell=min_cell)


def fit(sums: Mapping[str, FeatureSums], section: TableInput) -> FeatureScale:
    """The scale of the sites that sent `sums`, by name. The order of the sites makes no difference.

    A feature of which no site tells anything keeps its values; one that is the same everywhere becomes 0. Raises
    RunError without a site or where sums are beyond all measure, RecordError where they are of other features, and what
    `combat.fit` raises.
    """
    try:
        with np.errstate(all="ignore"):  # what comes to no number is refused
            return _fit(sums, section)
    except (ValidationError, np.linalg.LinAlgError):
        raise RunError(
            "the sums that hospitals sent give no scale: one of them is beyond all measure; look at the features' "
            "units in each hospital's map of columns"
        ) from None


def _fit(sums: Mapping[str, FeatureSums], section: TableInput) -> FeatureScale:
    parts = [sums[name] for name in sorted(sums)]
    if not parts:
        raise RunError(
            "no hospital sent sums of its features, so there is no scale: ask at least one with enough patients"
        )
    if any(len(part.known) != section.channels or (part.combat is None) == bool(section.combat) for part in parts):
        raise RecordError("a site's sums are of other features than the study's")
    known = np.array([part.known for part in parts], dtype=np.float64)
    centre, spread = _pooled(known, np.array([part.mean for part in parts]), np.array([part.squares for part in parts]))
    model = None
    if section.combat:
        held = {name: part for name in sorted(sums) if (part := sums[name].combat) is not None}
        model = combat.fit(held)
        features, covariates = section.positions
        centre[covariates], spread[covariates] = _of_covariates(list(held.values()))
        centre[features], spread[features] = _after_combat(model, centre[covariates], list(held.values()))
    return FeatureScale(
        centre=tuple(centre.tolist()), spread=tuple(np.where(spread > 0, spread, 1.0).tolist()), combat=model
    )


def _pooled(known: Floats, means: Floats, squares: Floats) -> tuple[Floats, Floats]:
    """The mean and the deviation [G] of all sites' patients; `known`, `means` and `squares` are [sites, G]."""
    some = np.maximum(known.sum(axis=0), 1.0)
    centre = (known * means).sum(axis=0) / some
    spread = np.sqrt((np.where(known > 0, squares, 0.0) + known * (means - centre) ** 2).sum(axis=0) / some)
    return centre, spread


def _of_covariates(parts: list[CombatSums]) -> tuple[Floats, Floats]:
    shape = (len(parts), len(parts[0].x_mean))
    known = np.repeat([[float(part.patients)] for part in parts], shape[1], axis=1)
    squares = np.array([np.diag(np.array(part.xx).reshape(shape[1], shape[1])) for part in parts])
    return _pooled(known, np.array([part.x_mean for part in parts]).reshape(shape), squares.reshape(shape))


def _after_combat(model: CombatModel, covariates: Floats, parts: list[CombatSums]) -> tuple[Floats, Floats]:
    """The mean and the deviation of ComBat's features without what the sites add: covariates vary them still."""
    patients = sum(part.patients for part in parts)
    beta = np.array(model.beta).reshape(len(covariates), len(model.alpha))
    return np.array(model.alpha) + covariates @ beta, np.sqrt(np.sum([part.yy for part in parts], axis=0) / patients)


def scaled(values: npt.ArrayLike, section: TableInput, site: str) -> npt.NDArray[np.float32]:
    """A site's `values` [rows, G] on the scale of `section`, as float32 [rows, G] without NaN.

    Raises DataError where the scale is not measured yet, or ComBat was fitted without this site.
    """
    scale = section.scale
    if scale is None:
        raise DataError("the scale of the study's features is not measured yet: give [input] scale")
    table = np.array(values, dtype=np.float64).reshape(-1, section.channels)
    centre, spread = np.array(scale.centre), np.array(scale.spread)
    if scale.combat is not None:
        features, covariates = section.positions
        known = np.isfinite(table)
        filled = np.where(known, table, centre)
        freed = combat.harmonised(filled[:, features], filled[:, covariates], scale.combat, site)
        table[:, features] = np.where(known[:, features], freed, np.nan)
    found: npt.NDArray[np.float32] = np.nan_to_num((table - centre) / spread, nan=0.0).astype(np.float32)
    return found
