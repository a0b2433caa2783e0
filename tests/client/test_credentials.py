"""A site's certificate in its link folder: used whole, renewed in time, told of by doctor, refused when damaged."""

import ssl
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedward_client import doctor_way
from fedward_client.cli_watch import _ends_soon
from fedward_client.credentials import Credentials, hub_of
from fedward_client.member import HUB_CARD
from fedward_client.probe import context
from fedward_client.supernode import Renewal
from fedward_common import certificates, pki
from fedward_common.cards import HubCard
from fedward_common.errors import LinkError, SettingsError
from fedward_common.joining import Invitation

ROOT = certificates.make_authority("west root", below=1)
ISSUING = certificates.issue_authority(ROOT, "west 2026")
CA = certificates.pem(ROOT.certificate).decode()


@pytest.fixture
def credentials(tmp_path: Path) -> Credentials:
    return Credentials(tmp_path)


def give(credentials: Credentials, *, days: int, left: int) -> None:
    """Put a certificate in its place that lasts `days`, `left` of them from now."""
    own, request = certificates.make_request("north")
    begin = datetime.now(UTC) - timedelta(days=days - left)
    made = certificates.issue_client(
        ISSUING, "north", certificates.read_request(request.decode()), days=days, starts=begin
    )
    pki.write_private(credentials.file, own + certificates.pem(made, ISSUING.certificate), replace=True)


@pytest.mark.parametrize(("days", "left", "due"), [(90, 31, False), (90, 29, True), (1, 0, True), (90, -1, True)])
def test_it_is_renewed_when_a_third_of_its_life_is_left(
    credentials: Credentials, days: int, left: int, due: bool
) -> None:
    assert not credentials.is_due()  # there is none
    give(credentials, days=days, left=left)
    assert credentials.is_due() == due


@pytest.mark.parametrize(
    ("left", "status", "words"),
    [(60, "ok", "good until"), (29, "warn", "it ends on"), (-1, "fail", "it expired on"), (None, "fail", "has none")],
)
def test_doctor_tells_of_it(credentials: Credentials, left: int | None, status: str, words: str) -> None:
    if left is not None:
        give(credentials, days=90, left=left)
    found = doctor_way.own_certificate("certificate", credentials.link)
    assert (found.status, bool(found.advice)) == (status, status != "ok")
    assert words in found.found


def test_status_shows_an_end_that_is_near() -> None:
    now = datetime.now(UTC)
    assert _ends_soon(None) == _ends_soon((now + timedelta(days=31)).isoformat()) == ""
    near = now + timedelta(days=29)
    assert _ends_soon(near.isoformat()).startswith(f"ends on {near:%Y-%m-%d}: keep this site up, which renews it")


def test_tls_shows_it_and_none_where_there_is_none(credentials: Credentials) -> None:
    credentials.show(context(CA))
    give(credentials, days=90, left=60)
    assert isinstance(credentials.show(context(CA)), ssl.SSLContext)


def test_a_file_that_is_damaged_or_open_to_others_is_refused(credentials: Credentials) -> None:
    give(credentials, days=90, left=60)
    whole = credentials.file.read_bytes()
    credentials.file.chmod(0o644)
    with pytest.raises(SettingsError, match="can be read by others"):
        credentials.show(context(CA))
    credentials.file.chmod(0o600)
    other = certificates.make_request("north")[0]
    for wrong in (whole[:100], other + whole[whole.index(b"-----BEGIN CERT") :]):
        credentials.file.write_bytes(wrong)
        with pytest.raises(SettingsError, match=r"tls\.pem is damaged: ask the hub's operator for a code"):
            credentials.show(context(CA))
    credentials.file.write_bytes(b"nothing")
    assert doctor_way.own_certificate("certificate", credentials.link).status == "fail"


# What the root took back ---------------------------------------------------------------------------------------------

STOLEN = certificates.issue_authority(ROOT, "west 2025")


def shown(address: str, by: certificates.Authority, *gone: certificates.Authority) -> HubCard:
    now = datetime.now(UTC)
    listed = {each.certificate.serial_number: now for each in gone}
    listing = certificates.revocations(ROOT, listed, ends=now + timedelta(days=9))
    return HubCard.make("west", address, by, Ed25519PrivateKey.generate(), CA.encode(), taken_back=listing)


@pytest.fixture
def hub(https_server: Callable[..., str], no_proxy: None) -> Callable[..., HubCard]:
    """`hub(by, *gone)`: a gateway of this authority's, whose card says that these are taken back."""

    def start(by: certificates.Authority, *gone: certificates.Authority) -> HubCard:
        pair, cards = certificates.issue_server(by, ["127.0.0.1"]), list[HubCard]()

        def body(address: str) -> bytes:
            cards.append(shown(address, by, *gone))
            return cards[0].model_dump_json().encode()

        https_server(*pair, certificates.pem(by.certificate), body=body)
        return cards[0]

    return start


def test_a_site_learns_what_its_hub_took_back(credentials: Credentials, hub: Callable[..., HubCard]) -> None:
    now = hub(ISSUING, STOLEN)
    before = shown(now.address, ISSUING)
    before.write(credentials.link / HUB_CARD)
    thief = hub(STOLEN)  # on another port, and else the hub
    trust = context(before.ca, before.distrusted)
    renewal = Renewal(credentials, before, "north", trust, threading.Event())
    assert credentials.newer(thief) == thief  # nobody told that site yet
    renewal()
    assert HubCard.read(credentials.link / HUB_CARD) == renewal.card == now
    assert trust.distrusted == {STOLEN.certificate.serial_number}
    with pytest.raises(LinkError, match="is of an authority that the hub took back"):
        credentials.newer(shown(thief.address, ISSUING, STOLEN))


def test_a_certificate_that_join_brought_ends_the_network_side(credentials: Credentials) -> None:
    """Its open connections show the one before."""
    stopping, card = threading.Event(), shown("127.0.0.1:9", ISSUING)
    renewal = Renewal(credentials, card, "north", context(card.ca), stopping)
    renewal()  # the hub does not answer, which is logged
    assert not stopping.is_set()
    credentials.file.write_bytes(b"another")
    renewal()
    assert stopping.is_set()
    assert renewal.outdated


def test_a_list_that_names_fewer_is_not_taken(credentials: Credentials, hub: Callable[..., HubCard]) -> None:
    known = shown(hub(ISSUING).address, ISSUING, STOLEN)
    assert credentials.newer(known) == known
    assert not (credentials.link / HUB_CARD).exists()


def test_a_card_from_before_a_code_is_not_taken(hub: Callable[..., HubCard]) -> None:
    thief, now = hub(STOLEN), hub(ISSUING, STOLEN)
    code = Invitation.make("north", now.address, now.fingerprint, taken_back=1)
    assert hub_of(code) == now
    with pytest.raises(LinkError, match="shows a card from before the hub took back what was stolen"):
        hub_of(replace(code, address=thief.address))
