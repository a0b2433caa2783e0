"""BIDS folders, good and bad: every file is an image, a companion, or left out with a reason."""

import json
import os
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedward_client.intake import bids_names, bids_sidecars
from fedward_client.intake.bids import BidsFolder, read_folder
from fedward_client.intake.bids_names import BidsName
from fedward_client.intake.bids_sidecars import Participant, Scanner
from fedward_client.intake.nifti import read_pixels
from fedward_common.errors import DataError, UnreadableFile

MISPLACED = "it lies where BIDS has no such file or folder"


def image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(np.ones((2, 3, 4), np.uint8), np.eye(4)), path)
    return path


def text(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    return path


def dataset(folder: Path) -> Path:
    text(folder / "dataset_description.json", {"Name": "x", "BIDSVersion": "1.10.0"})
    return folder


def reasons(found: BidsFolder) -> Counter[str]:
    return Counter(one.reason for one in found.left_out)


def test_images_of_subjects_and_sessions(tmp_path: Path) -> None:
    folder = dataset(tmp_path / "d")
    paths = [
        image(folder / "sub-01" / "anat" / "sub-01_T1w.nii.gz"),
        image(folder / "sub-01" / "anat" / "sub-01_acq-fast_run-2_T2w.nii"),
        image(folder / "sub-01" / "func" / "sub-01_task-rest_bold.nii.gz"),
        image(folder / "sub-B2" / "ses-pre" / "anat" / "sub-B2_ses-pre_FLAIR.nii.gz"),
    ]
    for beside in (
        "func/sub-01_task-rest_events.tsv",
        "dwi/sub-01_dwi.bval",
        "sub-01_scans.tsv",
        "func/sub-01_bold.json",
    ):
        text(folder / "sub-01" / beside, "{}")
    for passed in (
        "README.md",
        "CHANGES",
        "LICENSE",
        ".bidsignore",
        "participants.json",
        "derivatives/a/b",
        "code/x.py",
    ):
        text(folder / passed, "{}")
    found = read_folder(folder)
    assert found.left_out == ()
    assert {one.path for one in found.images} == set(paths)
    told = [(one.subject, one.session, one.datatype, one.suffix) for one in found.images]
    assert told == [
        ("01", "", "anat", "T1w"),
        ("01", "", "anat", "T2w"),
        ("01", "", "func", "bold"),
        ("B2", "pre", "anat", "FLAIR"),
    ]
    assert found.images[1].name.entity("run") == "2"
    assert found.images[1].name.entity("task") == ""
    assert read_pixels(found.images[3].path).pixels.shape == (4, 1, 3, 2)
    assert "B2" not in repr(found)


def test_what_does_not_follow_the_standard_is_left_out_with_a_reason(tmp_path: Path) -> None:
    folder, anat = tmp_path / "d", tmp_path / "d" / "sub-01" / "anat"
    image(anat / "sub-01_T1w.nii")
    image(anat / "sub-02_T1w.nii")
    image(anat / "sub-01_ses-1_T1w.nii")
    image(anat / "scan.nii")
    image(anat / "sub-01_my scan.nii")
    image(anat / "sub-01_run-1_acq-a_T1w.nii")
    image(anat / "sub-01_run-1_run-2_T1w.nii")
    image(anat / "sub-01_colour-red_T1w.nii")
    image(anat / "sub-01_T1w.copy.nii")
    text(anat / "IM0001.dcm", "x")
    text(anat / "deep" / "x.nii", "x")
    text(folder / "sub-01" / "notes" / "x", "x")
    text(folder / "sub-01" / "ses-b_1" / "x", "x")
    text(folder / "sub-0 1" / "x", "x")
    text(folder / "patients" / "x", "x")
    text(folder / "list.xlsx", "x")
    (anat / "sub-01_PDw.nii").symlink_to(anat / "sub-01_T1w.nii")
    os.mkfifo(anat / "sub-01_T2w.nii")
    found = read_folder(folder)
    assert [one.path.name for one in found.images] == ["sub-01_T1w.nii"]
    assert reasons(found) == {
        "there is no dataset_description.json, which BIDS asks for": 1,
        "its name is of another subject or session than its folder": 3,
        "its name is not made of key-label pairs and a suffix, as BIDS asks for": 1,
        "the entities of its name are not each once, in the order of BIDS": 2,
        "its name has an entity that BIDS does not know": 1,
        "its name has more than one extension": 1,
        "it is neither a NIfTI image nor what BIDS has beside one": 2,
        MISPLACED: 3,
        "its name is not 'ses-' and letters or digits, as BIDS asks for": 1,
        "its name is not 'sub-' and letters or digits, as BIDS asks for": 1,
        "it is a link, or no regular file": 2,
    }
    assert "sub-01" not in repr(found.left_out)


@pytest.mark.parametrize("name", [b"line\nbreak.nii", b"not utf-8 \xff.nii", b"sub-01_T1w.nii\n", b" "])
def test_names_that_are_none(tmp_path: Path, name: bytes) -> None:
    folder = dataset(tmp_path / "d")
    image(folder / "sub-01" / "anat" / "sub-01_T1w.nii")
    text(folder / "sub-01" / "anat" / os.fsdecode(name), "x")
    found = read_folder(folder)
    assert (len(found.images), len(found.left_out)) == (1, 1)


def test_folders_that_are_no_bids(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not there"):
        read_folder(tmp_path / "gone")
    dataset(tmp_path)
    with pytest.raises(DataError, match=r"no subject's folder \(sub-01\)") as caught:
        read_folder(tmp_path)
    assert str(tmp_path) not in str(caught.value)


def test_sidecars_hold_for_what_lies_below_them(tmp_path: Path) -> None:
    folder = dataset(tmp_path / "d")
    image(folder / "sub-01" / "ses-1" / "func" / "sub-01_ses-1_task-rest_bold.nii")
    image(folder / "sub-01" / "ses-1" / "func" / "sub-01_ses-1_task-walk_bold.nii")
    image(folder / "sub-02" / "func" / "sub-02_task-rest_bold.nii")
    image(folder / "sub-02" / "anat" / "sub-02_T1w.nii")
    text(folder / "bold.json", {"Manufacturer": " Acme\n Medical ", "MagneticFieldStrength": 3, "EchoTime": 0.03})
    text(folder / "task-rest_bold.json", {"RepetitionTime": 2.0})
    text(folder / "sub-01" / "sub-01_bold.json", {"Manufacturer": "Other", "ManufacturersModelName": "M1"})
    text(folder / "sub-01" / "ses-1" / "sub-01_ses-1_task-walk_bold.json", {"RepetitionTime": 1.5})
    text(folder / "sub-01" / "ses-1" / "func" / "sub-01_ses-1_task-walk_bold.json", {"EchoTime": 0.05})
    found = read_folder(folder)
    assert found.left_out == ()
    scanners = {(one.subject, one.suffix, one.name.entity("task")): one.scanner for one in found.images}
    other = Scanner(manufacturer="Other", model="M1", field_strength_t=3.0)
    assert scanners["01", "bold", "rest"] == replace(other, repetition_time_s=2.0, echo_time_s=0.03)
    assert scanners["01", "bold", "walk"] == replace(other, repetition_time_s=1.5, echo_time_s=0.05)
    assert scanners["02", "bold", "rest"] == Scanner(
        manufacturer="Acme Medical", field_strength_t=3.0, repetition_time_s=2.0, echo_time_s=0.03
    )
    assert scanners["02", "T1w", ""] == Scanner()


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"Manufacturer": 7, "ManufacturersModelName": None}, Scanner()),
        ({"MagneticFieldStrength": "3", "RepetitionTime": True, "EchoTime": [0.1]}, Scanner()),
        ({"MagneticFieldStrength": 0, "RepetitionTime": -1, "EchoTime": float("nan")}, Scanner()),
        ({"EchoTime": 10**400, "RepetitionTime": float("inf")}, Scanner()),
        ({"PatientName": "JANE", "Manufacturer": "x" * 99 + "<b>"}, Scanner(manufacturer="x" * 64)),
    ],
)
def test_fields_that_are_not_what_they_should_be(tmp_path: Path, fields: dict[str, Any], expected: Scanner) -> None:
    image(dataset(tmp_path) / "sub-01" / "anat" / "sub-01_T1w.nii")
    text(tmp_path / "T1w.json", fields)
    found = read_folder(tmp_path)
    assert found.images[0].scanner == expected
    assert "JANE" not in repr(found)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "the file is empty"),
        ("{", "the sidecar is not a JSON object"),
        ("[1]", "the sidecar is not a JSON object"),
        ("[" * 10**5, "the sidecar is not a JSON object"),
        ('{"EchoTime": ' + "9" * 5000 + "}", "the sidecar is not a JSON object"),
        ('{"a": "\udc80"}', "the sidecar is not a JSON object"),
        (" " * 2**20 + "{}", "the sidecar is longer than 1048576 bytes"),
    ],
)
def test_a_damaged_sidecar_leaves_the_image(tmp_path: Path, content: str, reason: str) -> None:
    image(dataset(tmp_path) / "sub-01" / "anat" / "sub-01_T1w.nii")
    (tmp_path / "T1w.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    found = read_folder(tmp_path)
    assert len(found.images) == 1
    assert [one.reason for one in found.left_out] == [reason]


def participants(folder: Path, *rows: str) -> BidsFolder:
    image(dataset(folder) / "sub-01" / "anat" / "sub-01_T1w.nii")
    (folder / "participants.tsv").write_text("\r\n".join(rows), "utf-8")
    return read_folder(folder)


def test_participants(tmp_path: Path) -> None:
    found = participants(
        tmp_path,
        "\ufeffparticipant_id\tage\tsex\tgroup\tname",
        'sub-01\t63.5\tM\tpatient\tJANE "DOE',
        "sub-02\tn/a\tfemale\tn/a\tJANE",
        "",
        "sub-03\t89+\tn/a\t control \tJANE",
    )
    assert found.participants == {
        "01": Participant(age=63.5, sex="M", group="patient"),
        "02": Participant(age=None, sex="F", group=""),
        "03": Participant(age=89.0, sex="", group="control"),
    }
    assert found.left_out == ()


def test_gender_for_sex_and_no_other_columns(tmp_path: Path) -> None:
    found = participants(tmp_path, "participant_id\tGender", "sub-01\tOther")
    assert found.participants == {"01": Participant(sex="O")}


def test_rows_of_participants_that_cannot_be_used(tmp_path: Path) -> None:
    found = participants(
        tmp_path,
        "participant_id\tage\tsex",
        "sub-01\tJANE\tM",
        "JANE\t50\tM",
        "sub-01\t50\tM",
        "sub-02\t50",
        "sub-03\t-1\tqueen",
    )
    assert found.participants == {"01": Participant(sex="M"), "03": Participant()}
    assert [one.reason for one in found.left_out] == [
        "row 2 has an age that is no number",
        "row 3 names no subject (sub-01), or one that was named before",
        "row 4 names no subject (sub-01), or one that was named before",
        "row 5 has more or fewer cells than there are columns",
        "row 6 has an age that is no number",
        "row 6 has a sex that BIDS does not know",
    ]


@pytest.mark.parametrize("header", ["id\tage", "age\tparticipant_id", "participant_id\tage\tage", "JANE\t50"])
def test_participants_without_their_columns(tmp_path: Path, header: str) -> None:
    found = participants(tmp_path, header, "sub-01\t50\tM")
    assert found.participants == {}
    assert [one.reason for one in found.left_out] == [
        "its columns do not begin with participant_id, or two have one name, as BIDS forbids"
    ]


def test_too_many_participants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bids_sidecars, "MAX_PARTICIPANTS", 2)
    found = participants(tmp_path, "participant_id", "sub-01", "sub-02")
    assert [one.reason for one in found.left_out] == ["it has more than 2 rows"]


