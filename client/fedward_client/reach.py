"""Why a hub cannot be reached, in one sentence that says what to do: a site's log and `fedward doctor` say the same.

What an error alone does not tell is looked up (`probe`): which proxy the request took, and, where a certificate was
refused, whose it is.
"""

import contextlib
import ssl
from datetime import UTC, datetime
from socket import gaierror
from typing import NamedTuple

import httpx
from cryptography import x509
from cryptography.x509.oid import NameOID

from fedward_client.probe import REVOKED, host_of, proxy_of, shown_certificate
from fedward_common.errors import FedwardError, LinkError
from fedward_common.study_faults import printable

MAX_TEXT = 80  # characters of what others wrote

# OpenSSL's X509_V_ERR_…, https://docs.openssl.org/master/man3/X509_STORE_CTX_get_error/
_NOT_YET_VALID, _EXPIRED, _HOST_MISMATCH, _IP_MISMATCH = 9, 10, 62, 64
_UNKNOWN_ISSUER = (2, 7, 18, 19, 20, 21)


class Reason(NamedTuple):
    """What was found, and what to do about it."""

    found: str
    advice: str

    def __str__(self) -> str:
        return f"{self.found}: {self.advice}"

    @classmethod
    def of(cls, error: FedwardError) -> "Reason":
        """The two halves of an error of ours, which stand on the two sides of its last colon."""
        found, colon, advice = str(error).rpartition(": ")
        return cls(found, advice) if colon else cls(advice, "put that right")


class _Way(NamedTuple):
    """From here to the hub."""

    address: str
    proxy: str | None
    ca: str | None

    @property
    def hub(self) -> str:
        return f"the hub {self.address}" + (f" (through the proxy {self.proxy})" if self.proxy else "")

    @property
    def peer(self) -> str:
        """Whoever this machine connects to."""
        return f"the proxy {self.proxy}" if self.proxy else f"the hub {self.address}"

    @property
    def owner(self) -> str:
        """Who can put the peer right."""
        return "your network department" if self.proxy else "the hub's operator"


def explain(error: Exception, address: str, ca: str | None = None) -> str:
    """`diagnose`, as one sentence."""
    return str(diagnose(error, address, ca))


def diagnose(error: Exception, address: str, ca: str | None = None) -> Reason:
    """Why a request to the hub at "host:port" failed with an error of httpx, ssl or the operating system.

    `ca` is the PEM of the hub's authority, where it is known. Of a refused certificate it takes one TLS handshake more
    to name the issuer, its end or its names; nothing is sent on that connection.
    """
    try:
        way = _Way(address, proxy_of(address), ca)
    except LinkError as wrong:
        return Reason.of(wrong)
    return _of_http(error, way) or _of_system(_below(error), way) or _unknown(error, way)


def _of_http(error: Exception, way: _Way) -> Reason | None:
    match error:
        case httpx.ProxyError():
            return _proxy_refuses(str(error), way)
        case httpx.HTTPStatusError():
            return _hub_refuses(error.response.status_code, way)
        case httpx.ReadTimeout() | httpx.WriteTimeout():
            return Reason(
                f"{way.hub} was reached and then gave no answer in time",
                "wait, and tell the hub's operator if that goes on",
            )
        case httpx.TimeoutException():
            return _no_connection(TimeoutError(), way)
        case httpx.RemoteProtocolError():
            return _no_connection(ConnectionResetError(), way)
    return None


def _of_system(error: OSError | None, way: _Way) -> Reason | None:
    match error:
        case None:
            return None
        case ssl.SSLCertVerificationError():
            return _certificate_refused(error, way)
        case ssl.SSLError():
            return _no_tls(error, way)
    return _no_connection(error, way)


def _below(error: BaseException | None) -> OSError | None:
    """The error of ssl or the operating system that httpx wrapped; the layer between keeps it as a context only."""
    if isinstance(error, httpx.TransportError):
        while error is not None and not isinstance(error, OSError):
            error = error.__cause__ or error.__context__
    return error if isinstance(error, OSError) else None


def _unknown(error: Exception, way: _Way) -> Reason:
    said = printable(str(error))[:MAX_TEXT] or "no more is known"
    return Reason(f"{way.hub} cannot be reached ({type(error).__name__}: {said})", "tell the hub's operator")


def _no_connection(error: OSError, way: _Way) -> Reason:
    match error:
        case gaierror():
            whose = "the proxy variables" if way.proxy else "the hub's card"
            return Reason(
                f"the name {host_of(way.proxy or way.address)} is not known here ({error.strerror})",
                f"check this machine's DNS, and the name in {whose}",
            )
        case ConnectionRefusedError():
            return Reason(f"{way.peer} refuses the connection", f"ask {way.owner} whether it is up and on that port")
        case ConnectionError():
            return Reason(
                f"{way.hub} cut the connection",
                "it is restarting, or a firewall in between cuts it: ask your network department to let it through",
            )
        case TimeoutError():
            return Reason(
                f"{way.peer} does not answer",
                "it is down, or a firewall drops the connection: ask your network department to let it through",
            )
    return Reason(f"{way.peer} cannot be reached ({error.strerror or error})", "check this machine's network")


