"""What the pixels of an image say against using it (`look`), and a small picture of it (`thumbnail`).

Both run where files are read (`intake.reading.Readers`), which holds one image in memory at a time; what comes back is
a few words, or a picture of a few kilobytes. Raise VERSION whenever an image would be judged differently.
"""

from base64 import b64encode
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fedward_client.deidentify import burned_in
from fedward_client.intake import describe, elements, part10
from fedward_client.intake.bounds import opened
from fedward_client.intake.files import NIFTI, PICTURES, digest, read_volume
from fedward_client.intake.quiet import quiet
from fedward_client.intake.reading import Found, Row
from fedward_client.intake.walk import Entry
from fedward_client.site import Site
from fedward_client.volume import Affine, Pixels
from fedward_common.errors import UnreadableFile

VERSION = 1
BLANK, SATURATED, TEXT = "blank", "saturated", describe.BURNED_IN

# An export that failed is of one value; an empty frame has a speck on it besides, a marker or a name, less than a
# hundredth of it. Noise is never blank: it takes up its range.
BLANK_SHARE = 0.99  # of the pixels,
BLANK_BAND = 0.01  # of the image's range, around its median

# Bone, metal and bright echoes reach the greatest value in a few pixels of a thousand; where a twentieth of what is not
# background does, detail was clipped. The least value is not judged: it is the background that scanners leave around a
# patient, half of an image as a rule.
SATURATED_SHARE = 0.05  # of the pixels above the least value

# What is measured of an image, evenly spaced, so that memory is bounded: its frames, and the longer side of a frame.
MOST_FRAMES = 16
MOST_SIDE = 1024
MOST_SIDE_FOR_TEXT = 4096  # a larger image has larger letters

THUMBNAIL = 128  # pixels of its longer side
_SHOWN = (0.5, 99.5)  # percentiles of grey values that become black and white


@dataclass(frozen=True, slots=True)
class _Kind:
    """What a header says of pixels: whether they may hold text or do, whether the least value is the brightest."""

    suspicious: bool = False
    says_text: bool = False
    inverted: bool = False
    padded: bool = False


def look(site: Site, key: str, found: Found) -> Row:
    """A file's digest and the flags that its pixels get, separated by ", "; or the reason why it cannot be read.

    `passing` is whether that reason is the file system's, which may be another one tomorrow.
    """
    _, entry = found
    try:
        return {"key": key, "content": digest(entry.path), "flags": ", ".join(_flags(site, entry.path))}
    except UnreadableFile as error:
        return {"key": key, "reason": str(error), "passing": isinstance(error.__cause__, OSError)}


def _flags(site: Site, path: Path) -> list[str]:
    kind = _kind(site, path)
    # in modality units: a viewer's window would clip
    pixels = read_volume(path, voi=False, stack=False).pixels
    blank = is_blank(pixels)
    judged = not blank and not (kind.inverted and kind.padded)  # padding has the least value, the brightest there
    found = {
        BLANK: blank,
        SATURATED: judged and is_saturated(pixels, inverted=kind.inverted),
        TEXT: kind.says_text or (kind.suspicious and bool(burned_in.lines(_thinned(pixels, MOST_SIDE_FOR_TEXT)))),
    }
    return [name for name, holds in found.items() if holds]


def _kind(site: Site, path: Path) -> _Kind:
    """What a file's header says; of pictures, what the site says."""
    name = path.name.casefold()
    if name.endswith((*NIFTI, *PICTURES)):
        return _Kind(suspicious=name.endswith(PICTURES) and (not site.modality or burned_in.is_screen(site.modality)))
    with quiet(), opened(path) as file:
        dataset = part10.parse(file, pixels=False)
        return _Kind(
            suspicious=burned_in.is_suspicious(dataset),
            says_text=TEXT in describe.flags(dataset),
            inverted=elements.text(dataset, "PhotometricInterpretation") == "MONOCHROME1",
            padded="PixelPaddingValue" in dataset,
        )


def is_blank(pixels: Pixels) -> bool:
    """Whether [frames, channels, rows, columns] are almost constant, of one colour all over."""
    values = _thinned(pixels, MOST_SIDE)
    band = BLANK_BAND * (float(values.max()) - float(values.min()))
    near = np.abs(values - np.median(values, axis=(0, 2, 3), keepdims=True)) <= band
    return bool(near.all(axis=1).mean() >= BLANK_SHARE)


def is_saturated(pixels: Pixels, *, inverted: bool = False) -> bool:
    """Whether much of [frames, channels, rows, columns] is of the greatest value, in colour of white.

    `inverted`: of the least value, which is shown as white.
    """
    values = _thinned(pixels, MOST_SIDE)
    if inverted:
        values = -values
    lit = np.count_nonzero((values > values.min()).any(axis=1))
    full = np.count_nonzero((values == values.max()).all(axis=1))
    return bool(lit and full > SATURATED_SHARE * lit)


def _thinned(pixels: Pixels, most: int) -> Pixels:
    """Up to `MOST_FRAMES` frames of an image, and every so many of their pixels that no side has more than `most`."""
    step = -(-max(pixels.shape[2:]) // most)
    return pixels[burned_in.evenly(len(pixels), MOST_FRAMES), :, ::step, ::step]


def thumbnail(_site: Site, key: str, found: Found) -> Row:
    """A file's digest, and a PNG of its middle frame, base64; both "" where it cannot be read."""
    _, entry = found
    try:
        return {"key": key, "content": digest(entry.path), "png": b64encode(_png(entry)).decode()}
    except UnreadableFile:
        return {"key": key, "content": "", "png": ""}


def _png(entry: Entry) -> bytes:
    from PIL import Image

    volume = read_volume(entry.path, voi=None, stack=False)
    frames = burned_in.evenly(len(volume.pixels), MOST_FRAMES)  # of which text was looked for
    frame = _upright(volume.pixels[frames[len(frames) // 2]], volume.affine)
    shown = _as_bytes(frame)
    picture = Image.fromarray(shown[0] if len(shown) == 1 else np.ascontiguousarray(np.moveaxis(shown, 0, -1)))
    picture.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    out = BytesIO()
    picture.save(out, "PNG", optimize=True)
    return out.getvalue()


def _upright(frame: Pixels, affine: Affine | None) -> Pixels:
    """[channels, rows, columns] as radiologists look at it: front or head up, the patient's right on the left."""
    if affine is None:
        return frame
    for axis, place in ((2, 0), (1, 1)):
        way = affine[:3, place]
        main = int(np.argmax(np.abs(way)))
        if way[main] > 0 and (main == 0 or axis == 1):
            frame = np.flip(frame, axis)
    return frame


def _as_bytes(frame: Pixels) -> npt.NDArray[np.uint8]:
    """[channels, rows, columns] from black to white: grey between two percentiles, colour between its extremes."""
    low, high = np.percentile(frame, _SHOWN) if len(frame) == 1 else (frame.min(), frame.max())
    scaled = (frame - low) / max(float(high - low), float(np.finfo(np.float32).tiny))
    shown: npt.NDArray[np.uint8] = np.rint(255 * np.clip(scaled, 0, 1)).astype(np.uint8)
    return shown
