"""What the commands of `fedward site` share: their arguments, and the way to a running daemon."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedward_client.site import Site
from fedward_common.events import Event, Listener, Stage

if TYPE_CHECKING:
    from fedward_client.member import Member
    from fedward_client.stubs.site_pb2_grpc import ControlStub

_DOES: dict[Stage, str] = {
    "scan": "Reading headers",
    "inspect": "Looking at images",
    "compare": "Comparing images",
    "evaluate": "Scoring",
}

LOOK_S = 0.2  # between two looks at something that is awaited

Folder = Annotated[Path, typer.Argument(help="The hospital's folder.")]
State = Annotated[Path | None, typer.Option(help="Where Fedward keeps its state.", show_default="FOLDER/.fedward")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@contextmanager
def progress(description: str) -> Iterator[Listener]:
    """A bar on stderr that follows events."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(description, total=None)

        def listen(event: Event) -> None:
            if event.stage in _DOES:
                bar.update(task, description=_DOES[event.stage], completed=event.done, total=event.total)

        yield listen


@contextmanager
def control_of(site: Site) -> Iterator["ControlStub | None"]:
    """The daemon's control socket, None where no daemon is up and the folder can be used directly."""
    from fedward_client.member import CONTROL_SOCKET
    from fedward_client.sockets import channel, is_served
    from fedward_client.stubs.site_pb2_grpc import ControlStub

    if not (site.state / CONTROL_SOCKET).exists() or not is_served(site.state / CONTROL_SOCKET):
        yield None
        return
    with closing(channel(site.state / CONTROL_SOCKET)) as connection:
        yield ControlStub(connection)


def member_of(site: Site) -> "Member":
    """The member of a federation that a site is. Raises SettingsError where it is none."""
    from fedward_client.member import Member

    return Member.open(site)
