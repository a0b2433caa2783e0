"""What of an image is patient and what is background: for statistics, for cropping and for the bias field."""

import numpy as np
import numpy.typing as npt

from fedward_client.volume import Pixels

Mask = npt.NDArray[np.bool_]

BINS = 256
BRIGHTEST = 99.9  # percentile; a few very bright pixels must not stretch the histogram
LEAST_SHARE = 0.02  # of the foreground in the fullest row, column or frame: one with less holds noise
MARGIN = 0.05  # of the box's length, left around it at either end


def foreground(image: Pixels) -> Mask:
    """The pixels [depth, rows, columns] of `image` [channels, depth, rows, columns] above Otsu's threshold.

    Otsu 1979 ("A threshold selection method from gray-level histograms", IEEE Transactions on Systems, Man, and
    Cybernetics 9(1):62-66), over the mean of the channels, on a histogram of 256 bins up to percentile 99.9. All pixels
    of an image that has one value only.
    """
    grey = image.mean(axis=0, dtype=np.float64)
    low, high = float(grey.min()), float(np.percentile(grey, BRIGHTEST, method="higher"))
    if low >= high:
        return np.ones(grey.shape, dtype=np.bool_)
    mask: Mask = grey > _otsu(np.minimum(grey, high), low, high)
    return mask


def _otsu(grey: npt.NDArray[np.float64], low: float, high: float) -> float:
    """The edge between bins at which the variance between the two classes is largest."""
    counts, edges = np.histogram(grey, bins=BINS, range=(low, high))
    middles = np.arange(BINS) + 0.5
    below, moment = np.cumsum(counts)[:-1], np.cumsum(counts * middles)[:-1]
    above, rest = grey.size - below, (counts * middles).sum() - moment
    with np.errstate(invalid="ignore", divide="ignore"):
        between = below * above * (moment / below - rest / above) ** 2
    return float(edges[1 + int(np.argmax(np.nan_to_num(between)))])


Box = tuple[slice, slice, slice]  # of frames, rows and columns


def box_of(image: Pixels) -> Box:
    """The box around the foreground of `image` [channels, depth, rows, columns], and a margin of 5 %.

    A frame, row or column belongs to the box when it holds 2 % as much foreground as the fullest of its axis, or lies
    between two that do. That does not depend on how much air a scanner takes along.
    """
    mask = foreground(image)
    held = [mask.sum(axis=tuple(other for other in range(3) if other != axis)) for axis in range(3)]
    frames, rows, columns = (_span(each >= LEAST_SHARE * each.max()) for each in held)
    return frames, rows, columns


def _span(inside: npt.NDArray[np.bool_]) -> slice:
    places = np.flatnonzero(inside)
    first, last = int(places[0]), int(places[-1])
    margin = int(np.ceil(MARGIN * (last + 1 - first)))
    return slice(max(first - margin, 0), last + 1 + margin)
