"""How far a site's network side gets on its way to its hub; `reach` says in words what stops it.

Everything goes through httpx as the network process goes: the same proxy variables (HTTPS_PROXY, ALL_PROXY, NO_PROXY),
no certificate trusted but those of the hub's own authority, and nothing sent but `GET /health`. A certificate that is
not the hub's is looked at and not trusted: that connection is closed before anything is sent on it.

`Trust` also refuses what the root took back. OpenSSL by itself would want a list of every authority in the chain, each
made anew every few days; the root's, which is offline, is the only one that a site needs.
"""

import contextlib
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from typing import Any, Literal
from urllib.request import getproxies

import httpx
from cryptography import x509

from fedward_common.errors import LinkError

LIMIT_S = 5.0  # for each step: connect, handshake, answer
REVOKED = 23  # OpenSSL's X509_V_ERR_CERT_REVOKED
_NO_SOCKS = "the proxy that is set is a SOCKS proxy, which models do not pass: set HTTPS_PROXY to an HTTP proxy"
Step = Literal["connect", "tunnel", "tls", "answer"]  # tunnel: a proxy's leave to go through it


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """What one `GET /health` met. `failed` is the step that `error` stopped, None where the hub answered.

    `certificate` is the hub's, once it was accepted; `status` is of its answer; `offset_s` is how many seconds the
    hub's clock is ahead of this machine's, None where the answer had no date.
    """

    proxy: str | None
    failed: Step | None = None
    error: Exception | None = None
    certificate: x509.Certificate | None = None
    status: int | None = None
    offset_s: float | None = None


class Trust(ssl.SSLContext):
    """TLS that trusts nothing but what a hub's root issued, or an authority below it that it has not taken back."""

    distrusted: frozenset[int]  # serial numbers


def context(ca: str, distrusted: frozenset[int] = frozenset()) -> Trust:
    """TLS that trusts nothing but what this authority (PEM) issued, and nothing of those that it took back."""
    found = Trust(ssl.PROTOCOL_TLS_CLIENT)
    found.distrusted = distrusted
    found.sslsocket_class, found.sslobject_class = _Socket, _Object
    found.load_verify_locations(cadata=ca)
    return found


def host_of(address: str) -> str:
    """The host of a "host:port", without the brackets of an IPv6 address. Raises LinkError where it is none."""
    return _url(address).host


