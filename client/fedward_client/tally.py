"""What a site's data side counts of its own work since it started, for the hospital's monitoring: no patient in it."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from fedward_common.records import Trained


@dataclass(slots=True)
class Tally:
    """Questions and seconds. Several threads may count."""

    answered: Counter[str] = field(default_factory=Counter)  # by the question's kind
    refused: int = 0
    round: int = 0  # of the last training that was answered
    train_seconds: float = 0.0  # of that one
    round_seconds: float = 0.0
    _began: float | None = None  # of the question in hand, monotonic
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Around the work for a question; one is worked on at a time."""
        self._began = time.monotonic()
        try:
            yield
        finally:
            self._began = None

    def answer(self, kind: str, answer: BaseModel) -> None:
        """Count an answer that is given."""
        with self._lock:
            self.answered[kind] += 1
            if isinstance(answer, Trained):
                self.round, self.train_seconds = answer.round, answer.train_seconds
                self.round_seconds = answer.seconds

    def refuse(self) -> None:
        """Count a refusal."""
        with self._lock:
            self.refused += 1

    def numbers(self) -> dict[str, Any]:
        """All of it, as JSON; `work_seconds` is None while there is no question in hand."""
        began = self._began
        return {
            "answered": dict(self.answered),
            "refused": self.refused,
            "round": self.round,
            "train_seconds": self.train_seconds,
            "round_seconds": self.round_seconds,
            "work_seconds": None if began is None else time.monotonic() - began,
        }
