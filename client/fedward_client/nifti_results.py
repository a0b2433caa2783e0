"""What a model gives of an image as a NIfTI file: a mask of a structure, a warped image, a displacement field."""

import gzip
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fedward_client.volume import Affine


def encoded(values: npt.NDArray[np.generic], affine: Affine | None, comments: Sequence[str]) -> bytes:
    """Voxels [frames, rows, columns] as a gzipped NIfTI-1 file; NIfTI-2 where an axis is too long for it.

    Vectors [frames, rows, columns, 3] have NIfTI's fifth axis and its intent "vector". `affine` is that of `Volume`;
    with None the file does not say where it lies. The header has the `comments`, which programs pass by (nifti1.h,
    extension code 6). The same values give the same bytes.
    """
    from nibabel.nifti1 import Nifti1Extension, Nifti1Image
    from nibabel.nifti2 import Nifti2Image

    kind = Nifti1Image if max(values.shape) < 2**15 else Nifti2Image
    voxels = values.T if values.ndim == 3 else values.transpose(2, 1, 0, 3)[:, :, :, None]
    image = kind(voxels, affine)  # type: ignore[no-untyped-call]  # nibabel has types for some
    if values.ndim > 3:
        image.header.set_intent("vector")
    image.header["descrip"] = b"Research use only"
    image.header.extensions.append(Nifti1Extension("comment", "\n".join(comments).encode()))
    if affine is not None:
        image.header.set_xyzt_units("mm")
    return gzip.compress(image.to_bytes(), mtime=0)
