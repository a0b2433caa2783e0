"""How far a site gets on its way to a hub, and the one sentence on what stops it: real TLS, a real CONNECT proxy."""

import socket
import ssl
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedward_client import probe, reach
from fedward_common import certificates
from fedward_common.errors import LinkError

pytestmark = pytest.mark.usefixtures("no_proxy")

LOOPBACK = ["127.0.0.1", "localhost"]
HUB = certificates.make_authority("north hub")
CA = certificates.authority_pem(HUB)[1].decode()

Start = Callable[..., str]


def why(address: str, ca: str = CA) -> str:
    """The sentence on what stops an attempt."""
    met = probe.attempt(address, ca, limit_s=2)
    assert met.error is not None
    return checked(reach.explain(met.error, address, ca))


def checked(sentence: str) -> str:
    """One line, with what to do behind a colon."""
    assert ": " in sentence
    assert sentence.isprintable()
    return sentence


# Straight ------------------------------------------------------------------------------------------------------------


def test_a_hub_that_is_there_is_reached(https_server: Start) -> None:
    address = https_server(*certificates.issue_server(HUB, LOOPBACK))
    met = probe.attempt(address, CA)
    assert (met.failed, met.error, met.proxy, met.status) == (None, None, None, 200)
    assert met.certificate is not None
    assert met.certificate.issuer == HUB.certificate.subject
    assert met.offset_s is not None
    assert abs(met.offset_s) < 2
    by_name = probe.attempt(address.replace("127.0.0.1", "localhost"), CA)
    assert by_name.failed is None


def test_an_authority_that_the_root_took_back_is_no_hub(https_server: Start) -> None:
    root = certificates.make_authority("north root", below=1)
    stolen, issuer = (certificates.issue_authority(root, "north 2026") for _ in range(2))
    ca, distrusted = certificates.pem(root.certificate).decode(), frozenset({stolen.certificate.serial_number})

    def serving(by: certificates.Authority) -> str:
        return https_server(*certificates.issue_server(by, LOOPBACK), certificates.pem(by.certificate))

    assert probe.attempt(serving(issuer), ca, distrusted).failed is None
    address = serving(stolen)
    assert probe.attempt(address, ca).failed is None
    met = probe.attempt(address, ca, distrusted)
    assert (met.failed, met.status) == ("tls", None)
    assert met.error is not None
    said = checked(reach.explain(met.error, address, ca))
    assert said.startswith(f"the certificate of the hub {address} is of an authority that the hub took back: ")


@pytest.mark.parametrize("ahead_s", [310, -310])
def test_a_clock_that_is_off_is_measured(https_server: Start, ahead_s: int) -> None:
    met = probe.attempt(https_server(*certificates.issue_server(HUB, LOOPBACK), ahead_s=ahead_s), CA)
    assert met.offset_s is not None
    assert abs(met.offset_s - ahead_s) < 2


@given(st.text() | st.sampled_from(["Thu, 01 Jan 1970 00:00:99 GMT", "Mon, 99 Foo 2026"]))
def test_a_date_that_is_none_gives_no_offset(text: str) -> None:
    offset = probe.clock_offset(text, 0, 0)
    assert offset is None or isinstance(offset, float)


def test_an_offset_is_from_the_middle_of_the_exchange() -> None:
    assert probe.clock_offset("Thu, 01 Jan 1970 00:02:00 GMT", 100, 110) == 15.5


def test_a_closed_port_is_refused(free_port: int) -> None:
    address = f"127.0.0.1:{free_port}"
    assert probe.attempt(address, CA).failed == "connect"
    assert why(address) == (
        f"the hub {address} refuses the connection: ask the hub's operator whether it is up and on that port"
    )


def test_a_name_that_does_not_resolve_is_named() -> None:
    assert "the name hub.invalid is not known here (" in why("hub.invalid:443")
    with pytest.raises(OSError, match="no name that DNS can hold"):
        probe.resolve(f"{'a' * 64}.example")


def test_a_port_that_drops_everything_times_out() -> None:
    with closing(socket.socket()) as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = f"127.0.0.1:{full.getsockname()[1]}"
        waiting = [socket.socket() for _ in range(4)]  # what the kernel holds for a listener that takes nobody
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(full.getsockname())
        assert probe.attempt(address, CA, limit_s=0.5).failed == "connect"
        assert f"the hub {address} does not answer: it is down, or a firewall drops" in why(address)
        for each in waiting:
            each.close()


def _accept_and_cut(server: socket.socket) -> None:
    server.accept()[0].close()


def test_a_connection_that_is_cut_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with ThreadPoolExecutor() as threads:
            for _ in range(2):
                threads.submit(_accept_and_cut, server)
            assert probe.attempt(address, CA).failed == "tls"
            assert "your network department" in why(address)


