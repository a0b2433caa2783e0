"""The site's side of the bulk path: chunks of models fetched from the hub's gateway, and chunks of answers put there.

One chunk at a time, in the hours and at the rate that the site's settings allow. What was fetched or put stays so over
a cut connection or a restart: the next attempt goes on with the chunk that was in hand.
"""

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from ssl import SSLContext

import httpx

from fedward_client.fleet import RunOverError
from fedward_client.member import LinkSettings
from fedward_client.pace import Rate, opening
from fedward_client.reach import explain
from fedward_client.spool import Parcel
from fedward_client.spool_writer import Growing
from fedward_common.bulk import CHUNK_BYTES, PATH, Manifest
from fedward_common.cards import HubCard
from fedward_common.errors import LinkError

LIMIT_S = 120.0  # without a byte
LOOK_S = 30.0  # the longest sleep: clocks are set, and machines are suspended

Say = Callable[[str, str], None]  # a state and a reason


@dataclass(slots=True)
class Bulk:
    """One hub's bulk path. `stopping` ends every wait; `say` is told why it waits."""

    card: HubCard
    trust: SSLContext
    settings: LinkSettings
    stopping: threading.Event
    _client: httpx.Client | None = None
    _rate: Rate = field(init=False)

    def __post_init__(self) -> None:
        self._rate = Rate(self.settings.bytes_per_minute)

    def close(self) -> None:
        """Let go of the connection."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def fetch(self, manifest: Manifest, where: str, say: Say) -> Parcel:
        """Put what a manifest describes into a side of the spool.

        Raises LinkError where the connection is cut or this process is to stop, RunOverError where the hub has it no
        more, RunError where the spool takes no more.
        """
        with Growing.open(self.settings.spool, where, manifest, limit=self.settings.spool_bytes) as growing:
            for number in growing.missing():
                name = manifest.chunks[number]
                with self._passing(manifest.length(number), say), self._explained():
                    answer = self._http.get(f"{self._url}/down/{manifest.run}/{name}")
                    _check(answer)
                if len(answer.content) != manifest.length(number) or hashlib.sha256(answer.content).hexdigest() != name:
                    raise LinkError("the hub sent another chunk than it was asked for; it is fetched again")
                growing.append(answer.content)
            return growing.finish()

    def put(self, manifest: Manifest, block: memoryview, sent: int, say: Say) -> Iterator[int]:
        """Put a block's chunks from number `sent` on; gives how many are at the hub each time that one is.

        Raises LinkError and RunOverError as `fetch` does.
        """
        for number in range(sent, len(manifest.chunks)):
            part = block[number * CHUNK_BYTES :][: manifest.length(number)]
            place = f"{self._url}/up/{self.settings.site}/{manifest.run}/{manifest.trip}/{manifest.chunks[number]}"
            with self._passing(len(part), say), self._explained():
                _check(self._http.put(place, content=bytes(part)))
            yield number + 1

    @property
    def _url(self) -> str:
        return f"https://{self.card.address}{PATH}"

    @property
    def _http(self) -> httpx.Client:
        if self._client is None:
            self._client = httpx.Client(verify=self.trust, timeout=LIMIT_S)
        return self._client

    @contextmanager
    def _passing(self, size: int, say: Say) -> Iterator[None]:
        """Around a transfer, once there may be one."""
        while (at := opening(self.settings.window, now := _local())) is not None:
            say("waiting", f"[link] window opens at {at:%H:%M}")
            self._wait(min(LOOK_S, max(0.1, (at - now).total_seconds())))
        while (pause_s := self._rate.wait_s(time.monotonic())) > 0:
            self._wait(min(LOOK_S, pause_s))
        say("transferring", "")
        started = time.monotonic()
        yield
        self._rate.spend(size, started)

    def _wait(self, seconds: float) -> None:
        if self.stopping.wait(seconds):
            raise LinkError("this site's network side is stopping")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (httpx.HTTPError, OSError) as error:
            self.close()
            raise LinkError(explain(error, self.card.address, self.card.ca)) from error


def _check(answer: httpx.Response) -> None:
    match answer.status_code:
        case httpx.codes.NOT_FOUND | httpx.codes.CONFLICT:
            raise RunOverError("the hub has put away what this message was about")
        case httpx.codes.INSUFFICIENT_STORAGE:
            raise LinkError("the hub takes no more of this site for now: its quota is used up; tell its operator")
    answer.raise_for_status()


def _local() -> datetime:
    return datetime.now()  # the hours of [link] window are those on the wall
