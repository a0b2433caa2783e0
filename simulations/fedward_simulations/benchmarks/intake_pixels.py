"""Images read as the cache reads them, beside pydicom's bare decoding of the same files, on one processor."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from pydicom import dcmread
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEG2000Lossless, RLELossless

from fedward_client.intake.dicom import read_volume
from fedward_simulations.benchmarks import Figure, _dicom_files, fastest

FILES, SIZE, REPEATS = 20, 512, 5
SYNTAXES: dict[str, UID] = {"none": ExplicitVRLittleEndian, "RLE": RLELossless, "JPEG 2000": JPEG2000Lossless}


def run() -> Iterator[Figure]:
    """Uncompressed, RLE and JPEG 2000."""
    for name in SYNTAXES:
        yield measure(name, files=FILES, size=SIZE)


def measure(compression: str, *, files: int, size: int) -> Figure:
    """Seconds of all files, the least of some."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _dicom_files.write(folder, files, size=size, syntax=SYNTAXES[compression])
        paths = sorted(folder.rglob("*.dcm"))
        value, reference = fastest(
            [
                lambda: [read_volume(path, voi=False) for path in paths],
                lambda: [dcmread(path).pixel_array for path in paths],
            ],
            repeats=REPEATS,
        )
    return Figure(
        name="intake-pixels",
        setting={"files": files, "rows": size, "columns": size, "compression": compression},
        value=value,
        unit="s",
        reference="pydicom's pixel_array, without LUTs or windows",
        reference_value=reference,
    )
