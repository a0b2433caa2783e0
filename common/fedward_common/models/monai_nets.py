"""MONAI's residual and densely connected networks (Project MONAI, arXiv:2211.02701), in 2-D and 3-D, untrained.

Residual networks: He et al. 2016, arXiv:1512.03385; dense ones: Huang et al. 2017, arXiv:1608.06993. As published, with
the stride of a residual bottleneck in its 3 x 3 convolution. norm = "batch" is the papers' batch normalisation, whose
statistics differ from hospital to hospital; norm = "group" puts group normalisation (Wu and He 2018, arXiv:1803.08494)
in its place.

MONAI 1.6 left to itself would do otherwise: its ResNet hands `norm` to the first layer only, its shortcut of type "A"
cuts the gradient, its first convolution has stride 1, and 3-D pooling has no deterministic gradient on a GPU.
"""

from functools import partial
from typing import Any, Literal

from torch import nn
from torch.nn import functional

from fedward_common.models.layers import Pool3d, Pooling, replace, without_batch_norm


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


def _densenet(
    blocks: tuple[int, ...], *, dims: int, size: tuple[int, ...], channels: int, classes: int, norm: str
) -> nn.Module:
    """A densely connected network: [n, channels, *size] to logits [n, classes]."""
    from monai.networks.nets.densenet import DenseNet

    del size  # global pooling takes what comes
    return adapted(DenseNet(dims, channels, classes, block_config=blocks), norm)


def adapted(network: nn.Module, norm: str) -> nn.Module:
    """Exchange 3-D pooling, and with norm = "group" normalisation; the names of parameters stay MONAI's."""
    if norm == "group":
        without_batch_norm(network)
    replace(network, nn.MaxPool3d, partial(_pool_3d, functional.max_pool2d))
    replace(network, nn.AvgPool3d, partial(_pool_3d, functional.avg_pool2d))
    return network


def _pool_3d(pool: Pooling, part: Any) -> nn.Module:
    """For an nn.MaxPool3d or nn.AvgPool3d, whose kernels may be of three lengths by type; MONAI's are cubes."""
    return Pool3d(pool, part.kernel_size, part.stride, part.padding)


resnet10 = partial(_resnet, "basic", (1, 1, 1, 1))
resnet18 = partial(_resnet, "basic", (2, 2, 2, 2))
resnet34 = partial(_resnet, "basic", (3, 4, 6, 3))
resnet50 = partial(_resnet, "bottleneck", (3, 4, 6, 3))
densenet121 = partial(_densenet, (6, 12, 24, 16))
densenet169 = partial(_densenet, (6, 12, 32, 32))
