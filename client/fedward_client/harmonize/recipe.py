"""How one image becomes one tensor.

The order is fixed, so that every hospital does the same:

1. frames: the middle one for a 2-D size, all of them as depth for a 3-D size;
2. pixels that are not finite take the image's own extremes;
3. colour to grey, when the study asks for one channel;
4. intensity, from all pixels at the device's own resolution;
5. resampling to the size;
6. grey to three equal channels, when the study asks for three.

The digest names all that: same digest, same bits from the same pixels, whatever the number of threads. Change `VERSION`
whenever the outcome changes.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import rfc8785

from fedward_client.harmonize import channels, intensity
from fedward_client.harmonize.intensity import Image
from fedward_client.harmonize.resample import resample
from fedward_common.errors import UnreadableFile
from fedward_common.study import Input

VERSION = 1


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
        """How `read_pixels` is asked: a study's window is in modality units, else the modality decides (None)."""
        return False if self.input.intensity == "window" else None

    @property
    def is_3d(self) -> bool:
        """Whether volumes are wanted."""
        return len(self.input.size) == 3

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of what `apply` returns: (channels, *size)."""
        return (self.input.channels, *self.input.size)

    def apply(self, pixels: Image) -> Image:
        """Harmonise `pixels` [frames, 1 or 3 channels, rows, columns] to a contiguous float32 [channels, *size].

        Raises UnreadableFile for pixels of another shape.
        """
        if pixels.ndim != 4 or not pixels.size or pixels.shape[1] not in (1, 3):
            raise UnreadableFile(f"an image of shape {pixels.shape} is none of frames of 1 or 3 channels")
        image = self._frames(pixels).transpose(1, 0, 2, 3)  # [channels, depth, rows, columns]
        image = intensity.finite(image)
        if self.input.channels == 1:
            image = channels.to_grey(image)
        image = resample(intensity.scale(image, self.input), self.input.size)
        return np.ascontiguousarray(np.broadcast_to(image, self.shape), dtype=np.float32)

    def _frames(self, pixels: Image) -> Image:
        if len(self.input.size) == 3:
            return pixels
        middle = len(pixels) // 2
        return pixels[middle : middle + 1]


def recipe(section: Input) -> Recipe:
    """The recipe for a study's [input] section."""
    return Recipe(section)
