"""A hub's registered models, and the weights that studies begin with: found, bound to the study, refused in words."""

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from PIL import Image
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from fedward_common import cli, models, pki
from fedward_common.audit import entries
from fedward_common.cards import SiteCard
from fedward_common.errors import FedwardError, ModelError, UsageError
from fedward_common.models import trained, weights_file
from fedward_common.records import Prepared, model_sha256
from fedward_common.study import StudySpec
from fedward_common.testing import tiny_study
from fedward_server import runs
from fedward_server.checkpoints import Checkpoint, save
from fedward_server.hub import Hub
from fedward_server.models import Registry, Started, keep_start, resolve_start
from fedward_server.result import RunResult, SiteResult

STUDY = tiny_study()
PREPARED = Prepared(
    site="north",
    fedward="0.1.0",
    cohort="c" * 64,
    total=40,
    patients={"train": 20, "validation": 10, "test": 10},
    seconds=1.0,
)
ARRAYS = models.initial_state(STUDY, 99)


def fedward(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments], env={"COLUMNS": "250"})


def refusal(*arguments: str | Path) -> str:
    done = fedward(*arguments)
    assert done.exit_code in (1, 2), done.stdout
    [line] = done.stderr.strip().splitlines()
    return line.removeprefix("fedward: ")


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    return Hub.init(tmp_path / "hub", name="alliance", port=19093)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save_file(ARRAYS, tmp_path / "w.safetensors")
    return tmp_path / "w.safetensors"


def finished_run(hub: Hub, run: str = "run-1") -> None:
    with hub.store() as store:
        store.start_run(run, "tiny", STUDY.digest, STUDY.canonical_json().decode(), "deployment")
        save(
            hub.runs / run,
            Checkpoint(
                run=run,
                study_digest=STUDY.digest,
                round=2,
                arrays=ARRAYS,
                strategy_state={},
                participation=["north"],
                metrics={},
            ),
        )
        store.finish_run(run, "finished", model_sha256(ARRAYS))
    RunResult(
        run=run,
        engine="deployment",
        study=STUDY,
        sites={"north": SiteResult(prepared=PREPARED)},
        history=(),
        kept_round=2,
        left_out=("south: nobody answered",),
        thresholds={"malignant": 0.4},
        model_sha256=model_sha256(ARRAYS),
        wall_s=1.0,
    ).write(hub.runs / run)


def begins_with(**start: Any) -> StudySpec:
    return tiny_study(model={"start": start})


# The registry --------------------------------------------------------------------------------------------------------


def test_a_file_is_registered_found_and_removed(hub: Hub, file: Path) -> None:
    registry = Registry(hub)
    assert registry.entries() == []
    entry = registry.add_file("old-net", file, note="from the pilot")
    assert (entry.sha256, entry.note, entry.run) == (model_sha256(ARRAYS), "from the pilot", None)
    found, path = Registry(hub).find("old-net")
    assert found == entry
    assert model_sha256(load_file(path)) == entry.sha256
    assert registry.remove("old-net") == entry
    assert registry.entries() == []
    assert {each.name for each in (hub.folder / "models").iterdir()} == {".lock"}
    noted = [each.event for each in entries(hub.folder / "audit.jsonl")]
    assert noted == ["begun", "model registered", "model removed"]


def test_the_model_of_a_run_that_finished_is_registered(hub: Hub) -> None:
    finished_run(hub)
    entry = Registry(hub).add_run("pilot", "run-1")
    assert entry.model_dump(exclude={"added"}) == {
        "version": 1,
        "name": "pilot",
        "network": "small-cnn",
        "study": "tiny",
        "study_digest": STUDY.digest,
        "run": "run-1",
        "sites": ("north",),
        "sha256": model_sha256(ARRAYS),
        "note": "",
    }
    about = trained.about(hub.folder / "models" / "pilot.safetensors")
    assert about is not None
    assert (about.study, about.thresholds) == (STUDY, {"malignant": 0.4})


def test_predictions_with_the_model_of_a_run_tell_its_limits(hub: Hub, tmp_path: Path) -> None:
    finished_run(hub)
    Registry(hub).add_run("pilot", "run-1")
    (tmp_path / "in").mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (20, 30), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "in" / "a.png")
    out = tmp_path / "found.csv"
    done = fedward("model", "predict", "pilot", "--hub", hub.folder, tmp_path / "in", "--out", out)
    assert done.exit_code == 0, done.output
    text = out.read_text()
    assert "# Not in the run: south: nobody answered.\n" in text
    assert "# One seed: how much the figures change" in text
    assert "# Tested on held-out patients of the hospitals that trained; no hospital outside" in text
    assert "without a card" not in text


