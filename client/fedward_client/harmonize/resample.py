"""Resampling to the size that a study asks for: linear, with a low-pass filter where an axis shrinks."""

import numpy as np

from fedward_client.harmonize.intensity import Image


def resample(image: Image, size: tuple[int, ...]) -> Image:
    """Resample `image` [channels, depth, rows, columns] to [channels, *size]; for a 2-D size the depth is 1.

    torch's antialiased bilinear kernel, pixel centres at half-integers (align_corners False). A volume goes through it
    twice, once for its planes and once for its depth: linear interpolation is separable, and torch's trilinear kernel
    has no low-pass filter. Each value is computed by one thread, so the bits do not depend on how many there are.
    """
    import torch
    from torch.nn.functional import interpolate

    planes = interpolate(torch.from_numpy(np.ascontiguousarray(image)), size=size[-2:], mode="bilinear", antialias=True)
    if len(size) == 3:
        columns = planes.flatten(2)[None]  # [1, channels, depth, rows * columns]
        planes = interpolate(columns, size=(size[0], columns.shape[-1]), mode="bilinear", antialias=True)
    resampled: Image = planes.numpy().reshape(len(image), *size)
    return resampled
