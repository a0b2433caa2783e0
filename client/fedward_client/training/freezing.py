"""Layers that a study holds as they are: their parameters take no gradient, their statistics do not move."""

from torch import nn

from fedward_common.models import check_layers, frozen_names, of_layer, parameter_names
from fedward_common.study import StudySpec


def freeze(model: nn.Module, study: StudySpec, layer: int | None = None) -> None:
    """Set which parameters of `model` learn, by the study; call it after `model.train()`, which undoes a part.

    Of a `layer` that learns alone, it and no other.

    A layer of which a buffer is frozen, as the statistics of batch normalisation, works as it does in evaluation.
    Raises ModelError where a pattern of the study matches nothing here.
    """
    names = list(model.state_dict())
    check_layers(study, names, parameter_names(model))
    frozen = frozen_names(study, names)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen if layer is None else of_layer(name, layer))
    for path, module in model.named_modules():
        held = {f"{path}.{name}" if path else name for name, _ in module.named_buffers(recurse=False)}
        if held & frozen:
            module.training = False
