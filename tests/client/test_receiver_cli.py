"""`fedward site receive`: what is asked for on the command line, and what is wrong with it."""

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from fedward_client.cli import app
from fedward_client.intake.labels import patient_ids
from fedward_client.site import Site
from fedward_common.errors import DataError, FedwardError, SettingsError, UsageError
from fedward_common.study import template_path


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["receive", *map(str, arguments)], env={"COLUMNS": "120"})


def failure(kind: type[FedwardError], *arguments: str | Path) -> str:
    result = run(*arguments)
    assert isinstance(result.exception, kind), (result.output, result.exception)
    return str(result.exception)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "north"
    path.mkdir()
    return path


def test_a_site_without_an_archive_is_told_what_to_set(folder: Path) -> None:
    for options in ((), ("--dry-run",)):
        assert "names no archive" in failure(SettingsError, folder, *options)
    assert "listen_host is missing" in failure(SettingsError, folder, "--listen")


@pytest.mark.parametrize("options", [("--modality", "US"), ("--dry-run",), ("--from", "2020-01-01"), ("--labelled",)])
def test_a_listener_takes_what_comes(folder: Path, options: tuple[str, ...]) -> None:
    (folder / "labels.csv").write_text("patient_id,label\nA,benign\n")
    assert "leave the other options out" in failure(UsageError, folder, "--listen", *options)


def test_a_day_that_is_none(folder: Path) -> None:
    assert run(folder, "--from", "2020-13-01").exit_code == 2
    assert run(folder, "--to", "yesterday").exit_code == 2


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        (b"ID77777\n" + b"x" * 65, "line 2"),
        (b"ID77777\\8", "line 1"),
        (b"ID77777\t8", "line 1"),
        (b"\xff77777", "UTF-8"),
    ],
)
def test_a_file_of_patients_that_is_none(folder: Path, tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "77777.txt").write_bytes(content)
    message = failure(UsageError, folder, "--patients", tmp_path / "77777.txt")
    assert words in message
    assert "77777" not in message


def test_patients_are_named_once(folder: Path, tmp_path: Path) -> None:
    assert "cannot be read" in failure(UsageError, folder, "--patients", tmp_path / "nowhere")
    (folder / "labels.csv").write_text("patient_id,label\nA,benign\n")
    assert "leave one out" in failure(UsageError, folder, "--labelled", "--patients", folder / "labels.csv")


def test_the_modality_of_a_study(folder: Path, tmp_path: Path) -> None:
    study = template_path("breast-ultrasound")
    assert "differ" in failure(UsageError, folder, "--study-file", study, "--modality", "MR")
    assert "names no archive" in failure(SettingsError, folder, "--study-file", study, "--modality", "US")


def test_the_patients_of_the_label_table(site_folder: Callable[..., Path]) -> None:
    folder = site_folder({"007": "benign", "8": "malignant"}, images=1)
    with (folder / "labels.csv").open("a") as file:
        file.write("007,benign\n,benign\n9,\n")
    assert patient_ids(Site.open(folder)) == ("007", "8", "9")
    (folder / "opt-out.txt").write_text("8\n")
    assert patient_ids(Site.open(folder)) == ("007", "9")
    (folder / "labels.csv").unlink()
    with pytest.raises(DataError, match="no label table"):
        patient_ids(Site.open(folder))
