"""A cohort as tensors on disk: decoded once, whole or not there."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit

from fedward_client import catalog
from fedward_client.cache import load
from fedward_client.freezing import freeze
from fedward_client.harmonize import recipe
from fedward_client.intake.dicom import read_volume
from fedward_client.site import Site
from fedward_client.site_data import SiteData
from fedward_client.split import SIDES
from fedward_common.errors import DataError
from fedward_common.events import Event
from fedward_common.study import StudySpec
from fedward_common.testing import images_of

Folder = Callable[..., Path]
LABELS = {f"PID-{number:03}": "malignant" if number % 2 else "benign" for number in range(16)}


def spec(**sections: dict[str, Any]) -> StudySpec:
    content: dict[str, Any] = {
        "study": {"id": "breast", "task": "classification"},
        "cohort": {"modality": "US", "labels": ("benign", "malignant"), "positive": "malignant", "min_patients": 6},
        "split": {"shares": (0.8, 0.0, 0.2)},
        "input": {"size": (16, 16)},
        "model": {"name": "small-cnn"},
    }
    for name, section in sections.items():
        content[name] = {**content.get(name, {}), **section}
    return StudySpec.model_validate(content)


def cache_folders(site: Site) -> list[Path]:
    return sorted(path for path in (site.state / "cache").iterdir() if path.is_dir())


def decoded(events: list[Event]) -> int:
    """How many images a load went through, by its events: it tells each one before it reads it."""
    return sum(event.stage == "cache" and event.done < event.total for event in events)


def bytes_of(data: SiteData) -> bytes:
    return np.ascontiguousarray(data.images).tobytes()


@pytest.fixture
def site(site_folder: Folder) -> Site:
    return Site.open(site_folder(LABELS))


def test_rows_are_the_cohorts_images_harmonised(site: Site) -> None:
    data, cohort = load(site, spec(), "run-1"), freeze(site, spec(), "run-1")
    where, made = catalog.paths(site), recipe(images_of(spec()))
    expected = np.stack([made.apply(read_volume(where[item.image])) for item in cohort.items])
    np.testing.assert_array_equal(data.images, expected)
    assert data.images.shape == (32, 1, 16, 16)
    assert data.labels.tolist() == [item.label for item in cohort.items]
    assert [SIDES[side] for side in data.sides] == [item.side for item in cohort.items]
    dtypes = [str(array.dtype) for array in (data.images, data.labels, data.patients, data.sides)]
    assert dtypes == ["float32", "int64", "int64", "int8"]
    assert (data.cohort_digest, data.unreadable, data.gone) == (cohort.digest, 0, 0)


def test_patients_are_numbered_and_sides_are_found(site: Site) -> None:
    data, cohort = load(site, spec(), "run-1"), freeze(site, spec(), "run-1")
    assert len({(item.patient, number) for item, number in zip(cohort.items, data.patients, strict=True)}) == 16
    assert set(data.patients.tolist()) == set(range(16))
    found = np.concatenate([data.indices(side) for side in SIDES])
    assert sorted(found.tolist()) == list(range(32))
    assert len(set(data.patients[data.indices("test")].tolist())) == cohort.patients("test")
    assert data.indices("train").dtype == np.int64


def test_images_are_mapped_and_cannot_be_written(site: Site) -> None:
    data = load(site, spec(), "run-1")
    assert isinstance(data.images.base, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        data.images[0] = 0


def test_a_second_load_decodes_nothing(site: Site) -> None:
    first, second = list[Event](), list[Event]()
    before = load(site, spec(), "run-1", first.append)
    stamp = (cache_folders(site)[0] / "images.npy").stat()
    for path in site.data.rglob("*.dcm"):
        path.unlink()
    after = load(site, spec(), "run-1", second.append)
    assert (decoded(first), decoded(second)) == (32, 0)
    assert (second[-1].stage, second[-1].done, second[-1].total) == ("cache", 32, 32)
    assert (cache_folders(site)[0] / "images.npy").stat() == stamp
    assert bytes_of(after) == bytes_of(before)


def test_another_split_decodes_nothing_and_another_recipe_does(site: Site) -> None:
    load(site, spec(), "run-1")
    events: list[Event] = []
    split = load(site, spec(split={"shares": (1.0, 0.0, 0.0)}), "run-2", events.append)
    assert decoded(events) == 0
    assert len(split.indices("train")) == 32
    larger = load(site, spec(input={"size": (20, 20)}), "run-3", events.append)
    assert decoded(events) == 32
    assert larger.images.shape == (32, 1, 20, 20)
    assert len(cache_folders(site)) == 2


def cut_images(folder: Path) -> None:
    os.truncate(folder / "images.npy", (folder / "images.npy").stat().st_size - 4)


def empty_images(folder: Path) -> None:
    (folder / "images.npy").write_bytes(b"")


def no_images(folder: Path) -> None:
    (folder / "images.npy").unlink()


def other_images(folder: Path) -> None:
    np.save(folder / "images.npy", np.zeros((32, 1, 8, 8), dtype=np.float32))


def cut_index(folder: Path) -> None:
    os.truncate(folder / "index.json", 100)


def no_index(folder: Path) -> None:
    (folder / "index.json").unlink()


def edit(folder: Path, **changes: Any) -> None:
    index = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps({**index, **changes}))


def swapped_rows(folder: Path) -> None:
    first, second, *rest = json.loads((folder / "index.json").read_text())["images"]
    edit(folder, images=[second, first, *rest])


def wrong_counts(folder: Path) -> None:
    edit(folder, unreadable=["0" * 32])


@pytest.mark.parametrize(
    "damage", [cut_images, empty_images, no_images, other_images, cut_index, no_index, swapped_rows, wrong_counts]
)
def test_a_torn_cache_is_built_again(site: Site, damage: Callable[[Path], None]) -> None:
    before = bytes_of(load(site, spec(), "run-1"))
    damage(cache_folders(site)[0])
    events: list[Event] = []
    assert bytes_of(load(site, spec(), "run-1", events.append)) == before
    assert decoded(events) == 32
    load(site, spec(), "run-1", events.append)
    assert decoded(events) == 32


def test_what_a_killed_builder_left_is_cleared_away(site: Site) -> None:
    left = site.state / "cache" / ".building-abc"
    left.mkdir(parents=True)
    (left / "images.npy").write_bytes(b"half")
    load(site, spec(), "run-1")
    assert not left.exists()
    assert len(cache_folders(site)) == 1


def test_of_two_loads_at_once_one_decodes(site: Site) -> None:
    freeze(site, spec(), "run-1")
    events: list[Event] = []
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: load(site, spec(), "run-1", events.append), range(2)))
    assert bytes_of(both[0]) == bytes_of(both[1])
    assert decoded(events) == 32


def test_a_file_that_does_not_decode_is_left_out_and_counted(site_folder: Folder, write_dicom: Folder) -> None:
    folder = site_folder(LABELS)
    array = np.arange(24 * 32, dtype=np.uint8).reshape(24, 32)
    broken = {"syntax": JPEGBaseline8Bit, "PixelData": encapsulate([b"\xff\xd8 no JPEG at all"])}
    write_dicom(folder / "PID-000" / "torn.dcm", patient_id="PID-000", array=array, **broken)
    site, events = Site.open(folder), list[Event]()
    data = load(site, spec(), "run-1", events.append)
    cohort = freeze(site, spec(), "run-1")
    assert (len(cohort.items), cohort.left_out) == (32, {"images that could not be read": 1})
    assert (len(data.images), len(data.labels), data.unreadable, data.gone) == (32, 32, 0, 0)
    with catalog.Catalog.open(site) as found:
        assert len(found.quarantine()) == 1


def test_a_volume_with_a_slice_that_does_not_decode_is_left_out_and_counted(
    site_folder: Folder, write_dicom: Folder
) -> None:
    folder = site_folder(LABELS, shape=(3, 8, 8))
    chance = np.random.default_rng(0)
    for number in range(3):
        place = {"ImagePositionPatient": [0, 0, number], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
        broken = (
            {"syntax": JPEGBaseline8Bit, "PixelData": encapsulate([b"\xff\xd8 no JPEG at all"])} if not number else {}
        )
        array = chance.integers(0, 99, (8, 8)).astype(np.uint8)
        tags = {"SeriesInstanceUID": "1.2.3", "PixelSpacing": [1, 1], **place, **broken}
        write_dicom(folder / "PID-000" / f"{number}.dcm", patient_id="PID-000", array=array, **tags)
    site, study, events = Site.open(folder), spec(input={"size": (8, 8, 8)}), list[Event]()
    data = load(site, study, "run-1", events.append)
    assert len(freeze(site, study, "run-1").items) == 33
    assert (len(data.images), len(data.labels), data.unreadable, data.gone) == (32, 32, 1, 0)
    assert np.ascontiguousarray(data.images).any(axis=(1, 2, 3, 4)).all()
    assert events[-1].note == "1 unreadable"
    again = load(site, study, "run-1", events.append)
    assert (bytes_of(again), again.unreadable) == (bytes_of(data), 1)
    assert decoded(events) == 33


def test_files_that_went_or_changed_are_left_out_until_they_are_back(site: Site, write_dicom: Folder) -> None:
    study = spec()
    cohort = freeze(site, study, "run-1")
    gone, changed = site.data / "PID-003" / "image0.dcm", site.data / "PID-004" / "image1.dcm"
    kept = {path: path.read_bytes() for path in (gone, changed)}
    gone.unlink()
    write_dicom(changed, patient_id="PID-004", array=np.zeros((24, 32), dtype=np.uint8))
    events: list[Event] = []
    data = load(site, study, "run-1", events.append)
    assert (len(data.images), data.gone, data.unreadable, data.cohort_digest) == (30, 2, 0, cohort.digest)
    assert events[-1].note == "2 gone since the run began"
    load(site, study, "run-1", events.append)
    assert decoded(events) == 32
    for path, content in kept.items():
        path.write_bytes(content)
    back = load(site, study, "run-1", events.append)
    assert (len(back.images), back.gone) == (32, 0)
    assert decoded(events) == 64


def test_too_few_left_is_told_with_the_reason(site: Site) -> None:
    freeze(site, spec(), "run-1")
    for patient in list(LABELS)[4:]:
        shutil.rmtree(site.data / patient)
    with pytest.raises(
        DataError, match=r"training patients, .* at least 6 \(left out: 24 images gone since the run began"
    ):
        load(site, spec(), "run-1")


def test_nothing_left_keeps_no_cache(site: Site) -> None:
    freeze(site, spec(), "run-1")
    for path in site.data.rglob("*.dcm"):
        path.unlink()
    with pytest.raises(DataError, match="none of the cohort's images can be read"):
        load(site, spec(), "run-1")
    assert cache_folders(site) == []


def test_images_that_a_study_cannot_take_stay_for_the_others(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    # these files say no spacing
    with pytest.raises(DataError, match=r"images can be taken by this study: .* the study asks for millimetres"):
        load(site, spec(input={"spacing": (1.0, 1.0)}), "run-1")
    assert "images that this study cannot take: 32; the file does not say how large its pixels are" in caplog.text
    with catalog.Catalog.open(site) as found:
        assert found.quarantine() == {}
    assert len(load(site, spec(), "run-2").images) == 32


def test_volumes_and_colour(site_folder: Folder) -> None:
    site = Site.open(site_folder(LABELS, shape=(5, 24, 32)))
    data = load(site, spec(input={"size": (8, 16, 16), "channels": 3}), "run-1")
    assert data.images.shape == (32, 3, 8, 16, 16)
    np.testing.assert_array_equal(data.images[:, 0], data.images[:, 2])


def test_a_studys_window_is_in_modality_units(site_folder: Folder) -> None:
    # stored 0..149, times 2, less 1024; what the file says of display windows must not matter
    tags = {"RescaleSlope": 2, "RescaleIntercept": -1024, "WindowCenter": 50, "WindowWidth": 10}
    site = Site.open(site_folder(LABELS, shape=(16, 16), Modality="CT", **tags))
    study = spec(cohort={"modality": "CT"}, input={"intensity": "window", "window": (-974.0, 100.0)})
    data, cohort = load(site, study, "run-1"), freeze(site, study, "run-1")
    stored = site.data / "PID-000" / "image0.dcm"
    key = next(key for key, path in catalog.paths(site).items() if path == stored)
    row = [item.image for item in cohort.items].index(key)
    pixels = np.frombuffer(stored.read_bytes()[-256:], dtype=np.uint8).reshape(16, 16).astype(np.float64)
    expected = np.clip((pixels * 2 - 1024 + 974) / 100 + 0.5, 0, 1)
    np.testing.assert_allclose(data.images[row, 0], expected, atol=1e-6)
    assert 0 < expected.mean() < 1


def test_nothing_told_or_written_names_a_patient(site: Site, every_log: pytest.LogCaptureFixture) -> None:
    events: list[Event] = []
    load(site, spec(), "run-1", events.append)
    assert [event.done for event in events if event.stage == "cache"] == list(range(33))
    text = repr(events) + every_log.text + repr([path.name for path in site.state.rglob("*")])
    written = text.encode() + b"".join(path.read_bytes() for path in (site.state / "cache").rglob("*.*"))
    assert b"PID-" not in written
    assert str(site.data).encode() not in written


def test_a_cache_larger_than_the_disk_is_refused_before_it_starts(site_folder: Folder) -> None:
    site = Site.open(site_folder(LABELS, images=1, shape=(2, 8, 8)))
    study = spec(input={"size": (1024, 1024, 1024), "channels": 3})  # 12 GiB an image
    if shutil.disk_usage(site.data).free > 16 * 3 * 2**32:
        pytest.skip("this disk would take it")
    events: list[Event] = []
    with pytest.raises(DataError, match=r"needs 19\d{4} MiB, the disk of the state folder has \d+ MiB"):
        load(site, study, "run-1", events.append)
    assert decoded(events) == 0


FILL = """
import sys
from pathlib import Path
from fedward_client.cache import load
from fedward_client.site import Site
from fedward_common.errors import DataError
from fedward_common.study import StudySpec
from fedward_common.testing import images_of

