"""A study of tables through a real hub and hospitals: a scale from sums with ComBat, and the bits of a simulation."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fedward_client.member import AUDIT
from fedward_client.site import KEY, STATE
from fedward_common import audit
from fedward_common.study import FeatureScale, load
from fedward_server.result import RunResult
from fedward_simulations.federation import federation

HOSPITALS = ("harbour", "north", "valley")
STUDY = """
[study]
id = "tiny-table"
task = "classification"
[cohort]
labels = ["healthy", "ill"]
positive = "ill"
min_patients = 10
[split]
shares = [0.5, 0.25, 0.25]
[input]
kind = "table"
features = ["age", "a", "b"]
combat = ["a", "b"]
covariates = ["age"]
[model]
name = "mlp"
options = { width = 8 }
[training]
rounds = 2
batch_size = 16
[strategy]
min_sites = 3
"""
MAP = 'patient = "mrn"\ntarget = { column = "outcome", classes = { 0 = "healthy", 1 = "ill" } }\n' + "".join(
    f'[[features]]\nkind = "numeric"\ncolumn = "{name}"\n' for name in ("age", "a", "b")
)

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


def hospital(root: Path, index: int) -> Path:
    folder = root / HOSPITALS[index]
    (folder / STATE).mkdir(parents=True, mode=0o700)
    (folder / STATE / KEY).write_bytes(hashlib.sha256(folder.name.encode()).digest())
    (folder / STATE / KEY).chmod(0o600)
    random = np.random.default_rng(index)
    rows = "".join(
        f"ZQ{index}{patient:03d},{random.normal(60, 8):.2f},{random.normal(5 * index + patient % 2, 1):.4f},"
        f"{random.normal(-3 * index, 1):.4f},{patient % 2}\n"
        for patient in range(80)
    )
    (folder / "visits.csv").write_text("mrn,age,a,b,outcome\n" + rows)
    (folder / "columns.toml").write_text(MAP)
    policy = '[policy]\noutputs = ["counts", "statistics", "update", "evaluation"]\n'
    (folder / "site.toml").write_text(f'[site]\nname = "{folder.name}"\n[table]\nmap = "columns.toml"\n{policy}')
    return folder


def test_a_study_of_tables_gives_what_a_simulation_gives(tmp_path: Path) -> None:
    folders = {name: hospital(tmp_path / "hospitals", index) for index, name in enumerate(HOSPITALS)}
    (tmp_path / "study.toml").write_text(STUDY)
    with federation(tmp_path / "hub", folders, logs=tmp_path / "logs") as running:
        assert running.isolated, "this machine cannot isolate processes: CI must"
        result = running.run(load(tmp_path / "study.toml"), lambda _event: None)
        receipts = {
            name: [entry.data["kind"] for entry in audit.entries(site.state / AUDIT, event="left")]
            for name, site in running.sites.items()
        }
    assert isinstance(result.scale, FeatureScale)
    assert result.scale.combat is not None
    assert set(result.scale.combat.sites) == set(HOSPITALS)
    assert all(kinds[0] == "stats" and kinds.count("train") == 2 for kinds in receipts.values())
    command = [str(Path(sys.executable).with_name("fedward")), "simulate", "study.toml", "--data", "hospitals"]
    command += ["--out", "out", "--no-pooled"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    [simulated] = [RunResult.read(path.parent) for path in tmp_path.glob("out/seed-*/federated/run.json")]
    assert (simulated.scale, simulated.model_sha256) == (result.scale, result.model_sha256)
    own = {folder / "visits.csv" for folder in folders.values()}
    for path in tmp_path.rglob("*"):
        if path.is_file() and path not in own:
            assert not _names(path), path.name


def _names(path: Path) -> bool:
    """Whether a file holds a patient's number."""
    content = path.read_bytes()
    return any(f"ZQ{index}{patient:03d}".encode() in content for index in range(3) for patient in range(80))
