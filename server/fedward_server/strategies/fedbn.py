"""FedBN, the hub's half: the mean of everything but BatchNorm layers, which never leave their site.

Li et al. 2021 (arXiv 2102.07623). The hub's own copy of those layers stays as it was drawn: it is no site's, and a
model is scored with each site's own.
"""

from collections.abc import Iterable

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from fedward_common.records import record_of


class FedBN(FedAvg):
    """Takes the mean. What sites do not send back stays as it was sent."""

    current_arrays: ArrayRecord | None = None

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Flower's, and what was sent is kept until the answers are here."""
        self.current_arrays = arrays
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The mean, in the order in which arrays were sent."""
        mean, metrics = super().aggregate_train(server_round, replies)
        if mean is None or self.current_arrays is None:
            return mean, metrics
        return record_of({name: mean.get(name, array) for name, array in self.current_arrays.items()}), metrics
