"""Statistics and a measured scale on the embedded engine, with planted hospitals of real DICOM files."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fedward_client.site import Site
from fedward_client.survey import survey as of_site
from fedward_common.events import ignore
from fedward_common.landmarks import merged, standard_scale
from fedward_common.study import StudySpec, loads
from fedward_common.testing import images_of
from fedward_server.result import FILE, RunResult
from fedward_server.surveys import survey
from fedward_simulations.grid import EmbeddedGrid
from fedward_simulations.hospitals import PlantedHospital, plant
from fedward_simulations.sources import OpenSite

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
shares = [1.0, 0.0, 0.0]
[input]
size = [16, 16]
intensity = "landmarks"
[model]
name = "small-cnn"
[training]
rounds = 1
batch_size = 16
[strategy]
min_sites = 3
"""


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> list[PlantedHospital]:
    return plant(tmp_path_factory.mktemp("planted") / "hospitals", limit=24)


@pytest.fixture(scope="module")
def study() -> StudySpec:
    return loads(STUDY)


def test_hospitals_of_the_embedded_engine_say_what_they_have(planted: list[PlantedHospital], study: StudySpec) -> None:
    with EmbeddedGrid({each.name: OpenSite(each.folder) for each in planted}, workers=2) as grid:
        found = survey(grid, study, "run-1", "pixels", lambda _event: None)
    assert found.left_out == ()
    for hospital in planted:
        said = found.sites[hospital.name]
        own = of_site(Site.open(hospital.folder), study, "run-1", "pixels", ignore).statistics
        assert said == own.model_copy(update={"seconds": said.seconds})
        assert (said.patients, said.unusable) == (hospital.patients, None)  # one has no label
        assert said.tables["sex"]["F"] == said.patients
        assert not any(one in said.model_dump_json() for one in hospital.identifiers)
    labels = found.pooled.tables["label"]
    assert found.pooled.patients == sum(labels.cells.values()) + labels.not_told
    assert found.pooled.grey_values["50 %"][0] is not None


@pytest.mark.long
def test_a_simulation_measures_the_scale_that_its_study_leaves_open(
    planted: list[PlantedHospital], study: StudySpec, tmp_path: Path
) -> None:
    (tmp_path / "study.toml").write_text(STUDY)
    command = [str(Path(sys.executable).with_name("fedward")), "simulate", "study.toml", "--out", "out"]
    command += ["--data", str(planted[0].folder.parent)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stderr
    runs = {path.parent.name: RunResult.read(path.parent) for path in tmp_path.glob(f"out/seed-*/*/{FILE}")}
    sums = {}
    for each in planted:
        found = of_site(Site.open(each.folder), study, "by-hand", "scale", ignore).statistics.landmarks
        assert found is not None
        sums[each.name] = found
    assert runs["federated"].scale == standard_scale(merged(sums.values()))
    assert images_of(runs["pooled"].study).landmarks == runs["federated"].scale
    for name, own in sums.items():
        assert runs[f"local-{name}"].scale == standard_scale(own)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["site_effect"] is not None
    [note] = [note for note in results["data_notes"] if "landmarks = [" in note]
    numbers = note.partition("[")[2].partition("]")[0].split(", ")
    assert tuple(map(float, numbers)) == runs["federated"].scale
