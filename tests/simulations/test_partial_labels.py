"""Hospitals that each know some of a study's labels only train one model that tells all of them."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

STUDY = """
[study]
id = "chest"
task = "classification"
[cohort]
labels = ["effusion", "nodule"]
multi_label = true
min_patients = 5
[split]
shares = [0.5, 0.2, 0.3]
[input]
size = [32, 32]
[model]
name = "small-cnn"
[training]
rounds = 6
local_epochs = 3
batch_size = 16
optimizer = { name = "adamw", lr = 0.005 }
[strategy]
min_sites = 3
"""
KNOWN = {"north": ("effusion",), "south": ("nodule",), "west": ("effusion", "nodule")}
PATIENTS = 80


def plant(folder: Path, known: tuple[str, ...], seed: int) -> None:
    """Pictures with a bright half for each label, above for an effusion, on the left for a nodule."""
    rng = np.random.default_rng(seed)
    rows = ["picture,effusion,nodule"]
    for patient in range(PATIENTS):
        effusion, nodule = (int(value) for value in rng.integers(0, 2, 2))
        image = rng.normal(100, 25, (32, 32))
        image[:16] += 40 * effusion
        image[:, :16] += 40 * nodule
        path = folder / f"p{patient}" / "1.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(path)
        there = {"effusion": str(effusion), "nodule": "yes" if nodule else "no"}
        rows.append(",".join([f"p{patient}/1.png", *(there[name] if name in known else "" for name in there)]))
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    (folder / "site.toml").write_text(
        '[data]\npatient = \'^([^/]+)/\'\n[labels]\npath = "picture"\nfindings = ["effusion", "nodule"]\n'
    )


@pytest.mark.long
def test_each_hospital_teaches_what_it_knows(tmp_path: Path) -> None:
    for seed, (name, known) in enumerate(KNOWN.items()):
        plant(tmp_path / "hospitals" / name, known, seed)
    (tmp_path / "study.toml").write_text(STUDY)
    command = [str(Path(sys.executable).with_name("fedward")), "simulate", "study.toml"]
    options = ["--data", "hospitals", "--out", "out", "--seed", "1", "--no-pooled"]
    done = subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stderr
    sites = {site["name"]: site for site in json.loads((tmp_path / "out" / "results.json").read_text())["sites"]}
    assert {name: site["patients"] for name, site in sites.items()} == dict.fromkeys(KNOWN, PATIENTS)
    # the mean over the labels that a hospital knows; west knows both
    assert all(site["federated"]["roc_auc"]["value"] > 0.8 for site in sites.values()), sites
    assert "nodule" in sites["north"]["federated"]["withheld"]
    assert "effusion" in sites["south"]["federated"]["withheld"]
    assert sites["west"]["federated"]["withheld"] is None
    assert {name: list(site["federated"]["labels"]) for name, site in sites.items()} == {
        name: list(known) for name, known in KNOWN.items()
    }
