"""Compressed pixels are decoded in a process that may die without harm."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.data import get_testdata_file

from fedward_client.intake import dicom, files, pictures, worker
from fedward_client.intake.dicom import read_volume
from fedward_common.errors import UnreadableFile


def bundled(name: str) -> Path:
    path = get_testdata_file(name, download=False)
    assert isinstance(path, str), name
    return Path(path)


GOOD = bundled("MR_small_jp2klossless.dcm")


def children() -> set[int]:
    """The child processes of this process that live."""
    path = Path(f"/proc/self/task/{threading.get_native_id()}/children")
    return {int(pid) for pid in path.read_text().split()}


@pytest.fixture(autouse=True)
def _no_worker_before_or_after() -> Iterator[None]:
    worker.close()
    yield
    worker.close()


@pytest.fixture
def worker_pid() -> int:
    """A worker that has just decoded a file."""
    before = children()
    read_volume(GOOD)
    (pid,) = children() - before
    return pid


def test_the_worker_gives_what_decoding_here_gives() -> None:
    for name in ("MR_small_jp2klossless.dcm", "SC_rgb_jpeg_dcmtk.dcm", "MR_small_jpeg_ls_lossless.dcm"):
        there, here = read_volume(bundled(name)), dicom.decode(bundled(name))
        np.testing.assert_array_equal(there.pixels, here.pixels)
        assert there.pixel_mm == here.pixel_mm
    assert read_volume(bundled("MR_small_jp2klossless.dcm")).pixel_mm == (0.3125, 0.3125)


def test_pictures_are_decoded_there_too(tmp_path: Path) -> None:
    path = tmp_path / "one.tif"
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8)).save(path, compression="tiff_lzw")
    before = children()
    image = files.read_volume(path, voi=None, stack=False)
    np.testing.assert_array_equal(image.pixels, pictures.read_pixels(path).pixels)
    assert len(children() - before) == 1
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(UnreadableFile):
        files.read_volume(path, voi=None, stack=False)


def test_it_stays_for_the_next_file(worker_pid: int) -> None:
    read_volume(GOOD)
    assert worker_pid in children()


def test_uncompressed_files_need_none() -> None:
    before = children()
    read_volume(bundled("MR_small.dcm"))
    read_volume(bundled("MR_small_RLE.dcm"))
    assert children() == before


def test_a_file_that_crashes_the_decoder_costs_that_file_alone(tmp_path: Path) -> None:
    data = bytearray(bundled("SC_rgb_dcmtk_+eb+cy+s4.dcm").read_bytes())
    data[1850] = 72  # a JPEG stream of 72-bit samples: GDCM 3.2.6 ends with a segmentation fault
    path = tmp_path / "a"
    path.write_bytes(data)
    for _ in range(2):
        with pytest.raises(UnreadableFile, match=r"crash|do not decode"):
            read_volume(path)
        assert read_volume(GOOD).pixels.shape == (1, 1, 64, 64)


def test_a_worker_that_died_between_files_is_replaced(worker_pid: int) -> None:
    os.kill(worker_pid, signal.SIGKILL)
    os.waitid(os.P_PID, worker_pid, os.WEXITED | os.WNOWAIT)
    assert read_volume(GOOD).pixels.shape == (1, 1, 64, 64)
    assert worker_pid not in children()


def test_a_decoder_that_hangs_is_given_up(worker_pid: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "LIMIT_S", 0.2)
    os.kill(worker_pid, signal.SIGSTOP)
    with pytest.raises(UnreadableFile, match="take it too long"):
        read_volume(GOOD)
    assert worker_pid not in children()


def test_it_is_quiet_and_ends_with_its_parent() -> None:
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom fedward_client.intake import worker\n"
        "worker.read_volume(Path(sys.argv[1]), voi=None, stack=False)\n"
        "print(*Path(f'/proc/self/task/{os.getpid()}/children').read_text().split())"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, bundled("JPEG-lossy.dcm")],
        capture_output=True,
        text=True,
        check=True,
    )
    (pid,) = done.stdout.split()
    assert done.stderr == "", "GDCM tries 8 bits first and complains on stderr"
    assert not Path(f"/proc/{pid}").exists()
