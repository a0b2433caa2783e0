"""A run's events as JSON lines in its folder: written by the run, read by whoever watches it, now or later."""

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from fedward_server.events import EventKind, RunEvent

FILE = "events.jsonl"

_EVENT = TypeAdapter(RunEvent)


class Journal:
    """Appends events to the file of a run's folder, which several processes may do. It is a run's listener."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE

    def __call__(self, event: RunEvent) -> None:
        """Append an event, with the time (UTC)."""
        line = json.dumps({**asdict(event), "time": datetime.now(UTC).isoformat(timespec="milliseconds")})
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, f"{line}\n".encode())
        finally:
            os.close(descriptor)


class Tail:
    """Reads the events of a run's folder from the first; `new` gives those that came since it was asked last."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._read = 0

    def skip(self) -> None:
        """Pass over the events that are there."""
        for _ in self.new():
            pass

    def new(self) -> Iterator[RunEvent]:
        """The events that were not given yet. A line that is none is passed over."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._read)
                data = file.read()
        except FileNotFoundError:
            return
        whole = data[: data.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.splitlines():
            try:
                yield _EVENT.validate_json(line)
            except ValidationError:
                continue


@dataclass(slots=True)
class Standing:
    """How far a run is: the round at work, and what was last heard of each site."""

    round: int = 0
    rounds: int = 0
    kind: EventKind | None = None
    sites: dict[str, tuple[EventKind, str]] = field(default_factory=dict)  # what, and why
    interruptions: list[tuple[int, str]] = field(default_factory=list)  # after which round, and why

    def take(self, event: RunEvent) -> None:
        """Go on by an event."""
        if event.kind == "began":
            self.sites.clear()
        if event.kind in ("died", "interrupted"):
            self.interruptions.append((event.round, event.note))
        if event.site:
            self.sites[event.site] = event.kind, event.note
        else:
            self.kind = event.kind
        self.round, self.rounds = max(event.round, self.round), event.rounds


def standing(events: Iterable[RunEvent]) -> Standing:
    """How far a run is after these events."""
    now = Standing()
    for event in events:
        now.take(event)
    return now
