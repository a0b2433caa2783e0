"""`fedward doctor --site`: real folders, real keys, a real server behind a real proxy, and what is wrong with each."""

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from typer.testing import CliRunner

from fedward_client import catalog, doctor
from fedward_client.credentials import Credentials
from fedward_client.member import join
from fedward_client.site import Site
from fedward_client.sockets import Gate
from fedward_common import certificates, pki
from fedward_common.cards import HubCard
from fedward_common.cli import app
from fedward_common.doctor import Finding

pytestmark = pytest.mark.usefixtures("no_proxy")

HUB = certificates.make_authority("north hub")
LOOPBACK = ["127.0.0.1", "localhost"]
FOLDER = ("site settings", *doctor.CHECKS)

Start = Callable[..., str]
Member = Callable[..., Path]


@pytest.fixture
def member(site_folder: Callable[..., Path], tmp_path: Path, https_server: Start) -> Member:
    """`member(address)`: a hospital's folder that joined the hub at an address; without one, at a server that is up."""

    def make(address: str | None = None) -> Path:
        folder = site_folder({f"P{number}": "benign" for number in range(3)}, images=1)
        address = address or https_server(*certificates.issue_server(HUB, LOOPBACK))
        HubCard.make("north-hub", address, HUB, Ed25519PrivateKey.generate()).write(tmp_path / "hub.json")
        join(folder, HubCard.read(tmp_path / "hub.json"))
        return folder

    return make


def examined(folder: Path) -> dict[str, Finding]:
    """The findings by name; each that is not ok says what to do."""
    findings = list(doctor.examine(folder))
    assert len({finding.name for finding in findings}) == len(findings)
    for finding in findings:
        assert finding.found
        assert bool(finding.advice) == (finding.status != "ok"), finding
        assert (finding.found + finding.advice).isprintable()
        assert str(folder) not in finding.found + finding.advice
    return {finding.name: finding for finding in findings}


def not_ok(findings: dict[str, Finding]) -> set[str]:
    return {name for name, finding in findings.items() if finding.status != "ok"}


# The folder ----------------------------------------------------------------------------------------------------------


def test_a_site_that_is_fit_is_told_so(member: Member) -> None:
    folder = member()
    catalog.scan(Site.open(folder))
    findings = examined(folder)
    assert tuple(findings) == (
        *FOLDER,
        "hub card",
        "DNS",
        "proxy",
        "hub port",
        "hub certificate",
        "hub answer",
        "clock",
    )
    assert not_ok(findings) == {"daemon"}
    assert findings["daemon"].advice == "start it with `fedward site up`"


def test_a_folder_that_never_joined_stays_untouched(site_folder: Callable[..., Path]) -> None:
    folder = site_folder({"P": "benign"}, images=1, keyed=False)
    before = sorted(folder.rglob("*"))
    findings = examined(folder)
    assert sorted(folder.rglob("*")) == before
    assert not_ok(findings) == {"state folder", "keys", "catalog", "policy", "daemon", "hub card"}
    assert all("`fedward site join`" in findings[name].advice for name in ("state folder", "keys", "hub card"))
    assert "`fedward site scan`" in findings["catalog"].advice
    assert '[policy] outputs = ["counts", "update", "evaluation"]' in findings["policy"].advice


@pytest.mark.parametrize("settings", ["[site]\nnam = 1\n", "[[", "\0"])
def test_settings_that_cannot_be_read_end_the_examination(site_folder: Callable[..., Path], settings: str) -> None:
    [finding] = examined(site_folder({"P": "benign"}, images=1, settings=settings)).values()
    assert (finding.name, finding.status) == ("site settings", "fail")
    assert "site.toml" in finding.found


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    [finding] = doctor.examine(tmp_path / "nowhere")
    assert (finding.name, finding.status) == ("site settings", "fail")


