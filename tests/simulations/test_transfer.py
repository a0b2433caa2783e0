"""Runs that begin with another run's model, on the embedded engine: held layers keep their bits, baselines too."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from fedward_common import models
from fedward_common.errors import ModelError
from fedward_common.models import weights_file
from fedward_common.study import StudySpec
from fedward_common.testing import tiny_study
from fedward_server.checkpoints import latest
from fedward_server.models import Started, keep_start, resolve_start
from fedward_server.result import RunResult
from fedward_server.rounds import RoundEngine
from fedward_simulations.compare import simulate_seed
from fedward_simulations.grid import EmbeddedGrid
from fedward_simulations.phantoms import OpenPhantom
from fedward_simulations.sources import POOLED

SITES = {"a": OpenPhantom("a", 30), "b": OpenPhantom("b", 24)}
HELD = ["conv1.*", "bn1.*", "layer1.*", "layer2.*"]


def study(strategy: str = "fedavg", **model: Any) -> StudySpec:
    return tiny_study(
        model={"name": "resnet10", "options": {"norm": "batch"}, **model},
        input={"size": [32, 32]},
        training={"rounds": 2, "local_steps": 2, "optimizer": {"name": "adamw", "lr": 0.01}},
        strategy={"name": strategy, "min_sites": 2, "round_deadline_s": 60.0},
    )


def run(grid: EmbeddedGrid, spec: StudySpec, folder: Path, *, resume: bool = False) -> RunResult:
    folder.mkdir(exist_ok=True)
    return RoundEngine(
        grid=grid,
        study=spec,
        run=folder.name,
        engine="embedded",
        folder=folder,
        on_round=lambda row: None,
        listener=lambda event: None,
    )(resume=resume)


def final(folder: Path, spec: StudySpec) -> dict[str, np.ndarray[Any, Any]]:
    checkpoint = latest(folder, study_digest=spec.digest)
    assert checkpoint is not None
    return dict(checkpoint.arrays)


def begun(folder: Path, **more: Any) -> Started:
    """A study that begins with the weights in a folder and holds the first layers."""
    asked = study(start={"file": "w.safetensors"}, frozen=HELD, learning_rates={"fc.*": 10.0}, **more)
    return resolve_start(asked, base=folder, registry=None)


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Any:
    log = tmp_path_factory.mktemp("logs") / "workers.log"
    with EmbeddedGrid({**SITES, POOLED: OpenPhantom(POOLED, 50)}, workers=2, log_file=log) as opened:
        yield opened


@pytest.fixture(scope="module")
def pilot(grid: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run, its model as w.safetensors."""
    folder = tmp_path_factory.mktemp("pilot")
    run(grid, study(), folder)
    save_file(final(folder, study()), folder / "w.safetensors")
    return folder


@pytest.mark.parametrize("strategy", ["fedavg", pytest.param("fedprox", marks=pytest.mark.long), "fedadam"])
def test_held_layers_of_another_runs_model_end_with_the_same_bits(
    strategy: str, grid: Any, pilot: Path, tmp_path: Path
) -> None:
    spec, weights, _ = begun(pilot, strategy=strategy)
    keep_start(weights, tmp_path)
    result = run(grid, spec, tmp_path)
    before, after = final(pilot, study()), final(tmp_path, spec)
    held = models.frozen_names(spec, before)
    assert {"conv1.weight", "bn1.running_mean", "layer2.0.conv1.weight"} <= held
    assert {name for name in before if before[name].tobytes() == after[name].tobytes()} == held
    again = run(grid, spec, tmp_path, resume=True)
    assert again.model_sha256 == result.model_sha256
    (tmp_path / weights_file.NAME).unlink()
    with pytest.raises(ModelError, match="there is no file"):
        run(grid, spec, tmp_path)


def test_baselines_begin_with_the_same_weights(grid: Any, pilot: Path, tmp_path: Path) -> None:
    spec, weights, _ = begun(pilot)
    comparison = simulate_seed(
        spec,
        dict.fromkeys(SITES, tmp_path),
        out=tmp_path / "out",
        seed=5,
        engine="embedded",
        pooled=True,
        workers=2,
        resume=False,
        grid=grid,
        listener=lambda title, event: None,
        log_file=tmp_path / "log",
        weights=weights,
    )
    assert comparison.pooled is not None
    before = final(pilot, study())
    held = models.frozen_names(spec, before)
    for title, result in {"federated": comparison.federated, "pooled": comparison.pooled, **comparison.local}.items():
        folder = tmp_path / "out" / "seed-5" / (f"local-{title}" if title in SITES else title)
        after = final(folder, result.study)
        assert {name for name in before if before[name].tobytes() == after[name].tobytes()} == held
