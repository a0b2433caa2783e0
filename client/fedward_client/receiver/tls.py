"""TLS to and from an archive: both ends show certificates of the authority that settings name (PS3.15 B, BCP 195)."""

import ssl

from fedward_client.receiver.settings import PacsSettings
from fedward_common.errors import SettingsError


def client_context(settings: PacsSettings) -> ssl.SSLContext:
    """For calling an archive: its name and certificate are checked against `ca`, or the system's authorities.

    Raises SettingsError for files that are no certificates or keys.
    """
    return _context(settings, ssl.Purpose.SERVER_AUTH)


def server_context(settings: PacsSettings) -> ssl.SSLContext | None:
    """For being called: only a peer with a certificate of `ca` comes in. None where `ca` is not set: no TLS then.

    Raises SettingsError for files that are no certificates or keys.
    """
    if settings.ca is None:
        return None
    context = _context(settings, ssl.Purpose.CLIENT_AUTH)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def _context(settings: PacsSettings, purpose: ssl.Purpose) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(purpose, cafile=settings.ca)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if settings.certificate is not None:
            # without a password: a service that starts at night has nobody to ask
            context.load_cert_chain(settings.certificate, settings.key, password=lambda: "")
    except (OSError, ValueError):  # ssl's own errors are OSErrors
        raise SettingsError(
            "site.toml: [pacs] ca, certificate and key must be PEM files that belong together and can be read, the key "
            "without a password"
        ) from None
    return context
