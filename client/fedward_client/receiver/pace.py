"""When the archive may be asked, and how much at a time: its night window and its rate. Nothing waits here."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from fedward_client.receiver.settings import Window

MINUTE_S = 60.0


def opening(window: Window | None, now: datetime) -> datetime | None:
    """When a window next opens, None where it is open `now` (both are local times without a zone)."""
    if window is None or _is_open(window, now):
        return None
    today = datetime.combine(now.date(), window.opens)
    return today if today > now else today + timedelta(days=1)


def _is_open(window: Window, now: datetime) -> bool:
    at = now.time()
    if window.opens < window.closes:
        return window.opens <= at < window.closes
    return at >= window.opens or at < window.closes  # over midnight


@dataclass(slots=True)
class Rate:
    """Bytes a minute on average: what was fetched is paid for by waiting before the next.

    `clock_s` readings are of any monotonic clock. Time in which nothing was fetched cannot be saved up.
    """

    bytes_per_minute: int | None
    free_at_s: float = 0.0

    def spend(self, size: int, clock_s: float) -> None:
        """`size` bytes were fetched in a transfer that began at `clock_s`."""
        if self.bytes_per_minute is not None:
            self.free_at_s = max(self.free_at_s, clock_s) + size / self.bytes_per_minute * MINUTE_S

    def wait_s(self, clock_s: float) -> float:
        """Seconds until the next may be fetched."""
        return max(0.0, self.free_at_s - clock_s)
