"""Federated ComBat: what a site adds to features is removed, what covariates explain stays. Pure functions, sums only.

Model, of Johnson, Li and Rabinovic 2007 ("Adjusting batch effects in microarray expression data using empirical Bayes
methods", Biostatistics 8(1):118-127): feature g of patient j at site i is

    y = alpha_g + x beta_g + gamma_ig + delta_ig e,    e with variance sigma_g^2

with empirical Bayes estimates of the site's shift gamma and scale delta (parametric priors: normal, inverse gamma).
Distributed as in Chen et al. 2022 ("Privacy-preserving harmonization via distributed ComBat", NeuroImage 248:118822),
but in one message instead of two: sums that are centred at the site give the regression with an intercept a site
(Frisch and Waugh), the residuals' variances, and with them all that the empirical Bayes step asks for.

    site:  sums = site_sums(features, covariates, min_cell=5)          what travels
    hub:   model = fit({"north": sums_of_north, "south": …})           what travels back
    site:  harmonised(features, covariates, model, "north")

Features and covariates are per patient, a row a patient: a patient's images are averaged first. Sums of few patients
would tell patients, and so would those of a group that few are in: both are refused, see `site_sums`.
"""

from collections.abc import Mapping
from typing import Annotated, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from fedward_common.errors import DataError, RecordError, RunError
from fedward_common.metrics.base import MAX_PATIENTS, Floats, Record
from fedward_common.study_table import CombatModel, Row, SiteEffect, Table

TOLERANCE = 1e-12  # of a site's effects in units of sigma, between two steps of their iteration
MAX_STEPS = 10_000


class CombatSums(Record):
    """A site's sums over its patients, for p covariates and G features. "Centred" is less the site's own mean.

    As JSON: `{"patients": 40, "x_mean": […p], "y_mean": […G], "xx": [[…p]…p], "xy": [[…G]…p], "yy": […G]}`.
    """

    patients: Annotated[int, Field(ge=2, le=MAX_PATIENTS)]
    x_mean: Row
    y_mean: Annotated[Row, Field(min_length=2)]
    xx: Table  # [p, p] centred products of covariates
    xy: Table  # [p, G] centred products of covariates and features
    yy: tuple[Annotated[float, Field(ge=0.0)], ...]  # [G] centred squares of features

    @model_validator(mode="after")
    def _fits(self) -> Self:
        p, g = len(self.x_mean), len(self.y_mean)
        shapes = ([len(row) for row in self.xx], [len(row) for row in self.xy], len(self.yy))
        if shapes != ([p] * p, [g] * p, g):
            raise ValueError(f"{p} covariates and {g} features need sums of p x p, p x G and G numbers")
        return self


def site_sums(features: npt.ArrayLike, covariates: npt.ArrayLike | None = None, *, min_cell: int) -> CombatSums:
    """The sums of a site's `features` [patients, G] and `covariates` [patients, p] (None: there are none).

    Covariates are numbers; a category is a column of 0 and 1 for each level but one. Raises DataError, in words, where
    the site has fewer than `min_cell` patients more than covariates; where two-valued covariates make a group of fewer
    than `min_cell` patients, whose values the sums would tell, or a two-valued feature does, whose mean would count it;
    and for what is no table of at least two features and finite numbers.
    """
    y, x = _tables(features, covariates)
    _require_cells(x, max(min_cell, 2))
    if min((smallest_of_two(column) for column in y.T), default=len(y)) < max(min_cell, 2):
        raise DataError(
            f"a two-valued feature is one of them at fewer than {min_cell} patients, whom its mean would count "
            "([privacy] min_cell): leave it out, ComBat is for features that vary by degrees"
        )
    x_mean, y_mean = x.mean(axis=0), y.mean(axis=0)
    x, y = _centred(x), _centred(y)
    return CombatSums(
        patients=len(y),
        x_mean=tuple(x_mean.tolist()),
        y_mean=tuple(y_mean.tolist()),
        xx=_as_table(x.T @ x),
        xy=_as_table(x.T @ y),
        yy=tuple((y * y).sum(axis=0).tolist()),
    )


