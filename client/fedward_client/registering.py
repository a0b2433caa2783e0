"""What a model that registers gives of two images: one brought onto the other, and where each point of it came from."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from fedward_client.gridded import Gridded
from fedward_client.harmonize import channels
from fedward_client.harmonize.grid import displaced
from fedward_client.scored import on_device
from fedward_client.training.device import Device
from fedward_client.training.registration_loss import registration_loss
from fedward_client.volume import Affine, Pixels
from fedward_common.models.warp import jacobian_determinant


@dataclass(frozen=True, slots=True, eq=False)
class Registered:
    """An image brought onto a fixed one, both on the fixed one's grid as the study sees it [frames, rows, columns].

    `warped` are the image's own values, grey. `displacement` [frames, rows, columns, 3] is in millimetres to the
    patient's left, back and head, as ITK has it: from a point of the fixed image to the same place in the other one;
    None where one of the two does not say where it lies. `unlike` is 1 less the squared local correlation, before and
    after, in [0, 1]; `folded` the share of voxels at which space folds.
    """

    warped: Pixels
    displacement: Pixels | None
    affine: Affine | None
    unlike: tuple[float, float]
    folded: float


def register(model: nn.Module, moving: Gridded, fixed: Gridded, device: Device) -> Registered:
    """`moving` brought onto `fixed` by a trained `model`, which is in evaluation."""
    images = on_device(np.stack([moving.tensor]), device), on_device(np.stack([fixed.tensor]), device)
    with torch.inference_mode():
        found = model(torch.cat(images, dim=1))
        none = torch.zeros_like(found)
        before, after = (float(registration_loss(*images, each, smoothness=0.0)) for each in (none, found))
        folded = float((jacobian_determinant(found) <= 0).float().mean())
    shift = _in_depth(found[0].cpu().numpy())
    return Registered(
        warped=displaced(channels.to_grey(moving.volume.pixels.transpose(1, 0, 2, 3)), moving.back, shift)[0],
        displacement=_millimetres(shift, moving.affine, fixed.affine),
        affine=fixed.affine,
        unlike=(before, after),
        folded=folded,
    )


def _in_depth(displacement: Pixels) -> Pixels:
    """A network's [dims, *size] as [frames, rows, columns, 3] along these axes: a slice stays in its frame."""
    if len(displacement) == 2:
        displacement = np.concatenate([np.zeros_like(displacement[:1]), displacement])[:, None]
    return np.moveaxis(displacement, 0, -1)


def _millimetres(shift: Pixels, moving: Affine | None, fixed: Affine | None) -> Pixels | None:
    """From each point of the fixed grid to where the moving one's is, as ITK's axes go."""
    if moving is None or fixed is None:
        return None
    grid = np.moveaxis(np.indices(shift.shape[:3], dtype=np.float64), 0, -1)
    starts, ends = (points[..., ::-1] for points in (grid, grid + shift))  # columns first
    moved = ends @ moving[:3, :3].T + moving[:3, 3] - starts @ fixed[:3, :3].T - fixed[:3, 3]
    return (moved * (-1.0, -1.0, 1.0)).astype(np.float32)  # NIfTI's x and y go to the right and the front
