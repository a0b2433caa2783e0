"""A hospital of tables: from a CSV as it stands, by the hospital's own map, to rows that a network sees."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from fedward_client.cache import load
from fedward_client.catalog import Catalog, scan
from fedward_client.choosing_rows import INCOMPLETE
from fedward_client.cli import app
from fedward_client.freezing import freeze, from_catalog
from fedward_client.handlers import Hospital
from fedward_client.intake import tables
from fedward_client.intake.tabular import Table
from fedward_client.report.page import render
from fedward_client.report.survey import survey as report
from fedward_client.site import Site
from fedward_client.source import SiteSource
from fedward_client.survey import survey
from fedward_common import feature_scale
from fedward_common.errors import DataError
from fedward_common.events import ignore
from fedward_common.feature_statistics import feature_cells
from fedward_common.records import Question
from fedward_common.study import Evaluation, FeatureScale, SiteEntry, StudySpec, TableInput
from fedward_common.testing import tiny_study

MAP = """patient = "mrn"
missing = ["", "?"]
[target]
column = "outcome"
classes = { well = "healthy", sick = "ill" }
[[features]]
kind = "numeric"
column = "age"
[[features]]
kind = "numeric"
column = "volume"
[[features]]
kind = "category"
column = "sex"
levels = ["F", "M"]
"""
SETTINGS = '[table]\nfiles = "visits*.csv"\nmap = "columns.toml"\n'
HEADER = "mrn,age,volume,sex,outcome\n"

Row = tuple[str, str, str, str, str]


def rows(patients: int = 40) -> list[Row]:
    """Two visits of each patient, whose outcome is the same at both; every eighth volume is missing."""
    return [
        (f"MRN{p:03d}", str(50 + p % 30 + visit), "?" if p % 8 == 0 else f"{3 + p / 10 + visit}", "FM"[p % 2], outcome)
        for p in range(patients)
        for visit in range(2)
        for outcome in (("well", "sick")[p // 2 % 2],)
    ]


def written(folder: Path, body: list[Row], name: str = "visits.csv") -> Path:
    (folder / name).write_text(HEADER + "".join(",".join(row) + "\n" for row in body))
    return folder / name


@pytest.fixture
def hospital(tmp_path: Path) -> Callable[..., Site]:
    """`hospital(rows, settings=)`: a folder with one table, opened and scanned."""

    def build(body: list[Row] | None = None, settings: str = "", columns: str = MAP) -> Site:
        folder = tmp_path / "north"
        folder.mkdir()
        written(folder, rows() if body is None else body)
        (folder / "columns.toml").write_text(columns)
        (folder / "site.toml").write_text(SETTINGS + settings)
        site = Site.open(folder)
        scan(site)
        return site

    return build


def study(**changes: object) -> StudySpec:
    section: dict[str, object] = {"kind": "table", "features": ["volume", "sex=M", "age"]}
    return tiny_study(
        cohort={"labels": ["healthy", "ill"], "positive": "ill"},
        input={**section, **changes},
        model={"name": "mlp"},
        split={"shares": [1.0, 0.0, 0.0]},
    )


SCALE = FeatureScale(centre=(5.0, 0.0, 60.0), spread=(2.0, 1.0, 10.0))


def test_rows_are_on_the_scale_of_the_run(hospital: Callable[..., Site]) -> None:
    site = hospital()
    data, items = load(site, study(), "run-1", scale=SCALE), freeze(site, study(), "run-1").items
    assert data.images.dtype == np.float32
    assert data.images.shape == (80, 3)
    assert len(set(data.patients.tolist())) == 40
    body = rows()
    for image, item in zip(data.images, items, strict=True):
        _, age, volume, sex, outcome = body[item.at - 2]  # the header is row 1
        expected = [0.0 if volume == "?" else (float(volume) - 5) / 2, float(sex == "M"), (float(age) - 60) / 10]
        np.testing.assert_allclose(image, expected, rtol=1e-6)
        assert item.label == (outcome == "sick")
    with pytest.raises(DataError, match="not measured yet"):
        load(site, study(), "run-2")


def test_sex_and_age_of_patients_are_those_of_most_rows(hospital: Callable[..., Site]) -> None:
    odd = [("ODD1", "95", "3", "F", "well"), ("ODD2", "?", "3", "M", "well"), ("ODD2", "-1", "3", "M", "well")]
    site = hospital([*rows(), *odd], columns='age = "age"\nsex = { column = "sex", words = { F = "F" } }\n' + MAP)
    spec = study().model_copy(update={"evaluation": Evaluation(subgroups=("sex", "age"))})
    found = {item.patient: item.groups for item in from_catalog(site, spec).items}
    for mrn, groups in (
        ("MRN000", ("F", "40 to 59")),
        ("MRN025", ("not known", "75 and over")),
        ("ODD1", ("F", "75 and over")),
        ("ODD2", ("not known", "not known")),
    ):
        assert found[site.pseudonym("patient", mrn)] == groups
    assert not any(item.groups for item in from_catalog(site, study()).items)


def test_a_patient_s_rows_are_on_one_side(hospital: Callable[..., Site]) -> None:
    sides: dict[str, set[str]] = {}
    for item in from_catalog(hospital(), study()).items:
        sides.setdefault(item.patient, set()).add(item.side)
    assert len(sides) == 40
    assert all(len(each) == 1 for each in sides.values())


def test_the_catalog_holds_pseudonyms_and_counts(hospital: Callable[..., Site]) -> None:
    body = [*rows(), rows()[3], ("MRN900", "old", "3", "F", "well"), ("", "50", "3", "F", "well")]
    site = hospital([*body, ("MRN901", "50", "3", "X", "well"), ("MRN902", "50", "3", "F", "?")])
    with Catalog.open(site) as catalog:
        counts = catalog.counts()
    assert (counts.files, counts.tables, counts.table_rows, counts.duplicates) == (2, 1, 81, 1)
    assert (counts.patients, counts.labelled_patients, counts.not_dicom) == (41, 40, 1)  # columns.toml
    assert counts.labels == {"healthy": 20, "ill": 20}
    assert counts.quarantine == {
        "a row of a table: column 'age' holds no number": 1,
        "a row of a table: column 'sex' holds a level that the map does not list": 1,
        "a row of a table: it names no patient": 1,
    }
    held = (site.state / "catalog.sqlite").read_bytes()
    assert b"MRN0" not in held
    shown = CliRunner().invoke(app, ["report", str(site.folder), "--show-paths"], env={"COLUMNS": "140"}).stdout
    assert "visits.csv, row 83" in shown
    page = render(report(site, None, ignore))
    assert ">81<" in page
    assert "MRN0" not in page


def test_the_report_says_what_a_study_of_tables_asks(hospital: Callable[..., Site]) -> None:
    found = report(hospital(), study(), ignore).contract
    assert found is not None
    assert found.passes
    assert [line.asked for line in found.lines] == [
        "At least 5 training patients",
        "At least 1 training patient labelled healthy",
        "At least 1 training patient labelled ill",
    ]


def test_rows_with_a_missing_value_can_be_left_out(hospital: Callable[..., Site]) -> None:
    site = hospital()
    found = from_catalog(site, study(missing="leave-out"))
    assert (len(found.items), found.left_out[INCOMPLETE]) == (70, 10)
    assert len(from_catalog(site, study(missing="leave-out", features=["age"])).items) == 80


def test_a_feature_that_the_map_lacks_is_told(hospital: Callable[..., Site]) -> None:
    site = hospital()
    with pytest.raises(DataError, match="has no feature 'weight' of the study's; it has age, volume, sex=F, sex=M"):
        from_catalog(site, study(features=["weight"]))
    (site.folder / "site.toml").write_text("")
    bare = Site.open(site.folder)
    scan(bare)
    with pytest.raises(DataError, match="no readable row of a table"):
        from_catalog(bare, study())


def test_a_map_that_does_not_fit_is_a_reason(hospital: Callable[..., Site]) -> None:
    site = hospital()
    (site.folder / "visits2.csv").write_text("mrn,years\nMRN950,50\n")
    counts = scan(site).counts
    assert (counts.tables, counts.table_rows) == (1, 80)
    assert counts.quarantine == {"the table has no column 'age', only 'mrn', 'years'; check the map of its columns": 1}


def test_a_row_that_changed_is_gone_from_a_run_and_the_others_are_not(hospital: Callable[..., Site]) -> None:
    site, body = hospital(), rows()
    freeze(site, study(), "run-1")
    body[3] = (*body[3][:1], "99", *body[3][2:])
    written(site.folder, [*body, ("MRN999", "50", "3", "F", "well")])
    data = load(site, study(), "run-1", scale=SCALE)
    assert (len(data.images), data.gone) == (79, 1)
    assert scan(site).counts.table_rows == 81


def test_a_table_that_is_gone_takes_its_rows_with_it(hospital: Callable[..., Site]) -> None:
    site = hospital()
    written(site.folder, [("MRN500", "50", "3", "F", "well")], "visits-2.csv")
    assert scan(site).counts.table_rows == 81
    (site.folder / "visits-2.csv").unlink()
    assert scan(site).counts.table_rows == 80
    (site.folder / "sub").mkdir()
    written(site.folder / "sub", [("MRN500", "50", "3", "F", "well")])
    assert scan(site).counts.table_rows == 81
    (site.folder / "sub" / "visits.csv").unlink()
    (site.folder / "sub").rmdir()
    found = scan(site)
    assert (found.counts.table_rows, found.removed) == (80, 1)


def test_unchanged_tables_are_not_read_again(hospital: Callable[..., Site], monkeypatch: pytest.MonkeyPatch) -> None:
    site = hospital()
    monkeypatch.setattr(tables, "read", lambda *_: pytest.fail("a table was read again"))
    assert scan(site).read == 0
    assert len(from_catalog(site, study()).items) == 80


def test_a_table_that_cannot_be_read_any_more_is_tried_once_for_all_its_rows(
    hospital: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    site = hospital()
    freeze(site, study(), "run-1")
    (site.folder / "visits.csv").write_text("nothing\n")
    real, reads = tables.read, list[Path]()

    def read(at: Site, path: Path) -> Table:
        reads.append(path)
        return real(at, path)

    monkeypatch.setattr(tables, "read", read)
    with pytest.raises(DataError, match="none of the cohort's images can be read now"):
        load(site, study(), "run-1", scale=SCALE)
    assert len(reads) == 1


def test_another_map_is_another_catalog(hospital: Callable[..., Site]) -> None:
    site = hospital()
    (site.folder / "columns.toml").write_text(MAP.replace('well = "healthy"', 'well = "fine"'))
    assert scan(Site.open(site.folder)).counts.labels == {"fine": 20, "ill": 20}


def test_whoever_opts_out_is_not_there(hospital: Callable[..., Site]) -> None:
    site = hospital()
    (site.folder / "opt-out.txt").write_text("MRN007\n")
    site = Site.open(site.folder)
    assert scan(site).counts.opted_out == 2
    assert len(from_catalog(site, study()).people) == 39


def test_labels_may_stand_in_a_table_of_their_own(hospital: Callable[..., Site]) -> None:
    site = hospital()
    target = MAP[MAP.index("[target]") : MAP.index("[[features]]")]
    (site.folder / "columns.toml").write_text(MAP.replace(target, ""))
    labels = "".join(f"MRN{p:03d},{('healthy', 'ill')[p % 2]}\n" for p in range(40))
    (site.folder / "labels.csv").write_text("patient_id,label\n" + labels)
    site = Site.open(site.folder)
    scan(site)
    assert from_catalog(site, study()).label_counts() == {"healthy": 20, "ill": 20}


def test_patients_of_a_table_that_names_none_are_as_many_as_its_rows(tmp_path: Path) -> None:
    """UCI's heart disease as it is: two equal rows are two patients, and so are the fifth rows of two files."""
    row = "63,1,1,145,233,1,2,150,0,2.3,3,0,6,{}\n"
    for name in ("processed.a.data", "processed.b.data"):
        (tmp_path / name).write_text("".join(row.format(index % 3) for index in range(12)))
    (tmp_path / "site.toml").write_text('[table]\nfiles = "processed.*.data"\nmap = "heart-disease"\n')
    site = Site.open(tmp_path)
    counts = scan(site).counts
    assert (counts.tables, counts.table_rows, counts.patients, counts.duplicates) == (2, 24, 24, 0)
    assert counts.labels == {"disease": 16, "healthy": 8}


