"""Which sites are connected, looked at every second by a thread of the API's process: pages read the last look.

The `flwr` command takes two seconds of a processor to say the same (`enrolment.presences`); this asks over a
connection that stays open.
"""

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import httpx

from fedward_common.errors import FedwardError
from fedward_server.enrolment import Presence
from fedward_server.hub import Hub
from fedward_server.store import Store
from fedward_server.superlink import HOST

LOOK_S = 1.0

log = logging.getLogger(__name__)


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
        from fedward_server import nodes

        client = nodes.connect(f"{HOST}:{self.hub.port}", self.hub.tls.authority)
        try:
            while not self._over.is_set():
                try:
                    found = nodes.connections(client)
                    self.seen = {
                        name: _presence(found.get(row.node_id or "")) for name, row in self.store.sites().items()
                    }
                except (httpx.HTTPError, OSError, ValueError, FedwardError) as error:
                    if self.seen is not None:
                        log.warning("the SuperLink does not say which sites are connected: %s", type(error).__name__)
                    self.seen = None
                self._over.wait(LOOK_S)
        finally:
            client.close()


def _presence(found: tuple[bool, str] | None) -> Presence:
    if found is None or not found[1]:
        return Presence(connection="never")
    return Presence(connection="online" if found[0] else "offline", since=found[1])