def _tables(features: npt.ArrayLike, covariates: npt.ArrayLike | None) -> tuple[Floats, Floats]:
    y = np.asarray(features, dtype=np.float64)
    if y.ndim != 2 or y.shape[1] < 2:
        raise DataError("ComBat learns from many features at once: give a table of at least two, a row a patient")
    x = np.zeros((len(y), 0)) if covariates is None else np.asarray(covariates, dtype=np.float64)
    if x.ndim != 2 or len(x) != len(y):
        raise DataError("covariates need a row for each patient's row of features, and a column each")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise DataError("a feature or covariate is missing or not finite: leave out its patient, or fill it in")
    return y, x


def smallest_of_two(column: Floats) -> int:
    """Of a column of two values how many have the rarer one; else how many there are in all."""
    kinds, counts = np.unique(column, return_counts=True)
    return int(counts.min()) if len(kinds) == 2 else len(column)


def _centred(table: Floats) -> Floats:
    """A table less the means of its columns; exactly 0 where a column has one value, which its mean may round off."""
    return np.where(np.ptp(table, axis=0) > 0, table - table.mean(axis=0), 0.0)


def _require_cells(x: Floats, min_cell: int) -> None:
    """The small-cell rule. A sum over x of a group of one, less the mean's share, is that patient's features."""
    if len(x) < min_cell + x.shape[1]:
        raise DataError(
            f"sums over so few patients stay home: with {x.shape[1]} covariates this hospital needs at least "
            f"{min_cell + x.shape[1]} patients ([privacy] min_cell); leave it out, or give fewer covariates"
        )
    coded = [column for column in x.T if len(np.unique(column)) == 2]
    if not coded:
        return
    _, sizes = np.unique(np.stack(coded, axis=1), axis=0, return_counts=True)
    if sizes.min() < min_cell:
        raise DataError(
            f"its two-valued covariates make a group of fewer than {min_cell} patients, whose features the sums would "
            "tell ([privacy] min_cell): leave out a covariate, or join two of its levels"
        )


def fit(sums: Mapping[str, CombatSums]) -> CombatModel:
    """ComBat of the sites that sent `sums`, by name. The order of the sites makes no difference.

    Raises RunError for fewer than two sites, RecordError where they differ in their features or covariates, and
    DataError where covariates cannot be told apart (by site effects, or from each other) or a feature does not vary.
    """
    names = sorted(sums)
    if len(names) < 2:
        raise RunError("ComBat compares sites and needs at least two of them")
    if len({(len(sums[name].x_mean), len(sums[name].y_mean)) for name in names}) > 1:
        raise RecordError("the sites' sums are of different features or covariates; agree on one list, in one order")
    beta = _coefficients([sums[name] for name in names])
    intercepts = {name: _y(sums[name]) - _x(sums[name]) @ beta for name in names}
    squares = {name: _residual_squares(sums[name], beta) for name in names}
    patients = sum(sums[name].patients for name in names)
    alpha = _total([sums[name].patients * intercepts[name] for name in names]) / patients
    variance = _total(list(squares.values())) / patients
    if not (variance > 0).all():
        raise DataError(f"feature {int(np.argmin(variance)) + 1} does not vary within any hospital: leave it out")
    sigma = np.sqrt(variance)
    effects = {
        name: _effect(name, (intercepts[name] - alpha) / sigma, squares[name] / variance, sums[name].patients)
        for name in names
    }
    return CombatModel(alpha=tuple(alpha.tolist()), beta=_as_table(beta), sigma=tuple(sigma.tolist()), sites=effects)


