"""What goes wrong with an archive, in words that say whom to ask.

A peer's own words are never passed on: they may name patients.
"""

import socket
import ssl
from collections.abc import Callable

from fedward_common.errors import PacsError

_REJECTED = {  # PS3.8 Table 9-21: (source, reason)
    (1, 3): "it does not know this site's AE title '{own}': its administrator has to add it",
    (1, 7): "it does not answer to the AE title '{peer}': set [pacs] ae_title to its own",
    (1, 2): "it does not know the kind of association",
    (3, 1): "it is busy",
    (3, 2): "it has as many associations as it allows",
}
_TRANSIENT = 2  # PS3.8 Table 9-21: result "rejected (transient)"
_STATUS = {  # PS3.4 C.4.1 to C.4.3, by the status or its first byte
    0xA700: "it is out of resources",
    0xA701: "it is out of resources and cannot say how many objects there are",
    0xA702: "it is out of resources and cannot send",
    0xA801: "it does not know '{own}' as a move destination: its administrator has to add it with this machine's "
    "address and port",
    0xA900: "it does not take the query as one of this kind",
    0x0110: "it failed at it",
    0x0122: "it does not offer this service",
    0x0124: "it does not let this site do that",
    0xFE00: "it cancelled it",
}
_UNABLE = (0x0110, 0xA702, 0xFE00)
_RESOURCES = (0xA700, 0xA701)
_HTTP = {
    400: "it does not understand the request; is url the root of its DICOMweb service?",
    401: "it asks for a login, or does not take the one in token_file",
    403: "it does not let this site in: its administrator has to allow it",
    404: "it has nothing there; is url the root of its DICOMweb service?",
    406: "it cannot send objects as they are stored",
    429: "it asks for more time between requests",
    503: "it is busy, or being serviced",
}


class PartlyFailed(PacsError):  # noqa: N818 - named for what it is
    """The archive could not send everything that it was asked for; other things it may."""


class PeerAway(PacsError):  # noqa: N818 - named for what it is, a reason to try again
    """The archive does not answer now; it may later."""


def rejected(result: int, source: int, reason: int, *, own: str, peer: str) -> PacsError:
    """The error for a refused association."""
    words = _REJECTED.get((source, reason), "it does not say why").format(own=own, peer=peer)
    kind = PeerAway if result == _TRANSIENT else PacsError
    return kind(f"the archive refused the association: {words}")


def not_offered(what: str) -> PacsError:
    """The error for a service that is not among those of an archive."""
    other = {"C-GET": '; or set [pacs] retrieve = "move"', "C-MOVE": '; or set [pacs] retrieve = "get"'}.get(what, "")
    return PacsError(f"the archive does not offer {what} to this site: ask its administrator for it{other}")


def failed(what: str, status: int | None, *, own: str) -> PacsError:
    """The error for a service that ended with a failure; None: the connection ended, or nothing came in time."""
    if status is None:
        hint = f"; where it does so at once, it may not know '{own}' as a move destination" if what == "C-MOVE" else ""
        return PeerAway(f"the archive broke off, or was silent for too long, during {what}{hint}")
    words = _STATUS.get(status, "it failed at it").format(own=own)
    kind = PeerAway if status in _RESOURCES else PartlyFailed if status in _UNABLE or status >> 12 == 0xC else PacsError
    return kind(f"the archive refused {what} (status {status:04X}): {words}")


def answered(what: str, status: int) -> PacsError:
    """The error for an HTTP answer that is none of success."""
    words = _HTTP.get(status, "it is at fault, or what is in front of it" if status >= 500 else "it does not say why")
    kind = PeerAway if status in (408, 429) or status >= 500 else PacsError
    return kind(f"the archive answered {what} with HTTP {status}: {words}")


def unreachable(error: BaseException) -> PacsError:
    """The error for a connection that could not be made, from what the operating system or TLS says of it."""
    for each in _chain(error):
        if isinstance(each, ssl.SSLCertVerificationError):
            return PacsError(
                f"the archive's certificate is not accepted ({each.verify_message}): [pacs] ca must name the authority "
                "that signed it, and host or url the name that stands in it"
            )
        if isinstance(each, ssl.SSLError):
            return PacsError("the archive does not speak TLS there, or does not accept this site's certificate")
        if isinstance(each, socket.gaierror):
            return PeerAway("the archive's name is not found: set [pacs] host or url right, or look at the name server")
        if isinstance(each, ConnectionRefusedError):
            return PeerAway("nothing listens at the archive's address and port: is it up, and are they right?")
        if isinstance(each, TimeoutError):
            return PeerAway("the archive does not answer in time: is a firewall between?")
    return PeerAway("the connection to the archive broke off")


def probed(connect: Callable[[], None]) -> PacsError:
    """Why an association failed, found out by connecting once more: pynetdicom keeps the reason to itself."""
    try:
        connect()
    except OSError as error:
        return unreachable(error)
    return PeerAway("the archive closed the connection, or did not answer the association in time")


def _chain(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found
