"""What README and docs say is so: their commands exist, their links resolve, their tables are those of the code."""

import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click
import pytest
import typer
from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from rich.text import Text
from typer.testing import CliRunner

import fedward_client.intake
from fedward_client.site import Site
from fedward_common import cli
from fedward_common.errors import SettingsError
from fedward_common.study import Optimizer, Phase, Section, SiteEntry, Start, StudySpec
from fedward_common.study_inputs import INPUTS
from fedward_common.study_strategy import OPTIONS as STRATEGY_OPTIONS

ROOT = Path(__file__).parents[1]
README, README_ZH = ROOT / "README.md", ROOT / "README.zh-CN.md"
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)

page_of = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def blocks(page: Path, language: str) -> list[str]:
    """The fenced code blocks of a page that are in a language."""
    return [text for found, text in FENCE.findall(page.read_text("utf-8")) if found == language]


def code(page: Path) -> Iterator[str]:
    """Every line of code on a page: fenced, indented or in a sentence."""
    text = page.read_text("utf-8")
    for _, block in FENCE.findall(text):
        yield from (line.strip() for line in block.splitlines())
    prose = FENCE.sub("", text)
    yield from (line.strip() for line in prose.splitlines() if line.startswith("    "))
    yield from re.findall(r"`([^`\n]+)`", prose)


def calls(page: Path, program: str) -> list[list[str]]:
    """The command lines of a program on a page, each as its words, up to a pipe or a redirection."""
    lines = [line for line in code(page) if line.startswith(f"{program} ")]
    words = [shlex.split(re.split(r"[|>]", line)[0], comments=True)[1:] for line in lines]
    return [line for line in words if line]


# Commands ------------------------------------------------------------------------------------------------------------


def tree() -> dict[tuple[str, ...], click.Command]:
    """Every command by its words, those of other parts included."""
    found: dict[tuple[str, ...], click.Command] = dict(walk((), typer.main.get_command(cli.app)))
    parts = (("fedward.commands", ()), ("fedward.commands.study", ("study",)), ("fedward.commands.model", ("model",)))
    for group, above in parts:
        for entry in entry_points(group=group):
            part = entry.load()
            if not isinstance(part, typer.Typer):
                alone = typer.Typer(add_completion=False)
                alone.command(entry.name)(part)
                part = alone
            found.update(walk((*above, entry.name), typer.main.get_command(part)))
    return found


def walk(words: tuple[str, ...], command: click.Command) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield words, command
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            yield from walk((*words, name), child)


TREE = tree()


def check_call(words: list[str]) -> None:
    """Fail unless there is such a command and it takes these options."""
    command = max((known for known in TREE if tuple(words[: len(known)]) == known), key=len)
    rest = words[len(command) :]
    assert not isinstance(TREE[command], click.Group) or not rest or rest[0].startswith("-"), f"no command {words}"
    known = {"--help"} | {option for each in TREE[command].params for option in (*each.opts, *each.secondary_opts)}
    unknown = {word for word in rest if word.startswith("-")} - known
    assert not unknown, f"fedward {' '.join(command)} takes no {unknown}"


def test_the_tree_has_the_commands_of_every_part() -> None:
    assert {("demo",), ("simulate",), ("site", "scan"), ("study", "show"), ("doctor",)} <= TREE.keys()
    assert {("hub", "up"), ("study", "start"), ("model", "add")} <= TREE.keys()


def test_no_help_loses_words_in_brackets() -> None:
    for words, command in TREE.items():
        options = [each.help for each in command.params if isinstance(each, click.Option)]
        for text in filter(None, (command.help, *options)):
            assert Text.from_markup(text).plain == text.replace("\\[", "["), words


@page_of
def test_commands_exist(page: Path) -> None:
    for words in calls(page, "fedward"):
        check_call(words)


@page_of
def test_options_in_sentences_exist(page: Path) -> None:
    known = {"--help"} | {option for command in TREE.values() for each in command.params for option in each.opts}
    known |= {option for command in TREE.values() for each in command.params for option in each.secondary_opts}
    assert {line.split()[0] for line in code(page) if line.startswith("--")} <= known


@page_of
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert {words[0] for words in calls(page, "make")} <= targets


