"""Who is let in at a hub: invited, asking, approved; what others do with a code, and two people at a time."""

import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyotp
import pytest
import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from fedward_common import certificates, cli, pki
from fedward_common.audit import AuditLog, entries
from fedward_common.cards import HubCard, SiteCard
from fedward_common.errors import AuditError, RecordError, RunError, SettingsError, UsageError
from fedward_common.joining import Invitation, JoinRequest, digest
from fedward_common.site_messages import SiteStatus
from fedward_server import entrance, issuing, people
from fedward_server.control import approve, rotate, shut_out, survey
from fedward_server.hub import Hub
from fedward_server.joining import Joining, JoinRefusedError
from fedward_server.people import People
from fedward_server.register import Register
from fedward_server.statuses import Statuses
from fedward_server.superlink import free_port

PORT = 19093  # nothing listens in these tests


@dataclass(frozen=True)
class Asker:
    """A site that joins: its keys and its requests."""

    name: str
    key: Ed25519PrivateKey
    card: SiteCard
    request: str

    @classmethod
    def make(cls, name: str, folder: Path, key: Ed25519PrivateKey | None = None) -> "Asker":
        path = folder / f"{name}-{datetime.now(UTC).timestamp()}.key"
        pki.write_private(path, pki.make_node_key())
        key = key or Ed25519PrivateKey.generate()
        card = SiteCard.make(name, pki.node_public_line(pki.load_node_key(path)), key)
        return cls(name, key, card, certificates.make_request(name)[1].decode())

    def sends(self, invitation: Invitation) -> JoinRequest:
        return JoinRequest.make(self.card, self.request, invitation.secret, self.key)


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    return Hub.init(tmp_path / "hub", name="alliance", port=PORT, address="hub.example:8443", root=tmp_path / "root")


@pytest.fixture
def joining(hub: Hub) -> Iterator[Joining]:
    with hub.store() as store:
        yield Joining(hub, store)


@pytest.fixture
def north(tmp_path: Path) -> Asker:
    return Asker.make("north", tmp_path)


def test_a_hub_for_hospitals_keeps_its_root_elsewhere(hub: Hub, tmp_path: Path) -> None:
    card = HubCard.read(hub.card)
    assert card.address == "hub.example:8443"
    assert card.issuer is not None
    root = certificates.load_certificate(card.ca.encode())
    assert card.fingerprint == certificates.fingerprint(root)
    assert certificates.issued_by(certificates.load_certificate(card.issuer.encode()), root)
    kept = b"".join(path.read_bytes() for path in hub.folder.rglob("*") if path.is_file())
    assert (tmp_path / "root" / "root.key").read_bytes() not in kept
    assert Hub.open(hub.folder) == hub


def test_from_the_invitation_to_the_certificate(hub: Hub, joining: Joining, north: Asker) -> None:
    invitation = joining.invite("north")
    assert (invitation.address, invitation.fingerprint) == ("hub.example:8443", HubCard.read(hub.card).fingerprint)
    asked = north.sends(Invitation.read(invitation.code()))
    assert joining.ask(asked).status == "waiting"
    [(row, card)] = joining.waiting()
    assert card == north.card
    assert joining.store.sites() == {}
    assert joining.approve(row).fingerprint == north.card.fingerprint
    answer = joining.ask(asked)
    assert answer.status == "approved"
    assert answer.certificate is not None
    own, above = certificates.load_chain(answer.certificate.encode())
    assert own.public_key() == certificates.read_request(north.request)
    assert own.subject.rfc4514_string() == "CN=north,O=Fedward"
    assert certificates.issued_by(own, above)
    assert joining.ask(asked) == answer  # the answer was lost on its way
    assert joining.waiting() == []
    told = [entry.event for entry in entries(hub.folder / "audit.jsonl")]
    assert told == ["begun", "site invited", "site asked", "site enrolled"]
    assert invitation.secret not in (hub.folder / "audit.jsonl").read_text()
    assert invitation.secret.encode() not in hub.store_file.read_bytes()


def test_a_code_counts_once(joining: Joining, north: Asker, tmp_path: Path) -> None:
    invitation = joining.invite("north")
    thief = Asker.make("north", tmp_path)
    joining.ask(thief.sends(invitation))
    with pytest.raises(JoinRefusedError, match="used before"):
        joining.ask(north.sends(invitation))
    [(_, card)] = joining.waiting()
    assert card == thief.card  # whose fingerprint the steward does not read out


