"""A model's mask of a structure as a NIfTI file, on the voxels of the image that it was found in."""

import gzip
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fedward_client.volume import Affine


def encoded(mask: npt.NDArray[np.uint8], affine: Affine | None, comments: Sequence[str]) -> bytes:
    """A mask [frames, rows, columns] of 0 and 1 as a gzipped NIfTI-1 file; NIfTI-2 where an axis is too long for it.

    `affine` is that of `Volume`; with None the file does not say where it lies. The header has the `comments`, which
    programs pass by (nifti1.h, extension code 6). The same mask gives the same bytes.
    """
    from nibabel.nifti1 import Nifti1Extension, Nifti1Image
    from nibabel.nifti2 import Nifti2Image

    kind = Nifti1Image if max(mask.shape) < 2**15 else Nifti2Image
    image = kind(mask.T, affine)  # type: ignore[no-untyped-call]  # nibabel has types for some
    image.header["descrip"] = b"Research use only"
    image.header.extensions.append(Nifti1Extension("comment", "\n".join(comments).encode()))
    if affine is not None:
        image.header.set_xyzt_units("mm")
    return gzip.compress(image.to_bytes(), mtime=0)
