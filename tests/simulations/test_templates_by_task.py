"""Templates of segmentation, registration and detection on invented patients: each finds what is there.

Rounds, batches and rates are the templates'; images are coarser and patients fewer than a hospital's.
"""

import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedward_client.cache import load as load_site
from fedward_client.catalog import scan
from fedward_client.site import Site
from fedward_client.site_data import SiteData
from fedward_common.events import ignore
from fedward_common.metrics import Evaluation, primary_value
from fedward_common.streams import stream
from fedward_common.study import load, template_path
from fedward_server.result import RunResult
from fedward_server.rounds import RoundEngine
from fedward_simulations.compare import federated_job, openers
from fedward_simulations.grid import EmbeddedGrid
from fedward_simulations.studies import hospital_folder, invented
from fedward_simulations.studies.hippocampus import SETTINGS
from fedward_simulations.synthetic import hippocampus


def changed(template: str, **values: str) -> str:
    """A template with other values of some of its keys, each of which it has once; "" takes a key away."""
    text = template_path(template).read_text("utf-8")
    for key, value in values.items():
        text, found = re.subn(rf"(?m)^{key} = .*\n", f"{key} = {value}\n" if value else "", text)
        assert found == 1, key
    return text


def simulated(study: str, root: Path) -> RunResult:
    """The federated run of a study on the hospitals in `root`/hospitals."""
    (root / "study.toml").write_text(study)
    command = [str(Path(sys.executable).with_name("fedward")), "simulate", "study.toml"]
    command += ["--data", "hospitals", "--out", "out", "--no-pooled"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stderr
    results: dict[str, Any] = json.loads((root / "out" / "results.json").read_text())
    assert results["model_sha256"]
    return RunResult.read(root / "out" / "seed-42" / "federated")


def federated(study: str, root: Path) -> RunResult:
    """The same without the models of single hospitals, which would take as long again."""
    (root / "study.toml").write_text(study)
    folders = {folder.name: folder for folder in sorted((root / "hospitals").iterdir())}
    for folder in folders.values():
        scan(Site.open(folder), ignore)
    job = federated_job(load(root / "study.toml"), list(folders), root / "out", seed=42)
    with EmbeddedGrid(openers(job.study, folders, pooled=False), workers=2) as grid:
        return RoundEngine(
            grid=grid,
            study=job.study,
            run="planted",
            engine="embedded",
            folder=job.folder,
            deadline_s=math.inf,
            listener=lambda _event: None,
            on_round=lambda _row: None,
        )()


def evaluations_of(run: RunResult) -> list[Evaluation]:
    found = [site.test for site in run.sites.values() if site.test is not None]
    assert len(found) == len(run.sites)
    return found


def dice_at(test: Evaluation, *, before: bool = False) -> dict[str, float]:
    """By structure, the mean over patients."""
    return {name: each.dice.mean for name, each in (test.unregistered if before else test.overlaps).items()}


def dice(run: RunResult, *, before: bool = False) -> dict[str, float]:
    """By structure, the mean over hospitals."""
    held = [dice_at(test, before=before) for test in evaluations_of(run)]
    return {name: float(np.mean([each[name] for each in held])) for name in run.study.cohort.labels}


COARSE = {"size": "[20, 28, 20]", "spacing": "[2.0, 2.0, 2.0]", "min_patients": "3"}


def brains(root: Path, patients: int, *, strength: float = 1.0, hospitals: int = 3) -> None:
    for name, largest in list(hippocampus.SCANNERS.items())[:hospitals]:
        folder = hospital_folder(root / "hospitals", name, SETTINGS)
        for number in range(patients):
            hippocampus.write(folder, number, largest=largest, strength=strength)


@pytest.mark.long
def test_segmentation_on_tiny_sizes(tmp_path: Path) -> None:
    """In 2-D, at two hospitals of which one knows one structure only."""
    for name in ("north", "valley"):
        settings = SETTINGS.replace("anterior = 1", "anterior = [1, 2]")
        if name == "valley":
            settings = settings.replace("anterior = [1, 2], ", "")
        folder, random = hospital_folder(tmp_path / "hospitals", name, settings), stream(0, "tiny", name)
        for number in range(12):
            y, x = np.mgrid[:16, :16] - random.integers(6, 11, 2)[:, None, None]
            mask = np.where(np.hypot(y, x) < 3, 2, np.where(np.hypot(y, x) < 6, 1, 0)).astype(np.uint8)
            image = 60 + 60.0 * mask + random.normal(0, 6, mask.shape)
            hippocampus.save(folder, number, image[..., None].astype(np.float32), mask[..., None])
    study = changed(
        "hippocampus-segmentation",
        size="[16, 16]",
        spacing="[1.0, 1.0]",
        orientation="",
        options="{ width = 8, depth = 1 }",
        augmentation="[]",
        rounds="3",
        local_steps="20",
        optimizer='{ name = "adamw", lr = 1e-2 }',
    )
    run = simulated(study, tmp_path)
    found = {name: site.test for name, site in run.sites.items() if site.test is not None}
    assert len(found) == 2
    assert dice_at(found["north"])["posterior"] > 0.8
    assert dice_at(found["north"])["anterior"] > 0.3, "what one of two hospitals teaches is learned half as fast"
    assert dice_at(found["valley"]).keys() == {"posterior"}, "what a hospital does not draw cannot be scored there"
    surface = found["north"].overlaps["posterior"].surface_mm
    assert surface is not None
    assert surface.mean < 1


@pytest.mark.long
def test_hippocampus_segmentation_finds_both_parts(tmp_path: Path) -> None:
    brains(tmp_path, 16)
    run = federated(changed("hippocampus-segmentation", **COARSE), tmp_path)
    assert min(dice(run).values()) > 0.7


@pytest.mark.long
def test_hippocampus_segmentation_finds_no_more_than_the_usual_place_where_nothing_shows(tmp_path: Path) -> None:
    """One mask for all patients, drawn where most of them have theirs, reaches 0.52 and 0.50."""
    brains(tmp_path, 16, strength=0.0)
    run = federated(changed("hippocampus-segmentation", **COARSE), tmp_path)
    assert max(dice(run).values()) < 0.55


@pytest.mark.long
def test_brain_registration_brings_structures_together_without_folding(tmp_path: Path) -> None:
    brains(tmp_path, 16, hospitals=2)
    run = federated(changed("brain-registration", **COARSE), tmp_path)
    after, before = dice(run), dice(run, before=True)
    assert all(after[name] > before[name] + 0.1 for name in after)
    assert all(test.folding is not None and test.folding.mean < 0.01 for test in evaluations_of(run))


def abdomens(root: Path, strength: float) -> tuple[dict[str, float], float]:
    """Dice of the liver and of tumours, of the template on voxels of 8 mm; and of livers drawn in the usual place."""
    invented.write_abdomens(root, root / "hospitals", strength=strength)
    study = changed(
        "liver-segmentation",
        min_patients="3",
        shares="[0.4, 0.2, 0.4]",
        size="[16, 48, 48]",
        spacing="[8.0, 8.0, 8.0]",
    )
    run = federated(study, root)
    sites = [load_site(Site.open(root / "hospitals" / name), run.study, run.run) for name in sorted(run.sites)]
    return dice(run), float(np.mean([usual_place(site, run.study.cohort.labels.index("liver")) for site in sites]))


def usual_place(site: SiteData, structure: int) -> float:
    """Dice on test patients of what most training patients have, which no image is needed for."""
    assert site.targets is not None
    masks = site.targets[:, structure] > 0
    usual = masks[site.indices("train")].mean(axis=0) > 0.5
    tested = masks[site.indices("test")]
    return float(np.mean([2 * (mask & usual).sum() / (mask.sum() + usual.sum()) for mask in tested]))


@pytest.mark.long
def test_liver_segmentation_finds_livers_and_tumours_in_dicom(tmp_path: Path) -> None:
    found, usual = abdomens(tmp_path, 1.0)
    assert found["liver"] > max(0.8, usual + 0.1)
    assert found["tumour"] > 0.4


@pytest.mark.long
def test_liver_segmentation_finds_livers_alone_where_tumours_do_not_show(tmp_path: Path) -> None:
    found, usual = abdomens(tmp_path, 0.0)
    assert found["liver"] > max(0.8, usual + 0.1)
    assert found["tumour"] < 0.2


def nodules(root: Path, strength: float) -> float:
    """The FROC score of the template on voxels of 3 x 4 x 4 mm."""
    invented.write_chests(root, root / "hospitals", strength=strength)
    study = changed("lung-nodule", min_patients="3", size="[16, 48, 48]", spacing="[3.0, 4.0, 4.0]")
    run = federated(study, root)
    score = primary_value(evaluations_of(run), run.study)
    assert score is not None
    return score


@pytest.mark.long
def test_lung_nodule_finds_nodules(tmp_path: Path) -> None:
    assert nodules(tmp_path, 1.0) > 0.5


@pytest.mark.long
def test_lung_nodule_finds_few_where_none_shows(tmp_path: Path) -> None:
    """Boxes anywhere in the lungs hit some: up to eight of them an image may be false."""
    assert nodules(tmp_path, 0.0) < 0.2