def test_codes_that_do_not_count(joining: Joining, north: Asker, tmp_path: Path) -> None:
    south = Asker.make("south", tmp_path)
    with pytest.raises(JoinRefusedError, match="not one of this hub's"):
        joining.ask(north.sends(Invitation.make("north", "hub.example:8443", "0" * 64, taken_back=0)))
    with pytest.raises(JoinRefusedError, match="not one of this hub's"):
        joining.ask(south.sends(joining.invite("north")))
    forged = north.sends(joining.invite("north")).model_copy(update={"request": south.request})
    with pytest.raises(JoinRefusedError, match="not one of this hub's"):
        joining.ask(forged)
    first, second = joining.invite("north"), joining.invite("north")
    with pytest.raises(JoinRefusedError, match="withdrawn"):
        joining.ask(north.sends(first))
    assert joining.ask(north.sends(second)).status == "waiting"
    late = joining.invite("east", days=-1)
    with pytest.raises(JoinRefusedError, match="expired"):
        joining.ask(Asker.make("east", tmp_path).sends(late))
    with pytest.raises(UsageError, match="a site's name is"):
        joining.invite("No Name")


def test_a_code_that_was_used_in_time_outlives_its_end(joining: Joining, north: Asker) -> None:
    invitation = joining.invite("north")
    asked = north.sends(invitation)
    joining.ask(asked)
    end = (datetime.now(UTC) - timedelta(days=1)).isoformat()
    with joining.store.writing() as connection:
        connection.exec_driver_sql("UPDATE invitations SET expires = ?", (end,))
    joining.approve(joining.asked_by("north")[0])
    assert joining.ask(asked).status == "approved"


def test_a_site_that_is_turned_down(joining: Joining, north: Asker) -> None:
    asked = north.sends(joining.invite("north"))
    joining.ask(asked)
    row, _ = joining.asked_by("north")
    joining.refuse(row)
    with pytest.raises(JoinRefusedError, match="did not let this site in"):
        joining.ask(asked)
    for late in (joining.refuse, joining.approve):
        with pytest.raises(RunError, match="somebody has answered north already"):
            late(row)
    with pytest.raises(UsageError, match="north has not asked to join, or was answered; waiting: nobody"):
        joining.asked_by("north")


