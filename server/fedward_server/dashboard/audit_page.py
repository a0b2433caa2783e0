"""Audit: what was done at this hub and by whom, entry by entry, and whether the log is whole."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from fedward_common import pki
from fedward_common.audit import copied
from fedward_common.errors import AuditError
from fedward_server.audit_search import Asked, Found, search
from fedward_server.dashboard.frame import Form, Frame
from fedward_server.people import AUDIT_READERS, Session

_HASH = re.compile(r"[0-9a-f]{64}")
_PLACE = re.compile(r"[0-9]{1,18}")


@dataclass(frozen=True, slots=True)
class AuditPage:
    """The log's page, its check, and the log itself."""

    frame: Frame

    def routes(self) -> list[Route]:
        """Its pages."""
        frame = self.frame
        return [
            Route("/audit", frame.page(self.entries, *AUDIT_READERS)),
            Route("/audit/check", frame.page(self.check, *AUDIT_READERS), methods=["GET"]),
            Route("/audit/check", frame.form(self.begin_check, *AUDIT_READERS), methods=["POST"]),
            Route("/audit/log", frame.page(self.log, *AUDIT_READERS)),
        ]

    def entries(self, request: Request, session: Session) -> Response:
        """The newest entries, or those that are asked for."""
        given = {name: request.query_params.get(name, "").strip() for name in ("event", "text", "since", "until")}
        place = request.query_params.get("end", "")
        try:
            asked = Asked(
                event=given["event"], text=given["text"], since=_day(given["since"]), until=_day(given["until"])
            )
        except ValueError:
            return self.frame.told(request, session, "no_date", 400)
        frame, hub, why = self.frame, self.frame.hub, ""
        end = int(place) if _PLACE.fullmatch(place) else None
        try:
            found = search(hub.audit_file, hub.audit_key, asked, end=end)
        except AuditError as error:
            found, why = Found(entries=[], older=None), frame.words(error)
        kept = {name: word for name, word in given.items() if word}
        return self.frame.render(
            request,
            session,
            "audit.html",
            found=[{**entry, "data": _told(entry["data"])} for entry in found.entries],
            older=None if found.older is None else f"/audit?{urlencode({**kept, 'end': found.older})}",
            newest=f"/audit?{urlencode(kept)}" if end is not None else None,
            given=given,
            check=self.frame.audit_checks.last,
            fingerprint=pki.fingerprint(hub.audit_key),
            said="failed_because" if why else "",
            why=why,
        )

    def check(self, request: Request, session: Session) -> Response:
        """How the check of the log stands: a part of the page, which asks for it while one is at work."""
        return self.frame.render(request, session, "audit_check.html", check=self.frame.audit_checks.last)

    def begin_check(self, request: Request, session: Session, form: Form) -> Response:
        """Check the whole log."""
        noted = form.get("noted", "").strip().lower()
        if noted and not _HASH.fullmatch(noted):
            return self.frame.told(request, session, "no_hash", 400)
        if not self.frame.audit_checks.start(self.frame.hub, session.person.name, noted or None):
            return self.frame.told(request, session, "check_at_work", 409)
        return RedirectResponse("/audit", 303)

    def log(self, request: Request, session: Session) -> Response:
        """The log as it is."""
        del request, session
        size, parts = copied(self.frame.hub.audit_file)
        name = f"{self.frame.hub.name}-audit.jsonl"
        headers = {"Content-Length": str(size), "Content-Disposition": f'attachment; filename="{name}"'}
        return StreamingResponse(parts, headers=headers, media_type="application/x-ndjson")


def _day(text: str) -> date | None:
    """A day, None of nothing. Raises ValueError for what is none."""
    return date.fromisoformat(text) if text else None


def _told(data: Mapping[str, Any]) -> dict[str, str]:
    """An entry's data as text: a list of words as they are, what else is no text as JSON."""
    return {
        name: ", ".join(map(str, value))
        if isinstance(value, list)
        else value
        if isinstance(value, str)
        else json.dumps(value, ensure_ascii=False)
        for name, value in data.items()
    }
