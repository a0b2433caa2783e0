"""When a transfer may begin, and how much at a time: a window of hours and a rate. Nothing waits here."""

import re
from dataclasses import dataclass
from datetime import datetime, time, timedelta

from fedward_common.errors import SettingsError

MINUTE_S = 60.0
_WINDOW = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """The hours, in local time, in which there may be transfers; `closes` may be on the next day."""

    opens: time
    closes: time


def read_window(text: str, where: str) -> Window | None:
    """The window of a text like "20:00-06:00", None of an empty one. SettingsError for another, which `where` names."""
    if not text:
        return None
    found = _WINDOW.fullmatch(text)
    if found is None:
        raise SettingsError(f'{where} window {text!r} is no window of hours; write it as "20:00-06:00"')
    first, second, third, fourth = map(int, found.groups())
    opens, closes = time(first, second), time(third, fourth)
    if opens == closes:
        raise SettingsError(f"{where} window {text!r} is never open; leave it out to allow every hour")
    return Window(opens=opens, closes=closes)


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
    """Bytes a minute on average: what was transferred is paid for by waiting before the next.

    `clock_s` readings are of any monotonic clock. Time in which nothing was transferred cannot be saved up.
    """

    bytes_per_minute: int | None
    free_at_s: float = 0.0

    def spend(self, size: int, clock_s: float) -> None:
        """`size` bytes were moved in a transfer that began at `clock_s`."""
        if self.bytes_per_minute is not None:
            self.free_at_s = max(self.free_at_s, clock_s) + size / self.bytes_per_minute * MINUTE_S

    def wait_s(self, clock_s: float) -> float:
        """Seconds until the next transfer may begin."""
        return max(0.0, self.free_at_s - clock_s)
