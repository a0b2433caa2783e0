"""The template of survival on invented patients whose hazards are known: it learns what is there, and no more."""

import csv
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from fedward_client.column_settings import shipped
from fedward_client.intake.columns import TableMap
from fedward_client.intake.tabular import read_table
from fedward_common.metrics import Concordance, pooled_concordance
from fedward_common.study import TableInput, load, template_path
from fedward_simulations.studies import hospital_folder
from fedward_simulations.synthetic import survival

MAP = TableMap.of(tomllib.loads(shipped("tcga-brca")))


def hospitals(root: Path, strength: float, patients: int) -> float:
    """Three of them; the C-index of a model that ranks their patients by the hazards that they died by."""
    pairs = []
    for hospital in ("east", "north", "west"):
        folder = hospital_folder(root / "hospitals", hospital, '[table]\nmap = "tcga-brca"\n')
        pairs.append(Concordance.of(*survival.write(folder, hospital, patients, strength), 1))
    best = pooled_concordance(found for found in pairs if found is not None)
    assert best is not None
    return best.value


def simulated(root: Path, *options: str, **changes: str) -> dict[str, Any]:
    """The results.json of the template, with other values of keys: those that stand first."""
    text = template_path("survival").read_text("utf-8")
    for key, value in changes.items():
        text, changed = re.subn(rf"^{key} = .*$", f"{key} = {value}", text, count=1, flags=re.MULTILINE)
        assert changed
    (root / "study.toml").write_text(text)
    command = [str(Path(sys.executable).with_name("fedward")), "simulate", "study.toml"]
    command += ["--data", "hospitals", "--out", "out", *options]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    results: dict[str, Any] = json.loads((root / "out" / "results.json").read_text())
    return results


def c_index(results: dict[str, Any], model: str = "federated") -> float:
    value: float = results["overall"][model]["figures"]["c_index"]["value"]
    return value


@pytest.mark.long
def test_two_rounds_of_the_template_reach_the_report(tmp_path: Path) -> None:
    best = hospitals(tmp_path, 1.0, 120)
    results = simulated(tmp_path, "--no-pooled", "--workers", "1", rounds="2")
    assert 0.6 < c_index(results) < best + 0.1
    assert [site["patients"] for site in results["sites"]] == [120, 120, 120]
    assert all(site["federated"]["roc_auc"] is None for site in results["sites"])
    [run] = results["runs"]
    losses = [point["train_loss"] for point in run["history"]]
    assert losses[-1] < losses[0]
    report = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert "C-index" in report
    assert "- Model: cox, survival\n" in (tmp_path / "out" / "model-card.md").read_text("utf-8")
    assert "east-0" not in report + (tmp_path / "out" / "results.json").read_text("utf-8")


@pytest.mark.long
def test_the_planted_hazard_is_found(tmp_path: Path) -> None:
    best = hospitals(tmp_path, 1.0, 400)
    assert best == pytest.approx(0.73, abs=0.02)
    results = simulated(tmp_path)
    assert best - 0.06 < c_index(results) < best + 0.05, "more would be what is not there"
    assert abs(c_index(results) - c_index(results, "pooled")) < 0.02


@pytest.mark.long
def test_nothing_is_found_where_all_have_one_hazard(tmp_path: Path) -> None:
    assert hospitals(tmp_path, 0.0, 400) == 0.5
    assert c_index(simulated(tmp_path, "--no-pooled")) == pytest.approx(0.5, abs=0.1)


@pytest.mark.long
def test_a_small_network_finds_it_too(tmp_path: Path) -> None:
    best = hospitals(tmp_path, 1.0, 400)
    results = simulated(tmp_path, "--no-pooled", name='"mlp"')
    assert best - 0.09 < c_index(results) < best + 0.05


def test_the_table_is_flambys(tmp_path: Path) -> None:
    """39 numbers between the barcode and what is predicted, as its README says; levels are 0 or 1."""
    found = survival.write(tmp_path, "east", 50, 1.0)
    with (tmp_path / "brca.csv").open(newline="") as file:
        header = next(csv.reader(file))
    assert header == ["pid", *MAP.feature_columns, "E", "T"]
    assert len(MAP.names) == 39
    section = load(template_path("survival")).input
    assert isinstance(section, TableInput)
    assert section.features == MAP.names
    table = read_table(tmp_path / "brca.csv", MAP)
    assert table.left_out == ()
    assert table.times.tolist() == found.times.tolist()
    assert table.targets == tuple("event" if event else "censored" for event in found.events)
    assert set(table.features[:, 1:].flat) == {0.0, 1.0}


def test_flambys_table_as_it_is(tmp_path: Path) -> None:
    """A line in the form of brca.csv: whole numbers, and E and T with a point."""
    numbers = ["63", *["0", "1"] * 19]
    (tmp_path / "brca.csv").write_text(
        ",".join(f'"{name}"' for name in ("pid", *MAP.names, "E", "T"))
        + f"\nTCGA-XX-0001,{','.join(numbers)},1.0,0.0\n"
    )
    table = read_table(tmp_path / "brca.csv", MAP)
    assert (table.patients, table.targets, table.times.tolist()) == (("TCGA-XX-0001",), ("event",), [0.0])
    assert table.features[0].tolist() == [float(number) for number in numbers]
