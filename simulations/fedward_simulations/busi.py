"""The breast ultrasound images that the demo's hospitals are planted with: how they are read, and how they were made.

`data/busi_128` holds the benign and malignant images of BUSI (Al-Dhabyani et al., Data in Brief 28:104863, 2020) at
128 x 128. BUSI names no patients, but holds many views of one lesion, so `near_duplicate_groups` gathers those that
look alike and the index gives each group one patient: a split by patient then does not put one lesion on both sides.

    python -m fedward_simulations.busi SOURCE FOLDER

makes such a folder anew from BUSI's own images. Images that look alike but carry different labels are left out, all of
them: which label is right cannot be told from here.
"""

import csv
import logging
import re
import sys
from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Literal, cast, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image

from fedward_common.errors import DataError

Grey = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Label = Literal["benign", "malignant"]

FOLDER = Path(__file__).parent / "data" / "busi_128"
SIZE = 128

# Chosen by looking at every pair near the limits: the README in FOLDER says what was seen.
SURE = 0.382
LIKELY = 0.31
LIKELY_ALIGNED = 0.50

_GRID = 64  # pixels a side in which images are compared
_SHIFT = 16  # how far two views may be shifted against each other, in pixels of that grid
_PADDED = _GRID + _SHIFT  # with so many zeros a circular correlation is right for every shift allowed
_NAME = re.compile(r"(benign|malignant)[ _]\(?(\d+)\)?\.png")  # as published, "benign (1).png", or "benign_1.png"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the index: an image's file name, its label, and the patient planted for it."""

    file: str
    label: Label
    patient: str


def load_index(folder: Path = FOLDER) -> tuple[Row, ...]:
    """The rows of `folder`/index.csv, sorted by file name."""
    with (folder / "index.csv").open(newline="", encoding="utf-8") as lines:
        return tuple(Row(row["file"], _label(row["label"]), row["patient"]) for row in csv.DictReader(lines))


def _label(text: str) -> Label:
    if text not in get_args(Label):
        raise DataError(f"the image index holds the label '{text}'; benign and malignant are known")
    return cast("Label", text)


def read_image(file: str, folder: Path = FOLDER) -> Grey:
    """The pixels [128, 128] of one image of the index, grey in 0..255."""
    with Image.open(folder / file) as image:
        return np.asarray(image, dtype=np.uint8)


def near_duplicate_groups(images: Grey) -> tuple[tuple[int, ...], ...]:
    """Which of `images` [n, 128, 128] look alike, as groups of indices; an image like no other is a group of one.

    Two images are alike when their fine structure correlates: best normalised cross-correlation over shifts of up to a
    quarter of the image at least SURE, as they are or with one mirrored; or at least LIKELY as they are, where their
    coarse structure correlates by LIKELY_ALIGNED without a shift. Groups are the connected components, in order.
    """
    fine, coarse = _fine_structure(images), _coarse_structure(images)
    mirrored = fine.mirrored()
    alike = []
    for first in range(len(images) - 1):
        rest = slice(first + 1, None)
        shifted, aligned = _best_shift(fine, fine, first), coarse[rest] @ coarse[first]
        hits = (shifted >= SURE) | ((shifted >= LIKELY) & (aligned >= LIKELY_ALIGNED))
        hits |= _best_shift(fine, mirrored, first) >= SURE
        alike += [(first, first + 1 + int(hit)) for hit in np.flatnonzero(hits)]
    return _components(len(images), alike)


@dataclass(frozen=True, slots=True)
class _Structure:
    """Images made comparable: zero mean, alike contrast everywhere, with what a shifted correlation needs."""

    pixels: Floats  # [n, GRID, GRID]
    spectrum: npt.NDArray[np.complex64]
    energy: Floats  # [n, shifts, shifts]: sum of squares of the part that stays inside when shifted

    def mirrored(self) -> "_Structure":
        """The same, left and right exchanged."""
        return _structure(self.pixels[:, :, ::-1])


def _fine_structure(images: Grey) -> _Structure:
    """Local mean removed, local contrast made equal: what is left is tissue texture, not the bright-to-dark course."""
    small = _shrink(images, _GRID)
    small -= _blur(small, 4.0)
    small /= np.sqrt(_blur(small**2, 6.0)) + 4.0
    return _structure(small - small.mean(axis=(1, 2), keepdims=True))


def _structure(pixels: Floats) -> _Structure:
    spectrum = np.fft.rfft2(pixels, s=(_PADDED, _PADDED)).astype(np.complex64)
    return _Structure(pixels, spectrum, _overlap_energy(pixels))


