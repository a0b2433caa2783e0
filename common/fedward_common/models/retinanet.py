"""RetinaNet (Lin et al. 2017, arXiv:1708.02002): a feature pyramid, and two small heads that all its levels share.

One anchor a place: with boxes chosen by ATSS more of them bring nothing (Zhang et al. 2020, arXiv:1912.02424, section
4.4). Group normalisation (Wu and He 2018, arXiv:1803.08494) in the paper's backbone and heads; the backbone is of
residual blocks, as many as there are halvings. The heads are not MONAI's, which look at every map for values that are
no numbers, and so wait for a GPU at each level.
"""

from collections import OrderedDict
from math import gcd, log

import torch
from monai.networks.blocks.dynunet_block import UnetResBlock
from monai.networks.blocks.feature_pyramid_network import FeaturePyramidNetwork
from torch import nn

from fedward_common.models.layers import Centre, convolution, group_norm

_PRIOR = 0.01  # the probability that a finding is at a place, as training begins (section 3.3)
_MOST_LOG = log(1000 / 16)  # of a box's length by its anchor's, as in the authors' code (Detectron)


class RetinaNet(nn.Module):
    """[n, channels, *size] to [n, anchors, classes + 2 * dims]: an anchor's logits, then how its box differs from it.

    Each class by itself, so that a logit is of "there is a finding of this class" (sigmoid). The difference of a box is
    (shift / length along each axis, log of the ratio of lengths along each axis), axes in the order of the array.
    """

    def __init__(
        self,
        *,
        dims: int,
        size: tuple[int, ...],
        channels: int,
        classes: int,
        width: int,
        levels: int,
        anchor: int,
    ) -> None:
        super().__init__()
        self.size = size
        finest = (anchor // 2).bit_length() - 1  # halvings: a place at least every half anchor
        self.edges = [anchor * 2**level for level in range(levels)]
        self.strides = [2 ** (finest + level) for level in range(levels)]
        widths = [width * min(2**halvings, 8) for halvings in range(finest + levels - 1)]
        self.centre = Centre()
        self.backbone = nn.ModuleList(
            UnetResBlock(
                dims, before, after, kernel_size=3, stride=2, norm_name=("group", {"num_groups": gcd(8, after)})
            )
            for before, after in zip([channels, *widths], widths, strict=False)
        )
        pyramid = 4 * width
        self.pyramid = FeaturePyramidNetwork(dims, widths[-levels:], pyramid)
        self.regression = _head(dims, pyramid, 2 * dims)
        self.classification = _head(dims, pyramid, classes)  # last: what `transfer` leaves out for other kinds
        nn.init.constant_(self.classification[-1].get_parameter("bias"), -log((1 - _PRIOR) / _PRIOR))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """The two heads' answers side by side, level after level, the finest first; a level's places in array order."""
        maps, features = self.centre(images), []
        for block in self.backbone:
            maps = block(maps)
            features.append(maps)
        levels = self.pyramid(
            OrderedDict((str(level), each) for level, each in enumerate(features[-len(self.edges) :]))
        )
        answers = [torch.cat([self.classification(each), self.regression(each)], dim=1) for each in levels.values()]
        return torch.cat([each.flatten(2) for each in answers], dim=2).transpose(1, 2)

    @property
    def levels(self) -> tuple[int, ...]:
        """As `Detector` says."""
        return tuple(len(each) for each in self._anchors())

    @property
    def anchors(self) -> torch.Tensor:
        """As `Detector` says. No buffer: it is not a part of what is averaged."""
        return torch.cat(self._anchors())

    def _anchors(self) -> list[torch.Tensor]:
        """Of each level: cubes around the middles of the blocks of voxels that a place stands for."""
        boxes = []
        for edge, stride in zip(self.edges, self.strides, strict=True):
            axes = [(torch.arange(-(-length // stride)) + 0.5) * stride for length in self.size]
            middles = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, -2)
            boxes.append(torch.cat([middles - edge / 2, middles + edge / 2], dim=1))
        return boxes


def placed(differences: torch.Tensor, anchors: torch.Tensor) -> torch.Tensor:
    """The boxes [..., anchors, 2 * dims] that differ so from `anchors` [anchors, 2 * dims]; corners as theirs.

    MONAI's `BoxCoder` with weights of 1 in operations that ONNX has: that one looks at the values that it gets.
    """
    dims = anchors.shape[1] // 2
    lower, upper = anchors[:, :dims], anchors[:, dims:]
    lengths = upper - lower
    middles = (lower + upper) / 2 + differences[..., :dims] * lengths
    halves = differences[..., dims:].clamp(max=_MOST_LOG).exp() * lengths / 2
    return torch.cat([middles - halves, middles + halves], dim=-1)


class Findings(nn.Module):
    """A `RetinaNet`'s output to the same shape: the probability of each class, then a box's corners in voxels."""

    anchors: torch.Tensor

    def __init__(self, anchors: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("anchors", anchors)

    def forward(self, output: torch.Tensor) -> torch.Tensor:
        """[n, anchors, classes + 2 * dims]."""
        corners = self.anchors.shape[1]
        return torch.cat([output[..., :-corners].sigmoid(), placed(output[..., -corners:], self.anchors)], dim=-1)


def _head(dims: int, width: int, outputs: int) -> nn.Sequential:
    """Four convolutions and a last one, drawn as in section 4.1."""
    layers: list[nn.Module] = []
    for _ in range(4):
        layers += [convolution(dims, width, width, 3, padding=1), group_norm(width), nn.ReLU()]
    head = nn.Sequential(*layers, convolution(dims, width, outputs, 3, padding=1))
    for each in head:
        if isinstance(each, nn.Conv2d | nn.Conv3d):
            nn.init.normal_(each.weight, std=0.01)
            nn.init.zeros_(each.get_parameter("bias"))
    return head
