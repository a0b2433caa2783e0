"""The weights that a run starts from: a function of the study and a seed, whatever ran before in the process."""

from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fedward_common.models.registry import build
from fedward_common.streams import stream_seed

if TYPE_CHECKING:
    from torch import nn

    from fedward_common.study_spec import StudySpec

State = dict[str, npt.NDArray[np.generic]]

_drawing = Lock()


def network(study: "StudySpec") -> "nn.Module":
    """The network that a study names, for its input and its labels; weights are drawn from torch's generator."""
    return build(
        study.model.name,
        options=study.model.options,
        size=study.input.size,
        channels=study.input.channels,
        classes=len(study.cohort.labels),
    )


def initial_state(study: "StudySpec", seed: int) -> State:
    """The study's network before training, in the order of its state_dict, drawn from the stream "init" of `seed`."""
    return _state(_initial(study, seed))


def initial_model(study: "StudySpec") -> tuple[State, frozenset[str]]:
    """`initial_state` at the study's own seed, and `parameter_names` beside it: one network is built for both."""
    model = _initial(study, study.training.seed)
    return _state(model), parameter_names(model)


def parameter_names(model: "nn.Module") -> frozenset[str]:
    """Which names of the state_dict are learned; the others are buffers, e.g. the statistics of batch normalisation."""
    return frozenset(name for name, _ in model.named_parameters())


def _initial(study: "StudySpec", seed: int) -> "nn.Module":
    import torch

    # torch's generator is the process's: runs in threads beside this one must not draw from it meanwhile
    with _drawing, torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(stream_seed(seed, "init"))
        return network(study)


def _state(model: "nn.Module") -> State:
    return {name: tensor.detach().numpy().copy() for name, tensor in model.state_dict().items()}
