"""A restricted Boltzmann machine; `dbn` puts one or several under a classifier.

Contrastive divergence: Hinton: Training products of experts by minimizing contrastive divergence. Neural Computation
14, 2002. Gaussian visible units of unit variance, and what else is the field's practice: Hinton: A practical guide to
training restricted Boltzmann machines. UTML TR 2010-003.
"""

import torch
from torch import nn
from torch.nn import functional

from fedward_common.models.layerwise import Layer

_SPREAD = 0.01  # of the first weights (the guide's section 8)


class RestrictedBoltzmannMachine(Layer):
    """Binary hidden units over binary visible ones, in [0, 1], or over Gaussian ones of unit variance.

    Energy of a state (Hinton 2010, equations 1 and 17): E(v, h) = -b v - c h - h W v, and with Gaussian visible units
    |v - b|^2 / 2 - c h - h W v.
    """

    def __init__(self, visible: int, hidden: int, *, gaussian: bool, steps: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(_SPREAD * torch.randn(hidden, visible))
        self.visible_bias = nn.Parameter(torch.zeros(visible))
        self.hidden_bias = nn.Parameter(torch.zeros(hidden))
        self.gaussian, self.steps = gaussian, steps

    def forward(self, visible: torch.Tensor) -> torch.Tensor:
        """[n, visible] to the probability of each hidden unit [n, hidden]."""
        return self._drive(visible).sigmoid()

    def free_energy(self, visible: torch.Tensor) -> torch.Tensor:
        """-log of the sum over all hidden states of exp(-E), for each [n, visible]; [n]."""
        if self.gaussian:
            own = 0.5 * (visible - self.visible_bias).square().sum(dim=1)
        else:
            own = -(visible * self.visible_bias).sum(dim=1)
        return own - functional.softplus(self._drive(visible).float()).sum(dim=1)

    def loss(self, examples: torch.Tensor) -> torch.Tensor:
        """The gradient is that of contrastive divergence; the value is the squared error of one reconstruction.

        CD-k's gradient is that of F(v) - F(v_k), v_k being where k steps of Gibbs sampling from v lead. That difference
        itself says nothing of how far learning is, so what is shown is what the field looks at (the guide's section 5).
        """
        with torch.no_grad():
            error = (self._mean(self(examples)) - examples).square().sum(dim=1).mean()
            sampled = examples
            for _ in range(self.steps):
                sampled = self._sampled(_drawn(self(sampled)))
        divergence = (self.free_energy(examples) - self.free_energy(sampled)).mean()
        return divergence + (error - divergence).detach()

    def _drive(self, visible: torch.Tensor) -> torch.Tensor:
        return functional.linear(visible, self.weight, self.hidden_bias)

    def _mean(self, hidden: torch.Tensor) -> torch.Tensor:
        drive = functional.linear(hidden, self.weight.T, self.visible_bias)
        return drive if self.gaussian else drive.sigmoid()

    def _sampled(self, hidden: torch.Tensor) -> torch.Tensor:
        mean = self._mean(hidden)
        return mean + torch.randn_like(mean) if self.gaussian else _drawn(mean)


def _drawn(chances: torch.Tensor) -> torch.Tensor:
    """0 or 1; of what is no number any, for a loss that is no number is told of at the end of a round."""
    return torch.bernoulli(chances.nan_to_num(0.5))
