"""The site's side of the bulk path: chunks of models fetched from the hub's gateway, and chunks of answers put there.

One chunk at a time, in the hours and at the rate that the site's settings allow. What was fetched or put stays so over
a cut connection or a restart: the next attempt goes on with the chunk that was in hand.
The bytes pass urllib3, which takes a third of httpx's time for them; what stops them is looked up as everywhere.
"""

import hashlib
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from ssl import SSLContext
from typing import Any

import httpx
import urllib3

from fedward_client.fleet import RunOverError
from fedward_client.member import LinkSettings
from fedward_client.pace import Rate, opening
from fedward_client.probe import attempt, proxy_url
from fedward_client.reach import explain
from fedward_client.spool import Parcel
from fedward_client.spool_writer import Growing
from fedward_client.traffic import Traffic
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
    traffic: Traffic = field(default_factory=Traffic)
    _pool: urllib3.PoolManager | None = None
    _rate: Rate = field(init=False)

    def __post_init__(self) -> None:
        self._rate = Rate(self.settings.bytes_per_minute)

    def close(self) -> None:
        """Let go of the connection."""
        if self._pool is not None:
            self._pool.clear()
            self._pool = None

    def fetch(self, manifest: Manifest, where: str, say: Say) -> Parcel:
        """Put what a manifest describes into a side of the spool.

        Raises LinkError where the connection is cut or this process is to stop, RunOverError where the hub has it no
        more, RunError where the spool takes no more.
        """
        with Growing.open(self.settings.spool, where, manifest, limit=self.settings.spool_bytes) as growing:
            for number in growing.missing():
                name = manifest.chunks[number]
                with self._passing(manifest.length(number), say):
                    chunk = self._request("GET", f"down/{manifest.run}/{name}")
                if len(chunk) != manifest.length(number) or hashlib.sha256(chunk).hexdigest() != name:
                    raise LinkError("the hub sent another chunk than it was asked for; it is fetched again")
                growing.append(chunk)
                self.traffic.passed(received=len(chunk))
            return growing.finish()

    def put(self, manifest: Manifest, block: memoryview, sent: int, say: Say) -> Iterator[int]:
        """Put a block's chunks from number `sent` on; gives how many are at the hub each time that one is.

        The hub has some where the same was asked before and this site was gone meanwhile. Raises LinkError and
        RunOverError as `fetch` does.
        """
        folder = f"up/{self.settings.site}/{manifest.run}/{manifest.trip}"
        while sent < len(manifest.chunks) and self._is_there(f"{folder}/{manifest.chunks[sent]}"):
            sent += 1
        for number in range(sent, len(manifest.chunks)):
            part = block[number * CHUNK_BYTES :][: manifest.length(number)]
            with self._passing(len(part), say):
                self._request("PUT", f"{folder}/{manifest.chunks[number]}", part)
            self.traffic.passed(sent=len(part))
            yield number + 1

    def _is_there(self, path: str) -> bool:
        return self._call("HEAD", path)[0] == httpx.codes.OK

    def _request(self, method: str, path: str, body: memoryview | None = None) -> bytes:
        """What the hub answers; of what is longer than any chunk, the beginning."""
        return self._call(method, path, body)[1]

    def _call(self, method: str, path: str, body: memoryview | None = None) -> tuple[int, bytes]:
        url = f"https://{self.card.address}{PATH}/{path}"
        try:
            if self._pool is None:
                self._pool = _pool(self.card.address, self.trust)
            sent: Any = body  # any buffer will do, which urllib3's types do not say
            with self._pool.request(method, url, body=sent, retries=False, preload_content=False) as answer:
                if (method, answer.status) != ("HEAD", httpx.codes.NOT_FOUND):
                    _check(answer.status, url)
                return answer.status, answer.read(CHUNK_BYTES + 1)
        except httpx.HTTPStatusError as refused:
            error: Exception = refused
        except (urllib3.exceptions.HTTPError, OSError):
            error = attempt(self.card.address, self.card.ca, self.card.distrusted).error or ConnectionResetError()
        self.close()
        raise LinkError(explain(error, self.card.address, self.card.ca)) from error

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


def _pool(address: str, trust: SSLContext) -> urllib3.PoolManager:
    """Connections to the hub, through the site's proxy where it has one."""
    proxy = proxy_url(address)
    if proxy is None:
        return urllib3.PoolManager(ssl_context=trust, timeout=LIMIT_S)
    user = b64encode(f"{proxy.username}:{proxy.password}".encode()).decode()
    return urllib3.ProxyManager(
        f"{proxy.scheme}://{proxy.netloc.decode()}",
        proxy_headers={"proxy-authorization": f"Basic {user}"} if proxy.userinfo else {},
        ssl_context=trust,
        timeout=LIMIT_S,
    )


def _check(status: int, url: str) -> None:
    match status:
        case httpx.codes.NOT_FOUND | httpx.codes.CONFLICT:
            raise RunOverError("the hub has put away what this message was about")
        case httpx.codes.INSUFFICIENT_STORAGE:
            raise LinkError("the hub takes no more of this site for now: its quota is used up; tell its operator")
    httpx.Response(status, request=httpx.Request("GET", url)).raise_for_status()


def _local() -> datetime:
    return datetime.now()  # the hours of [link] window are those on the wall
