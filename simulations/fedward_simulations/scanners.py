"""Ultrasound scanners that differ: what a model trained in one hospital meets in the next."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class Scanner:
    """How one make of scanner shows the same tissue."""

    manufacturer: str
    model: str
    size: int  # rows and columns of its images
    resolution: int  # below `size`: how many pixels a side its beam really tells apart
    gain: float  # brightness, as a factor
    gamma: float  # of its grey map; above 1 shows dark tissue darker
    speckle: float  # standard deviation of the multiplicative noise
    grain: int  # noise cells a side; fewer are coarser

    def show(self, tissue: npt.NDArray[np.uint8], random: np.random.Generator) -> Floats:
        """The image [size, size] in 0..1 that this scanner makes of `tissue` (grey in 0..255)."""
        beam = _resized(_resized(tissue.astype(np.float32) / 255.0, self.resolution), self.size)
        noise = _resized(random.standard_normal((self.grain, self.grain), dtype=np.float32), self.size)
        seen = np.clip(beam, 0.0, 1.0) ** self.gamma * self.gain * (1.0 + self.speckle * noise)
        shown: Floats = np.clip(seen, 0.0, 1.0)
        return shown


def _resized(image: Floats, side: int) -> Floats:
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC), dtype=np.float32)
