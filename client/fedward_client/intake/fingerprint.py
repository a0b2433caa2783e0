"""What tells whether two images are the same, or nearly: a digest of the pixels, and a perceptual hash. Pure.

The perceptual hash is the DCT-based pHash (Zauner 2010, "Implementation and benchmarking of perceptual image hash
functions", 3.2.1): the signs of an image's lowest spatial frequencies against their median. It hardly changes when an
image is saved anew, resized, or shown brighter. Ours has 256 bits instead of 64, because anatomy looks alike where
holiday pictures do not, and takes the frequencies from the pixels as they are instead of from a thumbnail. It changes
with the edges, so an image has three: whole, and cropped twice.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedward_client.volume import Pixels, Volume

SIDE = 16  # frequencies of an axis
BITS = SIDE * SIDE
CROPS = (0.0, 0.015, 0.03)  # at each edge: hashes bear a difference of 1 %, so images cropped by 3 % are known again
LEAST = 20  # pixels a side: in smaller ones the frequencies repeat each other, and strangers look alike
DIGITS = 9  # of a frequency, in units of the image's range: beyond, processors round differently

Plane = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """`pixels`: hex BLAKE2b-128 of an image's shape and pixels as they are decoded.

    `looks`: the perceptual hashes of its middle frame by `CROPS`, hex of `BITS` each; none where it shows nothing.
    """

    pixels: str
    looks: tuple[str, ...]


def fingerprint(volume: Volume) -> Fingerprint:
    """The fingerprint of an image. Where its pixels stand in the patient is no part of it."""
    pixels = volume.pixels
    digest = hashlib.blake2b(repr(pixels.shape).encode() + b"\0", digest_size=16)
    digest.update(np.ascontiguousarray(pixels, "<f4").data)
    return Fingerprint(digest.hexdigest(), looks(pixels))


def looks(pixels: Pixels) -> tuple[str, ...]:
    """The perceptual hashes of [frames, channels, rows, columns]: of the middle frame, which a 2-D study takes.

    One that is too small for them has a digest of its pixels instead, so it is like an equal one and no other.
    """
    plane = pixels[len(pixels) // 2].mean(axis=0, dtype=np.float64)
    finite = np.isfinite(plane)
    if not finite.any():
        return ()
    plane = np.where(finite, plane, plane[finite].min())
    span = float(plane.max() - plane.min())
    if span == 0 or not np.isfinite(span):
        return ()
    if min(plane.shape) < LEAST:
        return (hashlib.blake2b(repr(plane.shape).encode() + plane.tobytes(), digest_size=BITS // 8).hexdigest(),)
    plane = (plane - plane.min()) / span
    hashes = (_hash(_cropped(plane, share)) for share in CROPS)
    return tuple(dict.fromkeys(one for one in hashes if one))


def _cropped(plane: Plane, share: float) -> Plane:
    rows, columns = (round(share * length) for length in plane.shape)
    return plane[rows : plane.shape[0] - rows, columns : plane.shape[1] - columns]


def _hash(plane: Plane) -> str:
    """Which frequencies are above their median; "" where all are 0."""
    waves = np.round(_low_frequencies(plane), DIGITS)
    return np.packbits(waves > np.median(waves)).tobytes().hex() if waves.any() else ""


def _low_frequencies(plane: Plane) -> Plane:
    """Frequencies 1 to `SIDE` of the DCT-II of both axes, [SIDE, SIDE], as means: of the same size for every size."""
    rows, columns = (_cosines(length) for length in plane.shape)
    found: Plane = rows @ plane @ columns.T
    return found


def _cosines(length: int) -> Plane:
    """The cosines [SIDE, length] of the DCT-II of an axis, divided by its length."""
    places = (np.arange(length) + 0.5) / length
    waves: Plane = np.cos(np.pi * np.outer(np.arange(1, SIDE + 1), places)) / length
    return waves
