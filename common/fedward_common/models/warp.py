"""Images read where a displacement points to (Jaderberg 2015, arXiv:1506.02025), and what it does to volumes.

torch's grid_sample has no deterministic gradient on a GPU and refuses to run where that is asked for; this reads the
corners around each point by their indices, whose gradient has the same bits every time.
"""

from math import prod

import torch


def warp(images: torch.Tensor, displacement: torch.Tensor) -> torch.Tensor:
    """Images [n, channels, *size] read at x + u(x), for u [n, dims, *size] in voxels, u[:, i] along axis i of *size.

    Linear between voxels; float32 whatever comes in. Beyond the edges stands what stands on them. Where u is NaN so is
    what it gives.
    """
    size = images.shape[2:]
    points = [_points(displacement[:, axis], axis, length) for axis, length in enumerate(size)]
    strides = [prod(size[axis + 1 :]) for axis in range(len(size))]
    values = images.float().flatten(2)

    def read(axis: int, index: torch.Tensor) -> torch.Tensor:
        """Between the corners along `axis` and those after it; `index` says where along the axes before it."""
        if axis == len(size):
            places = index.flatten(1).unsqueeze(1).expand(-1, values.shape[1], -1)
            return values.gather(2, places).reshape(*values.shape[:2], *size)
        low = points[axis].detach().floor()
        high = (low + 1).clamp(max=size[axis] - 1)
        before, after = (read(axis + 1, index + strides[axis] * _index(place)) for place in (low, high))
        return torch.lerp(before, after, (points[axis] - low).unsqueeze(1).expand_as(before))

    return read(0, torch.zeros_like(points[0], dtype=torch.int64))


def _points(along: torch.Tensor, axis: int, length: int) -> torch.Tensor:
    """Where a displacement [n, *size] along one axis points to, between the first and the last voxel of it."""
    start = torch.arange(length, dtype=torch.float32, device=along.device)
    start = start.reshape([length if each == axis else 1 for each in range(along.dim() - 1)])
    return (start + along.float()).clamp(0, length - 1)


def _index(places: torch.Tensor) -> torch.Tensor:
    """Whole numbers; NaN is no place in memory."""
    return places.nan_to_num(0.0).long()


def jacobian_determinant(displacement: torch.Tensor) -> torch.Tensor:
    """Of x -> x + u(x), u [n, dims, *size] in voxels, 2-D or 3-D: [n, *size], how many times a voxel's volume grows.

    1 is as before, 0 and less a fold. Derivatives are central differences, one-sided on the edges; every axis has 2
    voxels or more.
    """
    displacement = displacement.float()
    dims = displacement.shape[1]
    slopes = torch.gradient(displacement, dim=list(range(2, 2 + dims)))
    rows = [slope + unit for slope, unit in zip(slopes, _units(displacement), strict=True)]
    if dims == 2:
        return rows[0][:, 0] * rows[1][:, 1] - rows[0][:, 1] * rows[1][:, 0]
    across: torch.Tensor = torch.linalg.cross(rows[1], rows[2], dim=1)
    return (rows[0] * across).sum(dim=1)


def _units(displacement: torch.Tensor) -> list[torch.Tensor]:
    """How x itself changes along each axis, to be added to [n, dims, *size]."""
    dims = displacement.shape[1]
    return [each.reshape(1, dims, *(1,) * dims) for each in torch.eye(dims, device=displacement.device)]
