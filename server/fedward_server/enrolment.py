"""Which sites the SuperLink lets in: those that the hub enrolled, by their nodes' keys, and nobody else.

A SuperLink knows its nodes for as long as it runs. A key that was taken off it is not let in again until it is started
anew: that is its own rule.
"""

import hashlib

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fedward_common import pki
from fedward_server.hub import Hub
from fedward_server.locks import turn

_KNOWN_KEY = "already in use"  # the SuperLink's words
_TURN = "nodes.lock"


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


def _refused(site: str, reason: str) -> str:
    if _KNOWN_KEY not in reason:
        return f"the SuperLink does not let {site} in ({reason})"
    return (
        f"the node key of {site} was taken off this hub since it was started, and is let in again when it is started "
        f"anew: `fedward hub down`, then `fedward hub up`; or let {site} make a new node key and send its card anew"
    )
