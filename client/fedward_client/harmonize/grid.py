"""Where an image's pixels stand in the patient: axes turned to an orientation, and one spacing for all scanners."""

from itertools import permutations
from math import log, sqrt

import numpy as np

from fedward_client.harmonize.itk import itk
from fedward_client.volume import Affine, Pixels, Volume
from fedward_common.errors import UnfitImage

NO_PLACE = "the file does not say where its pixels stand in the patient, and the study asks for {}"
NO_SIZE = "the file does not say how large its pixels are, and the study asks for millimetres"
FWHM = 2 * sqrt(2 * log(2))  # of a Gaussian, in standard deviations
KERNEL = 1024  # pixels at most, far beyond what is needed
KERNEL_ERROR = 0.001

_POSITIVE = "RAS"  # to where NIfTI's x, y and z go
_NEGATIVE = "LPI"

Spacing = tuple[float, ...]


def spacing_of(volume: Volume, *, flat: bool = False) -> Spacing:
    """Millimetres from a frame, a row and a column to the next. Raises UnfitImage where the file does not say.

    `flat`: of one frame, which needs no place in the patient; without one its first number is a millimetre.
    """
    spacing = volume.spacing
    if spacing is None and flat and volume.pixel_mm is not None:
        spacing = (1.0, *volume.pixel_mm)
    if spacing is None:
        raise UnfitImage(NO_SIZE if flat else NO_PLACE.format("millimetres"))
    if not np.isfinite(spacing if volume.affine is None else volume.affine).all() or min(spacing) <= 0:
        raise UnfitImage("its file places several pixels at one point, or nowhere")
    return spacing


def oriented(volume: Volume, letters: str) -> Volume:
    """`volume` with its axes exchanged and turned so that columns, rows and frames go where `letters` say.

    "LPS": columns to the patient's left, rows to the posterior, frames to the superior (to the head), as NIfTI's
    letters are. Nothing is interpolated: an oblique image keeps its grid and goes the nearest way. Raises UnfitImage
    where the file does not say how its pixels stand in the patient.
    """
    if volume.affine is None:
        raise UnfitImage(NO_PLACE.format("an orientation"))
    spacing_of(volume)
    axes, flips = _turn(volume.affine, letters)
    pixels = np.moveaxis(volume.pixels, 1, 3).transpose(2, 1, 0, 3)  # [columns, rows, frames, channels]
    turned = np.flip(pixels.transpose(*axes, 3), tuple(axis for axis in range(3) if flips[axis]))
    affine = volume.affine[:, [*axes, 3]].copy()
    for axis in range(3):
        if flips[axis]:
            affine[:, 3] += affine[:, axis] * (turned.shape[axis] - 1)
            affine[:, axis] *= -1
    return Volume(np.ascontiguousarray(turned.transpose(2, 3, 1, 0)), affine)


def _turn(affine: Affine, letters: str) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """For each axis to be, which of the old axes it is and whether that one is turned round.

    Of the six ways to give each new axis an old one, the one whose directions agree most.
    """
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    world = [_POSITIVE.find(letter) if letter in _POSITIVE else _NEGATIVE.find(letter) for letter in letters]
    signs = [1 if letter in _POSITIVE else -1 for letter in letters]
    best = max(
        permutations(range(3)),
        key=lambda axes: sum(abs(directions[row, axis]) for row, axis in zip(world, axes, strict=True)),
    )
    flips = (directions[row, axis] * sign < 0 for row, axis, sign in zip(world, best, signs, strict=True))
    return best, tuple(bool(flip) for flip in flips)


def respaced(
    image: Pixels,
    own: Spacing,
    *,
    spacing: Spacing,
    size: tuple[int, ...],
    max_upsampling: float,
    outside: float | None = None,
) -> Pixels:
    """`image` [channels, depth, rows, columns] at `spacing`, cropped or padded around its centre to `size`.

    `own`: its spacing now, of its last axes as many as `size` has; all in mm. Linear between pixels. An axis that
    becomes coarser is smoothed first, with the Gaussian that makes a pixel of the old spacing one of the new (Cardoso
    et al. 2015, "Scale factor point spread function matching", MICCAI): without, detail beyond the new grid
    would come back as a false pattern. Outside the image stands `outside`, or else its least value.

    Raises UnfitImage where an axis would have to become finer by more than `max_upsampling`.
    """
    own = own[-len(size) :]
    if (factor := max(now / then for now, then in zip(own, spacing, strict=True))) > max_upsampling:
        raise UnfitImage(
            f"it is coarser than the study's spacing by a factor of {factor:.3g}, and [input] max_upsampling is "
            f"{max_upsampling:g}"
        )
    bands = [_respaced(band.reshape(band.shape[-len(size) :]), own, spacing, size, outside) for band in image]
    return np.stack(bands)


