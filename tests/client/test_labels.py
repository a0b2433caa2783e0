"""The label table, as spreadsheets and databases write it."""

from pathlib import Path

import pytest

from fedward_client.intake.labels import LabelTable, read_labels
from fedward_client.site import Site
from fedward_common.errors import DataError, SettingsError


def read(folder: Path, content: bytes | str) -> tuple[Site, LabelTable]:
    (folder / "labels.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    site = Site.open(folder)
    return site, read_labels(site)


def by_patient(site: Site, table: LabelTable, *patients: str) -> list[dict[str, str] | None]:
    assert len(table.rows) <= len(patients)
    return [table.rows.get(site.pseudonym("patient", patient)) for patient in patients]


@pytest.mark.parametrize(
    "content",
    [
        "patient_id,label\n007,benign\nMüller,malignant\n",
        "\ufeffpatient_id,label\r\n007,benign\r\nMüller,malignant\r\n",
        "patient_id;label;note\n007;benign;a,b,c,d\nMüller;malignant;\n",
        "label\tpatient_id\nbenign\t007\nmalignant\tMüller",
        '"patient_id","label"\n" 007 ","benign"\n\n"Müller"," malignant"\n,\n',
    ],
)
def test_dialects_and_encodings(tmp_path: Path, content: bytes | str) -> None:
    site, table = read(tmp_path, content)
    assert by_patient(site, table, "007", "Müller") == [{"label": "benign"}, {"label": "malignant"}]
    assert (table.conflicts, table.without_label, table.without_patient, table.misaligned) == (0, 0, 0, 0)


def test_only_what_a_study_may_use_is_kept(tmp_path: Path) -> None:
    text = 'patient_id,name,birth_date,label,split\nA,"Doe, Jane",1970-01-01,benign,train\n'
    site, table = read(tmp_path, text)
    assert by_patient(site, table, "A") == [{"label": "benign", "split": "train"}]
    assert "Doe" not in repr(table)


def test_leading_zeros_and_case_are_not_touched(tmp_path: Path) -> None:
    site, table = read(tmp_path, "patient_id,label\n007,x\n7,y\na,x\nA,y\n")
    assert by_patient(site, table, "007", "7", "a", "A") == [{"label": value} for value in "xyxy"]


def test_rows_that_do_not_serve_are_counted(tmp_path: Path) -> None:
    rows = "A,x,1  A,x,2  B,x,1  B,y,1  B,x,1  C,,1  D  ,x,1  Doe, Jane,x,1  E,x,1,,  F,x  G,,3  G,y,3"
    text = "\n".join(["patient_id,label,age", *rows.split("  ")])
    site, table = read(tmp_path, text)
    assert by_patient(site, table, *"ABCDEFG") == [
        {"label": "x"},
        None,
        None,
        None,
        {"label": "x"},
        {"label": "x"},
        {"label": "y"},
    ]
    assert (table.conflicts, table.without_label, table.without_patient, table.misaligned) == (1, 3, 1, 1)


def test_two_splits_for_one_patient_are_a_conflict(tmp_path: Path) -> None:
    _, table = read(tmp_path, "patient_id,label,split\nA,x,train\nA,x,test\n")
    assert (table.rows, table.conflicts) == ({}, 1)


def test_named_columns(tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text('[labels]\npatient = "PID"\nlabel = "Diagnosis, final"\n')
    site, table = read(tmp_path, 'PID;"Diagnosis, final"\nA;x\n')
    assert by_patient(site, table, "A") == [{"Diagnosis, final": "x"}]


def test_a_missing_column_is_named_beside_those_found(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"no column 'label', only 'patient_id', 'diagnosis'; .*\[labels\] in site.toml"
    ):
        read(tmp_path, "patient_id,diagnosis\nA,x\n")


def test_a_first_row_that_may_be_a_patient_is_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="names neither 'patient_id' nor 'label' among its 2 columns") as caught:
        read(tmp_path, "Jane Doe,malignant\nJohn Roe,benign\n")
    assert "Doe" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "is empty"),
        ("\n  \r\n", "is empty"),
        ("patient_id,label,label\nA,x,y\n", "2 columns named 'label'"),
        ("patient_id,label,split,split\nA,x,train,test\n", "2 columns named 'split'"),
        ("patient_id,label\nA," + "x" * 200_000, "not CSV"),
    ],
)
def test_tables_that_cannot_be_read(tmp_path: Path, content: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read(tmp_path, content)


def test_a_header_alone_and_no_table_are_empty(tmp_path: Path) -> None:
    assert read_labels(Site.open(tmp_path)).rows == {}
    assert read(tmp_path, "patient_id,label")[1].rows == {}


def test_a_table_that_went_away(tmp_path: Path) -> None:
    site, _ = read(tmp_path, "patient_id,label\n")
    (tmp_path / "labels.csv").unlink()
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read_labels(site)


@pytest.mark.parametrize(("encoding", "patient", "label"), [("gb18030", "李雷", "恶性"), ("cp1252", "Müller", "bénin")])
def test_an_encoding_is_named_or_refused(tmp_path: Path, encoding: str, patient: str, label: str) -> None:
    folder = tmp_path / "north"
    folder.mkdir()
    (folder / "labels.csv").write_bytes(f"patient_id,label\n{patient},{label}\n".encode(encoding))
    with pytest.raises(DataError, match=r"not utf-8 text: save it as UTF-8.*gb18030"):
        read_labels(Site.open(folder))
    (folder / "site.toml").write_text(f'[labels]\nencoding = "{encoding}"\n')
    site = Site.open(folder)
    assert read_labels(site).rows == {site.pseudonym("patient", patient): {"label": label}}
    (folder / "site.toml").write_text('[labels]\nencoding = "klingon"\n')
    with pytest.raises(SettingsError, match="klingon"):
        Site.open(folder)
