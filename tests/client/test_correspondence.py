"""The network side between a hub's API and a real data side: what it carries, and what goes wrong without a trace."""

import json
import logging
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedward_client import correspondence
from fedward_client.correspondence import Correspondence
from fedward_client.desk import Desk
from fedward_client.executor import Control, serving
from fedward_client.executor import Work as WorkServicer
from fedward_client.handlers import Hospital
from fedward_client.hub_api import MAX_ANSWER_BYTES, HubApi
from fedward_client.member import WORK_SOCKET, Member
from fedward_client.probe import context
from fedward_client.reporting import Reporter
from fedward_client.source import SiteSource
from fedward_client.spool import IN
from fedward_client.steward import approve, pause
from fedward_common import certificates
from fedward_common.cards import HubCard
from fedward_common.errors import LinkError
from fedward_common.site_messages import APPROVALS, STATUS, STUDIES, ApprovalState, AskedStudy, HubNews
from fedward_common.study import StudySpec

AUTHORITY = certificates.make_authority("the hub")
TODAY = datetime.now(UTC).date()
MemberMaker = Callable[..., Member]
StudyMaker = Callable[..., StudySpec]

pytestmark = pytest.mark.usefixtures("no_proxy")


@dataclass
class FakeHub:
    """An https server that answers as a hub's gateway, and remembers what it was told."""

    card: HubCard
    news: HubNews = field(default_factory=HubNews)
    status: int = 200  # of its answers
    answer: bytes | None = None  # instead of the news
    asked: list[str | None] = field(default_factory=list)  # the tags that were asked with
    told: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    @property
    def api(self) -> HubApi:
        return HubApi(self.card, context(self.card.ca))

    def since(self) -> list[tuple[str, dict[str, Any]]]:
        """What it was told since it was asked for that."""
        found, self.told = self.told, []
        return found


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        hub = self.hub
        assert self.path == STUDIES
        body = hub.news.model_dump_json().encode() if hub.answer is None else hub.answer
        tag = f'"{hash(body)}"'
        hub.asked.append(self.headers["if-none-match"])
        same = self.headers["if-none-match"] == tag
        self.reply(304 if same else hub.status, b"" if same else body, tag)

    def do_POST(self) -> None:
        said = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.hub.told.append((self.path, said))
        self.reply(204 if self.hub.status == 200 else self.hub.status, b"", "")

    @property
    def hub(self) -> FakeHub:
        found: FakeHub = self.server.hub  # type: ignore[attr-defined]
        return found

    def reply(self, status: int, body: bytes, tag: str) -> None:
        self.send_response(status)
        self.send_header("etag", tag)
        if status not in {204, 304}:
            self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
        pass


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FakeHub]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    address = f"127.0.0.1:{server.server_port}"
    (tmp_path / "server.pem").write_bytes(b"".join(certificates.issue_server(AUTHORITY, ["127.0.0.1"])))
    trust = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trust.load_cert_chain(tmp_path / "server.pem")
    server.socket = trust.wrap_socket(server.socket, server_side=True)
    server.daemon_threads = True
    server.hub = FakeHub(HubCard.make("hub", address, AUTHORITY, Ed25519PrivateKey.generate()))  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server.hub  # type: ignore[attr-defined]
    server.shutdown()
    thread.join()
    server.server_close()


@contextmanager
def data_side(at: Member) -> Iterator[None]:
    outbox = at.outbox(spool=True)
    desk = Desk(Hospital(SiteSource(at.site), outbox.tell), outbox, at.ledger)
    work = WorkServicer(desk, at.site.spool / IN, Reporter(at, desk))
    with serving(at.site, work, Control(at, desk, threading.Event())):
        yield


def between(hub: FakeHub, at: Member, **more: Any) -> Correspondence:
    return Correspondence(hub.card, context(hub.card.ca), at.site.spool / WORK_SOCKET, threading.Event(), **more)


def asks(study: StudySpec, approval: ApprovalState | None = None) -> HubNews:
    text = study.canonical_json().decode()
    return HubNews(studies=(AskedStudy(run="run-1", digest=study.digest, study=text, approval=approval),))


def states(told: list[tuple[str, dict[str, Any]]]) -> list[str]:
    return [each["state"] for path, said in told if path == APPROVALS for each in said["approvals"]]


