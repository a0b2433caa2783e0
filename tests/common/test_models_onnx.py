"""Trained models as files, and as ONNX: every network, run by onnxruntime as by torch; what is no trained model."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime  # type: ignore[import-untyped]
import pytest
import torch
from click.testing import Result
from safetensors.numpy import load_file, save_file
from torch import nn
from typer.testing import CliRunner

from fedward_common import cli, models
from fedward_common.errors import ModelError
from fedward_common.models import ModelCard, onnx_file, registry, trained
from fedward_common.models.trained import RESEARCH_USE, Trained
from fedward_common.records import model_sha256
from fedward_common.study import StudySpec
from fedward_common.testing import tiny_study

QUICK = {("small-cnn", 2), ("cnn-1d", 1), ("mlp", 0), ("logistic-regression", 0)}
CASES = [
    pytest.param(name, dims, id=f"{name}-{dims}d", marks=[] if (name, dims) in QUICK else [pytest.mark.long])
    for name in models.names()
    if "classification" in models.describe(name).tasks
    for dims in models.describe(name).dims
]


def saved(study: StudySpec, path: Path, **changes: Any) -> Path:
    arrays = models.initial_state(study, 7)
    about = Trained(
        study=study, thresholds={"malignant": 0.25}, model_sha256=model_sha256(arrays), limits=("One seed.",)
    )
    save_file(arrays, path, metadata=about.model_copy(update=changes).header)
    return path


def study_of(name: str, dims: int) -> StudySpec:
    card = models.describe(name)
    options: dict[str, Any] = {"width": 64} if name == "alexnet" else {}
    least = max(card.min_size, 8)  # a study's images have 8 pixels a side
    if dims > 1:
        return tiny_study(model={"name": name, "options": options}, input={"size": [least + 3] * dims})
    section: dict[str, Any] = {"kind": "table", "features": ["a", "b", "c"]}
    if dims == 1:
        section = {
            "kind": "series",
            "signals": ["x", "y"],
            "unit": "mg",
            "rate_hz": 10.0,
            "window_s": least / 10,
        }
    if name in {"rbm", "dbn"}:  # their features lie around 0
        options = {"visible": "gaussian"}
    labels = {"labels": ["benign", "malignant", "normal"]}
    return tiny_study(model={"name": name, "options": options}, input=section, cohort=labels)


def fedward(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


@pytest.mark.parametrize(("name", "dims"), CASES)
def test_every_network_is_the_same_in_onnx(name: str, dims: int, tmp_path: Path) -> None:
    model = saved(study_of(name, dims), tmp_path / "model.safetensors")
    assert onnx_file.export(model, tmp_path / "model.onnx") < 1e-5


def test_the_file_says_what_it_is(tmp_path: Path) -> None:
    study = tiny_study()
    model, out = saved(study, tmp_path / "model.safetensors"), tmp_path / "model.onnx"
    done = fedward("model", "export", model, "--out", out)
    assert done.exit_code == 0, done.output
    assert RESEARCH_USE in done.stdout
    assert sorted(tmp_path.iterdir()) == [out, model]
    assert out.stat().st_mode & 0o777 == 0o600
    session = onnxruntime.InferenceSession(out)
    told = session.get_modelmeta().custom_metadata_map
    assert told["use"] == RESEARCH_USE
    assert (told["study"], told["study_sha256"]) == (study.study.id, study.digest)
    assert told["model_sha256"] == model_sha256(load_file(model))
    assert json.loads(told["labels"]) == ["benign", "malignant"]
    assert json.loads(told["input"])["size"] == [16, 16]
    assert b"fedward_common" not in out.read_bytes()  # nor any other path
    [found] = session.run(["probabilities"], {"input": np.zeros((3, 1, 16, 16), np.float32)})
    np.testing.assert_allclose(found.sum(axis=1), np.ones(3), rtol=1e-6)


OF_IMAGES: dict[str, Any] = {"cohort": {"labels": ["cyst", "nodule"], "positive": None}, "input": {"size": [32, 32]}}
TASKS = [
    pytest.param(
        tiny_study(
            **OF_IMAGES,
            study={"task": "segmentation"},
            model={"name": "unet", "options": {"width": 4, "depth": 2}},
            evaluation={"primary": "dice"},
        ),
        "probabilities",
        id="unet",
        marks=pytest.mark.long,
    ),
    pytest.param(
        tiny_study(
            study={"task": "registration"},
            cohort={"labels": [], "positive": None},
            model={"name": "voxelmorph", "options": {"width": 4, "depth": 1}},
            evaluation={"primary": "loss"},
        ),
        "displacements",
        id="voxelmorph",
        marks=pytest.mark.long,
    ),
    pytest.param(
        tiny_study(
            **OF_IMAGES,
            study={"task": "detection"},
            model={"name": "retinanet", "options": {"width": 4, "levels": 2, "anchor": 4}},
            evaluation={"primary": "froc"},
        ),
        "findings",
        id="retinanet",
        marks=pytest.mark.long,
    ),
    pytest.param(
        tiny_study(
            study={"task": "survival"},
            cohort={"labels": ["censored", "event"], "positive": "event"},
            input={"kind": "table", "features": ["age", "marker"]},
            model={"name": "mlp"},
            evaluation={"primary": "c_index"},
        ),
        "log_risks",
        id="mlp",
    ),
]


@pytest.mark.parametrize(("study", "output"), TASKS)
def test_a_model_of_each_task_is_exported(study: StudySpec, output: str, tmp_path: Path) -> None:
    """With larger weights than those that training begins with, so that much comes out."""
    random = np.random.default_rng(1)
    initial = models.initial_state(study, 7)
    arrays = {name: random.normal(0, 0.1, array.shape).astype(array.dtype) for name, array in initial.items()}
    model, out = tmp_path / "model.safetensors", tmp_path / "model.onnx"
    save_file(arrays, model, metadata=Trained(study=study, thresholds={}, model_sha256=model_sha256(arrays)).header)
    done = fedward("model", "export", model, "--out", out)
    assert done.exit_code == 0, done.output
    network = trained.read(model)[1]
    task, size = study.study.task, study.input.size
    last, _ = onnx_file.ending(task, multi_label=False, anchors=getattr(network, "anchors", None))
    examples = random.normal(size=(3, *models.example_shape(task, study.input.channels, size))).astype(np.float32)
    [found] = onnxruntime.InferenceSession(out).run([output], {"input": examples})
    with torch.no_grad():
        expected = nn.Sequential(network, last)(torch.from_numpy(examples)).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.ptp(found[..., 0]) > 1e-4


def test_of_several_labels_each_has_its_own_probability(tmp_path: Path) -> None:
    study = tiny_study(cohort={"multi_label": True, "positive": None})
    out = tmp_path / "model.onnx"
    onnx_file.export(saved(study, tmp_path / "model.safetensors"), out)
    [found] = onnxruntime.InferenceSession(out).run(None, {"input": np.zeros((2, 1, 16, 16), np.float32)})
    assert not np.allclose(found.sum(axis=1), 1.0)


NOISY = """
import torch
class Noisy(torch.nn.Linear):
    def forward(self, rows):
        return super().forward(rows + torch.rand_like(rows))
