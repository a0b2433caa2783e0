"""A scan of a tree that has not changed, beside the first one; and the memory of scans of few files and of many."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from fedward_client import catalog
from fedward_client.site import Site
from fedward_simulations.benchmarks import Figure, _dicom_files

FEW, MANY = 1_000, 20_000
REPEATS = 3
_SCAN = (
    "import sys; from pathlib import Path; from fedward_client import catalog; from fedward_client.site import Site; "
    "from fedward_simulations.peak_memory import peak_mib; catalog.scan(Site.open(Path(sys.argv[1]))); "
    "print(peak_mib())"
)


def run() -> Iterator[Figure]:
    """1,000 and 20,000 files."""
    yield from measure(FEW, MANY)


def measure(few: int, many: int) -> Iterator[Figure]:
    """Seconds of the least of some scans of an unchanged tree; MiB of a first scan's process."""
    with tempfile.TemporaryDirectory() as name:
        peaks = {}
        for files in (few, many):
            folder = Path(name) / str(files)
            _dicom_files.write(folder, files)
            peaks[files] = _peak_mib(folder)
        site = Site.open(folder)
        first = catalog.scan(Site.open(folder, state=Path(name) / "again")).seconds
        again = [catalog.scan(site) for _ in range(REPEATS)]
        assert all(report.read == 0 for report in again)
        yield Figure(
            name="intake-rescan",
            setting={"files": many, "folders": many // _dicom_files.SLICES},
            value=min(report.seconds for report in again),
            unit="s",
            reference="the first scan of the same tree",
            reference_value=first,
        )
        yield Figure(
            name="intake-memory",
            setting={"files": many},
            value=peaks[many],
            unit="MiB at most, of the process that scans",
            reference=f"{few} files",
            reference_value=peaks[few],
        )


def _peak_mib(folder: Path) -> float:
    """Of a first scan in a process of its own, in the catalog that later scans use."""
    done = subprocess.run(
        [sys.executable, "-c", _SCAN, os.fspath(folder)], check=True, capture_output=True, text=True, timeout=3600
    )
    return float(done.stdout)