# What a proxy or a hub answers ---------------------------------------------------------------------------------------


def _proxy_refuses(answer: str, way: _Way) -> Reason:
    """A proxy's answer to CONNECT (RFC 9110, 9.3.6), which httpx gives as "407 Proxy Authentication Required"."""
    match answer[:3]:
        case "407":
            return Reason(
                f"{way.peer} asks for a user name and a password (407)",
                f"write them into HTTPS_PROXY, as http://NAME:PASSWORD@{way.proxy}",
            )
        case "403" | "405":
            return Reason(
                f"{way.peer} lets nothing through to {way.address} ({printable(answer)[:MAX_TEXT]})",
                f"ask your network department to allow CONNECT to {way.address}",
            )
    return Reason(
        f"{way.peer} does not get through to the hub {way.address} ({printable(answer)[:MAX_TEXT]})",
        "ask the hub's operator whether it is up, then your network department whether the proxy may reach it; a hub "
        f"that needs no proxy stands in NO_PROXY ({host_of(way.address)})",
    )


def _hub_refuses(status: int, way: _Way) -> Reason:
    match status:
        case 401 | 403:
            return Reason(
                f"{way.hub} does not accept this site ({status})",
                "ask the hub's operator whether it is let in, with its present keys and certificate",
            )
        case 502 | 503 | 504:
            return Reason(f"{way.hub} has its gateway up and its SuperLink not ({status})", "tell the hub's operator")
    return Reason(f"{way.hub} answers with HTTP status {status}", "tell the hub's operator")


# TLS -----------------------------------------------------------------------------------------------------------------


def _no_tls(error: ssl.SSLError, way: _Way) -> Reason:
    why = printable(error.reason or str(error))[:MAX_TEXT].replace("_", " ").lower()
    if error.reason in {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"}:
        return Reason(f"{way.hub} does not speak TLS on that port", "ask its operator for the hub's card again")
    return Reason(
        f"the TLS handshake with {way.hub} fails ({why})",
        "something in between may cut it: ask your network department to let TLS through to it, unopened",
    )


def _certificate_refused(error: ssl.SSLCertVerificationError, way: _Way) -> Reason:
    shown = shown_certificate(way.address)
    match error.verify_code:
        case code if code in _UNKNOWN_ISSUER:
            return _other_issuer(shown, way)
        case code if code == REVOKED:
            return Reason(
                f"the certificate of {way.hub} is of an authority that the hub took back",
                "somebody may stand in between: tell the hub's operator, by telephone",
            )
        case code if code == _EXPIRED:
            return _expired(shown, way)
        case code if code == _NOT_YET_VALID:
            begins = f" before {shown.not_valid_before_utc:%Y-%m-%d %H:%M} UTC" if shown else ""
            return Reason(f"the certificate of {way.hub} is not valid{begins}", f"set this machine's clock ({_now()})")
        case code if code in (_HOST_MISMATCH, _IP_MISMATCH):
            return Reason(
                f"the certificate of {way.hub} is made out to {_names(shown)}",
                "ask the hub's operator for a card with that address, or for a certificate for this one",
            )
    why = printable(error.verify_message)[:MAX_TEXT]
    return Reason(f"the certificate of {way.hub} is refused ({why})", "tell the hub's operator")


def _other_issuer(shown: x509.Certificate | None, way: _Way) -> Reason:
    if shown is not None and way.ca is not None and shown.issuer == _authority(way.ca).subject:
        return Reason(
            f"{way.hub} has another authority than the one in its card, under the same name",
            "ask its operator whether it was set up anew, and for its new card; compare the fingerprint by telephone",
        )
    issuer = f"is issued by '{_common_name(shown.issuer)}', not" if shown else "is not issued"
    return Reason(
        f"TLS interception: the certificate shown for {way.hub} {issuer} by the hub's own authority",
        f"ask your network department to exempt {way.address} from TLS inspection",
    )


def _expired(shown: x509.Certificate | None, way: _Way) -> Reason:
    now = datetime.now(UTC)
    if way.ca is not None and (end := _authority(way.ca).not_valid_after_utc) < now:
        return Reason(f"the hub's authority expired on {end:%Y-%m-%d}", "ask the hub's operator for its new card")
    since = f" on {shown.not_valid_after_utc:%Y-%m-%d %H:%M} UTC" if shown else ""
    return Reason(
        f"the certificate of {way.hub} expired{since}",
        f"ask the hub's operator to restart the hub, which renews it, or set this machine's clock ({_now()})",
    )


def _authority(ca: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(ca.encode())


def _names(shown: x509.Certificate | None) -> str:
    """Whom a certificate is made out to (RFC 5280, 4.2.1.6)."""
    found: list[str] = []
    if shown is not None:
        with contextlib.suppress(ValueError, x509.ExtensionNotFound):
            names = shown.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            found += names.get_values_for_type(x509.DNSName)
            found += map(str, names.get_values_for_type(x509.IPAddress))
    return printable(", ".join(found))[:MAX_TEXT] or "another name"


def _common_name(name: x509.Name) -> str:
    named = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return printable(str(named[0].value) if named else name.rfc4514_string())[:MAX_TEXT]


def _now() -> str:
    return f"now {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
