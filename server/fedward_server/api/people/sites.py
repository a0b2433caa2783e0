"""Letting sites in and shutting them out, for an operator's programs. How they are, the overview tells."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict

from fedward_server import control
from fedward_server.api.people.guard import Guard
from fedward_server.joining import INVITATION_DAYS, Joining
from fedward_server.people import Person


class Invited(BaseModel):
    """A site that is to join."""

    model_config = ConfigDict(extra="forbid")

    site: str


class Compared(BaseModel):
    """The fingerprint that the site's steward read out."""

    model_config = ConfigDict(extra="forbid")

    fingerprint: str


def router(guard: Guard) -> APIRouter:
    """Its routes."""
    routes = APIRouter(prefix="/sites", tags=["sites"])
    frame = guard.frame

    Operator = Annotated[Person, Depends(guard.changing("operator"))]  # noqa: N806 - a type

    def joining(person: Person) -> Joining:
        return Joining(frame.hub, frame.store, person.name)

    @routes.get("/waiting")
    def waiting(person: Annotated[Person, Depends(guard.person)]) -> list[dict[str, Any]]:
        """The sites that ask to join, each with the fingerprint to be compared; of a steward's name, his own."""
        return frame.overview.waiting(person)

    @routes.post("/invitations", status_code=201)
    def invite(operator: Operator, invited: Invited) -> dict[str, Any]:
        """Make the code of a site that is to join: it counts once, for so many days, and is told only now."""
        made = joining(operator).invite(invited.site)
        return {"site": made.site, "code": made.code(), "days": INVITATION_DAYS}

    @routes.post("/{name}/approval", status_code=204)
    def approve(operator: Operator, name: str, compared: Compared) -> None:
        """Let a site in that asked with this fingerprint."""
        control.approve(frame.hub, name, compared.fingerprint, by=operator.name)

    @routes.post("/{name}/refusal", status_code=204)
    def refuse(operator: Operator, name: str, compared: Compared) -> None:
        """Turn a site down that asked with this fingerprint."""
        own = joining(operator)
        own.refuse(own.asked_by(name, compared.fingerprint)[0])

    @routes.delete("/{name}")
    def forget(operator: Operator, name: str) -> dict[str, Any]:
        """Shut a site out now; `stewards` are its people, who were removed with it."""
        return {"stewards": control.shut_out(frame.hub, name, by=operator.name)}

    return routes
