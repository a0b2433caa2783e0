"""Labels joined to images by what a row is of, in one-label studies and in studies of several: real folders."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from fedward_client import catalog
from fedward_client.cache import load
from fedward_client.catalog import Catalog
from fedward_client.catalog_counts import Counts
from fedward_client.cli import app
from fedward_client.dry_run import dry_run
from fedward_client.freezing import freeze
from fedward_client.site import KEY, STATE, Site
from fedward_common.errors import DataError
from fedward_common.study import StudySpec
from fedward_common.testing import tiny_study

Write = Callable[..., Path]
PATIENTS = 24
KINDS = {"accession": "ACC{0}-{1}", "study": "1.2.{0}.{1}", "path": "P{0}/image{1}.dcm"}


def spec(**cohort: Any) -> StudySpec:
    return tiny_study(input={"size": [8, 8]}, cohort={"min_patients": 5, **cohort}, split={"shares": [1.0, 0.0, 0.0]})


SEVERAL = spec(labels=["effusion", "nodule"], positive=None, multi_label=True)


@pytest.fixture
def folder(tmp_path: Path, write_dicom: Write) -> Path:
    """Patients P0 to P23, each with two images of a study, an accession number and a path of their own."""
    rng = np.random.default_rng(5)
    for patient in range(PATIENTS):
        for number in (0, 1):
            array = rng.integers(0, 200, (8, 8)).astype(np.uint8)
            names = {"StudyInstanceUID": f"1.2.{patient}.{number}", "AccessionNumber": f"ACC{patient}-{number}"}
            path = tmp_path / "north" / f"P{patient}" / f"image{number}.dcm"
            write_dicom(path, patient_id=f"P{patient}", array=array, **names)
    key = tmp_path / "north" / STATE / KEY  # of chance, one in some hundreds leaves too few patients to train on
    key.parent.mkdir(mode=0o700)
    key.write_bytes(bytes(range(32)))
    key.chmod(0o600)
    return tmp_path / "north"


def opened(folder: Path, rows: list[str], settings: str = "", header: str = "of,label") -> Site:
    (folder / "labels.csv").write_text("\n".join([header, *rows]) + "\n")
    (folder / "site.toml").write_text(f"[labels]\n{settings}\n")
    site = Site.open(folder)
    catalog.scan(site)
    return site


def counts(site: Site) -> Counts:
    with Catalog.open(site) as found:
        return found.counts()


def label_of(patient: int, number: int) -> str:
    return "malignant" if (patient + number) % 2 else "benign"


# One label an image --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("setting", KINDS)
def test_a_label_is_that_images_and_not_all_of_the_patients(folder: Path, setting: str) -> None:
    every = [(patient, number) for patient in range(PATIENTS) for number in (0, 1)]
    rows = [f"{KINDS[setting].format(*one)},{label_of(*one)}" for one in every]
    site = opened(folder, [*rows, "nowhere,benign"], f'{setting} = "of"')
    cohort = freeze(site, spec(), "run-1")
    expected = {site.pseudonym("file", KINDS["path"].format(*one)): int(label_of(*one) == "malignant") for one in every}
    assert {item.image: item.label for item in cohort.items} == expected
    assert len({(item.patient, item.side) for item in cohort.items}) == PATIENTS, "all images of a patient on one side"
    kind = {"accession": "accession numbers", "study": "studies", "path": "files"}[setting]
    assert cohort.left_out == {f"labelled {kind} without images": 1}
    assert cohort.label_counts() == {"benign": PATIENTS, "malignant": PATIENTS}
    found = counts(site)
    assert (found.labels, found.labels_without_images) == ({"benign": 24, "malignant": 24}, 1)
    assert (found.labelled_patients, found.images_without_label) == (24, 0)
    written = b"".join(path.read_bytes() for path in site.state.rglob("*") if path.is_file())
    assert not [name for name in ("ACC3-1", "1.2.3.1", "P3/image1") if name.encode() in written]


def test_images_without_a_label_are_left_out_one_by_one(folder: Path) -> None:
    rows = [f"P{patient}/image0.dcm,{label_of(patient, 0)}" for patient in range(PATIENTS - 1)]
    site = opened(folder, [*rows, "P0/image1.dcm,cyst"], 'path = "of"')
    cohort = freeze(site, spec(), "run-1")
    assert len(cohort.items) == PATIENTS - 1
    assert cohort.left_out == {
        "images with another label, of patients with a label": 1,
        "images without a label, or with two that differ, of patients with a label": 22,
        "patients without a label, or with two that differ": 1,
    }
    found = counts(site)
    assert (found.patients_without_label, found.images_without_label) == (1, 22)


def test_a_patient_is_on_one_side_or_left_out(folder: Path) -> None:
    sides = ("train", "validation", "test", "train")
    rows = [f"P{p}/image{n}.dcm,{label_of(p, n)},{sides[p % 4]}" for p in range(PATIENTS) for n in (0, 1)]
    rows[0] = rows[0].replace("train", "test")
    site = opened(folder, rows, 'path = "of"', "of,label,split")
    cohort = freeze(site, tiny_study(cohort={"min_patients": 5}, split={"kind": "column"}), "run-1")
    assert cohort.left_out == {"patients whose rows name different sides of the split": 1}
    assert site.pseudonym("patient", "P0") not in cohort.people
    assert len(cohort.people) == PATIENTS - 1


def test_slices_that_say_different_things_are_a_volume_without_a_label(tmp_path: Path, write_dicom: Write) -> None:
    for patient in range(12):
        for number in range(4):
            place = {"ImagePositionPatient": [0, 0, number], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
            uids = {"SeriesInstanceUID": f"1.2.{patient}", "PixelSpacing": [1, 1], "StudyInstanceUID": f"1.3.{patient}"}
            array = np.full((8, 8), patient + number, np.uint8)
            write_dicom(
                tmp_path / "north" / f"P{patient}" / f"{number}.dcm",
                patient_id=f"P{patient}", array=array, **place, **uids,
            )  # fmt: skip
    rows = [f"P{patient}/0.dcm,{label_of(patient, 0)}" for patient in range(12)]
    site = opened(tmp_path / "north", [*rows, "P1/1.dcm,benign", "P2/3.dcm,benign"], 'path = "of"')
    study = tiny_study(input={"size": [8, 8, 8]}, cohort={"min_patients": 5}, split={"shares": [1.0, 0.0, 0.0]})
    cohort = freeze(site, study, "run-1")
    assert (len(cohort.items), cohort.left_out) == (11, {"patients without a label, or with two that differ": 1})
    assert site.pseudonym("patient", "P1") not in cohort.people


# What people read ----------------------------------------------------------------------------------------------------


def test_what_did_not_serve_is_in_report_and_check(folder: Path, tmp_path: Path) -> None:
    rows = [f"P{p},r{n},{'gut' if label_of(p, 0) == 'benign' else 'malignant'}" for p in range(22) for n in (1, 2, 3)]
    rows[0], rows[3], rows[4] = "P0,r1,malignant", "P1,r1,gut", "P1,r2,"
    words = '[labels.words]\ngut = "benign"\n'
    site = opened(
        folder,
        [*rows, "P22,r1,zyste", "P23,r1,zyste", "P23,r2,?"],
        f'patient = "of"\nannotator = "reader"\nagreement = "majority"\n{words}',
        "of,reader,label",
    )
    found = counts(site)
    assert (found.label_conflicts, found.label_majorities) == (2, 1)
    assert found.unknown_words == {"malignant": 32, "zyste": 2, "?": 1}
    assert found.label_rows_left_out == {"without label": 1}
    report = CliRunner().invoke(app, ["report", str(folder)])
    assert all(words in report.stdout for words in ("label conflicts", "label majorities", "unknown words", "zyste"))
    study = tmp_path / "s.toml"
    study.write_text(
        '[study]\nid = "s"\ntask = "classification"\n[cohort]\nmodality = "US"\nlabels = ["benign", "malignant"]\n'
        'positive = "malignant"\nmin_patients = 5\n[input]\nsize = [16, 16]\n[model]\nname = "small-cnn"\n'
    )
    check = CliRunner().invoke(app, ["check", str(folder), str(study)])
    assert check.exit_code == 0, check.output
    assert "rows, no label of the study" in check.stdout
    shown = json.loads(CliRunner().invoke(app, ["check", str(folder), str(study), "--json"]).stdout)
    assert shown["other_words"] == {"zyste": 1}
    assert "zyste" not in json.dumps(shown["left_out"]), "what is left out may be told to the hub"


# Several labels an image ---------------------------------------------------------------------------------------------


def findings(folder: Path) -> Site:
    """Effusion is known of two patients in three, nodule of every second."""

    def cell(patient: int, period: int) -> str:
        return "" if patient % period == 0 else str(patient // period % 2)

    rows = [f"P{p},{cell(p, 3)},{cell(p, 2)},1" for p in range(PATIENTS)]
    settings = 'patient = "of"\nfindings = ["effusion", "nodule", "hernia"]'
    return opened(folder, rows, settings, "of,effusion,nodule,hernia")


def test_partial_labels_are_frozen_cached_and_counted(folder: Path) -> None:
    site = findings(folder)
    cohort, data = freeze(site, SEVERAL, "run-1"), load(site, SEVERAL, "run-1")
    by_patient = {item.patient: item.label for item in cohort.items}
    assert by_patient[site.pseudonym("patient", "P5")] == (1, 0)
    assert by_patient[site.pseudonym("patient", "P3")] == (-1, 1)
    assert by_patient[site.pseudonym("patient", "P2")] == (0, -1)
    assert cohort.left_out == {"patients with another label": 4}, "of P0, P6, P12, P18 only hernia is known"
    assert data.labels.tolist() == [list(by_patient[item.patient]) for item in cohort.items]  # type: ignore[arg-type]
    assert cohort.not_known() == {"effusion": 8, "nodule": 16}
    assert cohort.label_counts() == {"effusion": 8, "nodule": 6}
    found = dry_run(site, SEVERAL)
    assert (found.refusal, found.not_known) == ("", {"effusion": 8, "nodule": 16})
    assert found.other_words == {"hernia": 24}
    assert found.round_s is not None
    known = counts(site)
    assert known.labels == {"effusion": 8, "hernia": 24, "nodule": 6}
    assert (known.findings_not_known, known.images_partly_labelled) == ({"effusion": 16, "nodule": 24}, 32)


def test_a_site_that_knows_one_label_only_takes_part(folder: Path) -> None:
    rows = [f"P{p},{p % 2}" for p in range(PATIENTS)]
    site = opened(folder, rows, 'patient = "of"\nfindings = ["nodule"]', "of,nodule")
    cohort = freeze(site, SEVERAL, "run-1")
    assert {item.label for item in cohort.items} == {(-1, 0), (-1, 1)}


def test_a_column_of_ratings_is_a_label_for_each_threshold(folder: Path) -> None:
    words = 'words = { "1" = [], "2" = ["at least 2"], "3" = ["at least 2", "at least 3"] }'
    rows = [f"P{p},{p % 3 + 1}" for p in range(PATIENTS)]
    site = opened(folder, rows, f'patient = "of"\nlabel = "rating"\n{words}', "of,rating")
    study = spec(labels=["at least 2", "at least 3"], positive=None, multi_label=True)
    cohort = freeze(site, study, "run-1")
    expected = {site.pseudonym("patient", f"P{p}"): ((0, 0), (1, 0), (1, 1))[p % 3] for p in range(PATIENTS)}
    assert {item.patient: item.label for item in cohort.items} == expected
    assert counts(site).labels == {"at least 2": 16, "at least 3": 8}
    with pytest.raises(DataError, match="words that stand for one label each"):
        freeze(site, spec(), "run-2")


def test_a_study_and_a_table_of_another_kind_do_not_go_together(folder: Path) -> None:
    with pytest.raises(DataError, match="say which columns of the label table hold findings"):
        freeze(opened(folder, [f"P{p},benign" for p in range(PATIENTS)], 'patient = "of"'), SEVERAL, "run-1")
    with pytest.raises(DataError, match="the study has one label an image"):
        freeze(findings(folder), spec(), "run-2")
