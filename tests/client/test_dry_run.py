"""`fedward site check`: whom a study would take, whom not and why, and what that costs; nothing is written down."""

import json
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from typer.testing import CliRunner

from fedward_client.cli import app
from fedward_client.dry_run import dry_run
from fedward_client.freezing import freeze
from fedward_client.intake.dicom import read_volume
from fedward_client.site import Site
from fedward_common.study import StudySpec
from fedward_common.testing import tiny_study

Folder = Callable[..., Path]
LABELS = {f"PID-{number:03}": "malignant" if number % 2 else "benign" for number in range(24)}
STUDY = tiny_study(input={"size": [16, 16]}, cohort={"min_patients": 5})


@pytest.fixture
def study_file(tmp_path: Path) -> Path:
    path = tmp_path / "s.toml"
    path.write_text(
        '[study]\nid = "s"\ntask = "classification"\n[cohort]\nmodality = "US"\nlabels = ["benign", "malignant"]\n'
        'positive = "malignant"\nmin_patients = 5\n[input]\nsize = [16, 16]\n[model]\nname = "small-cnn"\n'
    )
    return path


def test_it_finds_what_a_run_would_freeze(site_folder: Folder) -> None:
    site = Site.open(site_folder({**LABELS, "PID-100": "cyst"}, settings="[privacy]\nmin_cell = 1\n"))
    found = dry_run(site, STUDY)
    assert not (site.state / "runs").exists()
    cohort = freeze(site, STUDY, "run-1")
    assert found.patients == {side: cohort.patients(side) for side in found.patients}
    assert (found.images, found.left_out, found.refusal) == (48, {"patients with another label": 1}, "")
    assert found.labels == cohort.label_counts("train")
    assert found.cache_mib == pytest.approx((48 * 16 * 16 * 4 + 4096) / 2**20)
    assert found.round_s is not None
    assert found.round_s > 0


def test_a_site_that_cannot_take_part_reads_why(site_folder: Folder) -> None:
    found = dry_run(Site.open(site_folder({"A": "benign", "B": "malignant"})), STUDY)
    assert "training patients" in found.refusal
    assert found.images == 4


@pytest.mark.long
def test_a_longer_round_takes_longer(site_folder: Folder) -> None:
    site = Site.open(site_folder(LABELS))

    def seconds(steps: int) -> float:
        training = STUDY.training.model_copy(update={"local_steps": steps, "local_epochs": None})
        study: StudySpec = STUDY.model_copy(update={"training": training})
        return dry_run(site, study).round_s or 0.0

    assert seconds(10_000) > 10 * seconds(10)


@pytest.mark.parametrize(
    ("task", "network", "options"),
    [
        ("segmentation", "unet", {"width": 4, "depth": 1}),
        ("registration", "voxelmorph", {"width": 4, "depth": 1}),
        ("detection", "retinanet", {"width": 4, "levels": 1}),
    ],
)
def test_a_round_on_masks_or_boxes_is_timed_too(
    tmp_path: Path, task: str, network: str, options: dict[str, int]
) -> None:
    for patient in range(4):
        for folder in ("images", "labels"):
            path = tmp_path / folder / f"P{patient}.nii.gz"
            path.parent.mkdir(exist_ok=True)
            values = np.indices((8, 8, 8)).sum(axis=0) % (2 + patient)
            nibabel.save(nibabel.Nifti1Image(values.astype(np.int16), np.eye(4)), path)
    (tmp_path / "site.toml").write_text(
        '[data]\npatient = "(P[0-9]+)"\nmodality = "MR"\n[privacy]\nmin_cell = 1\n[masks]\n'
        "files = 'labels/(.+)'\nimage = 'images/\\1'\nstructures = { one = 1 }\n[boxes]\nfile = 'found.csv'\n"
        "image = 'file'\nby = 'file'\nlabel = 'one'\ncentre = ['x', 'y', 'z']\ndiameter = 'mm'\n"
    )
    (tmp_path / "found.csv").write_text("file,x,y,z,mm\nimages/P0.nii.gz,-4,-4,4,3\n")
    study = tiny_study(
        study={"task": task},
        cohort={"modality": "MR", "labels": ["one"], "positive": None, "min_patients": 1},
        split={"shares": [1.0, 0.0, 0.0]},
        input={"size": [16, 16, 16]},
        model={"name": network, "options": options},
        evaluation={"primary": "loss"},
    )
    found = dry_run(Site.open(tmp_path), study)
    assert found.refusal == ""
    assert found.round_s is not None


def test_the_command(site_folder: Folder, study_file: Path) -> None:
    folder, runner = site_folder(LABELS), CliRunner()
    shown = runner.invoke(app, ["check", str(folder), str(study_file)])
    assert shown.exit_code == 0, shown.output
    assert "Can take part." in shown.stdout
    assert "needed by the cache" in shown.stdout
    (folder / "opt-out.txt").write_text("\n".join(list(LABELS)[:22]))
    refused = runner.invoke(app, ["check", str(folder), str(study_file), "--json"])
    assert refused.exit_code == 1
    assert "training patients" in json.loads(refused.stdout)["refusal"]
    assert "PID" not in refused.output


def test_images_that_two_patients_share_are_counted_for_the_steward(
    site_folder: Folder, write_dicom: Folder, study_file: Path
) -> None:
    folder, runner = site_folder(LABELS), CliRunner()
    for patient in ("PID-001", "PID-002", "PID-003"):
        again = read_volume(folder / "PID-000" / "image0.dcm").pixels[0, 0].astype(np.uint8)
        write_dicom(folder / patient / "again.dcm", patient_id=patient, array=again)
    found = runner.invoke(app, ["check", str(folder), str(study_file), "--json"])
    linked = json.loads(found.stdout)["linked"]
    linked.pop("of them on another side of the split for it", None)  # the site's key decides
    assert linked == {
        "patients who share an image, pixel by pixel": 4,
        "patients who share an image, or nearly": 4,
        "of them in a group with different labels": 4,
        "of them in the largest group": 4,
    }
    shown = runner.invoke(app, ["check", str(folder), str(study_file)])
    assert "near-duplicates" in shown.stdout
    assert "PID" not in found.output + shown.output
