"""Whole folders: every file is accounted for, nothing is written twice, everything that was written is proved."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click.testing
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEGBaseline8Bit, MRImageStorage
from typer.testing import CliRunner

from fedward_client import catalog
from fedward_client.catalog import Catalog
from fedward_client.cli import app
from fedward_client.deidentify import Leak, Profile, Report, deidentify, prove, pseudonyms
from fedward_client.deidentify.folder import JOURNAL, MARK, QUARANTINE
from fedward_client.deidentify.identifiers import Identifiers
from fedward_client.deidentify.search import Needles
from fedward_client.deidentify.terms import is_standard_term
from fedward_client.intake.walk import file_key
from fedward_client.site import Site
from fedward_common.errors import DataError, UsageError

Write = Callable[..., Path]
PIXELS = np.arange(48, dtype=np.uint8).reshape(6, 8)
MR: dict[str, Any] = {"array": PIXELS, "SOPClassUID": MRImageStorage, "Modality": "MR"}


@pytest.fixture
def source(tmp_path: Path, write_dicom: Write) -> Path:
    """A hospital's folder: two patients whose names stand everywhere, and what is no image."""
    folder = tmp_path / "hospital"
    for number, patient in enumerate(("Meyer4711", "Doe0815")):
        for slice_ in range(2):
            write_dicom(
                folder / f"{patient}_Smith" / f"Jane.{slice_}",
                patient_id=patient,
                PatientName=f"Meyer-Doe^Jane{number}",
                StudyDate="20200301",
                SeriesInstanceUID=f"1.2.840.113619.2.{number}",
                AccessionNumber=f"ACC{number}4711",
                **MR,
            )
    (folder / "notes.txt").write_text("Jane Meyer-Doe")
    shutil.copy(str(get_testdata_file("rtplan.dcm", download=False)), folder / "plan")
    damaged = write_dicom(folder / "damaged", patient_id="Doe0815", **MR)
    damaged.write_bytes(damaged.read_bytes()[:-7])
    (folder / "link").symlink_to(folder / "notes.txt")
    (folder / "labels.csv").write_text("patient_id,label,name\nMeyer4711,benign,Meyer\nDoe0815,malignant,Doe\n")
    return folder


def run(source: Path, target: Path, profile: Profile | None = None, site: Path | None = None) -> Report:
    report = deidentify(Site.open(site or source), source, target, profile or Profile())
    kinds = (report.written, report.already_there, report.not_dicom, report.dicomdir, report.links, report.opted_out)
    assert report.files == sum(kinds) + len(report.quarantine)
    return report


def files(target: Path) -> Iterator[Path]:
    yield from sorted(path.relative_to(target) for path in target.rglob("*.dcm"))


def everything(target: Path) -> bytes:
    """All bytes and names in a folder, without pseudonyms: any four digits may stand in one."""
    paths = sorted(target.rglob("*"))
    found = b"\n".join([str(path).encode() + (path.read_bytes() if path.is_file() else b"") for path in paths])
    return re.sub(rb"\b[0-9a-f]{32,}\b|\b2\.25\.[0-9]+", b"", found)


def test_every_file_is_accounted_for(tmp_path: Path, source: Path) -> None:
    site, target = Site.open(source), tmp_path / "clean"
    report = run(source, target)
    assert (report.files, report.written, report.not_dicom, report.links) == (8, 5, 1, 1)
    assert list(report.quarantine) == [file_key(site, source / "damaged")]
    assert report.leaks == ()
    assert report.proof.files == 6
    assert report.proof.identifiers > 20
    path = source / "Meyer4711_Smith/Jane.0"
    expected = Path(
        pseudonyms.patient(site, "Meyer4711"),
        site.pseudonym("series", "1.2.840.113619.2.0"),
        site.pseudonym("instance", dcmread(path).SOPInstanceUID) + ".dcm",
    )
    assert expected in files(target)
    for identifier in (b"Meyer", b"Jane", b"Doe", b"4711", b"0815", b"20200301", b"1.2.840.113619"):
        assert identifier not in everything(target)


def test_the_copy_is_a_site_of_its_own(tmp_path: Path, source: Path) -> None:
    target = tmp_path / "clean"
    assert run(source, target).labelled == 2
    report = catalog.scan(Site.open(target))
    assert (report.counts.patients, report.counts.labelled_patients) == (2, 2)
    assert report.counts.labels == {"benign": 1, "malignant": 1}
    with Catalog.open(Site.open(target)) as opened:
        assert len(opened.images()) == 4


