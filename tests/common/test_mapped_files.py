"""Memory that is a file: arrays over it stay what they are when their memory is given back."""

import mmap
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest

from fedward_common.mapped_files import address, in_file, map_file, map_files, owner, release


def resident_kib(first: int, size: int) -> int:
    """Of the mappings of this process between two addresses, what is in memory: proc(5), smaps."""
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        head = line.split(maxsplit=1)[0]
        if "-" in head:
            begin, end = (int(part, 16) for part in head.split("-"))
            inside = begin <= first and first + size <= end
        elif inside and head == "Rss:":
            total += int(line.split()[1])
    return total


@pytest.mark.parametrize("skipped", [0, 1000])
def test_released_memory_is_given_back_and_reads_the_same(tmp_path: Path, skipped: int) -> None:
    values = np.arange(2_000_000, dtype=np.float32)
    with tempfile.TemporaryFile(dir=tmp_path) as file:
        file.write(values.tobytes())
        memory = memoryview(map_file(file))
    array = np.frombuffer(memory, np.float32)[skipped:].reshape(-1, 8)
    assert in_file(memory)
    assert (array.reshape(-1) == values[skipped:]).all()
    before = resident_kib(array.ctypes.data, array.nbytes)
    release(array, 0, array.nbytes // 2)
    half = resident_kib(array.ctypes.data, array.nbytes)
    release(array)
    after = resident_kib(array.ctypes.data, array.nbytes)
    assert before > 7000
    assert abs(half - before / 2) < 200
    assert after < 200
    assert (array.reshape(-1) == values[skipped:]).all()


def test_several_files_are_one_piece_of_memory(tmp_path: Path) -> None:
    sizes = [mmap.PAGESIZE, 3 * mmap.PAGESIZE, 77]
    files = [(tmp_path / str(number), size) for number, size in enumerate(sizes)]
    data = [os.urandom(size) for size in sizes]
    for (path, _), part in zip(files, data, strict=True):
        path.write_bytes(part)
    memory = memoryview(map_files([*files[:2], files[0], files[2]]))  # one of them may come twice
    for path, _ in files:
        path.unlink()
    assert memory == data[0] + data[1] + data[0] + data[2]
    assert in_file(memory)
    release(np.frombuffer(memory, np.uint8))
    assert memory == data[0] + data[1] + data[0] + data[2]
    start = address(memory)
    assert f"{start:x}-" in Path("/proc/self/maps").read_text()
    del memory
    assert f"{start:x}-" not in Path("/proc/self/maps").read_text()  # all of it is given back


def test_what_is_no_file_of_its_size_is_not_mapped(tmp_path: Path) -> None:
    good, linked, piped = (tmp_path / name for name in ("good", "linked", "piped"))
    good.write_bytes(bytes(100))
    linked.symlink_to(good)
    os.mkfifo(piped)
    for path, size in [(good, 99), (good, 101), (linked, 100), (piped, 0), (tmp_path, 4096), (tmp_path / "none", 1)]:
        with pytest.raises(OSError):  # noqa: PT011 - of several kinds
            map_files([(good, 100), (path, size)])


def test_memory_of_something_else_is_left_alone() -> None:
    array = np.ones(1_000_000)
    release(array[::2])
    assert array.all()
    anonymous = mmap.mmap(-1, 8000)
    anonymous.write(bytes([7]) * 8000)
    view = np.frombuffer(anonymous, np.uint8)
    release(view)
    assert (view == 7).all()
    assert owner(view[5:].reshape(5, -1)) is anonymous
    assert not in_file(memoryview(anonymous))
    assert not in_file(b"")
