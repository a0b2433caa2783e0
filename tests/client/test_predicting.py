"""`fedward model predict`: the numbers that a training site's evaluation would give, from files without labels."""

import csv
from collections.abc import Callable, Mapping
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from click.testing import Result
from numpy.typing import ArrayLike
from PIL import Image
from safetensors.numpy import save_file
from typer.testing import CliRunner

from fedward_client import predicting
from fedward_client.cache import load
from fedward_client.catalog import paths
from fedward_client.evaluation import outputs
from fedward_client.freezing import freeze
from fedward_client.site import Site
from fedward_client.training.device import pick_device
from fedward_common import cli, models
from fedward_common.compounds import fingerprint
from fedward_common.dna import codes, one_hot
from fedward_common.errors import DataError
from fedward_common.models import trained
from fedward_common.models.trained import RESEARCH_USE, Trained
from fedward_common.records import model_sha256
from fedward_common.study import FeatureScale, Scale, StudySpec
from fedward_common.testing import tiny_study

LABELS = {f"MRN{number}": ("benign", "malignant")[number % 2] for number in range(24)}
MAP = """patient = "mrn"
missing = ["", "?"]
[[features]]
kind = "numeric"
column = "age"
[[features]]
kind = "numeric"
column = "volume"
"""


@pytest.fixture
def model(tmp_path: Path) -> Callable[..., Path]:
    """`model(study)`: a trained model's file."""

    def make(study: StudySpec, *, scale: Scale | None = None, thresholds: Mapping[str, float] | None = None) -> Path:
        arrays = models.initial_state(study, 7)
        about = Trained(
            study=study,
            scale=scale,
            thresholds={"malignant": 0.5} if thresholds is None else dict(thresholds),
            model_sha256=model_sha256(arrays),
            limits=("One seed only.",),
        )
        save_file(arrays, tmp_path / "model.safetensors", metadata=about.header)
        return tmp_path / "model.safetensors"

    return make


def fedward(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli.app, ["model", "predict", *(str(argument) for argument in arguments)])


def said(result: Result) -> str:
    return " ".join(result.output.split())


def rows(path: Path) -> list[dict[str, str]]:
    lines = path.read_text("utf-8").splitlines()
    return list(csv.DictReader(line for line in lines if not line.startswith("# ")))


def test_a_hospital_s_folder_gives_what_evaluation_sees(
    site_folder: Callable[..., Path], model: Callable[..., Path], tmp_path: Path
) -> None:
    study, folder, out = tiny_study(), site_folder(LABELS), tmp_path / "found.csv"
    site = Site.open(folder)
    data, items = load(site, study, "run-1"), freeze(site, study, "run-1").items
    (folder / "labels.csv").unlink()
    file = model(study)
    about, network = trained.read(file)
    expected = outputs(network, np.array(data.images), study=study, device=pick_device())
    where = {key: path.relative_to(folder).as_posix() for key, path in paths(site).items()}
    scores: dict[str, list[float]] = {}
    for item, score in zip(items, expected, strict=True):
        scores.setdefault(where[item.files[0]].partition("/")[0], []).append(score[1])

    done = fedward(file, folder, "--out", out)
    assert done.exit_code == 0, done.output
    found = rows(out)
    assert [row["file"] for row in found] == sorted(f"{patient}/image0.dcm" for patient in LABELS)
    for row in found:
        own = scores[row["file"].partition("/")[0]]
        assert (row["examples"], row["row"], row["note"]) == ("2", "", "")
        assert float(row["probability malignant"]) == pytest.approx(np.mean(own), abs=1e-6)
        assert float(row["probability benign"]) == pytest.approx(1 - np.mean(own), abs=1e-6)
        assert row["called malignant"] == ("yes" if np.mean(own) >= 0.5 else "no")
    preface = [line for line in out.read_text().splitlines() if line.startswith("# ")]
    assert f"# {RESEARCH_USE}" in preface
    assert "# One seed only." in preface
    assert about.model_sha256 in preface[1]
    assert not any(patient in done.output for patient in LABELS)
    before = out.read_bytes()
    assert fedward(file, folder, "--out", out).exit_code == 0
    assert out.read_bytes() == before


