"""Freezing of gait: recordings as Daphnet has them, the freeze index, and the template one patient at a time."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score  # type: ignore[import-untyped]

from fedward_client.intake.recording import windows
from fedward_client.intake.wearable import read_daphnet
from fedward_common.study import template_path
from fedward_simulations.studies.freezing_of_gait import (
    LEARNED,
    best_threshold,
    by_window,
    figures,
    freeze_index,
    write,
)
from fedward_simulations.studies.invented import write_recordings
from fedward_simulations.synthetic import freezing

PATIENTS = 5  # of a hospital


def tone(hertz: float, amplitude: float, rate_hz: float) -> np.ndarray:
    return np.asarray(amplitude * np.sin(2 * np.pi * hertz * np.arange(round(4 * rate_hz)) / rate_hz))


@pytest.mark.parametrize("rate_hz", [32.0, 64.0])
def test_the_freeze_index_is_the_power_of_trembling_by_that_of_walking(rate_hz: float) -> None:
    """Powers of two tones are as the squares of their amplitudes; gravity is no motion, and who stands has none."""
    both = 1000 + tone(1, 300, rate_hz) + tone(5, 450, rate_hz)
    still = 1000 + tone(1, 3, rate_hz) + tone(5, 9, rate_hz)
    found = freeze_index(np.stack([both, tone(2, 300, rate_hz) + tone(10, 900, rate_hz), still]), rate_hz)
    assert found == pytest.approx([(450 / 300) ** 2, 0.0, 0.0], abs=1e-9)


def test_figures_of_windows() -> None:
    """Written out: of four freezes three are called, and of six other windows one."""
    truth = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0], bool)
    calls = np.array([1, 1, 1, 0, 1, 0, 0, 0, 0, 0], bool)
    assert figures(truth, calls) == pytest.approx({"accuracy": 0.8, "sensitivity": 0.75, "specificity": 5 / 6})


def test_a_synthetic_recording_is_one_of_daphnets_and_its_freezes_are_the_planted_ones(tmp_path: Path) -> None:
    """The index finds them where they are planted, and nothing else does."""
    freezing.write(tmp_path, "north", 7, 1.0)
    found = read_daphnet(tmp_path / "S07R01.txt")
    assert (found.subject, found.values.shape, found.gaps) == ("S07", (7680, 9), ())
    assert found.annotation is not None
    assert set(found.annotation.tolist()) == {0, 1, 2}
    share = (found.annotation == 2).mean()
    assert 0.25 < share < 0.45

    def told(number: int, strength: float) -> float:
        freezing.write(tmp_path, "north", number, strength)
        recorded = read_daphnet(tmp_path / f"S{number:02d}R01.txt")
        values, notes = windows(recorded, seconds=4, step_seconds=1)
        assert notes is not None
        index = freeze_index(values[:, 1].astype(np.float64), 64.0)
        return float(balanced_accuracy_score(notes == 2, index >= best_threshold(notes == 2, index)))

    assert np.mean([told(number, 1.0) for number in range(5)]) > 0.9
    assert np.mean([told(number, 0.0) for number in range(5)]) < 0.65, "but for what a threshold finds by chance"


def test_recordings_go_to_two_hospitals_by_patient(tmp_path: Path) -> None:
    (tmp_path / "dataset").mkdir()
    for name in ("S01R01", "S01R02", "S02R01", "S03R01"):
        (tmp_path / "dataset" / f"{name}.txt").write_text("")
    write(tmp_path, tmp_path / "hospitals")
    there = {path.parent.name: path.name for path in sorted(tmp_path.glob("hospitals/*/S*"))}
    assert sorted(path.name for path in tmp_path.glob("hospitals/east/S*")) == [
        "S01R01.txt",
        "S01R02.txt",
        "S03R01.txt",
    ]
    assert there["west"] == "S02R01.txt"


def simulated(root: Path, strength: float, *, rounds: int, steps: int, seconds: float) -> dict[str, Any]:
    """The results.json of the template, shortened, at two hospitals of five patients."""
    write_recordings(root, root / "hospitals", patients=PATIENTS, strength=strength, seconds=seconds)
    text = template_path("freezing-of-gait").read_text("utf-8")
    for key, value in {"folds": PATIENTS, "rounds": rounds, "local_steps": steps}.items():
        text = re.sub(rf"^{key} = \d+", f"{key} = {value}", text, flags=re.MULTILINE)
    (root / "study.toml").write_text(text)
    command = [str(Path(sys.executable).with_name("fedward")), "simulate", "study.toml", "--data", "hospitals"]
    done = subprocess.run(
        [*command, "--out", "out"], cwd=root, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr
    results: dict[str, Any] = json.loads((root / "out" / "results.json").read_text())
    return results


@pytest.mark.long
def test_each_patient_is_tested_once_by_models_that_have_not_seen_them(tmp_path: Path) -> None:
    """All three ways go through the folds; a patient has windows of both kinds, and counts once with each."""
    results = simulated(tmp_path, 1.0, rounds=2, steps=16, seconds=40)
    assert results["rounds"] == 2 * (PATIENTS + 1)
    for model in ("federated", "local", "pooled"):
        block = results["overall"][model]
        assert (block["positives"], block["negatives"]) == (2 * PATIENTS, 2 * PATIENTS)
    [run] = results["runs"]
    assert [point["fold"] for point in run["history"]] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, None, None]
    assert results["overall"]["federated"]["roc_auc"]["value"] > 0.9
    found = by_window(tmp_path / "out", tmp_path / "hospitals")
    assert found.keys() == set(LEARNED)
    assert all(len(values) == 1 for model in found.values() for values in model.values())
    assert min(found["federated"]["accuracy"] + found["random forest"]["accuracy"]) > 0.8
    card = (tmp_path / "out" / "model-card.md").read_text()
    assert "5 recordings of 5 patients" in card
    assert "for each window" in card
    assert "The model itself was trained on all patients after the folds and was tested on none" in card
    assert "the next fold’s patients validated" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.long
def test_planted_freezes_are_found(tmp_path: Path) -> None:
    results = simulated(tmp_path, 1.0, rounds=6, steps=60, seconds=120)
    assert results["overall"]["federated"]["roc_auc"]["value"] > 0.95
    found = by_window(tmp_path / "out", tmp_path / "hospitals")["federated"]
    assert min(value for [value] in found.values()) > 0.85


@pytest.mark.long
def test_nothing_is_found_where_nothing_is_planted(tmp_path: Path) -> None:
    simulated(tmp_path, 0.0, rounds=6, steps=60, seconds=120)
    for model in by_window(tmp_path / "out", tmp_path / "hospitals").values():
        [sensitivity], [specificity] = model["sensitivity"], model["specificity"]
        assert (sensitivity + specificity) / 2 == pytest.approx(0.5, abs=0.1)
