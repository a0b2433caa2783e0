"""Colour to grey. Grey to colour is repetition, which needs no code of its own."""

import numpy as np

from fedward_client.harmonize.intensity import Image

# ITU-R BT.601-7, clause 2.5.1: the luminance E'_Y of E'_R, E'_G, E'_B.
LUMINANCE = (0.299, 0.587, 0.114)


def to_grey(image: Image) -> Image:
    """The BT.601 luminance [1, ...] of an RGB image [3, ...] in its own units; a grey image [1, ...] as it is."""
    if len(image) == 1:
        return image
    red, green, blue = (weight * band.astype(np.float64) for weight, band in zip(LUMINANCE, image, strict=True))
    grey: Image = (red + green + blue)[None].astype(np.float32)
    return grey
