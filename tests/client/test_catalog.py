"""Scanning real folders: every file is accounted for, nothing is read twice, and no identifier is kept."""

import json
import logging
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.data import get_testdata_file
from pydicom.uid import ComprehensiveSRStorage

from fedward_client import catalog
from fedward_client.catalog import Catalog, ScanReport
from fedward_client.catalog_counts import Counts
from fedward_client.catalog_rows import ImageRow
from fedward_client.intake import scanning
from fedward_client.site import Site
from fedward_common.errors import DataError, SettingsError
from fedward_common.events import Event

Write = Callable[..., Path]
PIXELS = np.arange(48, dtype=np.uint8).reshape(6, 8)


def accounted(counts: Counts) -> int:
    return (
        counts.images
        + counts.duplicates
        + counts.not_dicom
        + counts.dicomdir
        + counts.without_pixels
        + counts.links
        + sum(counts.quarantine.values())
    )


def scan(folder: Path) -> ScanReport:
    report = catalog.scan(Site.open(folder))
    assert accounted(report.counts) == report.counts.files
    return report


def work(report: ScanReport) -> tuple[int, int, int]:
    return report.read, report.unchanged, report.removed


def images(folder: Path) -> list[ImageRow]:
    with Catalog.open(Site.open(folder)) as opened:
        return opened.images()


def test_images_and_labels_under_pseudonyms(site_folder: Write) -> None:
    folder = site_folder({"007": "benign", "B": "malignant"}, columns={"split": {"007": "train", "B": "test"}})
    report = scan(folder)
    site = Site.open(folder)
    with Catalog.open(site) as opened:
        rows, labels = opened.images(), opened.labels()
        assert opened.images("US") == rows
        assert opened.images("CT") == []
    assert [row.key for row in rows] == sorted(
        site.pseudonym("file", f"{p}/image{n}.dcm") for p in ("007", "B") for n in (0, 1)
    )
    patients = {patient: site.pseudonym("patient", patient) for patient in ("007", "B")}
    assert {row.patient for row in rows} == set(patients.values())
    assert labels == {
        patients["007"]: {"label": "benign", "split": "train"},
        patients["B"]: {"label": "malignant", "split": "test"},
    }
    row = rows[0]
    assert (row.modality, row.rows, row.columns, row.frames, row.channels) == ("US", 24, 32, 1, 1)
    assert (row.manufacturer, row.device, row.transfer_syntax) == ("Acme", "Sono 1", "Explicit VR Little Endian")
    assert len({row.content for row in rows}) == 4
    assert report.counts.labels == {"benign": 1, "malignant": 1}
    assert report.counts.sizes == {"24 x 32": 4}
    assert catalog.paths(site).keys() == {row.key for row in rows}
    assert catalog.paths(site)[site.pseudonym("file", "B/image1.dcm")] == folder / "B" / "image1.dcm"


def test_every_kind_of_file_is_accounted_for(tmp_path: Path, site_folder: Write, write_dicom: Write) -> None:
    folder = site_folder({"A": "x", "B": "y", "gone": "x"}, images=1)
    shutil.rmtree(folder / "gone")
    write_dicom(folder / "C" / "no label.dcm", patient_id="C", array=PIXELS)
    write_dicom(folder / "C" / "no id.dcm", patient_id="", array=PIXELS)
    write_dicom(folder / "C" / "cut.dcm", patient_id="C", array=PIXELS, Rows=600)
    gone = dict.fromkeys(("PixelData", "Rows", "Columns"))
    write_dicom(folder / "report", patient_id="C", array=PIXELS, SOPClassUID=ComprehensiveSRStorage, **gone)
    shutil.copy(folder / "A" / "image0.dcm", folder / "copy of A")
    shutil.copy(get_testdata_file("DICOMDIR", download=False), folder)  # type: ignore[arg-type]  # it is there
    (folder / "notes.txt").write_text("x")
    (folder / "empty").touch()
    (folder / ".DS_Store").write_text("x")
    (folder / ".hidden").mkdir()
    shutil.copy(folder / "A" / "image0.dcm", folder / ".hidden" / "image.dcm")
    (folder / "site.toml").write_text("")
    write_dicom(tmp_path / "outside" / "x.dcm", patient_id="X", array=PIXELS)
    (folder / "way out").symlink_to(tmp_path / "outside")
    (folder / "loop").symlink_to(folder)
    (folder / "dangling").symlink_to("nowhere")
    os.mkfifo(folder / "pipe")
    counts = scan(folder).counts
    assert (counts.images, counts.duplicates, counts.not_dicom, counts.dicomdir) == (3, 1, 1, 1)
    assert (counts.without_pixels, counts.links) == (1, 3)
    assert counts.quarantine == {
        "no patient id": 1,
        "the pixel data ends early": 1,
        "the file is empty": 1,
    }
    assert (counts.patients, counts.labelled_patients, counts.patients_without_label) == (3, 2, 1)
    assert (counts.labels, counts.labels_without_images) == ({"x": 1, "y": 1}, 1)
    assert counts.modalities == {"US": 3}


