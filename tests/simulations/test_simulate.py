"""`fedward simulate` as a person calls it: planted hospitals with real DICOM in, results, report and model out."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from fedward_common.errors import SettingsError, UsageError
from fedward_common.models import trained
from fedward_common.records import model_sha256
from fedward_simulations.compare import open_hospitals
from fedward_simulations.hospitals import PlantedHospital, identifiers_in, plant
from fedward_simulations.results import Results
from fedward_simulations.simulate import claimed

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
rounds = 2
batch_size = 16
augmentation = ["flip"]
optimizer = { name = "adamw", lr = 0.003 }
[strategy]
min_sites = 3
"""
PATIENTS = 60


def fedward(*arguments: str | Path, cwd: Path) -> "subprocess.CompletedProcess[str]":
    command = [str(Path(sys.executable).with_name("fedward")), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=500)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> list[PlantedHospital]:
    return plant(tmp_path_factory.mktemp("planted") / "hospitals", limit=PATIENTS)


@pytest.fixture(scope="module")
def work(planted: list[PlantedHospital]) -> Path:
    """The folder that holds study.toml and hospitals/."""
    folder = planted[0].folder.parent.parent
    (folder / "study.toml").write_text(STUDY)
    return folder


@pytest.fixture(scope="module")
def done(work: Path) -> "subprocess.CompletedProcess[str]":
    return fedward("simulate", "study.toml", "--data", "hospitals", "--out", "one", "--seed", "7", "--json", cwd=work)


def test_it_writes_what_scripts_rely_on(done: "subprocess.CompletedProcess[str]", work: Path) -> None:
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert results == json.loads((work / "one" / "results.json").read_text())
    assert results["seeds"] == [7]
    assert results["engine"] == "embedded"
    assert [site["name"] for site in results["sites"]] == ["harbour", "north", "valley"]
    for site in results["sites"]:
        for model in ("local", "federated", "pooled"):
            figure = site[model]["roc_auc"]
            assert figure is None or 0 <= figure["low"] <= figure["value"] <= figure["high"] <= 1
    assert results["bytes_per_site_per_round"]["up"] > 0
    assert results["rounds"] == 2
    for effect in (results["site_effect"]["before"], results["site_effect"]["after"]):
        assert effect["chance_low"] <= effect["chance"] <= effect["chance_high"]
        assert effect["patients"] == sum(site["patients"] for site in results["sites"])
    arrays = load_file(work / "one" / "model.safetensors")
    assert model_sha256(arrays) == results["model_sha256"]
    about, _ = trained.read(work / "one" / "model.safetensors")
    assert about.study.digest == results["study"]["digest"]
    assert all(limit in (work / "one" / "model-card.md").read_text() for limit in about.limits)
    assert about.limits
    assert {path.name for path in (work / "one").iterdir()} >= {"report.html", "model-card.md", "logs", "store.sqlite"}
    assert not [path for path in (work / "one").rglob("*") if path.suffix == ".tmp"]


@pytest.mark.long
def test_faults_are_counted_not_hidden(
    done: "subprocess.CompletedProcess[str]", work: Path, planted: list[PlantedHospital]
) -> None:
    assert done.returncode == 0
    reports = {report.name: report for report in Results.read(work / "one" / "results.json").site_reports}
    for hospital in planted:
        report = fedward("site", "report", hospital.folder, "--json", cwd=work)
        counts = json.loads(report.stdout)["counts"]
        assert sum(counts["quarantine"].values()) + counts["labels_without_images"] >= 2
        assert counts["patients_without_label"] >= hospital.faults.patients_without_label
        assert reports[hospital.name].images is not None


@pytest.mark.long
def test_the_same_study_on_the_same_data_gives_the_same_bits(
    done: "subprocess.CompletedProcess[str]", work: Path
) -> None:
    again = fedward(
        *("simulate", "study.toml", "--data", "hospitals", "--out", "two", "--seed", "7", "--no-pooled"),
        *("--workers", "1", "--json"),
        cwd=work,
    )
    assert again.returncode == 0, again.stderr
    one, two = json.loads(done.stdout), json.loads(again.stdout)
    assert one["model_sha256"] == two["model_sha256"]
    assert [site["federated"] for site in one["sites"]] == [site["federated"] for site in two["sites"]]
    assert all(site["pooled"] is None for site in two["sites"])
    assert two["site_effect"] is None  # it needs data in one place, as pooled data do


