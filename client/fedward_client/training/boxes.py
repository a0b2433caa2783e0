"""Boxes around findings, and how they move with their image.

The boxes of an image are float32 [most, 2 * dims + 1]: the lower corner, the upper corner, the class; rows of class -1
are none and fill up. Corners are in voxels, in the order of the array's axes after the channel: of a volume
[channels, depth, height, width] a box is (d0, h0, w0, d1, h1, w1, class). They lie on the voxels' edges: the box of
voxels 3 to 5 goes from 3 to 6 and is 3 long, that of the whole image goes from 0 to its size (MONAI's StandardMode).
"""

import torch


def flipped(boxes: torch.Tensor, size: tuple[int, ...], axis: int) -> torch.Tensor:
    """`boxes` of an image of `size` that is flipped along `axis`."""
    dims = len(size)
    turned = boxes.clone()
    turned[:, axis] = size[axis] - boxes[:, dims + axis]
    turned[:, dims + axis] = size[axis] - boxes[:, axis]
    return turned


def resampled(boxes: torch.Tensor, matrix: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    """`boxes` of an image that is resampled: its voxel at x comes from `matrix` @ x in the old one.

    `matrix` is homogeneous, [dims + 1, dims + 1]; places count in voxels from the middle of the image, as in MONAI's
    grids. A box becomes the box around the ellipsoid that fitted into it: lesions are round rather than square, and the
    box around the turned corners is much too large (Kalra et al. 2021, Towards rotation invariance in object detection,
    ICCV). It is clipped to the image; one whose middle has left it gets class -1.
    """
    dims = len(size)
    back = torch.linalg.inv(matrix.double())
    turn, shift = back[:dims, :dims], back[:dims, dims]
    lengths = torch.tensor(size, dtype=torch.float64)
    lower, upper = boxes[:, :dims].double(), boxes[:, dims:-1].double()
    middles = ((lower + upper - lengths) / 2) @ turn.T + shift + lengths / 2
    halves = (((upper - lower) / 2).square() @ turn.T.square()).sqrt()
    gone = ((middles <= 0) | (middles >= lengths)).any(dim=1)
    lower, upper = (middles - halves).clamp(min=0), torch.minimum(middles + halves, lengths)
    classes = boxes[:, -1].double().masked_fill(gone, -1)
    return torch.cat([lower, upper, classes[:, None]], dim=1).to(boxes.dtype)
