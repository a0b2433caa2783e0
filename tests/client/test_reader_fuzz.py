"""All readers at once on damaged files of every format: every file is accounted for, in bounded memory, without end."""

import io
import tomllib
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEG2000Lossless, RLELossless

from fedward_client import catalog
from fedward_client.column_settings import shipped
from fedward_client.intake.columns import TableMap
from fedward_client.intake.files import read_volume
from fedward_client.intake.labels import read_labels
from fedward_client.intake.tabular import read_table
from fedward_client.intake.wearable import read_daphnet, read_gait, read_strides
from fedward_client.site import Site
from fedward_common.errors import DataError, UnreadableFile

HEART_DISEASE = TableMap.of(tomllib.loads(shipped("heart-disease")))

Damaged = Callable[[tuple[bytes, ...]], st.SearchStrategy[bytes]]
Valid = Mapping[str, tuple[bytes, ...]]  # by the end of a file's name

AT_ONCE = 12  # files of one site
MOST_PIXELS = 10**6  # that are decoded here: a header may say more, and a reader may believe it
MOST_BYTES = 64 * 2**20  # for files of some kilobytes, whatever they say of themselves
RNG = np.random.default_rng(11)
# to make twelve files smaller takes minutes and tells no more than they do
ONCE = settings(max_examples=12, suppress_health_check=list(HealthCheck), phases=(Phase.reuse, Phase.generate))
LONG = settings(ONCE, max_examples=600)


@pytest.fixture(scope="module")
def texts() -> Valid:
    accelerations = " ".join(["100"] * 9)
    steps = "".join(f"{(i + 1) * 1000 // 64} {accelerations} 1\n" for i in range(100))
    forces = "".join("\t".join([f"{i / 100:.4f}"] + ["10.25"] * 16 + ["82.00"] * 2) + "\n" for i in range(100))
    strides = "".join(f"{i * 1.1:.4f}\t1.1000\n" for i in range(50))
    hearts = "63.0,1.0,1.0,145.0,233.0,1.0,2.0,150.0,0.0,2.3,3.0,0.0,6.0,0\n"
    hearts += "67.0,1.0,4.0,?,286.0,0.0,2.0,108.0,1.0,1.5,2.0,3.0,3.0,2\n"
    labels = "patient_id,label,split\n01,benign,train\n02,malignant,test\n"
    return {"": tuple(text.encode() for text in (steps, forces, strides, hearts, labels))}


@pytest.fixture
def images(make_dicom: Callable[..., Dataset]) -> Valid:
    return {
        ".dcm": tuple(_dicoms(make_dicom)),
        **_niftis(),
        **{f".{kind}": tuple(_pictures(kind)) for kind in ("png", "tif", "jpg", "pgm")},
    }


def _dicoms(make: Callable[..., Dataset]) -> Iterator[bytes]:
    grey = RNG.integers(0, 4096, (16, 24)).astype(np.uint16)
    large = RNG.integers(0, 4096, (32, 32)).astype(np.uint16)  # the least that JPEG 2000's encoder takes
    colour = RNG.integers(0, 256, (8, 8, 3)).astype(np.uint8)
    made = [
        make(patient_id="P1", array=grey, RescaleSlope=2, RescaleIntercept=-10, WindowCenter=50, WindowWidth=10),
        make(patient_id="P2", array=grey, syntax=ImplicitVRLittleEndian),
        make(patient_id="P3", array=grey, syntax=DeflatedExplicitVRLittleEndian),
        make(patient_id="P4", array=colour),
        make(patient_id="P5", array=grey.reshape(4, 8, 12)),
    ]
    for syntax in (RLELossless, JPEG2000Lossless):
        compressed = make(patient_id="P6", array=large)
        compressed.compress(syntax)
        made.append(compressed)
    for dataset in made:
        file = io.BytesIO()
        dataset.save_as(file, enforce_file_format=True)
        yield file.getvalue()


def _niftis() -> dict[str, tuple[bytes, ...]]:
    import gzip

    arrays = (RNG.integers(0, 9, (5, 6, 7)).astype(np.int16), RNG.random((5, 6, 3), np.float32))
    plain = tuple(nibabel.Nifti1Image(array, np.diag([2.0, 1, 1, 1])).to_bytes() for array in arrays)
    return {".nii": plain, ".nii.gz": tuple(gzip.compress(data) for data in plain)}


