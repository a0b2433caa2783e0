"""`fedward study new`: what a person answers becomes a study or is refused, and nothing else is left behind."""

import io
import os
import pty
import signal
import subprocess
import sys
from contextlib import chdir, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from fedward_common import cli
from fedward_common.study import load, template_names, template_path

NEW = ["study", "new"]


class Terminal(io.BytesIO):
    """Lines that a person types."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def new(*options: str, typed: str | None = None) -> Any:
    keyboard = io.BytesIO() if typed is None else Terminal(typed.encode())
    return CliRunner().invoke(cli.app, [*NEW, *options], input=keyboard, env={"COLUMNS": "200"}, prog_name="fedward")


def answered(*lines: str) -> Any:
    return new(typed="".join(f"{line}\n" for line in lines))


@pytest.mark.parametrize("template", template_names())
def test_enter_all_the_way_gives_the_template(template: str) -> None:
    result = answered(template, *[""] * 8)
    assert result.exit_code == 0, result.output
    assert load(f"{template}.toml") == load(template_path(template))


def test_answers_become_a_study_that_keeps_the_templates_comments() -> None:
    result = answered("breast-ultrasound", "lung", "Lungs", "a, b, c", "b", "CT", "4", "7")
    assert result.exit_code == 0, result.output
    spec, given = load("lung.toml"), load(template_path("breast-ultrasound"))
    assert (spec.study.id, spec.study.title, spec.study.purpose) == ("lung", "Lungs", "")
    assert (spec.cohort.labels, spec.cohort.positive, spec.cohort.modality) == (("a", "b", "c"), "b", "CT")
    assert (spec.strategy.min_sites, spec.training.rounds) == (4, 7)
    assert spec.model == given.model
    assert "# by a keyed number" in Path("lung.toml").read_text()
    assert "lung.toml is written." in result.stdout
    assert "Patients with CT images and one of the labels a, b or c. Looked for: b." in result.stdout
    assert "fedward simulate lung.toml --data hospitals" in result.stdout


def test_a_wrong_answer_is_refused_in_the_words_of_check_and_asked_for_anew() -> None:
    Path("taken.toml").write_text("mine")
    wrong = (
        "no-such",
        "breast-ultrasound",
        "My Study",
        "taken",
        "s",
        "",
        " ",
        "a",
        "a,a",
        "a,b",
        "",
        "c",
        "b",
        "us",
        "",
    )
    result = answered(*wrong, "0", "3", "many", "5")
    assert result.exit_code == 0, result.output
    for words in (
        "no template is called 'no-such'",
        '[study] id = "My Study": must be 1 to 63 lower-case letters',
        "taken.toml is here already: give the study another short name, or say --overwrite",
        "[cohort] labels = []: must be the words for what a patient may have, two or more",
        '[cohort] labels = ["a"]: must be the words for what a patient may have, two or more',
        'holds "a" 2 times; name each label once',
        '[cohort] positive = "c": must be one of the labels: a, b',
        'must be a DICOM modality in capitals such as "US"',
        "[strategy] min_sites = 0: must be a whole number at least 1",
        '[training] rounds = "many": must be a whole number at least 1',
    ):
        assert words in result.output
    assert load("s.toml").cohort.positive == "b"
    assert Path("taken.toml").read_text() == "mine"


def test_a_registration_may_have_no_structures_and_a_label_may_hold_a_comma() -> None:
    result = answered("brain-registration", "r", "", "none", "", "", "")
    assert result.exit_code == 0, result.output
    assert (load("r.toml").cohort.labels, load("r.toml").evaluation.primary) == ((), "loss")
    result = answered("image-classification", "c", "", '"ill, or not", each, any', "each", "any", "", "")
    assert result.exit_code == 0, result.output
    cohort = load("c.toml").cohort
    assert (cohort.labels, cohort.positive, cohort.modality) == (("ill, or not", "each", "any"), "each", None)


def test_options_ask_nothing() -> None:
    options = ["--template", "alzheimer-mri", "--id", "s", "--title", 'A "quote"', "--label", "ill, or not", "--label"]
    result = new(*options, "é 🧠", "--positive", "é 🧠", "--modality", "any", "--min-sites", "5", "--rounds", "1")
    assert result.exit_code == 0, result.output
    spec = load("s.toml")
    assert (spec.study.title, spec.cohort.labels, spec.cohort.positive) == (
        'A "quote"',
        ("ill, or not", "é 🧠"),
        "é 🧠",
    )
    assert (spec.cohort.modality, spec.strategy.min_sites, spec.training.rounds) == (None, 5, 1)


def test_labels_without_the_templates_positive_one() -> None:
    labels = ["--label", "a", "--label", "b"]
    two = new("--template", "breast-ultrasound", *labels)
    assert two.exit_code == 1
    assert "with two labels, say which of them is looked for: a or b" in two.stderr
    assert new("--template", "breast-ultrasound", *labels, "--label", "c").exit_code == 0
    assert load("breast-ultrasound.toml").cohort.positive is None


def test_a_file_is_replaced_only_when_told_to() -> None:
    assert new("--template", "heart-disease").exit_code == 0
    again = new("--template", "heart-disease", "--rounds", "3")
    assert (again.exit_code, load("heart-disease.toml").training.rounds) == (2, 15)
    assert "heart-disease.toml is here already" in again.stderr
    assert new("--template", "heart-disease", "--rounds", "3", "--overwrite").exit_code == 0
    assert load("heart-disease.toml").training.rounds == 3


@pytest.mark.parametrize("options", [[], ["--id", "s"]])
def test_without_a_terminal_or_with_options_a_template_must_be_named(options: list[str]) -> None:
    result = new(*options)
    assert result.exit_code == 2
    assert "say with --template which study to begin with; templates: alzheimer-mri" in result.stderr


def test_a_folder_that_takes_no_files_is_told() -> None:
    Path("s.toml").mkdir()
    result = new("--template", "heart-disease", "--id", "s", "--overwrite")
    assert (result.exit_code, "s.toml cannot be written" in result.stderr) == (2, True)


def test_ctrl_c_at_a_real_terminal_leaves_nothing_behind(tmp_path: Path) -> None:
    """Pressed again where nothing happens: CPython's readline loses one that comes just before it waits for a key."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "fedward_common", *NEW]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True) as process:
        os.close(theirs)
        shown = b""
        os.write(ours, b"breast-ultrasound\nmine\n")
        while b"above the results" not in shown:
            shown += os.read(ours, 4096)
        for _ in range(12):
            process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(5)
                break
        else:
            process.kill()
    os.close(ours)
    assert process.returncode == 1
    assert b"Traceback" not in shown
    assert list(tmp_path.iterdir()) == []


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "fedward_common",
        *NEW,
        "--template",
        "heart-disease",
        "--title",
        os.fsdecode(b"x\xff"),
    ]
    done = subprocess.run(command, capture_output=True, check=False)
    assert (done.returncode, b"Traceback" in done.stderr, list(tmp_path.iterdir())) == (1, False, [])


