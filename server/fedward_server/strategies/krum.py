"""Krum, Multi-Krum and Bulyan: updates that lie far from most others do not count.

Blanchard et al. 2017, "Machine learning with adversaries" (arXiv 1703.02757); El Mhamdi et al. 2018, "The hidden
vulnerability of distributed learning in Byzantium" (arXiv 1802.07927).

Flower's own Krum copies all models into one matrix, and takes distances between whole models in float32, from their
norms and inner products: where what was changed is small beside the weights, it chooses by chance (a test shows it).
Here distances are those of the changes, in float64, and no update is copied. The rest of Bulyan is Flower's.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Bulyan as FlowerBulyan

from fedward_common.errors import RunError
from fedward_common.records import from_array_record
from fedward_server.strategies.blockwise import Matrix, gram, squared_distances
from fedward_server.strategies.combination import Combination, Shares


class MultiKrum(Combination):
    """The mean, weighted by patients, of the `num_nodes_to_select` updates with the best score."""

    def __init__(self, *, num_malicious_nodes: int = 0, num_nodes_to_select: int = 1, **flower: Any) -> None:
        super().__init__(**flower)
        self.num_malicious_nodes = num_malicious_nodes
        self.num_nodes_to_select = num_nodes_to_select

    def shares(self, products: Matrix, weights: Shares) -> Shares:
        """The weights of the chosen, which add up to 1."""
        scores = krum_scores(squared_distances(products), self.num_malicious_nodes)
        chosen = np.argsort(scores, kind="stable")[: self.num_nodes_to_select]
        shares = np.zeros_like(weights)
        shares[chosen] = weights[chosen] / weights[chosen].sum()
        return shares


class Krum(MultiKrum):
    """The one update with the best score."""

    def __init__(self, *, num_malicious_nodes: int = 0, **flower: Any) -> None:
        super().__init__(num_malicious_nodes=num_malicious_nodes, num_nodes_to_select=1, **flower)


class Bulyan(FlowerBulyan):
    """Flower's Bulyan on what Krum chooses, one by one, from those not chosen yet, as the paper has it."""

    def __init__(self, *, num_malicious_nodes: int = 0, **flower: Any) -> None:
        super().__init__(num_malicious_nodes=num_malicious_nodes, selection_rule=self._select, **flower)
        self.current_arrays: ArrayRecord | None = None

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Flower's, and what was sent is kept until the answers are here."""
        self.current_arrays = arrays
        return super().configure_train(server_round, arrays, config, grid)

    def _select(self, contents: list[RecordDict], malicious: int, wanted: int) -> list[RecordDict]:
        if self.current_arrays is None:
            raise RunError("a strategy was given updates before it was asked what to send")
        updates = [from_array_record(content.array_records[self.arrayrecord_key]) for content in contents]
        distances = squared_distances(gram(updates, from_array_record(self.current_arrays)))
        left, chosen = list(range(len(contents))), []
        for _ in range(wanted):
            best = left[int(np.argmin(krum_scores(distances[np.ix_(left, left)], malicious)))]
            left.remove(best)
            chosen.append(best)
        return [contents[index] for index in sorted(chosen)]


def krum_scores(distances: Matrix, malicious: int) -> Shares:
    """Of every update, the sum of its squared distances to its n - f - 2 nearest others (at least one)."""
    count = len(distances)
    others = np.sort(distances[~np.eye(count, dtype=bool)].reshape(count, count - 1), axis=1)
    scores: Shares = others[:, : max(1, count - malicious - 2)].sum(axis=1)
    return scores
