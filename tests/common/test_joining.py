"""The code with which a site joins, and what it sends with it: whole or refused, signed or refused."""

import base64
import hashlib
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fedward_common import certificates, pki
from fedward_common.cards import SiteCard
from fedward_common.errors import UsageError
from fedward_common.joining import Invitation, JoinRequest, digest

SITES = st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True)
HOSTS = st.from_regex(r"[a-z]([a-z0-9.-]{0,60}[a-z0-9])?", fullmatch=True) | st.just("[2001:db8::1]")
NO_CODE = "this is no code of `fedward hub invite`: copy it whole"


def addressed(host: str, port: int) -> str:
    return f"{host}:{port}"


INVITATIONS = st.builds(
    Invitation.make,
    SITES,
    st.builds(addressed, HOSTS, st.integers(1, 65535)),
    st.binary(min_size=32, max_size=32).map(bytes.hex),
    taken_back=st.integers(0, 255),
)


@given(INVITATIONS, st.integers(1, 30))
def test_a_code_comes_back_however_mail_broke_it(invitation: Invitation, width: int) -> None:
    code = invitation.code()
    broken = "\r\n ".join(code[start : start + width] for start in range(0, len(code), width))
    assert Invitation.read(f" {broken}\n") == invitation
    assert set(code) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")


@given(INVITATIONS, st.data())
def test_one_wrong_letter_is_seen(invitation: Invitation, data: st.DataObject) -> None:
    code = invitation.code()
    place = data.draw(st.integers(0, len(code) - 2))  # of the last letter some bits mean nothing
    letter = data.draw(st.sampled_from("AQgw_-09").filter(lambda each: each != code[place]))
    for wrong in (code[:place] + letter + code[place + 1 :], code[:place], code[:place] + code[place + 1 :]):
        with pytest.raises(UsageError, match=NO_CODE):
            Invitation.read(wrong)


@given(st.text(max_size=300))
def test_no_text_crashes_the_reader(text: str) -> None:
    with pytest.raises(UsageError, match=NO_CODE):
        Invitation.read(text)


def sealed(body: bytes) -> str:
    return base64.urlsafe_b64encode(body + hashlib.sha256(body).digest()[:4]).decode().rstrip("=")


@pytest.mark.parametrize("text", [b"", b"north", b"@hub:1", b"No@hub:1", b"north@hub", b"north@hub:0", b"north@\xff:1"])
def test_a_code_that_says_nonsense(text: bytes) -> None:
    with pytest.raises(UsageError, match=NO_CODE):
        Invitation.read(sealed(b"\x02" + bytes(49) + text))


@pytest.mark.parametrize("version", [b"\x01", b"\x03"])
def test_a_code_of_another_version(version: bytes) -> None:
    with pytest.raises(UsageError, match="of another version of Fedward: install the hub's"):
        Invitation.read(sealed(version + bytes(60)))


def test_a_secret_is_drawn_anew_and_not_shown() -> None:
    one, other = (Invitation.make("north", "hub:1", "0" * 64, taken_back=0) for _ in range(2))
    assert one.secret != other.secret
    assert one.secret not in repr(one)
    assert digest(one.secret) == hashlib.sha256(bytes.fromhex(one.secret)).hexdigest()


# What is sent --------------------------------------------------------------------------------------------------------


def request(key: Ed25519PrivateKey, tmp: Any) -> JoinRequest:
    pki.write_private(tmp / "node.key", pki.make_node_key(), replace=True)
    line = pki.node_public_line(pki.load_node_key(tmp / "node.key"))
    return JoinRequest.make(
        SiteCard.make("north", line, key), certificates.make_request("north")[1].decode(), "a" * 32, key
    )


def test_a_request_is_signed_as_a_whole(tmp_path: Any) -> None:
    key = Ed25519PrivateKey.generate()
    sent = request(key, tmp_path)
    assert JoinRequest.model_validate_json(sent.model_dump_json()) == sent
    assert sent.intact()
    other = request(Ed25519PrivateKey.generate(), tmp_path)
    for change in (
        {"request": other.request},
        {"secret": "b" * 32},
        {"card": other.card},
        {"signature": other.signature},
        {"signature": "nonsense"},
        {"card": sent.card.model_copy(update={"site": "south"})},
    ):
        assert not sent.model_copy(update=change).intact()


def test_what_is_no_request_is_refused_without_its_secret(tmp_path: Any) -> None:
    sent = request(Ed25519PrivateKey.generate(), tmp_path).model_dump()
    changes: list[dict[str, Any]] = [{"request": "none"}, {"secret": "A" * 32}, {"more": 1}, {"card": {}}]
    for change in [*changes, {"signature": "x" * 129}]:
        with pytest.raises(ValidationError):
            JoinRequest.model_validate({**sent, **change})
    assert "a" * 32 not in repr(JoinRequest.model_validate(sent))