def test_who_opted_out_is_not_copied_and_an_earlier_copy_goes(tmp_path: Path, source: Path) -> None:
    assert run(source, tmp_path / "clean").labelled == 2
    (source / "opt-out.txt").write_text("Doe0815\n")
    report = run(source, tmp_path / "clean")
    assert (report.opted_out, report.labelled) == (3, 1)
    gone, kept = (pseudonyms.patient(Site.open(source), name) for name in ("Doe0815", "Meyer4711"))
    folders = {path.parts[0] for path in files(tmp_path / "clean")}
    assert kept in folders
    assert gone not in folders
    assert "malignant" not in (tmp_path / "clean" / "labels.csv").read_text()


def test_what_stands_whole_is_not_written_again(tmp_path: Path, source: Path) -> None:
    target = tmp_path / "clean"
    run(source, target)
    first, second, third, *_ = files(target)
    before = {path: (target / path).read_bytes() for path in files(target)}
    (target / first).unlink()
    (target / second).write_bytes(before[second][:-7])
    stamp = (target / third).stat().st_mtime_ns
    report = run(source, target)
    assert (report.written, report.already_there) == (2, 3)
    assert {path: (target / path).read_bytes() for path in files(target)} == before
    assert (target / third).stat().st_mtime_ns == stamp
    with (target / JOURNAL).open("a") as journal:
        journal.write("12")  # a line that a crash tore
    assert run(source, target).written == 0


def test_a_second_file_of_an_instance_is_not_written(tmp_path: Path, source: Path) -> None:
    shutil.copy(source / "Meyer4711_Smith/Jane.0", source / "again")
    report = run(source, tmp_path / "clean")
    assert (report.written, report.already_there) == (5, 1)


def test_folders_that_cannot_be_used(tmp_path: Path, source: Path) -> None:
    for inside in (source, source / "clean", source / "a/../b", tmp_path):
        with pytest.raises(UsageError, match="must not be in the source folder"):
            run(source, inside)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("")
    with pytest.raises(UsageError, match="not empty and was not made by this command"):
        run(source, tmp_path / "full")
    with pytest.raises(UsageError, match="no folder that exists"):
        run(tmp_path / "nothing", tmp_path / "clean", site=source)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no files"):
        run(tmp_path / "empty", tmp_path / "clean")
    run(source, tmp_path / "made")
    with pytest.raises(UsageError, match="another key or other choices"):
        run(source, tmp_path / "made", Profile(burned_in="keep"))
    assert str(source) not in (tmp_path / "made" / MARK).read_text()


# The proof -----------------------------------------------------------------------------------------------------------


def leaking(tmp_path: Path, write_dicom: Write, **tags: Any) -> tuple[Report, Path, Site]:
    """A file of which an attribute that is kept holds what another attribute is emptied of."""
    given: dict[str, Any] = {"patient_id": "MRN-4711-0815", "PatientName": "Mustermann^Erika", **MR}
    write_dicom(tmp_path / "hospital/a", **{**given, **tags})
    write_dicom(tmp_path / "hospital/b", **{**given, "patient_id": "another one"})
    target = tmp_path / "clean"
    return run(tmp_path / "hospital", target), target, Site.open(tmp_path / "hospital")


@pytest.mark.parametrize(
    ("tags", "attribute"),
    [
        ({"Manufacturer": "for Mustermann^Erika"}, "Patient's Name"),
        ({"Manufacturer": "ERIKA MUSTERMANN"}, "Patient's Name"),
        ({"StationName": "xMRN-4711-0815x"}, "Patient ID"),
        ({"BodyPartExamined": "ERIKA"}, "Patient's Name"),
        ({"SoftwareVersions": "3 of 2020-03-01", "StudyDate": "20200301"}, "Study Date"),
        ({"StationName": "1.2.3.4.5.6.77", "FrameOfReferenceUID": "1.2.3.4.5.6.77"}, "Frame of Reference UID"),
        (
            {
                "ReceiveCoilName": "Anästhesie",
                "InstitutionalDepartmentName": "Anästhesie",
                "SpecificCharacterSet": "ISO_IR 100",
            },
            "",
        ),
        (
            {"ReceiveCoilName": "山田太郎", "PatientName": "山田太郎", "SpecificCharacterSet": "GB18030"},
            "Patient's Name",
        ),
    ],
)
def test_what_is_found_leaves_the_folder(
    tmp_path: Path, write_dicom: Write, tags: dict[str, Any], attribute: str
) -> None:
    report, target, site = leaking(tmp_path, write_dicom, **tags)
    assert report.written == 2
    if not attribute:  # a description that a kept attribute holds too is none
        assert report.leaks == ()
        return
    assert report.leaks == (Leak(attribute=attribute, files=1),)
    [unclean] = report.proof.unclean
    assert len(list(files(target))) == 1
    assert (site.state / QUARANTINE / unclean.name).is_file()
    assert prove(site, site.data, target, Profile()).leaks == ()


