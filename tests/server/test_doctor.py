"""`fedward doctor --hub`: real folders, real keys, a real SuperLink, and what is wrong with each."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedward_client import doctor_way
from fedward_common import certificates, pki
from fedward_common.cards import HubCard
from fedward_common.cli import app
from fedward_common.doctor import Finding
from fedward_server import doctor
from fedward_server.hub import Hub
from fedward_server.hub_settings import SETTINGS
from fedward_server.locks import held
from fedward_server.superlink import free_port

LOOPBACK = ["127.0.0.1", "localhost"]
FEDWARD = [sys.executable, "-m", "fedward_common"]


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    return Hub.init(tmp_path / "hub", name="north-hub", port=free_port())


def examined(hub: Hub) -> dict[str, Finding]:
    """The findings by name but for the clock's, which is this machine's; each that is not ok says what to do."""
    findings = list(doctor.examine(hub.folder))
    assert [finding.name for finding in findings] == ["hub settings", *doctor.CHECKS]
    for finding in findings:
        assert finding.found
        assert bool(finding.advice) == (finding.status != "ok"), finding
    return {finding.name: finding for finding in findings[:-1]}


def not_ok(findings: dict[str, Finding]) -> dict[str, str]:
    return {name: finding.status for name, finding in findings.items() if finding.status != "ok"}


def test_a_new_hub_is_fit_and_not_up(hub: Hub) -> None:
    before = sorted(hub.folder.rglob("*"))
    findings = examined(hub)
    assert not_ok(findings) == {"SuperLink": "warn"}
    assert findings["SuperLink"].advice == "start it with `fedward hub up`"
    assert findings["port"].found == f"{hub.port} is free"
    assert findings["hub database"].found == "it opens; sites enrolled: 0, runs: 0"
    assert "Flower 1.41" in findings["programs"].found
    assert sorted(path for path in hub.folder.rglob("*") if "sqlite-" not in path.name) == before


def test_the_clock_is_looked_at(hub: Hub) -> None:
    finding = list(doctor.examine(hub.folder))[-1]
    assert finding.name == "clock"
    assert finding.found in {"synchronised", "not synchronised, says the kernel", "nobody says whether it is right"}
    assert bool(finding.advice) == (finding.status != "ok")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (None, "is no hub: make one there with `fedward hub init"),
        ('[hub]\nname = "north-hub"\nhost = "0.0.0.0"\n', "the hub may listen on loopback only: the gateway faces"),
        ('[hub]\nname = "north-hub"\nprot = 1\n', "prot is not a setting"),
    ],
)
def test_a_folder_that_is_no_hub_ends_the_examination(hub: Hub, settings: str | None, words: str) -> None:
    (hub.folder / "hub.toml").unlink()
    if settings is not None:
        (hub.folder / "hub.toml").write_text(settings, "utf-8")
    [finding] = doctor.examine(hub.folder)
    assert (finding.name, finding.status) == ("hub settings", "fail")
    assert words in f"{finding.found}: {finding.advice}"


@pytest.mark.parametrize("name", ["", "keys"])
def test_an_open_folder_is_told_and_left_as_it_is(hub: Hub, name: str) -> None:
    path = hub.folder / name
    path.chmod(0o750)
    finding = examined(hub)["hub folder"]
    assert (finding.status, finding.found) == ("fail", f"others can enter '{path.name}' (mode 0750)")
    assert path.stat().st_mode & 0o777 == 0o750


@pytest.mark.parametrize("name", ["ca.key", "server.key", "hub.key"])
def test_a_key_that_others_can_read_or_is_gone_is_named(hub: Hub, name: str) -> None:
    (hub.keys / name).chmod(0o640)
    finding = examined(hub)["hub keys"]
    assert (finding.status, finding.found) == ("fail", f"{name} can be read by others")
    (hub.keys / name).unlink()
    finding = examined(hub)["hub keys"]
    assert (finding.status, finding.found) == ("fail", f"{name} is missing")


def test_a_key_of_another_certificate_is_told(hub: Hub) -> None:
    key, _ = certificates.issue_server(certificates.make_authority("other"), LOOPBACK)
    pki.write_private(hub.tls.key, key, replace=True)
    finding = examined(hub)["hub keys"]
    assert finding.found == "server.key and server.pem do not belong together"
    assert finding.advice == "remove server.pem, then start the hub again, which makes both anew"


def test_an_authority_of_another_key_is_told(hub: Hub) -> None:
    other = certificates.make_authority("north-hub")
    pki.write_public(hub.tls.authority, certificates.authority_pem(other)[1])
    findings = examined(hub)
    assert findings["hub keys"].found == "the authority's key and certificate do not belong together"
    assert findings["hub card"].found == "hub.json names another authority"


@pytest.mark.parametrize(("days", "status", "words"), [(400, "ok", "good until"), (20, "warn", "it ends on")])
def test_a_certificate_that_ends_is_told(hub: Hub, days: int, status: str, words: str) -> None:
    issue(hub, days=days)
    finding = examined(hub)["hub certificate"]
    assert finding.status == status
    assert finding.found == f"{words} {hub.certificate_ends():%Y-%m-%d}"


def test_an_expired_certificate_is_told(hub: Hub) -> None:
    issue(hub, days=5, starts=datetime(2025, 3, 1, tzinfo=UTC))
    finding = examined(hub)["hub certificate"]
    assert (finding.status, finding.found) == ("fail", "it expired on 2025-03-06")
    assert "`fedward hub up` renews it" in finding.advice


def issue(hub: Hub, *, days: int, starts: datetime | None = None) -> None:
    authority = certificates.load_authority(pki.read_private(hub.keys / "ca.key"), hub.tls.authority.read_bytes())
    key, certificate = certificates.issue_server(authority, LOOPBACK, days=days, starts=starts)
    pki.write_private(hub.tls.key, key, replace=True)
    pki.write_public(hub.tls.certificate, certificate)


@pytest.mark.parametrize(("days", "status"), [(0, "fail"), (100, "warn")])
def test_an_authority_that_ends_is_told(hub: Hub, days: int, status: str) -> None:
    authority = certificates.make_authority("north-hub", days=days)
    key, certificate = certificates.authority_pem(authority)
    pki.write_private(hub.keys / "ca.key", key, replace=True)
    pki.write_public(hub.tls.authority, certificate)
    finding = examined(hub)["hub authority"]
    assert finding.status == status
    assert f"{authority.certificate.not_valid_after_utc:%Y-%m-%d}" in finding.found
    assert "give its card to every site" in finding.advice


def test_a_card_of_another_address_is_told(hub: Hub) -> None:
    authority = certificates.load_authority(pki.read_private(hub.keys / "ca.key"), hub.tls.authority.read_bytes())
    signing = pki.load_signing_key(hub.keys / "hub.key")
    HubCard.make("north-hub", "127.0.0.1:1", authority, signing).write(hub.card)
    finding = examined(hub)["hub card"]
    assert (finding.status, finding.found) == ("warn", "it sends sites to 127.0.0.1:1")


def test_a_missing_card_is_told(hub: Hub) -> None:
    hub.card.unlink()
    assert examined(hub)["hub card"].status == "fail"


@pytest.mark.parametrize("damage", [None, b"not a database, and long enough to be taken for one" * 100])
def test_a_database_that_does_not_open_is_told(hub: Hub, damage: bytes | None) -> None:
    for path in hub.folder.glob("store.sqlite*"):
        path.unlink()
    if damage is not None:
        hub.store_file.write_bytes(damage)
    finding = examined(hub)["hub database"]
    assert finding.status == "fail"
    assert "store.sqlite" in finding.found
    assert hub.store_file.exists() == (damage is not None)


def test_an_audit_log_that_was_changed_or_is_gone_is_told(hub: Hub) -> None:
    hub.audit().append("person added", {"person": "ada"})
    finding = examined(hub)["audit log"]
    assert (finding.status, finding.found[:18]) == ("ok", "whole; entries: 2,")
    hub.audit_file.write_text(hub.audit_file.read_text().replace('"ada"', '"eve"'))
    finding = examined(hub)["audit log"]
    assert finding.status == "fail"
    assert "entry 2 (line 2) was changed" in finding.found
    hub.audit_file.unlink()
    finding = examined(hub)["audit log"]
    assert (finding.status, finding.found) == ("fail", "audit.jsonl is missing")
    assert not hub.audit_file.exists()


def test_a_port_that_another_program_holds_is_told(hub: Hub) -> None:
    with socket.create_server(("127.0.0.1", hub.port)):
        finding = examined(hub)["port"]
    assert (finding.status, finding.found) == ("fail", f"another program holds {hub.port}")
    assert "hub.toml" in finding.advice


def test_another_user_is_told_who_should_ask() -> None:
    with tempfile.TemporaryDirectory(prefix="fedward-doctor-") as name:  # pytest's own folders are closed to others
        folder = Path(name) / "hub"
        Path(name).chmod(0o755)
        hub = Hub.init(folder, port=free_port())
        folder.chmod(0o755)
        hub.keys.chmod(0)
        as_other = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"] if os.geteuid() == 0 else []
        command = [*as_other, *FEDWARD, "doctor", "--hub", str(folder), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, cwd="/", check=False)
        hub.keys.chmod(0o700)
    assert done.returncode == 1, done.stderr
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert rows["hub folder"]["found"] == "others can enter 'hub' (mode 0755)"
    assert "cannot be read (Permission denied)" in rows["hub keys"]["found"]
    assert rows["hub certificate"]["status"] == "fail"


def test_a_superlink_that_does_not_answer_is_told(hub: Hub) -> None:
    with held(hub.lock):
        findings = examined(hub)
    assert findings["port"].status == "ok"
    assert findings["SuperLink"].found == "`fedward hub up` runs, its SuperLink does not answer"
    assert "superlink.log" in findings["SuperLink"].advice


def test_a_superlink_that_was_left_is_told(hub: Hub) -> None:
    with hub.link.running():
        finding = examined(hub)["port"]
    assert (finding.status, finding.found) == ("warn", f"a SuperLink that a killed hub left holds {hub.port}")


def test_another_copy_that_is_up_is_told(hub: Hub, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(hub.folder, copy)
    with hub.link.running():
        finding = examined(Hub.open(copy))["port"]
    assert (finding.status, finding.found) == ("fail", f"another copy of this hub is up, and holds {hub.port}")


# A hub that is up ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    hub = Hub.init(tmp_path_factory.mktemp("doctor") / "hub", port=free_port())
    subprocess.run([*FEDWARD, "hub", "up", str(hub.folder), "--detach"], check=True, timeout=120)
    yield hub
    subprocess.run([*FEDWARD, "hub", "down", str(hub.folder)], check=True, timeout=120)


def test_a_hub_that_is_up_is_told_so(running: Hub) -> None:
    findings = examined(running)
    assert not_ok(findings) == {}
    assert findings["port"].found == f"{running.port} is for process {running.pid()}, which is `fedward hub up`"
    assert findings["SuperLink"].found == "it answers, with the hub's own certificate"


def test_a_site_finds_its_way_to_the_real_superlink(running: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    findings = {finding.name: finding for finding in doctor_way.examine(running.card)}
    assert [name for name, finding in findings.items() if finding.status != "ok"] == []
    assert findings["clock"].found == "within two seconds of the hub's"


def test_the_command_adds_the_hub_to_the_machine(running: Hub) -> None:
    result = CliRunner().invoke(app, ["doctor", "--hub", str(running.folder), "--json"])
    names = [row["name"] for row in json.loads(result.stdout)]
    assert len(set(names)) == len(names)
    assert names[0] == "python"
    assert {"hub settings", *doctor.CHECKS} <= set(names)
    assert result.exit_code == 0


# With a gateway ------------------------------------------------------------------------------------------------------


@pytest.fixture
def faced(tmp_path: Path) -> Hub:
    address, listen = "hub.example:8443", f"127.0.0.1:{free_port()}"
    return Hub.init(tmp_path / "faced", name="north-hub", port=free_port(), address=address, listen=listen)


def of_the_gateway(hub: Hub) -> dict[str, Finding]:
    findings = {finding.name: finding for finding in doctor.examine(hub.folder)}
    assert list(findings) == ["hub settings", *doctor.CHECKS, *doctor.GATEWAY_CHECKS]
    for finding in findings.values():
        assert bool(finding.advice) == (finding.status != "ok"), finding
    return findings


def test_a_hub_with_a_gateway_is_fit_once_its_root_is_away(faced: Hub) -> None:
    findings = of_the_gateway(faced)
    assert findings["root key"].status == "warn"
    assert "locked away" in findings["root key"].advice
    assert findings["hub card"].found == "it sends sites to hub.example:8443"
    (faced.folder / "root").rename(faced.folder.parent / "away")
    findings = of_the_gateway(faced)
    assert findings["root key"].status == "ok"
    assert {findings[name].status for name in doctor.GATEWAY_CHECKS} == {"ok"}
    assert findings["gateway"].found.endswith("nginx is there; it is not up")


def test_a_port_of_the_gateway_that_another_program_holds_is_told(faced: Hub) -> None:
    assert faced.gateway is not None
    listens = faced.gateway.listen
    with socket.create_server(("127.0.0.1", int(listens.rpartition(":")[2]))):
        finding = of_the_gateway(faced)["gateway"]
    assert (finding.status, finding.found) == ("fail", f"another program holds {listens}")
    assert "another [gateway] listen in hub.toml" in finding.advice


def test_an_authority_below_the_root_that_ends_is_told(faced: Hub) -> None:
    root = certificates.load_authority(
        pki.read_private(faced.folder / "root" / "root.key"), faced.issuing.root.read_bytes()
    )
    key, certificate = certificates.authority_pem(certificates.issue_authority(root, "short", days=100))
    folder = faced.keys / "issuing"
    pki.write_private(folder / "0001.key", key, replace=True)
    pki.write_public(folder / "0001.pem", certificate)
    finding = of_the_gateway(faced)["issuing authority"]
    assert (finding.status, finding.advice) == ("warn", "fetch the root's key, then `fedward hub rotate`")
    key, certificate = certificates.authority_pem(certificates.issue_authority(root, "over", days=0))
    pki.write_private(folder / "0001.key", key, replace=True)
    pki.write_public(folder / "0001.pem", certificate)
    finding = of_the_gateway(faced)["issuing authority"]
    assert finding.status == "fail"
    assert "has expired" in finding.found + finding.advice


@pytest.mark.parametrize(
    ("days", "status", "words"), [(300, "ok", "good until"), (20, "warn", "ends on"), (0, "fail", "expired on")]
)
def test_a_certificate_of_the_pages_that_was_brought_is_told(
    tmp_path: Path, days: int, status: str, words: str
) -> None:
    hub = Hub.init(tmp_path / "hub", port=free_port(), address="hub.example:8443", dashboard="hub.example:8444")
    assert of_the_gateway(hub)["pages"].found == "hub.example:8444, with the hub's own certificate"
    key, chain = hub.issuing.for_server(["hub.example"], days=days)
    (tmp_path / "brought.key").write_bytes(key)
    (tmp_path / "brought.pem").write_bytes(chain)
    settings = hub.folder / SETTINGS
    said = f'certificate = "{tmp_path}/brought.pem"\nkey = "{tmp_path}/brought.key"\n'
    settings.write_text(settings.read_text().replace("[dashboard]\n", f"[dashboard]\n{said}"))
    finding = of_the_gateway(hub)["pages"]
    assert finding.status == status
    assert words in finding.found


def test_a_machine_without_nginx_is_told(faced: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedward_server.gateway._SEARCHED", "/nowhere")
    finding = of_the_gateway(faced)["gateway"]
    assert finding.status == "fail"
    assert "apt-get install nginx-light" in finding.advice
