"""`fedward site join` while it waits: what ends the wait, and what a question that is not answered yet leaves alone."""

import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from fedward_client import cli_join
from fedward_client.cli import app
from fedward_client.credentials import Credentials
from fedward_client.member import HUB_CARD, NODE, NODE_KEY, PENDING, TLS
from fedward_client.site import Site
from fedward_common import certificates
from fedward_common.cards import HubCard
from fedward_common.certificates import Authority
from fedward_common.errors import RefusedError
from fedward_common.joining import Invitation, Joined, JoinRequest

ROOT = certificates.make_authority("west root", below=1)
ISSUING = certificates.issue_authority(ROOT, "west 2026")
WAITING = (200, Joined(status="waiting").model_dump_json())
REFUSED = (403, '{"error": "the hub\'s operator did not let this site in: ask why"}')

pytestmark = pytest.mark.usefixtures("no_proxy")


@dataclass
class Door:
    """A hub's `/v1/join` with these answers, one after the other; None cuts the connection."""

    answers: list[tuple[int, str] | Callable[[JoinRequest], str] | None] = field(default_factory=list)
    asked: list[JoinRequest] = field(default_factory=list)
    card: HubCard = field(init=False)

    def invites(self) -> Invitation:
        return Invitation.make("north", self.card.address, self.card.fingerprint, taken_back=0)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.reply(200, self.door.card.model_dump_json(exclude_none=True))

    def do_POST(self) -> None:
        asked = JoinRequest.model_validate_json(self.rfile.read(int(self.headers["content-length"])))
        self.door.asked.append(asked)
        answer = self.door.answers.pop(0)
        if callable(answer):
            self.reply(200, Joined(status="approved", certificate=answer(asked)).model_dump_json())
        elif answer is not None:
            self.reply(*answer)

    @property
    def door(self) -> Door:
        found: Door = self.server.door  # type: ignore[attr-defined]
        return found

    def reply(self, status: int, body: str) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
        pass


@pytest.fixture
def door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Door]:
    monkeypatch.setattr(cli_join, "LOOK_S", 0.01)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    (tmp_path / "server.pem").write_bytes(
        b"".join([*certificates.issue_server(ISSUING, ["127.0.0.1"]), certificates.pem(ISSUING.certificate)])
    )
    trust = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trust.load_cert_chain(tmp_path / "server.pem")
    server.socket = trust.wrap_socket(server.socket, server_side=True)
    door = Door()
    address, root = f"127.0.0.1:{server.server_port}", certificates.pem(ROOT.certificate)
    door.card = HubCard.make("west", address, ISSUING, Ed25519PrivateKey.generate(), root)
    server.door = door  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield door
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "north").mkdir()
    return tmp_path / "north"


def approved(asked: JoinRequest, by: Authority = ISSUING) -> str:
    made = certificates.issue_client(by, asked.card.site, certificates.read_request(asked.request), days=9)
    return certificates.pem(made, by.certificate).decode()


def joins(folder: Path, invitation: Invitation, *options: str) -> BaseException | None:
    return CliRunner().invoke(app, ["join", str(folder), invitation.code(), *options]).exception


def held(link: Path) -> dict[str, bytes]:
    """What makes a site a member of its hub."""
    names = (HUB_CARD, NODE, NODE_KEY, TLS, f"{PENDING}/question")
    return {name: (link / name).read_bytes() for name in names if (link / name).exists()}


def test_only_a_refusal_ends_the_wait(door: Door, folder: Path) -> None:
    door.answers = [
        WAITING,
        (502, "<html>"),
        None,
        (429, "<html>"),
        (500, '{"error": "its disk is full"}'),
        WAITING,
        REFUSED,
    ]
    error = joins(folder, door.invites())
    assert isinstance(error, RefusedError)
    assert str(error) == "the hub's operator did not let this site in: ask why"
    assert door.answers == []
    door.answers = [(502, "<html>"), approved]
    assert joins(folder, door.invites()) is not None  # the first question: it may be a wrong address
    assert joins(folder, door.invites()) is None


