"""SCAFFOLD, the hub's half: control variates tell each site which way all of them go together.

Karimireddy et al. 2020 (arXiv 1910.06378), algorithm 1, option II, with sites weighted by their patients. The hub sends
its control variate c as "control/NAME" beside every parameter; a site sends back, under the same names, its gradient
over the round, (x - y_i) / (K lr), which is c + (c_i+ - c_i) in the paper's names. So what travels is near to what was
sent, as with the model. The site's half is `fedward_client.training.local`.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from fedward_common.errors import RunError
from fedward_common.records import CONTROL, from_array_record, record_of, to_array_record
from fedward_server.strategies.combination import weight_of

ROSTER_EXAMPLES = "roster-examples"  # in a reply's metrics: training patients of all sites, also of those not heard


class Scaffold(FedAvg):
    """Takes the mean. `eta` is the hub's learning rate, 1 takes the mean as it is."""

    def __init__(self, *, eta: float = 1.0, **flower: Any) -> None:
        super().__init__(**flower)
        self.eta = eta
        self.control: dict[str, npt.NDArray[Any]] = {}  # c, by the names of parameters
        self.current_arrays: ArrayRecord | None = None

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The model, and the control variate beside it; in the first round it is 0."""
        self.current_arrays = arrays
        if not self.control:
            self.control = {name: np.zeros_like(array) for name, array in from_array_record(arrays).items()}
        control = to_array_record({CONTROL + name: array for name, array in self.control.items()})
        return super().configure_train(server_round, record_of({**arrays, **control}), config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The model x + eta (mean y_i - x); c moves by the share of all patients that was heard."""
        heard = list(replies)
        mean, metrics = super().aggregate_train(server_round, heard)
        if mean is None:
            return None, metrics
        if self.current_arrays is None:
            raise RunError("a strategy was given updates before it was asked what to send")
        arrays, share = from_array_record(mean), self._share(heard)
        self.control = {name: c + share * (arrays[CONTROL + name] - c) for name, c in self.control.items()}
        model = {name: arrays[name] for name in self.control}
        if self.eta != 1.0:
            before = from_array_record(self.current_arrays)
            model = {name: x + self.eta * (model[name] - x) for name, x in before.items()}
        return to_array_record(model), metrics

    def _share(self, replies: list[Message]) -> float:
        """The patients of those who answered among those of all sites; without a word of the engine, all."""
        contents = [message.content for message in replies]
        patients = sum(weight_of(content, self.weighted_by_key) for content in contents)
        (first,) = contents[0].metric_records.values()
        return patients / weight_of(contents[0], ROSTER_EXAMPLES) if ROSTER_EXAMPLES in first else 1.0
