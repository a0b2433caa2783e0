"""What the SuperLink's process changes of its web server, against a real one."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
import uvicorn
from uvicorn.protocols.http import flow_control, h11_impl, httptools_impl

from fedward_server.superlink import HOST, free_port
from fedward_server.superlink_process import take_bodies_whole

BODY = bytes(5 * 2**20)  # as large as Flower's pieces of an array
BUSY_S = 0.05  # what an application does before it asks for the body


@contextmanager
def served(pieces: list[int]) -> Iterator[str]:
    """A server whose application writes down the sizes in which a body comes to it."""

    async def application(_scope: Any, receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
        await asyncio.sleep(BUSY_S)
        more = True
        while more:
            message = await receive()
            pieces.append(len(message["body"]))
            more = message["more_body"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    port = free_port()
    server = uvicorn.Server(
        uvicorn.Config(application, host=HOST, port=port, lifespan="off", ws="none", log_level="error")
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield f"http://{HOST}:{port}"
    finally:
        server.should_exit = True
        thread.join()


def taken() -> list[int]:
    pieces: list[int] = []
    with served(pieces) as address:
        assert httpx.post(address, content=BODY, trust_env=False).is_success
    assert sum(pieces) == len(BODY)
    return pieces


def test_a_body_that_came_in_dozens_of_pieces_comes_in_a_few(monkeypatch: pytest.MonkeyPatch) -> None:
    for implementation in (h11_impl, httptools_impl):
        monkeypatch.setattr(implementation, "HIGH_WATER_LIMIT", flow_control.HIGH_WATER_LIMIT)  # and back afterwards
    as_it_is = taken()
    take_bodies_whole()
    assert max(taken()) == len(BODY) > 10 * max(as_it_is)


def test_another_web_server_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(httptools_impl, "HIGH_WATER_LIMIT")
    monkeypatch.setattr(h11_impl, "HIGH_WATER_LIMIT", flow_control.HIGH_WATER_LIMIT)
    with pytest.raises(RuntimeError, match="httptools_impl has no HIGH_WATER_LIMIT"):
        take_bodies_whole()
