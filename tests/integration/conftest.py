"""A hospital's archive for tests: Debian's real Orthanc on ports of loopback, a folder and a process of its own."""

import json
import os
import select
import shutil
import socket
import socketserver
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

PROGRAM = shutil.which("Orthanc", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
START_LIMIT_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Archive:
    """An Orthanc that runs: its ports, its REST address, and httpx's settings for it."""

    dicom_port: int
    http_port: int
    folder: Path
    process: "subprocess.Popen[bytes]"
    client: httpx.Client = field(repr=False)

    @property
    def url(self) -> str:
        return f"{str(self.client.base_url).rstrip('/')}/dicom-web"

    def fill(self, paths: Sequence[Path]) -> None:
        """Put DICOM files into it by its own REST interface."""
        for path in paths:
            self.client.post("instances", content=path.read_bytes()).raise_for_status()

    def count(self) -> int:
        """How many objects it holds."""
        found: int = self.client.get("statistics").json()["CountInstances"]
        return found

    def log(self) -> str:
        return (self.folder / "orthanc.log").read_text("utf-8", "replace")


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Archive]]:
    """`orthanc(**settings)`: a new archive that runs until the module's tests have ended; see `_orthanc`."""
    with ExitStack() as archives:

        def start(**settings: Any) -> Archive:
            return archives.enter_context(_orthanc(tmp_path_factory.mktemp("orthanc"), **settings))

        yield start


@contextmanager
def _orthanc(folder: Path, **settings: Any) -> Iterator[Archive]:
    """Start an Orthanc with some settings in an empty folder."""
    assert PROGRAM is not None, "the tests need Debian's orthanc: `make test` says how to install it"
    assert PLUGIN.exists(), "the tests need Debian's orthanc-dicomweb: `make test` says how to install it"
    folder.mkdir(parents=True, exist_ok=True)
    dicom_port, http_port = free_ports(2)
    configuration = {
        "Name": "archive",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "DicomAet": "ARCHIVE",
        "DicomPort": dicom_port,
        "DicomCheckCalledAet": True,
        "HttpPort": http_port,
        "AuthenticationEnabled": False,
        "DicomAlwaysAllowFind": True,
        "DicomAlwaysAllowGet": True,
        "ConcurrentJobs": 1,
        "Plugins": [str(PLUGIN)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        **settings,
    }
    path = folder / "orthanc.json"
    path.write_text(json.dumps(configuration))
    with (folder / "orthanc.log").open("wb") as log:
        process = subprocess.Popen([PROGRAM, str(path)], stdout=log, stderr=log, cwd=folder)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{http_port}/", trust_env=False) as client:
            archive = Archive(dicom_port=dicom_port, http_port=http_port, folder=folder, process=process, client=client)
            _wait(archive)
            yield archive
    finally:
        process.kill()  # it would take seconds to say goodbye, and nothing of it is kept
        process.wait()


def _wait(archive: Archive) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline and archive.process.poll() is None:
        try:
            archive.client.get("system")
        except httpx.TransportError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError(f"Orthanc did not start: {archive.log()}")


@pytest.fixture(scope="module")
def tls_front() -> Iterator[Callable[..., int]]:
    """`tls_front(port, certificate, key)`: a port that speaks TLS, before one of loopback that does not.

    As hospitals do it; and Debian's Orthanc ends with a segmentation fault where it serves https itself.
    """
    with ExitStack() as fronts:

        def start(port: int, certificate: Path, key: Path) -> int:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(certificate, key)

            class Relay(socketserver.BaseRequestHandler):
                def handle(self) -> None:
                    with (
                        suppress(OSError),
                        context.wrap_socket(self.request, server_side=True) as outer,
                        socket.create_connection(("127.0.0.1", port)) as inner,
                    ):
                        _relay(outer, inner)

            class Front(socketserver.ThreadingTCPServer):
                daemon_threads = True

            server = fronts.enter_context(Front(("127.0.0.1", 0), Relay))
            thread = threading.Thread(target=server.serve_forever, args=(0.02,))
            thread.start()
            fronts.callback(thread.join)
            fronts.callback(server.shutdown)
            found: int = server.server_address[1]
            return found

        yield start


def _relay(one: socket.socket, other: socket.socket) -> None:
    """Carry what comes from either to the other, until one of them ends."""
    while True:
        waiting = one.pending() if isinstance(one, ssl.SSLSocket) else 0
        ready = [one] if waiting else select.select([one, other], [], [])[0]
        for source in ready:
            data = source.recv(2**16)
            if not data:
                return
            (other if source is one else one).sendall(data)


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on, all different."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()