def test_what_is_new_is_carried_and_the_rest_is_not(
    hub: FakeHub, member: MemberMaker, roster_study: StudyMaker
) -> None:
    at = member()
    study = roster_study(at)
    hub.news = asks(study)
    carrier = between(hub, at)
    with data_side(at), hub.api as api:
        assert carrier.exchange(api)
        assert [each["digest"] for each in at.status()["waiting"]] == [study.digest]
        first = hub.since()
        assert [path for path, _ in first] == [APPROVALS, STATUS]
        assert states(first) == ["awaiting"]
        hub.news = asks(study, "awaiting")
        assert carrier.exchange(api)
        assert not carrier.exchange(api)
        assert hub.since() == []
        assert hub.asked[0] is None
        assert hub.asked[-1] is not None
        approve(at, study, TODAY)
        assert carrier.exchange(api)
        assert states(hub.since()) == ["approved"]
        hub.news = asks(study, "awaiting")  # restored from a backup
        carrier.exchange(api)
        assert states(hub.since()) == ["approved"]
        pause(at, "")
        assert carrier.exchange(api)
        assert [said["state"] for path, said in hub.since() if path == STATUS] == ["paused"]


def test_a_status_is_told_again_after_a_while(
    hub: FakeHub, member: MemberMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(correspondence, "TOLD_AGAIN_S", 0.0)
    at = member()
    carrier = between(hub, at)
    with data_side(at), hub.api as api:
        for _ in range(2):
            carrier.exchange(api)
    assert [path for path, _ in hub.since()] == [STATUS, STATUS]


def test_a_data_side_that_is_away_is_told_where_it_told_of_itself_before(hub: FakeHub, member: MemberMaker) -> None:
    at = member()
    carrier = between(hub, at)
    with hub.api as api:
        carrier.exchange(api)
        assert hub.since() == []
        with data_side(at):
            carrier.exchange(api)
        assert carrier.exchange(api)
        [(_, before), (_, after)] = hub.since()
        assert (before["state"], after["state"]) == ("idle", "silent")
        assert after["faults"] == [correspondence.SILENT]
        with data_side(at):
            carrier.exchange(api)
        assert [said["state"] for _, said in hub.since()] == ["idle"]


@pytest.mark.parametrize(
    ("status", "answer", "words"),
    [
        (404, b'{"error": "this hub has nothing there"}', "this hub has nothing there"),
        (403, b'{"error": "\\u001b[2J"}', r"\\x1b\[2J"),
        (303, b"", "HTTP status 303"),
        (502, b"<html>", "its SuperLink not|status 502"),
        (200, b"<html>", "is not agreed"),
        (200, b'{"studies": 7}', "is not agreed"),
        (200, b"\xff", "is not agreed"),
        (200, b"x" * (MAX_ANSWER_BYTES + 1), "is not agreed"),
    ],
)
def test_what_a_hub_answers_wrongly_is_one_sentence(
    hub: FakeHub, member: MemberMaker, status: int, answer: bytes, words: str
) -> None:
    at = member()
    hub.status, hub.answer = status, answer
    with hub.api as api, pytest.raises(LinkError, match=words):
        between(hub, at).exchange(api)


def test_in_its_thread_it_goes_on_after_a_failure_and_says_it_once(
    hub: FakeHub, member: MemberMaker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("SHORTEST_PAUSE_S", "LONGEST_PAUSE_S", "PAUSE_AFTER_FAILURE_S"):
        monkeypatch.setattr(correspondence, name, 0.05)
    at = member()
    hub.status, hub.answer = 404, b'{"error": "this hub has nothing there"}'
    looked = list[float]()

    def looks() -> None:
        """As a certificate is looked at: whatever the hub answers, and whatever the site is at."""
        looked.append(time.monotonic())

    def wait_until(there: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not there():
            assert time.monotonic() < deadline, "waited in vain"
            time.sleep(0.02)

    with caplog.at_level(logging.WARNING), data_side(at), between(hub, at, renewal=looks) as carrier:
        wait_until(lambda: len(hub.asked) >= 3)
        assert len(looked) >= 3
        hub.status, hub.answer = 200, None
        wait_until(lambda: bool(hub.told))
    assert carrier.stopping.is_set()
    said = [record.getMessage() for record in caplog.records if record.name == correspondence.__name__]
    assert said == ["nothing goes between the hub and this site around rounds: this hub has nothing there"]
