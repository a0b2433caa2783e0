"""Progress, as the parts tell it and the progress bars show it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Stage = Literal["scan", "inspect", "cohort", "compare", "measure", "cache", "train", "evaluate", "wait", "receive"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """How far a site is with one stage of its work: `done` of `total` steps. Holds no patient's identifier."""

    site: str
    stage: Stage
    done: int
    total: int
    note: str = ""


Listener = Callable[[Event], None]


def ignore(_event: Event) -> None:
    """The listener of those who do not listen."""
