"""An archive over DIMSE (PS3.4 C): C-FIND in the study root, and C-GET or C-MOVE for what was found.

One association at a time, opened for one question and released after it, so nothing that waits holds the archive. With
C-MOVE the site listens while objects come, and at no other time.
"""

import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from pydicom.dataset import Dataset
from pynetdicom import build_context, build_role
from pynetdicom.association import Association
from pynetdicom.events import EventHandlerType
from pynetdicom.presentation import PresentationContext, StoragePresentationContexts

from fedward_client.intake import elements
from fedward_client.receiver import faults
from fedward_client.receiver.connection import PDU_BYTES, Entity
from fedward_client.receiver.inbox import Inbox
from fedward_client.receiver.listener import listening
from fedward_client.receiver.query import Instance, Question, Series, Study, day_of
from fedward_client.receiver.settings import PacsSettings
from fedward_client.receiver.storing import SYNTAXES, Intake, files_in
from fedward_client.receiver.tls import client_context
from fedward_common.errors import PacsError, UnreadableFile

# PS3.4 C.6.2.1.3: the study root
_FIND, _MOVE, _GET = (f"1.2.840.10008.5.1.4.1.2.2.{number}" for number in (1, 2, 3))
_MOST_CONTEXTS = 128  # PS3.8 9.3.2.2: their ids are odd and one byte long
_AT_ONCE = 50  # objects that are named in one request

_Answers = Iterator[tuple[Dataset, Dataset | None]]
_Keys = Mapping[str, str | list[str]]


