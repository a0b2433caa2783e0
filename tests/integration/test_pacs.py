"""`fedward site receive` with a real archive, Orthanc, over DIMSE and DICOMweb, in clear and over TLS."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    DigitalMammographyXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    UltrasoundImageStorage,
)
from typer.testing import CliRunner

from fedward_client.cli import app
from fedward_client.receiver.session import hushed
from fedward_client.receiver.web import WebPeer
from fedward_client.site import Site
from fedward_common.errors import DataError, FedwardError, PacsError

Orthanc = Callable[..., Any]
MODALITIES = {"US": UltrasoundImageStorage, "MG": DigitalMammographyXRayImageStorageForPresentation}
SECRETS = ("77777", "Zelenkova", "Screening", "19310417")
SOON_S = 60.0  # on a busy machine


def write_image(path: Path, *, patient: int, modality: str, number: int, year: int = 2020, size: int = 64) -> Path:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = MODALITIES[modality]
    dataset.file_meta.MediaStorageSOPClassUID = MODALITIES[modality]
    study = f"1.2.826.77777.{patient}.{year}"
    series = f"{study}.{list(MODALITIES).index(modality)}"
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = UID(f"{series}.{number}")
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, series
    dataset.PatientID, dataset.PatientName, dataset.PatientBirthDate = f"ID77777-{patient}", "Zelenkova", "19310417"
    dataset.StudyDate, dataset.StudyDescription = f"{year}0105", "Screening of the breast"
    dataset.Modality, dataset.SeriesDescription, dataset.InstanceNumber = modality, f"left {modality}", str(number)
    dataset.Rows = dataset.Columns = size
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PixelRepresentation = 1, "MONOCHROME2", 0
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit = 7
    dataset.PixelData = np.random.default_rng(number).integers(0, 255, (size, size), np.uint8).tobytes()
    dataset["PixelData"].VR = "OB"
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two patients with two series of three objects each, in 2019 and 2020, and one compressed object."""
    folder = tmp_path_factory.mktemp("images")
    paths = [
        write_image(
            folder / f"{patient}-{modality}-{number}", patient=patient, modality=modality, number=number, year=year
        )
        for (patient, year), modality, number in product(((1, 2019), (2, 2020)), MODALITIES, range(3))
    ]
    compressed = get_testdata_file("JPEG2000.dcm", download=False)
    assert isinstance(compressed, str)
    return [*paths, Path(shutil.copy(compressed, folder / "compressed"))]


