"""A tree of small DICOM files, as a hospital exports it: a folder a series, a file a slice."""

from pathlib import Path

import numpy as np
from pydicom import dcmwrite
from pydicom.uid import UID, ExplicitVRLittleEndian

from fedward_simulations.mr_slices import slice_of

SLICES = 100  # of a series
SIZE = 32  # rows and columns


def write(folder: Path, files: int, *, size: int = SIZE, syntax: UID = ExplicitVRLittleEndian) -> None:
    """Write `files` MR slices of a kilobyte of pixels and the usual header; labels.csv beside them."""
    noise = np.random.default_rng(0).integers(0, 4096, (size, size), np.uint16)
    for number in range(files):
        series, index = divmod(number, SLICES)
        path = folder / f"patient-{series:04}" / f"{index:04}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        dataset = slice_of(series, index, np.roll(noise, number))
        if syntax.is_encapsulated:
            dataset.compress(syntax, generate_instance_uid=False)
        dcmwrite(path, dataset, enforce_file_format=True)
    rows = (f"P{series:04},{'malignant' if series % 2 else 'benign'}\n" for series in range(-(-files // SLICES)))
    (folder / "labels.csv").write_text("patient_id,label\n" + "".join(rows))
