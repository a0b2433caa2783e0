"""The cards that a steward and an operator exchange: what comes back, and what is refused."""

import itertools
import json
import stat
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fedward_common import __version__, certificates, pki
from fedward_common.cards import MAX_CARD_BYTES, HubCard, SiteCard
from fedward_common.certificates import Authority
from fedward_common.errors import SettingsError
from fedward_common.study import SiteEntry

CHANGED = (
    "was changed after it was made, or is forged: ask for the card again, and compare its fingerprint by telephone"
)


def node_line(folder: Path) -> str:
    path = folder / "node.key"
    pki.write_private(path, pki.make_node_key(), replace=True)
    return pki.node_public_line(pki.load_node_key(path))


@pytest.fixture(scope="module")
def signing_key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


@pytest.fixture(scope="module")
def authority() -> Authority:
    return certificates.make_authority("west")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, signing_key: Ed25519PrivateKey) -> SiteCard:
    return SiteCard.make("north", node_line(tmp_path_factory.mktemp("north")), signing_key)


@pytest.fixture(scope="module")
def hub(authority: Authority, signing_key: Ed25519PrivateKey) -> HubCard:
    return HubCard.make("west", "hub.example.org:9092", authority, signing_key)


@pytest.fixture(scope="module")
def below_root(signing_key: Ed25519PrivateKey) -> HubCard:
    """The card of a hub whose root is offline."""
    root = certificates.make_authority("west root", below=1)
    issuer = certificates.issue_authority(root, "west 2026")
    pem = certificates.pem(root.certificate)
    return HubCard.make("west", "hub.example.org:443", issuer, signing_key, pem, taken_back=taken_back(root))


def taken_back(root: Authority, *gone: Authority) -> bytes:
    """The root's list of these authorities."""
    now = datetime.now(UTC)
    serials = {each.certificate.serial_number: now for each in gone}
    return certificates.revocations(root, serials, ends=now + timedelta(days=9))


def changed(card: SiteCard | HubCard, **changes: Any) -> bytes:
    return json.dumps({**card.model_dump(), **changes}).encode()


def refusal(read: Callable[..., object], *arguments: object) -> str:
    with pytest.raises(SettingsError) as refused:
        read(*arguments)
    return str(refused.value)


# A site's card -------------------------------------------------------------------------------------------------------


def test_a_sites_card_comes_back(tmp_path: Path, site: SiteCard, signing_key: Ed25519PrivateKey) -> None:
    site.write(tmp_path / "north.json")
    assert SiteCard.read(tmp_path / "north.json") == site
    assert stat.S_IMODE((tmp_path / "north.json").stat().st_mode) == 0o644
    assert (site.site, site.fedward) == ("north", __version__)
    assert site.signing_key == pki.public_hex(signing_key.public_key())
    assert site.fingerprint == pki.fingerprint(signing_key.public_key())
    SiteEntry(name=site.site, fingerprint=site.fingerprint)  # fits a study's roster


def test_a_card_may_be_formatted_otherwise(site: SiteCard) -> None:
    keys = reversed(list(site.model_dump()))
    assert SiteCard.parse(json.dumps({key: getattr(site, key) for key in keys}, indent=8).encode()) == site


def test_a_card_of_another_key_has_another_fingerprint(site: SiteCard) -> None:
    forged = SiteCard.make("north", site.node_key, Ed25519PrivateKey.generate())
    assert SiteCard.parse(changed(forged)).fingerprint != site.fingerprint


def test_a_changed_sites_card_is_refused(tmp_path: Path, site: SiteCard) -> None:
    other = pki.public_hex(Ed25519PrivateKey.generate().public_key())
    changes: list[dict[str, str]] = [
        {"site": "south"},
        {"node_key": node_line(tmp_path)},
        {"signing_key": other},
        {"fedward": "9.9"},
        {"signature": ""},
        {"signature": "A" * 88},
        {"signature": "é" * 88},
    ]
    for change in changes:
        assert refusal(SiteCard.parse, changed(site, **change), "north.json") == f"north.json {CHANGED}"


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")  # of a changed certificate
@given(data=st.data())
def test_any_changed_character_of_a_value_is_refused(
    site: SiteCard, hub: HubCard, below_root: HubCard, data: st.DataObject
) -> None:
    cards: list[SiteCard | HubCard] = [site, hub, below_root]
    card = data.draw(st.sampled_from(cards))
    key = data.draw(st.sampled_from(sorted(set(card.model_dump(exclude_none=True)) - {"signature"})))
    value = getattr(card, key)
    place = data.draw(st.integers(0, len(value) - 1))
    letter = data.draw(st.characters(min_codepoint=32, max_codepoint=126).filter(lambda letter: letter != value[place]))
    text = value[:place] + letter + value[place + 1 :]
    with pytest.raises(SettingsError):
        type(card).parse(changed(card, **{key: text}))


