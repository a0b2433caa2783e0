"""Headers are read on all processors: the same rows as by one, and a process that dies costs nothing but time."""

import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedward_client.intake import reading, walk
from fedward_client.intake.reading import Found, Readers
from fedward_client.site import Site

Folder = Callable[..., Path]
LABELS = {f"PID-{number:03}": "benign" for number in range(40)}


@pytest.fixture
def found(site_folder: Folder) -> tuple[Site, dict[str, Found]]:
    """80 images, something that is no image, something damaged, a name that is no text."""
    folder = site_folder(LABELS)
    (folder / "notes.txt").write_text("no image")
    (folder / "PID-000" / "cut.dcm").write_bytes((folder / "PID-000" / "image0.dcm").read_bytes()[:-100])
    shutil.copy(folder / "PID-001" / "image0.dcm", os.fsdecode(os.fsencode(folder) + b"/\xff\n.dcm"))
    site = Site.open(folder)
    site.key  # noqa: B018 - made once, before several processes would
    return site, {walk.file_key(site, entry.path): ("folder", entry) for entry in walk.walk(site)}


def rows(site: Site, found: dict[str, Found]) -> dict[str, dict[str, Any]]:
    with Readers(site) as readers:
        first = {row["key"]: row for row in readers.rows(found)}  # by this process, while others start
        wait_for(readers)
        assert {row["key"]: row for row in readers.rows(found)} == first
        return first


def wait_for(readers: Readers) -> None:
    """Until all processes have started."""
    deadline = time.monotonic() + 60
    while not all(process.ready() for process in readers._processes):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_several_processes_read_what_one_reads(found: tuple[Site, dict[str, Found]]) -> None:
    site, files = found
    alone = {key: reading.row(site, key, one) for key, one in files.items()}
    assert rows(replace(site, threads=3), files) == alone
    kinds = [row["kind"] for row in alone.values()]
    assert (kinds.count("image"), kinds.count("not DICOM"), kinds.count("quarantine")) == (81, 1, 1)


def test_a_process_that_dies_costs_no_file(found: tuple[Site, dict[str, Found]]) -> None:
    site, files = found
    with Readers(replace(site, threads=3)) as readers:
        first = {row["key"]: row for row in readers.rows(files)}
        wait_for(readers)
        for process in children():
            os.kill(process, signal.SIGKILL)
        assert {row["key"]: row for row in readers.rows(files)} == first
        assert {row["key"]: row for row in readers.rows(files)} == first
    assert children() == []


def children() -> list[int]:
    """The processes that read for this one."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except (OSError, ValueError, IndexError):
            continue
        if parent == os.getpid() and b"fedward_client.intake.reading" in words:
            found.append(int(folder.name))
    return found


def test_a_few_files_start_no_process(found: tuple[Site, dict[str, Found]]) -> None:
    site, files = found
    few = dict(list(files.items())[:10])
    with Readers(replace(site, threads=4)) as readers:
        assert len(readers.rows(few)) == 10
        assert children() == []