def resolve(host: str) -> list[str]:
    """The IP addresses of a host, by this machine's resolver. Raises OSError where it has none."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except UnicodeError:  # a label that DNS cannot hold
        raise socket.gaierror(socket.EAI_NONAME, "it is no name that DNS can hold") from None
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def proxy_of(address: str) -> str | None:
    """The proxy ("host:port") through which httpx would reach "host:port", None where it goes straight.

    Asks httpx itself, and connects to nothing. Raises LinkError where the proxy variables make no sense.
    """
    url = _url(address)
    direct = found = _joined(url.host, url.port or 443)
    try:
        with httpx.Client(verify=untrusting()) as client:
            _request(client, url, _stop_before_connecting)
    except _SeenError as seen:
        found = _joined(seen.info["host"], seen.info["port"])
    except ImportError:
        raise LinkError(_NO_SOCKS) from None
    except (ValueError, httpx.InvalidURL):
        raise LinkError(
            "HTTPS_PROXY, ALL_PROXY or NO_PROXY holds something else than the address of a proxy: write it as "
            "http://proxy.example:3128"
        ) from None
    return None if found == direct else found


def proxy_url(address: str) -> httpx.URL | None:
    """That proxy as its variable has it, with the user and password that may stand there. Raises as `proxy_of` does."""
    if proxy_of(address) is None:
        return None
    found = getproxies()  # where httpx looks, in its order
    text = found.get("https") or found["all"]
    url = httpx.URL(text if "://" in text else f"http://{text}")
    if url.scheme.startswith("socks"):
        raise LinkError(_NO_SOCKS)
    return url


def attempt(address: str, ca: str, distrusted: frozenset[int] = frozenset(), *, limit_s: float = LIMIT_S) -> Attempt:
    """Ask the hub at "host:port" for its health, with at most `limit_s` for each step. Raises as `proxy_of` does."""
    watch = _Watch(proxy_of(address))
    sent = time.time()
    try:
        with httpx.Client(verify=context(ca, distrusted), timeout=limit_s) as client:
            response = _request(client, _url(address), watch)
    except httpx.HTTPError as error:
        return Attempt(proxy=watch.proxy, failed=watch.next, error=error, certificate=watch.certificate)
    met = Attempt(
        proxy=watch.proxy,
        certificate=watch.certificate,
        status=response.status_code,
        offset_s=clock_offset(response.headers.get("date", ""), sent, time.time()),
    )
    if response.is_server_error:  # of others, /health may be none that a gateway shows
        refused = httpx.HTTPStatusError(response.reason_phrase, request=response.request, response=response)
        return replace(met, failed="answer", error=refused)
    return met


def shown_certificate(address: str) -> x509.Certificate | None:
    """The certificate that "host:port" shows, trusted or not; None where it shows none that can be read."""
    try:
        with httpx.Client(verify=untrusting(), timeout=LIMIT_S) as client:
            _request(client, _url(address), _Watch(proxy_of(address), stops=True))
    except _SeenError as seen:
        found: x509.Certificate | None = seen.info["certificate"]
        return found
    except httpx.HTTPError:
        pass
    return None


def clock_offset(date: str, sent: float, received: float) -> float | None:
    """How many seconds the clock of a server is ahead of ours, to within a second and half the answer's way.

    `date` is its Date header, which counts whole seconds (RFC 9110, 6.6.1), `sent` and `received` are our Unix times
    before and after. None where the header is no date.
    """
    with contextlib.suppress(ValueError):
        return parsedate_to_datetime(date).timestamp() + 0.5 - (sent + received) / 2
    return None


class _SeenError(Exception):
    """Ends a request where what was to be seen has been seen."""

    def __init__(self, info: Mapping[str, Any]) -> None:
        super().__init__()
        self.info = info


def _stop_before_connecting(event: str, info: Mapping[str, Any]) -> None:
    if event.endswith("connect_tcp.started"):
        raise _SeenError(info)


class _Watch:
    """Follows a request by the events that httpx tells (https://www.python-httpx.org/advanced/extensions/#trace)."""

    def __init__(self, proxy: str | None, *, stops: bool = False) -> None:
        self.proxy = proxy
        self.next: Step = "connect"
        self.certificate: x509.Certificate | None = None
        self._stops = stops

    def __call__(self, event: str, info: Mapping[str, Any]) -> None:
        layer, step, phase = event.split(".")
        ours = (layer == "connection") == (self.proxy is None)  # the handshake with the hub, not with an https:// proxy
        if (step, phase) == ("connect_tcp", "complete"):
            self.next = "tunnel" if self.proxy else "tls"
        elif (step, phase) == ("start_tls", "started") and ours:
            self.next = "tls"
        elif (step, phase) == ("start_tls", "complete") and ours:
            self.next = "answer"
            self._look(info["return_value"])

    def _look(self, stream: Any) -> None:
        shown = stream.get_extra_info("ssl_object").getpeercert(True)
        with contextlib.suppress(ValueError):
            self.certificate = x509.load_der_x509_certificate(shown)
        if self._stops:
            stream.close()
            raise _SeenError({"certificate": self.certificate})


class _Socket(ssl.SSLSocket):
    def do_handshake(self, block: bool = False) -> None:
        super().do_handshake(block)
        _refuse_distrusted(self)


class _Object(ssl.SSLObject):  # of TLS through a proxy that speaks TLS itself
    def do_handshake(self) -> None:
        super().do_handshake()
        _refuse_distrusted(self)


def _refuse_distrusted(end: Any) -> None:
    """Raise as OpenSSL does for a certificate that was taken back."""
    chain = end._sslobj.get_verified_chain()  # public from Python 3.13 on
    if not end.context.distrusted.isdisjoint(int(each.get_info()["serialNumber"], 16) for each in chain):
        error = ssl.SSLCertVerificationError(ssl.SSL_ERROR_SSL, "certificate verify failed: certificate revoked")
        error.verify_code, error.verify_message = REVOKED, "certificate revoked"
        raise error


def _request(client: httpx.Client, url: httpx.URL, trace: Callable[[str, Mapping[str, Any]], None]) -> httpx.Response:
    return client.get(url, extensions={"trace": trace})


def untrusting() -> ssl.SSLContext:
    """For requests that stop before they send anything."""
    found = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    found.check_hostname, found.verify_mode = False, ssl.CERT_NONE
    return found


def _url(address: str) -> httpx.URL:
    try:
        return httpx.URL(f"https://{address}/health")
    except httpx.InvalidURL:
        raise LinkError(f"{address!r} is no address of a hub: ask its operator for the hub's card again") from None


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
