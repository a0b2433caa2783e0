"""The `fedward` command: `study`, `model`, `audit` and `doctor`, beside what other parts add (`cli_parts`)."""

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedward_common import __version__
from fedward_common.cli_parts import Commands, ModelGroup, ModelHub, OpenGroup, TrainedModel, model_file, of_part
from fedward_common.cli_tables import show_pairs, show_rows
from fedward_common.errors import ModelError, StudyError, UsageError

if TYPE_CHECKING:
    from fedward_common.doctor import Finding
    from fedward_common.study import StudySpec


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    suggest_commands=False,  # click does
    pretty_exceptions_enable=False,  # its tracebacks would show local variables, which may hold a patient's data
    help="Train one medical model across hospitals; every patient's data stays in its hospital.",
    epilog="Example: fedward study show breast-ultrasound",
)
study = typer.Typer(
    cls=OpenGroup,
    no_args_is_help=True,
    suggest_commands=False,
    help="Studies: what comes with Fedward, what one will do, whether one is right; and their runs on real hospitals.",
)
model = typer.Typer(
    cls=ModelGroup,
    no_args_is_help=True,
    suggest_commands=False,
    help="Networks that a study can name, trained models with which it can begin, and what these say of new data.",
)
audit = typer.Typer(no_args_is_help=True, suggest_commands=False, help="Audit logs: whether one was changed.")
app.add_typer(study, name="study", epilog="Example: fedward study check my-study.toml")
app.add_typer(model, name="model", epilog="Example: fedward model list")
app.add_typer(audit, name="audit", epilog="Example: fedward audit verify north")

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
StudyName = Annotated[str, typer.Argument(metavar="STUDY", help="A study file, or the name of a template.")]


def _digits(text: str) -> str:
    """The 64 hex digits of a fingerprint or a hash, which people also write in groups."""
    digits = "".join(text.split()).lower()
    if not re.fullmatch("[0-9a-f]{64}", digits):
        raise UsageError(f"{text!r} is no fingerprint and no hash of an entry: either has 64 hex digits")
    return digits


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"fedward {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@study.command(epilog="Example: fedward study templates")
def templates(*, as_json: Json = False) -> None:
    """List the studies that come with Fedward, to run or to copy."""
    from fedward_common.study import load, template_names, template_path

    rows = [
        {"name": name, "title": spec.study.title, "task": spec.study.task, "model": spec.model.name}
        for name, spec in ((name, load(template_path(name))) for name in template_names())
    ]
    show_rows(rows, as_json)


@study.command(epilog="Example: fedward study new --template breast-ultrasound --id my-ultrasound")
def new(
    *,
    template: Annotated[str | None, typer.Option(metavar="NAME", help="The template to begin with.")] = None,
    name: Annotated[str | None, typer.Option("--id", metavar="ID", help="Short name, also of the file.")] = None,
    title: Annotated[str | None, typer.Option(metavar="TEXT", help="What people read above the results.")] = None,
    label: Annotated[list[str] | None, typer.Option(metavar="LABEL", help="A label; give this once for each.")] = None,
    positive: Annotated[
        str | None, typer.Option(metavar="LABEL", help="The one looked for; of three or more also: each.")
    ] = None,
    modality: Annotated[str | None, typer.Option(metavar="LETTERS", help="Of images, US for example; or any.")] = None,
    min_sites: Annotated[int | None, typer.Option(help="At least how many hospitals.")] = None,
    rounds: Annotated[int | None, typer.Option(help="How many rounds of training.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is here already.")] = False,
) -> None:
    """Ask a few questions and write a study. With --template it asks none: what no option says is the template's."""
    from fedward_common.study import load, template_names, template_path
    from fedward_common.study_new import ask, write
    from fedward_common.study_text import describe
    from fedward_common.study_text_input import HEADINGS

    asked = {
        "id": name,
        "title": title,
        "labels": label,
        "positive": positive,
        "modality": modality,
        "min_sites": min_sites,
        "rounds": rounds,
    }
    answers = {key: answer for key, answer in asked.items() if answer is not None}
    if template is None:
        names = template_names()
        if answers or not sys.stdin.isatty():
            raise UsageError(f"say with --template which study to begin with; templates: {', '.join(names)}")
        specs = {each: load(template_path(each)) for each in names}
        rows = [
            {"name": each, "title": spec.study.title, "data": HEADINGS[spec.input.kind]} for each, spec in specs.items()
        ]
        show_rows(rows, as_json=False)
        typer.echo("Enter takes the answer in brackets; Ctrl-C ends, and nothing is written.")
        template, answers = ask(overwrite=overwrite)
    path = write(template, answers, overwrite=overwrite)
    typer.echo(f"{path} is written. It begins, in words:")
    show_pairs(describe(load(path))[:2])
    typer.echo("Next:")
    for command in (f"study show {path}", f"study check {path}", f"simulate {path} --data hospitals --out result"):
        typer.echo(f"  fedward {command}")


@study.command(epilog="Example: fedward study show breast-ultrasound")
def show(
    name: StudyName,
    *,
    as_toml: Annotated[bool, typer.Option("--toml", help="Print the study file itself, to copy it.")] = False,
    as_json: Json = False,
) -> None:
    """Say in words what a study will do, and give its digest."""
    from fedward_common.study import find, load
    from fedward_common.study_text import describe

    path = find(name)
    spec = load(path)
    if as_toml:
        typer.echo(path.read_text(encoding="utf-8"), nl=False)
    elif as_json:
        typer.echo(json.dumps({"digest": spec.digest, "study": spec.model_dump(mode="json")}, indent=2))
    else:
        show_pairs([*describe(spec), ("Digest", spec.digest)])


