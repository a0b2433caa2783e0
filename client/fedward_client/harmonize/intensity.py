"""Intensity, made comparable across scanners.

Statistics are over all pixels of the image or those of its foreground, its channels together, so that hue stays what it
was. Worked in float64: an offset of thousands with a range of ten keeps its digits.
"""

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from fedward_client.harmonize.foreground import foreground
from fedward_common.errors import DataError
from fedward_common.landmarks import mapped, own_landmarks
from fedward_common.study import Input

Image = npt.NDArray[np.float32]

LEAST_SPAN = 1e-6  # of the image's range: a foreground within less has nothing to measure


def finite(image: Image) -> Image:
    """The image with NaN and -inf at its smallest finite value, +inf at its largest; zeros where nothing is finite."""
    good = np.isfinite(image)
    if good.all():
        return image
    if not good.any():
        return np.zeros_like(image)
    low, high = float(image[good].min()), float(image[good].max())
    return np.nan_to_num(image, nan=low, neginf=low, posinf=high)


def scale(image: Image, section: Input) -> Image:
    """Intensity scaled as the [input] section says; its kinds are `percentile`, `zscore`, `window`, `landmarks`."""
    return _KINDS[section.intensity](image, section)


def measured(image: Image, section: Input) -> Image:
    """The pixels that statistics are taken from: all, or the foreground's; all where that is one value or nearly so."""
    if section.statistics == "image":
        return image
    inside: Image = image[:, foreground(image)]
    return inside if _span(inside) > LEAST_SPAN * _span(image) else image


def _span(image: Image) -> float:
    return float(image.max()) - float(image.min())


def percentile(image: Image, section: Input) -> Image:
    """The two percentiles become 0 and 1, what lies outside is clipped.

    Where both percentiles are one value the image's extremes take their place; a constant image becomes zeros.
    """
    low, high = (float(value) for value in np.percentile(measured(image, section), section.percentiles))
    if low >= high:
        low, high = float(image.min()), float(image.max())
    if low >= high:
        return np.zeros_like(image)
    return _linear(image, low, high - low)


def zscore(image: Image, section: Input) -> Image:
    """Mean 0 and standard deviation 1 over the pixels that are measured; a constant image becomes zeros."""
    if image.min() == image.max():
        return np.zeros_like(image)
    values = measured(image, section)
    mean, deviation = values.mean(dtype=np.float64), values.std(dtype=np.float64)
    scaled: Image = ((image - mean) / deviation).astype(np.float32)
    return scaled


def window(image: Image, section: Input) -> Image:
    """A window (center, width) in modality units becomes 0..1: LINEAR_EXACT of DICOM PS3.3 C.11.2.1.3.2."""
    assert section.window is not None, "the study's rules see to it"
    center, width = section.window
    return _linear(image, center - width / 2, width)


def landmarks(image: Image, section: Input) -> Image:
    """Matched to the study's standard scale in 0..1: see `fedward_common.landmarks`; a constant image becomes zeros.

    Raises DataError while the scale is not known.
    """
    if section.landmarks is None:
        raise DataError("the study's standard scale is not measured yet: give [input] landmarks")
    return mapped(image, own_landmarks(measured(image, section)), section.landmarks)


def _linear(image: Image, low: float, span: float) -> Image:
    """Map low..low + span to 0..1, clipped."""
    scaled: Image = np.clip((image - np.float64(low)) / np.float64(span), 0.0, 1.0).astype(np.float32)
    return scaled


_KINDS: Mapping[str, Callable[[Image, Input], Image]] = {
    "percentile": percentile,
    "zscore": zscore,
    "window": window,
    "landmarks": landmarks,
}