def test_open_permissions_are_told_and_left_as_they_are(member: Member) -> None:
    folder = member()
    catalog.scan(Site.open(folder))
    (folder / ".fedward").chmod(0o755)
    (folder / ".fedward/signing.key").chmod(0o644)
    findings = examined(folder)
    assert not_ok(findings) == {"state folder", "keys", "catalog", "daemon"}
    assert findings["state folder"].found == "others can enter it (mode 0755)"
    assert findings["keys"].advice == "chmod 600 it"
    assert (folder / ".fedward").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        ("link/node.key", None, "node.key is missing: restore it from a backup"),
        ("link/node.key", b"no key", "node.key holds no private key that can be read: restore it from a backup"),
        ("signing.key", b"", "signing.key holds no private key that can be read: restore it from a backup"),
        ("site.key", b"short", "site.key holds 5 bytes instead of 32: restore it from a backup"),
    ],
)
def test_a_key_that_is_not_whole_is_named(member: Member, name: str, damage: bytes | None, words: str) -> None:
    folder = member()
    path = folder / ".fedward" / name
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage)
    found = examined(folder)["keys"]
    assert (found.status, f"{found.found}: {found.advice}") == ("fail", words)
    assert path.exists() == (damage is not None)


def test_a_lost_site_key_is_not_made_anew(member: Member) -> None:
    folder = member()
    catalog.scan(Site.open(folder))
    (folder / ".fedward/site.key").unlink()
    findings = examined(folder)
    assert {findings[name].status for name in ("keys", "catalog")} == {"fail"}
    assert not (folder / ".fedward/site.key").exists()


@pytest.mark.long
def test_another_user_is_told_who_should_ask() -> None:
    with tempfile.TemporaryDirectory(prefix="fedward-doctor-") as name:  # pytest's own folders are closed to others
        folder = Path(name)
        folder.chmod(0o755)
        join(folder, None, name="north")
        (folder / ".fedward").chmod(0)
        as_other = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"] if os.geteuid() == 0 else []
        command = [*as_other, sys.executable, "-m", "fedward_common", "doctor", "--site", name, "--json"]
        done = subprocess.run(command, capture_output=True, text=True, cwd="/", check=False)
        (folder / ".fedward").chmod(0o700)
    assert done.returncode == 1, done.stderr
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert rows["keys"]["found"] == "it cannot be looked at (Permission denied)"
    assert rows["keys"]["advice"] == "run this as the user whom the site's daemon runs as"


def test_a_full_spool_is_told(member: Member) -> None:
    folder = member()
    (folder / "site.toml").write_text("[limits]\nspool_mib = 1\n", "utf-8")
    assert examined(folder)["spool"].found == "0 of 1 MiB in use"
    (folder / ".fedward/spool/in/parcel").write_bytes(bytes(900_000))
    found = examined(folder)["spool"]
    assert (found.status, found.found) == ("warn", "1 of 1 MiB in use")
    assert "spool_mib" in found.advice


def test_a_spool_that_its_disk_cannot_hold_is_told(member: Member) -> None:
    folder = member()
    (folder / "site.toml").write_text("[limits]\nspool_mib = 1_000_000_000\n", "utf-8")
    assert "MiB free on its disk" in examined(folder)["spool"].found