def _coefficients(parts: list[CombatSums]) -> Floats:
    """The beta [p, G] of the least-squares fit with an intercept for each site: the sites' centred products, added."""
    p, g = len(parts[0].x_mean), len(parts[0].y_mean)
    xx = _total([np.array(part.xx).reshape(p, p) for part in parts])
    xy = _total([np.array(part.xy).reshape(p, g) for part in parts])
    scales = np.sqrt(np.diag(xx))  # a covariate's unit must not decide
    if p and (not scales.all() or np.linalg.matrix_rank(xx / np.outer(scales, scales)) < p):
        raise DataError(
            "covariates cannot be told apart: one is the same for all patients of each hospital, or follows from the "
            "others; leave it out"
        )
    return np.asarray(np.linalg.solve(xx, xy), dtype=np.float64)


def _residual_squares(part: CombatSums, beta: Floats) -> Floats:
    """The squares [G] of a site's residuals, whose mean is 0 because the site has an intercept of its own."""
    p, g = beta.shape
    xx, xy = np.array(part.xx).reshape(p, p), np.array(part.xy).reshape(p, g)
    squares = np.array(part.yy) - 2 * (beta * xy).sum(axis=0) + (beta * (xx @ beta)).sum(axis=0)
    rounded: Floats = np.maximum(squares, 0.0)  # rounding may leave it below
    return rounded


def _effect(name: str, gamma_hat: Floats, squares: Floats, patients: int) -> SiteEffect:
    """A site's empirical Bayes estimates (Johnson et al. 2007, section 3.2): each feature learns from all others.

    `gamma_hat` [G] is the mean of the site's standardised features, `squares` [G] the sum of their squares around it.
    The two conditional means are iterated to their fixed point; the usual ComBat stops at a change of 1e-4.
    """
    if not squares.any():
        raise DataError(f"no feature varies within site {name}: leave it out")
    delta_hat = squares / (patients - 1)
    gamma_bar, tau2 = gamma_hat.mean(), gamma_hat.var(ddof=1)
    mean, spread = delta_hat.mean(), delta_hat.var(ddof=1)  # give the inverse gamma's parameters by its moments
    gamma, delta = gamma_hat, delta_hat
    for _ in range(MAX_STEPS):
        before = gamma, delta
        gamma = (patients * tau2 * gamma_hat + delta * gamma_bar) / (patients * tau2 + delta)
        around = squares + patients * (gamma_hat - gamma) ** 2
        # (theta + around / 2) / (lambda + patients / 2 - 1), times spread, which may be 0
        delta = (spread * (mean + around / 2) + mean**3) / (spread * (patients / 2 + 1) + mean**2)
        if max(np.abs(gamma - before[0]).max(), np.abs(delta - before[1]).max()) <= TOLERANCE * max(1.0, delta.max()):
            break
    return SiteEffect(gamma=tuple(gamma.tolist()), delta=tuple(delta.tolist()))


def harmonised(features: npt.ArrayLike, covariates: npt.ArrayLike | None, model: CombatModel, site: str) -> Floats:
    """A site's `features` [patients, G] without its effect, given the `covariates` [patients, p] of these patients.

    Raises DataError for a site that the model was not fitted with, or tables of another width.
    """
    y, x = _tables(features, covariates)
    if site not in model.sites:
        raise DataError(f"site {site} sent no sums to this ComBat model: fit it again with that site's sums")
    if (x.shape[1], y.shape[1]) != (len(model.beta), len(model.alpha)):
        raise DataError(f"this ComBat model takes {len(model.beta)} covariates and {len(model.alpha)} features")
    effect, sigma = model.sites[site], np.array(model.sigma)
    expected = np.array(model.alpha) + x @ np.array(model.beta).reshape(len(model.beta), len(model.alpha))
    standard = (y - expected) / sigma
    found: Floats = (standard - np.array(effect.gamma)) / np.sqrt(np.array(effect.delta)) * sigma + expected
    return found


def _x(part: CombatSums) -> Floats:
    return np.array(part.x_mean, dtype=np.float64)


def _y(part: CombatSums) -> Floats:
    return np.array(part.y_mean, dtype=np.float64)


def _total(parts: list[Floats]) -> Floats:
    total: Floats = np.sum(parts, axis=0)
    return total


def _as_table(array: Floats) -> Table:
    return tuple(tuple(row) for row in array.tolist())