def test_what_is_in_compressed_pixels_is_found(tmp_path: Path, write_dicom: Write) -> None:
    comment = b"\xff\xd8\xff\xfe\x00\x16Mustermann^Erika 1\xff\xd9"
    tags = {"syntax": JPEGBaseline8Bit, "PixelData": encapsulate([comment])}
    dataset = {"array": PIXELS, "SOPClassUID": MRImageStorage, "Modality": "MR", **tags}
    path = tmp_path / "hospital/a"
    write_dicom(path, patient_id="1", PatientName="Mustermann^Erika", **{**dataset, "syntax": "1.2.840.10008.1.2.1"})
    written = dcmread(path)
    written.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    written["PixelData"].is_undefined_length = True
    written.save_as(path)
    report = run(tmp_path / "hospital", tmp_path / "clean")
    assert report.leaks == (Leak(attribute="Patient's Name", files=1),)


def test_what_is_deflated_is_found(tmp_path: Path, write_dicom: Write) -> None:
    report, _, _ = leaking(tmp_path, write_dicom, syntax=DeflatedExplicitVRLittleEndian, StationName="erika mustermann")
    assert report.leaks == (Leak(attribute="Patient's Name", files=1),)


def test_a_name_of_a_folder_is_found(tmp_path: Path, write_dicom: Write) -> None:
    write_dicom(tmp_path / "hospital/Mustermann_Erika/a", patient_id="1", **MR)
    site, target = Site.open(tmp_path / "hospital"), tmp_path / "clean"
    run(site.data, target)
    (target / "Mustermann_Erika").mkdir()
    shutil.copy(target / next(files(target)), target / "Mustermann_Erika/a.dcm")
    proof = prove(site, site.data, target, Profile())
    assert proof.leaks == (Leak(attribute="a file's or folder's name", files=1),)
    assert proof.unclean == (Path("Mustermann_Erika/a.dcm"),)


def test_a_label_that_names_a_patient_is_found(tmp_path: Path, source: Path) -> None:
    (source / "labels.csv").write_text("patient_id,label\nMeyer4711,Meyer-Doe Jane0\n")
    report = run(source, tmp_path / "clean")
    assert report.leaks == (Leak(attribute="Patient's Name", files=1),)
    assert report.proof.unclean == (Path("labels.csv"),)
    assert not (tmp_path / "clean/labels.csv").exists()


def test_the_source_itself_does_not_pass(source: Path) -> None:
    proof = prove(Site.open(source), source, source, Profile())
    names = {leak.attribute for leak in proof.leaks}
    assert {"Patient ID", "Patient's Name", "Accession Number", "Series Instance UID"} <= names
    assert len(proof.unclean) >= 5


words = st.text(st.characters(categories=["L"], max_codepoint=0x2FFF), min_size=4, max_size=7)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(marker="FALSE^FALSE", place="Manufacturer", depth=0)  # words of the standard
@example(marker="AAAA^OPTION", place="ReferringPhysicianName", depth=0)  # a word that every copy has
@given(
    marker=st.tuples(words, words).map("^".join),
    place=st.sampled_from(
        ["Manufacturer", "StationName", "ReceiveCoilName", "ReferringPhysicianName", "PatientComments"]
    ),
    depth=st.integers(0, 2),
)
def test_no_marker_survives_wherever_it_is(
    tmp_path_factory: pytest.TempPathFactory, make_dicom: Callable[..., Dataset], marker: str, place: str, depth: int
) -> None:
    folder = tmp_path_factory.mktemp("marker")
    dataset = innermost = make_dicom(patient_id="1", PatientName=marker, SpecificCharacterSet="ISO_IR 192", **MR)
    for _ in range(depth):
        innermost.ReferencedSeriesSequence = [inner := Dataset()]
        innermost = inner
    setattr(innermost, place, marker)
    (folder / "hospital" / marker).mkdir(parents=True)
    dataset.save_as(folder / "hospital" / marker / f"{marker}.dcm", enforce_file_format=True)
    report = run(folder / "hospital", folder / "clean")
    assert marker.encode() not in everything(folder / "clean")
    kept = place in {"Manufacturer", "StationName", "ReceiveCoilName"}
    assert report.written == 1
    assert bool(report.leaks) == kept
    assert len(list(files(folder / "clean"))) == int(not kept)