# The daemon ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def control() -> Iterator[Callable[[Path], None]]:
    """`control(folder)`: serves gRPC's health at a site's control.sock, as its data side does."""
    gates: list[Gate] = []

    def serve(folder: Path) -> None:
        server = grpc.server(ThreadPoolExecutor(2))
        servicer = health.HealthServicer()
        servicer.set("", health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        gates.append(Gate(folder / ".fedward/control.sock", server, inner=folder / ".fedward"))
        gates[-1].__enter__()

    yield serve
    for gate in gates:
        gate.__exit__(None, None, None)


def test_a_daemon_that_is_up_says_what_its_link_does(member: Member, control: Callable[[Path], None]) -> None:
    folder = member()
    control(folder)
    assert examined(folder)["daemon"] == Finding(name="daemon", status="ok", found="it is up, its link is starting")
    status = folder / ".fedward/link/status.json"
    status.write_text('{"state": "connected", "reason": ""}', "utf-8")
    assert examined(folder)["daemon"].found == "it is up, its link is connected"
    status.write_text('{"state": "waiting", "reason": "the hub refuses the connection: ask"}', "utf-8")
    waits = examined(folder)["daemon"]
    assert (waits.status, waits.found) == ("warn", "it is up and waits: the hub refuses the connection: ask")
    for damaged in ("[]", "{"):
        status.write_text(damaged, "utf-8")
        assert examined(folder)["daemon"].status == "ok"


def test_a_socket_that_others_can_use_is_told(member: Member, control: Callable[[Path], None]) -> None:
    folder = member()
    control(folder)
    (folder / ".fedward/control.sock").chmod(0o666)
    found = examined(folder)["daemon"]
    assert (found.status, found.found) == ("fail", "control.sock can be used by every user of this machine (mode 0666)")


def test_a_socket_that_a_killed_daemon_left_is_told(member: Member) -> None:
    folder = member()
    path = folder / ".fedward/control.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    path.chmod(0o600)
    found = examined(folder)["daemon"]
    assert (found.status, found.found) == ("fail", "control.sock is there and nobody answers")
    assert "`fedward site up`" in found.advice


# The way to the hub --------------------------------------------------------------------------------------------------


def last_step(findings: dict[str, Finding]) -> Finding:
    """What the way to the hub ended with."""
    return list(findings.values())[-1]


def test_a_hub_card_that_was_changed_is_told(member: Member) -> None:
    folder = member()
    path = folder / ".fedward/link/hub.json"
    path.write_text(path.read_text("utf-8").replace("127.0.0.1", "127.0.0.2"), "utf-8")
    found = last_step(examined(folder))
    assert (found.name, found.status) == ("hub card", "fail")
    assert "forged" in found.found


def test_a_name_that_does_not_resolve_ends_the_way(member: Member) -> None:
    found = last_step(examined(member("hub.invalid:443")))
    assert (found.name, found.status) == ("DNS", "fail")
    assert found.found.startswith("the name hub.invalid is not known here (")


def test_a_closed_port_ends_the_way(member: Member, free_port: int) -> None:
    found = last_step(examined(member(f"127.0.0.1:{free_port}")))
    assert (found.name, found.status) == ("hub port", "fail")
    assert found.found == f"the hub 127.0.0.1:{free_port} refuses the connection"


def test_interception_ends_the_way(member: Member, https_server: Start) -> None:
    address = https_server(*certificates.issue_server(certificates.make_authority("Hospital TLS Inspection"), LOOPBACK))
    found = last_step(examined(member(address)))
    assert (found.name, found.status) == ("hub certificate", "fail")
    assert found.found.startswith("TLS interception: ")
    assert "'Hospital TLS Inspection'" in found.found
    assert found.advice == f"ask your network department to exempt {address} from TLS inspection"


def test_an_expired_certificate_ends_the_way(member: Member, https_server: Start) -> None:
    starts = datetime(2025, 3, 1, 12, tzinfo=UTC)
    address = https_server(*certificates.issue_server(HUB, LOOPBACK, days=10, starts=starts))
    found = last_step(examined(member(address)))
    assert (found.name, found.status) == ("hub certificate", "fail")
    assert "expired on 2025-03-11 12:00 UTC" in found.found


def test_a_certificate_that_ends_soon_is_a_warning(member: Member, https_server: Start) -> None:
    starts = datetime.now(UTC) - timedelta(days=10)
    findings = examined(member(https_server(*certificates.issue_server(HUB, LOOPBACK, days=15, starts=starts))))
    assert findings["hub certificate"].status == "warn"
    assert findings["hub answer"].status == "ok"


def test_a_hub_without_its_superlink_is_told(member: Member, https_server: Start) -> None:
    findings = examined(member(https_server(*certificates.issue_server(HUB, LOOPBACK), status=502)))
    assert findings["hub answer"].status == "fail"
    assert "its SuperLink not (502)" in findings["hub answer"].found
    assert findings["clock"].status == "ok"  # an answer all the same


SHUT_OUT = b'{"error": "this hub does not know this site, or took its certificate back: ask its operator"}'
REFUSED = {
    (403, b""): "does not accept this site (403)",  # of its gateway
    (403, SHUT_OUT): "this hub does not know this site, or took its certificate back",
}


@pytest.mark.parametrize(("status", "body"), [(200, b"{}"), *REFUSED])
def test_a_site_that_was_shut_out_is_told(
    site_folder: Callable[..., Path], https_server: Start, status: int, body: bytes
) -> None:
    root = certificates.make_authority("north root", below=1)
    issuing = certificates.issue_authority(root, "north 2026")
    own, asked = certificates.make_request("north")
    certificate = certificates.issue_client(issuing, "north", certificates.read_request(asked.decode()), days=90)
    server = [*certificates.issue_server(issuing, LOOPBACK), certificates.pem(issuing.certificate)]
    address = https_server(*server, status=status, body=body)
    folder = site_folder({"P": "benign"}, images=1)
    pem = certificates.pem(root.certificate)
    site, _ = join(folder, HubCard.make("north-hub", address, issuing, Ed25519PrivateKey.generate(), pem))
    pki.write_private(Credentials(site.link).file, own + certificates.pem(certificate, issuing.certificate))
    findings = examined(folder)
    assert {findings[name].status for name in ("certificate", "hub answer")} == {"ok"}
    found = findings["membership"]
    if status == 200:
        assert (found.status, found.found) == ("ok", "hub 'north-hub' lets this site in")
    else:
        assert (found.status, REFUSED[status, body] in found.found) == ("fail", True), found


@pytest.mark.parametrize(("ahead_s", "words"), [(310, "310 s behind the hub's"), (-310, "310 s ahead of the hub's")])
def test_a_clock_that_is_off_is_told(member: Member, https_server: Start, ahead_s: int, words: str) -> None:
    found = examined(member(https_server(*certificates.issue_server(HUB, LOOPBACK), ahead_s=ahead_s)))["clock"]
    assert found.status == "warn"
    assert abs(int(found.found.split(" is ")[1].split()[0]) - 310) <= 1
    assert found.found.split(" s ")[1] == words.split(" s ")[1]


def test_the_way_through_a_real_proxy_is_told(
    member: Member, tinyproxy: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy, folder = tinyproxy(), member()
    monkeypatch.setenv("HTTPS_PROXY", f"http://{proxy}")
    findings = examined(folder)
    assert tuple(findings)[len(FOLDER) :] == ("hub card", "DNS", "proxy", "hub certificate", "hub answer", "clock")
    assert findings["proxy"].found.startswith(f"{proxy} lets through to 127.0.0.1:")
    assert last_step(findings).status == "ok"


def test_a_real_proxy_that_wants_a_password_ends_the_way(
    member: Member, tinyproxy: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy, folder = tinyproxy("BasicAuth steward secret"), member()
    monkeypatch.setenv("HTTPS_PROXY", f"http://{proxy}")
    found = last_step(examined(folder))
    assert (found.name, found.status) == ("proxy", "fail")
    assert found.found == f"the proxy {proxy} asks for a user name and a password (407)"
    monkeypatch.setenv("HTTPS_PROXY", f"http://steward:secret@{proxy}")
    findings = examined(folder)
    assert last_step(findings).name == "clock"
    assert all("secret" not in finding.found + finding.advice for finding in findings.values())


def test_a_proxy_that_is_down_ends_the_way(member: Member, free_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{free_port}")
    found = last_step(examined(member()))
    assert (found.name, found.status) == ("proxy port", "fail")
    assert found.found == f"the proxy 127.0.0.1:{free_port} refuses the connection"


def test_a_variable_that_is_no_proxy_ends_the_way(member: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "ftp://proxy.example")
    found = last_step(examined(member()))
    assert (found.name, found.status) == ("proxy", "fail")
    assert found.advice == "write it as http://proxy.example:3128"


# The command ---------------------------------------------------------------------------------------------------------


def test_the_command_adds_the_site_to_the_machine(member: Member) -> None:
    folder = member()
    result = CliRunner().invoke(app, ["doctor", "--site", str(folder), "--json"])
    names = [row["name"] for row in json.loads(result.stdout)]
    assert len(set(names)) == len(names)
    assert names[0] == "python"
    assert names[-1] == "clock"
    assert result.exit_code == 0


def test_the_command_fails_where_a_check_does(tmp_path: Path) -> None:
    assert CliRunner().invoke(app, ["doctor", "--site", str(tmp_path)]).exit_code == 1


def test_the_command_takes_one_folder(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["doctor", "--site", str(tmp_path), "--hub", str(tmp_path)])
    assert result.exit_code == 2
    assert result.stderr == "fedward: --site and --hub check two different machines: give one of them\n"
