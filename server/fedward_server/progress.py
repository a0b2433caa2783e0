"""A run on a terminal: a bar for its rounds, a line for each site that a person must know of."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from fedward_server.events import EventKind, RunEvent

_SAID: dict[EventKind, str] = {
    "preparing": "{site} is preparing its data",
    "waiting": "{site} {note}",
    "prepared": "{site} is ready",
    "surveyed": "{site} has sent its statistics",
    "unsurveyed": "{site} sends no statistics: {note}",
    "left-out": "{site} is left out: {note}",
    "refused": "{site} is left out of round {round}: {note}",
    "died": "the run is interrupted after round {round}: {note}; the hub lets it go on",
    "interrupted": "the run is interrupted after round {round}: {note}; the hub lets it go on when it is up again",
    "paused": "the run is paused after round {round}; `fedward study resume` lets it go on",
    "continued": "the run goes on after round {round}",
    "resumed": "the run goes on after round {round}",
}


class RunBar:
    """Shows one run; call it with the run's events."""

    def __init__(self, console: Console, run: str) -> None:
        self._console = console
        self._run = run
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def __call__(self, event: RunEvent) -> None:
        """Show an event."""
        if event.kind in _SAID:
            self._say(_SAID[event.kind].format(site=event.site, round=event.round, note=event.note))
        match event.kind:
            case "began":
                self._show(event, "asking sites")
            case "round":
                self._show(event, f"round {event.round} {event.note}".rstrip(), done=event.round - 1)
            case "aggregated":
                self._show(event, "", done=event.round)
                if not self._console.is_terminal:
                    self._say(f"round {event.round} of {event.rounds} is done")
            case "closing":
                self._show(event, "scoring the final model", done=event.round)
            case "comparing":
                self._show(event, "each hospital trains alone, to see what it gained", done=event.round)
            case "finished":
                self._show(event, "done", done=event.rounds)

    def _show(self, event: RunEvent, note: str, done: int = 0) -> None:
        if self._task is None:
            self._task = self._progress.add_task(self._run, total=event.rounds, note=note)
        self._progress.update(self._task, completed=done, total=event.rounds, note=note)

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)
