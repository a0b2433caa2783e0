"""How the federation stands, for programs."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends

from fedward_server.api.people.guard import Guard
from fedward_server.people import Person


def router(guard: Guard) -> APIRouter:
    """Its routes."""
    routes = APIRouter(tags=["overview"])
    frame = guard.frame

    @routes.get("/overview")
    def overview(person: Annotated[Person, Depends(guard.person)]) -> dict[str, Any]:
        """Which sites are there, what each does now, what needs a person."""
        return frame.overview(person, frame.presence.seen)

    return routes
