"""The studies on real data, on invented patients in the same formats: hospitals, FLamby's protocol, the page."""

import csv
import io
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from fedward_common.errors import RunError, UsageError
from fedward_server.figures.blocks import Figure
from fedward_simulations.results import Results
from fedward_simulations.studies import Trial, breast_ultrasound, dna, heart_disease, oasis, running
from fedward_simulations.studies.limits import LIMITS
from fedward_simulations.studies.limits_page import write_page
from fedward_simulations.studies.record import Record, add, read
from fedward_simulations.synthetic.heart_disease import write as write_rows

DOCS = Path(__file__).parents[2] / "docs"
SIZES = {"cleveland": 120, "hungarian": 100, "switzerland": 40, "va": 60}
SHORT = {
    "rounds": 2,
    "local_steps": 20,
    "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.0, "weight_decay": 0.0},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a collection that looks like UCI's; nearly all patients of one hospital are ill, as there."""
    root = tmp_path_factory.mktemp("data")
    folder = root / "heart_disease_uci4"
    folder.mkdir()
    for hospital, patients in SIZES.items():
        write_rows(folder, hospital, patients)
    path = folder / "processed.switzerland.data"
    rows = [line.rsplit(",", 1)[0] for line in path.read_text().splitlines()]
    path.write_text("".join(f"{row},{int(number > 1)}\n" for number, row in enumerate(rows)))
    return root


def run(trials: Iterable[Trial], data: Path, out: Path, said: io.StringIO) -> dict[str, Record]:
    return dict(running.run_all(trials, data, out, Console(file=said), by_name=True))


@pytest.mark.parametrize("trial", running.trials(), ids=lambda trial: trial.name)
def test_every_trial_is_a_study(trial: Trial) -> None:
    study = trial.study()
    for section, changes in trial.changes.items():
        assert changes.keys() <= getattr(study, section).model_dump().keys()


def test_a_collection_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"study 'heart-disease' needs the folder .*heart_disease_uci4"):
        run(heart_disease.TRIALS[:1], tmp_path, tmp_path / "out", io.StringIO())