def test_a_port_without_tls_is_told(https_server: Start) -> None:
    assert "does not speak TLS on that port" in why(https_server())


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "does not accept this site (401): ask the hub's operator whether it is let in"),
        (503, "has its gateway up and its SuperLink not (503)"),
        (500, "answers with HTTP status 500"),
    ],
)
def test_what_a_hub_answers_is_told(https_server: Start, status: int, words: str) -> None:
    address = https_server(*certificates.issue_server(HUB, LOOPBACK), status=status)
    assert probe.attempt(address, CA).status == status
    with pytest.raises(httpx.HTTPStatusError) as refused:
        httpx.get(f"https://{address}/", verify=probe.context(CA)).raise_for_status()
    assert words in checked(reach.explain(refused.value, address, CA))


def test_errors_of_other_kinds_are_told_in_one_line() -> None:
    for error in (RuntimeError("two\nlines"), OSError(101, "Network is unreachable"), httpx.ReadTimeout(""), OSError()):
        assert "hub.example:443" in checked(reach.explain(error, "hub.example:443"))


# Certificates --------------------------------------------------------------------------------------------------------


def test_interception_names_the_issuer(https_server: Start) -> None:
    inspection = certificates.make_authority("Hospital TLS Inspection")
    address = https_server(*certificates.issue_server(inspection, LOOPBACK))
    assert probe.attempt(address, CA).failed == "tls"
    assert why(address) == (
        f"TLS interception: the certificate shown for the hub {address} is issued by 'Hospital TLS Inspection', not by "
        f"the hub's own authority: ask your network department to exempt {address} from TLS inspection"
    )


def test_an_issuer_cannot_steer_a_terminal(https_server: Start) -> None:
    address = https_server(*certificates.issue_server(certificates.make_authority("\x1b[31mred\nline"), LOOPBACK))
    assert r"'\x1b[31mred\nline'" in why(address)


def test_a_hub_that_was_set_up_anew_is_no_interception(https_server: Start) -> None:
    address = https_server(*certificates.issue_server(certificates.make_authority("north hub"), LOOPBACK))
    assert "has another authority than the one in its card" in why(address)


def test_an_expired_certificate_says_since_when(https_server: Start) -> None:
    starts = datetime(2025, 3, 1, 12, tzinfo=UTC)
    address = https_server(*certificates.issue_server(HUB, LOOPBACK, days=10, starts=starts))
    assert f"the certificate of the hub {address} expired on 2025-03-11 12:00 UTC: ask the hub's operator" in why(
        address
    )


def test_an_expired_authority_is_told(https_server: Start) -> None:
    expired = certificates.make_authority("north hub", days=0)
    address = https_server(*certificates.issue_server(expired, LOOPBACK))
    assert "the hub's authority expired on " in why(address, certificates.authority_pem(expired)[1].decode())


def test_a_certificate_of_tomorrow_points_at_the_clock(https_server: Start) -> None:
    address = https_server(*certificates.issue_server(HUB, LOOPBACK, starts=datetime.now(UTC) + timedelta(days=3)))
    assert "is not valid before " in why(address)
    assert "set this machine's clock (now 2" in why(address)


def test_a_wrong_name_says_whose_it_is(https_server: Start) -> None:
    address = https_server(*certificates.issue_server(HUB, ["hub.example", "10.1.2.3"]))
    assert "is made out to hub.example, 10.1.2.3: ask the hub's operator for a card with that address" in why(address)
    by_name = address.replace("127.0.0.1", "localhost")
    assert f"the certificate of the hub {by_name} is made out to hub.example" in why(by_name)


def test_nothing_is_sent_to_whom_is_not_trusted(tmp_path: Path) -> None:
    chain = tmp_path / "chain.pem"
    chain.write_bytes(b"".join(certificates.issue_server(certificates.make_authority("somebody"), LOOPBACK)))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)

    def serve(server: socket.socket) -> bytes:
        connection, _ = server.accept()
        with context.wrap_socket(connection, server_side=True, suppress_ragged_eofs=True) as stream:
            return stream.recv(1)

    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor() as threads:
        received = threads.submit(serve, server)
        shown = probe.shown_certificate(f"127.0.0.1:{server.getsockname()[1]}")
        assert shown is not None
        assert "somebody" in shown.issuer.rfc4514_string()
        assert received.result() == b""


# Through a proxy -----------------------------------------------------------------------------------------------------


def test_the_proxy_that_httpx_takes_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert probe.proxy_of("hub.example:443") is None
    monkeypatch.setenv("ALL_PROXY", "http://all.example:1")
    assert probe.proxy_of("hub.example:443") == "all.example:1"
    monkeypatch.setenv("HTTPS_PROXY", "http://name:secret@[::1]:3128")
    assert probe.proxy_of("hub.example:443") == "[::1]:3128"
    monkeypatch.setenv("NO_PROXY", "localhost,.example")
    assert probe.proxy_of("hub.example:443") is None
    assert probe.proxy_of("localhost:9092") is None
    assert probe.proxy_of("[fe80::1]:9092") == "[::1]:3128"


