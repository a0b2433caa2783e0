"""The base of strategies whose next model is a combination of a round's updates, with shares that they choose."""

from abc import abstractmethod
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from fedward_common.errors import RunError
from fedward_common.records import from_array_record, to_array_record
from fedward_server.strategies.blockwise import Matrix, combined, gram

Shares = npt.NDArray[np.float64]


class Combination(FedAvg):
    """Takes every site's update. Which share of its change each has depends on the updates only through `gram`."""

    current_arrays: ArrayRecord | None = None  # what this round's updates came from

    @abstractmethod
    def shares(self, products: Matrix, weights: Shares) -> Shares:
        """The shares [n] of the updates: `products` is their `gram`, `weights` their patients, which add up to 1."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Flower's, and what was sent is kept until the answers are here."""
        self.current_arrays = arrays
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The combination; arrays of the replies are read, not changed."""
        del server_round
        contents = [message.content for message in self._check_and_log_replies(replies, is_train=True)[0]]
        if not contents:
            return None, None
        if self.current_arrays is None:
            raise RunError("a strategy was given updates before it was asked what to send")
        reference = from_array_record(self.current_arrays)
        updates = [from_array_record(content.array_records[self.arrayrecord_key]) for content in contents]
        patients = np.array([weight_of(content, self.weighted_by_key) for content in contents])
        shares = self.shares(gram(updates, reference), patients / patients.sum())
        model = combined(updates, reference, [float(share) for share in shares])
        return to_array_record(model), self.train_metrics_aggr_fn(contents, self.weighted_by_key)


def weight_of(content: RecordDict, key: str) -> float:
    """The number under `key` in a reply's one metric record."""
    (record,) = content.metric_records.values()
    value = record[key]
    assert isinstance(value, int | float)
    return float(value)