def test_what_cannot_be_read_or_taken_is_listed_with_its_reason(
    site_folder: Callable[..., Path], write_dicom: Callable[..., Path], model: Callable[..., Path], tmp_path: Path
) -> None:
    folder, out = site_folder({"A": "benign", "B": "malignant"}), tmp_path / "found.csv"
    write_dicom(folder / "A" / "scan.dcm", patient_id="A", array=np.zeros((9, 9), np.uint8), Modality="CT")
    write_dicom(folder / "C" / "scan.dcm", patient_id="C", array=np.zeros((9, 9), np.uint8), Modality="CT")
    broken = folder / "B" / "image1.dcm"
    broken.write_bytes(broken.read_bytes()[:-100])
    done = fedward(model(tiny_study()), folder, "--out", out)
    assert done.exit_code == 1
    found = {row["file"]: row for row in rows(out)}
    assert found.keys() == {"A/image0.dcm", "B/image0.dcm", "B/image1.dcm", "C/scan.dcm"}
    assert found["A/image0.dcm"]["note"] == "left out: 1 images of another modality"
    assert found["A/image0.dcm"]["probability malignant"]
    assert found["B/image0.dcm"]["examples"] == "1"
    assert found["B/image1.dcm"]["note"]
    assert found["C/scan.dcm"]["note"] == "left out: 1 images of another modality"
    assert not found["B/image1.dcm"]["probability malignant"]
    assert "2 with probabilities, 2 without" in done.stdout


def test_a_single_file_and_files_that_do_not_say_whose_they_are(model: Callable[..., Path], tmp_path: Path) -> None:
    folder, out = tmp_path / "图像", tmp_path / "found.csv"
    folder.mkdir()
    for number in range(3):
        noise = np.random.default_rng(number).integers(0, 255, (20, 30), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.png")
    file = model(tiny_study())
    assert fedward(file, folder, "--out", out).exit_code == 0
    every = rows(out)
    assert [row["file"] for row in every] == ["0.png", "1.png", "2.png"]
    assert fedward(file, folder / "1.png", "--out", out).exit_code == 0
    assert rows(out) == [every[1]]
    assert list(folder.glob(".*")) == []


def test_a_nifti_file_is_a_volume(model: Callable[..., Path], tmp_path: Path) -> None:
    values = np.random.default_rng(1).integers(0, 99, (12, 11, 10)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "brain.nii.gz")
    out = tmp_path / "found.csv"
    study = tiny_study(input={"size": [8, 16, 16]})
    assert fedward(model(study), tmp_path / "brain.nii.gz", "--out", out).exit_code == 0
    [row] = rows(out)
    assert (row["file"], row["examples"]) == ("brain.nii.gz", "1")
    assert float(row["probability benign"]) + float(row["probability malignant"]) == pytest.approx(1)


def test_rows_of_a_table_are_on_the_scale_of_the_run(model: Callable[..., Path], tmp_path: Path) -> None:
    folder, out = tmp_path / "north", tmp_path / "found.csv"
    folder.mkdir()
    table = folder / "visits.csv"
    table.write_text("mrn,age,volume\nM1,60,5\nM2,70,?\nM1,80,7\nM3,old,6\n")
    section = {"kind": "table", "features": ["volume", "age"]}
    study = tiny_study(input=section, model={"name": "logistic-regression"})
    file = model(study, scale=FeatureScale(centre=(5.0, 60.0), spread=(2.0, 10.0)))
    refused = fedward(file, table, "--out", out)
    assert refused.exit_code == 1
    assert "map of their columns under [table]" in refused.stderr

    (folder / "columns.toml").write_text(MAP)
    (folder / "site.toml").write_text('[table]\nfiles = "visits*.csv"\nmap = "columns.toml"\n')
    for source in (folder, table):
        assert fedward(file, source, "--out", out).exit_code == 1
        one, two, bad = rows(out)
        with torch.no_grad():
            scores = trained.read(file)[1](torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 2.0]])).softmax(dim=1)[:, 1]
        assert (one["file"], one["row"], one["examples"]) == ("visits.csv", "2", "2")
        assert float(one["probability malignant"]) == pytest.approx(float(scores[[0, 2]].mean()), abs=1e-6)
        assert (two["row"], two["examples"]) == ("3", "1")
        assert float(two["probability malignant"]) == pytest.approx(float(scores[1]), abs=1e-6)
        assert (bad["row"], bad["probability malignant"]) == ("5", "")
        assert bad["note"].startswith("a row of a table: ")


