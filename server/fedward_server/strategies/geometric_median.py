"""The geometric median of a round's updates: the point with the least weighted sum of distances to them.

Pillutla, Kakade, Harchaoui 2022, "Robust aggregation for federated learning" (arXiv 1912.13445): the smoothed Weiszfeld
algorithm, weights by patients. It holds as long as those who send anything at all have less than half of the patients:
a hospital's word on how many it has is trusted, as in a mean.
"""

from typing import Any

import numpy as np

from fedward_server.strategies.blockwise import Matrix, squared_distances
from fedward_server.strategies.combination import Combination, Shares

_STEPS = 1000
_STILL = 1e-12  # largest change of a share at which the median is found


class GeometricMedian(Combination):
    """`nu` smooths: a distance below it counts as it, so that an update that is the median divides by no zero."""

    def __init__(self, *, nu: float = 1e-6, **flower: Any) -> None:
        super().__init__(**flower)
        self.nu = nu

    def shares(self, products: Matrix, weights: Shares) -> Shares:
        """Weiszfeld's iteration on shares alone: every point on its way is a combination of the updates.

        The squared distance of sum s_j u_j from u_k is (s - e_k)' G (s - e_k), G being the `gram`. It begins where few
        updates are far from most others, for it leaves the mean with a huge update, and an update itself, very slowly.
        """
        spread = np.maximum(np.median(np.sqrt(squared_distances(products)), axis=1), self.nu)
        shares: Shares = weights / spread**2
        shares /= shares.sum()
        for _ in range(_STEPS):
            offsets = shares - np.eye(len(weights))
            distances = np.sqrt(np.maximum((offsets @ products * offsets).sum(axis=1), 0.0))
            pull = weights / np.maximum(distances, self.nu)
            following: Shares = pull / pull.sum()
            if np.max(np.abs(following - shares)) < _STILL:
                return following
            shares = following
        return shares
