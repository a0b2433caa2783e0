"""When to look for something that comes again and again: a hub for answers, a site for questions.

A look costs the SuperLink some milliseconds of its one processor, so few are in vain: the first is about when the thing
came the last times, the next ones come in growing pauses. How long a wait was is known to within two looks: it counts
as the last look in vain, and half of the whole where the first look found it, so the guess soon falls below the truth.
"""

from collections import deque
from dataclasses import dataclass, field

REMEMBERED = 3  # waits, of which the shortest is expected


@dataclass(slots=True)
class Rhythm:
    """Pauses between looks are `share` of the wait so far, `shortest_s` to `longest_s`. Times: monotonic seconds."""

    share: float
    shortest_s: float
    longest_s: float
    _began: float = 0.0
    _looked: float = 0.0  # in vain, in this wait; `_began` where none was
    _waits: deque[float] = field(default_factory=lambda: deque(maxlen=REMEMBERED))

    def begin(self, now: float) -> None:
        """A wait begins."""
        self._began = self._looked = now

    def in_vain(self, now: float) -> None:
        """A look found nothing."""
        self._looked = now

    def came(self, now: float) -> None:
        """A look found it."""
        first = self._looked == self._began
        self._waits.append((now - self._began) / 2 if first else self._looked - self._began)

    def next_look(self) -> float:
        """When to look next."""
        pause = min(max(self.share * (self._looked - self._began), self.shortest_s), self.longest_s)
        expected = min(self._waits, default=0.0)
        return max(self._looked + pause, self._began + min(expected, self.longest_s))
