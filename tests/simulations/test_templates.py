"""Templates on invented patients with a signal of known strength: each learns what is there."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.metrics import roc_auc_score  # type: ignore[import-untyped]

from fedward_common.study import template_path
from fedward_simulations.studies import hospital_folder, invented, lung_malignancy
from fedward_simulations.synthetic import brain, compounds, gait, heart_disease, images, regulatory

NETWORKS = ("enhanced-alexnet", "alexnet")
STUDIES = Path(__file__).parents[2] / "docs/studies.md"


def simulated(template: str, root: Path) -> dict[str, Any]:
    """The results.json of a template on the hospitals in `root`/hospitals."""
    command = [str(Path(sys.executable).with_name("fedward")), "simulate", template]
    command += ["--data", "hospitals", "--out", "out", "--no-pooled"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    results: dict[str, Any] = json.loads((root / "out" / "results.json").read_text())
    return results


def of_network(template: str, network: str, root: Path) -> str:
    """A template with its own network, or its study file with AlexNet and what the template says that it needs."""
    if network != "alexnet":
        return template
    text = template_path(template).read_text("utf-8")
    said = re.search(r'(?m)^name = "enhanced-alexnet" .*"alexnet", with (options = .*) and (lr = .*)$', text)
    assert said is not None
    text = text.replace(said[0], f'name = "alexnet"\n{said[1]}')
    (root / "study.toml").write_text(re.sub(r"\blr = [^ }]*", said[2], text))
    return "study.toml"


def area(results: dict[str, Any]) -> float:
    """Over all hospitals' test patients; where that cannot be told, the mean over hospitals."""
    block = results["overall"]["federated"]
    value: float = block["mean"]["roc_auc"] if block["roc_auc"] is None else block["roc_auc"]["value"]
    return value


@pytest.mark.long
def test_heart_disease_comes_close_to_the_risk_itself(tmp_path: Path) -> None:
    risks = []
    for hospital, patients in (("cleveland", 300), ("hungarian", 300), ("switzerland", 120), ("va", 200)):
        folder = hospital_folder(tmp_path / "hospitals", hospital, '[table]\nfiles = "*.data"\nmap = "heart-disease"\n')
        risks.append(heart_disease.write(folder, hospital, patients))
    assert heart_disease.best_area(risks) == pytest.approx(0.9, abs=0.02)
    best, found = heart_disease.best_area(risks), area(simulated("heart-disease", tmp_path))
    assert best - 0.06 < found < best + 0.05, "more would be what is not there"


def test_the_best_area_is_that_of_the_risk() -> None:
    """Against scikit-learn, on disease that is drawn many times over."""
    random = np.random.default_rng(0)
    risk = random.beta(0.8, 0.8, 4000)
    drawn = [roc_auc_score(random.random(4000) < risk, risk) for _ in range(20)]
    assert heart_disease.best_area([risk[:1000], risk[1000:]]) == pytest.approx(np.mean(drawn), abs=0.003)


@pytest.mark.long
def test_parkinson_gait_finds_a_shallow_dip_between_the_peaks(tmp_path: Path) -> None:
    for study in ("Ga", "Ju", "Si"):
        folder = hospital_folder(
            tmp_path / "hospitals", study.lower(), '[labels]\nwords = { Co = "control", Pt = "parkinson" }\n'
        )
        for number in range(15):
            for group in ("Co", "Pt"):
                gait.write(folder, study, number, group)
    assert area(simulated("parkinson-gait", tmp_path)) > 0.95


@pytest.mark.long
@pytest.mark.parametrize("network", NETWORKS)
def test_alzheimer_mri_finds_wide_ventricles(tmp_path: Path, network: str) -> None:
    words = {"0": "healthy", "0.5": "impaired", "1": "alzheimer"}
    invented.write_pictures(
        tmp_path / "hospitals", invented.picture_settings("MR", words), words, images.brain_slice, 12
    )
    assert area(simulated(of_network("alzheimer-mri", network, tmp_path), tmp_path)) > 0.9


@pytest.mark.long
def test_parkinson_mri_finds_a_pale_nigra_and_thin_putamina(tmp_path: Path) -> None:
    invented.write_brains(tmp_path, tmp_path / "hospitals")
    assert area(simulated("parkinson-mri", tmp_path)) > 0.9


@pytest.mark.long
@pytest.mark.parametrize("other", ["healthy", "msa"])
def test_parkinson_mri_tells_two_apart(tmp_path: Path, other: str) -> None:
    invented.write_brains(tmp_path, tmp_path / "hospitals")
    text = template_path("parkinson-mri").read_text("utf-8")
    pair = f'labels = ["{other}", "parkinson"]\npositive = "parkinson"'
    text, changed = re.subn(r'(?m)^labels = \["healthy", "parkinson", "msa"\].*$', pair, text)
    assert changed == 1
    (tmp_path / "study.toml").write_text(text)
    assert area(simulated("study.toml", tmp_path)) > 0.9


