"""Which sites the SuperLink lets in: those that the hub enrolled, by their nodes' keys, and nobody else.

A key that was taken off a SuperLink is never let in there again: that is the SuperLink's own rule.
"""

import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fedward_common import pki
from fedward_common.errors import RunError
from fedward_server.hub import Hub
from fedward_server.locks import turn
from fedward_server.store import SiteRow, Store
from fedward_server.superlink import CONNECTION

_KNOWN_KEY = "already in use"  # the SuperLink's words
_TURN = "nodes.lock"


@dataclass(frozen=True, kw_only=True, slots=True)
class Presence:
    """Whether a site is connected, and since when that is so (UTC, ISO 8601; None where it never was)."""

    connection: Literal["online", "offline", "never"]
    since: str | None = None


def node_digest(node_key: str) -> str:
    """The SHA-256 (hex) by which a run knows a node; `node_key` is its OpenSSH line."""
    key = pki.node_public_from_line(node_key)
    return hashlib.sha256(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def bring_in_line(hub: Hub) -> list[str]:
    """Make the SuperLink let in the enrolled sites and no others. It must be up.

    Gives what stands in the way, a sentence each.
    """
    with turn(hub.home / _TURN), hub.store() as store:
        nodes = set(_nodes(hub))
        known = {row.node_id for row in store.sites().values()}
        strays = nodes - known
        troubles = []
        for row in store.sites().values():
            if row.node_id not in nodes:
                try:
                    store.set_node(row.site, _register(hub, row, strays))
                except RunError as error:
                    troubles.append(str(error))
        for node in strays:
            hub.link.flwr("supernode", "unregister", node, CONNECTION)
    return troubles


def presences(hub: Hub, store: Store) -> dict[str, Presence]:
    """Each enrolled site's connection. The SuperLink must be up."""
    nodes = _nodes(hub)
    return {name: _presence(nodes.get(row.node_id or "")) for name, row in store.sites().items()}


def _nodes(hub: Hub) -> dict[str, Mapping[str, Any]]:
    """The nodes that the SuperLink lets in, by their ids."""
    found = hub.link.flwr("supernode", "list", CONNECTION)["nodes"]
    return {node["node-id"]: node for node in found if node["status"] != "unregistered"}


def _register(hub: Hub, row: SiteRow, strays: set[str]) -> str:
    """The id that the SuperLink gives a site's node."""
    with tempfile.NamedTemporaryFile("w", dir=hub.home, suffix=".pub") as file:
        file.write(f"{row.node_key}\n")
        file.flush()
        try:
            return str(hub.link.flwr("supernode", "register", file.name, CONNECTION)["node-id"])
        except RunError as error:
            if _KNOWN_KEY not in str(error):
                raise
    if len(strays) == 1:  # it was let in, and the hub was killed before it took note: one at a time is
        return strays.pop()
    raise RunError(
        f"the node key of {row.site} was taken off this hub once, which is for good: let the site make a new node key "
        f"and send its card anew, then forget {row.site} and enrol that card"
    )


def _presence(node: Mapping[str, Any] | None) -> Presence:
    if node is None or node["online-at"] == "N/A":
        return Presence(connection="never")
    online = node["status"] == "online"
    since = node["online-at" if online else "offline-at"]
    return Presence(connection="online" if online else "offline", since=str(since).replace(" ", "T"))
