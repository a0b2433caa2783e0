"""What a DICOMweb archive answers, good and bad, and what becomes of it. The archive is a small one, real HTTP."""

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedward_client.receiver import gate
from fedward_client.receiver.faults import PeerAway, answered, failed, rejected, unreachable
from fedward_client.receiver.fetching import fetch
from fedward_client.receiver.inbox import Inbox
from fedward_client.receiver.query import Instance, Question, Series, Wanted
from fedward_client.receiver.session import hushed, peer_of
from fedward_client.receiver.web import PAGE
from fedward_client.site import Site
from fedward_common.errors import DataError, PacsError, SettingsError
from fedward_common.events import Event

Answer = Callable[[str], tuple[int, str, bytes]]
QUESTION = Question(patient=None, since=None, until=None, modality=None)
SERIES = Series(study="1.2", uid="1.3", modality="US", description="", instances=None)


@contextmanager
def serving(answer: Answer) -> Iterator[str]:
    """The address of an archive that answers a GET of a path as it is told."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, kind, body = answer(self.path)
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/dicom-web"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def asking(tmp_path: Path) -> Callable[..., Any]:
    """`asking(url, settings)`: a site whose archive is at a URL."""

    def make(url: str, settings: str = "", *, free_mib: int = 1) -> Site:
        text = f'[pacs]\nurl = "{url}"\nmin_free_mib = {free_mib}\ntimeout_s = 2\n{settings}'
        (tmp_path / "site.toml").write_text(text)
        return Site.open(tmp_path)

    return make


def refusal(site: Site) -> PacsError:
    with hushed(), peer_of(site) as peer, pytest.raises(PacsError) as caught:
        peer.studies(QUESTION)
    assert "\n" not in str(caught.value)
    return caught.value


def test_pages_are_asked_for_until_one_is_not_full(asking: Callable[..., Site]) -> None:
    total, paths = PAGE + 3, []

    def answer(path: str) -> tuple[int, str, bytes]:
        paths.append(path)
        start = int(path.partition("offset=")[2])
        found = [{"0020000D": {"vr": "UI", "Value": [f"1.{n}"]}} for n in range(start, min(start + PAGE, total))]
        return 200, "application/dicom+json", json.dumps(found).encode()

    with serving(answer) as url, hushed(), peer_of(asking(url)) as peer:
        assert [study.uid for study in peer.studies(QUESTION)] == [f"1.{number}" for number in range(total)]
    assert len(paths) == 2


def test_an_archive_that_knows_no_pages_is_not_asked_for_ever(asking: Callable[..., Site]) -> None:
    found = [{"0020000D": {"vr": "UI", "Value": [f"1.{number}"]}} for number in range(PAGE)]
    answer = (200, "application/dicom+json", json.dumps(found).encode())
    with serving(lambda _: answer) as url, hushed(), peer_of(asking(url)) as peer:
        assert len(peer.studies(QUESTION)) == PAGE


def test_values_that_are_not_there_or_odd(asking: Callable[..., Site]) -> None:
    found = [
        {
            "0020000D": {"vr": "UI", "Value": ["1.2"]},
            "00080020": {"vr": "DA"},
            "00100020": {"Value": [7]},
            "00081030": 3,
        },
        {"0020000D": {"vr": "UI"}},
        {},
    ]
    answer = (200, "application/dicom+json", json.dumps(found).encode())
    with serving(lambda _: answer) as url, hushed(), peer_of(asking(url)) as peer:
        [study] = peer.studies(QUESTION)
    assert (study.uid, study.patient, study.day, study.description) == ("1.2", "7", None, "")


@pytest.mark.parametrize(
    ("status", "words", "again"),
    [
        (401, "token_file", False),
        (403, "administrator", False),
        (404, "is url the root", False),
        (302, "does not say why", False),
        (429, "more time", True),
        (500, "at fault", True),
        (503, "busy", True),
    ],
)
def test_an_answer_that_is_none_is_said_with_what_to_do(
    asking: Callable[..., Site], status: int, words: str, *, again: bool
) -> None:
    with serving(lambda _: (status, "text/plain", b"Zelenkova")) as url:
        error = refusal(asking(url))
    assert words in str(error)
    assert str(status) in str(error)
    assert isinstance(error, PeerAway) is again
    assert "Zelenkova" not in str(error)


@pytest.mark.parametrize("body", [b"<html>", b"{}", b"[1]", b"\xff"])
def test_an_answer_that_is_no_dicom_json(asking: Callable[..., Site], body: bytes) -> None:
    with serving(lambda _: (200, "application/dicom+json", body)) as url:
        assert "no DICOM JSON" in str(refusal(asking(url)))


def test_nothing_found_is_no_error(asking: Callable[..., Site]) -> None:
    with serving(lambda _: (204, "text/plain", b"")) as url, hushed(), peer_of(asking(url)) as peer:
        assert peer.studies(QUESTION) == []


@pytest.mark.long
def test_an_archive_that_is_down_is_asked_again_after_growing_pauses(
    asking: Callable[..., Site], free_port: int
) -> None:
    events: list[Event] = []
    site = asking(f"http://127.0.0.1:{free_port}/dicom-web")
    with hushed(), peer_of(site) as peer, pytest.raises(PeerAway, match="nothing listens"):
        gate.Gate(site, events.append).ask(lambda: peer.studies(QUESTION))
    pauses = [event.note.rpartition("again in ")[2] for event in events]
    assert pauses == ["0.5 s", "1 s", "2 s", "4 s"]


def test_an_archive_that_comes_back_is_heard(asking: Callable[..., Site]) -> None:
    statuses = iter([503, 200])
    with serving(lambda _: (next(statuses), "application/dicom+json", b"[]")) as url, hushed():
        site = asking(url)
        with peer_of(site) as peer:
            assert gate.Gate(site, lambda _: None).ask(lambda: peer.studies(QUESTION)) == []


@pytest.mark.parametrize("token", ["", "zwei\nzeilen", "ä"])
def test_a_token_that_is_none_is_not_sent(asking: Callable[..., Site], tmp_path: Path, token: str) -> None:
    (tmp_path / "token").write_text(token, "utf-8")
    with (
        pytest.raises(SettingsError, match="token_file"),
        peer_of(asking("http://127.0.0.1:1/", 'token_file = "token"')),
    ):
        pass


def test_certificates_that_are_none_are_said(asking: Callable[..., Site], tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    with pytest.raises(SettingsError, match="PEM"), peer_of(asking("https://127.0.0.1:1/", 'ca = "ca.pem"')):
        pass


# Objects -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def image(tmp_path: Path, write_dicom: Callable[..., Path]) -> bytes:
    pixels = np.zeros((512, 512), np.uint8)
    uids = {"StudyInstanceUID": "1.2", "SeriesInstanceUID": "1.3", "SOPInstanceUID": "1.4"}
    return write_dicom(tmp_path.parent / f"{tmp_path.name}.dcm", patient_id="A", array=pixels, **uids).read_bytes()


def multipart(content: bytes) -> bytes:
    return b"\r\n--b\r\nContent-Type: application/dicom\r\n\r\n" + content + b"\r\n--b--"


KIND = 'multipart/related; type="application/dicom"; boundary=b'


@pytest.mark.parametrize("parts", [True, False])
def test_an_object_comes_in_parts_or_bare(asking: Callable[..., Site], image: bytes, *, parts: bool) -> None:
    answer = (200, KIND, multipart(image)) if parts else (200, "application/dicom", image)
    with serving(lambda _: answer) as url, hushed():
        site = asking(url)
        with Inbox.open(site) as inbox, peer_of(site) as peer:
            peer.fetch(SERIES, [Instance(uid="1.4", sop_class="")], whole=True, inbox=inbox)
            assert inbox.tally.new == 1
    [path] = site.data.glob("received/*/*/*.dcm")
    assert path.read_bytes() == image


@pytest.mark.parametrize(
    ("status", "kind", "change", "refused"),
    [
        (404, "text/plain", lambda _: b"", {}),
        (200, KIND, lambda image: image, {"unreadable": 1}),
        (200, "application/dicom", lambda _: b"<html>", {"unreadable": 1}),
        (200, "application/dicom", lambda image: image * 5, {"too large": 1}),
    ],
)
def test_an_object_that_does_not_come_is_counted_and_no_error(
    asking: Callable[..., Site],
    image: bytes,
    status: int,
    kind: str,
    change: Callable[[bytes], bytes],
    refused: dict[str, int],
) -> None:
    with serving(lambda _: (status, kind, change(image))) as url, hushed():
        site = asking(url, "max_object_mib = 1")
        with Inbox.open(site) as inbox, peer_of(site) as peer:
            peer.fetch(SERIES, [Instance(uid="1.4", sop_class="")], whole=True, inbox=inbox)
            assert {**inbox.tally.refused} == refused


def test_an_object_that_breaks_off_may_come_later(asking: Callable[..., Site], image: bytes) -> None:
    with serving(lambda _: (200, KIND, multipart(image)[:-1000])) as url, hushed():
        site = asking(url)
        with Inbox.open(site) as inbox, peer_of(site) as peer, pytest.raises(PeerAway, match="broke off"):
            peer.fetch(SERIES, [Instance(uid="1.4", sop_class="")], whole=True, inbox=inbox)
    assert list(site.data.glob("received/*/*/*")) == []


# Words ---------------------------------------------------------------------------------------------------------------


def test_a_refused_association_says_whom_to_ask() -> None:
    assert "'FEDWARD'" in str(rejected(1, 1, 3, own="FEDWARD", peer="ARCHIVE"))
    assert "'ARCHIVE'" in str(rejected(1, 1, 7, own="FEDWARD", peer="ARCHIVE"))
    assert "does not say why" in str(rejected(1, 9, 9, own="FEDWARD", peer="ARCHIVE"))
    assert isinstance(rejected(2, 3, 2, own="FEDWARD", peer="ARCHIVE"), PeerAway)
    assert not isinstance(rejected(1, 1, 3, own="FEDWARD", peer="ARCHIVE"), PeerAway)


@pytest.mark.parametrize(
    ("status", "words", "again"),
    [
        (0xA801, "'FEDWARD' as a move destination", False),
        (0xA700, "out of resources", True),
        (0xA702, "cannot send", False),
        (0xA900, "query", False),
        (0xC123, "C123", False),
        (None, "broke off", True),
    ],
)
def test_a_failed_service_says_why(status: int | None, words: str, *, again: bool) -> None:
    error = failed("C-MOVE", status, own="FEDWARD")
    assert words in str(error)
    assert isinstance(error, PeerAway) is again


def test_what_hides_in_an_error_is_found() -> None:
    outer = OSError("outer")
    outer.__cause__ = ssl.SSLError(1, "wrong version number")
    assert "does not speak TLS" in str(unreachable(outer))
    assert "nothing listens" in str(unreachable(ConnectionRefusedError()))
    assert "firewall" in str(unreachable(TimeoutError()))
    assert "broke off" in str(unreachable(OSError()))
    assert "does not say why" in str(answered("QIDO-RS", 418))


def test_no_room_is_no_fault_of_the_archive(asking: Callable[..., Site], image: bytes) -> None:
    def answer(path: str) -> tuple[int, str, bytes]:
        if path.endswith("/instances/1.4"):
            return 200, KIND, multipart(image)
        tags = ("0020000D", "1.2"), ("0020000E", "1.3"), ("00080018", "1.4")
        found = [{tag: {"Value": [uid]} for tag, uid in tags}] if "offset=0" in path else []
        return 200, "application/dicom+json", json.dumps(found).encode()

    with serving(answer) as url, hushed():
        site = asking(url, free_mib=10**9)
        with Inbox.open(site) as inbox, peer_of(site) as peer, pytest.raises(DataError, match="min_free_mib"):
            fetch(inbox, peer, Wanted(), lambda _: None)