def test_any_changed_character_of_the_roots_list_is_refused(below_root: HubCard) -> None:
    text = below_root.taken_back
    assert text is not None
    for place, letter in itertools.product(range(len(text)), "A0z/ "):
        if letter != text[place]:
            with pytest.raises(SettingsError):
                HubCard.parse(changed(below_root, taken_back=text[:place] + letter + text[place + 1 :]))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"site": "North"}, "site: String should match pattern"),
        ({"site": "north\n"}, "site: String should match pattern"),
        ({"site": 7}, "site: Input should be a valid string"),
        ({"node_key": "ssh-rsa AAAA"}, "node_key: the node key is no line of an OpenSSH P-384 public key"),
        ({"signing_key": "12"}, "signing_key: a public key is 64 lower-case hexadecimal digits"),
        ({"fedward": "0.1 \x1b[2J"}, "fedward: String should match pattern"),
        ({"signature": "A" * 300}, "signature: String should have at most 256 characters"),
        ({"more\x1b[2J" + "x" * 100: 1}, r"more\x1b[2Jxxxxxxxx"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_what_is_no_sites_card_is_told(site: SiteCard, change: dict[str, Any], reason: str) -> None:
    told = refusal(SiteCard.parse, changed(site, **change), "north.json")
    assert told.startswith(f"north.json is no site's card ({reason}")
    assert told.endswith("): ask for it again")
    assert told.isprintable()


def test_a_sites_card_with_something_missing_is_refused(site: SiteCard) -> None:
    for key in site.model_dump():
        rest = {name: value for name, value in site.model_dump().items() if name != key}
        assert f"({key}: Field required)" in refusal(SiteCard.parse, json.dumps(rest).encode())


@pytest.mark.parametrize("name", ["North", "", "a" * 64, "a b"])
def test_a_card_is_not_made_for_what_is_no_name(site: SiteCard, signing_key: Ed25519PrivateKey, name: str) -> None:
    with pytest.raises(ValidationError):
        SiteCard.make(name, site.node_key, signing_key)


# A hub's card --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("127.0.0.1:9092", "127.0.0.1", 9092),
        ("hub.example.org:443", "hub.example.org", 443),
        ("[::1]:65535", "::1", 65535),
        ("h:1", "h", 1),
    ],
)
def test_a_hubs_card_comes_back(
    tmp_path: Path,
    authority: Authority,
    signing_key: Ed25519PrivateKey,
    address: str,
    host: str,
    port: int,
) -> None:
    card = HubCard.make("west", address, authority, signing_key)
    card.write(tmp_path / "hub.json")
    assert HubCard.read(tmp_path / "hub.json") == card
    assert stat.S_IMODE((tmp_path / "hub.json").stat().st_mode) == 0o644
    assert (card.hub, card.host, card.port) == ("west", host, port)
    assert card.ca.encode() == certificates.authority_pem(authority)[1]
    assert card.fingerprint == certificates.fingerprint(authority.certificate)
    assert card.signing_key == pki.public_hex(signing_key.public_key())


def test_a_changed_hubs_card_is_refused(hub: HubCard, signing_key: Ed25519PrivateKey) -> None:
    other = HubCard.make("west", hub.address, certificates.make_authority("west"), signing_key)
    changes: list[dict[str, str]] = [
        {"hub": "east"},
        {"address": "hub.example.com:9092"},
        {"ca": other.ca},
        {"ca": other.ca, "fingerprint": other.fingerprint},
        {"ca": other.ca, "signature": other.signature},
        {"fingerprint": other.fingerprint},
        {"signing_key": pki.public_hex(Ed25519PrivateKey.generate().public_key())},
        {"signature": other.signature},
        {"signature": ""},
    ]
    for change in changes:
        assert refusal(HubCard.parse, changed(hub, **change), "hub.json") == f"hub.json {CHANGED}"


def test_a_card_that_is_right_but_for_its_fingerprint_is_refused(
    hub: HubCard, authority: Authority, signing_key: Ed25519PrivateKey
) -> None:
    liar = Authority(authority.key, certificates.make_authority("east").certificate)  # a certificate of somebody else
    assert CHANGED in refusal(HubCard.parse, changed(HubCard.make("west", hub.address, liar, signing_key)))


def test_a_second_certificate_in_a_card_is_refused(hub: HubCard) -> None:
    other = certificates.authority_pem(certificates.make_authority("west"))[1].decode()
    for ca in (hub.ca + other, other + hub.ca, f"# a remark\n{hub.ca}", hub.ca.strip(), "", "é"):
        told = refusal(HubCard.parse, changed(hub, ca=ca), "hub.json")
        assert told.startswith("hub.json is no hub's card (ca: the certificate is no")


