"""What a run tells a person who watches it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

EventKind = Literal[
    "began",
    "preparing",  # a site was asked to freeze its cohort
    "waiting",  # a site cannot take part yet, or is waited for: the note says why
    "prepared",
    "surveyed",  # a site has sent its statistics
    "unsurveyed",  # a site sends none: the note says why
    "left-out",
    "round",
    "answered",
    "refused",
    "aggregated",
    "warning",  # the note says of what
    "paused",  # by a person: the round is on disk, nothing is asked
    "continued",
    "stopping",  # before the last round: the note says why
    "closing",
    "comparing",  # each hospital trains alone, to see what it gained
    "finished",
    "died",  # what did the run is gone; the note says why, the round is the last one on disk
    "interrupted",  # as above, because the hub was stopped: nothing died
    "resumed",  # it goes on after the round, which is on disk
    "failed",  # the note says why
    "stopped",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class RunEvent:
    """Something that a person at the hub would want to see."""

    kind: EventKind
    run: str
    round: int
    rounds: int
    site: str = ""
    note: str = ""
    time: str = field(default="", compare=False)  # UTC, ISO 8601: when it was written down


Listener = Callable[[RunEvent], None]