def test_flambys_rows_and_test_patients(data: Path, tmp_path: Path) -> None:
    heart_disease.write_flamby(data / "heart_disease_uci4", tmp_path)
    for hospital, patients in SIZES.items():
        with (tmp_path / hospital / "labels.csv").open(newline="") as file:
            labels = list(csv.DictReader(file))
        with (tmp_path / hospital / "rows.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["patient"] for row in rows] == [row["patient_id"] for row in labels]
        assert 0.8 * patients < len(rows) < patients  # some lack a value
        assert all("?" not in row.values() for row in rows)
        tested = np.array([row["split"] == "test" for row in labels])
        ill = np.array([row["label"] == "disease" for row in labels])
        assert tested.mean() == pytest.approx(0.34, abs=0.02)
        if hospital != "switzerland":  # stratified, but for two healthy patients
            assert ill[tested].mean() == pytest.approx(ill.mean(), abs=0.03)


def test_a_brain_and_the_fluid_in_it_are_told_by_grey_values() -> None:
    """Also where fluid is as black as what is outside; the noise of JPEG there is none of the brain."""
    grey = np.zeros((8, 8), np.uint8)
    grey[0, 0], grey[1:7, 1:7], grey[3, 3], grey[4, 4] = 9, 150, 60, 0
    expected = np.zeros((8, 8), np.uint8)
    expected[1:7, 1:7] = 1
    expected[3, 3] = expected[4, 4] = 2
    assert (oasis.structures(grey) == expected).all()


def test_promoters_are_dealt_out_class_by_class(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "uci_promoters.data").write_text("".join(f"{'+-'[n % 2]},S{n},\t\tacgt{n}\n" for n in range(8)))
    dna.write_promoters(source, tmp_path)
    tables = []
    for hospital in dna.HOSPITALS[:2]:
        with (tmp_path / hospital / "windows.csv").open(newline="") as file:
            tables.append(list(csv.DictReader(file)))
    assert [sorted(row["class"] for row in rows) for rows in tables] == [["+", "+", "-", "-"]] * 2
    assert {row["sequence"] for rows in tables for row in rows} == {f"acgt{n}" for n in range(8)}


def test_as_many_breast_ultrasound_patients_as_the_field_had(tmp_path: Path) -> None:
    breast_ultrasound.write(tmp_path, tmp_path / "few")
    breast_ultrasound.deal(tmp_path, tmp_path / "all", ("north", "south"))
    few, everyone = (
        [{path.name for path in hospital.glob("P*")} for hospital in sorted((tmp_path / kind).iterdir())]
        for kind in ("few", "all")
    )
    assert [len(each) for each in few] == [48, 48, 47]
    assert [len(each) for each in everyone] == [241, 240]
    assert len(set.union(*few)) == breast_ultrasound.PATIENTS
    assert set.union(*few) < set.union(*everyone)


def test_splice_sites_keep_a_gene_and_a_sequence_together(tmp_path: Path) -> None:
    source = tmp_path / "dna_small"
    source.mkdir()
    rows = [("A", "ACGT"), ("B", "ACGT"), ("B", "CCCC"), ("C-1", "GGGG"), ("D", "CCCC"), ("E", "TTTT"), ("C-1", "AAAA")]
    lines = [f"EI,    {name}-DONOR-{place},       {dna}\n" for place, (name, dna) in enumerate(rows)]
    (source / "uci_splice.csv").write_text("".join(["Class, Donor,     Sequence\n", *lines]))
    dna.write_splices(source, tmp_path)
    found: dict[tuple[str, str], list[str]] = {}
    for hospital in dna.HOSPITALS:
        with (tmp_path / hospital / "windows.csv").open(newline="") as file:
            for row in csv.DictReader(file):
                found.setdefault((hospital, row["gene"]), []).append(row["sequence"])
    assert sorted(found.values()) == [["ACGT", "ACGT", "CCCC", "CCCC"], ["GGGG", "AAAA"], ["TTTT"]]


@pytest.mark.long
def test_a_trial_is_run_once_and_stands_on_the_page(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few: dict[str, Any] = {"seeds": range(42, 44), "accuracies": True}
    plain = replace(heart_disease.TRIALS[0], changes={"training": SHORT}, **few)
    flamby = {
        name: replace(trial, changes={**trial.changes, "training": {**trial.changes["training"], **SHORT}}, **few)
        for name, trial in heart_disease.FLAMBY.items()
    }
    monkeypatch.setattr(running, "trials", lambda: (plain, *flamby.values()))
    monkeypatch.setattr(heart_disease, "FLAMBY", flamby)
    said = io.StringIO()
    records = run((plain, flamby["FedAvg"]), data, tmp_path, said)
    results = Results.read(tmp_path / plain.name / "results.json")
    assert results.seeds == (42, 43)
    assert sum(site.patients for site in results.sites) == sum(SIZES.values())
    page = running.page(records)
    [row] = [line for line in page.splitlines() if line.startswith("| heart-disease | logistic-regression | 4 | 320 |")]
    assert "2 rounds of 20 steps" in row
    area = results.overall.federated.roc_auc
    assert area is not None
    assert f"{area.value:.3f} ({area.low:.3f} to {area.high:.3f}, sd {area.sd:.3f})" in row
    [row] = [line for line in page.splitlines() if line.startswith("| heart-disease | 0.")]
    told = [float(cell.split()[0]) for cell in row.strip("| ").split(" | ")[1:]]
    assert len(told) == 4
    assert min(told) > 0.6, "all learn what was planted"
    assert "FLamby" not in page, "of its protocol all is shown or nothing"
    assert not running.is_done(flamby["FedAdam"], tmp_path)
    before = said.getvalue()
    assert run((plain,), data, tmp_path, said) == {plain.name: records[plain.name]}
    assert said.getvalue() == before, "its results stand there"
    whole = {trial.name: records[flamby["FedAvg"].name] for trial in flamby.values()}
    [row] = [line for line in running.page(whole).splitlines() if line.startswith("| FedAvg |")]
    assert row.endswith("| 0.748 |")
    assert "Not run to their end yet: heart-disease." in running.page(whole)
    refused = replace(plain, name="refused", changes={"cohort": {"min_patients": 1000}})
    with pytest.raises(RunError, match="the reasons stand above: refused"):
        run((refused, plain), data, tmp_path, said)
    assert "refused failed: " in said.getvalue()
    assert "at least 1000" in said.getvalue()
    monkeypatch.setattr(
        running, "trials", lambda: (plain, replace(plain, shown="synthetic"), replace(plain, shown=None))
    )
    real, _, synthetic = running.page(records).partition("## Synthetic patients")
    assert [part.count("| heart-disease | logistic-regression |") for part in (real, synthetic)] == [1, 1]


def test_a_record_takes_the_place_of_an_older_one_alone(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    one = Record(
        network="mlp",
        hospitals=2,
        patients=9,
        budget="1 round",
        metric="dice",
        local=None,
        local_sites=0,
        local_sd=None,
        federated=Figure(value=0.5, low=0.25, high=0.75),
        pooled=None,
        with_pooled=False,
        tested=(0.5, 0.25),
        windows={"a": {"b": [0.5]}},
    )
    other = one.model_copy(update={"patients": 8})
    assert read(path) == {}
    for name, record in (("second", other), ("first", other), ("second", one)):
        add(path, name, record)
    assert read(path) == {"first": other, "second": one}


def test_the_pages_are_what_the_records_say(tmp_path: Path) -> None:
    records = read(DOCS / "results.json")
    known = {trial.name for trial in (*running.trials(), *(trial for limit in LIMITS for trial in limit.trials))}
    assert records.keys() <= known
    assert running.page(records) == (DOCS / "results.md").read_text(encoding="utf-8")
    write_page(records, tmp_path / "limits.md")
    for path in (tmp_path / "limits.md", *(tmp_path / "images").iterdir()):
        assert path.read_bytes() == (DOCS / path.relative_to(tmp_path)).read_bytes()