@pytest.mark.parametrize("name", [b"line\nbreak.dcm", b"not utf-8 \xff.dcm", b"a" * 255, b"[bold]x", b" "])
def test_odd_names(site_folder: Write, name: bytes) -> None:
    folder = site_folder({"A": "x"}, images=1)
    (folder / "A" / "image0.dcm").rename(folder / "A" / os.fsdecode(name))
    assert scan(folder).counts.images == 1
    ((key, path),) = catalog.paths(Site.open(folder)).items()
    assert [row.key for row in images(folder)] == [key]
    assert path.is_file()


def test_only_new_and_changed_files_are_read(site_folder: Write, write_dicom: Write) -> None:
    folder = site_folder({"A": "x", "B": "y"})
    assert work(scan(folder)) == (4, 0, 0)
    before = images(folder)
    assert work(scan(folder)) == (0, 4, 0)
    assert images(folder) == before
    write_dicom(folder / "A" / "image0.dcm", patient_id="A", array=PIXELS)
    write_dicom(folder / "C" / "image0.dcm", patient_id="C", array=PIXELS)
    (folder / "B" / "image1.dcm").unlink()
    assert work(scan(folder)) == (2, 2, 1)
    assert sorted(row.rows for row in images(folder)) == [6, 6, 24, 24]


def test_a_change_of_time_alone_is_seen(site_folder: Write) -> None:
    folder = site_folder({"A": "x"}, images=1)
    scan(folder)
    path = folder / "A" / "image0.dcm"
    data = path.read_bytes().replace(b"Acme", b"Emca")
    path.write_bytes(data)
    os.utime(path, ns=(1, 1))
    assert scan(folder).read == 1
    assert images(folder)[0].manufacturer == "Emca"


def test_a_copy_takes_the_place_of_an_image_that_goes(site_folder: Write) -> None:
    folder = site_folder({"A": "x"}, images=1)
    shutil.copy(folder / "A" / "image0.dcm", folder / "copy.dcm")
    report = scan(folder)
    assert (report.counts.images, report.counts.duplicates) == (1, 1)
    kept = catalog.paths(Site.open(folder))[images(folder)[0].key]
    kept.unlink()
    report = scan(folder)
    assert (report.counts.images, report.counts.duplicates) == (1, 0)


def test_images_without_instance_uid_are_told_apart_by_content(site_folder: Write, write_dicom: Write) -> None:
    folder = site_folder({"A": "x"}, images=2, SOPInstanceUID=None)
    shutil.copy(folder / "A" / "image0.dcm", folder / "copy.dcm")
    counts = scan(folder).counts
    assert (counts.images, counts.duplicates) == (2, 1)


def test_labels_are_read_anew_by_each_scan(site_folder: Write, write_labels: Write) -> None:
    folder = site_folder({"A": "x", "B": "y"})
    scan(folder)
    write_labels(folder, {"A": "y"})
    counts = scan(folder).counts
    assert (counts.labels, counts.patients_without_label) == ({"y": 1}, 1)
    with (folder / "labels.csv").open("a") as file:
        file.write("A,x\nB,\n,y\n")
    counts = scan(folder).counts
    assert (counts.labels, counts.label_conflicts) == ({}, 1)
    assert counts.label_rows_left_out == {"without label": 1, "without patient": 1}


