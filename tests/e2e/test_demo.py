"""The README's main job as a newcomer runs it, whole."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


def demo(out: Path) -> "subprocess.CompletedProcess[str]":
    command = [str(Path(sys.executable).with_name("fedward")), "demo", "--out", str(out), "--json"]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=1500)


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_the_demo_ends_with_a_model_that_learned_and_everything_beside_it(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    done = demo(out)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert {"results.json", "report.html", "model.safetensors", "model-card.md", "logs"} <= {
        p.name for p in out.iterdir()
    }
    assert [site["name"] for site in results["sites"]] == ["harbour", "north", "valley"]
    assert results["overall"]["federated"]["mean"]["roc_auc"] > 0.8  # chance is 0.5; the labels are real
    assert results["planted"]
    assert len(results["data_notes"]) == 3


def test_a_folder_that_is_no_demo_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    refused = demo(tmp_path)
    assert refused.returncode == 2
    assert "choose another --out" in " ".join(refused.stderr.split())
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
