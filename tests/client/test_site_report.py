"""`fedward site report`: one page that stays at the site, loads nothing and names nobody; and what it is made from."""

import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from pydicom import dcmread
from pydicom.uid import MRImageStorage, generate_uid
from typer.testing import CliRunner

from fedward_client.catalog import Catalog, scan
from fedward_client.cli import app
from fedward_client.report import page
from fedward_client.report.quality import BLANK, SATURATED, TEXT
from fedward_client.report.survey import Survey, survey
from fedward_client.site import Site
from fedward_common.errors import FedwardError, StudyError, UsageError
from fedward_common.events import Event

Folder = Callable[..., Path]
LABELS = {f"PID-{number:03}": "malignant" if number % 2 else "benign" for number in range(12)}
SPLIT = {patient: "test" if patient > "PID-007" else "train" for patient in LABELS}
MR = {"Modality": "MR", "SOPClassUID": MRImageStorage}  # in which no text is looked for: that takes its time
STUDY = """
[study]
id = "s"
task = "classification"
[cohort]
modality = "MR"
labels = ["benign", "malignant"]
positive = "malignant"
min_patients = 5
[split]
kind = "column"
column = "split"
[input]
size = [16, 16]
[model]
name = "small-cnn"
"""


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "140"})


def failure(result: Result, kind: type[FedwardError]) -> str:
    assert isinstance(result.exception, kind), result.output
    return str(result.exception)


def surveyed(folder: Path, events: list[Event] | None = None) -> Survey:
    site = Site.open(folder)
    scan(site)
    return survey(site, None, (events if events is not None else []).append)