@study.command(epilog="Example: fedward study check my-study.toml")
def check(name: StudyName, *, as_json: Json = False) -> None:
    """Check a study file: OK and its digest, or everything that is wrong with it."""
    from fedward_common.study import find, load

    path = find(name)
    try:
        spec = load(path)
        _check_model(spec, path.parent)
    except (StudyError, ModelError) as error:
        if not as_json:
            raise
        typer.echo(json.dumps({"ok": False, "faults": str(error).splitlines()}, indent=2))
        raise typer.Exit(error.exit_code) from None
    if spec.ended(datetime.now(UTC).date()):
        typer.echo(f"fedward: note: the study's last day was {spec.study.ends}; it cannot be run any more", err=True)
    found = {"ok": True, "study": spec.study.id, "digest": spec.digest}
    typer.echo(json.dumps(found, indent=2) if as_json else f"OK: {spec.study.id}, digest {spec.digest}")


def _check_model(spec: "StudySpec", base: Path) -> None:
    """What only the network itself can tell: whether trained weights fit, and whether patterns match its layers."""
    from fedward_common.models import begin, bound

    start = spec.model.start
    if start is not None and start.file is not None:
        typer.echo(f"fedward: note: weights of {start.file}: {bound(spec, base / start.file)[1]}", err=True)
    elif spec.model.frozen or spec.model.learning_rates:
        begin(spec, None)
    if start is not None:
        typer.echo("fedward: note: a run's digest also covers the weights", err=True)


@model.command("list", epilog="Example: fedward model list")
def list_models(
    *,
    hub: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Also list the trained models that are registered at a hub.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the networks that a study can name as its model, and with --hub the models it can begin with."""
    from fedward_common import models

    cards = [models.describe(name) for name in models.names()]
    rows = [
        {
            "name": card.name,
            "title": card.title,
            "tasks": list(card.tasks),
            "dims": list(card.dims),
            "min_size": card.min_size,
            "options": dict(card.options),
            "batch_norm": card.batch_norm,
            "paper": card.paper,
        }
        for card in cards
    ]
    if hub is None:
        show_rows(rows, as_json, columns=("name", "title", "tasks", "dims", "min_size", "options"))
        return
    registered = of_part("fedward.registered", "hub")(hub)
    if as_json:
        typer.echo(json.dumps({"networks": rows, "registered": registered}, indent=2))
        return
    show_rows(rows, as_json, columns=("name", "title", "tasks", "dims", "min_size", "options"))
    columns = ("name", "network", "study", "run", "sha256", "added", "note")
    show_rows(registered, as_json, columns=columns)


@model.command(epilog="Example: fedward model export result/model.safetensors --out model.onnx")
def export(
    trained: TrainedModel,
    *,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The ONNX file that is written.")],
    hub: ModelHub = None,
) -> None:
    """Write a trained model as ONNX, checked by running it: examples as the network sees them in, probabilities out."""
    from fedward_common.models import onnx_file
    from fedward_common.models.trained import RESEARCH_USE

    difference = onnx_file.export(model_file(trained, hub), out)
    typer.echo(f"{out} is written; onnxruntime and torch agree to {difference:.1g}. {RESEARCH_USE}")


@audit.command(epilog="Example: fedward audit verify north")
def verify(
    log: Annotated[Path, typer.Argument(metavar="LOG", help="A log, or the folder of a site or a hub.")],
    *,
    fingerprint: Annotated[
        str | None,
        typer.Option(
            metavar="HEX", parser=_digits, help="Fail unless the log is signed by the key with this fingerprint."
        ),
    ] = None,
    last: Annotated[
        str | None,
        typer.Option(
            metavar="HASH", parser=_digits, help="Fail unless an entry with this hash, noted before, is there."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check every entry of a log, and give the last one's hash: note it, it alone shows later that none was cut off."""
    from dataclasses import asdict

    from fedward_common.audit import find, survey

    found = asdict(survey(find(log), fingerprint=fingerprint, noted=last))
    if as_json:
        typer.echo(json.dumps({"ok": True, **found}, indent=2))
    else:
        show_pairs([("OK", "every entry is whole, in its place, and signed by the holder's key")])
        show_pairs([(name.capitalize(), str(value)) for name, value in found.items()])


@app.command(epilog="Example: fedward doctor")
def doctor(
    *,
    site: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Also check a hospital's folder and its way to the hub.")
    ] = None,
    hub: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Also check a hub's folder and its server.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check whether this machine can run Fedward; exits 1 where something must be put right."""
    from dataclasses import asdict

    from rich.console import Console

    if site is not None and hub is not None:
        raise UsageError("--site and --hub check two different machines: give one of them")
    findings = []
    with Console(stderr=True).status("Checking …") as status:  # a firewall that drops packets takes its time
        for finding in _findings({"site": site, "hub": hub}):
            findings.append(finding)
            status.update(f"Checked: {finding.name}")
    show_rows([asdict(finding) for finding in findings], as_json)
    if any(finding.status == "fail" for finding in findings):
        raise typer.Exit(1)


def _findings(folders: Mapping[str, Path | None]) -> Iterator["Finding"]:
    """What every machine is checked for, then a part's own checks of its folder (entry points `fedward.doctor`)."""
    from fedward_common.doctor import Finding, examine

    yield from examine(Path.cwd())
    for part, folder in folders.items():
        if folder is None:
            continue
        try:
            yield from of_part("fedward.doctor", part)(folder)
        except ModuleNotFoundError as error:
            if error.name is None or error.name.startswith("fedward_"):
                raise
            advice = f"pip install 'fedward[{part}]', then ask again"
            yield Finding(name=f"the {part}", status="fail", found=f"{error.name} is missing", advice=advice)


def main() -> None:
    """The `fedward` console script. Flower's telemetry and update check are off unless the environment asks."""
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
    app(prog_name="fedward")
