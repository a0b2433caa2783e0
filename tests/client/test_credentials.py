"""A site's certificate in its link folder: used whole, renewed in time, told of by doctor, refused when damaged."""

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fedward_client import doctor_way
from fedward_client.cli_watch import _ends_soon
from fedward_client.credentials import Credentials
from fedward_client.probe import context
from fedward_common import certificates, pki
from fedward_common.errors import SettingsError

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
