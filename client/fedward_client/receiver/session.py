"""One run of the receiver: quiet libraries, a peer, an inbox."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from fedward_client.intake.quiet import quiet
from fedward_client.receiver.query import Peer
from fedward_client.site import Site
from fedward_common.errors import SettingsError

_log = logging.getLogger(__name__)

_TALKATIVE = ("pynetdicom", "httpx", "httpcore", "python_multipart")  # they log UIDs, patient ids and addresses


@contextmanager
def hushed() -> Iterator[None]:
    """Inside, no library logs or warns with what it reads, nor does a thread of its own print a traceback."""
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    levels = [logger.level for logger in loggers]
    hook, threading.excepthook = threading.excepthook, _say_shortly
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        with quiet():
            yield
    finally:
        threading.excepthook = hook
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _say_shortly(fault: threading.ExceptHookArgs) -> None:
    """A thread of pynetdicom's ends so where its peer sends what it cannot take apart."""
    _log.warning("a connection was dropped: what came over it cannot be understood (%s)", fault.exc_type.__name__)


@contextmanager
def peer_of(site: Site) -> Iterator[Peer]:
    """The archive that a site's settings name. Raises SettingsError where they name none."""
    if site.pacs.url:
        from fedward_client.receiver.web import WebPeer

        with WebPeer(site.pacs) as peer:
            yield peer
    elif site.pacs.host:
        from fedward_client.receiver.dimse import DimsePeer

        yield DimsePeer(site.pacs)
    else:
        raise SettingsError(
            "site.toml names no archive: set [pacs] host and ae_title for DIMSE, or url for DICOMweb; `--listen` takes "
            "what is sent without one"
        )
