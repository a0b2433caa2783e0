"""Which sites the SuperLink lets in: those that the hub enrolled, by their nodes' keys, and nobody else.

A SuperLink knows its nodes for as long as it runs. A key that was taken off it is not let in again until it is started
anew: that is its own rule.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fedward_common import pki
from fedward_server.hub import Hub
from fedward_server.locks import turn
from fedward_server.store import Store
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
        sites = {row.node_key: row.site for row in store.sites().values()}
        answer = hub.link.let_in(list(sites))
        for key, node in answer["nodes"].items():
            store.set_node(sites[key], str(node))
        return [_refused(sites[key], reason) for key, reason in answer["refused"].items()]


def presences(hub: Hub, store: Store) -> dict[str, Presence]:
    """Each enrolled site's connection. The SuperLink must be up."""
    nodes = _nodes(hub)
    return {name: _presence(nodes.get(row.node_id or "")) for name, row in store.sites().items()}


def _nodes(hub: Hub) -> dict[str, Mapping[str, Any]]:
    """The nodes that the SuperLink lets in, by their ids."""
    found = hub.link.flwr("supernode", "list", CONNECTION)["nodes"]
    return {node["node-id"]: node for node in found if node["status"] != "unregistered"}


def _refused(site: str, reason: str) -> str:
    if _KNOWN_KEY not in reason:
        return f"the SuperLink does not let {site} in ({reason})"
    return (
        f"the node key of {site} was taken off this hub since it was started, and is let in again when it is started "
        f"anew: `fedward hub down`, then `fedward hub up`; or let {site} make a new node key and send its card anew"
    )


def _presence(node: Mapping[str, Any] | None) -> Presence:
    if node is None or node["online-at"] == "N/A":
        return Presence(connection="never")
    online = node["status"] == "online"
    since = node["online-at" if online else "offline-at"]
    return Presence(connection="online" if online else "offline", since=str(since).replace(" ", "T"))