@pytest.mark.parametrize("outcome", ["", ",sick", ",unknown", ",SICK"])
def test_new_patients_need_no_outcome(model: Callable[..., Path], tmp_path: Path, outcome: str) -> None:
    """The map of the hospital's columns names one, which the table of those who just came has not, or not yet."""
    folder, out = tmp_path / "north", tmp_path / "found.csv"
    folder.mkdir()
    title = ",outcome" if outcome else ""
    (folder / "visits.csv").write_text(f"mrn,age,volume{title}\nM1,60,5{outcome}\nM2,70,6{outcome}\n")
    target = '[target]\ncolumn = "outcome"\nclasses = { well = "benign", sick = "malignant" }\n'
    (folder / "columns.toml").write_text(MAP + target)
    (folder / "site.toml").write_text('[table]\nfiles = "visits.csv"\nmap = "columns.toml"\n')
    section = {"kind": "table", "features": ["volume", "age"]}
    study = tiny_study(input=section, model={"name": "logistic-regression"})
    file = model(study, scale=FeatureScale(centre=(5.0, 60.0), spread=(2.0, 10.0)))
    found = fedward(file, folder, "--out", out)
    assert found.exit_code == 0, found.output
    assert [row["row"] for row in rows(out)] == ["2", "3"]
    refused = fedward(file, folder, "--out", tmp_path / "reports", "--format", "sr")
    assert "a DICOM report refers to DICOM images, and the model takes none" in said(refused)


COLUMN = """patient = "group"
[[features]]
"""
DNA = ('kind = "sequence"\ncolumn = "dna"\nlength = 16\n', {"kind": "sequence", "column": "dna", "length": 16})
SMILES = (
    'kind = "compound"\ncolumn = "smiles"\nbits = 128\n',
    {"kind": "compound", "column": "smiles", "bits": 128, "radius": 2},
)


@pytest.mark.parametrize(
    ("how", "network", "values", "taken"),
    [
        (DNA, "cnn-1d", ("ACGTNACGTTGCAACG", "TTGACCNACGTTAGCA", "ACGU"), lambda text: one_hot(codes(text, 16))),
        (SMILES, "logistic-regression", ("CCO", "c1ccccc1N", "C1CC("), lambda text: fingerprint(text, 2, 128)),
    ],
    ids=["dna", "compounds"],
)
def test_a_column_of_sequences_or_compounds(
    how: tuple[str, dict[str, object]],
    network: str,
    values: tuple[str, str, str],
    taken: Callable[[str], ArrayLike],
    model: Callable[..., Path],
    tmp_path: Path,
) -> None:
    """Two rows of one group, one of another, and one that is neither a sequence nor a compound."""
    (settings, section), (first, second, wrong) = how, values
    folder, out = tmp_path / "north", tmp_path / "found.csv"
    folder.mkdir()
    rows_of_table = (f"A,{first}", f"B,{second}", f"A,{second}", f"C,{wrong}")
    (folder / "rows.csv").write_text("\n".join([f"group,{section['column']}", *rows_of_table, ""]))
    (folder / "columns.toml").write_text(COLUMN + settings)
    (folder / "site.toml").write_text('[table]\nmap = "columns.toml"\n')
    file = model(tiny_study(input=section, model={"name": network}))
    assert fedward(file, folder, "--out", out).exit_code == 1
    examples = torch.tensor(np.array([taken(first), taken(second)], np.float32))
    with torch.no_grad():
        one, two = trained.read(file)[1](examples).softmax(dim=1)[:, 1].tolist()
    both, alone, bad = rows(out)
    assert (both["row"], both["examples"]) == ("2", "2")
    assert float(both["probability malignant"]) == pytest.approx((one + two) / 2, abs=1e-6)
    assert (alone["row"], alone["examples"]) == ("3", "1")
    assert float(alone["probability malignant"]) == pytest.approx(two, abs=1e-6)
    assert (bad["row"], bad["probability malignant"]) == ("5", "")
    assert wrong not in bad["note"]


def test_windows_of_a_recording_are_one_patient_s(model: Callable[..., Path], tmp_path: Path) -> None:
    folder, out = tmp_path / "gait", tmp_path / "found.csv"
    folder.mkdir()
    (folder / "columns.toml").write_text('rate_hz = 10\n[channels]\nx = { name = "x", unit = "mg" }\n')
    (folder / "site.toml").write_text(
        '[data]\npatient = "^([A-Z0-9]+)-"\n[series]\nfiles = "*-walk.csv"\nmap = "columns.toml"\n'
    )
    values = np.random.default_rng(1).normal(0, 100, 95)
    (folder / "S1-walk.csv").write_text("x\n" + "".join(f"{value:.3f}\n" for value in values))
    section = {"kind": "series", "signals": ["x"], "unit": "mg", "rate_hz": 10.0, "window_s": 2.0}
    done = fedward(model(tiny_study(input=section, model={"name": "cnn-1d"})), folder, "--out", out)
    assert done.exit_code == 0, done.output
    [row] = rows(out)
    assert (row["file"], row["examples"]) == ("S1-walk.csv", "4")


