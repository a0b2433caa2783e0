"""DICOM's upper layer (PS3.8) by pynetdicom, with bounds on what a peer can make this process wait for or hold.

pynetdicom reads whatever length a peer announces, waits for the rest of a PDU for ever, and shakes hands for TLS in the
thread that accepts. Here a PDU has a greatest length and a time in which it must be whole, a peer is dropped that is
silent when it is its turn to speak, and what is no data set of a C-STORE (that goes to disk) may take a mebibyte of
memory.
"""

import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pynetdicom import _config
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.events import EventHandlerType
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import AssociationSocket, RequestHandler, ThreadedAssociationServer

from fedward_client.receiver.settings import PacsSettings

PDU_BYTES = 128 * 2**10  # the longest that a peer is asked for (PS3.8 D.1)
MAX_PDU_BYTES = 2**20  # the longest that is read
MAX_MESSAGE_BYTES = 2**20  # of a command, or of a data set that is held in memory
MAX_WAITING = 64  # messages that came and were not served yet
UNGREETED = 4  # connections for each association allowed: those that have not said who they are count too

_config.STORE_RECV_CHUNKED_DATASET = True  # data sets of C-STORE go to disk as they come
_config.LOG_HANDLER_LEVEL = "none"  # else it writes identifiers to its log


class BoundedSocket(AssociationSocket):
    """A connection that ends when its peer is silent, slow within a PDU, or sends more than it may."""

    doomed = False  # set from outside: nothing more is read
    answering = False  # set from outside: this end works on an answer, however slow its disk is
    _its_turn_s = 0.0  # since when the peer may be expected to say something

    def recv(self, nr_bytes: int) -> bytearray:
        """`nr_bytes`, fewer where the peer closes. Raises OSError where they are too many or do not come in time."""
        if self.doomed or nr_bytes > MAX_PDU_BYTES or self.socket is None:
            raise OSError("more than a peer may send")
        limit_s = self.assoc.network_timeout
        deadline = time.monotonic() + (limit_s or 0.0)
        data = bytearray()
        while len(data) < nr_bytes:
            self.socket.settimeout(max(0.001, deadline - time.monotonic()))
            piece = self.socket.recv(nr_bytes - len(data))
            if not piece:
                break
            data += piece
        self.socket.settimeout(limit_s)
        self._its_turn_s = time.monotonic()
        return data

    @property
    def ready(self) -> bool:
        """Whether there is something to read. Ends a connection whose peer had its turn for the network timeout."""
        if super().ready:
            return True
        now = time.monotonic()
        if self.answering or not self.assoc.dimse.msg_queue.empty() or not self._its_turn_s:
            self._its_turn_s = now
        if self.socket is not None and now - self._its_turn_s > (self.assoc.network_timeout or 0.0):
            self._its_turn_s = now
            self.event_queue.put("Evt17")  # PS3.8 Table 9-10: transport connection closed
        return False

    def _shutdown_socket(self) -> None:
        connection = self.socket
        super()._shutdown_socket()
        if connection is not None:
            connection.close()  # pynetdicom does not where the peer has gone first


class Entity(ApplicationEntity):
    """An application entity whose connections are bounded, in both directions."""

    def __init__(self, settings: PacsSettings) -> None:
        super().__init__(settings.own_ae_title)
        self.acse_timeout = self.network_timeout = self.connection_timeout = settings.timeout_s
        self.dimse_timeout = None  # an object may take longer than that to come: silence ends the connection
        self.maximum_pdu_size = PDU_BYTES
        self.maximum_associations = settings.max_associations

    def _create_socket(self, *arguments: Any) -> AssociationSocket:
        return _bounded(super()._create_socket(*arguments))


class Server(ThreadedAssociationServer):
    """Accepts connections, none of which can keep the others waiting."""

    daemon_threads = True

    def __init__(
        self,
        entity: Entity,
        address: tuple[str, int],
        contexts: list[PresentationContext],
        context: ssl.SSLContext | None,
        handlers: list[EventHandlerType],
    ) -> None:
        super().__init__(entity, address, entity.ae_title, contexts, context, handlers, _Handler)

    def get_request(self) -> tuple[Any, Any]:
        """The next connection; its handshake for TLS is the business of its own thread."""
        assert self.socket is not None
        connection, address = self.socket.accept()
        connection.settimeout(self.ae.network_timeout)
        if self.ssl_context is not None:
            connection = self.ssl_context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def verify_request(self, _request: Any, _client_address: Any) -> bool:
        """Whether there is still a place for a connection."""
        return len(self.active_associations) < self.ae.maximum_associations * UNGREETED

    def handle_error(self, _request: Any, _client_address: Any) -> None:
        """Pass over a connection that came to nothing: the library prints a traceback."""


class _Handler(RequestHandler):
    def handle(self) -> None:
        if isinstance(self.request, ssl.SSLSocket):
            self.request.do_handshake()
        super().handle()

    def _create_association(self) -> Association:
        association = super()._create_association()
        assert association.dul.socket is not None
        _bounded(association.dul.socket)
        return association


def _bounded(connection: AssociationSocket) -> AssociationSocket:
    """The same connection with bounds. pynetdicom makes it, and has no seam for a class of ours.

    Its own watch is stopped: to it a peer that waits for an answer is silent.
    """
    connection.__class__ = BoundedSocket
    connection.assoc.dul._idle_timer.timeout = None
    return connection


@contextmanager
def answering(association: Association) -> Iterator[None]:
    """Inside, the peer waits for an answer, and its silence is not held against it."""
    connection = association.dul.socket
    assert isinstance(connection, BoundedSocket)
    connection.answering = True
    try:
        yield
    finally:
        connection.answering = False


def bound_memory(association: Association) -> None:
    """End an association whose peer makes this process hold more than it should; to be called for every PDU."""
    message, connection = association.dimse.message, association.dul.socket
    streams = () if message is None else (message.encoded_command_set, message.data_set)
    held = sum(stream.tell() for stream in streams if stream is not None)
    if isinstance(connection, BoundedSocket):
        connection.doomed |= held > MAX_MESSAGE_BYTES or association.dimse.msg_queue.qsize() > MAX_WAITING


def file_on_its_way(association: Association) -> Path | None:
    """The file that a C-STORE's data set is being written to, None where there is none."""
    message = association.dimse.message
    path = None if message is None else message._data_set_path
    return path if isinstance(path, Path) else None


def close_file_on_its_way(association: Association) -> None:
    """Close that file: pynetdicom leaves it open where the connection ends before the data set does."""
    message = association.dimse.message
    if message is not None and message._data_set_file is not None:
        message._data_set_file.close()