def _respaced(band: Pixels, own: Spacing, spacing: Spacing, size: tuple[int, ...], outside: float | None) -> Pixels:
    """One channel. ITK counts columns first, so everything about an axis is turned round."""
    sitk = itk()
    image = sitk.GetImageFromArray(band)
    image.SetSpacing(own[::-1])
    variances = [max(then**2 - now**2, 0.0) / FWHM**2 for now, then in zip(own, spacing, strict=True)][::-1]
    if any(variances):
        image = sitk.DiscreteGaussian(image, variances, KERNEL, KERNEL_ERROR, True)
    origin = [first(*axis) for axis in zip(band.shape, own, spacing, size, strict=True)][::-1]
    grid = sitk.ResampleImageFilter()
    grid.SetSize(size[::-1])
    grid.SetOutputSpacing(spacing[::-1])
    grid.SetOutputOrigin(origin)
    grid.SetOutputDirection(image.GetDirection())
    grid.SetInterpolator(sitk.sitkLinear)
    grid.SetDefaultPixelValue(float(band.min()) if outside is None else outside)
    found: Pixels = sitk.GetArrayFromImage(grid.Execute(image))
    return found


def restored(found: Pixels, back: Affine, shape: tuple[int, int, int]) -> Pixels:
    """What was found in a harmonised image, [structures, *size], on its own voxels: [structures, *shape].

    `back` as `Recipe.gridded` gives it. Linear between pixels; 0 where harmonising cut the image off, as on all frames
    but the middle one of a 2-D size.
    """
    sitk = itk()
    inverse = np.linalg.inv(back)[np.ix_([2, 1, 0, 3], [2, 1, 0, 3])]  # ITK counts columns first
    grid = sitk.ResampleImageFilter()
    grid.SetSize(shape[::-1])
    grid.SetTransform(sitk.AffineTransform(inverse[:3, :3].ravel().tolist(), inverse[:3, 3].tolist()))
    grid.SetInterpolator(sitk.sitkLinear)
    bands = found if found.ndim == 4 else found[:, None]
    return np.stack([sitk.GetArrayFromImage(grid.Execute(sitk.GetImageFromArray(band))) for band in bands])


def displaced(bands: Pixels, back: Affine, displacement: Pixels) -> Pixels:
    """`bands` [channels, *shape] of an image's own voxels, on a harmonised grid from whose pixels it is displaced.

    `back` of the image as `Recipe.gridded` gives it; `displacement` [depth, rows, columns, 3] is to where on that grid
    each pixel's value lies, in pixels along these axes. Gives [channels, depth, rows, columns], linear between the
    image's voxels, and its least value outside.
    """
    sitk = itk()
    inner = back[np.ix_([2, 1, 0, 3], [2, 1, 0, 3])]  # ITK counts columns first
    vectors = sitk.GetImageFromArray(displacement[..., ::-1].astype(np.float64), isVector=True)
    grid = sitk.ResampleImageFilter()
    grid.SetReferenceImage(vectors)
    to_voxels = sitk.AffineTransform(inner[:3, :3].ravel().tolist(), inner[:3, 3].tolist())
    grid.SetTransform(sitk.CompositeTransform([to_voxels, sitk.DisplacementFieldTransform(vectors)]))  # the last first
    grid.SetInterpolator(sitk.sitkLinear)
    found = []
    for band in bands:
        grid.SetDefaultPixelValue(float(band.min()))
        found.append(sitk.GetArrayFromImage(grid.Execute(sitk.GetImageFromArray(band))))
    return np.stack(found)


def first(length: int, own: float, spacing: float, size: int) -> float:
    """Where the first new pixel of an axis is, in mm from the first old one.

    The whole image in new pixels is centred on the old one, then cut or padded by whole pixels: a spacing that is right
    already moves nothing, where an odd difference of lengths would shift by half a pixel.
    """
    whole = max(1, round(length * own / spacing))
    centre = (length - 1) / 2 * own
    return centre - (whole - 1) / 2 * spacing + (whole - size) // 2 * spacing