def test_the_proxy_of_chunks_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    assert probe.proxy_url("hub.example:443") is None
    monkeypatch.setenv("ALL_PROXY", "all.example:1")
    assert probe.proxy_url("hub.example:443") == "http://all.example:1"
    monkeypatch.setenv("HTTPS_PROXY", "https://name:p%40ss@[::1]:3128")
    found = probe.proxy_url("hub.example:443")
    assert found is not None
    assert (found.scheme, found.netloc, found.username, found.password) == ("https", b"[::1]:3128", "name", "p@ss")
    monkeypatch.setenv("NO_PROXY", ".example")
    assert probe.proxy_url("hub.example:443") is None


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("ftp://name:secret@proxy.example", "holds something else than the address of a proxy"),
        ("http://name:secret@proxy.example:port", "holds something else than the address of a proxy"),
        ("socks5://name:secret@proxy.example:1080", "is a SOCKS proxy"),
    ],
)
def test_a_variable_that_is_no_proxy_is_told(monkeypatch: pytest.MonkeyPatch, value: str, words: str) -> None:
    monkeypatch.setenv("HTTPS_PROXY", value)
    with pytest.raises(LinkError, match=words) as refused:
        probe.proxy_url("hub.example:443")
    assert "secret" not in str(refused.value)
    assert reach.explain(ImportError(), "hub.example:443") == str(refused.value)


def test_an_address_that_is_none_is_told() -> None:
    with pytest.raises(LinkError, match="ask its operator for the hub's card again"):
        probe.proxy_of("hub.example:port")


def test_a_hub_behind_a_real_proxy_is_reached(
    https_server: Start, tinyproxy: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    address, proxy = https_server(*certificates.issue_server(HUB, LOOPBACK), ahead_s=60), tinyproxy()
    monkeypatch.setenv("HTTPS_PROXY", f"http://{proxy}")
    met = probe.attempt(address, CA)
    assert (met.failed, met.proxy, met.status) == (None, proxy, 200)
    assert met.offset_s is not None
    assert abs(met.offset_s - 60) < 2
    assert f"CONNECT {address}" in (tmp_path / f"proxy-{proxy.rpartition(':')[2]}.log").read_text("utf-8")


def test_a_proxy_that_wants_a_password_is_told(
    https_server: Start, tinyproxy: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, proxy = https_server(*certificates.issue_server(HUB, LOOPBACK)), tinyproxy("BasicAuth steward secret")
    monkeypatch.setenv("HTTPS_PROXY", f"http://{proxy}")
    assert probe.attempt(address, CA).failed == "tunnel"
    assert why(address) == (
        f"the proxy {proxy} asks for a user name and a password (407): write them into HTTPS_PROXY, as "
        f"http://NAME:PASSWORD@{proxy}"
    )
    monkeypatch.setenv("HTTPS_PROXY", f"http://steward:secret@{proxy}")
    assert probe.attempt(address, CA).failed is None
    monkeypatch.setenv("HTTPS_PROXY", f"http://steward:other@{proxy}")
    assert "other" not in why(address)


def test_a_proxy_that_forbids_the_port_is_told(
    https_server: Start, tinyproxy: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, proxy = https_server(*certificates.issue_server(HUB, LOOPBACK)), tinyproxy("ConnectPort 443")
    monkeypatch.setenv("HTTPS_PROXY", f"http://{proxy}")
    assert f"lets nothing through to {address} (403" in why(address)
    assert f"ask your network department to allow CONNECT to {address}" in why(address)


def test_a_proxy_that_does_not_get_through_is_told(
    tinyproxy: Start, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = tinyproxy()
    monkeypatch.setenv("HTTPS_PROXY", f"http://{proxy}")
    assert f"the proxy {proxy} does not get through to the hub 127.0.0.1:{free_port} (50" in why(
        f"127.0.0.1:{free_port}"
    )
    assert f"the proxy {proxy} does not get through to the hub hub.invalid:443 (50" in why("hub.invalid:443")


def test_a_proxy_that_is_down_or_unknown_is_told(free_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{free_port}")
    assert probe.attempt("hub.example:443", CA).failed == "connect"
    assert why("hub.example:443") == (
        f"the proxy 127.0.0.1:{free_port} refuses the connection: ask your network department whether it is up and on "
        "that port"
    )
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.invalid:3128")
    assert "the name proxy.invalid is not known here (" in why("hub.example:443")
    assert "and the name in the proxy variables" in why("hub.example:443")


def test_interception_behind_a_proxy_is_told(
    https_server: Start, tinyproxy: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = https_server(*certificates.issue_server(certificates.make_authority("Proxy CA"), LOOPBACK))
    proxy = tinyproxy()
    monkeypatch.setenv("HTTPS_PROXY", f"http://{proxy}")
    assert probe.attempt(address, CA).failed == "tls"
    assert f"the hub {address} (through the proxy {proxy}) is issued by 'Proxy CA', not by the hub's own" in why(
        address
    )
