"""The gateway as hospitals meet it: the real nginx before a real hub, certificates that hold and such that do not."""

import hashlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from prometheus_client.parser import text_string_to_metric_families

from fedward_client import bulk as client_bulk
from fedward_client import doctor_way, spool_writer
from fedward_client.credentials import ASKED, Credentials, _held, hub_of
from fedward_client.fleet import Fleet, RunOverError
from fedward_client.hub_api import HubApi
from fedward_client.member import NODE_KEY, SIGNING_KEY, LinkSettings, join
from fedward_client.pace import Window
from fedward_client.pending import Pending
from fedward_client.probe import context
from fedward_client.site import Site
from fedward_client.spool import IN, OUT
from fedward_client.supernode import Link, Renewal
from fedward_common import certificates, pki
from fedward_common.bulk import CHUNK_BYTES, Manifest
from fedward_common.cards import HubCard
from fedward_common.errors import LinkError, RunError, UsageError
from fedward_common.joining import JOIN, Invitation, Joined
from fedward_common.site_messages import STUDIES
from fedward_server import control, gateway
from fedward_server.bulk import Bulk
from fedward_server.gateway import Gateway, bring_gateway_in_line, node_header
from fedward_server.hub import Hub
from fedward_server.hub_settings import SETTINGS
from fedward_server.joining import Joining
from fedward_server.locks import held
from fedward_server.runs import ENGINE, LOCK
from fedward_server.superlink import CONNECTION, free_port
from fedward_simulations.federation import background

HOST = "127.0.0.1"
REFUSED = 403

pytestmark = pytest.mark.timeout(600)


def wait_until(there: Callable[[], bool], limit_s: float = 60) -> None:
    deadline = time.monotonic() + limit_s
    while not there():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


@dataclass(frozen=True)
class Ground:
    hub: Hub
    pid: int  # of `fedward hub up`
    folder: Path

    @property
    def url(self) -> str:
        return f"https://{self.hub.address}"

    @property
    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.hub.issuing.root)

    def invite(self, site: str) -> Invitation:
        with self.hub.store() as store:
            return Joining(self.hub, store).invite(site)

    def joins(self, name: str) -> Site:
        """A new site that has joined as people do it."""
        invitation = self.invite(name)
        card = hub_of(Invitation.read(invitation.code()))
        (self.folder / name).mkdir()
        site, own = join(self.folder / name, card, name=name)
        key = pki.load_signing_key(site.state / SIGNING_KEY)
        assert not Credentials(site.link).ask(card, own, key, invitation.secret)
        control.approve(self.hub, name, own.fingerprint)
        assert Credentials(site.link).ask(card, own, key, invitation.secret)
        return site

    def status(self, path: str, pem: Path | None = None, *, key: str = "", method: str = "POST") -> int:
        """What the gateway answers to somebody with this certificate, and a node key in a header."""
        trust = self.trust
        if pem is not None:
            trust.load_cert_chain(pem)
        headers = {"flwr-public-key": key, "x-fedward-site": "north"}  # the second is a lie that must not help
        with httpx.Client(verify=trust, trust_env=False) as client:
            request = client.build_request(method, self.url, headers=headers)
            request.url = httpx.URL(self.url, raw_path=path.encode())  # as it stands: httpx would tidy it up
            return client.send(request).status_code


def key_of(site: Site) -> str:
    return node_header(pki.node_public_line(pki.load_node_key(site.link / NODE_KEY)))


def tls_of(site: Site) -> Path:
    return Credentials(site.link).file


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    folder = tmp_path_factory.mktemp("gateway")
    port = free_port()
    address = f"{HOST}:{port}"
    hub = Hub.init(
        folder / "hub",
        name="alliance",
        port=free_port(),
        address=address,
        listen=address,
        root=folder / "root",
        dashboard=f"{HOST}:{free_port()}",
    )
    with (hub.folder / SETTINGS).open("a") as settings:
        settings.write(f'\n[metrics]\nlisten = "{HOST}:{free_port()}"\n[log]\nformat = "json"\n')
    hub = Hub.open(hub.folder)
    up = [sys.executable, "-m", "fedward_common", "hub", "up", str(hub.folder)]
    with background(up, folder / "hub.out") as pid:
        wait_until(lambda: hub.link.healthy() and Gateway(hub).answers(), 180)
        yield Ground(hub, pid, folder)
    assert Gateway(hub).pid() is None
    assert not is_open(port)  # nothing of it is left


@pytest.fixture(scope="module")
def north(ground: Ground) -> Site:
    return ground.joins("north")


@pytest.fixture(scope="module")
def south(ground: Ground) -> Site:
    return ground.joins("south")


def is_open(port: int) -> bool:
    with suppress(OSError), socket.create_connection((HOST, port), timeout=5):
        return True
    return False


@contextmanager
def fleet_of(site: Site, trust: ssl.SSLContext | None = None) -> Iterator[Fleet]:
    card = HubCard.read(site.link / "hub.json")
    trust = trust or Credentials(site.link).show(context(card.ca))
    fleet = Fleet(card, pki.load_node_key(site.link / NODE_KEY), trust)
    try:
        yield fleet
    finally:
        fleet.close()