class Page(HTMLParser):
    """The tags and the words of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self._style = False
        self.feed(html)
        self.close()
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        self._style = tag == "style"

    def handle_data(self, data: str) -> None:
        self.text += "" if self._style else f" {data}"


@pytest.fixture
def study_file(tmp_path: Path) -> Path:
    path = tmp_path / "s.toml"
    path.write_text(STUDY, "utf-8")
    return path


# The page ------------------------------------------------------------------------------------------------------------


def test_the_page_says_what_is_there_and_that_it_stays(site_folder: Folder, write_dicom: Folder) -> None:
    folder = site_folder(
        LABELS, BodyPartExamined="BREAST", PatientSex="F", PatientAge="061Y", StudyDate="20190304", **MR
    )
    cut = write_dicom(folder / "cut.dcm", patient_id="C", array=np.zeros((8, 8), np.uint8))
    cut.write_bytes(cut.read_bytes()[:-9])
    shown = Page(page.render(surveyed(folder)))
    assert shown.text.startswith(f"north: data report {page.STAYS}")
    for words in (
        "Patients 12 12 of them with a label",
        "Images 24 files that can be used",
        "Files 25 1 in quarantine",
        "Label patients benign 6 malignant 6",
        "Sex patients F 12",
        "61 12",
        "2019",
        "Modality series MR 24",
        "Maker series Acme 24",
        "Model series Sono 1 24",
        "Body part series BREAST 24",
        "Rows and columns series, in pixels 24 x 32 24",
        "In quarantine: the pixel data ends early 1",
        "Not judged: wrong body part, low resolution. That takes a study: --study.",
        "For research use only. Not a medical device.",
    ):
        assert words in shown.text
    pictures = [attributes for tag, attributes in shown.tags if tag == "img"]
    assert len(pictures) == 24
    assert pictures[0]["alt"] == "MR, BREAST, Acme, Sono 1, 24 x 32"


def test_the_page_loads_nothing_and_escapes_everything(site_folder: Folder) -> None:
    hostile = '<script>alert(1)</script>"><img src=https://x.example/y>'
    html = page.render(surveyed(site_folder({"A": hostile, "B": "{{ 7*7 }}"}, **MR)))
    shown = Page(html)
    assert not {tag for tag, _ in shown.tags} & {"script", "link", "iframe", "object", "embed", "form", "base"}
    for tag, attributes in shown.tags:
        assert not [name for name in attributes if name.startswith("on") or name in {"href", "srcset", "action"}]
        assert tag != "img" or attributes["src"].startswith("data:image/png;base64,")
    assert not re.search(r"@import|url\(", html)
    policy = next(a["content"] for tag, a in shown.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:;")
    assert hostile in shown.text
    assert "{{ 7*7 }}" in shown.text


SECRETS = {
    "PatientName": "Zelenkova^Milada",
    "OtherPatientIDs": "MRN-77123",
    "PatientBirthDate": "19431129",
    "AccessionNumber": "ACC99812",
    "StudyInstanceUID": "1.2.826.0.1.3680043.9.1",
    "SeriesInstanceUID": "1.2.826.0.1.3680043.9.2",
    "StudyDate": "20190304",
    "StudyID": "ST-5521",
    "InstitutionName": "Klinika Vsehrd",
    "StationName": "ROOM-Q7",
    "ReferringPhysicianName": "Vopicka^Karel",
    "SeriesDescription": "T2 Zelenkova knee",
    "StudyDescription": "control of Milada",
}


def test_no_identifier_of_the_source_is_on_the_page(
    site_folder: Folder, write_dicom: Folder, every_log: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    folder = site_folder({"PID-000": "benign"})
    array = np.random.default_rng(3).integers(0, 200, (40, 40)).astype(np.uint8)
    path = write_dicom(folder / "Zelenkova" / "knee-7.dcm", patient_id="ID-4711", array=array, **SECRETS)
    (folder / "Zelenkova" / "notes about Milada.txt").write_text("no image")
    broken = folder / "Zelenkova" / "broken-8.dcm"
    broken.write_bytes(path.read_bytes()[:-20])
    assert run("scan", folder).exit_code == 0
    shown = run("report", folder, "--out", tmp_path / "page.html")
    assert shown.exit_code == 0, shown.output
    html = (tmp_path / "page.html").read_text("utf-8")
    words = {word for value in SECRETS.values() for word in re.split(r"[\^ ]", value) if len(word) > 4}
    words |= {"ID-4711", "knee", "notes", "broken", "PID-0", str(folder), "Name^", "2019-03", "1943"}
    site = Site.open(folder)
    with Catalog.open(site) as catalog:
        for row in catalog.images():
            words |= {row.key, row.patient, row.study, row.series, row.accession, row.content}
    told = re.sub(r"base64,[^\"]+", "", html) + shown.output + every_log.text
    told = told.replace(str(tmp_path / "page.html"), "")
    assert [word for word in sorted(filter(None, words)) if word.casefold() in told.casefold()] == []
    assert "Zelenkova" in run("report", folder, "--show-paths").stdout


def test_the_same_data_give_the_same_page(site_folder: Folder, tmp_path: Path) -> None:
    folder = site_folder(LABELS, **MR)
    shutil.copytree(folder, tmp_path / "again" / "north", ignore=shutil.ignore_patterns(".fedward"))
    first, second = surveyed(folder), surveyed(tmp_path / "again" / "north")
    assert {row.key for row in first.images}.isdisjoint({row.key for row in second.images})  # two keys
    assert page.render(first) == page.render(second)
    assert page.render(first) == page.render(surveyed(folder))


def test_no_picture_with_text_on_it_is_shown(site_folder: Folder, write_dicom: Folder) -> None:
    folder = site_folder({"A": "benign"}, images=3, **MR)
    array = np.random.default_rng(0).integers(0, 99, (24, 32)).astype(np.uint8)
    write_dicom(folder / "text.dcm", patient_id="B", array=array, BurnedInAnnotation="YES", **MR)
    found = surveyed(folder)
    assert found.judged()[TEXT] == 1
    assert {row.patient for row, _ in found.pictures} == {row.patient for row in found.images if not row.flags}
    assert len(found.pictures) == 3


def test_the_sample_shows_the_middle_of_each_kind_of_series(tmp_path: Path, write_dicom: Folder) -> None:
    for patient, maker in (("A", "Acme"), ("B", "Brix")):
        for place in range(5):
            write_dicom(
                tmp_path / patient / f"{place}.dcm",
                patient_id=patient,
                array=np.full((9, 9), 10 * place, np.uint8) + np.eye(9, dtype=np.uint8),
                Manufacturer=maker,
                SeriesInstanceUID=f"1.2.{ord(patient)}",
                ImagePositionPatient=[0, 0, (7 * place) % 5],  # not the order of names
                ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
                PixelSpacing=[1, 1],
            )
    shown = [(row.manufacturer, row.place_mm) for row, _ in surveyed(tmp_path).pictures]
    assert shown == [("Acme", 2.0), ("Brix", 2.0)]


# Looking at pixels ---------------------------------------------------------------------------------------------------


def test_pixels_are_looked_at_once(site_folder: Folder, write_dicom: Folder) -> None:
    folder, first, second, third = site_folder(LABELS, **MR), list[Event](), list[Event](), list[Event]()
    found = surveyed(folder, first)
    assert [(event.done, event.total) for event in first] == [(0, 24), (24, 24)]
    assert surveyed(folder, second) == found
    assert [(event.done, event.total) for event in second] == [(24, 24)]
    write_dicom(folder / "PID-000" / "image0.dcm", patient_id="PID-000", array=np.full((9, 9), 3, np.uint8), **MR)
    assert surveyed(folder, third).judged()[BLANK] == 1
    assert [(event.done, event.total) for event in third] == [(23, 24), (24, 24)]


def test_what_does_not_decode_goes_into_quarantine_and_the_rest_goes_on(site_folder: Folder) -> None:
    folder = site_folder({"A": "benign", "B": "malignant"}, **MR)
    damage_rle(folder / "A" / "image0.dcm")
    found = surveyed(folder)
    assert (len(found.images), found.inspection.not_seen) == (3, 0)
    assert found.counts.quarantine == {"its pixels (RLE Lossless) do not decode": 1}
    assert len(found.pictures) == 3
    assert surveyed(folder).counts == found.counts


def damage_rle(path: Path) -> None:
    """Make a file RLE compressed, with a frame that is none: its header is right."""
    from pydicom import dcmread
    from pydicom.encaps import encapsulate
    from pydicom.uid import RLELossless

    dataset = dcmread(path)
    dataset.file_meta.TransferSyntaxUID = RLELossless
    dataset.PixelData = encapsulate([b"\x01\0\0\0\x40\0\0\0" + bytes(56) + b"\x7f"])
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path, enforce_file_format=True)


def test_files_that_changed_or_went_are_told(site_folder: Folder, write_dicom: Folder) -> None:
    folder = site_folder({"A": "benign", "B": "malignant"}, **MR)
    assert run("scan", folder).exit_code == 0
    (folder / "A" / "image0.dcm").unlink()
    write_dicom(folder / "A" / "image1.dcm", patient_id="A", array=np.zeros((8, 8), np.uint8))
    found = survey(Site.open(folder), None)
    assert (found.inspection.not_seen, len(found.pictures), found.judged()[BLANK]) == (2, 2, 0)
    assert "2 images were not looked at" in Page(page.render(found)).text
    assert "2 images were not looked at" in run("report", folder).stdout
    write_dicom(folder / "B" / "image0.dcm", patient_id="B", array=np.zeros((8, 8), np.uint8), BurnedInAnnotation="YES")
    assert len(survey(Site.open(folder), None).pictures) == 1


def test_who_opted_out_since_the_scan_is_not_shown(site_folder: Folder) -> None:
    folder = site_folder(LABELS, images=1, **MR)
    assert run("scan", folder).exit_code == 0
    (folder / "opt-out.txt").write_text("PID-000\nPID-001\n")
    found = survey(Site.open(folder), None)
    assert len(found.images) == 10
    assert len({row.patient for row, _ in found.pictures}) == 10


# The command ---------------------------------------------------------------------------------------------------------


def test_the_page_is_its_owners_alone(site_folder: Folder, tmp_path: Path) -> None:
    folder = site_folder({"A": "benign"}, **MR)
    assert run("scan", folder).exit_code == 0
    (tmp_path / "page.html").touch(0o644)
    for arguments, path in (((), folder / ".fedward" / "report.html"), (("--out", tmp_path / "page.html"),) * 2):
        shown = run("report", folder, *arguments)
        target = path if isinstance(path, Path) else path[1]
        assert shown.exit_code == 0, shown.output
        assert f"Written: {target}." in shown.stdout.replace("\n", "")
        assert target.stat().st_mode & 0o777 == 0o600
        assert target.read_text("utf-8").startswith("<!DOCTYPE html>")


def test_a_study_passes_or_fails(site_folder: Folder, study_file: Path) -> None:
    folder = site_folder(LABELS, images=1, columns={"split": SPLIT}, **MR)
    assert run("scan", folder).exit_code == 0
    passed = run("report", folder, "--study", study_file)
    assert passed.exit_code == 0, passed.output
    assert "Passes." in passed.stdout
    html = (folder / ".fedward" / "report.html").read_text("utf-8")
    assert "this site’s data meet the study’s contract" in html
    study_file.write_text(STUDY.replace("16, 16", "25, 16"), "utf-8")
    failed = run("report", folder, "--study", study_file, "--json")
    assert failed.exit_code == 1
    told: dict[str, Any] = json.loads(failed.stdout)
    assert told["contract"]["passes"] is False
    small = "At least 5 training patients with images of at least 25 x 16 pixels"
    assert {"asked": small, "found": "0 training patients", "passes": False} in told["contract"]["lines"]
    assert told["flags"] == {BLANK: 0, SATURATED: 0, TEXT: 0, "low resolution": 12}
    assert "do not meet the study’s contract" in Path(told["page"]).read_text("utf-8")


def test_patients_who_share_an_image_are_told_against_a_study(
    site_folder: Folder, study_file: Path, tmp_path: Path
) -> None:
    folder = site_folder(LABELS, columns={"split": SPLIT}, **MR)
    twin = dcmread(folder / "PID-000" / "image0.dcm")
    twin.PatientID, twin.SOPInstanceUID = "PID-001", generate_uid(prefix=None)
    twin.save_as(folder / "PID-001" / "copy.dcm")
    scan(Site.open(folder))
    result = run("report", folder, "--study", study_file, "--out", tmp_path / "page.html")
    assert result.exit_code == 0, result.output
    shown = Page((tmp_path / "page.html").read_text("utf-8"))
    assert "these patients are on one side of the split. patients who share an image, pixel by pixel 2" in shown.text


def test_show_paths_lists_flagged_images_too(site_folder: Folder, write_dicom: Folder) -> None:
    folder = site_folder({"A": "benign"})
    write_dicom(folder / "B" / "grey.dcm", patient_id="B", array=np.full((9, 9), 5, np.uint8))
    assert run("scan", folder).exit_code == 0
    assert "B/grey.dcm │ blank" in " ".join(run("report", folder, "--show-paths").stdout.split())
    assert "grey.dcm" not in run("report", folder).output


def test_what_cannot_be_is_refused_before_anything_is_read(site_folder: Folder, tmp_path: Path) -> None:
    folder = site_folder({"A": "benign"})
    assert run("scan", folder).exit_code == 0
    assert "--out" in failure(run("report", folder, "--out", tmp_path), UsageError)
    assert "--out" in failure(run("report", folder, "--out", tmp_path / "no" / "page.html"), UsageError)
    assert "no study file" in failure(run("report", folder, "--study", "nope"), UsageError)
    (tmp_path / "wrong.toml").write_text("[study]\n")
    failure(run("report", folder, "--study", tmp_path / "wrong.toml"), StudyError)
    assert not (folder / ".fedward" / "report.html").exists()
