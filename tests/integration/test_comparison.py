"""Coded updates and each hospital's own model through a real hub: the embedded engine's bits, and the matrix."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedward_client.site import SETTINGS
from fedward_common import audit
from fedward_common.study import load
from fedward_simulations.federation import Federation, federation
from fedward_simulations.hospitals import plant

STUDY = """
[study]
id = "tiny-ultrasound"
task = "classification"
[cohort]
modality = "US"
labels = ["benign", "malignant"]
positive = "malignant"
min_patients = 5
[split]
shares = [0.5, 0.25, 0.25]
[input]
size = [32, 32]
[model]
name = "small-cnn"
[training]
rounds = 3
batch_size = 16
optimizer = { name = "adamw", lr = 0.003 }
[strategy]
min_sites = 3
[update]
compression = "int8"
"""
ALL = '"counts", "statistics", "update", "evaluation"'

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


def fedward(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    command = [str(Path(sys.executable).with_name("fedward")), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    work = tmp_path_factory.mktemp("comparison")
    (work / "study.toml").write_text(STUDY)
    folders = {each.name: each.folder for each in plant(work / "hospitals", limit=60)}
    for folder in folders.values():
        settings = folder / SETTINGS
        assert ALL in settings.read_text()
        settings.write_text(settings.read_text().replace(ALL, f'{ALL}, "local_model"'))
    with federation(work / "hub", folders, logs=work / "logs") as found:
        yield found


def test_coded_updates_have_the_same_bits_and_every_hospitals_model_is_scored_at_the_others(
    running: Federation,
) -> None:
    work = running.hub.folder.parent
    result = running.run(load(work / "study.toml"), lambda _event: None)
    done = fedward("simulate", work / "study.toml", "--data", work / "hospitals", "--out", work / "one", "--no-pooled")
    assert done.returncode == 0, done.stderr
    alone = json.loads((work / "one" / "results.json").read_text())
    assert alone["model_sha256"] == result.model_sha256
    names = set(running.sites)
    assert {site: set(found.across) for site, found in result.sites.items()} == {n: names - {n} for n in names}
    local = {site["name"]: site["local"]["roc_auc"]["value"] for site in alone["sites"] if site["local"]["roc_auc"]}
    for site, found in result.sites.items():
        assert found.alone is not None
        if "malignant" in found.alone.figures:
            assert found.alone.figures["malignant"].roc_auc.value == local[site], "it is the simulation's local model"
    for name, folder in running.sites.items():
        lent = [
            e.data for e in audit.entries(folder.state / "audit.jsonl", event="left") if e.data["kind"] == "evaluate"
        ]
        assert sum(bool(data["array_count"]) for data in lent) == 1, f"the one receipt of {name}'s own model"
    shown = fedward("study", "status", result.run, "--hub", running.hub.folder)
    assert "trained alone at" in shown.stdout
    assert not (running.hub.runs / result.run / ".local-models").exists()
