"""The audit log, for programs."""

from dataclasses import asdict
from datetime import date
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Query
from pydantic import BaseModel, ConfigDict, Field

from fedward_server.api.people.guard import Guard
from fedward_server.audit_search import PAGE, Asked, search
from fedward_server.people import AUDIT_READERS, Person

MOST = 1000  # entries in an answer


class CheckAsked(BaseModel):
    """A check of the log. `noted` is the hash of an entry that has to be there."""

    model_config = ConfigDict(extra="forbid")

    noted: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None


def router(guard: Guard) -> APIRouter:
    """Its routes."""
    routes = APIRouter(prefix="/audit", tags=["audit"])
    frame = guard.frame

    @routes.get("")
    def entries(
        _person: Annotated[Person, Depends(guard.reading(*AUDIT_READERS))],
        *,
        event: str = "",
        text: str = "",
        since: date | None = None,
        until: date | None = None,
        end: Annotated[int | None, Query(ge=0)] = None,
        most: Annotated[int, Query(ge=1, le=MOST)] = PAGE,
    ) -> dict[str, Any]:
        """Entries, the newest first; `wrong` says of each what is wrong with it. `older` is the next question's `end`.

        Of all entries those with `event` in their event and `text` in a value of their data, from the day `since` to
        the day `until` (UTC). A long log is read in parts: there may be fewer entries than `most`, and `older` all the
        same.
        """
        asked = Asked(event=event, text=text, since=since, until=until)
        return asdict(search(frame.hub.audit_file, frame.hub.audit_key, asked, end=end, most=most))

    @routes.get("/verification")
    def verification(_person: Annotated[Person, Depends(guard.reading(*AUDIT_READERS))]) -> dict[str, Any] | None:
        """How the check of the whole log stands, or how the last one ended; null where there was none."""
        check = frame.audit_checks.last
        return None if check is None else asdict(check)

    @routes.post("/verification", status_code=202)
    def verify(person: Annotated[Person, Depends(guard.changing(*AUDIT_READERS))], asked: CheckAsked) -> dict[str, Any]:
        """Begin a check of the whole log; 409 while one is at work."""
        if not frame.audit_checks.start(frame.hub, person.name, asked.noted):
            raise HTTPException(409, "a check is at work already: wait until it has ended")
        assert frame.audit_checks.last is not None
        return asdict(frame.audit_checks.last)

    return routes