def test_a_membership_stays_until_another_hub_lets_the_site_in(door: Door, folder: Path) -> None:
    door.answers = [approved]
    assert joins(folder, door.invites()) is None
    link = Site.open(folder).link
    (link / NODE).write_text('{"node": 1}')
    (link / PENDING).mkdir(exist_ok=True)
    (link / PENDING / "question").write_text("{}")
    before = held(link)
    assert len(before) == 5
    root = certificates.make_authority("east root", below=1)
    west, east = door.card, certificates.issue_authority(root, "east 2026")
    pem = certificates.pem(root.certificate)
    door.card = HubCard.make("east", west.address, east, Ed25519PrivateKey.generate(), pem)
    assert joins(folder, door.invites(), "--no-wait") is not None  # whoever answers there is not below its root
    assert held(link) == before
    door.card = HubCard.make("west", west.address, ISSUING, Ed25519PrivateKey.generate(), west.ca.encode())
    invitation = door.invites()
    door.answers = [WAITING, REFUSED]
    assert joins(folder, invitation, "--no-wait", "--new-node-key") is None
    assert isinstance(joins(folder, invitation), RefusedError)
    assert held(link) == before
    card = HubCard.make("east", west.address, east, Ed25519PrivateKey.generate(), pem)
    credentials = Credentials(link)
    asked = credentials.asking(card, door.asked[0].card, Ed25519PrivateKey.generate(), "0" * 32)
    assert not credentials.take(card, Joined(status="waiting"))
    assert held(link) == before
    assert credentials.take(card, Joined(status="approved", certificate=approved(asked, east)))
    after = held(link)
    assert sorted(after) == sorted([HUB_CARD, NODE_KEY, TLS])  # nothing of the other hub's
    assert HubCard.read(link / HUB_CARD) == card


def test_a_new_node_key_is_asked_with_until_it_is_let_in(door: Door, folder: Path) -> None:
    door.answers = [approved]
    assert joins(folder, door.invites()) is None
    link = Site.open(folder).link
    before = held(link)
    first, second = door.invites(), door.invites()
    door.answers = [WAITING, WAITING, WAITING, approved, approved]
    for options in (("--no-wait", "--new-node-key"), ("--no-wait", "--new-node-key"), ("--no-wait",)):
        assert joins(folder, first, *options) is None  # "run the same call again"
    old, *asked = (each.card.node_key for each in door.asked)
    assert len(set(asked)) == 1
    assert old not in asked
    assert held(link) == before
    assert joins(folder, second) is None  # another code, with the key that there is
    assert door.asked[-1].card.node_key == old
    assert (link / NODE_KEY).read_bytes() == before[NODE_KEY]
    third = door.invites()
    assert joins(folder, third, "--new-node-key") is None
    new = door.asked[-1].card.node_key
    assert new not in {old, *asked}
    door.answers = [approved]
    assert joins(folder, third) is None
    assert door.asked[-1].card.node_key == new  # which is the site's now
    assert not list(link.glob("asked*"))


def test_a_code_that_is_refused_gives_the_site_no_name(door: Door, folder: Path) -> None:
    door.answers = [REFUSED, WAITING]
    used = Invitation.make("south", door.card.address, door.card.fingerprint, taken_back=0)
    assert isinstance(joins(folder, used), RefusedError)
    assert not (folder / "site.toml").exists()
    assert joins(folder, door.invites(), "--no-wait") is None
    assert Site.open(folder).name == "north"
    door.answers = [REFUSED]
    assert isinstance(joins(folder, door.invites()), RefusedError)
    assert Site.open(folder).outputs, "the settings that were there stay"


def test_a_code_from_standard_input_is_in_no_list_of_processes(door: Door, folder: Path) -> None:
    door.answers = [WAITING]
    code = door.invites().code()
    done = CliRunner().invoke(app, ["join", str(folder), "-", "--no-wait"], input=f"{code[:40]}\n{code[40:]}\n")
    assert done.exit_code == 0, done.output
    assert Site.open(folder).name == "north"
