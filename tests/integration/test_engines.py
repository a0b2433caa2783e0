"""Every kind of study on all three engines: one file, the same hospitals, the same bits."""

import math
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest

from fedward_client.catalog import scan
from fedward_client.site import Site
from fedward_common.events import ignore
from fedward_common.study import load, template_path
from fedward_server.result import RunResult
from fedward_server.rounds import RoundEngine
from fedward_simulations.compare import federated_job
from fedward_simulations.federation import Federation, federation
from fedward_simulations.grid import EmbeddedGrid
from fedward_simulations.grid_view import GridView
from fedward_simulations.sources import OpenSite
from fedward_simulations.studies import hippocampus as decathlon
from fedward_simulations.studies import hospital_folder
from fedward_simulations.studies.invented import NODULES
from fedward_simulations.synthetic import chest, compounds, freezing, hippocampus, regulatory, survival

SEED = 42  # the templates'
ONE_THREAD = "[limits]\nthreads = 1\n"
COLUMNS = '[table]\nmap = "columns.toml"\n'

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A template, cut small, and what a hospital has: its settings, and its patients by its place among the two."""

    template: str
    settings: str = ""
    write: Callable[[Path, int], object]
    cut: Mapping[str, str] = field(default_factory=dict)


def _brains(folder: Path, place: int) -> None:
    for number in range(6):
        hippocampus.write(folder, number, largest=(3000.0, 255.0)[place])


def _recordings(folder: Path, place: int) -> None:
    for number in range(1, 4):
        freezing.write(folder, folder.name, number, 1.0, seconds=40)


_COARSE = {"size": "[20, 28, 20]", "spacing": "[2.0, 2.0, 2.0]", "min_patients": "2"}
KINDS = {
    "segmentation": Kind(
        template="hippocampus-segmentation", settings=decathlon.SETTINGS, write=_brains, cut=_COARSE | {"rounds": "2"}
    ),
    "registration": Kind(
        template="brain-registration", settings=decathlon.SETTINGS, write=_brains, cut=_COARSE | {"rounds": "2"}
    ),
    "detection": Kind(
        template="lung-nodule",
        settings=NODULES,
        write=lambda folder, place: chest.write(folder, list(chest.SCANNERS.values())[place], 6),
        cut={"size": "[16, 32, 32]", "spacing": "[3.0, 6.0, 6.0]", "min_patients": "2", "rounds": "2"},
    ),
    "survival": Kind(
        template="survival",
        settings='[table]\nmap = "tcga-brca"\n',
        write=lambda folder, _place: survival.write(folder, folder.name, 60, 1.0),
        cut={"rounds": "2"},
    ),
    "sequences": Kind(
        template="variant-effect",
        settings=COLUMNS,
        write=lambda folder, _place: regulatory.write(folder, folder.name, 60, 0.9),
        cut={"rounds": "2"},
    ),
    "compounds-in-phases": Kind(
        template="compound-activity",
        settings=COLUMNS,
        write=lambda folder, _place: compounds.write(folder, folder.name, 60, 1.0),
        cut={"rounds": "2"},
    ),
    "recordings-by-folds": Kind(
        template="freezing-of-gait",
        write=_recordings,
        cut={"folds": "3", "min_patients": "1", "rounds": "2", "local_steps": "8"},
    ),
}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For each kind a folder with its study.toml and its two hospitals."""
    root = tmp_path_factory.mktemp("engines")
    for name, kind in KINDS.items():
        text = template_path(kind.template).read_text("utf-8")
        for key, value in kind.cut.items():
            text, found = re.subn(rf"(?m)^{key} = [^#\n]*", f"{key} = {value}  ", text)
            assert found, key
        for place in range(2):
            folder = hospital_folder(root / name / "hospitals", f"{name}-{place}", kind.settings + ONE_THREAD)
            kind.write(folder, place)
            text += f'\n[[sites]]\nname = "{folder.name}"\n'
        (root / name / "study.toml").write_text(text)
    return root


@pytest.fixture(scope="module")
def folders(work: Path) -> dict[str, Path]:
    """All hospitals of all kinds."""
    return {folder.name: folder for folder in work.glob("*/hospitals/*")}


@pytest.fixture(scope="module")
def embedded(work: Path, folders: dict[str, Path]) -> Iterator[Callable[[str], RunResult]]:
    """`embedded(kind)`: its run on the embedded engine, done once."""
    for folder in folders.values():
        scan(Site.open(folder), ignore)
    with EmbeddedGrid({name: OpenSite(folder) for name, folder in folders.items()}, workers=2) as grid:

        @cache
        def run(kind: str) -> RunResult:
            study = load(work / kind / "study.toml")
            job = federated_job(study, [site.name for site in study.sites], work / kind / "embedded", seed=SEED)
            return RoundEngine(
                grid=GridView(grid, job.hospitals),
                study=job.study,
                run=kind,
                engine="embedded",
                folder=job.folder,
                deadline_s=math.inf,
                listener=lambda _event: None,
                on_round=lambda _row: None,
            )()

        yield run


@pytest.fixture(scope="module")
def running(work: Path, folders: dict[str, Path]) -> Iterator[Federation]:
    """All of them at one hub."""
    with federation(work / "hub", folders, logs=work / "logs") as found:
        assert found.isolated, "this machine cannot isolate processes: CI must"
        yield found


def assert_same(found: RunResult, expected: RunResult) -> None:
    """The same model, from rounds in which both hospitals took part, with the same figures."""
    assert found.model_sha256 == expected.model_sha256
    for one, other in zip(found.history, expected.history, strict=True):
        assert (one.train_loss, one.validation_loss, one.refused) == (other.train_loss, other.validation_loss, {})
        assert len(one.sites) == 2
    assert [site.test for site in found.sites.values()] == [site.test for site in expected.sites.values()]


@pytest.mark.parametrize("kind", KINDS)
def test_a_deployment_gives_the_bits_of_the_embedded_engine(
    embedded: Callable[[str], RunResult], running: Federation, work: Path, kind: str
) -> None:
    found = running.run(load(work / kind / "study.toml"), lambda _event: None)
    assert found.engine == "deployment"
    assert_same(found, embedded(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_ray_gives_the_bits_of_the_embedded_engine(embedded: Callable[[str], RunResult], work: Path, kind: str) -> None:
    command = [str(Path(sys.executable).with_name("fedward")), "simulate", "study.toml", "--data", "hospitals"]
    command += ["--out", "ray", "--engine", "ray", "--no-pooled"]
    done = subprocess.run(command, cwd=work / kind, capture_output=True, text=True, check=False, timeout=800)
    assert done.returncode == 0, done.stderr
    found = RunResult.read(work / kind / "ray" / f"seed-{SEED}" / "federated")
    assert found.engine == "ray"
    assert_same(found, embedded(kind))
