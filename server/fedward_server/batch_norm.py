"""Whether hospitals' BatchNorm statistics of one round agree: if not, their mean is right for none of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fedward_common.batch_norm import MEAN, VARIANCE, layers

LIMIT = 0.5  # standard deviations; half of one is a medium difference of means (Cohen 1988, his d)
_LEAST = 1e-5  # as torch's eps: a channel that hardly varies is not blown up


@dataclass(frozen=True, kw_only=True, slots=True)
class Disagreement:
    """The site and layer that are furthest from what all sites have together. `distance` is in standard deviations."""

    site: str
    layer: str
    distance: float

    @property
    def warning(self) -> str:
        """One sentence for the people of the study."""
        return (
            f"BatchNorm statistics disagree: those of {self.site} are {self.distance:.2g} standard deviations from "
            f"all hospitals' together (layer {self.layer}), so that their mean fits nobody well; "
            'consider [training] batch_norm = "local", "recalibrate" or "group"'
        )


def disagreement(statistics: Mapping[str, Mapping[str, npt.NDArray[Any]]]) -> Disagreement | None:
    """Where the running statistics of a round disagree most, by site and layer; None where nothing is above `LIMIT`.

    `statistics` holds each site's arrays (others than BatchNorm statistics are passed over), all with the same names.
    What a site's images look like in a channel is taken as a normal distribution with its running mean and variance.
    Its distance from that of all sites together (mean of means; mean of variances plus variance of means) is the
    2-Wasserstein distance, sqrt((m - M)^2 + (s - S)^2), in units of S. A layer's is the root mean square over channels.
    """
    if len(statistics) < 2:
        return None
    found = [
        Disagreement(site=site, layer=layer, distance=distance)
        for layer in layers(next(iter(statistics.values())))
        for site, distance in _distances(statistics, layer).items()
    ]
    worst = max(found, key=lambda each: each.distance, default=None)
    return worst if worst is not None and worst.distance > LIMIT else None


def _distances(statistics: Mapping[str, Mapping[str, npt.NDArray[Any]]], layer: str) -> dict[str, float]:
    means = np.stack([arrays[layer + MEAN].astype(np.float64) for arrays in statistics.values()])
    variances = np.stack([arrays[layer + VARIANCE].astype(np.float64) for arrays in statistics.values()])
    mean, variance = means.mean(axis=0), variances.mean(axis=0) + means.var(axis=0)
    spread = np.sqrt(np.maximum(variance, 0.0) + _LEAST)
    squares = ((means - mean) / spread) ** 2 + (np.sqrt(np.maximum(variances, 0.0) + _LEAST) / spread - 1.0) ** 2
    return dict(zip(statistics, np.sqrt(squares.mean(axis=1)).tolist(), strict=True))