@pytest.mark.long
def test_parkinson_mri_finds_nothing_where_nothing_is_planted(tmp_path: Path) -> None:
    invented.write_brains(tmp_path, tmp_path / "hospitals", strength=0.0)
    chance = pytest.approx(0.5, abs=0.2)  # of 26 test patients in all
    assert area(simulated("parkinson-mri", tmp_path)) == chance


def test_brains_of_a_label_differ_by_what_is_planted_alone(tmp_path: Path) -> None:
    def written(label: str, strength: float) -> bytes:
        brain.write(tmp_path, brain.SCANNERS["north"], 0, label, strength=strength)
        return (tmp_path / "P0000.dcm").read_bytes()

    assert len({written(label, 0.0) for label in brain.NIGRA}) == 1
    assert len({written(label, 1.0) for label in brain.NIGRA}) == 3


@pytest.mark.long
def test_lung_malignancy_finds_spicules(tmp_path: Path) -> None:
    words = {"1": "benign", "5": "malignant"}
    invented.write_pictures(tmp_path / "hospitals", invented.picture_settings("CT", words), words, images.nodule, 25)
    assert area(simulated("lung-malignancy", tmp_path)) > 0.95


@pytest.mark.long
def test_lung_malignancy_finds_how_far_spicules_reach(tmp_path: Path) -> None:
    ratings = {rating: rating for rating in "12345"}
    invented.write_pictures(tmp_path / "hospitals", lung_malignancy.ORDINAL, ratings, images.nodule, 12)
    text = template_path("lung-malignancy").read_text("utf-8")
    binary = '["benign", "malignant"]\npositive = "malignant"'
    (tmp_path / "study.toml").write_text(text.replace(binary, f"{lung_malignancy.THRESHOLDS}\nmulti_label = true"))
    labels = simulated("study.toml", tmp_path)["overall"]["federated"]["labels"]
    assert list(labels) == lung_malignancy.THRESHOLDS
    assert all(figures["roc_auc"]["value"] > 0.9 for figures in labels.values()), labels


@pytest.mark.long
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"name": '"alexnet"\noptions = { width = 512 }', "lr": "1e-4"},
        {"name": '"resnet10"', "lr": "5e-4"},
        {"name": '"densenet121"', "lr": "5e-4"},
    ],
    ids=["as shipped", "alexnet", "resnet", "densenet"],
)
def test_breast_ultrasound_finds_tall_lesions_in_shadow(changes: dict[str, str], tmp_path: Path) -> None:
    words = {"benign": "benign", "malignant": "malignant"}
    settings = invented.picture_settings("US", words)
    invented.write_pictures(tmp_path / "hospitals", settings, words, images.ultrasound, 30)
    text = template_path("breast-ultrasound").read_text("utf-8")
    small = {"size": "[64, 64]", "batch_size": "8", "rounds": "8", "local_epochs": "3"} if changes else {}
    for key, value in {**small, **changes}.items():
        text, changed = re.subn(rf"\b{key} = [^#\n}}]*", f"{key} = {value}  ", text, count=1)
        assert changed, key
    (tmp_path / "study.toml").write_text(text)
    assert area(simulated("study.toml", tmp_path)) > 0.9


@pytest.mark.long
def test_image_classification_finds_what_is_present(tmp_path: Path) -> None:
    lesions = {"absent": "benign", "present": "malignant"}

    def drawn(random: np.random.Generator, label: str) -> npt.NDArray[np.uint8]:
        return images.ultrasound(random, lesions[label])

    words = {label: label for label in lesions}
    invented.write_pictures(tmp_path / "hospitals", invented.picture_settings("US", words), words, drawn, 30)
    assert area(simulated("image-classification", tmp_path)) > 0.9


@pytest.mark.long
@pytest.mark.parametrize("network", NETWORKS)
def test_breast_pathology_tells_four_tissues_apart(tmp_path: Path, network: str) -> None:
    invented.write_tissue(tmp_path, tmp_path / "hospitals")
    assert area(simulated(of_network("breast-pathology", network, tmp_path), tmp_path)) > 0.95


def regulatory_dna(root: Path, strength: float) -> dict[str, Any]:
    """The results of variant-effect at three hospitals of 100 genes each."""
    invented.write_windows(root, root / "hospitals", strength=strength)
    return simulated("variant-effect", root)


@pytest.mark.long
def test_variant_effect_finds_the_motif_and_what_breaks_it(tmp_path: Path) -> None:
    assert area(regulatory_dna(tmp_path, 0.9)) > 0.95
    random = np.random.default_rng(0)
    in_motif = np.repeat([True, False], 200)
    windows = [regulatory.window(random, 1.0, active=bool(active)) for active in in_motif]
    found = effects(tmp_path, [window for window, _ in windows], [regulatory.breaks(random, *each) for each in windows])
    assert (found[in_motif] < 0).mean() > 0.95
    assert roc_auc_score(in_motif, -found) > 0.95


