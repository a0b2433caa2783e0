"""The slow change of brightness across a magnetic resonance image, removed: N4."""

import numpy as np

from fedward_client.harmonize.foreground import Mask, foreground
from fedward_client.harmonize.itk import itk
from fedward_client.volume import Pixels
from fedward_common.errors import UnfitImage

ITERATIONS = (50, 50, 50, 50)  # at most, one number a level of the spline mesh
CONVERGENCE = 0.001
SHRINK, LEAST_SIDE = 4, 16  # the field is smooth: it is fitted to every 4th pixel, as long as 16 are left a side
SHORTEST = 4  # pixels that a cubic spline needs


def corrected(image: Pixels) -> Pixels:
    """`image` [1, depth, rows, columns] of modality units divided by its bias field, which N4 finds in the foreground.

    Tustison et al. 2010 ("N4ITK: improved N3 bias correction", IEEE Transactions on Medical Imaging 29(6):1310-1320),
    as SimpleITK has it: four levels of at most 50 iterations. A single frame is corrected in its plane; an image
    without a foreground above 0 is given back as it is. Raises UnfitImage for a colour image, and for one that is too
    small.
    """
    if len(image) != 1:
        raise UnfitImage("it is a colour image, which has no bias field to correct")
    volume = image[0] if image.shape[1] > 1 else image[0, 0]
    if min(volume.shape) < SHORTEST:
        raise UnfitImage(f"a bias field needs {SHORTEST} pixels or more on every side")
    mask = foreground(image).reshape(volume.shape) & (
        volume > 0
    )  # the field is a factor: 0 and below say nothing of it
    if not mask.any() or volume[mask].min() == volume[mask].max():
        return image
    field: Pixels = np.exp(_log_field(volume, mask)).astype(np.float32)
    return image / field.reshape(image.shape)


def _log_field(volume: Pixels, mask: Mask) -> Pixels:
    sitk = itk()
    shown, inside = sitk.GetImageFromArray(volume), sitk.GetImageFromArray(mask.astype(np.uint8))
    factors = [max(1, min(SHRINK, side // LEAST_SIDE)) for side in reversed(volume.shape)]  # ITK counts columns first
    n4 = sitk.N4BiasFieldCorrectionImageFilter()
    n4.SetMaximumNumberOfIterations(ITERATIONS)
    n4.SetConvergenceThreshold(CONVERGENCE)
    n4.Execute(sitk.Shrink(shown, factors), sitk.Shrink(inside, factors))
    field: Pixels = sitk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(shown))
    return field
