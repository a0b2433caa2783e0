"""A site's sockets: who may call, who is turned away, and what is served on which. Real processes, real users."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from fedward_client.sockets import Gate, channel, check, is_served
from fedward_common.errors import SettingsError

NOBODY = 65534

CALL = """
import sys
from pathlib import Path
from grpc_health.v1 import health_pb2, health_pb2_grpc
import grpc
channel = grpc.insecure_channel("unix:" + sys.argv[1])
try:
    print(health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10).status)
except grpc.RpcError as error:
    print(error.code().name)
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user can reach; pytest's own are closed."""
    with tempfile.TemporaryDirectory(prefix="fedward-sockets-") as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


def server() -> grpc.Server:
    made = grpc.server(ThreadPoolExecutor(4))
    servicer = health.HealthServicer()
    servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, made)
    return made


def gate(path: Path) -> Gate:
    inner = path.parent / "inner"
    inner.mkdir(mode=0o700, exist_ok=True)
    return Gate(path, server(), inner=inner)


def healthy(path: Path) -> bool:
    with closing(channel(path)) as connection:
        stub: Any = health_pb2_grpc.HealthStub(connection)
        found = stub.Check(health_pb2.HealthCheckRequest(), timeout=10)
        return bool(found.status == health_pb2.HealthCheckResponse.SERVING)


def called_as(user: int, path: Path) -> str:
    """What another user of this machine gets."""
    setpriv = shutil.which("setpriv")
    assert setpriv is not None
    if os.geteuid() != 0:
        pytest.fail("this test needs root, to be another user: run it as root, as CI does")
    who = [f"--reuid={user}", f"--regid={user}", "--clear-groups"]
    command = [setpriv, *who, sys.executable, "-c", CALL, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd="/")
    return done.stdout.strip() or done.stderr


def test_its_own_user_may_call_and_the_socket_goes_with_the_gate(folder: Path) -> None:
    path = folder / "work.sock"
    with gate(path):
        assert path.stat().st_mode & 0o777 == 0o600
        assert healthy(path)
        assert healthy(path)
    assert not path.exists()


def test_a_path_too_long_for_the_kernel_works(folder: Path) -> None:
    deep = folder / ("x" * 80) / ("y" * 80)
    deep.mkdir(parents=True)
    with gate(deep / "work.sock"):
        assert healthy(deep / "work.sock")


def test_what_a_killed_daemon_left_is_replaced(folder: Path) -> None:
    path = folder / "work.sock"
    with gate(path):
        os.link(path, folder / "kept")
    (folder / "kept").rename(path)
    with pytest.raises(grpc.RpcError):
        healthy(path)
    with gate(path):
        assert healthy(path)


def test_another_user_is_turned_away_even_where_the_file_lets_it(folder: Path) -> None:
    path = folder / "control.sock"
    with gate(path):
        assert called_as(NOBODY, path) == "UNAVAILABLE"  # by its mode
        path.chmod(0o666)
        assert called_as(NOBODY, path) == "UNAVAILABLE"  # by its credentials
        assert called_as(os.geteuid(), path) == "1"
        path.chmod(0o600)


def test_a_socket_that_a_killed_daemon_left_is_not_served(folder: Path) -> None:
    path = folder / "control.sock"
    with gate(path):
        assert is_served(path)
        os.link(path, folder / "kept")
    (folder / "kept").rename(path)
    assert not is_served(path)


def test_a_socket_of_another_user_is_not_trusted(folder: Path) -> None:
    path = folder / "control.sock"
    with gate(path):
        os.chown(path, NOBODY, -1)
        with pytest.raises(SettingsError, match="belongs to the user with id 65534"):
            healthy(path)


def test_callers_are_told_what_is_wrong_with_a_socket(folder: Path) -> None:
    path = folder / "control.sock"
    with pytest.raises(SettingsError, match=r"control\.sock is not there: the site's daemon is not up"):
        check(path)
    path.touch()
    with pytest.raises(SettingsError, match=r"control\.sock is no socket: remove it"):
        check(path)
    path.unlink()
    with gate(path):
        path.chmod(0o666)
        with pytest.raises(SettingsError, match=r"can be used by every user of this machine \(mode 0666\)"):
            healthy(path)


def test_a_folder_that_cannot_hold_a_socket_is_told(folder: Path) -> None:
    with pytest.raises(SettingsError, match=r"work.sock cannot be made \(No such file or directory\)"):
        Gate(folder / "absent" / "work.sock", server(), inner=folder).__enter__()