def test_an_interrupted_scan_goes_on_where_it_was(site_folder: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = site_folder({"A": "x", "B": "y"}, images=5)
    monkeypatch.setattr(scanning, "BATCH", 4)
    site = Site.open(folder)

    def interrupt(event: Event) -> None:
        if event.done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        catalog.scan(site, interrupt)
    assert not catalog.is_scanned(site)
    with pytest.raises(DataError, match="unfinished; run `fedward site scan` again"), Catalog.open(site):
        pass
    report = scan(folder)
    assert (report.read, report.unchanged) == (2, 8)
    assert catalog.is_scanned(site)
    assert len(images(folder)) == 10


def test_progress_is_told(site_folder: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scanning, "BATCH", 2)
    events: list[Event] = []
    catalog.scan(Site.open(site_folder({"A": "x"}, images=5)), events.append)
    assert [(event.done, event.total) for event in events] == [(0, 5), (2, 5), (4, 5), (5, 5)]
    assert {(event.site, event.stage) for event in events} == {("north", "scan")}


def test_a_catalog_of_another_key_is_built_again(site_folder: Write) -> None:
    folder = site_folder({"A": "x"})
    scan(folder)
    before = images(folder)
    (folder / ".fedward" / "site.key").write_bytes(b"k" * 32)
    assert not catalog.is_scanned(Site.open(folder))
    assert scan(folder).read == 2
    assert {row.patient for row in images(folder)}.isdisjoint(row.patient for row in before)


def test_a_catalog_of_another_version_is_built_again(site_folder: Write) -> None:
    folder = site_folder({"A": "x"})
    with sqlite3.connect(folder / ".fedward" / "catalog.sqlite") as connection:
        connection.execute("CREATE TABLE files (old)")
    connection.close()
    assert not catalog.is_scanned(Site.open(folder))
    assert scan(folder).counts.images == 2


def test_a_damaged_catalog_says_what_to_do(site_folder: Write) -> None:
    folder = site_folder({"A": "x"})
    scan(folder)
    path = folder / ".fedward" / "catalog.sqlite"
    path.write_bytes(b"no database, " * 1000)
    for use in (scan, images, lambda folder: catalog.is_scanned(Site.open(folder))):
        with pytest.raises(DataError, match=r"damaged: delete catalog.sqlite in the state folder"):
            use(folder)
    path.unlink()
    assert scan(folder).counts.images == 2


def test_no_catalog_yet(site_folder: Write) -> None:
    folder = site_folder({"A": "x"}, keyed=False)
    assert not catalog.is_scanned(Site.open(folder))
    with pytest.raises(DataError, match="no catalog yet; run `fedward site scan`"), Catalog.open(Site.open(folder)):
        pass
    assert not (folder / ".fedward").exists()


def test_a_wrong_label_table_is_found_before_the_scan(site_folder: Write, write_labels: Write) -> None:
    folder = site_folder({"A": "x"})
    (folder / "labels.csv").write_text("patient_id,dx\nA,x\n")
    with pytest.raises(DataError, match="no column 'label'"):
        scan(folder)
    assert not (folder / ".fedward" / "catalog.sqlite").exists()


def test_an_empty_folder_and_one_that_went_away(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    site = Site.open(folder, state=tmp_path / "state")
    assert catalog.scan(site).counts.files == 0
    folder.rmdir()
    with pytest.raises(DataError, match="not mounted"):
        catalog.scan(site)


def test_a_state_folder_among_the_images_is_not_scanned(site_folder: Write) -> None:
    folder = site_folder({"A": "x"}, settings='[site]\nstate = "state"\n')
    for _ in range(2):
        assert scan(folder).counts.files == 2


def counts_of_one_with_fewer_rights(folder: Path) -> Any:
    """The counts of a scan by somebody who may not read everything, as root may unless it gives that up."""
    command = [str(Path(sys.executable).with_name("fedward")), "site", "scan", str(folder), "--json"]
    if os.geteuid() == 0:
        command = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search", *command]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)["counts"]


def test_files_that_may_not_be_read_are_tried_again(site_folder: Write) -> None:
    folder = site_folder({"A": "x"}, images=1)
    (folder / "A" / "image0.dcm").chmod(0)
    counts = counts_of_one_with_fewer_rights(folder)
    assert counts["quarantine"] == {"the file system refuses it: Permission denied": 1}
    (folder / "A" / "image0.dcm").chmod(0o600)
    assert scan(folder).counts.images == 1


def test_what_cannot_be_looked_at_is_told(site_folder: Write) -> None:
    """A folder whose names may be listed but not followed, as of a share that is gone: its files are not forgotten."""
    folder = site_folder({"A": "x", "B": "y"}, images=2)
    (folder / "A").chmod(0o400)
    counts = counts_of_one_with_fewer_rights(folder)
    assert counts["quarantine"] == {"a folder that cannot be opened: Permission denied": 2}
    assert counts["images"] == 2
    (folder / "A").chmod(0o700)
    assert scan(folder).counts.images == 4


def test_a_folder_that_the_system_refuses_is_in_quarantine_and_tried_again(site_folder: Write) -> None:
    folder = site_folder({"A": "x", "B": "y"}, images=1)
    (folder / "A").chmod(0)
    counts = counts_of_one_with_fewer_rights(folder)
    assert counts["quarantine"] == {"a folder that cannot be opened: Permission denied": 1}
    assert counts["images"] == 1
    (folder / "A").chmod(0o700)
    assert scan(folder).counts.images == 2


def test_two_scans_at_once_end_alike(site_folder: Write) -> None:
    import multiprocessing

    folder = site_folder({f"P{number}": "x" for number in range(20)})
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        reports = pool.map(scan, [folder] * 4, chunksize=1)
    assert {report.counts.images for report in reports} == {40}
    assert sum(report.read for report in reports) == 40


def test_a_state_folder_that_cannot_be_used(site_folder: Write) -> None:
    folder = site_folder({"A": "x"})
    with pytest.raises(SettingsError, match="--state"):
        catalog.scan(Site.open(folder, state=folder / "labels.csv"))


BASE = Path(get_testdata_file("MR_small.dcm", download=False) or "").read_bytes()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    flips=st.lists(st.tuples(st.integers(0, len(BASE) - 1), st.integers(0, 255)), max_size=6),
    size=st.one_of(st.just(len(BASE)), st.integers(0, len(BASE))),
)
def test_damage_never_stops_a_scan(
    site_folder: Write, tmp_path_factory: pytest.TempPathFactory, flips: list[tuple[int, int]], size: int
) -> None:
    folder = tmp_path_factory.mktemp("site")
    data = bytearray(BASE)
    for position, value in flips:
        data[position] = value
    (folder / "whole.dcm").write_bytes(BASE)
    (folder / "damaged.dcm").write_bytes(data[:size])
    report = scan(folder)
    assert report.counts.files == 2
    assert report.counts.images >= 1


def test_no_identifier_is_kept_or_told(
    tmp_path: Path,
    site_folder: Write,
    write_dicom: Write,
    every_log: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    planted = {
        "PatientName": "Zelenkova^Jarmila",
        "PatientBirthDate": "19310417",
        "SOPInstanceUID": "1.2.826.77777.1",
        "StudyInstanceUID": "1.2.826.77777.2",
        "SeriesInstanceUID": "1.2.826.77777.3",
        "AccessionNumber": "ACC77777",
        "InstitutionName": "Hospital of Zelenkova",
        "OtherPatientIDs": "OTHER77777",
    }
    folder = site_folder({"ordinary": "benign"}, images=1)
    patient = "ID77777"
    home = folder / "Zelenkova_Jarmila_19310417"
    for name in ("a.dcm", "b.dcm"):  # the second is a duplicate
        write_dicom(home / name, patient_id=patient, array=PIXELS, **planted)
    write_dicom(home / "cut Zelenkova.dcm", patient_id=patient, array=PIXELS, **planted, Rows=900)
    write_dicom(home / "no id.dcm", patient_id="", array=PIXELS, **planted)
    whole = (home / "a.dcm").read_bytes()
    (home / "torn.dcm").write_bytes(whole.replace(b"US\x02\x00\x06\x00", b"LO\x02\x00Ze"))
    (home / "half.dcm").write_bytes(whole[: len(whole) // 2])
    (folder / "labels.csv").write_text(
        f"patient_id,label,name,birth_date\n{patient},malignant,Jarmila Zelenkova,1931-04-17\nordinary,benign,,\n"
    )
    site = Site.open(folder)
    events: list[Event] = []
    report = catalog.scan(site, events.append)
    for name in ("a.dcm", "cut Zelenkova.dcm", "torn.dcm"):
        shutil.copy(home / name, home / f"late {name}")
    again = catalog.scan(site, events.append)
    with Catalog.open(site) as opened:  # while it is open, the write-ahead log is there too
        told = [report, again, events, opened.images(), opened.labels(), opened.quarantine(), opened.counts(), site]
        state = b"".join(path.read_bytes() for path in site.state.rglob("*") if path.is_file())
    assert report.counts.labelled_patients == 2
    assert len(state) > 10_000
    out = capfd.readouterr()
    text = repr(told).replace(str(folder), "") + every_log.text + out.out + out.err + state.decode("latin-1")
    for secret in (*planted.values(), patient, "Zelenkova", "Jarmila", "77777", "1931", "torn.dcm", "a.dcm"):
        assert secret.lower() not in text.lower(), secret
    assert logging.getLogger().isEnabledFor(logging.DEBUG)