@pytest.mark.parametrize("command", TREE, ids=lambda words: " ".join(("fedward", *words)))
def test_every_help_shows_an_example(command: tuple[str, ...]) -> None:
    result = CliRunner().invoke(cli.app, [*command, "--help"], env={"COLUMNS": "200", "TERMINAL_WIDTH": "200"})
    assert result.exit_code == 0
    example = result.stdout.partition("Example: fedward ")[2].split("\n")[0].strip(" │")
    assert example
    check_call(example.split())
    own = [TREE[command].help or "", *(getattr(each, "help", None) or "" for each in TREE[command].params)]
    sections = set(re.findall(r"\[[a-z_]+\]", " ".join(own)))
    assert {each for each in sections if each not in result.stdout} == set()  # they are not taken for markup
    assert "From fedward_" not in result.stdout  # every command is told in words


def test_set_up_is_two_commands() -> None:
    assert blocks(README, "sh")[0].split("\n") == ["make demo", "make test", ""]


# Links, pictures, translation ----------------------------------------------------------------------------------------


def links(page: Path) -> list[str]:
    prose = FENCE.sub("", page.read_text("utf-8"))
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", prose) if "://" not in link]


@page_of
def test_relative_links_resolve(page: Path) -> None:
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_relative_to(ROOT), link
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def anchors(page: Path) -> set[str]:
    """The headings of a page as links name them."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, waiting = {README}, [README]
    while waiting:
        page = waiting.pop()
        paths = {link.partition("#")[0] for link in links(page)}
        found = {(page.parent / path).resolve() for path in paths if path.endswith(".md")} - reached
        reached |= found
        waiting += found
    assert set(PAGES) <= reached


def test_picture_of_the_result_is_a_small_png() -> None:
    picture = (ROOT / "docs/images/report.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) < 300_000


def test_the_chinese_readme_says_the_same() -> None:
    english, chinese = README.read_text("utf-8"), README_ZH.read_text("utf-8")
    assert levels(chinese) == levels(english)
    assert bare(README_ZH) == bare(README)
    assert set(links(README_ZH)) - {"README.md"} == set(links(README)) - {"README.zh-CN.md"}
    assert [calls(README_ZH, program) for program in ("fedward", "make")] == [
        calls(README, program) for program in ("fedward", "make")
    ]


def levels(text: str) -> list[str]:
    """The headings of a page, as # signs alone."""
    return re.findall(r"^#+(?= )", FENCE.sub("", text), re.MULTILINE)


def bare(page: Path) -> list[str]:
    """The shell blocks of a page without comments."""
    return [re.sub(r" *#.*", "", block) for block in blocks(page, "sh")]


# The study file ------------------------------------------------------------------------------------------------------

STUDIES = ROOT / "docs/studies.md"
SECTIONS: dict[str, type[Section]] = {
    f"[{name}]": field.annotation
    for name, field in StudySpec.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
}
KINDS: dict[str, type[Section]] = {f'kind = "{name}"': section for name, section in INPUTS.items()}  # of [input]
MODELS: dict[str, type[Section]] = {
    "Top of the file": StudySpec,
    **SECTIONS,
    **KINDS,
    "start": Start,
    "optimizer": Optimizer,
    "[[phases]]": Phase,
    "[[sites]]": SiteEntry,
}
OPTIONS: list[type[Section]] = list(STRATEGY_OPTIONS.values())
BELOW = {("[[phases]]", "optimizer"), ("[training]", "optimizer"), ("[strategy]", "options")}  # a table of their own

model_of = pytest.mark.parametrize("heading", MODELS)


def tables() -> dict[str, dict[str, list[str]]]:
    """By heading and key, the other cells of docs/studies.md."""
    found: dict[str, dict[str, list[str]]] = {}
    heading = ""
    for line in STUDIES.read_text("utf-8").splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        elif line.startswith("| `"):
            key, *cells = (cell.strip() for cell in line.strip("|").split("|"))
            found.setdefault(heading, {})[key.strip("`")] = cells
    return found


def fields(heading: str) -> dict[str, FieldInfo]:
    """The keys that stand under a heading; the top of the file holds those that are no section."""
    apart = {"kind"} if heading in KINDS else set()
    if heading == "Top of the file":
        apart = {"input", *(name.strip("[]") for name in MODELS)}
    return {name: field for name, field in MODELS[heading].model_fields.items() if name not in apart}


