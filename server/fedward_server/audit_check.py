"""The check of a hub's whole audit log: in a thread, one at a time, for it takes a second for 4,000 entries."""

import threading
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from fedward_common import pki
from fedward_common.audit import Survey, backwards, entry_of, survey
from fedward_common.errors import AuditError, FedwardError
from fedward_server.hub import Hub


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """How a check stands, or ended. Times are UTC, ISO 8601."""

    state: Literal["running", "intact", "bad"]
    person: str  # who asked for it
    began: str
    noted: str | None = None  # the hash that an entry should have
    checked: int = 0
    entries: int = 0  # as the last one says
    found: Survey | None = None  # of a log that is intact
    why: str | None = None  # it is bad
    ended: str | None = None


class AuditChecks:
    """The checks of a hub's log. `last` is the one at work, or how the last one ended; None where there was none."""

    def __init__(self) -> None:
        self.last: Check | None = None
        self._turn = threading.Lock()

    def start(self, hub: Hub, person: str, noted: str | None = None) -> bool:
        """Begin a check, also that an entry has the hash that was `noted` before; False where one is at work."""
        if not self._turn.acquire(blocking=False):
            return False
        check = self.last = Check(state="running", person=person, began=_now(), noted=noted)
        threading.Thread(target=self._run, args=(hub, check), name="audit", daemon=True).start()
        return True

    def _run(self, hub: Hub, check: Check) -> None:
        try:
            path, key = hub.audit_file, hub.audit_key
            check = replace(check, entries=_length(path, key))

            def progress(checked: int) -> None:
                self.last = replace(check, checked=checked)

            found = survey(path, fingerprint=pki.fingerprint(key), noted=check.noted, progress=progress)
            self.last = replace(check, state="intact", found=found, ended=_now())
        except FedwardError as error:
            self.last = replace(check, state="bad", why=str(error), ended=_now())
        finally:
            self._turn.release()


def _length(path: Path, key: Ed25519PublicKey) -> int:
    """How many entries a log has by its last one, 0 where that cannot be read: for the progress, no more."""
    try:
        return next((entry_of(line, key).n for _, line in backwards(path)), 0)
    except AuditError:
        return 0


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
