"""Studies of tables and of recordings, whole: hospitals as folders, a simulation, its report."""

import csv
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

from fedward_client.site import KEY, STATE
from fedward_common import cli
from fedward_server.result import FILE, RunResult

FEDWARD = str(Path(sys.executable).with_name("fedward"))
HOSPITALS = ("harbour", "north", "valley")
POLICY = '[policy]\noutputs = ["counts", "statistics", "update", "evaluation"]\n'


def simulated(folder: Path, study: str) -> dict[str, Any]:
    """The results.json of a simulation of a study on the hospitals in `folder`/hospitals."""
    (folder / "study.toml").write_text(study)
    command = [FEDWARD, "simulate", "study.toml", "--data", "hospitals", "--out", "out"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stderr
    results: dict[str, Any] = json.loads((folder / "out" / "results.json").read_text())
    return results


def fedward(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def hospital_folder(root: Path, name: str, settings: str = "") -> Path:
    """A new hospital's folder, whose key is that of its name: under some keys a label has no test patient."""
    folder = root / "hospitals" / name
    (folder / STATE).mkdir(parents=True, mode=0o700)
    (folder / STATE / KEY).write_bytes(hashlib.sha256(name.encode()).digest())
    (folder / STATE / KEY).chmod(0o600)
    (folder / "site.toml").write_text(f"{settings}{POLICY}")
    return folder


# Tables --------------------------------------------------------------------------------------------------------------

MAP = """patient = "mrn"
[target]
column = "disease"
classes = { 0 = "healthy", 1 = "ill" }
""" + "".join(f'[[features]]\nkind = "numeric"\ncolumn = "{name}"\n' for name in ("age", "a", "b", "c"))

TABLES = """
[study]
id = "tiny-table"
task = "classification"
[cohort]
labels = ["healthy", "ill"]
positive = "ill"
min_patients = 20
[split]
shares = [0.5, 0.2, 0.3]
[input]
kind = "table"
features = ["age", "a", "b", "c"]
{combat}
[model]
name = "logistic-regression"
[training]
rounds = 8
batch_size = 16
optimizer = {{ name = "adamw", lr = 3e-2 }}
[strategy]
min_sites = 3
"""


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Hospitals whose devices shift a, b and c by several of the deviations that disease moves them by.

    Disease moves a up and b down by two deviations; the share of ill patients is the same everywhere, so a device's
    shift tells nothing of it. `tables(name)` is a new folder with them.
    """

    def build(name: str) -> Path:
        root = tmp_path_factory.mktemp(name)
        for index, hospital in enumerate(HOSPITALS):
            folder = hospital_folder(root, hospital, '[table]\nmap = "columns.toml"\n')
            random = np.random.default_rng(index)
            rows = []
            for patient in range(150):
                ill, age = patient % 2, random.normal(60 + 3 * index, 8)
                device = np.array([8.0, -6.0, 5.0]) * (index - 1)
                values = device + (1 + index) * (random.normal(size=3) + np.array([1.0, -1.0, 0.0]) * (2 * ill - 1))
                numbers = ",".join(f"{value:.4f}" for value in (age, *(values + 0.02 * age)))
                rows.append(f"{hospital}-{patient},{numbers},{ill}\n")
            (folder / "visits.csv").write_text("mrn,age,a,b,c,disease\n" + "".join(rows))
            (folder / "columns.toml").write_text(MAP)
        return root

    return build


@pytest.mark.long
def test_combat_finds_in_tables_what_devices_hide(tables: Callable[[str], Path]) -> None:
    root = tables("with")
    results = simulated(root, TABLES.format(combat='combat = ["a", "b", "c"]\ncovariates = ["age"]'))
    assert results["overall"]["federated"]["roc_auc"]["value"] > 0.93
    effect = results["site_effect"]
    assert effect["before"]["accuracy"] > 0.8
    assert effect["after"]["accuracy"] < 0.55  # their patients' ages differ still, which is no device's doing
    [note] = [note for note in results["data_notes"] if "ComBat" in note]
    assert note.startswith("The model takes features by mean and deviation over all hospitals, freed of what")
    predicted = [
        fedward(
            "model",
            "predict",
            root / "out" / "model.safetensors",
            root / "hospitals" / name,
            "--out",
            root / f"{name}.csv",
        )
        for name in HOSPITALS
    ]
    assert [one.exit_code for one in predicted] == [0, 0, 0]
    for name in HOSPITALS:
        lines = [line for line in (root / f"{name}.csv").read_text().splitlines() if not line.startswith("#")]
        called = [row["called ill"] for row in csv.DictReader(lines)]
        assert sum(word == ("no", "yes")[patient % 2] for patient, word in enumerate(called)) > 120
    (root / "elsewhere").mkdir()
    for file in ("visits.csv", "columns.toml", "site.toml"):
        shutil.copy(root / "hospitals" / "north" / file, root / "elsewhere")
    refused = fedward(
        "model", "predict", root / "out" / "model.safetensors", root / "elsewhere", "--out", root / "no.csv"
    )
    assert (refused.exit_code, "elsewhere" in refused.stderr) == (1, True)


@pytest.mark.long
def test_without_combat_it_stays_hidden(tables: Callable[[str], Path]) -> None:
    root = tables("without")
    results = simulated(root, TABLES.format(combat=""))
    assert results["site_effect"] is None
    assert results["overall"]["federated"]["roc_auc"]["value"] < 0.9
    runs = {path.parent.name: RunResult.read(path.parent) for path in root.glob(f"out/seed-*/*/{FILE}")}
    assert runs["pooled"].study.input.measures_scale is False
    assert runs["federated"].scale == getattr(runs["pooled"].study.input, "scale", None)
    assert runs["local-north"].scale != runs["federated"].scale
    report = (root / "out" / "report.html").read_text()
    assert "for each row; a patient’s score is the mean over that patient’s rows" in report
    assert "150 rows of tables" in report