def test_needles() -> None:
    names = {text: text.decode() for text in (b"meyer", b"4711", b"20200301", b"1.2.3.4.5.6.7", b"mustermann", b"abc")}
    needles = Needles(names)
    assert needles.found_in(b"of MEYER, 4711") == {b"meyer", b"4711"}
    assert needles.found_in(b"Meyers 14711 47110 0.4711 4711.5") == set()
    assert needles.found_in(b"4711. So") == {b"4711"}
    assert needles.found_in(b"xMustermannx") == {b"mustermann"}
    assert needles.found_in(b"11.2.3.4.5.6.7 1.2.3.4.5.6.7.8 1.2.3.4.5.6.71") == set()
    assert needles.found_in(b"\x001.2.3.4.5.6.7\x00") == {b"1.2.3.4.5.6.7"}
    assert needles.found_in(b"abc") == needles.found_in(b"") == Needles({}).found_in(b"meyer") == set()


@given(st.binary(max_size=64), st.lists(st.binary(min_size=8, max_size=12), max_size=6), st.integers(0, 64))
def test_long_needles_are_found_wherever_they_stand(data: bytes, needles: list[bytes], at: int) -> None:
    text = "".join(chr(97 + byte % 26) for byte in data).encode()
    for needle in needles:
        word = "".join(chr(97 + byte % 26) for byte in needle).encode()
        assert Needles({word: ""}).found_in(text[:at] + word.upper() + text[at:]) == {word}


def test_standard_terms() -> None:
    assert is_standard_term("Head", short_words=False)
    assert is_standard_term("MR HEAD", short_words=True)
    assert is_standard_term("Siemens", short_words=False)
    for name in ("Mustermann", "Head 4711", "12-34"):
        assert not is_standard_term(name, short_words=False)


def test_a_date_that_another_was_moved_to_is_no_find(make_dicom: Callable[..., Dataset]) -> None:
    dataset = make_dicom(patient_id="1", StudyDate="20200301", SeriesDate="20200201", **MR)
    found = Identifiers()
    found.add(dataset, Profile(), "p", 29)
    found.settle(moved=True)
    assert b"20200301" in found.of_patient["p"]
    assert b"20200201" not in found.of_patient["p"]
    assert "20200301" not in repr(found)


# The command ---------------------------------------------------------------------------------------------------------


def call(*arguments: object) -> click.testing.Result:
    return CliRunner().invoke(app, ["deidentify", *map(str, arguments)])


def test_the_command(tmp_path: Path, source: Path) -> None:
    result = call(source, tmp_path / "clean", "--json")
    assert result.exit_code == 0
    summary = json.loads(result.stdout)
    assert (summary["files"], summary["written"], summary["proof"]["leaks"]) == (8, 5, [])
    assert list(summary["quarantine"].values()) == ["the pixel data ends early"]
    assert "damaged" not in " ".join(summary["quarantine"])
    again = call(source, tmp_path / "clean")
    assert "already there" in again.stdout
    assert "Meyer" not in result.stdout + again.stdout


def test_paths_are_shown_on_request_alone(tmp_path: Path, source: Path) -> None:
    assert "damaged │" in call(source, tmp_path / "clean", "--show-paths").stdout
    refused = call(source, tmp_path / "clean", "--show-paths", "--json")
    assert isinstance(refused.exception, UsageError)


def test_the_key_is_that_of_the_site_that_is_named(tmp_path: Path, source: Path) -> None:
    (tmp_path / "site").mkdir()
    assert call(source, tmp_path / "clean", "--site", tmp_path / "site", "--drop", "dates").exit_code == 0
    patient = pseudonyms.patient(Site.open(tmp_path / "site"), "Meyer4711")
    assert (tmp_path / "clean" / patient).is_dir()
    assert not (source / ".fedward").exists()
    assert isinstance(call(source, tmp_path / "other", "--drop", "names").exception, UsageError)


def test_a_find_is_loud(tmp_path: Path, write_dicom: Write) -> None:
    write_dicom(
        tmp_path / "hospital/a", patient_id="1", PatientName="Mustermann^Erika", Manufacturer="Mustermann", **MR
    )
    result = call(tmp_path / "hospital", tmp_path / "clean")
    assert isinstance(result.exception, DataError)
    assert "Patient's Name" in result.stdout
    assert "ustermann" not in result.stdout + str(result.exception)
