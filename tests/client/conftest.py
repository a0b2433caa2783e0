"""Real hospitals in small: DICOM files written by pydicom, a label table, a site.toml where asked for.

Beside them what stands between a hospital and its hub: an https server, a proxy.
"""

import csv
import hashlib
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, UltrasoundImageStorage, generate_uid

from fedward_client.member import Member, join
from fedward_client.site import KEY, STATE
from fedward_common.study import SiteEntry, StudySpec, resolved
from fedward_common.testing import tiny_study

Array = npt.NDArray[Any]


def dicom_dataset(*, patient_id: str, array: Array, **tags: Any) -> Dataset:
    """An ultrasound image of `array`: [rows, columns], [frames, rows, columns] or [rows, columns, 3], integers.

    `tags` are DICOM keywords that win over what follows from the array; a value of None removes the element. Besides
    them: `syntax`, the transfer syntax (uncompressed little endian ones and deflated are written as they are).
    """
    syntax = UID(tags.pop("syntax", ExplicitVRLittleEndian))
    color = array.ndim == 3 and array.shape[-1] == 3
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.SOPClassUID = UltrasoundImageStorage
    dataset.SOPInstanceUID = generate_uid(prefix=None)
    dataset.Modality = "US"
    dataset.Manufacturer = "Acme"
    dataset.ManufacturerModelName = "Sono 1"
    dataset.PatientID = patient_id
    dataset.PatientName = f"Name^{patient_id}"
    dataset.Rows, dataset.Columns = array.shape[:2] if color else array.shape[-2:]
    if array.ndim == 3 and not color:
        dataset.NumberOfFrames = array.shape[0]
    dataset.SamplesPerPixel = 3 if color else 1
    dataset.PhotometricInterpretation = "RGB" if color else "MONOCHROME2"
    if color:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = dataset.BitsStored = array.dtype.itemsize * 8
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(array.dtype.kind == "i")
    data = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False)).tobytes()
    dataset.PixelData = data + b"\0" * (len(data) % 2)
    dataset["PixelData"].VR = "OW" if dataset.BitsAllocated > 8 else "OB"
    for keyword, value in tags.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.get("SOPInstanceUID") or generate_uid(prefix=None)
    return dataset


