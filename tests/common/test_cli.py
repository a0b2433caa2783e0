"""The `fedward` command as people and scripts call it."""

import json
import os
import signal
import subprocess
import sys
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fedward_common import __version__, cli, cli_parts
from fedward_common.errors import DataError, UsageError
from fedward_common.study import load, template_names, template_path

FEDWARD = [sys.executable, "-c", "from fedward_common.cli import main; main()"]


def run(*args: str) -> Any:
    return CliRunner().invoke(cli.app, list(args), env={"COLUMNS": "200", "TERMINAL_WIDTH": "200"}, prog_name="fedward")


HELPS = [
    [],
    ["study"],
    ["study", "templates"],
    ["study", "new"],
    ["study", "show"],
    ["study", "check"],
    ["model"],
    ["model", "list"],
    ["doctor"],
]


@pytest.mark.parametrize("command", HELPS, ids=" ".join)
def test_every_help_shows_an_example_that_works(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run(*command, "--help")
    assert result.exit_code == 0
    example = result.stdout.partition("Example: fedward ")[2].split("\n")[0].strip()
    monkeypatch.chdir(tmp_path)
    Path("my-study.toml").write_text(template_path("image-classification").read_text())
    assert example
    assert run(*example.split()).exit_code == 0


def test_version() -> None:
    assert run("--version").stdout == f"fedward {__version__}\n"


def test_templates_are_listed() -> None:
    rows = json.loads(run("study", "templates", "--json").stdout)
    assert [row["name"] for row in rows] == list(template_names())
    assert "breast-ultrasound" in run("study", "templates").stdout


def test_show_says_in_words_what_will_happen() -> None:
    shown = " ".join(run("study", "show", "breast-ultrasound").stdout.split())
    spec = load(template_path("breast-ultrasound"))
    for words in (
        "Patients with US images and one of the labels benign or malignant.",
        "about 60 % training, 20 % validation and 20 % test",
        "Resized to 128 x 128",
        "enhanced-alexnet",
        "20 rounds, each of one pass",
        "The run stops when fewer than 3 hospitals answer in a round.",
        "area under the ROC curve",
        spec.digest,
    ):
        assert words in shown
    assert "colour values from percentile 1" in " ".join(run("study", "show", "breast-pathology").stdout.split())
    found = json.loads(run("study", "show", "breast-ultrasound", "--json").stdout)
    assert found == {"digest": spec.digest, "study": spec.model_dump(mode="json")}


def test_a_template_can_be_copied(tmp_path: Path) -> None:
    copy = tmp_path / "copy.toml"
    copy.write_text(run("study", "show", "image-classification", "--toml").stdout)
    assert load(copy) == load(template_path("image-classification"))
    assert "# CHANGE" in copy.read_text()


def test_check_says_ok_or_everything_that_is_wrong(tmp_path: Path) -> None:
    good = template_path("breast-ultrasound")
    assert run("study", "check", str(good)).stdout == f"OK: breast-ultrasound, digest {load(good).digest}\n"
    bad = tmp_path / "bad.toml"
    bad.write_text(good.read_text().replace("rounds = 20", "round = 20").replace('kind = "hash"', 'kind = "hsh"'))
    result = run("study", "check", str(bad))
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith(f"fedward: {bad}, line ")
    assert "did you mean hash?" in result.stderr
    assert "did you mean rounds?" in result.stderr
    as_json = run("study", "check", str(bad), "--json")
    assert as_json.exit_code == 1
    assert len(json.loads(as_json.stdout)["faults"]) == 2


def test_check_notes_a_study_that_is_over(tmp_path: Path) -> None:
    path = tmp_path / "old.toml"
    path.write_text(
        template_path("image-classification").read_text().replace("[cohort]", "ends = 2001-01-01\n[cohort]")
    )
    result = run("study", "check", str(path))
    assert result.exit_code == 0
    assert "last day was 2001-01-01" in result.stderr


def test_wrong_use_exits_2() -> None:
    assert run("study", "show", "no-such-study").exit_code == 2
    assert run("study", "show").exit_code == 2
    assert run("nonsense").exit_code == 2


def test_models_are_listed() -> None:
    rows = json.loads(run("model", "list", "--json").stdout)
    assert {"small-cnn", "enhanced-alexnet"} <= {row["name"] for row in rows}
    assert "enhanced-alexnet" in run("model", "list").stdout


def plug_in(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, source: str, value: str) -> None:
    """Install a command as another package would: a module on the path and an entry point."""
    (folder / f"plugged_{folder.name.replace('-', '_')}.py").write_text(source)
    monkeypatch.syspath_prepend(str(folder))
    entry = EntryPoint(name, f"plugged_{folder.name.replace('-', '_')}:{value}", "fedward.commands")
    monkeypatch.setattr(cli_parts, "entry_points", lambda group: EntryPoints([entry]).select(group=group))


def test_a_group_is_found_by_its_entry_point(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = "import typer\napp = typer.Typer()\n@app.command()\ndef scan(folder: str):\n    print('scanned', folder)\n"
    plug_in(monkeypatch, tmp_path, "site", source, "app")
    assert run("site", "scan", "here").stdout == "scanned here\n"  # a group stays one with a single command
    assert run("site", "scan").exit_code == 2


def test_a_function_is_a_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plug_in(monkeypatch, tmp_path, "demo", "def demo(out: str = 'x'):\n    print('demo', out)\n", "demo")
    assert run("demo", "--out", "y").stdout == "demo y\n"
    assert "--out" in run("demo", "--help").stdout


@pytest.mark.parametrize(
    "source",
    ["import no_such_library\ndemo = None\n", "def demo():\n    import no_such_library\n"],
    ids=["load", "call"],
)
def test_a_part_without_its_packages_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str
) -> None:
    plug_in(monkeypatch, tmp_path, "demo", source, "demo")
    assert "demo" in run("--help").stdout
    result = run("demo")
    assert result.exit_code == 1
    assert (
        result.stderr == "fedward: `demo` needs no_such_library, which is not installed; pip install 'fedward[sim]'\n"
    )


@pytest.mark.parametrize(
    "source", ["import fedward_none.thing\n", "from json import no_such_name\n"], ids=["ours", "other ImportError"]
)
def test_a_fault_of_ours_surfaces(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str) -> None:
    plug_in(monkeypatch, tmp_path, "demo", source, "demo")
    assert isinstance(run("demo").exception, ImportError)


@pytest.mark.parametrize(("error", "code"), [(DataError, 1), (UsageError, 2)])
def test_an_error_of_ours_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: type[Exception], code: int
) -> None:
    source = f"from fedward_common.errors import *\ndef demo():\n    raise {error.__name__}('too few patients')\n"
    plug_in(monkeypatch, tmp_path, "demo", source, "demo")
    result = run("demo")
    assert (result.exit_code, result.stdout, result.stderr) == (code, "", "fedward: too few patients\n")


def test_help_starts_without_heavy_libraries() -> None:
    code = (
        "import sys\nfrom fedward_common.cli import main\nsys.argv = ['fedward', '--help']\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "heavy = {'torch', 'monai', 'flwr', 'pandas', 'pydicom', 'SimpleITK', 'sklearn', 'ray', 'numpy'}\n"
        "heavy &= set(sys.modules)\n"
        "print('HEAVY', sorted(heavy))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert "HEAVY []" in result.stdout
    for command in ("study", "model", "doctor", "site", "demo", "simulate"):
        assert command in result.stdout


def test_the_real_command_keeps_machine_output_on_stdout() -> None:
    result = subprocess.run(
        [*FEDWARD, "study", "check", "breast-ultrasound", "--json"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert json.loads(result.stdout)["ok"] is True
    assert result.stderr == ""


def test_an_interrupt_ends_quietly_with_130(tmp_path: Path) -> None:
    (tmp_path / "slow_part.py").write_text(
        "import time\ndef demo():\n    print('started', flush=True)\n    time.sleep(60)\n"
    )
    metadata = tmp_path / "slow_part-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: slow-part\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text("[fedward.commands]\nslow = slow_part:demo\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    with subprocess.Popen(
        [*FEDWARD, "slow"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == ""