def test_a_file_keeps_what_it_says_of_itself(hub: Hub, file: Path) -> None:
    about = trained.Trained(study=STUDY, thresholds={}, model_sha256=model_sha256(ARRAYS), limits=("One seed.",))
    save_file(ARRAYS, file, metadata=about.header)
    Registry(hub).add_file("old", file)
    assert trained.about(hub.folder / "models" / "old.safetensors") == about


def test_a_run_without_a_model_is_refused(hub: Hub) -> None:
    finished_run(hub)
    with hub.store() as store:
        store.start_run("run-2", "tiny", STUDY.digest, STUDY.canonical_json().decode(), "deployment")
        store.start_run("run-3", "tiny", STUDY.digest, STUDY.canonical_json().decode(), "deployment")
        store.finish_run("run-3", "finished", "e" * 64)
        store.finish_run("run-1", "finished", "e" * 64)
    for run, words in (
        ("run-1", "is its final model"),
        ("run-2", r"has not finished \(running\)"),
        ("run-3", "is its final model"),
        ("run-4", "is not known here"),
    ):
        with pytest.raises(FedwardError, match=words):
            Registry(hub).add_run("pilot", run)
    assert Registry(hub).entries() == []


def test_a_name_is_given_once_and_a_slug(hub: Hub, file: Path) -> None:
    registry = Registry(hub)
    first = registry.add_file("old", file)
    other = file.with_name("other.safetensors")
    save_file({"a": np.ones(3, np.float32)}, other)
    with pytest.raises(UsageError, match="the name 'old' is taken"):
        registry.add_file("old", other)
    assert registry.find("old")[0] == first
    for name in ("", "Old", "../old", "a/b", "-a", "a" * 64):
        with pytest.raises(UsageError, match="is no name of a model"):
            registry.add_file(name, file)
    with pytest.raises(UsageError, match=r"no model 'ald' is registered at hub alliance; did you mean old\?"):
        registry.find("ald")


def test_of_two_at_once_one_gets_the_name(hub: Hub, file: Path) -> None:
    outcomes: list[str] = []

    def add() -> None:
        try:
            outcomes.append(Registry(hub).add_file("old", file).name)
        except UsageError as error:
            outcomes.append(str(error)[:8])

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["old", "the name", "the name", "the name"]


def test_what_a_crash_left_without_its_json_is_no_model(hub: Hub, file: Path) -> None:
    registry = Registry(hub)
    registry.add_file("old", file)
    (hub.folder / "models" / "old.json").unlink()
    assert registry.entries() == []
    registry.add_file("old", file)
    assert [entry.name for entry in registry.entries()] == ["old"]


# What a study begins with --------------------------------------------------------------------------------------------


def test_a_study_is_bound_to_a_file_or_a_registered_model(hub: Hub, file: Path) -> None:
    Registry(hub).add_file("old", file)
    for study in (begins_with(file="w.safetensors"), begins_with(model="old")):
        found = resolve_start(study, base=file.parent, registry=Registry(hub))
        assert found.study.model.start is not None
        assert found.study.model.start.sha256 == model_sha256(ARRAYS)
        assert found.told.endswith("11 of the network's 11 arrays are taken over.")
        assert found.weights is not None
        folder = file.parent / f"run-{study.model.start.model if study.model.start else ''}"
        keep_start(found.weights, folder)
        assert [path.name for path in folder.iterdir()] == [weights_file.NAME]
        assert model_sha256(models.initial_model(found.study, folder)[0]) == model_sha256(ARRAYS)
        again = resolve_start(found.study, base=file.parent, registry=Registry(hub))
        assert again.study.digest == found.study.digest


