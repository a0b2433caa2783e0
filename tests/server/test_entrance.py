"""What stands before a hub is looked after whatever happens; what takes too long is told in words."""

import logging
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from fedward_common.errors import RunError
from fedward_server.entrance import _Entrance, _Service
from fedward_server.gateway import Gateway
from fedward_server.testing import Ground


@dataclass(slots=True)
class Failing(_Service):
    """One that nobody expected to fail like this."""

    looks: int = 0

    def watch(self) -> None:
        self.looks += 1
        raise ValueError(self.name)


def test_whatever_fails_is_logged_once_and_looked_after_again(ground: Ground, caplog: pytest.LogCaptureFixture) -> None:
    service = Failing("gateway", [], ground.folder, Path("gateway.log"))
    opened = _Entrance(ground.hub, [service])
    keeper = threading.Thread(target=opened.keep)
    with caplog.at_level(logging.ERROR):
        keeper.start()
        deadline = time.monotonic() + 30
        while service.looks < 3 and keeper.is_alive():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        opened.over.set()
        keeper.join()
    assert service.looks >= 3
    assert [record.getMessage() for record in caplog.records] == ["what ended is not started again yet"]


def test_what_takes_too_long_is_told_in_words(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedward_server.gateway._CHECK_LIMIT_S", 1e-6)
    with pytest.raises(RunError, match="nginx has not read the gateway's settings within 1e-06 s"):
        Gateway(ground.hub).check()
    monkeypatch.setattr("fedward_server.superlink.CALL_LIMIT_S", 1e-6)
    with pytest.raises(RunError, match="the SuperLink did not say which nodes it lets in within 1e-06 s"):
        ground.hub.link.let_in([])