# The scale -----------------------------------------------------------------------------------------------------------


def test_sums_for_the_scale_are_of_those_who_train(hospital: Callable[..., Site]) -> None:
    site, spec = hospital(), study()
    found = survey(site, spec, "run-1", "scale", ignore)
    items = [item for item in freeze(site, spec, "run-1").items if item.side == "train"]
    body = rows()
    values = [
        [np.nan if volume == "?" else float(np.float32(volume)), float(sex == "M"), float(age)]
        for _, age, volume, sex, _ in (body[item.at - 2] for item in items)
    ]
    assert isinstance(spec.input, TableInput)
    expected = feature_scale.site_sums(values, [item.patient for item in items], spec.input, min_cell=5)
    assert found.statistics.features == expected
    assert found.statistics.patients == len({item.patient for item in items})
    assert found.records.keys() == {item.patient for item in items}
    assert found.statistics.tables == {}


def test_a_run_has_one_scale(hospital: Callable[..., Site]) -> None:
    site = hospital()
    Hospital(SiteSource(site)).prepare(Question(kind="prepare", study=study(), run="run-1", scale=SCALE))
    other = SCALE.model_copy(update={"centre": (5.0, 0.0, 61.0)})
    with pytest.raises(DataError, match="on another scale already: start a new run"):
        Hospital(SiteSource(site)).prepare(Question(kind="prepare", study=study(), run="run-1", scale=other))