@pytest.mark.long
def test_the_ray_engine_gives_the_same_bits(done: "subprocess.CompletedProcess[str]", work: Path) -> None:
    ray = fedward(
        *("simulate", "study.toml", "--data", "hospitals", "--out", "ray", "--seed", "7", "--engine", "ray"),
        *("--no-pooled", "--json"),
        cwd=work,
    )
    assert ray.returncode == 0, ray.stderr
    results = json.loads(ray.stdout)
    assert results["engine"] == "ray"
    assert results["model_sha256"] == json.loads(done.stdout)["model_sha256"]


@pytest.mark.long
def test_a_finished_run_is_not_overwritten_and_resume_keeps_it(
    done: "subprocess.CompletedProcess[str]", work: Path
) -> None:
    arguments = ("simulate", "study.toml", "--data", "hospitals", "--out", "one", "--seed", "7")
    refused = fedward(*arguments, cwd=work)
    assert refused.returncode == 2
    assert "--resume" in refused.stderr
    assert "Traceback" not in refused.stderr
    kept = fedward(*arguments, "--resume", "--json", cwd=work)
    assert kept.returncode == 0, kept.stderr
    assert json.loads(kept.stdout)["model_sha256"] == json.loads(done.stdout)["model_sha256"]
    other = work / "other.toml"
    other.write_text(STUDY.replace("lr = 0.003", "lr = 0.004"))
    foreign = fedward("simulate", "other.toml", *arguments[2:], "--resume", cwd=work)
    assert foreign.returncode == 2
    assert "another study" in foreign.stderr


@pytest.mark.long
def test_ctrl_c_leaves_no_process_and_resume_ends_with_the_same_bits(
    done: "subprocess.CompletedProcess[str]", work: Path
) -> None:
    command = [str(Path(sys.executable).with_name("fedward")), "simulate", "study.toml", "--data", "hospitals"]
    arguments = ("--out", "broken", "--seed", "7", "--no-pooled")
    running = subprocess.Popen([*command, *arguments], cwd=work, stderr=subprocess.PIPE, start_new_session=True)
    first = work / "broken" / "seed-7" / "federated" / "round-000001.json"
    deadline = time.monotonic() + 300
    while not first.exists():
        assert running.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(running.pid, signal.SIGINT)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 130
    assert b"Traceback" not in errors
    assert b"--resume" in errors
    deadline = time.monotonic() + 10
    while left := [path for path in Path("/proc").glob("[0-9]*") if _session(path) == running.pid]:
        assert time.monotonic() < deadline, left  # the fork server and the decoder see that their parent is gone
        time.sleep(0.05)
    assert not [path for path in (work / "broken").rglob("*") if "tmp" in path.suffix]
    assert not (work / "broken" / "results.json").exists()
    resumed = fedward("simulate", "study.toml", "--data", "hospitals", *arguments, "--resume", "--json", cwd=work)
    assert resumed.returncode == 0, resumed.stderr
    assert json.loads(resumed.stdout)["model_sha256"] == json.loads(done.stdout)["model_sha256"]


def _session(process: Path) -> int | None:
    """The session that a process of /proc belongs to, None where it is gone or a zombie."""
    try:
        fields = (process / "stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] == "Z" else int(fields[3])


def test_planted_identifiers_are_in_nothing_that_was_written(
    done: "subprocess.CompletedProcess[str]", work: Path, planted: list[PlantedHospital]
) -> None:
    identifiers = frozenset().union(*(hospital.identifiers for hospital in planted))
    searched = 0
    for path in _written(work):
        found = _found(path, identifiers)
        assert not found, f"{path.relative_to(work)} holds {sorted(found)[:3]}"
        searched += 1
    assert searched > 30
    assert not identifiers_in((done.stdout + done.stderr).encode(), identifiers)
    own = planted[0].folder / "export"
    assert any(_found(path, identifiers) for path in own.rglob("*") if path.is_file())  # the search can find


def _written(work: Path) -> Iterator[Path]:
    """Every file but the hospitals' own: their exports, label tables and settings."""
    for path in work.rglob("*"):
        if path.is_file() and "export" not in path.parts and path.name not in ("labels.csv", "site.toml"):
            yield path


def _found(path: Path, identifiers: frozenset[str]) -> set[str]:
    return identifiers_in(path.name.encode() + b" " + path.read_bytes(), identifiers)


def test_the_store_holds_every_round(done: "subprocess.CompletedProcess[str]", work: Path) -> None:
    assert done.returncode == 0
    with sqlite3.connect(work / "one" / "store.sqlite") as store:
        rounds = store.execute("select count(*) from rounds").fetchone()[0]
        statuses = {row[0] for row in store.execute("select status from runs")}
    assert rounds == 2 * 5  # federated, three alone, pooled
    assert statuses == {"finished"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--data", "nowhere"), "does not exist"),
        (("--data", "empty"), "holds no hospital"),
    ],
)
def test_wrong_folders(work: Path, arguments: tuple[str, ...], words: str) -> None:
    (work / "empty").mkdir(exist_ok=True)
    refused = fedward("simulate", "study.toml", *arguments, "--out", "never", cwd=work)
    assert refused.returncode in (1, 2)
    assert words in " ".join(refused.stderr.split())
    assert not (work / "never").exists()


