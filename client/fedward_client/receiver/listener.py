"""The site's own door: a C-STORE and C-ECHO SCP that takes objects from the AE titles that settings allow.

It offers nothing else: no query, no retrieval, nothing of what it holds goes out again.
"""

import errno
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from pynetdicom.presentation import AllStoragePresentationContexts

from fedward_client.receiver.connection import Entity, Server
from fedward_client.receiver.inbox import Inbox
from fedward_client.receiver.settings import PacsSettings
from fedward_client.receiver.storing import SYNTAXES, Intake, files_in
from fedward_client.receiver.tls import server_context
from fedward_common.errors import SettingsError

_VERIFICATION = "1.2.840.10008.1.1"  # PS3.4 A.4: C-ECHO
_LOOK_S = 0.05  # between two looks at whether the server should end
_END_S = 5.0  # for an association to end


@contextmanager
def listening(inbox: Inbox) -> Iterator[None]:
    """Take objects into an inbox, in threads of its own, for as long as the `with` lasts.

    Raises SettingsError where the settings do not say at which address, or the address cannot be had.
    """
    settings = inbox.site.pacs
    entity = _entity(settings)
    with files_in(inbox.incoming):
        server = _server(entity, settings, Intake(inbox))
        thread = threading.Thread(target=server.serve_forever, args=(_LOOK_S,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            _end(entity, server)
            thread.join()


def _end(entity: Entity, server: Server) -> None:
    """Accept nothing more, and end what is under way; an object that is half sent is lost, and its sender knows."""
    entity._servers.append(server)  # it takes itself off this list
    server.shutdown()
    for association in server.active_associations:
        association.abort()
        association.join(_END_S)


def _entity(settings: PacsSettings) -> Entity:
    if not settings.listen_host:
        raise SettingsError("site.toml: [pacs] listen_host is missing; give the address that the archive sends to")
    if not settings.allowed:
        raise SettingsError("site.toml: [pacs] allowed is empty; name the AE titles that may send to this site")
    entity = Entity(settings)
    entity.require_calling_aet = sorted(settings.allowed)
    entity.require_called_aet = True
    for context in AllStoragePresentationContexts:
        entity.add_supported_context(context.abstract_syntax or "", SYNTAXES)
    entity.add_supported_context(_VERIFICATION)
    return entity


def _server(entity: Entity, settings: PacsSettings, intake: Intake) -> Server:
    context = server_context(settings)
    try:
        return Server(
            entity,
            (settings.listen_host, settings.listen_port),
            entity.supported_contexts,
            context,
            intake.handlers,
        )
    except OSError as error:
        words = (
            "another program, perhaps another receiver, has it" if error.errno == errno.EADDRINUSE else error.strerror
        )
        raise SettingsError(
            f"site.toml: [pacs] listen_host, listen_port: port {settings.listen_port} cannot be listened on ({words})"
        ) from None