# Who gets in ---------------------------------------------------------------------------------------------------------


def test_a_site_reaches_the_superlink_through_it(north: Site) -> None:
    with fleet_of(north) as fleet:
        fleet.activate(None, at_work=False)
        assert fleet.pull() is None
        fleet.heartbeat()
        fleet.deactivate()
        passed = fleet.traffic.numbers()
        assert 0 < (passed["sent"] or 0) < 1000 > (passed["received"] or 0)
        assert passed["heard"] is not None


@pytest.mark.parametrize(
    "path",
    [
        *("/", "/health", "/v1", "/v1/", "/v1/control/list-runs", "/v1/runtime/push-messages", "/v1/joined"),
        *("/v1/fleet/register-node", "/v1/fleet/unregister-node", "/v1/fleet/get-fab", "/v1/fleet/pull-messages/x"),
        *("/v1/fleet/../control/list-runs", "/v1/fleet/%2e%2e/control/list-runs", "/v1/fleet/..%2fcontrol/list-runs"),
        *(
            "//v1/control/list-runs",
            "/v1/join/../control/list-runs",
            "/V1/FLEET/pull-messages",
            "/docs",
            "/openapi.json",
            "/metrics",
        ),
    ],
)
def test_all_else_is_not_there(ground: Ground, north: Site, path: str) -> None:
    assert ground.status(path, tls_of(north), key=key_of(north)) == 404
    assert ground.status(path) in ({404, REFUSED} if path.startswith("/v1/fleet/") else {404})


GUARDED = (
    *("/v1/fleet/pull-messages", "/v1/fleet/activate-node", "/v1/fleet/"),
    *("/v1/site/certificate", "/v1/site/studies", "/v1/site/approvals", "/v1/site/status", "/v1/site/"),
)


