"""Chunks on their way to a site, over real TLS and a real proxy: from its hub only, and no more than was asked for."""

import os
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedward_client.bulk import Bulk
from fedward_client.fleet import RunOverError
from fedward_client.member import LinkSettings
from fedward_client.probe import context
from fedward_client.spool import IN, OUT, read_block
from fedward_client.spool_writer import growing_name
from fedward_common import certificates
from fedward_common.bulk import CHUNK_BYTES, Manifest
from fedward_common.cards import HubCard
from fedward_common.errors import LinkError

pytestmark = pytest.mark.usefixtures("no_proxy")

HUB = certificates.make_authority("hub")
SERVER = certificates.issue_server(HUB, ["127.0.0.1"])
CHUNK = os.urandom(CHUNK_BYTES)
MANIFEST = Manifest.of(memoryview(CHUNK), run="run-1", trip=1)

Start = Callable[..., str]


@pytest.fixture
def settings(tmp_path: Path) -> LinkSettings:
    for where in (IN, OUT):
        (tmp_path / "spool" / where).mkdir(parents=True)
    return LinkSettings(site="north", spool=tmp_path / "spool", spool_bytes=2**30, hidden=())


def fetch(address: str, settings: LinkSettings) -> bytes:
    """What a site gets of a hub at this address."""
    card = HubCard.make("hub", address, HUB, Ed25519PrivateKey.generate())
    with closing(Bulk(card, context(card.ca), settings, threading.Event())) as way:
        parcel = way.fetch(MANIFEST, IN, lambda *_: None)
    return bytes(read_block(settings.spool / IN, parcel))


def test_a_chunk_comes(https_server: Start, settings: LinkSettings) -> None:
    assert fetch(https_server(*SERVER, body=CHUNK), settings) == CHUNK


def test_nobody_but_the_hub_is_believed(https_server: Start, settings: LinkSettings) -> None:
    stranger = certificates.make_authority("stranger")
    address = https_server(*certificates.issue_server(stranger, ["127.0.0.1"]), body=CHUNK)
    with pytest.raises(LinkError, match=r"TLS interception: .* is issued by 'stranger'"):
        fetch(address, settings)
    with pytest.raises(LinkError, match=r"is made out to elsewhere\.example"):
        fetch(https_server(*certificates.issue_server(HUB, ["elsewhere.example"]), body=CHUNK), settings)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"body": CHUNK + b"x"}, "sent another chunk than it was asked for"),
        ({"body": CHUNK[:-1]}, "sent another chunk than it was asked for"),
        ({"body": CHUNK[:-1] + b"x"}, "sent another chunk than it was asked for"),
        ({"body": CHUNK[:1000], "says": len(CHUNK)}, "cut the connection"),
        ({"body": CHUNK + b"x", "says": 2**50}, "sent another chunk than it was asked for"),
        ({"status": 403}, r"does not accept this site \(403\)"),
        ({"status": 302}, r"HTTP status 302"),
        ({"status": 502}, r"has its gateway up and its SuperLink not \(502\)"),
        ({"status": 507}, "its quota is used up"),
    ],
)
def test_what_is_no_chunk_is_not_taken(
    https_server: Start, settings: LinkSettings, answer: dict[str, bytes | int], words: str
) -> None:
    with pytest.raises(LinkError, match=words):
        fetch(https_server(*SERVER, **answer), settings)
    assert (settings.spool / IN / growing_name(MANIFEST)).stat().st_size == 0


def test_a_run_that_is_over_is_told(https_server: Start, settings: LinkSettings) -> None:
    with pytest.raises(RunOverError, match="has put away"):
        fetch(https_server(*SERVER, status=404), settings)


def test_a_port_that_is_closed_is_told(free_port: int, settings: LinkSettings) -> None:
    with pytest.raises(LinkError, match="refuses the connection"):
        fetch(f"127.0.0.1:{free_port}", settings)


def test_a_proxy_gets_its_password(
    https_server: Start, tinyproxy: Start, settings: LinkSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, proxy = https_server(*SERVER, body=CHUNK), tinyproxy("BasicAuth steward secret")
    monkeypatch.setenv("HTTPS_PROXY", f"http://{proxy}")
    with pytest.raises(LinkError, match=r"asks for a user name and a password \(407\)"):
        fetch(address, settings)
    monkeypatch.setenv("HTTPS_PROXY", f"http://steward:s%65cret@{proxy}")
    assert fetch(address, settings) == CHUNK
