"""Progress on a terminal: a bar a run for its rounds, a bar a hospital for what it does now; else a line a run."""

import threading
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from fedward_common.events import Event
from fedward_server.events import RunEvent

_VERBS = {
    "scan": "reading",
    "cohort": "choosing patients",
    "compare": "comparing images",
    "measure": "measuring",
    "cache": "decoding",
    "train": "training",
    "evaluate": "scoring",
    "wait": "waiting",
}


class Bars:
    """Shows runs and hospitals; its two methods are the listeners of round engines and of the grid."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description:<24}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def on_run(self, title: str, event: RunEvent) -> None:
        """A round engine's event."""
        match event.kind:
            case "round":
                self._show(title, event.round - 1, event.rounds, f"round {event.round} {event.note}".rstrip())
            case "aggregated":
                self._show(title, event.round, event.rounds, "")
            case "closing":
                self._show(title, event.round, event.rounds, "scoring the final model")
            case "comparing":
                self._show(title, event.round, event.rounds, "each hospital trains alone")
            case "finished":
                self._show(title, event.rounds, event.rounds, "done")
                if not self._console.is_terminal:
                    self.say(f"{title}: {event.rounds} rounds done")
            case "died" | "interrupted":
                self.say(f"{title}: interrupted after round {event.round}, and let go on: {event.note}")
            case "refused" | "left-out":
                self.say(f"{title}: {event.site or 'a site'} is left out: {event.note}")

    def on_site(self, event: Event) -> None:
        """A hospital's event."""
        self._show(f"  {event.site}", event.done, event.total, f"{_VERBS[event.stage]} {event.note}".strip())

    def step(self, title: str, done: int, total: int) -> None:
        """A step of something else, e.g. of writing phantom hospitals."""
        self._show(title, done, total, "")

    def _show(self, title: str, done: int, total: int, note: str) -> None:
        with self._lock:
            if title not in self._tasks:
                self._tasks[title] = self._progress.add_task(title, total=total, note=note)
            self._progress.update(self._tasks[title], completed=done, total=total, note=note)

    def say(self, text: str) -> None:
        """A line that stays."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)
