"""A deep belief network: restricted Boltzmann machines, each over the hidden units of the one below, and a classifier.

Hinton, Osindero, Teh: A fast learning algorithm for deep belief nets. Neural Computation 18, 2006. A layer at a time
learns without labels, then all of them with labels. One machine alone is the network `rbm`.
"""

from itertools import pairwise
from math import prod

from torch import nn

from fedward_common.models.layerwise import Layered
from fedward_common.models.rbm import RestrictedBoltzmannMachine


def build(
    *,
    dims: int,
    size: tuple[int, ...],
    channels: int,
    classes: int,
    hidden: tuple[int, ...],
    visible: str,
    steps: int,
    dropout: float,
) -> nn.Module:
    """A machine of each width in `hidden`, the lowest over `visible` units; [n, channels, *size] to logits."""
    del dims
    widths = (channels * prod(size), *hidden)
    layers = [
        RestrictedBoltzmannMachine(below, width, gaussian=not index and visible == "gaussian", steps=steps)
        for index, (below, width) in enumerate(pairwise(widths))
    ]
    return Layered(layers, features=widths[-1], classes=classes, dropout=dropout)
