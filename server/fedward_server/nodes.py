"""Brings a SuperLink's nodes in line with a list of keys, in one process: each `flwr` command takes two seconds.

As a program it reads that list from its standard input, one OpenSSH public key a line, and prints JSON: the ids of
those nodes by their keys, and why a key was not let in.

    python -m fedward_server.nodes 127.0.0.1:9092 ca.pem < keys
"""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from flwr.proto.control_pb2 import ListNodesRequest, RegisterNodeRequest, UnregisterNodeRequest
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

_UNREGISTERED = "unregistered"


def bring_in_line(client: ControlHttpClient, lines: list[str]) -> dict[str, Any]:
    """Let exactly the nodes of these keys in."""
    keys = {public_key_to_bytes(load_ssh_public_key(line.encode())): line for line in lines}  # type: ignore[arg-type]
    there = [node for node in client.ListNodes(ListNodesRequest()).nodes_info if node.status != _UNREGISTERED]
    nodes = {keys[node.public_key]: node.node_id for node in there if node.public_key in keys}
    refused = {}
    for key, line in keys.items():
        if line not in nodes:
            try:
                nodes[line] = client.RegisterNode(RegisterNodeRequest(public_key=key)).node_id
            except httpx.HTTPStatusError as error:
                refused[line] = error.response.text
    for node in there:
        if node.public_key not in keys:
            client.UnregisterNode(UnregisterNodeRequest(node_id=node.node_id))
    return {"nodes": nodes, "refused": refused}


def connect(address: str, authority: Path) -> ControlHttpClient:
    """A client of the SuperLink's control interface at "host:port"; `authority` issued its certificate."""
    with _without_proxies():
        return ControlHttpClient.from_server_address(
            server_address=address,
            insecure=False,
            root_certificates=authority.read_bytes(),
            interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr CLI")],
        )


@contextmanager
def _without_proxies() -> Iterator[None]:
    """A client that is made inside goes by no proxy: the SuperLink is on this machine."""
    before = {name: os.environ.get(name) for name in ("NO_PROXY", "no_proxy")}
    os.environ.update(dict.fromkeys(before, "*"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def connections(client: ControlHttpClient) -> dict[str, tuple[bool, str]]:
    """Of each node that is let in: whether it is connected, and since when (ISO 8601, "" where it never was)."""
    found = {}
    for node in client.ListNodes(ListNodesRequest()).nodes_info:
        if node.status != _UNREGISTERED:
            online = node.status == "online"
            found[str(node.node_id)] = online, node.last_activated_at if online else node.last_deactivated_at
    return found


def _main(address: str, authority: str) -> None:
    client = connect(address, Path(authority))
    try:
        print(json.dumps(bring_in_line(client, sys.stdin.read().splitlines())))
    finally:
        client.close()


if __name__ == "__main__":
    _main(*sys.argv[1:])
