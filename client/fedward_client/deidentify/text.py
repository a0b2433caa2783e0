"""Text that was burned into an image: where lines of it are, by their shape alone. No character is read.

Letters are thin strokes of one brightness, about as high as each other, side by side. So what is narrower than a stroke
can be is cut out with a top-hat (Serra, Image Analysis and Mathematical Morphology, 1982); what hangs together is a
glyph if its size and its strokes are a letter's; glyphs of one height and brightness in a row are a line, if they stand
out from what is between them. That is done for bright and for dark text, for thin and for thick strokes.

It misses: fewer than three letters in a row; letters lower than 5 or higher than 64 pixels; lines that are not level;
handwriting; what differs from its surroundings by less than a quarter of the image's range. Tests tell how much.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage  # type: ignore[import-untyped]
from scipy.sparse import coo_array  # type: ignore[import-untyped]
from scipy.sparse.csgraph import connected_components  # type: ignore[import-untyped]

Image = npt.NDArray[np.float32]  # [channels, rows, columns]
Gray = npt.NDArray[np.float32]  # [rows, columns]
Mask = npt.NDArray[np.bool_]
Labels = npt.NDArray[np.int32]

SMALL = 640  # pixels: images up to that size are looked at twice as large too, for letters of five or six pixels
WINDOWS = (5, 11)  # pixels: a top-hat finds strokes narrower than its window
CONTRAST = 0.25  # of the image's range, here and below: how much ink stands out from its surroundings
EVEN = 0.12  # how far the brightness of a line's glyphs may differ
LEAST_HEIGHT, MOST_HEIGHT = 5, 64  # pixels of a glyph
WIDEST = 4.0  # of a glyph's height; letters may touch
STROKE = 0.4  # of a glyph's height, the most that a stroke is wide
LEAST_GLYPHS = 3
GAP = 1.3  # of the height: the most between a line's glyphs
GROWTH = 2.0  # of the height: how far from a line its further glyphs are looked for
ALIGNED = 0.6  # share of a line's glyphs that stand on its base or hang from its top
SALIENT = 2.8  # standard deviations of what is between the glyphs


@dataclass(frozen=True, slots=True, order=True)
class Box:
    """Pixels of an image: rows `top` up to `bottom`, columns `left` up to `right`, the ends not included."""

    top: int
    left: int
    bottom: int
    right: int


@dataclass(frozen=True, slots=True)
class _Glyphs:
    """Glyphs by their left edge; every field is one number for each. `label` is their number in an image of labels."""

    top: npt.NDArray[np.float64]
    left: npt.NDArray[np.float64]
    bottom: npt.NDArray[np.float64]
    right: npt.NDArray[np.float64]
    bright: npt.NDArray[np.float64]
    label: npt.NDArray[np.float64]

    @property
    def height(self) -> npt.NDArray[np.float64]:
        return self.bottom - self.top

    def take(self, which: npt.NDArray[Any]) -> "_Glyphs":
        return _Glyphs(*(getattr(self, field.name)[which] for field in fields(self)))


def find_text(image: Image) -> list[Box]:
    """The lines of text in an image [channels, rows, columns] of any finite range, with a margin, from the top down."""
    low, high = float(image.min()), float(image.max())
    if not high > low:
        return []
    scaled = ((image - low) / (high - low)).astype(np.float32)
    shape = scaled.shape[1:]
    found = {box for part in (scaled, 1 - scaled) for window in WINDOWS for box in _lines(part, window)}
    if max(shape) <= SMALL:
        twice = ndimage.zoom(scaled, (1, 2, 2), order=1, grid_mode=True, mode="nearest")
        found |= {_halved(box) for part in (twice, 1 - twice) for box in _lines(part, WINDOWS[0])}
    return sorted({_with_margin(box, shape) for box in found})


def _halved(box: Box) -> Box:
    return Box(box.top // 2, box.left // 2, -(-box.bottom // 2), -(-box.right // 2))


def _with_margin(box: Box, shape: tuple[int, ...]) -> Box:
    """A third of a line's height around it: the faint edges of its letters, and the dot of an i."""
    margin = 1 + (box.bottom - box.top) // 3
    return Box(
        max(0, box.top - margin),
        max(0, box.left - margin),
        min(shape[0], box.bottom + margin),
        min(shape[1], box.right + margin),
    )


def _lines(channels: Image, window: int) -> Iterator[Box]:
    """The lines of bright text in an image of range 0 to 1."""
    image = channels.max(axis=0)
    hat = image - ndimage.grey_opening(image, size=(window, window))
    labels, count = ndimage.label(hat > CONTRAST, np.ones((3, 3), int))
    if not count:
        return
    glyphs = _glyphs(image, labels, count)
    if len(glyphs.top) < LEAST_GLYPHS:
        return
    rows = _rows(glyphs)
    for row in np.flatnonzero(np.bincount(rows) >= LEAST_GLYPHS):
        line = glyphs.take(rows == row)
        if _is_level(line) and _stands_out(line, hat, labels) and _is_of_one_color(line, channels, labels):
            yield _grown(line, glyphs)


