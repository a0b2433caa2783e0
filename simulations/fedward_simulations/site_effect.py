"""Can a classifier tell which hospital an image comes from? The site-effect test, before and after harmonisation.

A network that can tell the hospital may use it in place of the disease (Zech et al. 2018, "Variable generalization
performance of a deep learning model to detect pneumonia in chest radiographs", PLOS Medicine 15(11):e1002683). Here a
plain one tries: logistic regression on the few features of intensity and texture that `describe` gives, scored on
patients that it was not fitted to. It needs all hospitals' tensors in one place, so it is for simulations. Hospitals
that differ in their patients, not in their scanners, can be told as well: harmonisation need not reach chance there.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fedward_client.cache import load
from fedward_client.site import Site
from fedward_client.site_data import Images, SiteData
from fedward_common.errors import DataError
from fedward_common.streams import stream
from fedward_common.study import FeatureScale, Input, Scale, StudySpec, TableInput
from fedward_server.result import RunResult
from fedward_simulations.result_parts import SiteEffect, SiteEffectChange

Floats = npt.NDArray[np.float64]

FOLDS = 5
PERMUTATIONS = 2000
PERCENTILES = (1, 10, 25, 50, 75, 90, 99)
LAGS = (1, 2, 4)  # pixels


def describe(images: Images) -> Floats:
    """Features [n, 14] of `images` [n, channels, *size], over each image's channels together.

    Intensity: mean, standard deviation, skewness, and percentiles 1, 10, 25, 50, 75, 90, 99. Texture along rows and
    columns: the mean step from a pixel to the next in standard deviations, which noise makes large and blur small, and
    the correlation of pixels 1, 2 and 4 apart, which tells the grain. A constant image has 0 for what has no value.
    """
    return np.array([_features(np.asarray(image, dtype=np.float64)) for image in images])


def _features(image: Floats) -> list[float]:
    centred = image - image.mean()
    deviation = float(centred.std())
    safe = deviation or 1.0
    steps = [float(np.abs(np.diff(image, axis=axis)).mean()) for axis in (-1, -2)]
    grain = [float(np.mean([_correlation(centred, lag, axis) for axis in (-1, -2)])) for lag in LAGS]
    return [
        float(image.mean()),
        deviation,
        float(((centred / safe) ** 3).mean()),
        *np.percentile(image, PERCENTILES).tolist(),
        float(np.mean(steps)) / safe,
        *grain,
    ]


def _correlation(centred: Floats, lag: int, axis: int) -> float:
    moved = np.moveaxis(centred, axis, -1)
    first, second = moved[..., :-lag], moved[..., lag:]
    scale = np.sqrt((first**2).mean() * (second**2).mean())
    return float((first * second).mean() / scale) if scale else 0.0


def of_sites(sites: Mapping[str, SiteData], *, seed: int = 0) -> SiteEffect:
    """The site effect in hospitals' tensors, by name: `site_effect` on a patient's mean of `describe`, or of rows."""
    tables = [
        _by_patient(data.images if data.images.ndim == 2 else describe(data.images), data.patients)
        for _, data in sorted(sites.items())
    ]
    return site_effect(tables, seed=seed)


def _by_patient(features: npt.NDArray[Any], patients: npt.NDArray[np.int64]) -> Floats:
    return np.array([features[patients == patient].mean(axis=0) for patient in np.unique(patients)])


def site_effect(tables: Sequence[npt.ArrayLike], *, seed: int = 0) -> SiteEffect:
    """The site effect in features, one table [patients, features] a hospital.

    Stratified five-fold cross-validation. The same tables and seed give the same answer. Raises DataError for fewer
    than two hospitals, or five patients at one of them.
    """
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
    from sklearn.model_selection import StratifiedKFold, cross_val_predict  # type: ignore[import-untyped]
    from sklearn.pipeline import make_pipeline  # type: ignore[import-untyped]
    from sklearn.preprocessing import StandardScaler  # type: ignore[import-untyped]

    features, hospitals = _stacked(tables)
    random = stream(seed, "site effect")
    classifier = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=5000))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=int(random.integers(2**31)))
    told = cross_val_predict(classifier, features, hospitals, cv=folds)
    accuracy = _balanced(told, hospitals)
    by_chance = np.array([_balanced(told, random.permutation(hospitals)) for _ in range(PERMUTATIONS)])
    low, high = np.percentile(by_chance, (2.5, 97.5))
    return SiteEffect(
        accuracy=accuracy,
        chance=1 / len(tables),
        chance_low=float(low),
        chance_high=float(high),
        p_value=float((1 + (by_chance >= accuracy).sum()) / (1 + PERMUTATIONS)),
        patients=len(features),
    )


def _balanced(told: npt.NDArray[np.int64], hospitals: npt.NDArray[np.int64]) -> float:
    """The mean over hospitals of the share of their patients that were told."""
    right = np.bincount(hospitals, weights=told == hospitals)
    return float((right / np.bincount(hospitals)).mean())


def _stacked(tables: Sequence[npt.ArrayLike]) -> tuple[Floats, npt.NDArray[np.int64]]:
    parts = [np.asarray(table, dtype=np.float64) for table in tables]
    if len(parts) < 2:
        raise DataError("the site-effect test compares hospitals and needs at least two of them")
    if min(len(part) for part in parts) < FOLDS:
        raise DataError(f"the site-effect test needs at least {FOLDS} patients at every hospital")
    return np.concatenate(parts), np.repeat(np.arange(len(parts)), [len(part) for part in parts])


def change(before: Mapping[str, SiteData], after: Mapping[str, SiteData], *, seed: int = 0) -> SiteEffectChange:
    """The site effect in the tensors of the same hospitals before and after harmonisation."""
    return SiteEffectChange(before=of_sites(before, seed=seed), after=of_sites(after, seed=seed))


def _plain(run: RunResult) -> Input | TableInput | None:
    """The [input] of a run without what harmonises hospitals; None where nothing does."""
    section, scale = run.study.input, run.scale
    match section:
        case Input():
            return Input(size=section.size, channels=section.channels, percentiles=(0.0, 100.0))
        case TableInput():
            measured = scale if isinstance(scale, FeatureScale) else section.scale
            if not section.combat or measured is None:
                return None
            plain = measured.model_copy(update={"combat": None})
            return section.model_copy(update={"combat": (), "covariates": (), "scale": plain})
        case _:
            return None


def of_run(folders: Mapping[str, Path], run: RunResult) -> SiteEffectChange | None:
    """The site effect in the hospitals of a run, `folders` by name.

    Before: the same cohorts with images only brought to size, their darkest and brightest pixel as 0 and 1; of tables
    features without ComBat. None where a study does not harmonise, hospitals are too few, or one has too few patients.
    """
    sites = [Site.open(folders[name]) for name in sorted(run.sites)]
    plain = _plain(run)
    if plain is None:
        return None
    untouched = run.study.model_copy(update={"input": plain})

    def tensors(study: StudySpec, name: str, scale: Scale | None = None) -> dict[str, SiteData]:
        return {site.name: load(site, study, name, scale=scale) for site in sites}

    try:
        return change(tensors(untouched, f"{run.run}-untouched"), tensors(run.study, run.run, run.scale))
    except DataError:
        return None
