"""Networks whose layers can learn one after the other from examples without labels, then all together from labels.

Greedy layer-wise training: Hinton, Osindero, Teh: A fast learning algorithm for deep belief nets. Neural Computation
18, 2006; Bengio, Lamblin, Popovici, Larochelle: Greedy layer-wise training of deep networks. NIPS 2006. A study's
[[phases]] give each layer rounds of its own. The arrays of layer i are called "layers.i. …" in a network's state.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import cast

import torch
from torch import nn


class Layer(nn.Module, ABC):
    """A layer that can learn from examples alone: `forward` gives what the next layer sees."""

    @abstractmethod
    def loss(self, examples: torch.Tensor) -> torch.Tensor:
        """What learning without labels minimises, of examples [n, features]: a mean over n, of sums over features."""


class Layered(nn.Module):
    """Layers, and a linear classifier on what the last of them gives."""

    def __init__(self, layers: Iterable[Layer], *, features: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(features, classes)

    def forward(self, examples: torch.Tensor) -> torch.Tensor:
        """[n, channels, *size] to logits [n, classes]."""
        return cast("torch.Tensor", self.classifier(self.dropout(self._below(examples, len(self.layers)))))

    def loss(self, layer: int, examples: torch.Tensor) -> torch.Tensor:
        """Of one layer, on what those below it give for examples [n, channels, *size]; these do not learn."""
        with torch.no_grad():
            below = self._below(examples, layer)
        return cast(Layer, self.layers[layer]).loss(below.float())

    def _below(self, examples: torch.Tensor, layer: int) -> torch.Tensor:
        found = examples.flatten(1)
        for each in self.layers[:layer]:
            found = each(found)
        return found
