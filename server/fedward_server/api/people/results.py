"""What a finished run found, for programs."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException

from fedward_server.api.people.guard import Guard
from fedward_server.figures.at_hub import HubFigures
from fedward_server.people import Person
from fedward_server.store import RunRow


def router(guard: Guard) -> APIRouter:
    """Its routes."""
    routes = APIRouter(prefix="/runs", tags=["results"])
    found = HubFigures(guard.frame.hub)

    @routes.get("/{run}/results")
    def results(
        row: Annotated[RunRow, Depends(guard.run)], person: Annotated[Person, Depends(guard.person)]
    ) -> dict[str, Any]:
        """Figures with 95 % intervals, of each site and of all together, as far as the person may see them.

        `figures` are the addresses of the numbers behind each picture, as CSV; with .svg or .png, of the picture.
        """
        public = found.public(person, row)
        if public is None:
            raise HTTPException(404, f"run {row.run} has no results: it is {row.status}")
        return public

    return routes
