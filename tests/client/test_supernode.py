"""The network side where its hub is not as it should be: it says why to its steward, stays up, and tries again."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedward_client.bulk import Bulk
from fedward_client.fleet import Fleet
from fedward_client.member import (
    HUB_CARD,
    LINK_STATUS,
    NODE,
    NODE_KEY,
    PENDING,
    LinkSettings,
    join,
    read_json,
    write_link_settings,
)
from fedward_client.pending import Pending, PendingFolder
from fedward_client.probe import context
from fedward_client.site import Site
from fedward_client.spool import IN, Parcel
from fedward_client.spool_writer import growing_name
from fedward_client.supernode import LONGEST_PAUSE_S, Backoff, Link
from fedward_common import certificates, pki
from fedward_common.bulk import Manifest
from fedward_common.cards import HubCard
from fedward_common.errors import LinkError

AUTHORITY = certificates.make_authority("the hub")


@pytest.fixture
def joined(site_folder: Callable[..., Path], tmp_path: Path) -> Callable[..., Site]:
    """`joined(address, authority)`: a site that has the card of a hub at this address."""

    def make(address: str, authority: certificates.Authority = AUTHORITY) -> Site:
        card = tmp_path / "hub.json"
        HubCard.make("hub", address, authority, Ed25519PrivateKey.generate()).write(card)
        return join(site_folder({"A": "benign"}), HubCard.read(card))[0]

    return make


@contextmanager
def supernode(site: Site) -> Iterator["subprocess.Popen[bytes]"]:
    """The network side of a site as a process; without walls, which are tested elsewhere."""
    command = [sys.executable, "-m", "fedward_common", "site", "supernode", str(site.link), "--unsafe-no-walls"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.terminate()
            assert process.wait(30) == 0


def reason(site: Site, process: "subprocess.Popen[bytes]") -> str:
    """What the network side says of why it waits; it has tried again by then."""
    deadline = time.monotonic() + 60
    seen: set[str] = set()
    while time.monotonic() < deadline and process.poll() is None:
        status: dict[str, Any] = read_json(site.link / LINK_STATUS)
        if status.get("state") == "waiting":
            seen.add(status["since"])
        if len(seen) == 2:
            return str(status["reason"])
        time.sleep(0.02)
    raise AssertionError(f"it ended or never waited twice: {process.poll()}")


@pytest.mark.usefixtures("no_proxy")
def test_a_hub_that_is_not_up(joined: Callable[..., Site], free_port: int) -> None:
    site = joined(f"127.0.0.1:{free_port}")
    with supernode(site) as process:
        assert f"the hub 127.0.0.1:{free_port} refuses the connection" in reason(site, process)


@pytest.mark.usefixtures("no_proxy")
def test_a_hub_with_another_authority(joined: Callable[..., Site], https_server: Callable[..., str]) -> None:
    other = certificates.make_authority("somebody else")
    site = joined(https_server(*certificates.issue_server(other, ["127.0.0.1"])))
    with supernode(site) as process:
        assert "somebody else" in reason(site, process)


@pytest.mark.usefixtures("no_proxy")
def test_a_hub_whose_certificate_expired(joined: Callable[..., Site], https_server: Callable[..., str]) -> None:
    starts = datetime.now(UTC) - timedelta(days=40)
    site = joined(https_server(*certificates.issue_server(AUTHORITY, ["127.0.0.1"], days=10, starts=starts)))
    with supernode(site) as process:
        assert "expired" in reason(site, process)


@pytest.mark.usefixtures("no_proxy")
def test_something_that_is_no_hub(joined: Callable[..., Site], https_server: Callable[..., str]) -> None:
    site = joined(https_server(*certificates.issue_server(AUTHORITY, ["127.0.0.1"])))
    with supernode(site) as process:
        assert "the hub answered with status 501" in reason(site, process)  # to what it is posted


def test_proxy_variables_that_make_no_sense(
    joined: Callable[..., Site], free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = joined(f"hub.invalid:{free_port}")
    monkeypatch.setenv("HTTPS_PROXY", "ftp://proxy.invalid:1")
    command = [sys.executable, "-m", "fedward_common", "site", "supernode", str(site.link), "--unsafe-no-walls"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "fedward: " in done.stderr
    assert "proxy" in done.stderr.lower()
    assert "Traceback" not in done.stderr.split("fedward: ")[-1]


def test_without_walls_it_does_not_start(joined: Callable[..., Site], free_port: int) -> None:
    site = joined(f"127.0.0.1:{free_port}")
    command = [sys.executable, "-m", "fedward_common", "site", "supernode", str(site.link)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "this process is not isolated" in done.stderr
    assert "start it with `fedward site up`" in done.stderr


def test_pauses_grow_to_a_minute_with_jitter() -> None:
    backoff = Backoff()
    pauses = [backoff.next() for _ in range(20)]
    assert pauses[0] <= 0.5
    assert all(LONGEST_PAUSE_S / 2 <= pause <= LONGEST_PAUSE_S for pause in pauses[10:])
    assert len(set(pauses[10:])) > 1
    backoff.reset()
    assert backoff.next() <= 0.5


# What waits ----------------------------------------------------------------------------------------------------------


def pending(number: int) -> Pending:
    return Pending.of(b"message", b"tree", message_id=f"{number:064x}", run=7, kind="train")


def test_what_waits_outlives_the_process(tmp_path: Path) -> None:
    folder = PendingFolder(tmp_path)
    first, second = pending(1), pending(2)
    folder.put(first)
    folder.put(second)
    answered = first.model_copy(update={"config": "{}", "answer": "{}", "parcel": Parcel(sha256="ab" * 32, size=8)})
    folder.put(answered)
    again = PendingFolder(tmp_path).all()
    assert {each.message_id: each for each in again} == {first.message_id: answered, second.message_id: second}
    assert [each.is_answered for each in again if each == answered] == [True]
    assert second.raw == (b"message", b"tree")
    folder.remove(first)
    folder.remove(first)
    assert PendingFolder(tmp_path).all() == [second]


def test_a_torn_file_is_passed_over(tmp_path: Path) -> None:
    folder = PendingFolder(tmp_path)
    folder.put(pending(1))
    (tmp_path / PENDING / f"{2:064x}.json").write_text('{"message": "')
    assert folder.all() == [pending(1)]


@pytest.mark.parametrize("name", ["../hub", "", "0" * 63, "A" * 64, "0" * 64 + "\n"])
def test_a_hub_names_no_file_of_the_sites(name: str) -> None:
    with pytest.raises(LinkError, match="a message whose id is none"):
        Pending.of(b"message", b"tree", message_id=name, run=7, kind="train")


def test_what_came_in_part_of_a_run_that_is_over_goes_with_the_next_model(joined: Callable[..., Site]) -> None:
    site = joined("127.0.0.1:9092")
    write_link_settings(site)
    settings = LinkSettings.read(site.link)
    over, wanted = (Manifest.of(memoryview(data), run="run-1", trip=1) for data in (b"first", b"second"))
    left, begun = (settings.spool / IN / growing_name(each) for each in (over, wanted))
    fleet = Fleet(HubCard.read(site.link / HUB_CARD), pki.load_node_key(site.link / NODE_KEY))
    with closing(fleet):
        trust = context(HubCard.read(site.link / HUB_CARD).ca)
        with closing(Bulk(HubCard.read(site.link / HUB_CARD), trust, settings, threading.Event())) as bulk:
            link = Link(site.link, settings, fleet, threading.Event(), bulk)
            asked = pending(1).model_copy(update={"config": "{}", "manifest": wanted})
            link.pending.put(asked)
            left.write_bytes(b"fir")
            begun.write_bytes(b"sec")
            with pytest.raises(LinkError):  # nobody answers
                link._fetch_beside(asked, wanted)
            assert not left.exists()
            assert begun.exists()


def test_another_hub_gets_nothing_of_the_last_ones(joined: Callable[..., Site], tmp_path: Path) -> None:
    site = joined("127.0.0.1:9092")
    (site.link / NODE).write_text('{"node": 1}')
    PendingFolder(site.link).put(pending(1))
    join(site.folder, HubCard.read(tmp_path / "hub.json"))  # the same card again
    assert (site.link / NODE).exists()
    other = tmp_path / "other.json"
    HubCard.make("other", "127.0.0.1:9092", certificates.make_authority("other"), Ed25519PrivateKey.generate()).write(
        other
    )
    join(site.folder, HubCard.read(other))
    assert not (site.link / NODE).exists()
    assert PendingFolder(site.link).all() == []
    assert HubCard.read(site.link / HUB_CARD).hub == "other"
