"""From the files that show where structures are to masks on their image's own grid."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fedward_client.harmonize.recipe import Masks
from fedward_client.intake import nifti
from fedward_client.intake.files import NIFTI, PICTURES, read_volume
from fedward_client.intake.segmentation import read_masks
from fedward_client.mask_settings import Shown
from fedward_client.volume import Affine, Volume
from fedward_common.errors import UnfitImage, UnreadableFile

_APART = 0.01  # of a pixel, that the corners of two grids may lie apart


def masks_digest(contents: Sequence[str], shown: Sequence[Shown | None]) -> str:
    """Names what files of these digests show of a study's structures: BLAKE2b (hex); "" without any file."""
    said = json.dumps([contents, shown]).encode()
    return hashlib.blake2b(said, digest_size=32).hexdigest() if contents else ""


def masks_of(volume: Volume, image: Sequence[Path], paths: Sequence[Path], shown: Sequence[Shown | None]) -> Masks:
    """Where each structure is in an image, 0 or 1 [structures, frames, rows, columns]: where a mask shows it.

    `image` are the files that `volume` was read from. A structure that is None is nowhere. Raises UnfitImage, in words,
    for a mask that cannot be read or lies on another grid than its image.
    """
    found = np.zeros((len(shown), *volume.pixels[:, 0].shape), np.uint8)
    for path in paths:
        try:
            if not path.name.casefold().endswith((*NIFTI, *PICTURES)):
                _check_kind(shown, str, "a DICOM segmentation, whose structures have the labels of segments")
                found |= _of_segments(read_masks(path, image), shown, found.shape[1:])
                continue
            _check_kind(shown, (int, tuple), "a label map, whose structures have values")
            values, affine = _values(path)
        except UnreadableFile as error:
            raise UnfitImage(f"its mask cannot be read: {error}") from None
        if values.shape != found.shape[1:] or _apart(volume.affine, affine, values.shape) > _APART:
            raise UnfitImage("its mask lies on another grid than the image: save it with the image's size and place")
        found |= np.stack([_shows(values, wanted) for wanted in shown])
    return found


def _values(path: Path) -> tuple[npt.NDArray[np.int64], Affine | None]:
    """A label map [frames, rows, columns], and where it lies."""
    if path.name.casefold().endswith(NIFTI):
        mask = nifti.read_mask(path)
        return mask.labels.astype(np.int64), mask.affine
    picture = read_volume(path, voi=False, stack=False)
    return np.rint(picture.pixels.max(axis=1)).astype(np.int64), picture.affine


def _check_kind(shown: Sequence[Shown | None], kind: type | tuple[type, ...], what: str) -> None:
    """Raise UnreadableFile where site.toml says of a structure what such a file cannot show."""
    told = [wanted for wanted in shown if not (wanted is None or wanted is True)]
    if not all(isinstance(wanted, kind) for wanted in told):
        raise UnreadableFile(f"it is {what}: correct [masks] structures in site.toml")


def _of_segments(segments: Mapping[str, Masks], shown: Sequence[Shown | None], shape: tuple[int, ...]) -> Masks:
    """Structures by the labels of a DICOM segmentation's segments, but for case. Raises UnreadableFile."""
    nothing = np.zeros(shape, np.uint8)
    if not any(_names(wanted, label) for wanted in shown for label in segments):
        raise UnreadableFile("it has no segment of a label that [masks] structures in site.toml names")
    if any(mask.shape != shape for mask in segments.values()):
        raise UnreadableFile("it has another size than the image")
    return np.stack(
        [
            np.maximum.reduce([nothing, *(mask for label, mask in segments.items() if _names(wanted, label))])
            for wanted in shown
        ]
    )


def _names(wanted: Shown | None, label: str) -> bool:
    return wanted is True or (isinstance(wanted, str) and wanted.casefold() == label.strip().casefold())


def _shows(values: npt.NDArray[np.int64], wanted: Shown | None) -> npt.NDArray[np.bool_]:
    found: npt.NDArray[np.bool_]
    found = values != 0 if wanted is True else np.isin(values, wanted if isinstance(wanted, int | tuple) else ())
    return found


def _apart(one: Affine | None, other: Affine | None, shape: tuple[int, ...]) -> float:
    """How far corners of two grids of a shape lie apart, in pixels of the finest axis; 0 where a file does not say."""
    if one is None or other is None:
        return 0.0
    frames, rows, columns = (length - 1 for length in shape)
    corners = np.array([(c, r, f, 1) for c in (0, columns) for r in (0, rows) for f in (0, frames)])
    finest = float(np.linalg.norm(one[:3, :3], axis=0).min())
    return float(np.abs(corners @ (one - other).T).max()) / (finest or 1.0)
