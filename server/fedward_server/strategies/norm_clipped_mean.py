"""The mean of updates after each was scaled down to a largest L2 norm: nobody moves the model further than the others.

Sun, Kairouz, Suresh, McMahan 2019, "Can you really backdoor federated learning?" (arXiv 1911.07963). An update of a
site with the share p of the patients moves the model by at most p times the bound. A bound that is the median of the
round's norms holds as long as fewer than half of the sites send anything at all.
"""

from typing import Any

import numpy as np

from fedward_server.strategies.blockwise import Matrix
from fedward_server.strategies.combination import Combination, Shares


class NormClippedMean(Combination):
    """`max_norm` is the bound; None takes the median of the round's norms, each site's counted once."""

    def __init__(self, *, max_norm: float | None = None, **flower: Any) -> None:
        super().__init__(**flower)
        self.max_norm = max_norm

    def shares(self, products: Matrix, weights: Shares) -> Shares:
        """Weights times how much of each update is left."""
        norms = np.sqrt(np.diag(products))
        bound = float(np.median(norms)) if self.max_norm is None else self.max_norm
        return weights * np.divide(bound, norms, where=norms > bound, out=np.ones_like(norms))