@pytest.fixture(scope="module")
def door() -> int:
    """The port at which sites here listen, the archive's move destination."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


@pytest.fixture(scope="module")
def archive(orthanc: Orthanc, images: list[Path], door: int) -> Any:
    found = orthanc(DicomModalities={"site": ["FEDWARD", "127.0.0.1", door]})
    found.fill(images)
    return found


@pytest.fixture
def hospital(tmp_path: Path, door: int) -> Callable[..., Path]:
    """`hospital(archive, way, settings)`: a folder whose archive is reached by "get", "move" or "web"."""

    def make(
        archive: Any,
        way: str = "get",
        settings: str = "",
        *,
        free_mib: int = 1,
        title: str = "ARCHIVE",
        timeout_s: int = 5,
    ) -> Path:
        folder = tmp_path / "north"
        folder.mkdir(exist_ok=True)
        dimse = f'host = "127.0.0.1"\nport = {archive.dicom_port}\nae_title = "{title}"\n'
        move = f'retrieve = "move"\nlisten_host = "127.0.0.1"\nlisten_port = {door}\n'
        peer = {"get": dimse, "move": dimse + move, "web": f'url = "{archive.url}"\n'}[way]
        (folder / "site.toml").write_text(
            f"[pacs]\n{peer}min_free_mib = {free_mib}\ntimeout_s = {timeout_s}\n{settings}\n"
        )
        return folder

    return make


def receive(folder: Path, *options: str | Path) -> Result:
    result = CliRunner().invoke(app, ["receive", str(folder), *map(str, options)])
    said = result.output + str(result.exception or "")
    assert not any(secret in said for secret in SECRETS), said
    return result


def received(folder: Path, *options: str | Path) -> dict[str, Any]:
    result = receive(folder, *options, "--json")
    assert result.exit_code == 0, (result.output, result.exception)
    report: dict[str, Any] = json.loads(result.stdout)
    return report


def failure(folder: Path, kind: type[FedwardError], *options: str) -> str:
    result = receive(folder, *options)
    assert isinstance(result.exception, kind), (result.output, result.exception)
    assert "\n" not in str(result.exception)
    return str(result.exception)


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("received/*/*/*.dcm"))


# What comes ----------------------------------------------------------------------------------------------------------

every_way = pytest.mark.parametrize("way", ["get", "move", "web"])


@every_way
def test_everything_comes_as_it_is_stored_and_only_once(
    archive: Any, hospital: Callable[..., Path], images: list[Path], way: str
) -> None:
    folder = hospital(archive, way)
    report = received(folder)
    assert (report["studies"], report["series"], report["incomplete"]) == (3, 5, 0)
    assert (report["objects"], report["again"], report["refused"]) == (len(images), 0, {})
    sent = {dcmread(path).SOPInstanceUID: dcmread(path) for path in images}
    for path in files(folder):
        found = dcmread(path)
        assert found == sent.pop(found.SOPInstanceUID)
    assert not sent
    names = " ".join(str(path) for path in folder.rglob("*"))
    state = b"".join(path.read_bytes() for path in (folder / ".fedward").rglob("*") if path.is_file())
    assert not any(secret in names + state.decode("latin-1") for secret in SECRETS)
    again = received(folder)
    assert (again["objects"], again["again"], again["bytes"], again["incomplete"]) == (0, 0, 0, 0)


@every_way
def test_a_compressed_object_is_not_converted(archive: Any, hospital: Callable[..., Path], way: str) -> None:
    folder = hospital(archive, way)
    assert received(folder, "--modality", "NM")["objects"] == 1
    [path] = files(folder)
    assert dcmread(path).file_meta.TransferSyntaxUID.name.startswith("JPEG 2000")


@pytest.mark.long
@every_way
def test_a_rescan_fetches_what_was_added_and_nothing_else(
    orthanc: Orthanc, hospital: Callable[..., Path], images: list[Path], door: int, way: str
) -> None:
    archive = orthanc(DicomModalities={"site": ["FEDWARD", "127.0.0.1", door]})
    archive.fill(images[:2])
    folder = hospital(archive, way)
    assert received(folder)["objects"] == 2
    archive.fill(images[:4])
    report = received(folder)
    assert (report["objects"], report["again"]) == (2, 0)


@pytest.mark.long
@pytest.mark.parametrize("way", ["get", "web"])
def test_a_dry_run_counts_and_fetches_nothing(archive: Any, hospital: Callable[..., Path], way: str) -> None:
    folder = hospital(archive, way)
    report = received(folder, "--dry-run")
    assert report == {
        "site": "north",
        "studies": 3,
        "series": 5,
        "instances": 13,
        "modalities": {"MG": 2, "NM": 1, "US": 2},
        "years": {"2004": 1, "2019": 1, "2020": 1},
    }
    assert "US 2" in receive(folder, "--dry-run").stdout
    assert not (folder / "received").exists()


@pytest.mark.long
@pytest.mark.parametrize("way", ["get", "web"])
def test_a_cohort_is_what_is_asked_for(archive: Any, hospital: Callable[..., Path], tmp_path: Path, way: str) -> None:
    folder = hospital(archive, way)
    (folder / "labels.csv").write_text("patient_id,label\nID77777-2,benign\nID77777-9,benign\n")
    (tmp_path / "ids.txt").write_text("ID77777-1\nID*\n\n")

    def counts(*options: str | Path) -> tuple[int, int]:
        report = received(folder, "--dry-run", *options)
        return report["studies"], report["series"]

    assert counts("--modality", "US") == (2, 2)
    assert counts("--modality", "CT") == (0, 0)
    assert counts("--from", "2019-01-05", "--to", "2019-02-28") == (1, 2)
    assert counts("--from", "2020-01-06", "--to", "2020-01-31") == (0, 0)
    assert counts("--description-contains", "LEFT us") == (2, 2)
    assert counts("--description-contains", "screening") == (2, 4)
    assert counts("--patients", tmp_path / "ids.txt") == (1, 2), "no wild card widens it"
    assert counts("--labelled") == (1, 2)
    report = received(folder, "--labelled", "--modality", "US")
    assert (report["objects"], report["series"]) == (3, 1)


@pytest.mark.long
def test_findscu_finds_the_same(archive: Any, hospital: Callable[..., Path]) -> None:
    program = shutil.which("findscu")
    assert program is not None, "the tests need Debian's dcmtk: `make test` says how to install it"
    command = [program, "-S", "-aec", "ARCHIVE", "-k", "QueryRetrieveLevel=STUDY", "-k", "StudyDate=20190101-20190131"]
    keys = ["-k", "ModalitiesInStudy=US", "-k", "StudyInstanceUID"]
    done = subprocess.run(
        [*command, *keys, "127.0.0.1", str(archive.dicom_port)], capture_output=True, text=True, check=True, timeout=60
    )
    report = received(hospital(archive), "--dry-run", "--modality", "US", "--from", "2019-01-01", "--to", "2019-01-31")
    assert report["studies"] == len(re.findall(r"^I: \(0020,000d\)", done.stdout + done.stderr, re.MULTILINE)) > 0


def test_objects_are_sent_by_stow(orthanc: Orthanc, hospital: Callable[..., Path], images: list[Path]) -> None:
    archive = orthanc()
    site = Site.open(hospital(archive, "web"))
    with hushed(), WebPeer(site.pacs) as peer:
        peer.store(images)
        assert archive.count() == len(images)
        with pytest.raises(PacsError):
            peer.store([Path(__file__)])


# What goes wrong -----------------------------------------------------------------------------------------------------


def test_another_ae_title_is_refused_with_its_reason(archive: Any, hospital: Callable[..., Path]) -> None:
    assert "does not answer to the AE title 'OTHER'" in failure(hospital(archive, title="OTHER"), PacsError)


@pytest.mark.long  # it is tried again, with pauses
def test_a_move_destination_that_is_not_known(archive: Any, hospital: Callable[..., Path]) -> None:
    message = failure(hospital(archive, "move", 'own_ae_title = "OTHER"'), PacsError)
    assert "'OTHER' as a move destination" in message


def test_an_address_that_is_no_dicomweb(archive: Any, hospital: Callable[..., Path]) -> None:
    folder = hospital(archive, "web")
    text = (folder / "site.toml").read_text()
    (folder / "site.toml").write_text(text.replace("/dicom-web", "/dicomweb"))
    assert "is url the root" in failure(folder, PacsError)


def test_a_login(orthanc: Orthanc, hospital: Callable[..., Path], images: list[Path]) -> None:
    archive = orthanc(AuthenticationEnabled=True, RegisteredUsers={"site": "secret"})
    message = failure(hospital(archive, "web"), PacsError)
    assert "401" in message
    assert "token_file" in message
    folder = hospital(archive, "web", 'token_file = "token"')
    (folder / "token").write_text("Basic c2l0ZTpzZWNyZXQ=\n")
    assert received(folder)["studies"] == 0


@pytest.mark.long
def test_a_full_disk_ends_the_run_and_loses_nothing(archive: Any, hospital: Callable[..., Path]) -> None:
    for way in ("move", "web"):
        assert "make room" in failure(hospital(archive, way, free_mib=10**9), DataError)
    folder = hospital(archive)
    assert files(folder) == []
    assert received(folder)["objects"] == 13


@pytest.mark.long
@pytest.mark.parametrize("way", ["get", "web"])
def test_an_archive_that_hangs_and_one_that_dies(
    orthanc: Orthanc, hospital: Callable[..., Path], images: list[Path], way: str
) -> None:
    archive = orthanc()
    archive.fill(images)
    folder = hospital(archive, way, timeout_s=1)
    archive.process.send_signal(signal.SIGSTOP)
    try:
        message = failure(folder, PacsError)
    finally:
        archive.process.send_signal(signal.SIGCONT)
    assert "in time" in message
    archive.process.kill()
    archive.process.wait()
    assert "nothing listens" in failure(folder, PacsError)


# Politeness ----------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_it_keeps_to_its_rate(archive: Any, hospital: Callable[..., Path]) -> None:
    folder = hospital(archive, "web", "mib_per_minute = 1")
    started = time.monotonic()
    report = received(folder, "--modality", "US")  # two series of 14 KiB: 0.8 s after the first
    assert report["objects"] == 6
    assert time.monotonic() - started > report["bytes"] / 2 / 2**20 * 60


@pytest.mark.long
def test_outside_of_its_hours_it_waits_and_says_until_when(archive: Any, hospital: Callable[..., Path]) -> None:
    hour = (time.localtime().tm_hour + 12) % 24
    folder = hospital(archive, settings=f'window = "{hour:02}:00-{hour:02}:30"')
    with running(folder) as process:
        assert process.stderr is not None
        assert f"may be asked from {hour:02}:00 on" in process.stderr.readline()
        process.terminate()
        assert process.wait(SOON_S) != 0
    assert files(folder) == []


# Killed and run again ------------------------------------------------------------------------------------------------


class running:  # noqa: N801 - reads as a verb
    """`fedward site receive` in a process of its own."""

    def __init__(self, folder: Path, *options: str) -> None:
        command = [sys.executable, "-m", "fedward_common", "site", "receive", str(folder), *options]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "COLUMNS": "200"}
        )

    def __enter__(self) -> "subprocess.Popen[str]":
        return self.process

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="module")
def long_series(orthanc: Orthanc, tmp_path_factory: pytest.TempPathFactory, door: int) -> Any:
    """An archive with one series of 80 objects of a quarter of a mebibyte."""
    folder = tmp_path_factory.mktemp("series")
    archive = orthanc(DicomModalities={"site": ["FEDWARD", "127.0.0.1", door]})
    paths = [write_image(folder / str(n), patient=3, modality="US", number=n, size=512) for n in range(80)]
    archive.fill(paths)
    return archive


@pytest.mark.long
@pytest.mark.parametrize("way", ["get", "move", "web"])
def test_a_killed_run_goes_on_where_it_was(long_series: Any, hospital: Callable[..., Path], way: str) -> None:
    folder = hospital(long_series, way)
    with running(folder) as process:
        deadline = time.monotonic() + SOON_S
        while len(files(folder)) < 10:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
    whole = {path: path.read_bytes() for path in files(folder)}
    assert 10 <= len(whole) < 80, "it was killed in the middle"
    report = received(folder)
    assert report["objects"] == 80 - len(whole)
    assert report["again"] <= 1, "the object in hand at most"
    assert report["incomplete"] == 0
    assert len(files(folder)) == 80
    assert {path: path.read_bytes() for path in whole} == whole
    assert [path.name for path in folder.joinpath("received").iterdir() if path.name.startswith(".")] == [".lock"]


def test_a_listener_takes_what_is_sent_until_it_is_ended(
    archive: Any, hospital: Callable[..., Path], images: list[Path], door: int
) -> None:
    folder = hospital(archive, "move", 'allowed = ["SENDER"]')
    with running(folder, "--listen", "--json") as process:
        assert process.stderr is not None
        assert f"Listening as FEDWARD at 127.0.0.1 port {door}" in process.stderr.readline()
        send = ["storescu", "-aet", "SENDER", "-aec", "FEDWARD", "127.0.0.1", str(door), *map(str, images[:5])]
        assert subprocess.run(send, check=False, timeout=60).returncode == 0
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=SOON_S)
        assert process.returncode == 0
    report = json.loads(out)
    assert (report["objects"], report["again"], report["refused"]) == (5, 0, {})
    assert len(files(folder)) == 5


def test_a_person_reads_numbers_and_no_identifier(archive: Any, hospital: Callable[..., Path]) -> None:
    folder = hospital(archive)
    done = subprocess.run(
        [sys.executable, "-m", "fedward_common", "site", "receive", str(folder)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "PYTHONWARNINGS": "default"},
    )
    assert done.returncode == 0
    assert "13 new objects" in done.stderr
    assert not any(secret in done.stdout + done.stderr for secret in SECRETS)


# TLS -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Secured:
    """An archive whose DICOM port speaks TLS alone, its https address, and the folder of certificates."""

    dicom_port: int
    url: str
    certificates: Path


@pytest.fixture(scope="module")
def secured(
    orthanc: Callable[..., Any],
    tls_front: Callable[..., int],
    tmp_path_factory: pytest.TempPathFactory,
    certificates: Callable[[Path], Path],
    images: list[Path],
    door: int,
) -> Secured:
    folder = certificates(tmp_path_factory.mktemp("certificates"))
    found = orthanc(
        DicomTlsEnabled=True,
        DicomTlsCertificate=str(folder / "peer.pem"),
        DicomTlsPrivateKey=str(folder / "peer.key"),
        DicomTlsTrustedCertificates=str(folder / "ca.pem"),
        DicomModalities={"site": {"AET": "FEDWARD", "Host": "127.0.0.1", "Port": door, "UseDicomTls": True}},
    )
    found.fill(images)
    front = tls_front(found.http_port, folder / "peer.pem", folder / "peer.key")
    return Secured(found.dicom_port, f"https://127.0.0.1:{front}/dicom-web", folder)


def with_certificates(folder: Path, certificates: Path) -> str:
    folder.mkdir(exist_ok=True)
    for name in ("ca.pem", "other-ca.pem", "own.pem", "own.key"):
        shutil.copy(certificates / name, folder)
    return 'ca = "ca.pem"\ncertificate = "own.pem"\nkey = "own.key"'


@pytest.mark.long
@every_way
def test_over_tls(secured: Secured, hospital: Callable[..., Path], tmp_path: Path, way: str) -> None:
    settings = with_certificates(tmp_path / "north", secured.certificates)
    assert received(hospital(secured, way, settings), "--modality", "US")["objects"] == 6


@pytest.mark.long
@pytest.mark.parametrize("way", ["get", "web"])
def test_another_authority_is_not_accepted(
    secured: Secured, hospital: Callable[..., Path], tmp_path: Path, way: str
) -> None:
    settings = with_certificates(tmp_path / "north", secured.certificates).replace("ca.pem", "other-ca.pem")
    assert "certificate is not accepted" in failure(hospital(secured, way, settings), PacsError)


@pytest.mark.long  # what may pass is tried again
def test_in_clear_a_port_of_tls_does_not_answer(secured: Secured, hospital: Callable[..., Path]) -> None:
    assert "closed the connection" in failure(hospital(secured), PacsError)
