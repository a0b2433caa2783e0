"""A first scan of small DICOM files, beside a bare loop of `pydicom.dcmread` over them on one processor."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from pydicom import dcmread

from fedward_client import catalog
from fedward_client.site import Site
from fedward_simulations.benchmarks import Figure, _dicom_files

FILES = 20_000


def run() -> Iterator[Figure]:
    """20,000 files."""
    yield measure(FILES)


def measure(files: int) -> Figure:
    """Seconds of a scan; the loop runs before and after it, for a machine is not equally busy all the time."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _dicom_files.write(folder, files)
        paths = sorted(folder.rglob("*.dcm"))
        before = _read(paths)
        started = time.perf_counter()
        report = catalog.scan(Site.open(folder))
        value = time.perf_counter() - started
        return Figure(
            name="intake-headers",
            setting={"files": report.read, "bytes": paths[0].stat().st_size, "images": report.counts.images},
            value=value,
            unit="s",
            reference="a bare loop of pydicom.dcmread",
            reference_value=min(before, _read(paths)),
        )


def _read(paths: list[Path]) -> float:
    started = time.perf_counter()
    for path in paths:
        dcmread(path)
    return time.perf_counter() - started
