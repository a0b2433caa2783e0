"""How commands of other parts come into the command tree, and how what goes wrong in one is told.

A part adds a command through the entry point group `fedward.commands`; its value is a `typer.Typer` (a group) or a
function (a command). It is imported when it is called, not before: `fedward --help` starts at once, and a machine
without a part's packages still lists it and says what to install. The group `fedward.commands.study` adds to `study`,
`fedward.commands.model` to `model`.
"""

from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from fedward_common.errors import FedwardError, UsageError

TrainedModel = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="A trained model's safetensors file, or with --hub the name of a model."),
]
ModelHub = Annotated[
    Path | None, typer.Option("--hub", metavar="FOLDER", help="The hub's folder at which MODEL is registered.")
]

_SUMMARIES = {
    "site": "A hospital's own data: index a folder, report what is in it.",
    "demo": "Three simulated hospitals train one model together; ends with a report.",
    "simulate": "Run a study on this machine, its hospitals as virtual sites.",
    "hub": "A hub: the sites that it knows, and the server that they connect to.",
    "stats": "Ask the hospitals what patients they have for a study, before any training.",
    "start": "Run a study on the hospitals that are enrolled at a hub.",
    "pause": "Let a run pause after the round in hand.",
    "stop": "Stop a run of a study.",
    "status": "List a hub's runs, or say how one stands.",
    "resume": "Let a run that failed or was stopped go on.",
    "add": "Register a trained model at a hub, so that a study can begin with it.",
    "card": "Print the card of a registered model.",
    "remove": "Forget a registered model.",
    "predict": "What a trained model says of images, recordings or a table.",
}
_EXTRAS = {
    "site": "site",
    "demo": "sim",
    "simulate": "sim",
    "hub": "hub",
    "study": "hub",
    "model": "hub",
    "predict": "site",
    "export": "onnx",
}


class PartCommand(TyperCommand):
    """Stands for another part's command until it is called, then gives way to it."""

    def __init__(self, entry: EntryPoint) -> None:
        super().__init__(entry.name, help=_SUMMARIES.get(entry.name, f"From {entry.module.partition('.')[0]}."))
        self._entry = entry

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """The context of the part's own command."""
        part = self._entry.load()
        return _command(self._entry.name, part).make_context(info_name, args, parent=parent, **extra)


def _command(name: str, part: Any) -> Any:
    if isinstance(part, typer.Typer):
        return typer.main.get_group(part)
    single = typer.Typer(add_completion=False)
    single.command(name)(part)
    return typer.main.get_command(single)


class OpenGroup(TyperGroup):
    """A group of commands to which other parts add."""

    entry_points = "fedward.commands.study"

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for entry in sorted(entry_points(group=self.entry_points), key=lambda entry: entry.name):
            if entry.name not in self.commands:
                self.add_command(PartCommand(entry))

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was called; say what to install where it needs more than is there."""
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            extra = _EXTRAS.get(ctx.invoked_subcommand or "")
            if extra is None or error.name is None or error.name.startswith("fedward_"):
                raise
            command, module = ctx.invoked_subcommand, error.name
            _refuse(f"`{command}` needs {module}, which is not installed; pip install 'fedward[{extra}]'", 1)


class ModelGroup(OpenGroup):
    """`fedward model`, to which the hub's part and a site's add."""

    entry_points = "fedward.commands.model"


class Commands(OpenGroup):
    """The top of the command tree: finds the parts, and tells a person of a `FedwardError` in one sentence."""

    entry_points = "fedward.commands"

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was called."""
        try:
            return super().invoke(ctx)
        except FedwardError as error:
            _refuse(str(error), error.exit_code)


def of_part(group: str, name: str) -> Any:
    """What a part offers as the entry point of that group and name."""
    [entry] = entry_points(group=group, name=name)
    return entry.load()


def model_file(given: str, hub: Path | None) -> Path:
    """A trained model's file: the one that is given, or with a hub's folder that of the name registered there.

    Raises UsageError where there is none.
    """
    if hub is not None:
        path: Path = of_part("fedward.registered", "file")(hub, given)
        return path
    if not Path(given).is_file():
        raise UsageError(f"{given} is no file; with --hub a model can be named that is registered there")
    return Path(given)


def _refuse(message: str, exit_code: int) -> None:
    typer.echo(f"fedward: {message}", err=True)
    raise typer.Exit(exit_code)