@pytest.mark.parametrize(
    "address",
    [
        "",
        "hub.example.org",
        "hub.example.org:",
        "hub.example.org:0",
        "hub.example.org:65536",
        "hub.example.org:08",
        "hub.example.org:+8",
        "hub.example.org:٣",
        ":443",
        "::1:443",
        "[::1:443",
        "[::1]",
        "[hub]:443",
        "[fe80::1%\x1b]:443",
        "hüb:443",
        "https://hub:443",
        "user@hub:443",
        "hub:443\n",
        "hub /x:443",
        "-x:443",
    ],
)
def test_what_is_no_address_is_refused(
    hub: HubCard, authority: Authority, signing_key: Ed25519PrivateKey, address: str
) -> None:
    assert "is no hub's card (address: " in refusal(HubCard.parse, changed(hub, address=address))
    with pytest.raises(ValidationError):
        HubCard.make("west", address, authority, signing_key)


# Files ---------------------------------------------------------------------------------------------------------------


def test_a_card_that_cannot_be_read_is_told(tmp_path: Path, site: SiteCard, hub: HubCard) -> None:
    folder = tmp_path / "secret-folder"
    folder.mkdir()
    site.write(folder / "north.json")
    (folder / "long.json").write_bytes(b" " * MAX_CARD_BYTES + b"{}")
    (folder / "latin.json").write_bytes(b'{"site": "s\xfcd"}')
    (folder / "cut.json").write_bytes((folder / "north.json").read_bytes()[:100])
    for name, told in {
        "nothing.json": "cannot be read (No such file or directory): ask for it again",
        ".": "cannot be read (Is a directory): ask for it again",
        "long.json": "is too long for a card: ask for it again",
        "latin.json": "is no hub's card (Invalid JSON: ",
        "cut.json": "is no hub's card (Invalid JSON: EOF",
        "north.json": "is no hub's card (hub: Field required): ask for it again",
    }.items():
        reason = refusal(HubCard.read, folder / name)
        assert told in reason
        assert "secret-folder" not in reason or name == "."


def test_a_card_below_a_root(tmp_path: Path, below_root: HubCard, hub: HubCard, signing_key: Ed25519PrivateKey) -> None:
    below_root.write(tmp_path / "hub.json")
    assert HubCard.read(tmp_path / "hub.json") == below_root
    assert below_root.fingerprint == certificates.fingerprint(certificates.load_certificate(below_root.ca.encode()))
    hub.write(tmp_path / "plain.json")
    assert "issuer" not in (tmp_path / "plain.json").read_text()  # as earlier releases read it


def test_a_card_that_another_authority_or_a_site_signed(below_root: HubCard, signing_key: Ed25519PrivateKey) -> None:
    stranger = certificates.make_authority("west 2026")
    forged = HubCard.make("west", "evil.example:443", stranger, signing_key, below_root.ca.encode())
    assert CHANGED in refusal(HubCard.parse, changed(forged))
    root = certificates.make_authority("east root", below=1)
    issuer = certificates.issue_authority(root, "east 2026")
    key, certificate = certificates.issue_server(root, ["evil.example"])  # the root's, and no authority
    leaf = certificates.load_authority(key, certificate)
    pem = certificates.pem(root.certificate)
    assert CHANGED in refusal(HubCard.parse, changed(HubCard.make("east", "hub:443", leaf, signing_key, pem)))
    assert HubCard.parse(changed(HubCard.make("east", "hub:443", issuer, signing_key, pem))).hub == "east"


def test_a_card_of_an_authority_that_the_root_took_back(signing_key: Ed25519PrivateKey) -> None:
    root, other = (certificates.make_authority("west root", below=1) for _ in range(2))
    stolen, issuer = (certificates.issue_authority(root, "west 2026") for _ in range(2))

    def card(by: Authority, listed: bytes) -> bytes:
        pem = certificates.pem(root.certificate)
        return changed(HubCard.make("west", "hub.example:443", by, signing_key, pem, taken_back=listed))

    made = HubCard.parse(card(issuer, taken_back(root, stolen)))
    assert made.distrusted == {stolen.certificate.serial_number}
    assert HubCard.parse(card(stolen, taken_back(root))).distrusted == frozenset()  # an older list does not tell
    for by, listed in (
        (stolen, taken_back(root, stolen)),
        (stolen, taken_back(stolen)),
        (stolen, taken_back(other)),
    ):
        assert CHANGED in refusal(HubCard.parse, card(by, listed))
    assert "taken_back: the list" in refusal(HubCard.parse, changed(made, taken_back="none"))


def test_a_newer_card_takes_an_older_ones_place(tmp_path: Path, hub: HubCard, authority: Authority) -> None:
    hub.write(tmp_path / "hub.json")
    newer = HubCard.make("west", "127.0.0.1:1", authority, Ed25519PrivateKey.generate())
    newer.write(tmp_path / "hub.json")
    assert HubCard.read(tmp_path / "hub.json") == newer
    assert [path.name for path in tmp_path.iterdir()] == ["hub.json"]
    with pytest.raises(SettingsError, match=r"^hub\.json cannot be written \(No such file or directory\)"):
        hub.write(tmp_path / "nothing" / "hub.json")