LINE = st.one_of(
    st.sampled_from(["", "a", "a,b", "a,b,c", "each", "any", "US", "3", "s-1", "0", "-1", '"', "\\", "\x7f"]),
    st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=20),
)


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(template_names()), st.lists(LINE, max_size=20))
def test_any_answers_give_a_study_or_nothing(template: str, lines: list[str]) -> None:
    with TemporaryDirectory(dir=".") as folder, chdir(folder):
        judge(answered(template, *lines))


@settings(max_examples=15, deadline=None)
@given(
    st.sampled_from(template_names()),
    st.fixed_dictionaries({}, optional={f"--{name}": LINE for name in ("id", "title", "positive", "modality")}),
    st.lists(LINE, max_size=3),
    st.integers(),
)
def test_any_options_give_a_study_or_a_refusal(
    template: str, options: dict[str, str], labels: list[str], rounds: int
) -> None:
    given = [*options.items(), *(("--label", label) for label in labels), ("--rounds", str(rounds))]
    with TemporaryDirectory(dir=".") as folder, chdir(folder):
        judge(new("--template", template, *(f"{option}={value}" for option, value in given)))


def judge(result: Any) -> None:
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    written = list(Path().iterdir())
    assert len(written) == (result.exit_code == 0), result.output
    for path in written:
        load(path)