class DimsePeer:
    """The archive at `host` of the settings; a `query.Peer`."""

    def __init__(self, settings: PacsSettings) -> None:
        self._settings = settings
        self._entity = Entity(settings)
        self._tls = client_context(settings) if settings.ca is not None else None

    def studies(self, question: Question) -> list[Study]:
        """C-FIND for studies."""
        keys = {
            "QueryRetrieveLevel": "STUDY",
            "PatientID": question.patient or "",
            "StudyDate": question.days,
            "ModalitiesInStudy": question.modality or "",
            "StudyDescription": "",
            "StudyInstanceUID": "",
        }
        return [
            Study(
                uid=uid,
                patient=_text(found, "PatientID"),
                day=day_of(_text(found, "StudyDate")),
                description=_text(found, "StudyDescription"),
            )
            for found in self._find(keys)
            if (uid := _text(found, "StudyInstanceUID"))
        ]

    def series(self, study: Study) -> list[Series]:
        """C-FIND for the series of a study."""
        keys = {
            "QueryRetrieveLevel": "SERIES",
            "StudyInstanceUID": study.uid,
            "SeriesInstanceUID": "",
            "Modality": "",
            "SeriesDescription": "",
            "NumberOfSeriesRelatedInstances": "",
        }
        return [
            Series(
                study=study.uid,
                uid=uid,
                modality=elements.code(found, "Modality"),
                description=_text(found, "SeriesDescription"),
                instances=int(count) if (count := _text(found, "NumberOfSeriesRelatedInstances")).isdecimal() else None,
            )
            for found in self._find(keys)
            if (uid := _text(found, "SeriesInstanceUID"))
        ]

    def instances(self, series: Series) -> list[Instance]:
        """C-FIND for the objects of a series."""
        keys = {**_of_series(series, "IMAGE"), "SOPInstanceUID": "", "SOPClassUID": ""}
        return [
            Instance(uid=uid, sop_class=_text(found, "SOPClassUID"))
            for found in self._find(keys)
            if (uid := _text(found, "SOPInstanceUID"))
        ]

    def fetch(self, series: Series, instances: Sequence[Instance], *, whole: bool, inbox: Inbox) -> None:
        """C-GET or C-MOVE: the series where it is `whole`, else the objects by name."""
        if whole:
            self._retrieve(_of_series(series, "SERIES"), instances, inbox)
            return
        for start in range(0, len(instances), _AT_ONCE):
            some = instances[start : start + _AT_ONCE]
            self._retrieve({**_of_series(series, "IMAGE"), "SOPInstanceUID": [each.uid for each in some]}, some, inbox)

    def _find(self, keys: _Keys) -> list[Dataset]:
        with self._associated(_FIND, "C-FIND") as association:
            return list(self._matches(association.send_c_find(_identifier(keys), _FIND), "C-FIND"))

    def _retrieve(self, keys: _Keys, instances: Sequence[Instance], inbox: Inbox) -> None:
        identifier = _identifier(keys)
        if self._settings.retrieve == "move":
            own = self._settings.own_ae_title
            with listening(inbox), self._associated(_MOVE, "C-MOVE") as association:
                list(self._matches(association.send_c_move(identifier, own, _MOVE), "C-MOVE"))
            return
        storage = _storage({each.sop_class for each in instances})
        handlers = Intake(inbox).handlers
        with files_in(inbox.incoming), self._associated(_GET, "C-GET", storage, handlers) as association:
            list(self._matches(association.send_c_get(identifier, _GET), "C-GET"))

    def _matches(self, answers: _Answers, what: str) -> Iterator[Dataset]:
        """What was found, up to the final status; raises PacsError where that is a failure."""
        for answer, identifier in answers:
            status = answer.get("Status")
            if status not in (0xFF00, 0xFF01):  # pending
                if status is None or not (status == 0 or status >> 12 == 0xB):  # success, or success with warnings
                    raise faults.failed(what, status, own=self._settings.own_ae_title)
                return
            if identifier is not None:
                yield identifier
        raise faults.failed(what, None, own=self._settings.own_ae_title)

    @contextmanager
    def _associated(
        self,
        model: str,
        what: str,
        storage: Sequence[PresentationContext] = (),
        handlers: Sequence[EventHandlerType] = (),
    ) -> Iterator[Association]:
        """An association for a service, and for objects that come back over it. Raises PacsError in words."""
        classes = {context.abstract_syntax: None for context in storage if context.abstract_syntax}
        try:
            association = self._entity.associate(
                self._settings.host,
                self._settings.port,
                [build_context(model, SYNTAXES[:2]), *storage],
                self._settings.ae_title,
                PDU_BYTES,
                [build_role(each, scp_role=True) for each in classes],
                tls_args=(self._tls, self._settings.host) if self._tls is not None else None,
                evt_handlers=list(handlers),
            )
        except OSError as error:  # the name is not found
            raise faults.unreachable(error) from None
        if not association.is_established:
            raise self._why(association, what)
        try:
            if model not in {context.abstract_syntax for context in association.accepted_contexts}:
                raise faults.not_offered(what)
            yield association
            association.release()
        finally:
            association.abort()  # where it was not released

    def _why(self, association: Association, what: str) -> PacsError:
        answer = association.acceptor.primitive
        if answer is not None and answer.result == 0:  # pynetdicom leaves where no context is accepted
            return faults.not_offered(what)
        if association.is_rejected and answer is not None:
            return faults.rejected(
                answer.result or 0,
                answer.result_source or 0,
                answer.diagnostic or 0,
                own=self._settings.own_ae_title,
                peer=self._settings.ae_title,
            )
        return faults.probed(self._connect)

    def _connect(self) -> None:
        address = (self._settings.host, self._settings.port)
        with socket.create_connection(address, self._settings.timeout_s) as connection:
            if self._tls is not None:
                self._tls.wrap_socket(connection, server_hostname=self._settings.host).close()


def _of_series(series: Series, level: str) -> dict[str, str | list[str]]:
    return {"QueryRetrieveLevel": level, "StudyInstanceUID": series.study, "SeriesInstanceUID": series.uid}


def _identifier(keys: _Keys) -> Dataset:
    identifier = Dataset()
    identifier.SpecificCharacterSet = "ISO_IR 192"
    for keyword, value in keys.items():
        setattr(identifier, keyword, value)
    return identifier


def _text(found: Dataset, keyword: str) -> str:
    """A value of an answer, "" where it cannot be read."""
    try:
        return elements.text(found, keyword)
    except UnreadableFile:
        return ""


def _storage(classes: set[str]) -> list[PresentationContext]:
    """The contexts over which objects of some SOP classes may come as they are stored.

    The archive takes one transfer syntax of each context, so each needs a context of its own. Where there is no room
    for that, or classes are not known, all syntaxes share one, and the archive may have to convert.
    """
    if "" in classes:
        classes = {context.abstract_syntax or "" for context in StoragePresentationContexts}
    apart = [build_context(each, [syntax]) for each in sorted(classes) for syntax in SYNTAXES]
    if len(apart) < _MOST_CONTEXTS:
        return apart
    return [build_context(each, SYNTAXES) for each in sorted(classes)[: _MOST_CONTEXTS - 1]]