def test_of_two_operators_at_a_time_one_approves(hub: Hub, joining: Joining, north: Asker) -> None:
    joining.ask(north.sends(joining.invite("north")))
    said: list[str] = []
    start = threading.Barrier(6)

    def decide(number: int) -> None:
        start.wait()
        try:
            if number % 2:
                approve(hub, "north", north.card.fingerprint)
            else:
                with hub.store() as store:
                    each = Joining(hub, store)
                    each.refuse(each.asked_by("north")[0])
            said.append("approved" if number % 2 else "refused")
        except (RunError, UsageError) as error:
            said.append(str(error))

    threads = [threading.Thread(target=decide, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    decided = [word for word in said if word in {"approved", "refused"}]
    assert len(decided) == 1, said
    assert len(joining.register.certificates()) == len(joining.store.sites()) == (decided == ["approved"])


def test_approval_is_for_the_fingerprint_that_was_compared(hub: Hub, joining: Joining, north: Asker) -> None:
    joining.ask(north.sends(joining.invite("north")))
    with pytest.raises(RunError, match="asked anew with another fingerprint"):
        approve(hub, "north", "0" * 64)
    assert joining.store.sites() == {}


# A site that is in ---------------------------------------------------------------------------------------------------


def let_in(joining: Joining, site: Asker) -> x509.Certificate:
    asked = site.sends(joining.invite(site.name))
    joining.ask(asked)
    approve(joining.hub, site.name, site.card.fingerprint)
    chain = joining.ask(asked).certificate
    assert chain is not None
    return certificates.load_certificate(chain.encode())


def time_passes(joining: Joining, passed: timedelta = timedelta(hours=1)) -> None:
    """All certificates were issued, and end, so much earlier."""
    for row in joining.register.certificates():
        issued, ends = (datetime.fromisoformat(each) - passed for each in (row.issued, row.ends))
        with joining.store.writing() as connection:
            changed = (issued.isoformat(timespec="milliseconds"), ends.isoformat(), row.serial)
            connection.exec_driver_sql("UPDATE certificates SET issued = ?, ends = ? WHERE serial = ?", changed)


def revoked(joining: Joining) -> set[int]:
    """The serial numbers on the lists that nginx is given."""
    blocks = joining.hub.issuing.lists(joining.register).split(b"-----BEGIN")[1:]
    return {each.serial_number for block in blocks for each in x509.load_pem_x509_crl(b"-----BEGIN" + block)}


def test_joining_again_takes_the_older_certificate_back(joining: Joining, north: Asker, tmp_path: Path) -> None:
    first = let_in(joining, north)
    assert revoked(joining) == set()
    again = Asker.make("north", tmp_path, north.key)  # the same site with a new node key
    second = let_in(joining, again)
    assert revoked(joining) == {first.serial_number}
    assert joining.store.sites()["north"].node_key == again.card.node_key
    assert second.serial_number != first.serial_number


def test_other_keys_are_another_site(joining: Joining, north: Asker, tmp_path: Path) -> None:
    let_in(joining, north)
    with pytest.raises(SettingsError, match="enrolled with other keys"):
        let_in(joining, Asker.make("north", tmp_path))
    with pytest.raises(SettingsError, match="holds a key of north"):
        let_in(joining, Asker.make("south", tmp_path, north.key))
    assert list(joining.store.sites()) == ["north"]
    assert len(joining.register.certificates()) == 1


def test_a_certificate_is_renewed_while_the_older_holds(joining: Joining, north: Asker) -> None:
    first, request = let_in(joining, north), certificates.make_request("north")[1].decode()
    shown = f"{first.serial_number:x}"
    with pytest.raises(RecordError, match="issued within the hour"):
        joining.renew("north", shown, request)
    time_passes(joining)
    renewed = joining.renew("north", shown, request)
    with pytest.raises(RecordError, match="issued within the hour"):
        joining.renew("north", shown, request)
    second = certificates.load_certificate(renewed.certificate.encode())
    assert second.subject == first.subject
    assert revoked(joining) == set()
    shut_out(joining.hub, "north")
    assert revoked(joining) == {first.serial_number, second.serial_number}
    assert joining.store.sites() == {}


@pytest.mark.parametrize("forgotten", [True, False])
def test_what_is_renewed_while_it_is_taken_back_does_not_count(
    joining: Joining, north: Asker, tmp_path: Path, forgotten: bool
) -> None:
    """Between the look at who calls and the new certificate."""
    shown, request = f"{let_in(joining, north).serial_number:x}", certificates.make_request("north")[1].decode()
    if forgotten:
        shut_out(joining.hub, "north")
    else:
        let_in(joining, Asker.make("north", tmp_path, north.key))
    time_passes(joining)
    before = joining.register.certificates()
    with pytest.raises(RecordError, match="was taken back"):
        joining.renew("north", shown, request)
    assert joining.register.certificates() == before


def test_who_cannot_be_written_down_is_not_let_in(
    hub: Hub, joining: Joining, north: Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = north.sends(joining.invite("north"))
    joining.ask(asked)
    with monkeypatch.context() as patched:
        patched.setattr(AuditLog, "append", full_disk)
        with pytest.raises(AuditError):
            approve(hub, "north", north.card.fingerprint)
    assert joining.store.sites() == {}
    assert joining.ask(asked).status == "waiting"
    approve(hub, "north", north.card.fingerprint)
    assert joining.ask(asked).status == "approved"
    assert [entry.event for entry in entries(hub.folder / "audit.jsonl")].count("site enrolled") == 1


def full_disk(*_: object) -> None:
    raise AuditError("no space left")


def test_the_hub_clears_away_what_is_over(
    hub: Hub, joining: Joining, north: Asker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_in(joining, north)
    time_passes(joining, timedelta(days=40))
    joining.renew("north", "", certificates.make_request("north")[1].decode())
    let_in(joining, Asker.make("south", tmp_path))
    time_passes(joining, timedelta(days=90))
    first, second, south = joining.register.certificates()
    long_ago = People(joining.store, lambda: 86_400.0)
    secret = long_ago.add("ada", "operator", "correct horse battery")
    assert long_ago.log_in("ada", "correct horse battery", pyotp.TOTP(secret).at(86_400), "here") is not None
    monkeypatch.setattr(entrance, "UPKEEP_S", 0.0)
    kept = entrance._Entrance(hub, [])
    keeper = threading.Thread(target=kept.keep)
    keeper.start()
    deadline = time.monotonic() + 30
    while joining.store.rows(sa.select(people._SESSIONS)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    kept.over.set()
    keeper.join()
    assert joining.register.certificates() == [second, south]  # ends are shown, also of a site that is long away
    assert first.ends < second.ends


def test_the_next_authority_overlaps_the_one_before(hub: Hub, joining: Joining, north: Asker, tmp_path: Path) -> None:
    first = let_in(joining, north)
    before = hub.issuing.current().certificate
    hub.renew_gateway()
    assert not hub.renew_gateway()
    served = hub.gateway_pem.read_bytes()
    rotate(hub, tmp_path / "root", distrust=False)
    after = hub.issuing.current().certificate
    assert after != before
    assert hub.gateway_pem.read_bytes() != served  # what sites connect to is below the new one at once
    assert certificates.load_chain(hub.gateway_pem.read_bytes())[1] == after
    card = HubCard.read(hub.card)
    assert card.intact()
    assert card.issuer == certificates.pem(after).decode()
    assert revoked(joining) == set()
    time_passes(joining)
    renewed = joining.renew("north", "", certificates.make_request("north")[1].decode())
    own, above = certificates.load_chain(renewed.certificate.encode())
    assert above == after
    assert certificates.issued_by(own, after)
    shut_out(hub, "north")
    assert revoked(joining) == {first.serial_number, own.serial_number}  # each on its own authority's list


def test_what_ends_with_its_authority_is_not_made_anew_every_hour(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(issuing, "ISSUING_DAYS", 20)
    rotate(hub, tmp_path / "root", distrust=False)
    [own, above] = certificates.load_chain(hub.gateway_pem.read_bytes())
    assert own.not_valid_after_utc == above.not_valid_after_utc < datetime.now(UTC) + timedelta(days=21)
    assert not hub.renew_gateway()


def test_authorities_that_are_trusted_no_more(hub: Hub, joining: Joining, north: Asker, tmp_path: Path) -> None:
    before, first = hub.issuing.current().certificate, let_in(joining, north)
    assert joining.invite("north").taken_back == 0
    rotate(hub, tmp_path / "root", distrust=True)
    gone = {before.serial_number, first.serial_number}
    assert revoked(joining) == gone
    assert HubCard.read(hub.card).distrusted == {before.serial_number}
    assert survey(hub)["sites"][0]["certificate_ends"] is None
    assert joining.invite("north").taken_back == 1
    rotate(hub, tmp_path / "root", distrust=False)
    assert revoked(joining) == gone  # for good
    assert HubCard.read(hub.card).distrusted == {before.serial_number}
    assert not hub.renew_card()
    let_in(joining, north)
    assert survey(hub)["sites"][0]["certificate_ends"] is not None
    assert revoked(joining) == gone


@pytest.mark.parametrize("cut", [".key", ".pem", "root.crl"])
def test_an_authority_whose_making_was_cut_is_made_again(
    hub: Hub, joining: Joining, north: Asker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: str
) -> None:
    """With the file that could not be written any more."""
    let_in(joining, north)
    written = {name: getattr(pki, name) for name in ("write_private", "write_public")}

    def write(name: str) -> Callable[..., None]:
        def until_cut(path: Path, *data: bytes, **how: bool) -> None:
            if path.name.endswith(cut):
                raise SettingsError("cut")
            written[name](path, *data, **how)

        return until_cut

    with monkeypatch.context() as patched:
        for name in written:
            patched.setattr(pki, name, write(name))
        with pytest.raises(SettingsError, match="cut"):
            rotate(hub, tmp_path / "root", distrust=True)
    hub.renew_card()
    assert HubCard.read(hub.card).intact()
    rotate(hub, tmp_path / "root", distrust=True)
    assert HubCard.read(hub.card).intact()
    assert len(revoked(joining)) >= 2
    let_in(joining, north)


def test_who_distrusts_is_asked_and_told_whom_to_invite(
    hub: Hub, joining: Joining, north: Asker, tmp_path: Path
) -> None:
    let_in(joining, north)
    command = ["hub", "rotate", str(hub.folder), "--root", str(tmp_path / "root"), "--distrust"]
    refused = CliRunner().invoke(cli.app, command, input="n\n")
    assert refused.exit_code == 1
    assert "Shut out every site until it joins anew (north)?" in refused.output
    assert revoked(joining) == set()
    done = CliRunner().invoke(cli.app, [*command, "--yes"])
    assert "No site's certificate counts any more; invite each site anew: north." in done.stdout
    assert len(revoked(joining)) == 2


def test_another_root_makes_no_authority(hub: Hub, tmp_path: Path) -> None:
    other = Hub.init(tmp_path / "other", port=PORT, address="other.example:1", root=tmp_path / "other-root")
    with pytest.raises(SettingsError, match="do not belong together"):
        rotate(hub, tmp_path / "other-root", distrust=False)
    with pytest.raises(SettingsError, match=r"root\.key is missing"):
        rotate(other, tmp_path / "nowhere", distrust=False)
    assert len(hub.issuing.all()) == 1


def test_the_card_of_a_hub_with_a_gateway_is_handed_to_nobody(hub: Hub) -> None:
    shown = CliRunner().invoke(cli.app, ["hub", "card", str(hub.folder)])
    assert "Sites get this card with a code of `fedward hub invite`" in shown.stderr
    assert pki.grouped(HubCard.read(hub.card).fingerprint) in shown.stderr


def test_what_the_operator_is_shown(hub: Hub, joining: Joining, north: Asker, tmp_path: Path) -> None:
    let_in(joining, north)
    east = Asker.make("east", tmp_path)
    joining.ask(east.sends(joining.invite("east")))
    found = survey(hub)
    assert [(each["name"], each["fingerprint"]) for each in found["waiting"]] == [("east", east.card.fingerprint)]
    [site] = found["sites"]
    assert not site["certificate_ends_soon"]
    Statuses(joining.store).tell("north", SiteStatus(fedward="0.1.0", state="idle", spool_free_gib=1, cache_free_gib=1))
    hub.gateway_pem.unlink(missing_ok=True)
    assert survey(hub)["certificate_ends"] is None
    hub.renew_gateway()
    ends = certificates.load_chain(hub.gateway_pem.read_bytes())[0].not_valid_after_utc
    table = CliRunner().invoke(cli.app, ["hub", "status", str(hub.folder)], env={"COLUMNS": "200"}).stdout
    assert f"Certificate ends  {ends:%Y-%m-%d}" in table
    assert "idle" not in table  # the hub is down: nobody has told that now
    for days, over in ((29, False), (-1, True)):
        end = datetime.now(UTC) + timedelta(days=days)
        with joining.store.writing() as connection:
            connection.exec_driver_sql("UPDATE certificates SET ends = ?", (end.isoformat(),))
        [site] = survey(hub)["sites"]
        assert (site["certificate_ends_soon"], site["certificate_over"]) == (True, over)


def test_a_hub_of_one_machine_invites_nobody(tmp_path: Path) -> None:
    hub = Hub.init(tmp_path / "small", port=PORT)
    with hub.store() as store, pytest.raises(SettingsError, match="has no gateway"):
        Joining(hub, store).invite("north")


def test_a_secret_is_kept_as_its_digest(joining: Joining) -> None:
    invitation = joining.invite("north")
    row = Register(joining.store).invitation(digest(invitation.secret))
    assert row is not None
    assert row.site == "north"
    assert Register(joining.store).invitation(invitation.secret) is None


def test_nobody_is_invited_by_a_hub_without_its_authority(hub: Hub, joining: Joining) -> None:
    shutil.rmtree(hub.keys / "issuing")
    with pytest.raises(SettingsError, match=r"^keys/issuing is missing: restore it from a backup$"):
        joining.invite("north")
    assert joining.register.invitations() == []


@pytest.mark.parametrize("name", ["issuing", "root.pem"])
def test_a_hub_without_an_authority_does_not_come_up(tmp_path: Path, name: str) -> None:
    hub = Hub.init(tmp_path / "own", port=free_port(), address=f"127.0.0.1:{free_port()}")
    (hub.keys / name).rename(tmp_path / name)
    with pytest.raises(SettingsError, match=rf"{name} .*: restore it from a backup"), entrance.entrance(hub):
        pass


def test_a_port_that_another_program_holds_is_named_by_its_section(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    with socket.create_server(("127.0.0.1", 0)) as other:
        pages = f"127.0.0.1:{other.getsockname()[1]}"
        hub = Hub.init(tmp_path / "own", port=free_port(), address=address, listen=address, dashboard=pages)
        (hub.folder / "hub.toml").write_text(hub.settings.toml().replace("0.0.0.0", "127.0.0.1"))
        with (
            pytest.raises(SettingsError, match=rf"cannot listen at {pages} .*another \[dashboard\] listen in hub.toml"),
            entrance.entrance(Hub.open(hub.folder)),
        ):
            pass
