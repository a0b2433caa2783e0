"""`fedward site scan` and `fedward site report`, as a data steward runs them."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

from fedward_client.cli import app
from fedward_common.errors import DataError, FedwardError, SettingsError, UsageError

PIXELS = np.arange(48, dtype=np.uint8).reshape(6, 8)


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "120"})


def failure(result: Result, kind: type[FedwardError]) -> str:
    assert isinstance(result.exception, kind), result.output
    return str(result.exception)


@pytest.fixture
def folder(site_folder: Callable[..., Path], write_dicom: Callable[..., Path]) -> Path:
    path = site_folder({"A": "benign", "B": "malignant"})
    write_dicom(path / "Zelenkova" / "cut\n[red].dcm", patient_id="Z", array=PIXELS, Rows=900)
    return path


def test_scan_then_report_say_the_same(folder: Path) -> None:
    scanned, reported = run("scan", folder), run("report", folder)
    assert scanned.exit_code == reported.exit_code == 0
    table, _, read = scanned.stdout.rpartition("└")
    assert reported.stdout.startswith(table)
    assert "Read 5 files" in read
    assert "Written: " in reported.stdout
    lines = [" ".join(line.replace("│", " ").split()) for line in reported.stdout.splitlines()]
    for line in ("files 5", "images 4", "patients 2", "labels benign 1", "modalities US 4", "sizes 24 x 32 4"):
        assert line in lines, reported.stdout
    assert "quarantine the pixel data ends early 1" in lines
    assert "Zelenkova" not in scanned.output


def test_json_is_alone_on_stdout(folder: Path) -> None:
    scanned, reported = run("scan", folder, "--json"), run("report", folder, "--json")
    report = json.loads(scanned.stdout)
    assert report["site"] == "north"
    assert (report["read"], report["unchanged"], report["removed"]) == (5, 0, 0)
    assert report["counts"] == json.loads(reported.stdout)["counts"]
    assert report["counts"]["labels"] == {"benign": 1, "malignant": 1}
    assert "Zelenkova" not in scanned.output + reported.output


def test_paths_only_where_they_are_asked_for(folder: Path) -> None:
    run("scan", folder)
    shown = run("report", folder, "--show-paths")
    assert "Zelenkova/cut\\n[red].dcm" in shown.stdout
    (folder / "Zelenkova" / "cut\n[red].dcm").unlink()
    assert "(gone since the scan)" in run("report", folder, "--show-paths").stdout
    assert "--json" in failure(run("report", folder, "--show-paths", "--json"), UsageError)


def test_the_state_folder_can_be_elsewhere(folder: Path, tmp_path: Path) -> None:
    shutil.rmtree(folder / ".fedward")
    assert run("scan", folder, "--state", tmp_path / "state").exit_code == 0
    assert (tmp_path / "state" / "catalog.sqlite").exists()
    assert not (folder / ".fedward").exists()
    assert run("report", folder, "--state", tmp_path / "state").exit_code == 0


def test_many_kinds_are_summed_up(tmp_path: Path, write_dicom: Callable[..., Path]) -> None:
    for number in range(1, 16):
        write_dicom(tmp_path / f"{number}.dcm", patient_id="A", array=PIXELS[:, :1].repeat(number, axis=1))
    out = run("scan", tmp_path).stdout
    assert "3 other kinds" in out
    assert len(json.loads(run("report", tmp_path, "--json").stdout)["counts"]["sizes"]) == 15


def test_folders_that_do_not_serve(tmp_path: Path, folder: Path) -> None:
    assert "does not exist" in failure(run("scan", tmp_path / "nowhere"), SettingsError)
    assert "no catalog yet" in failure(run("report", folder), DataError)
    (tmp_path / "empty").mkdir()
    assert "holds no files" in failure(run("scan", tmp_path / "empty"), DataError)


def test_links_that_were_passed_by_are_told(folder: Path, tmp_path: Path) -> None:
    assert "links were passed by" not in run("scan", folder).stdout
    for name in ("a.dcm", "b.dcm"):
        (tmp_path / name).symlink_to(folder)
    assert "2 links were passed by: put the files themselves into the folder" in run("scan", tmp_path).stdout


def test_the_command_starts_without_heavy_libraries() -> None:
    heavy = ("torch", "monai", "pydicom", "sqlalchemy")
    check = f"import sys, fedward_client.cli; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
