"""Parts that the networks share, most in 2-D and 3-D, each with a gradient that is the same bits on a GPU every time.

PyTorch's own MaxPool3d, AvgPool3d, AdaptiveAvgPool and LocalResponseNorm have no deterministic gradient on CUDA and
refuse to run under `torch.use_deterministic_algorithms` (its documentation lists them); these do the same in steps that
have one.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import ceil, gcd
from typing import Any

import torch
from torch import nn
from torch.nn import functional

Pooling = Callable[..., torch.Tensor]  # functional.max_pool2d or functional.avg_pool2d


class Centre(nn.Module):
    """Grey values from [0, 1] to [-1, 1]: weights are drawn for inputs around 0."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Shape unchanged."""
        return 2.0 * images - 1.0


class GlobalMean(nn.Module):
    """Global average pooling, [n, channels, *size] to [n, channels] (Lin et al. 2014, arXiv:1312.4400)."""

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """The mean over all places."""
        return maps.flatten(2).mean(dim=2)


class GlobalMeanMax(nn.Module):
    """Global average and maximum pooling side by side, [n, channels, *size] to [n, 2 * channels]."""

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """The means over all places, then the maxima."""
        places = maps.flatten(2)
        return torch.cat([places.mean(dim=2), places.amax(dim=2)], dim=1)


class LocalResponseNorm(nn.Module):
    """Divides each value by what its neighbours in channel order show: b = a / (k + alpha * sum(a^2))^beta.

    Krizhevsky et al. 2012, section 3.3, with their constants; PyTorch's layer divides alpha by the neighbours.
    """

    def __init__(self, neighbours: int = 5, k: float = 2.0, alpha: float = 1e-4, beta: float = 0.75) -> None:
        super().__init__()
        self.neighbours, self.k, self.alpha, self.beta = neighbours, k, alpha, beta

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Shape unchanged."""
        half = self.neighbours // 2
        squares = functional.pad(maps.square().flatten(2), (0, 0, half, half))
        total = squares.unfold(1, self.neighbours, 1).sum(dim=-1).view_as(maps)
        return maps / (self.k + self.alpha * total) ** self.beta


class AdaptiveMean(nn.Module):
    """Adaptive average pooling to `places` along every axis; maps that have them already pass unchanged."""

    def __init__(self, places: int) -> None:
        super().__init__()
        self.places = places

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """[n, channels, *size] to [n, channels, places, …]."""
        for axis in range(2, maps.dim()):
            if maps.shape[axis] != self.places:
                maps = (maps.movedim(axis, -1) @ self._shares(maps.shape[axis]).to(maps)).movedim(-1, axis)
        return maps

    def _shares(self, length: int) -> torch.Tensor:
        """[length, places]: how much each input place counts in each output place, as torch's adaptive pooling."""
        shares = torch.zeros(length, self.places)
        for place in range(self.places):
            start, end = place * length // self.places, ceil((place + 1) * length / self.places)
            shares[start:end, place] = 1.0 / (end - start)
        return shares


class Pool3d(nn.Module):
    """A 3-D pooling as a 2-D one over (height, width) and then one over depth: the same result for maximum and mean."""

    def __init__(self, pool: Pooling, kernel: int, stride: int, padding: int = 0) -> None:
        super().__init__()
        self.pool, self.kernel, self.stride, self.padding = pool, kernel, stride, padding

    def forward(self, volumes: torch.Tensor) -> torch.Tensor:
        """[n, channels, depth, height, width]."""
        n, channels = volumes.shape[:2]
        planes = self.pool(volumes.flatten(0, 1), self.kernel, self.stride, self.padding)
        height, width = planes.shape[-2:]
        columns = planes.flatten(2)  # [n * channels, depth, height * width]
        pooled = self.pool(columns, (self.kernel, 1), (self.stride, 1), (self.padding, 0))
        return pooled.reshape(n, channels, -1, height, width)


def max_pool(dims: int, kernel: int, stride: int, padding: int = 0) -> nn.Module:
    """Maximum pooling; overlapping where the kernel is larger than the stride."""
    return (
        nn.MaxPool2d(kernel, stride, padding) if dims == 2 else Pool3d(functional.max_pool2d, kernel, stride, padding)
    )


def pad_to_multiple(images: torch.Tensor, multiple: int) -> torch.Tensor:
    """[n, channels, *size] with zeros at the ends of the axes whose length is no multiple."""
    ends = [amount for length in reversed(images.shape[2:]) for amount in (0, -length % multiple)]
    return functional.pad(images, ends) if any(ends) else images


def crop(maps: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """[n, channels, *size], what lies beyond at the ends of the axes cut off."""
    return maps[(slice(None), slice(None), *map(slice, size))]


Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d

_CONVOLUTIONS: Mapping[int, Callable[..., Convolution]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def convolution(dims: int, inputs: int, outputs: int, kernel: int, **options: Any) -> Convolution:
    """A convolution over one, two or three axes."""
    return _CONVOLUTIONS[dims](inputs, outputs, kernel, **options)


def group_norm(channels: int) -> nn.GroupNorm:
    """Group normalisation (Wu and He 2018, arXiv:1803.08494) with 8 groups, or fewer where 8 does not divide."""
    return nn.GroupNorm(gcd(8, channels), channels)


def he_normal(model: nn.Sequential) -> None:
    """Draw layers for rectifiers (He et al. 2015, arXiv:1502.01852); the last small, so that no class is favoured."""
    for module in model:
        if isinstance(module, Convolution | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    last = model[-1]
    assert isinstance(last, nn.Linear)
    nn.init.normal_(last.weight, std=0.01)


def replace(
    model: nn.Module, kinds: type[nn.Module] | tuple[type[nn.Module], ...], by: Callable[[Any], nn.Module]
) -> None:
    """Put `by(part)` in the place of every part of these kinds, at any depth."""
    for parent in list(model.modules()):
        for name, part in list(parent.named_children()):
            if isinstance(part, kinds):
                setattr(parent, name, by(part))


def without_batch_norm(model: nn.Module) -> None:
    """Put group normalisation in the place of every BatchNorm layer; the names of parameters stay."""
    replace(model, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), lambda part: group_norm(part.num_features))


def adapted(network: nn.Module, norm: str) -> nn.Module:
    """Exchange in a network of MONAI's its normalisation, where `norm` is "group", and 3-D pooling, in place.

    The latter has no deterministic gradient on a GPU. The names of parameters stay.
    """
    if norm == "group":
        without_batch_norm(network)
    replace(network, nn.MaxPool3d, partial(_pool_3d, functional.max_pool2d))
    replace(network, nn.AvgPool3d, partial(_pool_3d, functional.avg_pool2d))
    return network


def _pool_3d(pool: Pooling, part: Any) -> nn.Module:
    """For an nn.MaxPool3d or nn.AvgPool3d, whose kernels may be of three lengths by type; MONAI's are cubes."""
    return Pool3d(pool, part.kernel_size, part.stride, part.padding)
