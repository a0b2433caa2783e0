"""C-STORE (PS3.4 B, PS3.7 9.1.1): what a peer sends goes into the inbox, whoever opened the association.

Statuses are those of PS3.4 Table B.2-1 and PS3.7 Annex C; a refusal carries its reason in Error Comment (0000,0902),
which holds no identifier.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)
from pynetdicom import evt
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.events import Event, EventHandlerType

from fedward_client.receiver.connection import answering, bound_memory, close_file_on_its_way, file_on_its_way
from fedward_client.receiver.inbox import DIFFERS, NO_ROOM, NOT_WRITTEN, TOO_LARGE, UNREADABLE, Inbox, Reason, Refused

SUCCESS = 0x0000
STATUS: dict[Reason, int] = {
    NO_ROOM: 0xA700,  # refused: out of resources
    NOT_WRITTEN: 0xA700,
    TOO_LARGE: 0xA700,
    UNREADABLE: 0xC000,  # error: cannot understand
    DIFFERS: 0x0111,  # duplicate SOP instance
}

SYNTAXES: list[str | UID] = [
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    JPEG2000Lossless,
    JPEG2000,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    HTJ2K,
    RLELossless,
]  # no deflated syntax: nobody knows what one inflates to


class Intake:
    """The handlers of associations on which objects come."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox
        self._refused: dict[Path, Reason] = {}  # files on their way that will not be taken

    @property
    def handlers(self) -> list[EventHandlerType]:
        """For `evt_handlers` of an association or a server."""
        return [(evt.EVT_PDU_RECV, self._watch), (evt.EVT_C_STORE, self._store), (evt.EVT_CONN_CLOSE, self._drop)]

    def _watch(self, event: Event) -> None:
        """Look at what came so far. A file that will not be taken is emptied again and again: it takes no room."""
        bound_memory(event.assoc)
        path = file_on_its_way(event.assoc)
        if path is None:
            return
        reason = self._refused.get(path) or self._inbox.objection(path.stat().st_size)
        if reason is not None:
            self._refused[path] = reason
            os.truncate(path, 0)

    def _store(self, event: Event) -> int | Dataset:
        with answering(event.assoc):
            return self._keep(event.request)

    def _keep(self, request: object) -> int | Dataset:
        path = request._dataset_path if isinstance(request, C_STORE) else None
        if not isinstance(request, C_STORE) or not isinstance(path, Path):  # a request without a data set
            return _status(self._inbox.refuse(UNREADABLE))
        reason = self._refused.pop(path, None)
        if reason is not None:
            path.unlink(missing_ok=True)
            return _status(self._inbox.refuse(reason))
        try:
            self._inbox.take(path, request.AffectedSOPInstanceUID)
        except Refused as refused:
            return _status(refused.reason)
        return SUCCESS

    def _drop(self, event: Event) -> None:
        """Remove what an association that ended left half sent."""
        path = file_on_its_way(event.assoc)
        if path is not None:
            close_file_on_its_way(event.assoc)
            self._refused.pop(path, None)
            path.unlink(missing_ok=True)


def _status(reason: Reason) -> Dataset:
    status = Dataset()
    status.Status = STATUS[reason]
    status.ErrorComment = reason
    return status


@contextmanager
def files_in(folder: Path) -> Iterator[None]:
    """Inside, pynetdicom writes what comes to `folder`: it asks the standard library for a temporary file."""
    before = tempfile.tempdir
    tempfile.tempdir = str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before