def build(*, dims, size, channels, classes):
    return Noisy(channels, classes)
"""


def test_a_file_that_gives_other_probabilities_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "noisy_network.py").write_text(NOISY)
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))  # the next test starts without it
    models.register(ModelCard(name="noisy", title="t", paper="p", dims=(0,), min_size=0), "noisy_network:build")
    study = tiny_study(model={"name": "noisy"}, input={"kind": "table", "features": ["a", "b"]})
    done = fedward("model", "export", saved(study, tmp_path / "model.safetensors"), "--out", tmp_path / "model.onnx")
    assert done.exit_code == 1
    assert "differ from torch's by" in done.stderr
    assert not list(tmp_path.glob("*.onnx"))


def test_what_is_no_trained_model_is_refused(tmp_path: Path) -> None:
    study, path = tiny_study(), tmp_path / "model.safetensors"
    save_file(models.initial_state(study, 7), path)
    with pytest.raises(ModelError, match="does not say of which study"):
        trained.read(path)
    saved(study, path, model_sha256="0" * 64)
    with pytest.raises(ModelError, match="was changed since"):
        trained.read(path)
    other = models.initial_state(tiny_study(model={"options": {"width": 8}}), 7)
    save_file(other, path, metadata=Trained(study=study, thresholds={}, model_sha256=model_sha256(other)).header)
    with pytest.raises(ModelError, match="not those of"):
        trained.read(path)
    save_file(other, path, metadata={"fedward": '{"version": 2}'})
    with pytest.raises(ModelError, match="cannot be used with what is installed here"):
        trained.read(path)
    own: dict[str, Any] = {"model": {"name": "resnet10", "options": {"norm": "batch"}}, "input": {"size": [32, 32]}}
    saved(tiny_study(training={"batch_norm": "local"}, **own), path)
    assert fedward("model", "export", path, "--out", tmp_path / "model.onnx").exit_code == 1
    with pytest.raises(ModelError, match="own BatchNorm statistics"):
        trained.read(path)
    assert not (tmp_path / "model.onnx").exists()


def test_an_out_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    model = saved(tiny_study(), tmp_path / "model.safetensors")
    done = fedward("model", "export", model, "--out", tmp_path / "nowhere" / "model.onnx")
    assert done.exit_code == 2
    assert "choose another --out" in done.stderr
