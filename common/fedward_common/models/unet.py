"""U-Net: a mask of each structure, in 2-D (Ronneberger 2015, arXiv:1505.04597) and 3-D (Çiçek 2016, arXiv:1606.06650).

As in the papers: two 3 x 3 convolutions with rectifiers on each level, maximum pooling by 2 on the way down, where
channels double, transposed convolutions of 2 on the way up, where what the level had before pooling is put beside; of
MONAI's blocks. It deviates in what the papers do without:
- convolutions are padded, so that the mask is as large as the image, and an image whose axes are no multiples of
  2^depth is padded at their ends, with zeros as convolutions do, and its logits are cropped;
- every convolution is followed by normalisation (that of Çiçek 2016 is of batches), of groups unless asked otherwise;
- the default has a quarter of Ronneberger's channels: 2 million parameters in 2-D, 6 million in 3-D.
"""

from itertools import pairwise
from typing import cast

import torch
from torch import nn

from fedward_common.models.layers import adapted, convolution, crop, pad_to_multiple


class UNet(nn.Module):
    """[n, channels, *size] to logits [n, classes, *size], of any size."""

    def __init__(self, dims: int, channels: int, classes: int, widths: tuple[int, ...]) -> None:
        from monai.networks.nets.basic_unet import Down, TwoConv, UpCat

        super().__init__()
        act, norm, bias = ("relu", {"inplace": True}), "batch", False
        steps = list(pairwise(widths))
        self.first = TwoConv(dims, channels, widths[0], act, norm, bias)
        self.down = nn.ModuleList(Down(dims, above, below, act, norm, bias) for above, below in steps)
        self.up = nn.ModuleList(UpCat(dims, below, above, above, act, norm, bias) for above, below in reversed(steps))
        self.last = convolution(dims, widths[0], classes, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits of each structure by itself: structures may overlap."""
        levels = [self.first(pad_to_multiple(images, 2 ** len(self.down)))]
        for down in self.down:
            levels.append(down(levels[-1]))
        maps = levels.pop()
        for up in self.up:
            maps = up(maps, levels.pop())
        return crop(cast("torch.Tensor", self.last(maps)), images.shape[2:])


def build(
    *, dims: int, size: tuple[int, ...], channels: int, classes: int, norm: str, width: int, depth: int
) -> nn.Module:
    """`width` channels on the first level, twice as many on each of the `depth` levels below it."""
    del size  # convolutions take what comes
    return adapted(UNet(dims, channels, classes, tuple(width * 2**level for level in range(depth + 1))), norm)
