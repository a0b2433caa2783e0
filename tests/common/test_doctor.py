"""`fedward doctor`: every check finds, and fails where it should."""

import json
import platform
import resource
import shutil
import sys
from collections import namedtuple
from importlib import metadata
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedward_common import doctor
from fedward_common.cli import app

Usage = namedtuple("Usage", "total used free")


def test_every_check_finds_something_and_names_differ(tmp_path: Path) -> None:
    findings = list(doctor.examine(tmp_path))
    assert len(findings) == len(doctor.CHECKS)
    assert len({finding.name for finding in findings}) == len(findings)
    assert all(finding.found for finding in findings)
    assert all(bool(finding.advice) == (finding.status != "ok") for finding in findings)


def test_the_command_gives_json_and_fails_where_a_check_does(monkeypatch: pytest.MonkeyPatch) -> None:
    fine = doctor.Finding(name="a", status="warn", found="b", advice="c")
    monkeypatch.setattr(doctor, "CHECKS", (lambda _folder: fine,))
    result = CliRunner().invoke(app, ["doctor", "--json"])
    assert result.exit_code == 0
    assert json.loads(result.stdout) == [{"name": "a", "status": "warn", "found": "b", "advice": "c"}]
    broken = doctor.Finding(name="a", status="fail", found="b", advice="c")
    monkeypatch.setattr(doctor, "CHECKS", (lambda _folder: broken,))
    assert CliRunner().invoke(app, ["doctor"]).exit_code == 1


def test_extras_hold_their_own_packages() -> None:
    names = {extra: {each.name.lower() for each in doctor.requirements(extra)} for extra in ("", "site", "sim")}
    assert {"flwr", "typer"} <= names[""]
    assert "torch" not in names[""]
    assert {"torch", "pydicom"} <= names["site"]
    assert {"torch", "pydicom", "ray"} <= names["sim"]  # an extra made of extras
    assert "fedward" not in names["sim"]


@pytest.mark.parametrize(("extra", "status"), [("", "fail"), ("site", "warn")])
def test_a_missing_or_old_package_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, extra: str, status: str
) -> None:
    wanted = ["here==1.*", "old>=2", "gone"]
    marker = f'; extra == "{extra}"' if extra else ""
    installed = {"here": "1.2", "old": "1.9"}

    def version(name: str) -> str:
        if name not in installed:
            raise metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(metadata, "requires", lambda _name: [f"{each}{marker}" for each in wanted])
    monkeypatch.setattr(metadata, "version", version)
    finding = doctor.packages(extra, tmp_path)
    assert finding.status == status
    assert finding.found == "gone missing, here 1.2, old 1.9"
    assert finding.advice.startswith("gone, old>=2 needed; ")
    assert f"pip install 'fedward{f'[{extra}]' if extra else ''}'" in finding.advice


@pytest.mark.parametrize(("free", "status"), [(50, "ok"), (1, "warn"), (0.1, "fail")])
def test_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free: float, status: str) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: Usage(2**40, 0, int(free * 2**30)))
    assert doctor.disk(tmp_path).status == status


def test_small_shared_memory_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: Usage(64 * 2**20, 0, 0))
    assert doctor.shared_memory(tmp_path).status == "warn"
    monkeypatch.undo()
    monkeypatch.setattr(doctor, "SHARED_MEMORY", tmp_path / "none")
    assert "missing" in doctor.shared_memory(tmp_path).found


def test_a_folder_that_cannot_be_written_to_fails(tmp_path: Path) -> None:
    assert doctor.writable(tmp_path).status == "ok"
    assert doctor.writable(tmp_path / "none").status == "fail"


@pytest.mark.parametrize(("value", "status"), [("0", "ok"), ("1", "warn"), (None, "warn")])
def test_telemetry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: str | None, status: str) -> None:
    if value is None:
        monkeypatch.delenv("FLWR_TELEMETRY_ENABLED", raising=False)
    else:
        monkeypatch.setenv("FLWR_TELEMETRY_ENABLED", value)
    assert doctor.telemetry(tmp_path).status == status


@pytest.mark.parametrize(
    ("limit", "status"), [(256, "warn"), (4096, "ok"), (resource.RLIM_INFINITY, "ok")], ids=["low", "high", "none"]
)
def test_open_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, limit: int, status: str) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _what: (limit, limit))
    assert doctor.open_files(tmp_path).status == status


def test_an_unsupported_python_or_platform_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert doctor.python_version(tmp_path).status == "ok"
    assert doctor.operating_system(tmp_path).status == "ok"
    monkeypatch.setattr(platform, "python_version", lambda: "3.9.1")
    monkeypatch.setattr(sys, "platform", "win32")
    assert doctor.python_version(tmp_path).status == "fail"
    assert doctor.operating_system(tmp_path).status == "fail"


def test_missing_gdcm_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert doctor.dicom_decoders(tmp_path).status == "ok"
    monkeypatch.setitem(sys.modules, "gdcm", None)
    assert doctor.dicom_decoders(tmp_path).status == "warn"
