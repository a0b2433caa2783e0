"""Strategies by the name a study gives them. flwr's own stand here; what flwr lacks gets a file beside this one."""

from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
from flwr.serverapp.strategy import FedAdam, FedAvg, FedProx, FedYogi, Strategy

from fedward_common.study import Strategy as StrategySpec

_STRATEGIES: Mapping[str, Callable[..., Strategy]] = {
    "fedavg": FedAvg,
    "fedprox": FedProx,
    "fedadam": FedAdam,
    "fedyogi": FedYogi,
}
_SENT = "current_arrays"  # what FedOpt sent last; set anew by every configure_train


def make_strategy(spec: StrategySpec) -> Strategy:
    """The flwr strategy of a study; it takes every node it sees, for choosing them is the round engine's."""
    return _STRATEGIES[spec.name](fraction_train=1.0, min_train_nodes=1, min_available_nodes=1, **spec.options)


def takes(spec: StrategySpec) -> Literal["mean", "all"]:
    """What a strategy's `aggregate_train` is given: one pre-averaged reply, or every site's."""
    del spec
    return "mean"


def only_averages(strategy: Strategy) -> bool:
    """Whether a strategy's model is nothing but the mean of the updates: FedAvg's, and what differs at the sites only.

    Of one reply, the mean, flwr's FedAvg makes the same bits in five times a model's memory.
    """
    return type(strategy).aggregate_train is FedAvg.aggregate_train


def strategy_state(strategy: Strategy) -> dict[str, np.ndarray]:
    """What a strategy remembers between rounds (FedAdam's moments, say), as `attribute/array` names."""
    return {
        f"{attribute}/{name}": np.asarray(array)
        for attribute, value in vars(strategy).items()
        if isinstance(value, dict) and attribute != _SENT
        for name, array in value.items()
        if isinstance(array, np.ndarray | np.generic)
    }


def restore_state(strategy: Strategy, state: Mapping[str, np.ndarray]) -> None:
    """Give a new strategy what `strategy_state` took from the old one."""
    for key, array in state.items():
        attribute, name = key.split("/", 1)
        held = getattr(strategy, attribute) or {}
        setattr(strategy, attribute, {**held, name: array})
