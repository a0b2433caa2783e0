"""VoxelMorph: how one image must be deformed to lie on another (Balakrishnan 2019, arXiv:1809.05231).

A U-Net, MONAI's, sees both images and gives a displacement for every voxel of the fixed one. With integration, that is
the default, it gives a velocity instead, constant over time, of which the displacement is the integral by scaling and
squaring (Arsigny 2006): smooth and invertible, it hardly folds (Dalca 2019, arXiv:1903.03545). The papers integrate at
half resolution to save memory; here it is whole.

The last layer begins near zero, as in the authors' code, so that training starts from images as they are.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from fedward_common.models.layers import Convolution, adapted, crop, pad_to_multiple
from fedward_common.models.warp import warp


class VoxelMorph(nn.Module):
    """[n, 2 * channels, *size], moving then fixed, to displacements float32 [n, dims, *size] in voxels: see `warp`."""

    def __init__(self, network: nn.Module, multiple: int, integration: int) -> None:
        super().__init__()
        self.network, self.multiple, self.integration = network, multiple, integration

    def forward(self, pairs: torch.Tensor) -> torch.Tensor:
        """The displacement with which `warp` brings the moving image onto the fixed one; of any size."""
        found = crop(self.network(pad_to_multiple(pairs, self.multiple)), pairs.shape[2:]).float()
        return integrate(found, self.integration, follow=_sparing if self.training else warp)


_sparing = partial(checkpoint, warp, use_reentrant=False, preserve_rng_state=False)  # keeps no corner for the gradient


def integrate(velocity: torch.Tensor, steps: int, *, follow: Callable[..., torch.Tensor] = warp) -> torch.Tensor:
    """The displacement after one unit of time of a velocity that is constant over time, both [n, dims, *size], voxels.

    Scaling and squaring: 2^-steps of the velocity is nearly its own displacement, and that after twice the time is it
    followed by itself. With 0 steps it is the displacement.
    """
    found: torch.Tensor = velocity / 2**steps
    for _ in range(steps):
        found = found + follow(found, found)
    return found


def build(
    *, dims: int, size: tuple[int, ...], channels: int, classes: int, width: int, depth: int, integration: int
) -> nn.Module:
    """`width` channels on the first level and twice as many below it, with `depth` poolings; steps of integration."""
    from monai.networks.nets.voxelmorph import VoxelMorphUNet

    del size, classes  # convolutions take what comes, and a displacement is one whatever is scored on it
    network = VoxelMorphUNet(
        dims,
        2 * channels,
        2 * width,
        channels=(width, *(2 * width,) * (2 * depth - 1)),
        final_conv_channels=(width, width),
    )
    last = [each for each in network.modules() if isinstance(each, Convolution)][-1]
    nn.init.normal_(last.weight, std=1e-5)
    assert last.bias is not None
    nn.init.zeros_(last.bias)
    return VoxelMorph(adapted(network, "none"), 2**depth, integration)