def test_statistics_of_tables_are_counts(hospital: Callable[..., Site]) -> None:
    site = hospital()
    found = survey(site, study(), "run-1", "catalog", ignore).statistics
    assert (found.patients, found.images) == (40, 80)
    assert found.tables["label"] == {"healthy": 20, "ill": 20, "(missing)": 0}
    volume = found.feature_tables["volume"]
    assert volume.missing == 5
    means = [3.5 + p / 10 for p in range(40) if p % 8]  # of two visits each
    assert volume == feature_cells([*means, *[np.nan] * 5], min_cell=5)
    assert list(found.feature_tables) == ["volume", "sex=M", "age"]
    assert [count for _, _, count in found.feature_tables["sex=M"].cells] == [20, 20]
    with pytest.raises(DataError, match="no grey values"):
        survey(site, study(), "run-1", "pixels", ignore)


def test_a_row_that_went_lacks_its_values_and_its_patient_counts(hospital: Callable[..., Site]) -> None:
    site = hospital()
    written(site.folder, rows()[:-4])
    found = survey(site, study(), "run-1", "catalog", ignore).statistics
    assert (found.patients, found.feature_tables["age"].missing) == (40, None)


def test_a_record_is_of_all_that_the_site_has_of_a_patient(
    hospital: Callable[..., Site], write_dicom: Callable[..., Path]
) -> None:
    """So that an answer on tables is held against one on images: the difference rule counts patients."""
    site = hospital()
    before = survey(site, study(), "run-1", "catalog", ignore).records
    write_dicom(site.folder / "a.dcm", patient_id="MRN007", array=np.zeros((16, 16), np.uint8))
    scan(site)
    after = survey(site, study(), "run-1", "catalog", ignore).records
    assert {patient for patient in before if before[patient] != after[patient]} == {site.pseudonym("patient", "MRN007")}


def test_a_site_that_only_evaluates_is_measured_for_combat_alone(hospital: Callable[..., Site]) -> None:
    site = hospital()
    watches = study().model_copy(update={"sites": (SiteEntry(name="north", role="evaluate"),)})
    with pytest.raises(DataError, match="only evaluates in this study"):
        survey(site, watches, "run-1", "scale", ignore)
    compared = study(combat=["volume", "age"]).model_copy(update={"sites": watches.sites})
    sums = survey(site, compared, "run-2", "scale", ignore).statistics.features
    assert sums is not None
    assert sums.combat is not None
    assert sums.combat.patients == 35  # of all 40 those whose volume is known
