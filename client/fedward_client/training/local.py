"""A site's half of each strategy: from what the hub sent to what goes back, and what the site keeps for the next round.

A strategy that is not named here trains as FedAvg does, held to the round's model where the study has a `proximal_mu`.
Arrays whose names begin with "control/" are the strategy's own, beside the model's.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from fedward_client.training.loop import TrainResult
from fedward_client.training.rules import Corrected, Proximal, Rule
from fedward_common.batch_norm import personal_names, returned_names
from fedward_common.errors import RecordError
from fedward_common.models import rate_factor
from fedward_common.records import CONTROL, Arrays
from fedward_common.study import StudySpec
from fedward_common.tensors import as_tensor

LAYERS = "layers"  # of what a site keeps: BatchNorm layers or statistics of its own
OWN_CONTROL = "control"  # SCAFFOLD's c_i, as it was after the last update that counted: their mean is the hub's c
PERSONAL = "personal"  # Ditto's model

Own = dict[str, npt.NDArray[Any]]


class Fit(Protocol):
    """The loop, bound to a site's round."""

    def __call__(self, model: nn.Module, rule: Rule, part: str = "model", *, more_follows: bool = False) -> TrainResult:
        """Train in place; `part` names the model of several that a round trains."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """What a site's round of training starts from. The model holds `start` already."""

    study: StudySpec
    number: int
    model: nn.Module
    start: Arrays  # the network's state: as sent, with the site's own layers in it
    control: Arrays  # what the strategy sent beside it, by the names of parameters
    held: Callable[[str], Own]  # what the site kept of a part before this round
    fit: Fit


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a site's round of training gave."""

    result: TrainResult
    returned: Own
    kept: Mapping[str, Own] = field(default_factory=dict)  # by part


def needs_state(study: StudySpec) -> bool:
    """Whether a site must keep arrays between the rounds of a study."""
    layers, folds = study.training.batch_norm == "local", study.split.folds is not None
    return study.strategy.name in _STRATEGIES or layers or folds


def train(at: Round) -> Outcome:
    """A round of the study's strategy; the site's own layers and frozen ones are taken out of what goes back."""
    own = personal_names(at.study, at.start)
    outcome = _STRATEGIES.get(at.study.strategy.name, _common)(at)
    state, wanted = outcome.returned, returned_names(at.study, at.start, at.number)
    beside = {name: array for name, array in state.items() if name not in at.start}
    return Outcome(
        result=outcome.result,
        returned={**{name: state[name] for name in wanted}, **beside},
        kept={**outcome.kept, LAYERS: {name: state[name] for name in own}} if own else outcome.kept,
    )


def _common(at: Round) -> Outcome:
    """FedAvg's and FedProx's: the common model is trained."""
    if at.control:
        raise RecordError(
            f'the hub sends control arrays, and strategy "{at.study.strategy.name}" has none at a site: '
            f"{', '.join(sorted(at.control)[:3])}"
        )
    mu = at.study.strategy.options.get("proximal_mu", 0.0)
    result = at.fit(at.model, Proximal(mu) if mu else Rule())
    return Outcome(result=result, returned=state_arrays(at.model))


def _scaffold(at: Round) -> Outcome:
    """Karimireddy et al. 2020 (arXiv 1910.06378), algorithm 1, option II.

    Every gradient is corrected by c - c_i. Then c_i+ = c_i - c + g, g = (x - y_i) / (K lr), with each layer's own
    rate; g goes back, beside y_i.
    """
    trained = set(returned_names(at.study, at.start, at.number))
    names = [name for name, _ in at.model.named_parameters() if name in trained]
    if at.control.keys() != set(names):
        raise RecordError("the hub sends another control variate than one for each of the parameters that are trained")
    ours = at.held(OWN_CONTROL) or {name: np.zeros_like(at.control[name]) for name in names}
    by = {name: torch.from_numpy(at.control[name] - ours[name]) for name in names}
    result = at.fit(at.model, Corrected(by))
    state = state_arrays(at.model)
    way = {name: at.study.training.optimizer.lr * rate_factor(at.study.model, name) * result.steps for name in names}
    gradients = {name: ((at.start[name] - state[name]) / way[name]).astype(state[name].dtype) for name in names}
    return Outcome(
        result=result,
        returned={**state, **{CONTROL + name: gradient for name, gradient in gradients.items()}},
        kept={OWN_CONTROL: {name: ours[name] - at.control[name] + gradients[name] for name in names}},
    )


def _ditto(at: Round) -> Outcome:
    """Li et al. 2021 (arXiv 2012.04221), algorithm 1: the common model, then the site's own, held to the one sent."""
    outcome = at.fit(at.model, Rule(), more_follows=True)
    common = state_arrays(at.model)
    load_state(at.model, at.held(PERSONAL) or at.start)
    anchor = {name: torch.from_numpy(np.array(at.start[name])) for name, _ in at.model.named_parameters()}
    personal = at.fit(at.model, Proximal(at.study.strategy.options["proximal_lambda"], anchor), PERSONAL)
    result = TrainResult(loss=outcome.loss, steps=outcome.steps, seconds=outcome.seconds + personal.seconds)
    return Outcome(result=result, returned=common, kept={PERSONAL: state_arrays(at.model)})


_STRATEGIES: Mapping[str, Callable[[Round], Outcome]] = {"scaffold": _scaffold, "ditto": _ditto}


# A network's state as arrays ------------------------------------------------------------------------------------------


def load_state(model: nn.Module, arrays: Arrays) -> None:
    """Copy arrays into a network, in place; anything but its exact keys and shapes is a `RecordError`."""
    state = model.state_dict()
    if state.keys() != arrays.keys():
        odd = sorted(state.keys() ^ arrays.keys())
        raise RecordError(f"the arrays do not fit the study's network: {', '.join(odd[:3])} on one side only")
    with torch.no_grad():
        for name, tensor in state.items():
            array = arrays[name]
            if tuple(tensor.shape) != array.shape:
                raise RecordError(f"array '{name}' has shape {array.shape}, the network wants {tuple(tensor.shape)}")
            tensor.copy_(as_tensor(array))


def state_arrays(model: nn.Module) -> Own:
    """A network's parameters and buffers as arrays on the CPU, in order; copies, for the network is used again."""
    return {name: tensor.detach().cpu().clone().numpy() for name, tensor in model.state_dict().items()}
