"""The wait before an archive is asked: for its hours, for its rate, and after it failed to answer."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TypeVar

from fedward_client.pace import Rate, opening
from fedward_client.receiver.faults import PeerAway
from fedward_client.site import Site
from fedward_common.events import Event, Listener

ATTEMPTS = 5  # in a row without anything that came
FIRST_PAUSE_S = 0.5  # doubled with every attempt
LOOK_S = 30.0  # the longest sleep: clocks are set, and machines are suspended

_Found = TypeVar("_Found")


class Gate:
    """Lets one question at a time through to a site's archive, and tells the listener why it waits."""

    def __init__(self, site: Site, listener: Listener) -> None:
        self.site = site
        self.listener = listener
        self._rate = Rate(site.pacs.bytes_per_minute)

    def ask(self, question: Callable[[], _Found]) -> _Found:
        """The answer to a question, asked again where the archive was away. Raises its last PeerAway."""
        for attempt in range(1, ATTEMPTS):
            self._wait()
            try:
                return question()
            except PeerAway as error:
                self.pause(attempt, error)
        self._wait()
        return question()

    @contextmanager
    def passing(self, size: Callable[[], int]) -> Iterator[None]:
        """Around a transfer, once there may be one; `size()` says afterwards how many bytes came."""
        self._wait()
        started = time.monotonic()
        try:
            yield
        finally:
            self._rate.spend(size(), started)

    def pause(self, attempt: int, failure: PeerAway) -> None:
        """Wait before another attempt; the first is attempt 1, and one that got on is attempt 0."""
        pause_s = FIRST_PAUSE_S * 2 ** max(0, attempt - 1)
        self._tell(f"{failure}; trying again in {pause_s:g} s")
        time.sleep(pause_s)

    def _wait(self) -> None:
        while (at := opening(self.site.pacs.window, now := _local())) is not None:
            self._tell(f"the archive may be asked from {at:%H:%M} on")
            time.sleep(min(LOOK_S, max(0.1, (at - now).total_seconds())))
        while (pause_s := self._rate.wait_s(time.monotonic())) > 0:
            self._tell("waiting, as [pacs] mib_per_minute asks")
            time.sleep(min(LOOK_S, pause_s))

    def _tell(self, note: str) -> None:
        self.listener(Event(site=self.site.name, stage="wait", done=0, total=1, note=note))


def _local() -> datetime:
    return datetime.now()  # the hours of [pacs] window are those on the wall
