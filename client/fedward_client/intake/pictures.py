"""One picture, PNG, JPEG, PGM or TIFF: what its header says (`read_header`), and its pixels (`read_pixels`).

Values stay as they are stored, 0 to 255 or 0 to 65535: nothing is scaled. Colours of more than 8 bits are refused, for
Pillow would drop the lower ones; so are colours that are no light (CMYK, Lab), files that are cut, and what is more
than fits in memory. Of EXIF the orientation is taken, and no text of any kind.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from fedward_client.intake import pillow
from fedward_client.intake.bounds import MAX_VALUES
from fedward_client.volume import Volume
from fedward_common.errors import UnreadableFile

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PAGES = 4096  # of a TIFF file

_GREY = {"1", "L", "LA", "I;16", "I;16L", "I;16B", "I;16N", "I", "F"}  # Pillow's modes
_COLOR = {"P", "PA", "RGB", "RGBX", "RGBA", "YCbCr"}
_BITS, _PHOTOMETRIC = 258, 262  # tags of TIFF 6.0
_TURNED = range(5, 9)  # EXIF orientations that make columns of rows

Bits = Literal[8, 16, 32]
Stored = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureHeader:
    """What a picture's header says, once it is turned upright.

    `channels` is 1 or 3, as pixels are read; `bits` a channel, 8 where fewer are stored; `frames` are the pages of a
    TIFF file; `format` is PNG, JPEG, PGM (PPM and PBM too) or TIFF.
    """

    rows: int
    columns: int
    frames: int
    channels: int
    bits: Bits
    format: str


def read_header(path: Path) -> PictureHeader:
    """What a picture's header says. Decodes no pixels.

    Raises UnreadableFile, with a reason in words, for what is no picture or cannot be used.
    """
    with pillow.opened_picture(path) as image:
        return _header(image)


def read_pixels(path: Path) -> Volume:
    """The pixels as float32 [frames, channels, rows, columns] in the units of the file, without an affine.

    A palette becomes RGB. What is transparent is laid on black. Fewer than 8 bits become 8, 0 to 255, but a PGM of
    another greatest value keeps its own values. TIFF's WhiteIsZero is turned, so that more is brighter. Whole numbers
    beyond 2^24 are rounded to float32. Raises UnreadableFile with a reason in words.
    """
    with pillow.opened_picture(path) as image:
        header = _header(image)
        out = np.empty((header.frames, header.channels, header.rows, header.columns), np.float32)
        for frame in range(header.frames):
            if header.format == "TIFF":
                image.seek(frame)
            _paint(image, out[frame])
        if not np.isfinite(out).all():
            raise UnreadableFile("its pixels are not all finite numbers")
        return Volume(out)


def _header(image: "Image") -> PictureHeader:
    columns, rows = image.size
    if pillow.orientation(image) in _TURNED:
        columns, rows = rows, columns
    if image.mode not in _GREY | _COLOR:
        raise UnreadableFile("its colours are neither grey nor RGB; save it as one of them")
    header = PictureHeader(
        rows=rows,
        columns=columns,
        frames=_frames(image),
        channels=3 if image.mode in _COLOR else 1,
        bits=_bits(image),
        format=pillow.FORMATS[image.format or ""],
    )
    if header.frames * header.channels * rows * columns > MAX_VALUES:
        raise UnreadableFile(f"{header.frames} pages of {rows} x {columns} pixels are more than can be read at once")
    return header


def _frames(image: "Image") -> int:
    """The pages of a TIFF file, which must be alike. Of an animation or a stereo pair, the first picture is read."""
    if image.format != "TIFF":
        return 1
    first = (image.size, image.mode, _bits(image))
    for page in range(1, MAX_PAGES + 1):
        try:
            image.seek(page)
        except EOFError:
            image.seek(0)
            return page
        if (image.size, image.mode, _bits(image)) != first:
            raise UnreadableFile("its pages differ in size or colours; save each as a file of its own")
    raise UnreadableFile(f"it has more than {MAX_PAGES} pages")


def _bits(image: "Image") -> Bits:
    """Bits a channel, by what the file says rather than by how Pillow holds them."""
    stored = pillow.tag(image, _BITS) or ()
    most = max(stored, default=0) if isinstance(stored, tuple) else int(stored)
    if image.mode in _COLOR:
        if max(most, pillow.greatest(image)) > 255 or most > 8:
            raise pillow.deep()
        return 8
    if image.mode.startswith("I;16") or (image.mode == "I" and (image.format == "PPM" or most == 16)):
        return 16
    return 32 if image.mode in ("I", "F") else 8


def _paint(image: "Image", out: npt.NDArray[np.float32]) -> None:
    """One page into `out` [channels, rows, columns]."""
    if (values := pillow.binary_grey(image)) is not None:
        out[0] = values
        return
    orientation, greatest = pillow.orientation(image), pillow.greatest(image)
    white_is_zero = pillow.tag(image, _PHOTOMETRIC) == 0
    image.load()
    image = pillow.upright(_plain(image), orientation)
    stored: Stored = np.asarray(image)
    out[:] = np.moveaxis(stored, -1, 0)[: len(out)] if stored.ndim == 3 else stored
    if image.mode in ("LA", "RGBA"):
        out *= stored[..., -1] / np.float32(255)
    if greatest:  # Pillow scaled them to 255 or 65535; this is its inverse, exactly
        out[:] = np.rint(out * (greatest / np.float64(65535 if image.mode == "I" else 255)))
    if white_is_zero and image.mode.startswith("I;16"):  # those of up to 8 bits, Pillow turns
        np.subtract(65535, out, out=out)


def _plain(image: "Image") -> "Image":
    """The picture in a mode whose values are light: no palette, no single bits, no luma and chroma."""
    if image.mode == "1":
        return image.convert("L")
    if image.mode in ("P", "PA"):
        return image.convert("RGBA" if image.mode == "PA" or "transparency" in image.info else "RGB")
    return image.convert("RGB") if image.mode == "YCbCr" else image
