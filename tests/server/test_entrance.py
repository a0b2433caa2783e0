"""What stands before a hub is looked after whatever happens; what takes too long is told in words."""

import errno
import logging
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from fedward_common.errors import RunError
from fedward_server import gateway
from fedward_server.entrance import _Entrance, _Service
from fedward_server.gateway import Gateway
from fedward_server.hub import Hub
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


def test_logs_of_programs_that_cannot_turn_them_are_copied_and_begun_anew(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway, "LOG_BYTES", 10)
    gate, log = Gateway(ground.hub), ground.hub.link.log_file
    log.parent.mkdir(exist_ok=True)
    with log.open("ab") as program:  # as the SuperLink holds it
        for number in range(7):
            program.write(b"%d " % number * 10)
            program.flush()
            gate.turn_logs()
        program.write(b"short")
        program.flush()
        gate.turn_logs()
        kept = [log.with_suffix(f".log.{number}") for number in range(1, 7)]
        assert log.read_bytes() == b"short"
        assert [each.read_bytes()[:1] for each in kept[:5]] == [b"6", b"5", b"4", b"3", b"2"]
        assert not kept[5].exists()
        program.write(b"and longer")
        program.flush()
        with monkeypatch.context() as patched:
            patched.setattr("fedward_server.gateway.shutil.copyfile", full_disk)
            for _ in range(3):
                with pytest.raises(OSError, match="No space left"):
                    gate.turn_logs()
    assert log.read_bytes() == b"shortand longer"
    assert [each.read_bytes()[:1] for each in kept[:5]] == [b"6", b"5", b"4", b"3", b"2"]


def full_disk(_source: Path, copy: Path) -> None:
    copy.write_bytes(b"in part")
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_site_that_the_superlink_does_not_take_is_not_tried_every_minute(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = list[Hub]()

    def refuse(hub: Hub) -> list[str]:
        tried.append(hub)
        return ["the node key of north was taken off this hub"]

    monkeypatch.setattr("fedward_server.entrance.bring_in_line", refuse)
    monkeypatch.setattr("fedward_server.superlink.SuperLink.healthy", lambda _link: True)
    opened = _Entrance(ground.hub, [])
    with ground.hub.store() as store:
        with pytest.raises(RunError, match="was taken off"):
            opened._let_in(store)
        opened._let_in(store)
        assert len(tried) == 1
        for name in store.sites():
            store.set_node(name, "7")
        opened._let_in(store)
        assert len(tried) == 1