def test_a_link_to_participants_is_not_followed(tmp_path: Path) -> None:
    text(tmp_path / "outside", "participant_id\nsub-01\n")
    folder = dataset(tmp_path / "d")
    image(folder / "sub-01" / "anat" / "sub-01_T1w.nii")
    (folder / "participants.tsv").symlink_to(tmp_path / "outside")
    assert (read_folder(folder).participants, len(read_folder(folder).left_out)) == ({}, 1)


@pytest.mark.parametrize(
    ("name", "entities", "suffix", "extension"),
    [
        ("sub-01_T1w.nii.gz", (("sub", "01"),), "T1w", ".nii.gz"),
        ("T1w.json", (), "T1w", ".json"),
        ("sub-a+b_ses-2_task-x_bold", (("sub", "a+b"), ("ses", "2"), ("task", "x")), "bold", ""),
    ],
)
def test_names(name: str, entities: tuple[tuple[str, str], ...], suffix: str, extension: str) -> None:
    assert bids_names.parsed(name) == BidsName(entities=entities, suffix=suffix, extension=extension)


@given(
    name=st.text(max_size=40)
    | st.from_regex(r"(sub|ses|run|x)-[a1]{1,3}_(ses|run|acq)-[b2]{1,2}_T1w\.nii", fullmatch=True)
)
def test_any_name_is_parsed_or_refused(name: str) -> None:
    with suppress(UnreadableFile):
        found = bids_names.parsed(name)
        pairs = "_".join(f"{key}-{label}" for key, label in found.entities)
        assert "_".join(filter(None, [pairs, found.suffix])) + found.extension == name


FILES = (
    b'{"Manufacturer": "Acme", "EchoTime": 0.03, "PatientName": "JANE"}',
    b"participant_id\tage\tsex\nsub-01\t63\tM\nsub-02\tn/a\tF\n",
)


@pytest.mark.long
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_is_left_out(
    tmp_path: Path, damaged: Callable[[tuple[bytes, ...]], st.SearchStrategy[bytes]], data: st.DataObject
) -> None:
    image(dataset(tmp_path) / "sub-01" / "anat" / "sub-01_T1w.nii")
    for name in ("T1w.json", "participants.tsv"):
        (tmp_path / name).write_bytes(data.draw(damaged(FILES)))
    found = read_folder(tmp_path)
    assert len(found.images) == 1
    assert "JANE" not in repr(found.left_out)
