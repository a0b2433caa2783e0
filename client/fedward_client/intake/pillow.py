"""Pillow, kept quiet and kept small: it logs the texts that it reads, and those may be patients' names."""

import logging
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fedward_client.intake.bounds import opened
from fedward_common.errors import UnreadableFile

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = {"PNG": "PNG", "JPEG": "JPEG", "MPO": "JPEG", "PPM": "PGM", "TIFF": "TIFF"}  # by Pillow's own name

_OPENED = ("PNG", "JPEG", "PPM", "TIFF")  # what opens JPEG finds MPO, which begins as one
_ORIENTATION = 274  # the tag of EXIF and TIFF 6.0
# What Pillow raises on files that are not what they say. Their texts may hold values: never pass them on.
_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)


@contextmanager
def opened_picture(path: Path) -> Iterator["Image"]:
    """A picture that Pillow opened, not yet decoded; whatever Pillow raises on it, now or later, is an UnreadableFile.

    A file of more pixels than Pillow's own limit (89 million a page) is refused before anything is allocated.
    """
    from PIL import Image, UnidentifiedImageError

    with opened(path) as file, _quiet():
        try:
            _refuse_deep_png(file.peek(26))
            with Image.open(file, formats=_OPENED) as image:
                yield image
        except UnidentifiedImageError:
            raise UnreadableFile("it is no PNG, JPEG, PGM or TIFF picture that can be read") from None
        except (Image.DecompressionBombError, Image.DecompressionBombWarning, MemoryError):
            raise UnreadableFile("it has more pixels than can be read at once") from None
        except OSError as error:
            if error.errno is not None:  # the file system's, not Pillow's
                raise
            raise _damaged() from None
        except _ERRORS:
            raise _damaged() from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Inside, Pillow neither logs nor warns, and a bomb is an error; then all is as it was. One thread at a time."""
    from PIL.Image import DecompressionBombWarning

    logger = logging.getLogger("PIL")  # its children take their level from it
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", DecompressionBombWarning)
            yield
    finally:
        logger.setLevel(level)


def _damaged() -> UnreadableFile:
    return UnreadableFile("it is damaged or ends early")


def deep() -> UnreadableFile:
    """The error for colours whose lower bits Pillow would drop."""
    return UnreadableFile("colours of more than 8 bits are not read; save it with 8 bits, or as grey")


def _refuse_deep_png(head: bytes) -> None:
    """Bit depth and colour type stand in IHDR (PNG 11.2.2); Pillow reads colours of 16 bits, but as 8."""
    if head[:8] == b"\x89PNG\r\n\x1a\n" and head[12:16] == b"IHDR" and head[24:25] == b"\x10" and head[25:26] != b"\0":
        raise deep()


def tag(image: "Image", number: int) -> Any:
    """A tag of a TIFF file's page, None where there is none."""
    from PIL.TiffImagePlugin import TiffImageFile

    return image.tag_v2.get(number) if isinstance(image, TiffImageFile) else None


def greatest(image: "Image") -> int:
    """The greatest value that a PGM or PPM header names, from which Pillow scales; 0 where it does not.

    To be asked for before the pixels are loaded.
    """
    from PIL.PpmImagePlugin import PpmImageFile

    if not isinstance(image, PpmImageFile) or not image.tile:
        return 0
    arguments = image.tile[0].args
    named = arguments[1] if isinstance(arguments, tuple) else 0
    return named if isinstance(named, int) else 0


def binary_grey(image: "Image") -> npt.NDArray[Any] | None:
    """The values [rows, columns] of a binary PGM whose greatest is neither 255 nor 65535, None for all others.

    Pillow takes seconds a million pixels for these. To be asked for before the pixels are loaded.
    """
    from PIL.ImageFile import ImageFile

    most = greatest(image)
    if image.mode not in ("L", "I") or not isinstance(image, ImageFile) or image.tile[0].codec_name != "ppm":
        return None
    assert image.fp is not None
    image.fp.seek(image.tile[0].offset)
    dtype = np.dtype(">u2" if most > 255 else "u1")
    data = image.fp.read(image.width * image.height * dtype.itemsize)
    return np.minimum(np.frombuffer(data, dtype), most).reshape(image.height, image.width)


def orientation(image: "Image") -> int:
    """EXIF's orientation, 1 (upright) where there is none, and for TIFF, which Pillow turns itself.

    To be asked for before the pixels are loaded.
    """
    from PIL.Image import Exif

    if image.format == "TIFF" or not isinstance(image.info.get("exif"), bytes):
        return 1
    exif = Exif()
    try:
        exif.load(image.info["exif"])
        found = exif.get(_ORIENTATION)
    except (OSError, *_ERRORS):  # a damaged block says nothing; the picture is whole without it
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def upright(image: "Image", orientation: int) -> "Image":
    """The picture turned from an EXIF orientation (1 to 8)."""
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    return image.transpose(turns[orientation]) if orientation in turns else image