def written(field: FieldInfo) -> str:
    """A default as the table writes it."""
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True, validated_data={})
    return "none" if default is None else f"`{json.dumps(default)}`"


def choices(annotation: Any) -> Iterator[str]:
    """The words that a key may be."""
    if get_origin(annotation) is Literal:
        yield from map(str, get_args(annotation))
    for part in get_args(annotation):
        yield from choices(part)


def test_studies_page_has_every_section_and_no_other() -> None:
    assert tables().keys() == {*MODELS, "options"}


@model_of
def test_studies_page_has_every_key_and_its_default(heading: str) -> None:
    expected = {
        name: "the defaults below" if (heading, name) in BELOW else written(field)
        for name, field in fields(heading).items()
    }
    assert {name: cells[1] for name, cells in tables()[heading].items()} == expected


@model_of
def test_studies_page_names_every_choice(heading: str) -> None:
    for name, field in fields(heading).items():
        told = tables()[heading][name][0]
        assert [choice for choice in choices(field.annotation) if choice not in told] == []


@model_of
def test_studies_page_tells_the_bounds(heading: str) -> None:
    for name, field in fields(heading).items():
        bounds = re.fullmatch(r"(\d+) to (\d+)", tables()[heading][name][0])
        if bounds:
            value = TypeAdapter(field.rebuild_annotation())
            low, high = map(int, bounds.groups())
            assert [value.validate_python(bound) for bound in (low, high)] == [low, high]
            for wrong in (low - 1, high + 1):
                with pytest.raises(ValidationError):
                    value.validate_python(wrong)


def test_studies_page_has_every_option_of_a_strategy() -> None:
    told = tables()["options"]
    assert told.keys() == {name for kind in OPTIONS for name in kind.model_fields}
    for kind in OPTIONS:
        for name, field in kind.model_fields.items():
            assert written(field) in told[name][1]


# The site page -------------------------------------------------------------------------------------------------------

SITE = ROOT / "docs/site.md"


def test_site_page_shows_every_key_of_site_toml_with_its_default(tmp_path: Path) -> None:
    folder = tmp_path / "north"
    folder.mkdir()
    (folder / "labels.csv").write_text(blocks(SITE, "text")[0], "utf-8")
    (folder / "opt-out.txt").touch()
    defaults = Site.open(folder)
    [shown] = [block for block in blocks(SITE, "toml") if block.startswith("[site]")]
    (folder / "site.toml").write_text(shown, "utf-8")
    assert Site.open(folder) == defaults
    document = tomllib.loads(shown)
    assert {f"[{name}]" for name in document} == offered(folder, "[nope]")
    for name, keys in document.items():
        assert keys.keys() == offered(folder, f"[{name}]\nnope = 1")


def test_site_page_s_maps_of_columns_are_read(tmp_path: Path) -> None:
    examples = [block for block in blocks(SITE, "toml") if block.startswith("# site.toml")]
    assert len(examples) == 2
    for block in examples:
        _, *files = re.split(r"^# (\w+\.toml)\n", block, flags=re.MULTILINE)
        for name, text in zip(files[::2], files[1::2], strict=True):
            (tmp_path / name).write_text(text, "utf-8")
        site = Site.open(tmp_path)
        assert site.series is not None or site.table is not None


def offered(folder: Path, wrong: str) -> set[str]:
    """What a site would take instead of something wrong, as its refusal says."""
    (folder / "site.toml").write_text(wrong, "utf-8")
    with pytest.raises(SettingsError) as refused:
        Site.open(folder)
    return set(re.split(r" takes | are ", str(refused.value))[1].split(", "))


def test_site_page_quotes_reasons_that_are_given() -> None:
    section = SITE.read_text("utf-8").partition("## Quarantine")[2].partition("\n## ")[0]
    reasons = [reason for row in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE) for reason in row.split("`")[1::2]]
    source = "".join(path.read_text("utf-8") for path in Path(fedward_client.intake.__path__[0]).glob("*.py"))
    source += "".join(source.replace("{keyword.lower()}", keyword) for keyword in ("rows", "columns"))
    assert len(reasons) > 10
    assert [reason for reason in reasons if any(part.strip() not in source for part in reason.split("…"))] == []
