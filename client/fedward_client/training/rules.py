"""What a strategy changes in the local loop: a penalty on the loss, or a correction of the gradients."""

from collections.abc import Mapping

import torch
from torch import nn


class Rule:
    """Changes nothing: the loss and its gradients alone decide."""

    def begin(self, model: nn.Module) -> None:
        """Called with the model as the round begins, on its device."""

    def penalty(self, model: nn.Module) -> torch.Tensor | None:
        """What is added to the loss of a batch; None for nothing."""
        del model
        return None

    def correct(self, model: nn.Module) -> None:
        """Called when the gradients of a batch are there, before the step; may change them."""


class Proximal(Rule):
    """mu/2 times the squared distance from an anchor (FedProx, Li et al. 2020, arXiv 1812.06127).

    The anchor is given by the names of parameters; without one it is the model as the round begins.
    """

    def __init__(self, mu: float, anchor: Mapping[str, torch.Tensor] | None = None) -> None:
        self._mu = mu
        self._given = anchor
        self._anchor: list[torch.Tensor] = []

    def begin(self, model: nn.Module) -> None:
        """Take the anchor."""
        given = {name: p.detach().clone() for name, p in model.named_parameters()}
        if self._given is not None:
            given = {name: self._given[name].to(p) for name, p in given.items()}
        self._anchor = [given[name] for name, p in model.named_parameters() if p.requires_grad]

    def penalty(self, model: nn.Module) -> torch.Tensor:
        """mu/2 |w - anchor|^2 over what is trained."""
        trained = (parameter for parameter in model.parameters() if parameter.requires_grad)
        distances = [(p - a).pow(2).sum() for p, a in zip(trained, self._anchor, strict=True)]
        return 0.5 * self._mu * torch.stack(distances).sum()


class Corrected(Rule):
    """Adds a constant to every gradient, by the names of parameters (SCAFFOLD's c - c_i)."""

    def __init__(self, by: Mapping[str, torch.Tensor]) -> None:
        self._by = by
        self._placed: list[torch.Tensor] = []

    def begin(self, model: nn.Module) -> None:
        """Bring the constants to where the model is."""
        self._placed = [self._by[name].to(p) for name, p in model.named_parameters() if p.requires_grad]

    def correct(self, model: nn.Module) -> None:
        """Add them."""
        trained = (parameter for parameter in model.parameters() if parameter.requires_grad)
        for parameter, by in zip(trained, self._placed, strict=True):
            if parameter.grad is None:  # a part of the network that this batch did not reach
                parameter.grad = by.clone()
            else:
                parameter.grad.add_(by)
