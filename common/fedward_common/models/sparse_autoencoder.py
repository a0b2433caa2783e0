"""A stack of sparse autoencoders with a classifier on top.

Ng: Sparse autoencoder. CS294A lecture notes, Stanford 2011: squared error, and a penalty that holds each hidden unit's
mean activation near a small number. Weights of encoder and decoder are one matrix (Vincent et al.: Stacked denoising
autoencoders. JMLR 11, 2010); the decoder is linear, for inputs that are any number.
"""

from itertools import pairwise
from math import prod

import torch
from torch import nn
from torch.nn import functional

from fedward_common.models.layerwise import Layer, Layered

_EDGE = 1e-4  # how far mean activations are kept from 0 and 1, where the penalty is infinite


class SparseAutoencoder(Layer):
    """Sigmoid units, most of them near 0 for most examples."""

    def __init__(self, visible: int, hidden: int, *, sparsity: float, penalty: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(hidden, visible)))
        self.bias = nn.Parameter(torch.zeros(hidden))
        self.decoder_bias = nn.Parameter(torch.zeros(visible))
        self.sparsity, self.penalty = sparsity, penalty

    def forward(self, examples: torch.Tensor) -> torch.Tensor:
        """[n, visible] to activations [n, hidden] in [0, 1]."""
        return functional.linear(examples, self.weight, self.bias).sigmoid()

    def loss(self, examples: torch.Tensor) -> torch.Tensor:
        """Half the squared error of the reconstruction, and `penalty` times KL(sparsity || mean activation)."""
        hidden: torch.Tensor = self(examples)
        decoded = functional.linear(hidden, self.weight.T, self.decoder_bias)
        error = 0.5 * (decoded - examples).square().sum(dim=1).mean()
        mean = _EDGE + (1 - 2 * _EDGE) * hidden.float().mean(dim=0)
        rho = self.sparsity
        divergence = rho * (rho / mean).log() + (1 - rho) * ((1 - rho) / (1 - mean)).log()
        return error + self.penalty * divergence.sum()


def build(
    *,
    dims: int,
    size: tuple[int, ...],
    channels: int,
    classes: int,
    hidden: tuple[int, ...],
    sparsity: float,
    penalty: float,
    dropout: float,
) -> nn.Module:
    """An autoencoder of each width in `hidden`, each on what the one below gives."""
    del dims
    widths = (channels * prod(size), *hidden)
    layers = [SparseAutoencoder(below, width, sparsity=sparsity, penalty=penalty) for below, width in pairwise(widths)]
    return Layered(layers, features=widths[-1], classes=classes, dropout=dropout)