def test_a_study_without_trained_weights_stays_as_it_is(tmp_path: Path) -> None:
    found = resolve_start(STUDY, base=tmp_path, registry=None)
    assert found == Started(STUDY, None, "")
    keep_start(None, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(ModelError, match="matches no array"):
        resolve_start(tiny_study(model={"frozen": ["nope"]}), base=tmp_path, registry=None)


@pytest.mark.parametrize(
    ("start", "words"),
    [
        ({"file": "absent.safetensors"}, "there is no file"),
        ({"file": "w.safetensors", "sha256": "a" * 64}, r"start\.sha256 = .* but the weights in w\.safetensors have"),
        ({"file": "w.safetensors", "map": {"a.": ""}}, "is the longest prefix of no name"),
        ({"model": "old"}, "no model 'old' is registered at hub alliance; registered are: none yet"),
    ],
)
def test_weights_that_cannot_be_taken_are_refused(hub: Hub, file: Path, start: dict[str, Any], words: str) -> None:
    with pytest.raises(FedwardError, match=words):
        resolve_start(begins_with(**start), base=file.parent, registry=Registry(hub))


def test_a_registered_model_that_was_changed_is_refused(hub: Hub, file: Path) -> None:
    registry = Registry(hub)
    registry.add_file("old", file)
    save_file({name: array + np.asarray(1, array.dtype) for name, array in ARRAYS.items()}, registry.find("old")[1])
    with pytest.raises(ModelError, match="the registered model old was changed"):
        resolve_start(begins_with(model="old"), base=file.parent, registry=registry)


def test_what_stewards_approve_is_bound_to_the_weights(hub: Hub, file: Path, tmp_path: Path) -> None:
    node, signing = tmp_path / "node", tmp_path / "signing"
    pki.write_private(node, pki.make_node_key())
    pki.write_private(signing, pki.make_signing_key())
    line = pki.node_public_line(pki.load_node_key(node))
    hub.enrol(SiteCard.make("north", line, pki.load_signing_key(signing)))
    study = begins_with(file="w.safetensors")
    first = runs.resolve(hub, study, base=file.parent)
    assert first.model.start is not None
    assert first.model.start.sha256 == model_sha256(ARRAYS)
    assert [site.name for site in first.sites] == ["north"]
    save_file({name: array + np.asarray(1, array.dtype) for name, array in ARRAYS.items()}, file)
    assert runs.resolve(hub, study, base=file.parent).digest != first.digest


# Commands ------------------------------------------------------------------------------------------------------------


def test_models_are_added_listed_and_removed(hub: Hub, file: Path) -> None:
    finished_run(hub)
    sha256 = model_sha256(ARRAYS)
    done = fedward("model", "add", "pilot", "--hub", hub.folder, "--run", "run-1", "--note", "the pilot's")
    assert (done.exit_code, done.stdout) == (0, f"pilot is registered, SHA-256 {sha256}.\n")
    assert fedward("model", "add", "old", "--hub", hub.folder, "--file", file).exit_code == 0
    found = json.loads(fedward("model", "list", "--hub", hub.folder, "--json").stdout)
    assert {row["name"] for row in found["networks"]} == set(models.names())
    pilot = {"network": "small-cnn", "study": "tiny", "run": "run-1", "sha256": sha256, "note": "the pilot's"}
    assert [row["name"] for row in found["registered"]] == ["old", "pilot"]
    assert found["registered"][1].items() >= pilot.items()
    shown = fedward("model", "list", "--hub", hub.folder).stdout
    assert "resnet18" in shown
    assert "the pilot's" in shown
    assert "pilot is registered no more" in fedward("model", "remove", "pilot", "--hub", hub.folder).stdout
    assert "no model 'pilot' is registered" in refusal("model", "remove", "pilot", "--hub", hub.folder)


def test_commands_refuse_in_one_sentence(hub: Hub, file: Path, tmp_path: Path) -> None:
    add = ("model", "add", "old", "--hub", hub.folder)
    assert refusal(*add) == "say where the model is: either --file or --run"
    assert refusal(*add, "--file", file, "--run", "run-1") == "say where the model is: either --file or --run"
    assert "there is no file" in refusal(*add, "--file", tmp_path / "absent")
    assert "is no safetensors file" in refusal(*add, "--file", hub.folder / "hub.toml")
    assert "run run-9 is not known" in refusal(*add, "--run", "run-9")
    assert "nowhere" in refusal("model", "list", "--hub", tmp_path / "nowhere")
    export = ("model", "export", "old", "--out", tmp_path / "model.onnx")
    assert refusal(*export).startswith("old is no file; with --hub a model can be named")
    assert "no model 'old' is registered" in refusal(*export, "--hub", hub.folder)
    Registry(hub).add_file("old", file)
    save_file({"w": np.zeros(1)}, hub.folder / "models" / "old.safetensors")
    assert "old was changed" in refusal(*export, "--hub", hub.folder)


def test_a_study_file_is_checked_with_its_weights(file: Path, tmp_path: Path) -> None:
    text = fedward("study", "show", "image-classification", "--toml").stdout
    study = tmp_path / "study.toml"

    def written(model: str) -> None:
        head, _, rest = text.partition("[model]\n")
        tail = rest.partition("\n[")[2]
        study.write_text(f'{head}[model]\nname = "small-cnn"\n{model}\n[{tail}')

    written('start = { file = "w.safetensors" }')  # beside the study, not where the command is called
    done = fedward("study", "check", study)
    assert done.exit_code == 0, done.stderr
    assert "weights of w.safetensors: 11 of the network's 11 arrays are taken over." in done.stderr
    assert "OK" in done.stdout
    written('start = { file = "absent.safetensors" }')
    assert "there is no file" in refusal("study", "check", study)
    failed = fedward("study", "check", study, "--json")
    assert (failed.exit_code, json.loads(failed.stdout)["ok"]) == (1, False)
    written('frozen = ["features.*"]')
    assert '"features.*" matches no array of "small-cnn"' in refusal("study", "check", study)
    written('start = { model = "old" }')
    assert "say at which hub, with --hub" in refusal(
        "simulate", study, "--data", tmp_path / "data", "--out", tmp_path / "out"
    )
