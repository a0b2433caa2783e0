"""Which sites are connected: looked at once, or every second by a thread of the API's process, whose pages read that.

The `flwr` command takes two seconds of a processor to say the same.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Self

import httpx

from fedward_common.errors import FedwardError
from fedward_server.hub import Hub
from fedward_server.store import Store
from fedward_server.superlink import HOST

LOOK_S = 1.0
Connections = Mapping[str, tuple[bool, str]]  # by node's id, as `nodes.connections` gives them
SILENT = (httpx.HTTPError, OSError, ValueError)  # a SuperLink that does not answer, or not as agreed

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Presence:
    """Whether a site is connected, and since when that is so (UTC, ISO 8601; None where it never was)."""

    connection: Literal["online", "offline", "never"]
    since: str | None = None


def seen(hub: Hub, store: Store) -> dict[str, Presence]:
    """Each enrolled site's connection now; of none where the SuperLink does not answer."""
    try:
        with _asking(hub) as ask:
            return _presences(ask(), store)
    except SILENT:
        return {}


@dataclass(slots=True)
class PresenceWatch:
    """Watches while its block runs. `seen` is by site, None while the SuperLink does not answer."""

    hub: Hub
    store: Store
    seen: Mapping[str, Presence] | None = None
    _over: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._watch, name="presence", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self) -> None:
        with _asking(self.hub) as ask:
            while not self._over.is_set():
                try:
                    self.seen = _presences(ask(), self.store)
                except (*SILENT, FedwardError) as error:
                    if self.seen is not None:
                        log.warning("the SuperLink does not say which sites are connected: %s", type(error).__name__)
                    self.seen = None
                self._over.wait(LOOK_S)


@contextmanager
def _asking(hub: Hub) -> Iterator[Callable[[], Connections]]:
    """A way to ask the SuperLink for its nodes' connections, while the block runs."""
    from fedward_server import nodes

    client = nodes.connect(f"{HOST}:{hub.port}", hub.tls.authority)
    try:
        yield lambda: nodes.connections(client)
    finally:
        client.close()


def _presences(found: Connections, store: Store) -> dict[str, Presence]:
    return {name: _presence(found.get(row.node_id or "")) for name, row in store.sites().items()}


def _presence(found: tuple[bool, str] | None) -> Presence:
    if found is None or not found[1]:
        return Presence(connection="never")
    return Presence(connection="online" if found[0] else "offline", since=found[1])