def test_a_folder_with_nothing_for_the_study_is_refused(model: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    about, network = trained.read(model(tiny_study()))
    with pytest.raises(DataError, match="nothing in the input is what the study takes"):
        predicting.predict(tmp_path / "empty", about, network)
    (tmp_path / "empty" / "scan.dcm").symlink_to("annex")
    with pytest.raises(DataError, match="opt-out list; 1 links were passed by: put the files themselves"):
        predicting.predict(tmp_path / "empty", about, network)


PICTURES = tiny_study(cohort={"modality": None}, input={"size": [16, 16]})


@pytest.fixture
def hospital(tmp_path: Path) -> Path:
    """Two patients' pictures, a folder each; the second is on the opt-out list."""
    folder, random = tmp_path / "hospital", np.random.default_rng(0)
    for patient in ("P1", "P2"):
        (folder / patient).mkdir(parents=True)
        Image.fromarray(random.integers(0, 255, (20, 20), dtype=np.uint8)).save(folder / patient / "a.png")
    (folder / "site.toml").write_text("[data]\npatient = '^([^/]+)/'\n")
    (folder / "opt-out.txt").write_text("P2\n")
    return folder


def test_a_file_is_its_hospitals(model: Callable[..., Path], hospital: Path, tmp_path: Path) -> None:
    """Under the settings and the opt-out list of the folder that it lies in, however deep."""
    file, out = model(PICTURES), tmp_path / "found.csv"
    whole = fedward(file, hospital, "--out", out)
    assert whole.exit_code == 0, whole.output
    [told] = rows(out)
    assert told["file"] == "P1/a.png"
    alone = fedward(file, hospital / "P1/a.png", "--out", out)
    assert alone.exit_code == 0, alone.output
    assert rows(out) == [told]
    left_out = fedward(file, hospital / "P2/a.png", "--out", tmp_path / "other.csv")
    assert left_out.exit_code == 1
    assert "opt-out list" in said(left_out)
    assert not (tmp_path / "other.csv").exists()


@pytest.mark.parametrize("known_by", ["opt-out.txt", ".fedward"])
def test_a_hospital_without_settings_is_one_too(
    write_dicom: Callable[..., Path], model: Callable[..., Path], tmp_path: Path, known_by: str
) -> None:
    """Who opted out there is left out, and a part of its folder is refused."""
    folder, out = tmp_path / "hospital", tmp_path / "found.csv"
    random = np.random.default_rng(0)
    for patient in ("MRN1", "MRN2"):
        pixels = random.integers(0, 255, (20, 20)).astype(np.uint8)
        write_dicom(folder / "images" / f"{patient}.dcm", patient_id=patient, array=pixels)
    if known_by == ".fedward":
        Site.open(folder).pseudonym("patient", "MRN1")
    (folder / "opt-out.txt").write_text("MRN2\n")
    file = model(tiny_study(input={"size": [16, 16]}))
    found = fedward(file, folder, "--out", out)
    assert found.exit_code == 0, found.output
    assert [row["file"] for row in rows(out)] == ["images/MRN1.dcm"]
    assert "is a part of the hospital's folder" in said(fedward(file, folder / "images", "--out", out))
    assert fedward(file, folder / "images/MRN2.dcm", "--out", tmp_path / "other.csv").exit_code == 1


def test_a_part_of_a_hospitals_folder_is_refused(model: Callable[..., Path], hospital: Path, tmp_path: Path) -> None:
    refused = fedward(model(PICTURES), hospital / "P2", "--out", tmp_path / "found.csv")
    assert "is a part of the hospital's folder" in said(refused)


def test_neither_the_model_nor_the_input_is_overwritten(
    model: Callable[..., Path], hospital: Path, tmp_path: Path
) -> None:
    file = model(PICTURES)
    before = file.read_bytes()
    picture = hospital / "P1/a.png"
    for source, out in ((hospital, file), (hospital, hospital / "found.csv"), (picture, picture)):
        assert "choose another --out" in said(fedward(file, source, "--out", out))
    assert file.read_bytes() == before
    exported = CliRunner().invoke(cli.app, ["model", "export", str(file), "--out", str(file)])
    assert "choose another --out" in said(exported)
    assert file.read_bytes() == before