@pytest.mark.long
def test_a_hospital_too_small_is_left_out_and_the_report_says_so(work: Path, planted: list[PlantedHospital]) -> None:
    hospitals = work / "small"
    shutil.copytree(planted[0].folder.parent, hospitals)
    table = hospitals / "valley" / "labels.csv"
    table.write_text("".join(table.read_text().splitlines(keepends=True)[:5]))
    shutil.copytree(hospitals / "valley" / "export", hospitals / "west" / "export")
    (hospitals / "west" / "labels.csv").write_text("id,result\n1,benign\n")
    (work / "two.toml").write_text(STUDY.replace("min_sites = 3", "min_sites = 2"))
    done = fedward("simulate", "two.toml", "--data", "small", "--out", "two-of-three", "--json", cwd=work)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert [site["name"] for site in results["sites"]] == ["harbour", "north"]
    assert any("valley has fewer than 5 training patients" in note for note in results["data_notes"])
    assert any(note.startswith("Not in the run: west: the first row of the label") for note in results["data_notes"])
    assert {report["name"] for report in results["site_reports"]} == {"harbour", "north", "valley"}
    pooled = json.loads((work / "two-of-three" / "seed-42" / "pooled" / "run.json").read_text())
    assert pooled["history"][0]["sites"]["pooled-data"]["patients"] == sum(
        site["prepared"]["patients"]["train"] for name, site in pooled["sites"].items() if name != "pooled-data"
    )


def test_hospitals_that_share_what_each_must_have_are_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "site.toml").write_text(f'[site]\nstate = "{tmp_path / "state"}"\n')
    with pytest.raises(UsageError, match=r"a and b in .* share a data or state folder"):
        open_hospitals(tmp_path, [tmp_path / "a", tmp_path / "b"])
    (tmp_path / "b" / "site.toml").write_text('[site]\nname = "a"\n')
    with pytest.raises(UsageError, match="share the name 'a'"):
        open_hospitals(tmp_path, [tmp_path / "a", tmp_path / "b"])
    (tmp_path / "b" / "site.toml").write_text("[data]\nfolder = 'nowhere'\n")
    with pytest.raises(SettingsError, match=r"b: site.toml: \[data\] folder"):
        open_hospitals(tmp_path, [tmp_path / "a", tmp_path / "b"])


def test_another_seed_does_not_overwrite_a_run(done: "subprocess.CompletedProcess[str]", work: Path) -> None:
    before = (work / "one" / "results.json").read_bytes()
    for more in ((), ("--resume",)):
        refused = fedward(
            *("simulate", "study.toml", "--data", "hospitals", "--out", "one", "--seed", "8", *more), cwd=work
        )
        assert refused.returncode == 2
        assert "holds a run" in " ".join(refused.stderr.split())
    inside = fedward("simulate", "study.toml", "--data", "hospitals", "--out", "hospitals/result", cwd=work)
    assert inside.returncode == 2
    assert (work / "one" / "results.json").read_bytes() == before


def test_two_commands_in_one_folder_are_refused(work: Path) -> None:
    with claimed(work / "busy"):
        refused = fedward("simulate", "study.toml", "--data", "hospitals", "--out", "busy", cwd=work)
    assert refused.returncode == 2
    assert "another command is at work" in " ".join(refused.stderr.split())
    (work / "file").touch()
    refused = fedward("simulate", "study.toml", "--data", "hospitals", "--out", "file", cwd=work)
    assert refused.returncode == 2
    assert "choose another --out" in " ".join(refused.stderr.split())


def test_a_hospital_without_labels_is_named(work: Path, planted: list[PlantedHospital]) -> None:
    hospitals = work / "unlabelled"
    shutil.copytree(planted[0].folder.parent, hospitals)
    (hospitals / "north" / "site.toml").unlink()
    (hospitals / "north" / "labels.csv").unlink()
    refused = fedward("simulate", "study.toml", "--data", "unlabelled", "--out", "never-2", cwd=work)
    assert refused.returncode == 1
    assert "no patient has a label" in " ".join(refused.stderr.split())
    assert "Traceback" not in refused.stderr