def _glyphs(image: Gray, labels: Labels, count: int) -> _Glyphs:
    """What of the connected ink has the size and the strokes of a letter."""
    index = np.arange(1, count + 1)
    boxes = np.array([(y.start, x.start, y.stop, x.stop) for y, x in ndimage.find_objects(labels)], float)
    top, left, bottom, right = boxes.T
    inside = ndimage.distance_transform_cdt(np.pad(labels > 0, 1))[1:-1, 1:-1]
    stroke = 2.0 * ndimage.maximum(inside, labels, index) - 1
    bright = np.asarray(ndimage.maximum(image, labels, index), float)
    height, width = bottom - top, right - left
    fits = (height >= LEAST_HEIGHT) & (height <= MOST_HEIGHT) & (width <= WIDEST * height)
    fits &= stroke <= np.maximum(STROKE * height, 2)
    glyphs = _Glyphs(top, left, bottom, right, bright, index.astype(float)).take(fits)
    return glyphs.take(np.lexsort((glyphs.top, glyphs.left)))


def _rows(glyphs: _Glyphs) -> npt.NDArray[np.int32]:
    """A number for each glyph, the same for those that stand in a row."""
    count = len(glyphs.top)
    first: list[npt.NDArray[np.int64]] = []
    for here in range(count):
        # neighbours begin at most that far to the right, whichever of the two is the smaller
        end = np.searchsorted(glyphs.left, glyphs.right[here] + GAP * glyphs.height[here], side="right")
        beside = np.arange(here + 1, end)
        first.append(beside[_in_a_row(glyphs, here, beside)])
    starts = np.repeat(np.arange(count), [len(found) for found in first])
    links = coo_array((np.ones(len(starts)), (starts, np.concatenate(first))), shape=(count, count))
    _, rows = connected_components(links, directed=False)
    return np.asarray(rows, np.int32)


def _in_a_row(glyphs: _Glyphs, here: int, beside: npt.NDArray[np.int64]) -> Mask:
    """Which of the glyphs `beside` follow the one that is `here`."""
    other = glyphs.take(beside)
    height = glyphs.height[here]
    small, large = np.minimum(height, other.height), np.maximum(height, other.height)
    overlap = np.minimum(glyphs.bottom[here], other.bottom) - np.maximum(glyphs.top[here], other.top)
    gap = other.left - glyphs.right[here]
    even = np.abs(other.bright - glyphs.bright[here]) <= EVEN
    return np.asarray(
        (overlap >= 0.6 * small) & (large <= 1.8 * small) & (gap <= GAP * small) & (gap >= -0.3 * small) & even
    )


def _is_level(line: _Glyphs) -> bool:
    slack = max(1.0, 0.15 * float(np.median(line.height)))
    aligned = [np.mean(np.abs(edge - np.median(edge)) <= slack) for edge in (line.top, line.bottom)]
    return bool(max(aligned) >= ALIGNED)


def _stands_out(line: _Glyphs, hat: Gray, labels: Labels) -> bool:
    """Whether the ink is far above what is between the glyphs: in noise both are much the same."""
    box = _around(line)
    part = (slice(box.top, box.bottom), slice(box.left, box.right))
    ink = np.isin(labels[part], line.label)
    if ink.all():
        return False
    between = hat[part][~ink]
    contrast = np.median(hat[part][ink]) - np.median(between)
    return bool(contrast >= CONTRAST and (contrast >= SALIENT * between.std() or contrast >= 2 * CONTRAST))


def _is_of_one_color(line: _Glyphs, channels: Image, labels: Labels) -> bool:
    """Whether a line's ink has one hue: that of blood flow, which is as bright and as thin, goes through many."""
    box = _around(line)
    part = (slice(box.top, box.bottom), slice(box.left, box.right))
    ink = channels[:, *part][:, np.isin(labels[part], line.label)]
    hue = ink / np.maximum(ink.max(axis=0), np.finfo(np.float32).tiny)
    return bool(hue.std(axis=1).max() <= EVEN)


def _grown(line: _Glyphs, glyphs: _Glyphs) -> Box:
    """The box of a line and of what else is on it: beside a line, ink counts as text more easily than alone."""
    box, height = _around(line), float(np.median(line.height))
    overlap = np.minimum(box.bottom, glyphs.bottom) - np.maximum(box.top, glyphs.top)
    on_line = glyphs.take(
        (overlap >= 0.6 * glyphs.height)
        & (glyphs.height <= 1.8 * height)
        & (glyphs.height >= height / 3)
        & (np.abs(glyphs.bright - np.median(line.bright)) <= 2 * EVEN)
    )
    left, right, reach = box.left, box.right, GROWTH * (box.bottom - box.top)
    while True:
        near = (on_line.left <= right + reach) & (on_line.right >= left - reach)
        found = (
            min(left, int(on_line.left[near].min(initial=left))),
            max(right, int(on_line.right[near].max(initial=right))),
        )
        if found == (left, right):
            return Box(box.top, left, box.bottom, right)
        left, right = found


def _around(line: _Glyphs) -> Box:
    return Box(int(line.top.min()), int(line.left.min()), int(line.bottom.max()), int(line.right.max()))
