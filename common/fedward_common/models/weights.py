"""The weights that a run starts from: a function of the study, whatever ran before in the process.

They are drawn from the study's seed, and where it begins with trained weights these are put over them.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fedward_common.errors import ModelError
from fedward_common.models import weights_file
from fedward_common.models.layer_rules import check_layers
from fedward_common.models.registry import build, outputs
from fedward_common.models.transfer import Transferred, transfer
from fedward_common.streams import stream_seed

if TYPE_CHECKING:
    from torch import nn

    from fedward_common.study_spec import StudySpec

State = dict[str, npt.NDArray[np.generic]]

log = logging.getLogger(__name__)

_drawing = Lock()


@dataclass(frozen=True, slots=True)
class Beginning:
    """A network before a run's first round."""

    state: State  # in the order of its state_dict
    parameters: frozenset[str]  # the learned names of it
    transferred: Transferred | None  # what became of trained weights; None without any


def network(study: "StudySpec") -> "nn.Module":
    """The network that a study names, for its input and its labels; weights are drawn from torch's generator.

    With [training] batch_norm = "group", group normalisation stands in the place of its BatchNorm layers.
    """
    model = build(
        study.model.name,
        options=study.model.options,
        size=study.input.size,
        channels=study.input.channels,
        classes=_outputs(study),
        task=study.study.task,
    )
    if study.training.batch_norm == "group":
        from fedward_common.models.layers import without_batch_norm

        without_batch_norm(model)
    return model


def initial_state(study: "StudySpec", seed: int) -> State:
    """The study's network before training, in the order of its state_dict, drawn from the stream "init" of `seed`."""
    return _state(_initial(study, seed))


def initial_model(study: "StudySpec", folder: Path | None = None) -> tuple[State, frozenset[str]]:
    """What a run of a resolved study begins with, and `parameter_names` beside it: one network is built for both.

    `folder` is the run's, which holds the trained weights where the study names some (`weights_file.NAME`). Raises
    ModelError where they are not those of the study, or a pattern of the study matches nothing.
    """
    found = begin(study, weights_file.read_kept(study, folder))
    if found.transferred is not None:
        log.info("the first model has trained weights: %s", found.transferred)
    return found.state, found.parameters


def begin(study: "StudySpec", trained: State | None) -> Beginning:
    """The network at the study's own seed, with trained weights in it where it names some. Raises ModelError."""
    from torch import nn

    model = _initial(study, study.training.seed)
    state, parameters = _state(model), parameter_names(model)
    check_layers(study, state, parameters)
    start = study.model.start
    if start is None or trained is None:
        return Beginning(state, parameters, None)
    state, transferred = transfer(
        state,
        trained,
        prefixes=start.map,
        inflate=start.inflate,
        take_head=start.head is not False,
        strides={
            f"{name}.weight": each.stride[0]
            for name, each in model.named_modules()
            if isinstance(each, nn.ConvTranspose3d)
        },
        channels=study.input.channels,
        classes=_outputs(study),
    )
    return Beginning(state, parameters, transferred)


def bound(study: "StudySpec", path: Path) -> tuple["StudySpec", Transferred]:
    """A study that names trained weights, bound to those of a file by their SHA-256, and what is taken of them.

    Where they lie here says nothing elsewhere: of a path the name stays. Whether the head is taken is filled in too.
    Raises ModelError as `begin` does, where the study names other weights than these, and for a model that cannot be
    begun with.
    """
    start = study.model.start
    assert start is not None
    arrays = weights_file.read(path)
    sha256 = weights_file.sha256(arrays)
    if start.sha256 not in (None, sha256):
        raise ModelError(
            f'[model] start.sha256 = "{start.sha256}", but the weights in {path.name} have {sha256}: name those that '
            "were meant, or remove the key to take these (it is the SHA-256 of a model, as results tell it, not of a "
            "file)"
        )
    theirs = _study(path)
    if theirs is not None:
        _check_study(study, theirs, path)
    name = None if start.file is None else Path(start.file).name
    head = start.head if start.head is not None else theirs is None or _same_labels(study, theirs)
    start = start.model_copy(update={"file": name, "sha256": sha256, "head": head})
    study = study.model_copy(update={"model": study.model.model_copy(update={"start": start})})
    transferred = begin(study, arrays).transferred
    assert transferred is not None
    return study, transferred


def _study(path: Path) -> "StudySpec | None":
    """The study that a file says its model is of; None where it says none, or none that can be read here."""
    from fedward_common.models import trained

    try:
        about = trained.about(path)
    except ModelError:  # of a network that is not installed here, for example
        return None
    return None if about is None else about.study


def _check_study(study: "StudySpec", theirs: "StudySpec", path: Path) -> None:
    """Raise ModelError for weights that arrays alone do not tell from others, by the study that they are of.

    Of other features or signals, or of another order: each weight is one's own. With BatchNorm layers that stayed at
    hospitals: the file has those of the random start.
    """
    for key in ("features", "signals"):
        ours, others = (getattr(each.input, key, None) for each in (study, theirs))
        if None not in (ours, others) and ours != others:
            raise ModelError(
                f"{path.name} was trained on other {key}, or in another order: begin with a model of the same, or give "
                f"[input] {key} as that model's study has them"
            )
    if theirs.training.batch_norm == "local":
        raise ModelError(
            f'{path.name} was trained with [training] batch_norm = "local", so what each hospital\'s BatchNorm layers '
            "measured is not in it: begin with a model that was trained with another batch_norm"
        )


def _same_labels(study: "StudySpec", theirs: "StudySpec") -> bool:
    """Whether a head of the one study answers the other's question; a displacement is none of a label's."""
    if study.study.task != theirs.study.task:
        return False
    return study.study.task == "registration" or study.cohort.labels == theirs.cohort.labels


def parameter_names(model: "nn.Module") -> frozenset[str]:
    """Which names of the state_dict are learned; the others are buffers, e.g. the statistics of batch normalisation."""
    return frozenset(name for name, _ in model.named_parameters())


def _initial(study: "StudySpec", seed: int) -> "nn.Module":
    import torch

    # torch's generator is the process's: runs in threads beside this one must not draw from it meanwhile
    with _drawing, torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(stream_seed(seed, "init"))
        return network(study)


def _outputs(study: "StudySpec") -> int:
    return outputs(study.study.task, len(study.cohort.labels))


def _state(model: "nn.Module") -> State:
    return {name: tensor.detach().numpy().copy() for name, tensor in model.state_dict().items()}