@pytest.mark.parametrize("path", GUARDED)
def test_nobody_comes_in_without_a_certificate_that_holds(
    ground: Ground, north: Site, tmp_path: Path, path: str
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    issuing = ground.hub.issuing.current()
    root = certificates.make_authority("alliance root", below=1)  # of the same name
    stranger = certificates.issue_authority(root, "alliance stranger")
    long_ago = datetime.now(UTC) - timedelta(days=9)
    server_key, server = certificates.issue_server(issuing, ["north"])
    for name, parts in {
        "another hub's": (
            private,
            certificates.pem(
                certificates.issue_client(stranger, "north", key.public_key(), days=9), stranger.certificate
            ),
        ),
        "expired": (
            private,
            certificates.pem(
                certificates.issue_client(issuing, "north", key.public_key(), days=8, starts=long_ago),
                issuing.certificate,
            ),
        ),
        "a server's": (server_key, server + certificates.pem(issuing.certificate)),
    }.items():
        (tmp_path / "tls.pem").write_bytes(b"".join(parts))
        assert ground.status(path, tmp_path / "tls.pem", key=key_of(north)) == REFUSED, name
    assert ground.status(path, key=key_of(north)) == REFUSED


def test_a_certificate_goes_with_its_own_node_only(ground: Ground, north: Site, south: Site) -> None:
    path = "/v1/fleet/pull-messages"
    assert ground.status(path, tls_of(north), key=key_of(south)) == REFUSED
    assert ground.status(path, tls_of(south), key=key_of(north)) == REFUSED
    assert ground.status(path, tls_of(north), key="") == REFUSED
    assert ground.status(path, tls_of(north), key=key_of(north)) == 415  # the SuperLink's: that is no protobuf
    with (
        fleet_of(south, Credentials(north.link).show(ground.trust)) as thief,
        pytest.raises(LinkError, match="gateway knows this site by another node key"),
    ):
        thief.activate(None, at_work=False)


def test_the_superlink_and_the_api_are_this_machines_alone(ground: Ground) -> None:
    listening = subprocess.run(["ss", "-Htln"], capture_output=True, text=True, check=True).stdout
    [line] = [line for line in listening.splitlines() if f":{ground.hub.port} " in line]
    assert f"{HOST}:{ground.hub.port}" in line
    with pytest.raises(httpx.HTTPError), httpx.Client(verify=ground.trust, trust_env=False) as client:
        client.get(f"https://{HOST}:{ground.hub.port}/health")  # its certificate is not below the root


def test_tls_is_of_version_1_3(ground: Ground) -> None:
    host, _, port = ground.hub.address.rpartition(":")
    old = ground.trust
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection((host, int(port)), timeout=10) as plain, pytest.raises(ssl.SSLError):
        old.wrap_socket(plain, server_hostname=host)
    with (
        socket.create_connection((host, int(port)), timeout=10) as plain,
        ground.trust.wrap_socket(plain, server_hostname=host) as secure,
    ):
        assert secure.version() == "TLSv1.3"


@pytest.mark.parametrize(("path", "size"), [(JOIN, 40_000), ("/v1/site/status", 2**17 + 1)])
def test_what_is_too_long_is_not_read(ground: Ground, north: Site, path: str, size: int) -> None:
    trust = Credentials(north.link).show(ground.trust)
    with httpx.Client(verify=trust, trust_env=False) as client:
        assert client.post(f"{ground.url}{path}", content=b"x" * size).status_code == 413


def test_the_log_names_sites_and_nobody_else(ground: Ground, north: Site) -> None:
    ground.status("/v1/site/certificate?patient=Meier", tls_of(north))
    wait_until(lambda: "site=north POST /v1/site/certificate 4" in (ground.hub.logs / "gateway.log").read_text())
    text = (ground.hub.logs / "gateway.log").read_text()
    assert "Meier" not in text
    assert HOST not in text


def test_strangers_push_nobodys_lines_out_of_the_log(ground: Ground, north: Site) -> None:
    log = ground.hub.logs / "gateway.log"
    assert ground.status("/looking-around") == 404
    os.truncate(log, gateway.LOG_BYTES + 1)
    wait_until(log.with_suffix(".log.1").exists)
    wait_until(log.exists)
    ground.status("/v1/site/status", tls_of(north))
    wait_until(lambda: "site=north POST /v1/site/status" in log.read_text())
    assert b"looking-around" not in log.with_suffix(".log.1").read_bytes()


def test_no_proxy_stands_between_a_hub_and_its_own_superlink(
    ground: Ground, north: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://{HOST}:{free_port()}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    shown = {each["name"]: each["connection"] for each in control.survey(ground.hub)["sites"]}
    assert shown[north.name] in {"online", "offline", "never"}
    assert "NO_PROXY" not in os.environ


def test_metrics_are_told_on_this_machine_alone(ground: Ground, north: Site) -> None:
    assert ground.hub.settings.metrics is not None
    listen = ground.hub.settings.metrics.listen

    def figures() -> dict[str, float]:
        text = httpx.get(f"http://{listen}/metrics", trust_env=False).raise_for_status().text
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        return {"".join([each.name, *each.labels.values()]): each.value for each in samples}

    wait_until(lambda: figures()["fedward_hub_superlink_up"] == 1)
    found = figures()
    assert found["fedward_hub_site_connectednorth"] == 0
    assert found["fedward_hub_site_certificate_end_timestamp_secondsnorth"] > time.time()
    assert {value for name, value in found.items() if "readable" in name} == {1}


def test_logs_for_programs(ground: Ground) -> None:
    def messages() -> list[str]:
        return [json.loads(line)["message"] for line in (ground.hub.logs / "hub.log").read_text().splitlines()]

    wait_until(lambda: any(said.startswith("the SuperLink is up") for said in messages()))


# Joining -------------------------------------------------------------------------------------------------------------


def test_a_code_leads_to_its_own_hub_only(ground: Ground) -> None:
    invitation = ground.invite("west")
    other = replace(invitation, fingerprint="0" * 64)
    with pytest.raises(LinkError, match="is not the hub that made this code"):
        hub_of(other)


def test_a_code_that_is_over_is_refused_in_words(ground: Ground, tmp_path: Path) -> None:
    with ground.hub.store() as store:
        late = Joining(ground.hub, store).invite("late", days=-1)
    (tmp_path / "late").mkdir()
    for code, words in (
        (late, "the code has expired"),
        (Invitation.make("late", late.address, late.fingerprint, taken_back=0), "not"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "fedward_common", "site", "join", str(tmp_path / "late"), code.code(), "--no-wait"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1
        [line] = done.stderr.strip().splitlines()
        assert line.startswith("fedward: the code ")
        assert words in line
        assert "ask the hub's operator for a new one" in line or "ask its operator for a new one" in line
        assert code.secret not in done.stdout + done.stderr


def test_nonsense_at_the_door_is_answered_and_not_repeated(ground: Ground) -> None:
    with httpx.Client(verify=ground.trust, trust_env=False) as client:
        for sent in (b"", b"{", b'{"card": "Meier"}', b"[" * 5000, json.dumps({"secret": "Meier" * 9}).encode()):
            answer = client.post(f"{ground.url}{JOIN}", content=sent, headers={"content-type": "application/json"})
            assert answer.status_code == 400, answer.text
            assert set(answer.json()) == {"error"}
            assert "Meier" not in answer.text


# Sites that are in ---------------------------------------------------------------------------------------------------


def test_a_certificate_is_renewed_without_a_restart(ground: Ground) -> None:
    site = ground.joins("east")
    card, credentials = HubCard.read(site.link / "hub.json"), Credentials(site.link)
    first = credentials.certificate()
    assert first is not None
    trust = context(card.ca)
    credentials.show(trust)
    with fleet_of(site, trust) as fleet, HubApi(card, trust) as around:
        assert around.get(STUDIES) is not None
        node = fleet.activate(None, at_work=False)
        Renewal(credentials, card, "east", trust, threading.Event())()
        assert credentials.certificate() == first  # it lasts
        near_its_end(ground, site)
        assert credentials.is_due()
        aged = credentials.file.read_bytes()
        credentials.show(trust)
        Renewal(credentials, card, "east", trust, threading.Event())()
        after = credentials.certificate()
        assert after is not None
        assert after.public_key() not in [first.public_key(), certificates.load_certificate(aged).public_key()]
        assert not credentials.is_due()
        fleet.heartbeat()  # the links that were open go on
        assert around.get(STUDIES) is not None
        with fleet_of(site, trust) as later:  # and the next connection shows the new one
            assert later.activate(node, at_work=True) == node


def an_hour_passes(ground: Ground, site: str) -> None:
    """After which a site may renew its certificate again."""
    issued = (datetime.now(UTC) - timedelta(hours=1)).isoformat(timespec="milliseconds")
    with ground.hub.store() as store, store.writing() as connection:
        connection.exec_driver_sql("UPDATE certificates SET issued = ? WHERE site = ?", (issued, site))


def near_its_end(ground: Ground, site: Site) -> None:
    """Give a site a certificate of its hub's that has a tenth of its life to go."""
    own, request = certificates.make_request(site.name)
    issuing, begin = ground.hub.issuing.current(), datetime.now(UTC) - timedelta(days=9)
    key = certificates.read_request(request.decode())
    short = certificates.issue_client(issuing, site.name, key, days=10, starts=begin)
    row, _ = ground.hub.issuing.for_site(site.name, request.decode(), days=10)
    with ground.hub.store() as store:
        Joining(ground.hub, store).register.renew("", replace(row, serial=f"{short.serial_number:x}"))
    an_hour_passes(ground, site.name)
    Credentials(site.link).file.write_bytes(own + certificates.pem(short, issuing.certificate))


def test_a_site_that_is_forgotten_is_out_at_once_and_no_other_notices(ground: Ground, north: Site) -> None:
    site = ground.joins("lost")
    with fleet_of(north) as staying, fleet_of(site) as leaving, fleet_of(site) as anew:
        staying.activate(None, at_work=False)
        leaving.activate(None, at_work=False)
        ground.joins("new")
        staying.heartbeat()
        leaving.heartbeat()
        control.shut_out(ground.hub, "lost")
        for path in (*GUARDED, JOIN):
            assert ground.status(path, tls_of(site), key=key_of(site)) == REFUSED
        with pytest.raises(LinkError):
            leaving.heartbeat()  # on the connection that it had open
        with pytest.raises(LinkError, match="has expired or was taken back: ask the hub's operator for a code"):
            anew.activate(None, at_work=False)
        staying.heartbeat()
        assert staying.pull() is None
        staying.deactivate()
    for each, status in ((site, "fail"), (north, "ok")):
        told = {found.name: found.status for found in doctor_way.examine(each.link / "hub.json")}
        assert told["membership"] == status


def test_a_certificate_that_a_restored_hub_does_not_know_is_over_with_the_site(ground: Ground, tmp_path: Path) -> None:
    path = "/v1/site/certificate"
    stolen = tmp_path / "tls.pem"
    stolen.write_bytes(tls_of(ground.joins("restored")).read_bytes())
    long_ago = "2020-01-01T00:00:00+00:00"
    with ground.hub.store() as store, store.writing() as connection:
        connection.exec_driver_sql("DELETE FROM certificates WHERE site = 'restored'")
        connection.exec_driver_sql("UPDATE invitations SET decided = ? WHERE site = 'restored'", (long_ago,))
        connection.exec_driver_sql("UPDATE sites SET added = ? WHERE site = 'restored'", (long_ago,))
    assert ground.status(path, stolen) == 400  # let through; the body is none
    control.shut_out(ground.hub, "restored")
    (ground.folder / "restored").rename(tmp_path / "lost")
    assert ground.status(path, tls_of(ground.joins("restored"))) == 400
    assert ground.status(path, stolen) == REFUSED


def test_what_nginx_did_not_take_is_told_to_it_again(ground: Ground) -> None:
    site = ground.joins("gone")
    with ground.hub.store() as store:
        node = store.sites()["gone"].node_id
    log = ground.hub.logs / "gateway.log"
    kept = log.rename(log.with_suffix(".kept"))
    log.mkdir()  # nginx cannot open it
    with pytest.raises(RunError, match="nginx does not take the gateway's settings"):
        control.shut_out(ground.hub, "gone")
    nodes = ground.hub.link.flwr("supernode", "list", CONNECTION)["nodes"]
    assert {each["node-id"]: each["status"] for each in nodes}[node] == "unregistered"  # this step was not left out
    assert ground.status("/v1/bulk/x", tls_of(site)) == 404  # nginx still lets it through
    log.rmdir()
    kept.rename(log)
    with pytest.raises(UsageError, match="gone is not enrolled"):
        control.shut_out(ground.hub, "gone")
    assert ground.status("/v1/bulk/x", tls_of(site)) == REFUSED
    pid = Gateway(ground.hub).pid() or 0
    workers = gateway._children(pid)
    bring_gateway_in_line(ground.hub)
    assert gateway._children(pid) == workers  # it goes by all of it


def test_a_request_that_is_at_work_is_not_cut_by_a_new_site(ground: Ground, north: Site) -> None:
    trust = Credentials(north.link).show(ground.trust)
    host, _, port = ground.hub.address.rpartition(":")
    body = json.dumps({"request": certificates.make_request("north")[1].decode()}).encode()
    head = (
        f"POST /v1/site/certificate HTTP/1.1\r\nHost: {ground.hub.address}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    ).encode()
    with (
        socket.create_connection((host, int(port)), timeout=30) as plain,
        trust.wrap_socket(plain, server_hostname=host) as secure,
    ):
        an_hour_passes(ground, "north")
        secure.sendall(head + body[:10])
        before = gateway._children(Gateway(ground.hub).pid() or 0)
        ground.joins("slow-neighbour")
        assert gateway._children(Gateway(ground.hub).pid() or 0) != before  # nginx did read its settings anew
        secure.sendall(body[10:])
        answer = b""
        while part := secure.recv(65536):
            answer += part
    assert answer.startswith(b"HTTP/1.1 200 ")


def test_the_next_authority_and_the_one_before(ground: Ground, south: Site, tmp_path: Path) -> None:
    control.rotate(ground.hub, ground.folder / "root", distrust=False)
    assert ground.status("/v1/site/certificate", tls_of(south)) == 400  # let through; the body is none
    card, credentials = HubCard.read(south.link / "hub.json"), Credentials(south.link)
    an_hour_passes(ground, "south")
    credentials.renew(card, "south")  # with the card that it had
    own = credentials.certificate()
    assert own is not None
    assert certificates.issued_by(own, ground.hub.issuing.current().certificate)
    assert ground.status("/v1/site/certificate", tls_of(south)) == 400


# Chunks of models ----------------------------------------------------------------------------------------------------

RUN = "planted-run-1"
BLOCK = memoryview(os.urandom(9 * CHUNK_BYTES + 1000))


@pytest.fixture(scope="module")
def bulk(ground: Ground, north: Site, south: Site) -> Iterator[Bulk]:
    """The bulk path of a run that is at work, of which north is a site and south is not."""
    with ground.hub.store() as store:
        store.start_run(RUN, "planted", "d" * 64, "{}", ENGINE)
        (ground.hub.runs / RUN).mkdir()
        with held(ground.hub.runs / RUN / LOCK):
            made = Bulk(ground.hub.folder, RUN)
            made.await_answers(["north"], 1)
            yield made
            store.finish_run(RUN, "failed", None)


def calls(ground: Ground, site: Site, method: str, path: str, content: bytes = b"") -> httpx.Response:
    with httpx.Client(verify=Credentials(site.link).show(ground.trust), trust_env=False) as client:
        return client.request(method, f"{ground.url}/v1/bulk/{path}", content=content)


def test_a_model_is_fetched_by_the_sites_of_its_run(ground: Ground, bulk: Bulk, north: Site, south: Site) -> None:
    manifest = bulk.offer(BLOCK, 1)
    path = f"down/{RUN}/{manifest.chunks[0]}"
    assert calls(ground, north, "GET", path).content == BLOCK[:CHUNK_BYTES]
    assert calls(ground, south, "GET", path).status_code == 404  # as if there were none
    for other in (f"down/{RUN}/", f"down/{RUN}", f"down/other/{manifest.chunks[0]}", f"members/{RUN}/north", "down/"):
        assert calls(ground, north, "GET", other).status_code == 404
    for method in ("PUT", "DELETE", "POST", "PROPFIND", "MKCOL"):
        assert calls(ground, north, method, path).status_code == REFUSED
    assert ground.status(f"/v1/bulk/{path}", method="GET") == REFUSED


def test_a_site_puts_into_its_own_folder_and_sees_but_reads_nothing_there(
    ground: Ground, bulk: Bulk, north: Site, south: Site
) -> None:
    data = bytes(BLOCK[:1000])
    name = hashlib.sha256(data).hexdigest()
    path = f"up/north/{RUN}/1/{name}"
    assert calls(ground, north, "PUT", path, data).status_code == 201
    assert (ground.hub.folder / "bulk" / path).read_bytes() == data
    assert calls(ground, north, "PUT", path, data).status_code == 204  # again, after a cut
    assert calls(ground, south, "PUT", path, b"x").status_code == REFUSED
    assert calls(ground, south, "PUT", path.replace("up/north", "up/south"), data).status_code == 409
    for method in ("GET", "DELETE", "MOVE", "COPY"):
        for site in (north, south):
            assert calls(ground, site, method, path).status_code == REFUSED
    seen = calls(ground, north, "HEAD", path)
    assert (seen.status_code, seen.content) == (200, b"")
    assert calls(ground, north, "HEAD", path.replace(name, "a" * 64)).status_code == 404
    assert calls(ground, south, "HEAD", path).status_code == REFUSED
    assert (ground.hub.folder / "bulk" / path).read_bytes() == data
    assert calls(ground, north, "PUT", path.replace("/1/", "/2/"), data).status_code == 409  # nobody asked
    assert calls(ground, north, "PUT", f"up/north/{RUN}/1/x", data).status_code == 404
    assert calls(ground, north, "PUT", f"up/north/{RUN}/1/../../../south/{name}", data).status_code in {404, 409}
    assert calls(ground, north, "PUT", path, bytes(CHUNK_BYTES + 1)).status_code == 413


def test_what_was_taken_stays_whatever_is_put_in_its_place(ground: Ground, bulk: Bulk, north: Site) -> None:
    manifest = Manifest.of(BLOCK[:1000], run=RUN, trip=1)
    path = f"up/north/{RUN}/1/{manifest.chunks[0]}"
    assert calls(ground, north, "PUT", path, bytes(BLOCK[:1000])).status_code in {201, 204}
    taken = bulk.take("north", manifest, 2**30)
    for other in (bytes(BLOCK[1000:2000]), b"", bytes(BLOCK[: 2 * 2**20])):  # in memory and in a file
        assert calls(ground, north, "PUT", path, other).status_code == 204
        assert (ground.hub.folder / "bulk" / path).read_bytes() == other
        assert taken == BLOCK[:1000]


def test_a_half_written_upload_is_none(ground: Ground, bulk: Bulk, north: Site) -> None:
    name = "f" * 64
    host, _, port = ground.hub.address.rpartition(":")
    head = f"PUT /v1/bulk/up/north/{RUN}/1/{name} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {CHUNK_BYTES}\r\n\r\n"
    with (
        socket.create_connection((host, int(port)), timeout=30) as plain,
        Credentials(north.link).show(ground.trust).wrap_socket(plain, server_hostname=host) as secure,
    ):
        secure.sendall(head.encode() + bytes(BLOCK[: CHUNK_BYTES // 2]))
    temporary = ground.hub.folder / "gateway" / "temporary" / "body"
    wait_until(lambda: not [path for path in temporary.rglob("*") if path.is_file()])
    assert not (ground.hub.folder / "bulk" / "up" / "north" / RUN / "1" / name).exists()


def test_a_site_that_fills_the_hub_is_stopped(ground: Ground, bulk: Bulk, north: Site) -> None:
    big = ground.hub.folder / "bulk" / "up" / "north" / RUN / "1" / ("e" * 64)
    with big.open("wb") as file:
        file.truncate(8192 * 2**20 + 1)  # takes no room
    full = ground.hub.folder / "bulk" / "full" / "north"
    wait_until(full.exists)
    assert calls(ground, north, "PUT", f"up/north/{RUN}/1/{'d' * 64}", b"x").status_code == 507
    big.unlink()
    wait_until(lambda: not full.exists())


def test_a_site_that_asks_too_often_waits(ground: Ground, bulk: Bulk, north: Site) -> None:
    name, many = bulk.offer(BLOCK[:10], 1).chunks[0], 600
    host, _, port = ground.hub.address.rpartition(":")
    ask = f"GET /v1/bulk/down/{RUN}/{name} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    started, answers = time.monotonic(), b""
    with (
        socket.create_connection((host, int(port)), timeout=30) as plain,
        Credentials(north.link).show(ground.trust).wrap_socket(plain, server_hostname=host) as secure,
    ):
        secure.sendall(many * ask)
        while answers.count(b"HTTP/1.1 200 ") < many:
            answers += secure.recv(65536)
            assert b"429" not in answers
    assert time.monotonic() - started > 1.5


def test_what_goes_around_rounds_takes_the_proxy(ground: Ground, north: Site, cutting_proxy: "Cutter") -> None:
    card = HubCard.read(north.link / "hub.json")
    with HubApi(card, Credentials(north.link).show(context(card.ca))) as around:
        got = around.get(STUDIES)
        assert got is not None
        assert around.get(STUDIES, got.tag) is None
    assert cutting_proxy.up > 0


@pytest.fixture
def cutting_proxy(ground: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator["Cutter"]:
    """The real tinyproxy before the hub, behind a relay that counts bytes and can be cut."""
    port = free_port()
    (tmp_path / "tinyproxy.conf").write_text(f"Port {port}\nListen {HOST}\nTimeout 60\nAllow {HOST}\n")
    program = ["tinyproxy", "-d", "-c", str(tmp_path / "tinyproxy.conf")]
    with background(program, tmp_path / "tinyproxy.out"), Cutter(port) as cutter:
        wait_until(lambda: is_open(port))
        monkeypatch.setenv("HTTPS_PROXY", f"http://{HOST}:{cutter.port}")
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        yield cutter


class Cutter:
    """Passes connections on, counting what goes up, and cuts them all at a number of bytes."""

    def __init__(self, target: int) -> None:
        self.target, self.up, self.cut_at = target, 0, 0
        self.listening = socket.create_server((HOST, 0))
        self.port: int = self.listening.getsockname()[1]

    def __enter__(self) -> "Cutter":
        threading.Thread(target=self.accept, daemon=True).start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.listening.shutdown(socket.SHUT_RDWR)
        self.listening.close()

    def accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self.listening.accept()
                far = socket.create_connection((HOST, self.target))
                for pair in ((near, far, True), (far, near, False)):
                    threading.Thread(target=self.carry, args=pair, daemon=True).start()

    def carry(self, source: socket.socket, sink: socket.socket, upward: bool) -> None:
        with suppress(OSError), source:
            while data := source.recv(65536):
                if upward:
                    self.up += len(data)
                    if self.cut_at and self.up > self.cut_at:
                        self.cut_at = 0
                        break
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)


def bulk_of(site: Site) -> client_bulk.Bulk:
    card = HubCard.read(site.link / "hub.json")
    trust = Credentials(site.link).show(context(card.ca))
    return client_bulk.Bulk(card, trust, LinkSettings.read(site.link), threading.Event())


def test_a_transfer_that_was_cut_goes_on_through_a_proxy(
    ground: Ground, bulk: Bulk, north: Site, cutting_proxy: Cutter
) -> None:
    manifest = Manifest.of(BLOCK, run=RUN, trip=1)
    said: list[str] = []
    sent = [0]
    with closing(bulk_of(north)) as way:
        cutting_proxy.cut_at = int(0.9 * len(BLOCK))
        with pytest.raises(LinkError):
            sent.extend(way.put(manifest, BLOCK, 0, lambda state, _reason: said.append(state)))
        assert 0 < sent[-1] < len(manifest.chunks)
        sent.extend(way.put(manifest, BLOCK, sent[-1], lambda state, _reason: said.append(state)))
        assert sent[-1] == len(manifest.chunks)
        assert cutting_proxy.up < 1.1 * len(BLOCK)
        assert bulk.take("north", manifest, 2**30) == BLOCK
        offered = bulk.offer(BLOCK, 1)
        parcel = way.fetch(offered, IN, lambda _state, _reason: None)
    assert (north.spool / IN / parcel.sha256).read_bytes() == BLOCK
    assert set(said) == {"transferring"}


def test_what_was_put_before_a_long_cut_is_not_put_again(bulk: Bulk, north: Site, cutting_proxy: Cutter) -> None:
    """One after which the hub takes the site for gone, and asks it again when it is back."""
    block = memoryview(os.urandom(len(BLOCK)))
    manifest = Manifest.of(block, run=RUN, trip=1)
    bulk.await_answers(["north"], 1)
    with closing(bulk_of(north)) as way:
        cutting_proxy.cut_at = int(0.9 * len(block))
        with pytest.raises(LinkError):
            list(way.put(manifest, block, 0, lambda _state, _reason: None))
        bulk.leave("north", 1)
        bulk.await_answers(["north"], 7)
        with pytest.raises(RunOverError):
            list(way.put(manifest, block, 0, lambda _state, _reason: None))
        again = manifest.model_copy(update={"trip": 7})
        assert list(way.put(again, block, 0, lambda _state, _reason: None))[-1] == len(manifest.chunks)
        assert cutting_proxy.up < 1.1 * len(block)
    assert bulk.take("north", again, 2**30) == block
    bulk.forget("north", 7)
    bulk.await_answers(["north"], 1)


def test_how_much_was_sent_before_a_cut_is_noted(bulk: Bulk, north: Site, cutting_proxy: Cutter) -> None:
    parcel = spool_writer.write_block(north.spool, OUT, [BLOCK], len(BLOCK), limit=2**30)
    asked = Manifest.of(BLOCK[:5], run=RUN, trip=1)
    pending = Pending(
        message="", tree="", message_id="0" * 64, run=1, kind="train", manifest=asked, answer="{}", answer_parcel=parcel
    )
    with fleet_of(north) as fleet, closing(bulk_of(north)) as way:
        link = Link(north.link, way.settings, fleet, way.stopping, way)
        link.pending.put(pending)
        cutting_proxy.cut_at = int(0.9 * len(BLOCK))
        with pytest.raises(LinkError):
            link._send_beside(pending)
        [noted] = link.pending.all()
        assert noted.sent > 5
        cutting_proxy.up = 0
        manifest = link._send_beside(noted)
        assert cutting_proxy.up < 0.5 * len(BLOCK)
        link.pending.remove(noted)
    assert manifest is not None
    assert bulk.take("north", manifest, 2**30) == BLOCK
    spool_writer.remove(north.spool, OUT, parcel.sha256)


def test_what_a_site_is_told_of_its_chunks(ground: Ground, bulk: Bulk, north: Site) -> None:
    manifest = Manifest.of(BLOCK[:5], run=RUN, trip=1)
    with closing(bulk_of(north)) as way:
        with pytest.raises(RunOverError, match="has put away"):
            list(way.put(manifest.model_copy(update={"trip": 99}), BLOCK[:5], 0, lambda *_: None))
        with pytest.raises(RunOverError, match="has put away"):  # in the middle of a chunk
            list(way.put(Manifest.of(BLOCK, run=RUN, trip=99), BLOCK, 0, lambda *_: None))
        with pytest.raises(RunOverError, match="has put away"):
            way.fetch(manifest, IN, lambda *_: None)
        bulk.offer(BLOCK[:5], 1)
        (ground.hub.folder / "bulk" / "down" / RUN / manifest.chunks[0]).write_bytes(b"other")
        with pytest.raises(LinkError, match="sent another chunk than it was asked for"):
            way.fetch(manifest, IN, lambda *_: None)


def test_the_hours_and_the_rate_of_a_site_hold(ground: Ground, bulk: Bulk, north: Site) -> None:
    manifest = bulk.offer(BLOCK[:1000], 1)
    now = datetime.now()
    closed = Window(opens=(now + timedelta(hours=2)).time(), closes=(now + timedelta(hours=3)).time())
    said: list[str] = []
    with closing(bulk_of(north)) as way:
        way.settings = way.settings.model_copy(update={"window": closed})
        threading.Timer(0.3, way.stopping.set).start()
        with pytest.raises(LinkError, match="is stopping"):
            way.fetch(manifest, IN, lambda state, reason: said.append(f"{state}: {reason}"))
    assert said == [f"waiting: [link] window opens at {closed.opens:%H:%M}"]
    with closing(bulk_of(north)) as way:
        way._rate.bytes_per_minute = 60_000
        started = time.monotonic()
        list(way.put(Manifest.of(BLOCK[:1000], run=RUN, trip=1), BLOCK[:1000], 0, lambda *_: None))
        way.fetch(manifest, IN, lambda *_: None)
        assert time.monotonic() - started > 0.9  # a second for a thousand bytes


# What dies -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["nginx: master", "nginx: worker", "fedward_server.api"])
def test_what_is_killed_comes_back(ground: Ground, north: Site, what: str) -> None:
    family = descendants(ground.pid)
    [pid, *_] = [pid for pid in family if what in command_of(pid) and "leash" not in command_of(pid)]
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: pid not in descendants(ground.pid))
    wait_until(lambda: Gateway(ground.hub).answers())
    wait_until(lambda: ground.status("/v1/site/certificate", tls_of(north)) == 400)


def descendants(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in task.read_text().split():
                found += [int(child), *descendants(int(child))]
    return found


def command_of(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return ""


def test_settings_that_nginx_does_not_take_change_nothing(ground: Ground) -> None:
    path = Gateway(ground.hub).folder / "nginx.conf"
    text = path.read_text()
    path.write_text(text.replace("TLSv1.3", "TLSv9"))
    with pytest.raises(RunError, match="nginx does not take the gateway's settings: invalid value"):
        Gateway(ground.hub).reload()
    path.write_text(text)
    assert Gateway(ground.hub).answers()


def test_a_port_that_is_taken(ground: Ground, tmp_path: Path) -> None:
    hub = Hub.init(
        tmp_path / "hub", name="second", port=free_port(), address=ground.hub.address, listen=ground.hub.address
    )
    done = subprocess.run(
        [sys.executable, "-m", "fedward_common", "hub", "up", str(hub.folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.strip().endswith(
        "stop the program that does, or set another [gateway] listen in hub.toml; a port below 1024 needs the right "
        "to bind it (CAP_NET_BIND_SERVICE)"
    )


def test_an_answer_that_is_no_certificate_of_ours_is_refused(ground: Ground, north: Site) -> None:
    card, credentials = HubCard.read(north.link / "hub.json"), Credentials(north.link)
    kept = credentials.file.read_bytes()
    stranger = certificates.make_authority("stranger")
    own, request = certificates.make_request("north")
    key = certificates.read_request(request.decode())
    ours = ground.hub.issuing.for_site("north", certificates.make_request("north")[1].decode(), days=9)[1]
    for wrong in (
        "",
        certificates.pem(certificates.issue_client(stranger, "north", key, days=9)).decode(),
        ours,  # for another key
    ):
        with pytest.raises(LinkError, match="is not for this site's key"):
            _held(card, own, wrong)
    assert credentials.file.read_bytes() == kept
    assert not (north.link / ASKED).exists()
    assert Joined(status="waiting").certificate is None


def test_a_hospital_whose_people_watch_pages_can_ask_to_join(ground: Ground) -> None:
    assert ground.hub.settings.dashboard is not None
    host, _, port = ground.hub.settings.dashboard.address.rpartition(":")
    half = f"POST /studies HTTP/1.1\r\nHost: {host}\r\nContent-Length: 100\r\n\r\nhalf".encode()
    with ExitStack() as watching:
        for _ in range(12):
            plain = watching.enter_context(socket.create_connection((host, int(port)), timeout=30))
            watching.enter_context(ground.trust.wrap_socket(plain, server_hostname=host)).sendall(half)
        time.sleep(0.5)  # until nginx has read them
        assert ground.status(JOIN, method="GET") == 200


def test_authorities_that_were_taken_back(ground: Ground) -> None:
    site = ground.joins("late-hearer")
    card, credentials = HubCard.read(site.link / "hub.json"), Credentials(site.link)
    trust = context(card.ca, card.distrusted)
    stolen = ground.hub.issuing.current()
    control.rotate(ground.hub, ground.folder / "root", distrust=True)
    assert ground.status("/v1/site/status", tls_of(site)) == REFUSED
    assert {found.name for found in doctor_way.examine(site.link / "hub.json") if found.status == "fail"} == {
        "membership"
    }
    renewal = Renewal(credentials, card, site.name, trust, threading.Event())
    renewal()
    assert stolen.certificate.serial_number in trust.distrusted
    assert HubCard.read(site.link / "hub.json") == HubCard.read(ground.hub.card)
    invitation = ground.invite(site.name)
    assert hub_of(Invitation.read(invitation.code())) == renewal.card


def test_guessing_codes_is_slowed_down(ground: Ground) -> None:
    with httpx.Client(verify=ground.trust, trust_env=False) as client:
        found = [client.post(f"{ground.url}{JOIN}?patient=Meier", content=b"{}").status_code for _ in range(60)]
    assert found.count(429) > 10
    told = (ground.hub.logs / "gateway-errors.log").read_text()
    assert "Meier" not in told
    assert HOST not in told
    wait_until(lambda: Gateway(ground.hub).answers())  # and over soon