def _pictures(kind: str) -> Iterator[bytes]:
    arrays: list[npt.NDArray[Any]] = [RNG.integers(0, 256, (9, 11)).astype(np.uint8)]
    if kind != "jpg":
        arrays.append(RNG.integers(0, 65536, (9, 11)).astype(np.uint16))
    if kind != "pgm":
        arrays.append(RNG.integers(0, 256, (9, 11, 3)).astype(np.uint8))
    for array in arrays:
        file = io.BytesIO()
        Image.fromarray(array).save(file, {"jpg": "JPEG", "tif": "TIFF", "pgm": "PPM"}.get(kind, kind.upper()))
        yield file.getvalue()


@contextmanager
def little_memory() -> Iterator[None]:
    """Python's memory and numpy's, at their most."""
    tracemalloc.start()
    try:
        yield
        _, most = tracemalloc.get_traced_memory()
        assert most < MOST_BYTES
    finally:
        tracemalloc.stop()


def drawn(data: st.DataObject, damaged: Damaged, valid: Valid, count: int) -> list[tuple[str, bytes]]:
    endings = data.draw(st.lists(st.sampled_from(sorted(valid)), min_size=count, max_size=count))
    return [(ending, data.draw(damaged(valid[ending]))) for ending in endings]


def scanned(folder: Path, files: list[tuple[str, bytes]]) -> None:
    """A site of these files is scanned, and every image in its catalog is decoded or refused."""
    for number, (ending, content) in enumerate(files):
        path = folder / f"sub-{number:02}" / f"anat{ending}"
        path.parent.mkdir()
        path.write_bytes(content)
    site = Site.open(folder)
    with little_memory():
        counts = catalog.scan(site).counts
    quarantined = sum(counts.quarantine.values())
    passed = (counts.duplicates, counts.not_dicom, counts.dicomdir, counts.without_pixels, counts.links)
    assert counts.files == len(files) == counts.images + sum(passed) + counts.opted_out + quarantined
    assert not [reason for reason in counts.quarantine if not reason or "sub-" in reason or str(folder) in reason]
    with catalog.Catalog.open(site) as found:
        images = found.images()
    where = catalog.paths(site)
    for image in images:
        if image.rows * image.columns * image.frames * image.channels > MOST_PIXELS:
            continue
        with little_memory(), suppress(UnreadableFile):
            shape = read_volume(where[image.key], voi=None, stack=True).pixels.shape
            assert shape[1:] == (image.channels, image.rows, image.columns)


def read(folder: Path, content: bytes) -> None:
    """Whatever a text holds, each reader of texts reads it or says why not."""
    (folder / "labels.csv").write_bytes(content)
    for name in ("S01R01.txt", "GaPt03_01.txt", "pd1.txt", "table.csv"):
        (folder / name).write_bytes(content)
    site = Site.open(folder)
    with little_memory():
        for work in (
            lambda: read_labels(site),
            lambda: read_table(folder / "table.csv", HEART_DISEASE),
            lambda: read_daphnet(folder / "S01R01.txt"),
            lambda: read_gait(folder / "GaPt03_01.txt"),
            lambda: read_strides(folder / "pd1.txt"),
        ):
            with suppress(DataError):
                work()


def fuzzed(
    data: st.DataObject, damaged: Damaged, images: Valid, texts: Valid, temporary: pytest.TempPathFactory
) -> None:
    files, [(_, text)] = drawn(data, damaged, images, AT_ONCE), drawn(data, damaged, texts, 1)
    scanned(temporary.mktemp("site"), files)
    read(temporary.mktemp("text"), text)


@ONCE
@given(data=st.data())
def test_damaged_files_are_read_or_refused(
    damaged: Damaged, images: Valid, texts: Valid, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    fuzzed(data, damaged, images, texts, tmp_path_factory)


@pytest.mark.long
@pytest.mark.timeout(1800)
@LONG
@given(data=st.data())
def test_many_damaged_files_are_read_or_refused(
    damaged: Damaged, images: Valid, texts: Valid, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    fuzzed(data, damaged, images, texts, tmp_path_factory)
