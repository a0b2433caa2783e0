"""What registration minimises: how unlike the warped image is to the fixed one, and how rough the displacement is.

Balakrishnan 2019 (arXiv:1809.05231), equations 2, 4, 5 and 6.
"""

import torch

from fedward_common.models.warp import warp

WINDOW = 9  # voxels along each axis, as in the paper
_LEAST_VARIANCE = 1e-3  # of a window's sum of squares: float32 gets no less exactly, and noise must not correlate


def registration_loss(
    moving: torch.Tensor,
    fixed: torch.Tensor,
    displacement: torch.Tensor,
    *,
    smoothness: float,
) -> torch.Tensor:
    """Dissimilarity of `moving`, warped, to `fixed`, plus `smoothness` times the roughness of u; 0 or more, float32.

    Images are [n, channels, *size] in [0, 1], `displacement` [n, dims, *size] in voxels as `warp` takes it. The
    dissimilarity is 1 less the squared local correlation coefficient, a mean over windows, which takes images of other
    contrast, but at the border, where MONAI fills windows with 0; the roughness is the mean square of differences
    between neighbours, in voxels.
    """
    with torch.autocast(moving.device.type, enabled=False):
        displacement = displacement.float()
        return _uncorrelated(warp(moving, displacement), fixed.float()) + smoothness * roughness(displacement)


def roughness(displacement: torch.Tensor) -> torch.Tensor:
    """The mean square of what [n, dims, *size] changes by from a voxel to the next, over all axes.

    Differences of neighbours, for the central ones of MONAI's DiffusionLoss do not see a displacement that alternates.
    """
    squares = [displacement.diff(dim=axis).square().mean() for axis in range(2, displacement.dim())]
    return torch.stack(squares).mean()


def _uncorrelated(warped: torch.Tensor, fixed: torch.Tensor) -> torch.Tensor:
    from monai.losses.image_dissimilarity import LocalNormalizedCrossCorrelationLoss  # MONAI takes seconds to import

    loss = LocalNormalizedCrossCorrelationLoss(fixed.dim() - 2, kernel_size=WINDOW, smooth_dr=_LEAST_VARIANCE)
    negative: torch.Tensor = loss(warped, fixed)
    return (1 + negative).clamp(min=0)  # by rounding the same image may correlate with more than 1
