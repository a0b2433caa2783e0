"""A sparse coding network with a classifier on its codes.

Gregor, LeCun: Learning fast approximations of sparse coding. ICML 2010 (LISTA): a few steps of the iterative
shrinkage-thresholding algorithm whose matrices are learned. The dictionary is learned with them (Olshausen, Field:
Emergence of simple-cell receptive field properties by learning a sparse code for natural images. Nature 381, 1996).
It deviates from the former: they regress the codes onto optimal ones of a fixed dictionary, here encoder and dictionary
descend the energy of sparse coding together.
"""

from math import prod

import torch
from torch import nn
from torch.nn import functional

from fedward_common.models.layerwise import Layer, Layered


class SparseCoder(Layer):
    """Codes z of examples x over a dictionary D of unit-length atoms: |x - D z|^2 / 2 + penalty |z|_1 is to be small.

    Begins as ISTA on a random dictionary, L being the largest eigenvalue of D^T D:
    z <- shrink(W x + S z, t), W = D^T / L, S = I - D^T D / L, t = penalty / L.
    """

    def __init__(self, visible: int, atoms: int, *, penalty: float, steps: int) -> None:
        super().__init__()
        dictionary = functional.normalize(torch.randn(visible, atoms), dim=0)
        narrow = dictionary if atoms <= visible else dictionary.T  # either square has the same largest eigenvalue
        largest = torch.linalg.eigvalsh(narrow.T @ narrow)[-1]
        self.dictionary = nn.Parameter(dictionary)
        self.encoder = nn.Parameter(dictionary.T / largest)
        self.inhibition = nn.Parameter(torch.eye(atoms) - dictionary.T @ dictionary / largest)
        self.threshold = nn.Parameter(torch.full((atoms,), penalty / float(largest)))
        self.penalty, self.steps = penalty, steps

    def forward(self, examples: torch.Tensor) -> torch.Tensor:
        """[n, visible] to codes [n, atoms], most of whose values are 0."""
        drive = functional.linear(examples, self.encoder)
        codes = self._shrunk(drive)
        for _ in range(self.steps):
            codes = self._shrunk(drive + functional.linear(codes, self.inhibition))
        return codes

    def loss(self, examples: torch.Tensor) -> torch.Tensor:
        """Half the squared error of D z, and `penalty` times the sum of |z|."""
        codes: torch.Tensor = self(examples)
        decoded = functional.linear(codes, functional.normalize(self.dictionary, dim=0))
        errors = 0.5 * (decoded - examples).square().sum(dim=1)
        return (errors + self.penalty * codes.abs().sum(dim=1)).mean()

    def _shrunk(self, values: torch.Tensor) -> torch.Tensor:
        """Towards 0 by the threshold of each atom, and 0 within it."""
        return values.sign() * functional.relu(values.abs() - self.threshold)


def build(
    *,
    dims: int,
    size: tuple[int, ...],
    channels: int,
    classes: int,
    atoms: int,
    penalty: float,
    steps: int,
    dropout: float,
) -> nn.Module:
    """One coder of `atoms`, unrolled for `steps` steps after the first."""
    del dims
    coder = SparseCoder(channels * prod(size), atoms, penalty=penalty, steps=steps)
    return Layered([coder], features=atoms, classes=classes, dropout=dropout)