def _coarse_structure(images: Grey) -> Floats:
    """Unit vectors [n, 32 * 32] of the images without their coarsest shades."""
    small = _shrink(images, 32)
    small -= _blur(small, 4.0)
    flat = (small - small.mean(axis=(1, 2), keepdims=True)).reshape(len(small), -1)
    unit: Floats = flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
    return unit


def _best_shift(one: _Structure, other: _Structure, first: int) -> Floats:
    """The best correlation of `one`'s image `first` with each later image of `other`, over all shifts allowed."""
    product = one.spectrum[first] * other.spectrum[first + 1 :].conj()
    shifts = np.arange(-_SHIFT, _SHIFT + 1)
    columns = np.fft.ifft(product, axis=1)[:, shifts]  # an inverse 2-D transform of the shifts that count only
    inside = np.fft.irfft(columns, n=_PADDED, axis=2)[:, :, shifts].astype(np.float32)
    scale = np.sqrt(one.energy[first] * other.energy[first + 1 :, ::-1, ::-1])
    best: Floats = (inside / np.maximum(scale, 1.0)).max(axis=(1, 2))
    return best


def _overlap_energy(pixels: Floats) -> Floats:
    total = np.zeros((len(pixels), _GRID + 1, _GRID + 1), np.float32)
    total[:, 1:, 1:] = (pixels**2).cumsum(1).cumsum(2)
    low = np.maximum(0, np.arange(-_SHIFT, _SHIFT + 1))
    high = _GRID + np.minimum(0, np.arange(-_SHIFT, _SHIFT + 1))
    rows = total[:, high] - total[:, low]
    energy: Floats = rows[:, :, high] - rows[:, :, low]
    return energy


def _shrink(images: Grey, side: int) -> Floats:
    block = images.shape[-1] // side
    small: Floats = images.reshape(len(images), side, block, side, block).mean(axis=(2, 4), dtype=np.float32)
    return small


def _blur(images: Floats, sigma: float) -> Floats:
    """Gaussian mean; at an edge the weights of what lies inside are scaled up to one."""
    steps = np.arange(images.shape[-1], dtype=np.float32)
    weights = np.exp(-((steps[:, None] - steps) ** 2) / (2 * sigma**2))
    weights /= weights.sum(axis=1, keepdims=True)
    mean: Floats = weights @ images @ weights.T
    return mean


def _components(count: int, pairs: list[tuple[int, int]]) -> tuple[tuple[int, ...], ...]:
    group = list(range(count))
    for one, other in pairs:
        low, high = sorted((group[one], group[other]))
        group = [low if name == high else name for name in group]
    members: dict[int, list[int]] = {}
    for index, name in enumerate(group):
        members.setdefault(name, []).append(index)
    return tuple(tuple(found) for found in members.values())


def make(source: Path, folder: Path) -> None:
    """Make `folder` (images and index.csv) from the BUSI images under `source`, without masks and normal images."""
    found = sorted(_source_images(source))
    if not found:
        raise DataError("no BUSI image was found; the source must hold files such as 'benign (1).png'")
    images = np.stack([_shrunk(path) for _, path in found])
    groups = near_duplicate_groups(images)
    rows: list[Row] = []
    for members in groups:
        labels = sorted({_label(found[member][0].split("_")[0]) for member in members})
        if len(labels) > 1:
            _log.warning("left out, alike but of two labels: %s", ", ".join(found[member][0] for member in members))
            continue
        patient = f"P{len({row.patient for row in rows}) + 1:04d}"
        rows += [Row(found[member][0], labels[0], patient) for member in members]
    _write(folder, sorted(rows, key=lambda row: row.file), {name: images[at] for at, (name, _) in enumerate(found)})


def _source_images(source: Path) -> Iterator[tuple[str, Path]]:
    for path in source.rglob("*.png"):
        if match := _NAME.fullmatch(path.name):
            yield f"{match[1]}_{int(match[2]):04d}.png", path


def _shrunk(path: Path) -> Grey:
    """The image in grey at 128 x 128, every pixel the mean of what it covers or better (Lanczos)."""
    with Image.open(path) as image:
        return np.asarray(image.convert("L").resize((SIZE, SIZE), Image.Resampling.LANCZOS), dtype=np.uint8)


def _write(folder: Path, rows: list[Row], images: dict[str, Grey]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for row in rows:
        Image.fromarray(images[row.file]).save(folder / row.file, optimize=True)
    with (folder / "index.csv").open("w", newline="", encoding="utf-8") as lines:
        writer = csv.writer(lines, lineterminator="\n")
        writer.writerow(field.name for field in fields(Row))
        writer.writerows(astuple(row) for row in rows)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    make(Path(sys.argv[1]), Path(sys.argv[2]))
