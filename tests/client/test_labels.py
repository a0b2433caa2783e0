"""The label table, as spreadsheets and databases write it."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedward_client.intake.labels import LabelTable, agreed, patient_ids, read_labels
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
    assert (table.conflicts, table.without_label, table.without_key, table.misaligned) == (0, 0, 0, 0)


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
    assert (table.conflicts, table.without_label, table.without_key, table.misaligned) == (1, 3, 1, 1)


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
    with pytest.raises(DataError, match="names none of 'patient_id', 'label' among its 2 columns") as caught:
        read(tmp_path, "Jane Doe,malignant\nJohn Roe,benign\n")
    assert "Doe" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "the file is empty"),
        ("\n  \r\n", "is empty"),
        ("patient_id,label,label\nA,x,y\n", "2 columns named 'label'"),
        ("patient_id,label,split,split\nA,x,train,test\n", "2 columns named 'split'"),
        ("patient_id,label\nA," + "x" * 200_000, "a line of more than 65536 characters"),
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
    with pytest.raises(DataError, match="cannot be used: the file system refuses it: No such file"):
        read_labels(site)


@pytest.mark.parametrize(("encoding", "patient", "label"), [("gb18030", "李雷", "恶性"), ("cp1252", "Müller", "bénin")])
def test_an_encoding_is_named_or_refused(tmp_path: Path, encoding: str, patient: str, label: str) -> None:
    folder = tmp_path / "north"
    folder.mkdir()
    (folder / "labels.csv").write_bytes(f"patient_id,label\n{patient},{label}\n".encode(encoding))
    with pytest.raises(DataError, match=r"not utf-8 text; save it as that, .*gb18030"):
        read_labels(Site.open(folder))
    (folder / "site.toml").write_text(f'[labels]\nencoding = "{encoding}"\n')
    site = Site.open(folder)
    assert read_labels(site).rows == {site.pseudonym("patient", patient): {"label": label}}
    (folder / "site.toml").write_text('[labels]\nencoding = "klingon"\n')
    with pytest.raises(SettingsError, match="klingon"):
        Site.open(folder)


# What a row is of ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "kind", "cell", "name"),
    [
        ("accession", "accession", " 2024-0007 ", "2024-0007"),
        ("study", "study", "1.2.840.1", "1.2.840.1"),
        ("path", "file", "north/a b.png", "north/a b.png"),
        ("path", "file", "./north//a.png", "north/a.png"),
        ("path", "file", "north\\a.png", "north/a.png"),
    ],
)
def test_a_row_is_of_what_its_key_column_names(tmp_path: Path, setting: str, kind: str, cell: str, name: str) -> None:
    (tmp_path / "site.toml").write_text(f'[labels]\n{setting} = "of"\n')
    site, table = read(tmp_path, f"of,patient_id,label\n{cell},A,x\n,A,y\n")
    assert table.rows == {site.pseudonym(kind, name): {"label": "x"}}
    assert table.without_key == 1
    assert patient_ids(site) == ("A",)


def test_a_table_of_studies_may_name_no_patients(tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text('[labels]\nstudy = "uid"\n')
    site, table = read(tmp_path, "uid,label\n1.2.3,x\n")
    assert len(table.rows) == 1
    with pytest.raises(DataError, match="no column 'patient_id'"):
        patient_ids(site)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ('study = "a"\npath = "b"', "more than one of accession, study and path"),
        ('path = "label"', "the column 'label' twice"),
        ('findings = ["a", "a"]', "the column 'a' twice"),
        ('annotator = "label"', "the column 'label' twice"),
        ('agreement = "guess"', "agreement"),
        ("words = { a = 1 }", "words.a"),
        ("words = { a = [1] }", "words.a"),
        ('findings = ["a"]\nwords = { b = ["c"] }', "findings beside a list in words"),
    ],
)
def test_settings_that_cannot_be(tmp_path: Path, settings: str, words: str) -> None:
    (tmp_path / "site.toml").write_text(f"[labels]\n{settings}\n")
    with pytest.raises(SettingsError, match=words):
        Site.open(tmp_path)


# Words ---------------------------------------------------------------------------------------------------------------


def test_the_sites_words_become_the_studys_and_others_are_counted(tmp_path: Path) -> None:
    words = '[labels.words]\ngutartig = "benign"\n"b\u00f6sartig" = "malignant"\n"?" = ""\n'
    (tmp_path / "site.toml").write_text(words, "utf-8")
    rows = "A,Gutartig B,b\u00f6sartig C,benign D,? E,zyste F,zyste"
    site, table = read(tmp_path, "\n".join(["patient_id,label", *rows.split()]))
    said = [row and row["label"] for row in by_patient(site, table, *"ABCDEF")]
    assert said == ["benign", "malignant", "benign", None, "zyste", "zyste"]
    assert (table.without_label, table.unknown_words) == (1, {"zyste": 2})


def test_rows_that_mean_the_same_are_no_conflict(tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text('[labels.words]\ngutartig = "benign"\n')
    site, table = read(tmp_path, "patient_id,label\nA,benign\nA,gutartig\n")
    assert by_patient(site, table, "A") == [{"label": "benign"}]
    assert (table.conflicts, table.settled) == (0, 0)


def test_words_that_differ_in_case_alone_count_exactly(tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text('[labels.words]\nm = "male"\nM = "malignant"\n')
    site, table = read(tmp_path, "patient_id,label\nA,m\nB,M\n")
    assert by_patient(site, table, "A", "B") == [{"label": "male"}, {"label": "malignant"}]


# Annotators ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "unanimous", "majority"),
    [
        (["x"], "x", "x"),
        (["x", "x"], "x", "x"),
        (["x", "x", "y"], None, "x"),
        (["x", "y"], None, None),
        (["x", "x", "y", "z"], None, None),  # half is not more than half
        (["x", "x", "x", "y", "z"], None, "x"),
        (["x", "x", "xy"], None, "x"),  # one who says both
        (["x", "xy"], None, None),
        (["xy"], None, None),
    ],
)
def test_what_annotators_agree_on(said: list[str], unanimous: str | None, majority: str | None) -> None:
    words = [set(one) for one in said]
    assert agreed(words, "unanimous") == unanimous
    assert agreed(words, "majority") == majority


@given(st.lists(st.frozensets(st.sampled_from("xyz"), min_size=1), min_size=1, max_size=9))
def test_a_majority_has_more_than_half_and_no_order_matters(words: list[frozenset[str]]) -> None:
    found = agreed(words, "majority")
    assert found == agreed(words[::-1], "majority")
    votes = {word: sum(one == {word} for one in words) for word in "xyz"}
    assert found == next((word for word, count in votes.items() if 2 * count > len(words)), None)
    assert agreed(words, "unanimous") in {None, found}


TABLE = (
    "patient_id,reader,label\nA,r1,x\nA,r2,y\nA,r2,y\nA,r3,x\nB,r1,x\nB,r2,y\nC,r1,x\nC,r1,x\nC,r2,y\nD,r1,\nD,r2,y\n"
)


def test_a_column_names_the_annotator(tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text('[labels]\nannotator = "reader"\nagreement = "majority"\n')
    site, table = read(tmp_path, TABLE)
    assert by_patient(site, table, *"ABCD") == [{"label": "x"}, None, None, {"label": "y"}]
    assert (table.conflicts, table.settled, table.without_label) == (2, 1, 1)


def test_without_such_a_column_each_row_is_an_annotators(tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text('[labels]\nagreement = "majority"\n')
    site, table = read(tmp_path, TABLE)
    assert by_patient(site, table, *"ABCD") == [None, None, {"label": "x"}, {"label": "y"}]
    assert (table.conflicts, table.settled) == (2, 1)


# Findings ------------------------------------------------------------------------------------------------------------


def test_findings_are_there_or_not_or_not_known(tmp_path: Path) -> None:
    words = '[labels.words]\n"Pleural Effusion" = "effusion"\n"-1.0" = ""\n'
    (tmp_path / "site.toml").write_text('[labels]\nfindings = ["Pleural Effusion", "Nodule"]\n' + words)
    rows = ["A,1.0,0.0", "B,,-1.0", "C,-1.0,present", "D,No,maybe", "E,maybe,", "F,1,0", "F,1,1"]
    site, table = read(tmp_path, "\n".join(["patient_id,Pleural Effusion,Nodule", *rows]))
    assert by_patient(site, table, *"ABCDEF") == [
        {"effusion": "1", "Nodule": "0"},
        None,
        {"effusion": "", "Nodule": "1"},
        {"effusion": "0", "Nodule": ""},
        None,
        {"effusion": "1", "Nodule": ""},
    ]
    assert (table.conflicts, table.without_label, table.unknown_words) == (1, 2, {"maybe": 2})


def test_two_columns_are_not_one_finding(tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text('[labels]\nfindings = ["a", "b"]\nwords = { a = "c", b = "c" }\n')
    with pytest.raises(DataError, match="two columns of findings one name"):
        read(tmp_path, "patient_id,a,b\nA,1,0\n")


# Words for several labels --------------------------------------------------------------------------------------------

RATINGS = '[labels.words]\n"1" = []\n"2" = ["at least 2"]\n"3" = [" at least 2", "at least 3"]\nunclear = ""\n'


def test_a_word_stands_for_several_labels_or_none(tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text(RATINGS + 'suspicious = "at least 3"\n')
    rows = ["A,1", "B,2", "C,3", "D,unclear", "E,", "F,4", "F,4", "G,Suspicious"]
    site, table = read(tmp_path, "\n".join(["patient_id,label", *rows]))
    assert by_patient(site, table, *"ABCDEFG") == [
        {"at least 2": "0", "at least 3": "0"},
        {"at least 2": "1", "at least 3": "0"},
        {"at least 2": "1", "at least 3": "1"},
        None,
        None,
        None,
        {"at least 2": "0", "at least 3": "1"},
    ]
    assert (table.conflicts, table.without_label, table.unknown_words) == (0, 4, {"4": 2})


def test_annotators_agree_on_each_label_that_a_word_stands_for(tmp_path: Path) -> None:
    rows = "\n".join(["patient_id,label", "A,1", "A,2", "B,1", "B,3", "B,3"])
    (tmp_path / "site.toml").write_text(RATINGS)
    site, table = read(tmp_path, rows)
    assert by_patient(site, table, "A", "B") == [{"at least 2": "", "at least 3": "0"}, None]
    (tmp_path / "site.toml").write_text('[labels]\nagreement = "majority"\n' + RATINGS)
    site, table = read(tmp_path, rows)
    assert by_patient(site, table, "A", "B") == [
        {"at least 2": "", "at least 3": "0"},
        {"at least 2": "1", "at least 3": "1"},
    ]


def test_a_table_without_the_column_of_such_words_is_told(tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text(RATINGS)
    with pytest.raises(DataError, match=r"names none of 'patient_id', 'label' among its 2 columns"):
        read(tmp_path, "pid,rating\nA,1\n")


# Damage --------------------------------------------------------------------------------------------------------------

FILES = (
    TABLE.encode(),
    b'patient_id;label;reader\n"JANE";x;"r1"\nJANE;y;r2\n',
    "\ufeffpatient_id,label\r\nJANE,x\r\n".encode(),
)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_gives_a_table_or_a_reason(
    tmp_path: Path, damaged: Callable[[tuple[bytes, ...]], st.SearchStrategy[bytes]], data: st.DataObject
) -> None:
    (tmp_path / "site.toml").write_text('[labels]\nannotator = "reader"\nagreement = "majority"\n')
    with suppress(DataError):
        _, table = read(tmp_path, data.draw(damaged(FILES)))
        assert all(row["label"] for row in table.rows.values())
        assert "JANE" not in repr(table.rows.keys())
