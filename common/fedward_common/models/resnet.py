"""Residual networks (He et al. 2016, arXiv:1512.03385) in 2-D and 3-D, MONAI's (arXiv:2211.02701).

As published, with the stride of a bottleneck in its 3 x 3 convolution. norm = "batch" is the paper's batch
normalisation, whose statistics differ from hospital to hospital; norm = "group" puts group normalisation (Wu and He
2018, arXiv:1803.08494) in its place.

MONAI 1.6 left to itself would do otherwise: its ResNet hands `norm` to the first layer only, its shortcut of type "A"
cuts the gradient, and its first convolution has stride 1.
"""

from functools import partial
from typing import Literal

from torch import nn

from fedward_common.models.layers import adapted


def _resnet(
    block: Literal["basic", "bottleneck"],
    layers: tuple[int, ...],
    *,
    dims: int,
    size: tuple[int, ...],
    channels: int,
    classes: int,
    norm: str,
) -> nn.Module:
    """A residual network: [n, channels, *size] to logits [n, classes]."""
    from monai.networks.nets.resnet import ResNet

    del size  # global pooling takes what comes
    network = ResNet(
        block,
        list(layers),
        block_inplanes=[64, 128, 256, 512],
        spatial_dims=dims,
        n_input_channels=channels,
        conv1_t_stride=2,
        shortcut_type="B",
        bias_downsample=False,
        num_classes=classes,
    )
    return adapted(network, norm)


resnet10 = partial(_resnet, "basic", (1, 1, 1, 1))
resnet18 = partial(_resnet, "basic", (2, 2, 2, 2))
resnet34 = partial(_resnet, "basic", (3, 4, 6, 3))
resnet50 = partial(_resnet, "bottleneck", (3, 4, 6, 3))
