"""Densely connected networks (Huang et al. 2017, arXiv:1608.06993) in 2-D and 3-D, MONAI's (arXiv:2211.02701).

norm = "batch" is the paper's batch normalisation, whose statistics differ from hospital to hospital; norm = "group"
puts group normalisation (Wu and He 2018, arXiv:1803.08494) in its place.
"""

from functools import partial

from torch import nn

from fedward_common.models.layers import adapted


def _densenet(
    blocks: tuple[int, ...], *, dims: int, size: tuple[int, ...], channels: int, classes: int, norm: str
) -> nn.Module:
    """A densely connected network: [n, channels, *size] to logits [n, classes]."""
    from monai.networks.nets.densenet import DenseNet

    del size  # global pooling takes what comes
    return adapted(DenseNet(dims, channels, classes, block_config=blocks), norm)


densenet121 = partial(_densenet, (6, 12, 24, 16))
densenet169 = partial(_densenet, (6, 12, 32, 32))
