"""Strategies by the name a study gives them: flwr's own, what flwr lacks (a file each beside this one), and plug-ins.

A plug-in is a subclass of `flwr.serverapp.strategy.Strategy` that an installed package names:

    [project.entry-points."fedward.strategies"]
    my-strategy = "my_package.fedward:MyStrategy"

It is made with the study's options as keyword arguments, and given every site's update, or their mean where the class
says `takes = "mean"`. It is installed at the hub and at every hospital, which checks a study's words for itself.
"""

import inspect
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points

import numpy as np
from flwr.serverapp.strategy import (
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedMedian,
    FedProx,
    FedTrimmedAvg,
    FedYogi,
    QFedAvg,
    Strategy,
)

from fedward_common.errors import StudyError
from fedward_common.study import Strategy as StrategySpec
from fedward_common.study import StudySpec
from fedward_common.study_strategy import ENTRY_POINTS, Takes
from fedward_server.strategies.ditto import Ditto
from fedward_server.strategies.fedbn import FedBN
from fedward_server.strategies.geometric_median import GeometricMedian
from fedward_server.strategies.krum import Bulyan, Krum, MultiKrum
from fedward_server.strategies.norm_clipped_mean import NormClippedMean
from fedward_server.strategies.scaffold import Scaffold

_STRATEGIES: Mapping[str, Callable[..., Strategy]] = {
    "fedavg": FedAvg,
    "fedavgm": FedAvgM,
    "fedprox": FedProx,
    "fedadagrad": FedAdagrad,
    "fedadam": FedAdam,
    "fedyogi": FedYogi,
    "fedmedian": FedMedian,
    "fedtrimmedavg": FedTrimmedAvg,
    "krum": Krum,
    "multikrum": MultiKrum,
    "bulyan": Bulyan,
    "qfedavg": QFedAvg,
    "scaffold": Scaffold,
    "fedbn": FedBN,
    "ditto": Ditto,
    "geometric-median": GeometricMedian,
    "norm-clipped-mean": NormClippedMean,
}
_EVERY_NODE = {"fraction_train": 1.0, "min_train_nodes": 1, "min_available_nodes": 1}  # choosing is the engine's
_SENT = "current_arrays"  # what was sent last; set anew by every configure_train, or equal to what it is given


def make_strategy(study: StudySpec, round_number: int = 1) -> Strategy:
    """The strategy of a study's round; it takes every node it sees, for choosing them is the round engine's.

    Raises StudyError for a plug-in that cannot be made with the study's options.
    """
    spec = study.strategy
    if spec.name not in _STRATEGIES:
        return _made(spec)
    more: dict[str, float | str] = {}
    if spec.name == "qfedavg":
        more = {"client_learning_rate": study.work(round_number).optimizer.lr, "train_loss_key": "train-loss"}
    return _STRATEGIES[spec.name](**_EVERY_NODE, **more, **spec.options)


def takes(spec: StrategySpec) -> Takes:
    """What a strategy's `aggregate_train` is given: one pre-averaged reply, or every site's."""
    if spec.name in _STRATEGIES:
        return spec.takes
    return "mean" if getattr(_plug_in(spec.name), "takes", "all") == "mean" else "all"


def _plug_in(name: str) -> type[Strategy]:
    points = list(entry_points(group=ENTRY_POINTS, name=name))
    if len(points) != 1:
        raise StudyError(f'there is no one installed plug-in that brings the strategy "{name}": install it here too')
    try:
        found = points[0].load()
    except (ImportError, AttributeError) as error:
        raise StudyError(
            f"the plug-in {points[0].value} cannot be imported: {error}; repair or uninstall it"
        ) from error
    if not (inspect.isclass(found) and issubclass(found, Strategy)):
        raise StudyError(f"the plug-in {points[0].value} is no flwr Strategy: repair or uninstall it")
    return found


def _made(spec: StrategySpec) -> Strategy:
    kind = _plug_in(spec.name)
    parameters = inspect.signature(kind).parameters.values()
    taken = {parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD}
    passes_on = issubclass(kind, FedAvg) and len(taken) < len(parameters)
    flower = {key: value for key, value in _EVERY_NODE.items() if passes_on or key in taken}
    try:
        return kind(**{**flower, **spec.options})
    except (TypeError, ValueError) as error:
        raise StudyError(
            f'the strategy "{spec.name}" cannot be made with the options of the study: {error}; '
            "correct [strategy] options"
        ) from error


# State ---------------------------------------------------------------------------------------------------------------


def only_averages(strategy: Strategy) -> bool:
    """Whether a strategy's model is nothing but the mean of the updates: FedAvg's, and what differs at the sites only.

    Of one reply, the mean, flwr's FedAvg makes the same bits in five times a model's memory.
    """
    return type(strategy).aggregate_train is FedAvg.aggregate_train


def strategy_state(strategy: Strategy) -> dict[str, np.ndarray]:
    """What a strategy remembers between rounds (FedAdam's moments, say).

    Attributes that hold arrays, alone, in a dict (`attribute/name`) or in a list (`attribute[]/index`), and numbers.
    """
    state: dict[str, np.ndarray] = {}
    for attribute, value in vars(strategy).items():
        if attribute == _SENT:
            continue
        if isinstance(value, dict):
            parts = {f"{attribute}/{name}": part for name, part in value.items()}
        elif isinstance(value, list | tuple):
            parts = {f"{attribute}[]/{index}": part for index, part in enumerate(value)}
        else:
            parts = {attribute: value}
        state.update({key: np.asarray(part) for key, part in parts.items() if _is_state(part)})
    return state


def _is_state(part: object) -> bool:
    return isinstance(part, np.ndarray | np.generic | int | float) and not isinstance(part, bool)


def restore_state(strategy: Strategy, state: Mapping[str, np.ndarray]) -> None:
    """Give a new strategy what `strategy_state` took from the old one."""
    held: dict[str, dict[str, np.ndarray]] = {}
    for key, array in state.items():
        attribute, slash, name = key.partition("/")
        if slash:
            held.setdefault(attribute, {})[name] = array
        elif isinstance(getattr(strategy, attribute, None), int | float):
            setattr(strategy, attribute, array.item())
        else:
            setattr(strategy, attribute, array)
    for attribute, parts in held.items():
        if attribute.endswith("[]"):
            setattr(strategy, attribute[:-2], [parts[str(index)] for index in range(len(parts))])
        else:
            setattr(strategy, attribute, {**(getattr(strategy, attribute) or {}), **parts})
