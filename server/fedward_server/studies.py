"""Studies that people bring as text: checked as they type, and started. What a file of theirs may not do is refused.

A study on a person's own machine may begin with weights in a file beside it. One that comes as text has no place, and
a path in it would be one of the hub's: it begins with a registered model, or with none.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from fedward_common.errors import FedwardError, StudyError, UsageError
from fedward_common.study import StudySpec, loads
from fedward_server import runs
from fedward_server.hub import Hub
from fedward_server.store import RunRow, Store

MOST_BYTES = 256 * 1024
MOST_AT_ONCE = 20  # runs, each of which is a process of the hub's

Action = Literal["pause", "resume", "stop"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """What a study's text is: `faults`, a sentence each, or what would be run, on which sites."""

    faults: tuple[str, ...] = ()
    study: StudySpec | None = None
    sites: tuple[str, ...] = ()


def read(text: str) -> StudySpec:
    """The study of a text. Raises StudyError with a fault a line."""
    if len(text.encode()) > MOST_BYTES:
        raise StudyError(f"study: is longer than {MOST_BYTES // 1024} KiB, which no study is")
    spec = loads(text.replace("\r\n", "\n"))
    if spec.model.start is not None and spec.model.start.file is not None:
        raise StudyError(
            "study: [model] start names a file, which this hub does not have: register the weights with "
            '`fedward model add`, then write start = { model = "NAME" }'
        )
    return spec


def check(store: Store, text: str, names: Sequence[str] = ()) -> Checked:
    """What would be run of a text, on the sites of `names`, on the study's own, or on all that are enrolled."""
    try:
        spec = read(text)
        entries = runs.chosen(spec, store.sites(), names)
    except FedwardError as error:
        return Checked(faults=tuple(str(error).splitlines()))
    return Checked(study=spec, sites=tuple(entry.name for entry in entries))


def start(hub: Hub, text: str, *, names: Sequence[str] = (), seed: int | None = None, wait_s: float, by: str) -> RunRow:
    """Start a run of a text's study. Raises StudyError, UsageError, ModelError or RunError where that cannot be."""
    spec = read(text)
    with hub.store() as store:
        if len(store.unfinished(runs.ENGINE)) >= MOST_AT_ONCE:
            raise UsageError(
                f"{MOST_AT_ONCE} runs are at work, as many as pages and programs may start: stop one first"
            )
    return runs.start(hub, spec, names=names, seed=seed, wait_s=wait_s, by=by)


def act(hub: Hub, run: str, action: Action, *, wait_s: float, by: str) -> None:
    """Pause, resume or stop a run. Raises RunError where that cannot be."""
    match action:
        case "pause":
            runs.pause(hub, run, by=by)
        case "resume":
            runs.resume(hub, run, wait_s=wait_s, by=by)
        case "stop":
            runs.stop(hub, run, by=by)
