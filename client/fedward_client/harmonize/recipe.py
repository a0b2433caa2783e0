"""How one image becomes one tensor.

A 2-D size takes what a viewer shows of all but CT and PT: the VOI LUT or window, and MONOCHROME1 turned. A 3-D size, a
window and a bias field take modality units: each slice has a window of its own, which would tear a volume apart.

The order is fixed, so that every hospital does the same; what in brackets is asked for by the study's [input]:

1. [orientation] axes exchanged and turned round;
2. frames: the middle one for a 2-D size, all of them as depth for a 3-D size;
3. pixels that are not finite take the image's own extremes;
4. colour to grey, when the study asks for one channel;
5. [bias_field] N4, at the device's own resolution;
6. [crop] to the foreground's box;
7. intensity, from the pixels that are left, still at the device's own resolution;
8. [spacing] resampling to a spacing, cropped or padded to the size; without one, resampling to the size;
9. grey to three equal channels, when the study asks for three.

The digest names all that: same digest, same bits from the same pixels, whatever the number of threads. Change `VERSION`
whenever the outcome changes.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor
from typing import Any

import numpy as np
import numpy.typing as npt
import rfc8785

from fedward_client.harmonize import bias, channels, intensity
from fedward_client.harmonize.foreground import Box, box_of
from fedward_client.harmonize.grid import Spacing, first, oriented, respaced, spacing_of
from fedward_client.harmonize.intensity import Image
from fedward_client.harmonize.resample import resample
from fedward_client.volume import Affine, Volume
from fedward_common.errors import UnfitImage, UnreadableFile
from fedward_common.landmarks import own_landmarks, relative
from fedward_common.metrics.base import Floats
from fedward_common.study import Input

VERSION = 2
HALF = 0.5 - 1e-6  # of a pixel, less what linear interpolation in float32 loses
OUTSIDE = (
    "a structure lies outside of what the study sees ([input] size), and an empty truth would be false: only a study "
    "of a larger size takes the image"
)

Masks = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Recipe:
    """The harmonisation that an [input] section names; made by `recipe`."""

    input: Input

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the RFC 8785 JSON of the section, of how pixels are read and of this code's version."""
        content: dict[str, Any] = {"version": VERSION, "input": self.input.model_dump(mode="json"), "voi": self.voi}
        return hashlib.sha256(rfc8785.dumps(content)).hexdigest()

    @property
    def voi(self) -> bool | None:
        """How `read_volume` is asked, else the modality decides (None).

        Frames have windows of their own, which would tear a volume apart, and so are slices read (`read_slices`). A
        study's window is in modality units; a bias field is a factor on them, which a viewer's window would hide.
        """
        units = self.is_3d or self.input.intensity == "window" or self.input.bias_field is not None
        return False if units else None

    @property
    def is_3d(self) -> bool:
        """Whether volumes are wanted."""
        return len(self.input.size) == 3

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of what `apply` returns: (channels, *size)."""
        return (self.input.channels, *self.input.size)

    def apply(self, volume: Volume) -> Image:
        """Harmonise `volume`, of 1 or 3 channels, to a contiguous float32 [channels, *size].

        Raises UnreadableFile for pixels of another shape, and UnfitImage where the study asks for what the image does
        not have: a place in the patient, pixels of a known size or fine enough, a bias field.
        """
        return self.masked(volume, np.zeros((0, *volume.pixels[:, 0].shape), np.uint8))[0]

    def masked(self, volume: Volume, masks: Masks) -> tuple[Image, Masks]:
        """`apply`, and the `masks` of `volume`, 0 or 1 [structures, frames, rows, columns], brought to the same place.

        These are [structures, *size]: a pixel is a structure's where that takes half of it or more. Raises what `apply`
        raises, and UnfitImage where a structure lies outside of what is left of the image: an empty truth would be
        false.
        """
        image, spacing, box = self._prepared(volume)
        return self._finished(image, spacing), self._placed(masks, volume.affine, spacing, box)

    def check(self, volume: Volume, masks: Masks) -> None:
        """Raise what `masked` raises, without a scale that sites measure."""
        _, spacing, box = self._prepared(volume)
        self._placed(masks, volume.affine, spacing, box)

    def _placed(self, masks: Masks, affine: Affine | None, spacing: Spacing, box: Box) -> Masks:
        """The masks of an image that was `_prepared`."""
        if not len(masks):
            return np.zeros((0, *self.input.size), np.uint8)
        shown = Volume(masks.transpose(1, 0, 2, 3).astype(np.float32), affine)
        whole = self._frames(self._oriented(shown).pixels)
        bands = whole[(slice(None), *box)]
        seen = bands[(slice(None), *self._seen(bands.shape[1:], spacing))]  # one that is only small stays
        placed = (self._sized(bands, spacing, outside=0.0) >= HALF).astype(np.uint8)
        there, near, found = (each.reshape(len(masks), -1).any(axis=1) for each in (whole, seen, placed))
        if (there & ~near & ~found).any():
            raise UnfitImage(OUTSIDE)
        return placed

    def gridded(self, volume: Volume) -> tuple[Image, Affine]:
        """`apply`, and where its pixels come from. Raises what `apply` raises.

        That is [4, 4], from (depth, row, column, 1) of it, of a 2-D size the depth is 0, to (frame, row, column, 1) of
        `volume`; the middles of pixels are whole numbers.
        """
        image, spacing, box = self._prepared(volume)
        scale, shift = self._steps(image.shape[1:], spacing)
        shift += [each.start or 0 for each in box]
        shift[0] += 0 if self.is_3d else len(self._oriented(volume).pixels) // 2
        inner = np.diag([*scale, 1.0])
        inner[:3, 3] = shift
        return self._finished(image, spacing), self._turned_back(volume) @ inner

    def _steps(self, lengths: Sequence[int], spacing: Spacing) -> tuple[Floats, Floats]:
        """How far apart the new pixels of an image of `lengths` are [3], and where the first is [3], in old pixels."""
        scale, shift, flat = np.ones(3), np.zeros(3), 3 - len(self.input.size)
        for axis, size in enumerate(self.input.size, start=flat):
            if self.input.spacing is None:
                scale[axis] = lengths[axis] / size
                shift[axis] = scale[axis] / 2 - 0.5
            else:
                own, asked = spacing[axis], self.input.spacing[axis - flat]
                scale[axis] = asked / own
                shift[axis] = first(lengths[axis], own, asked, size) / own
        return scale, shift

    def _seen(self, lengths: Sequence[int], spacing: Spacing) -> tuple[slice, ...]:
        """The pixels of an image of `lengths` whose middles the new ones cover."""
        scale, shift = self._steps(lengths, spacing)
        size = (1,) * (3 - len(self.input.size)) + self.input.size
        lower, upper = shift - scale / 2, shift + scale * (np.array(size) - 0.5)
        return tuple(
            slice(max(0, ceil(low)), floor(high) + 1) for low, high in zip(lower.tolist(), upper.tolist(), strict=True)
        )

    def _turned_back(self, volume: Volume) -> Affine:
        """[4, 4]: (frame, row, column, 1) of the volume with its axes turned to those of `volume` itself."""
        turned = self._oriented(volume)
        if volume.affine is None or turned.affine is None:
            return np.eye(4)
        order = [2, 1, 0, 3]  # an affine counts columns first
        return np.asarray(np.linalg.solve(volume.affine, turned.affine)[np.ix_(order, order)], dtype=np.float64)

    def _finished(self, image: Image, spacing: Spacing) -> Image:
        """Steps 7 to 9."""
        sized = self._sized(intensity.scale(image, self.input), spacing)
        return np.ascontiguousarray(np.broadcast_to(sized, self.shape), dtype=np.float32)

    def _sized(self, image: Image, spacing: Spacing, outside: float | None = None) -> Image:
        if self.input.spacing is None:
            return resample(image, self.input.size)
        return respaced(
            image,
            spacing,
            spacing=self.input.spacing,
            size=self.input.size,
            max_upsampling=self.input.max_upsampling,
            outside=outside,
        )

    def measure(self, volume: Volume) -> Floats:
        """The nine relative landmarks of an image as it is before its intensity is scaled, for `landmarks.site_sums`.

        Raises what `apply` raises, and UnfitImage for an image that has one value only.
        """
        image, _, _ = self._prepared(volume)
        found = relative(own_landmarks(intensity.measured(image, self.input)))
        if found is None:
            raise UnfitImage("it has one value nearly everywhere, so it has no landmarks")
        return found

    def unscaled(self, volume: Volume) -> Image:
        """An image [channels, depth, rows, columns] before its intensity is scaled. Raises what `apply` raises."""
        return self._prepared(volume)[0]

    def _prepared(self, volume: Volume) -> tuple[Image, Spacing, Box]:
        """Steps 1 to 6: an image [channels, depth, rows, columns]; its spacing where the study asks for one.

        And the box of it that is left, of what was turned.
        """
        pixels = volume.pixels
        if pixels.ndim != 4 or not pixels.size or pixels.shape[1] not in (1, 3):
            raise UnreadableFile(f"an image of shape {pixels.shape} is none of frames of 1 or 3 channels")
        volume = self._oriented(volume)
        spacing = spacing_of(volume, flat=not self.is_3d) if self.input.spacing is not None else ()
        image = intensity.finite(self._frames(volume.pixels))
        if self.input.channels == 1:
            image = channels.to_grey(image)
        if self.input.bias_field == "n4":
            image = bias.corrected(image)
        box = box_of(image) if self.input.crop == "foreground" else (slice(None),) * 3
        return image[(slice(None), *box)], spacing, box

    def _oriented(self, volume: Volume) -> Volume:
        return volume if self.input.orientation is None else oriented(volume, self.input.orientation)

    def _frames(self, pixels: Image) -> Image:
        """Of an image or of masks: [channels, depth, rows, columns]."""
        middle = len(pixels) // 2
        return (pixels if self.is_3d else pixels[middle : middle + 1]).transpose(1, 0, 2, 3)


def recipe(section: Input) -> Recipe:
    """The recipe for a study's [input] section."""
    return Recipe(section)