def _write_dicom(path: Path, *, patient_id: str, array: Array, **tags: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    dicom_dataset(patient_id=patient_id, array=array, **tags).save_as(path, enforce_file_format=True)
    return path


def _write_labels(folder: Path, labels: Mapping[str, str], **columns: Mapping[str, str]) -> Path:
    path = folder / "labels.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["patient_id", "label", *columns])
        for patient, label in labels.items():
            writer.writerow([patient, label, *(column.get(patient, "") for column in columns.values())])
    return path


@pytest.fixture
def make_dicom() -> Callable[..., Dataset]:
    """`make_dicom(patient_id=, array=, **tags)`: a data set that was not written yet; see `dicom_dataset`."""
    return dicom_dataset


@pytest.fixture
def write_dicom() -> Callable[..., Path]:
    """`write_dicom(path, patient_id=, array=, **tags)`: one real DICOM file; see `dicom_dataset`."""
    return _write_dicom


@pytest.fixture
def write_labels() -> Callable[..., Path]:
    """`write_labels(folder, {patient: label}, split={patient: word})`: the folder's labels.csv."""
    return _write_labels


@pytest.fixture
def site_folder(tmp_path: Path) -> Callable[..., Path]:
    """`site_folder({patient: label}, ...)`: a new hospital's folder with images and labels.csv.

    `images` a patient of shape `shape`, 8-bit, noise whose mean rises with the label's place among the labels; `name`
    is the folder's; `columns` are further columns of the label table; `settings` is the text of site.toml; `tags` go
    to every file. Where it is `keyed`, its key is that of its name: under some keys, all patients of a label are on one
    side.
    """

    def build(
        labels: Mapping[str, str],
        *,
        images: int = 2,
        shape: tuple[int, ...] = (24, 32),
        name: str = "north",
        columns: Mapping[str, Mapping[str, str]] | None = None,
        settings: str | None = None,
        keyed: bool = True,
        **tags: Any,
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        ranks = {label: rank for rank, label in enumerate(sorted(set(labels.values())))}
        rng = np.random.default_rng(7)
        for patient, label in labels.items():
            for number in range(images):
                array = rng.integers(0, 100, shape).astype(np.uint8) + np.uint8(100 * ranks[label] // len(ranks))
                _write_dicom(folder / patient / f"image{number}.dcm", patient_id=patient, array=array, **tags)
        _write_labels(folder, labels, **(columns or {}))
        if settings is not None:
            (folder / "site.toml").write_text(settings, "utf-8")
        if keyed:
            key = folder / STATE / KEY
            key.parent.mkdir(mode=0o700)
            key.write_bytes(hashlib.sha256(name.encode()).digest())
            key.chmod(0o600)
        return folder

    return build


@pytest.fixture
def every_log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Everything that is logged, at the finest level."""
    with caplog.at_level("DEBUG"):
        yield caplog


# A hub's address and what stands before it ---------------------------------------------------------------------------


class _Answers(BaseHTTPRequestHandler):
    """Every GET is answered with the server's `status` and `body`, and with a date that is `ahead_s` ahead.

    It says that its body is `says` bytes long; what is less than that is cut.
    """

    def do_GET(self) -> None:
        self.send_response(self.server.status)  # type: ignore[attr-defined]
        self.send_header("Content-Length", str(self.server.says))  # type: ignore[attr-defined]
        self.end_headers()
        with suppress(OSError):  # who asked has hung up
            self.wfile.write(self.server.body)  # type: ignore[attr-defined]

    def date_time_string(self, timestamp: float | None = None) -> str:
        return super().date_time_string(time.time() + self.server.ahead_s)  # type: ignore[attr-defined]

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
        pass


@pytest.fixture
def https_server(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """`https_server(key_pem, certificate_pem)`: the "127.0.0.1:port" of a new https server.

    `ahead_s` is how far its clock is ahead, `status` and `body` what it answers, `says` the length that it says that
    this has; a `body` may be made of the address. Without a key it speaks plain HTTP.
    """
    with ExitStack() as servers:

        def start(
            *pair: bytes,
            ahead_s: float = 0.0,
            status: int = 200,
            body: bytes | Callable[[str], bytes] = b"",
            says: int | None = None,
        ) -> str:
            server = servers.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), _Answers))
            body = body if isinstance(body, bytes) else body(f"127.0.0.1:{server.server_port}")
            server.ahead_s, server.status = ahead_s, status  # type: ignore[attr-defined]
            server.body, server.says = body, len(body) if says is None else says  # type: ignore[attr-defined]
            if pair:
                chain = tmp_path / f"server-{server.server_port}.pem"
                chain.write_bytes(b"".join(pair))
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(chain)
                server.socket = context.wrap_socket(server.socket, server_side=True)
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
            thread.start()
            servers.callback(thread.join)
            servers.callback(server.shutdown)
            return f"127.0.0.1:{server.server_port}"

        yield start


@pytest.fixture
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the proxy variables of whoever runs the tests."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def tinyproxy(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """`tinyproxy(*settings)`: the "127.0.0.1:port" of a real CONNECT proxy; `settings` are lines of its tinyproxy.conf.

    Its log is `tmp_path`/proxy-PORT.log.
    """
    program = shutil.which("tinyproxy")
    assert program is not None, "the tests need Debian's tinyproxy-bin: `make test` says how to install it"
    with ExitStack() as proxies:

        def start(*settings: str) -> str:
            port = _free_port()
            conf, log = tmp_path / f"proxy-{port}.conf", tmp_path / f"proxy-{port}.log"
            lines = (f"Port {port}", "Listen 127.0.0.1", "Allow 127.0.0.1", "LogLevel Info", f'LogFile "{log}"')
            conf.write_text("\n".join((*lines, *settings, "")), "utf-8")
            process = subprocess.Popen([program, "-d", "-c", str(conf)], stderr=subprocess.DEVNULL)
            proxies.callback(process.wait)
            proxies.callback(process.terminate)
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline and process.poll() is None:
                with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
                    return f"127.0.0.1:{port}"
                time.sleep(0.01)
            raise AssertionError(f"tinyproxy did not start: {log.read_text('utf-8') if log.exists() else 'no log'}")

        yield start


@pytest.fixture
def free_port() -> int:
    """A port of loopback that nobody listens on."""
    return _free_port()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


# A member of a federation --------------------------------------------------------------------------------------------

POLICY = '[site]\nname = "north"\n[policy]\noutputs = ["counts", "update", "evaluation"]\n'


@pytest.fixture
def member(site_folder: Callable[..., Path]) -> Iterator[Callable[..., Member]]:
    """`member(settings=)`: a joined site of 24 patients, opened; `settings` is the text of site.toml."""
    with ExitStack() as ledgers:

        def make(settings: str = POLICY) -> Member:
            labels = {f"P{number}": ("benign", "malignant")[number % 2] for number in range(24)}
            site, _ = join(site_folder(labels, settings=settings), None)
            joined = Member.open(site)
            ledgers.callback(joined.ledger.close)
            return joined

        yield make


@pytest.fixture
def roster_study() -> Callable[..., StudySpec]:
    """`roster_study(member, **sections)`: a study whose roster names the member with its key."""

    def make(at: Member, **sections: Mapping[str, Any]) -> StudySpec:
        entries = (SiteEntry(name=at.site.name, fingerprint=at.fingerprint),)
        small: dict[str, Mapping[str, Any]] = {"cohort": {"min_patients": 5}, "input": {"size": [16, 16]}}
        return resolved(tiny_study(**{**small, **sections}), sites=entries, seed=7)

    return make


# Damage --------------------------------------------------------------------------------------------------------------


@st.composite
def _damaged(draw: st.DrawFn, files: tuple[bytes, ...]) -> bytes:
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=2000))
    data = bytearray(draw(st.sampled_from(files)))
    for _ in range(draw(st.integers(0, 8))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    begin, end = sorted((draw(st.integers(0, len(data))), draw(st.integers(0, len(data)))))
    change = draw(st.sampled_from(("nothing", "cut", "repeat", "remove")))
    if change == "cut":
        return bytes(data[:end])
    if change == "repeat":
        return bytes(data[:end] + data[begin:])
    return bytes(data[:begin] + data[end:]) if change == "remove" else bytes(data)


@pytest.fixture(scope="session")
def damaged() -> Callable[[tuple[bytes, ...]], st.SearchStrategy[bytes]]:
    """`data.draw(damaged(files))`: any bytes, or one of `files` with some bytes changed, cut, repeated or removed."""
    return _damaged