site = Site.open(Path(sys.argv[1]), state=Path(sys.argv[2]))

def somebody_else_fills_the_disk(event):
    if event.stage == "cache" and event.done == 8:
        try:
            (site.state / "other").write_bytes(bytes(2**25))
        except OSError:
            pass

study = StudySpec.from_json(sys.stdin.read())
try:
    load(site, study, "run-1", somebody_else_fills_the_disk)
except DataError as error:
    print(error)
    print(sorted(path.name for path in (site.state / "cache").iterdir()))
    (site.state / "other").unlink()
    print(len(load(site, study, "run-1").images))
"""


def test_a_disk_that_fills_up_is_told_and_nothing_is_left_lying(site_folder: Folder, tmp_path: Path) -> None:
    folder = site_folder(LABELS, settings="[limits]\nmin_free_mib = 0\n[privacy]\nmin_cell = 1\n")
    state = tmp_path / "state"
    state.mkdir()
    mount = f'mount -t tmpfs -o size=16m tmpfs "{state}" && exec "$@"'
    command = ["unshare", "-rm", "sh", "-c", mount, "sh"]
    if subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine gives no small disk to fill")
    done = subprocess.run(
        [*command, sys.executable, "-c", FILL, folder, state],
        input=spec(input={"size": (256, 256)}).canonical_json(),
        capture_output=True,
        check=True,
    )
    message, left, images = done.stdout.decode().splitlines()
    assert message.startswith("north: the cache needs 9 MiB, the disk of the state folder has ")
    assert left == "['.lock']"
    assert images == "32"