def effects(root: Path, references: list[str], alternatives: list[str]) -> npt.NDArray[np.float64]:
    """What the lines of docs/studies.md make of variants, with the model in `root`."""
    [lines] = re.findall(r"^```python\n(.*?)^```$", STUDIES.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    shutil.copy(template_path("variant-effect"), root / "my-study.toml")
    script = f"references = {references}\nalternatives = {alternatives}\n{lines}\nprint(effects.tolist())\n"
    done = subprocess.run([sys.executable, "-"], input=script, cwd=root, capture_output=True, text=True, check=True)
    return np.array(json.loads(done.stdout))


@pytest.mark.long
def test_variant_effect_finds_nothing_in_background(tmp_path: Path) -> None:
    assert area(regulatory_dna(tmp_path, 0.0)) == pytest.approx(0.5, abs=0.1)


def assays(root: Path, strength: float, study: str = "compound-activity") -> dict[str, Any]:
    """The results of compound-activity, or of another study, at three laboratories of 150 compounds each."""
    for laboratory in ("east", "north", "west"):
        folder = hospital_folder(root / "hospitals", laboratory, '[table]\nmap = "columns.toml"\n')
        compounds.write(folder, laboratory, 150, strength)
    return simulated(study, root)


@pytest.mark.long
def test_compound_activity_finds_the_group_that_acts(tmp_path: Path) -> None:
    results = assays(tmp_path, 1.0)
    assert area(results) > 0.95
    [run] = results["runs"]
    assert [point["layer"] for point in run["history"]] == [0] * 10 + [1] * 10 + [None] * 10
    alone = [point["layer_loss"] for point in run["history"][:10]]
    assert alone[-1] < 0.7 * alone[0]
    assert all((point["train_loss"] is None) == (point["layer"] is not None) for point in run["history"])
    assert "Learning without labels" in (tmp_path / "out" / "report.html").read_text("utf-8")


@pytest.mark.long
@pytest.mark.parametrize(
    ("network", "options", "phases"),
    [
        ("sparse-autoencoder", "hidden = [512, 128], dropout = 0.3", 2),
        ("rbm", 'hidden = [512], visible = "binary", dropout = 0.3', 1),
        ("lista", "atoms = 256, dropout = 0.3", 1),
    ],
)
def test_compound_activity_finds_it_with_each_network_of_layers(
    network: str, options: str, phases: int, tmp_path: Path
) -> None:
    text = template_path("compound-activity").read_text("utf-8")
    text = re.sub(r"(?m)^name = \"dbn\".*\noptions = .*$", f'name = "{network}"\noptions = {{ {options} }}', text)
    first, *others = re.split(r"(?m)^(?=\[\[phases\]\]|\[training\])", text)
    (tmp_path / "study.toml").write_text("".join([first, *others[:phases], others[-1]]))
    results = assays(tmp_path, 1.0, "study.toml")
    assert results["study"]["model"] == network
    assert area(results) > 0.9
    [run] = results["runs"]
    for layer in range(phases):
        alone = [point["layer_loss"] for point in run["history"] if point["layer"] == layer]
        assert len(alone) == 10
        assert alone[-1] < alone[0]


@pytest.mark.long
def test_compound_activity_finds_nothing_where_nothing_acts(tmp_path: Path) -> None:
    assert area(assays(tmp_path, 0.0)) == pytest.approx(0.5, abs=0.12)


@pytest.mark.long
def test_a_laboratory_without_measurements_takes_part(tmp_path: Path) -> None:
    """It learns in the phases, is scored on nobody, and trains nothing alone."""
    for laboratory in ("east", "north", "west"):
        folder = hospital_folder(tmp_path / "hospitals", laboratory, '[table]\nmap = "columns.toml"\n')
        compounds.write(folder, laboratory, 150, 1.0, measured=laboratory != "west")
    text = template_path("compound-activity").read_text("utf-8")
    (tmp_path / "study.toml").write_text(text.replace("min_patients = 20", "unlabelled = true\nmin_patients = 20"))
    results = simulated("study.toml", tmp_path)
    assert area(results) > 0.95
    [run] = results["runs"]
    assert {tuple(point["sites"]) for point in run["history"][:20]} == {("east", "north", "west")}
    assert {tuple(point["sites"]) for point in run["history"][20:]} == {("east", "north")}
    west = next(site for site in results["sites"] if site["name"] == "west")
    assert west["patients"] == 0
    assert (west["federated"]["roc_auc"], west["local"]["roc_auc"]) == (None, None)
