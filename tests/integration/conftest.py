"""A hospital's archive for tests: Debian's real Orthanc on ports of loopback, a folder and a process of its own."""

import json
import os
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

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


@contextmanager
def orthanc(folder: Path, *, tls: ssl.SSLContext | None = None, **settings: Any) -> Iterator[Archive]:
    """Start an Orthanc with some settings in an empty folder; `tls` checks its certificate where it serves https."""
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
        "RemoteAccessAllowed": True,  # with authentication off: else it refuses what is not from loopback
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
    scheme = "https" if tls is not None else "http"
    with (folder / "orthanc.log").open("wb") as log:
        process = subprocess.Popen([PROGRAM, str(path)], stdout=log, stderr=log, cwd=folder)
    try:
        with httpx.Client(
            base_url=f"{scheme}://127.0.0.1:{http_port}/", verify=tls if tls is not None else True, trust_env=False
        ) as client:
            archive = Archive(dicom_port=dicom_port, http_port=http_port, folder=folder, process=process, client=client)
            _wait(archive)
            yield archive
    finally:
        process.terminate()
        process.wait(START_LIMIT_S)


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


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on, all different."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()
