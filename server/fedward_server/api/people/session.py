"""Logging in and out, for programs."""

from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Request, Response
from pydantic import BaseModel, ConfigDict

from fedward_server.api.people.guard import Guard
from fedward_server.dashboard import security
from fedward_server.people import ROLES, BusyError, Person, Role, Session


class Login(BaseModel):
    """What proves who somebody is: `code` is the six digits of the moment."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    name: str
    password: str
    code: str


class LoggedIn(BaseModel):
    """Who is logged in. `csrf` has to stand in the header X-Fedward-CSRF of whatever changes something."""

    name: str
    role: Role
    site: str | None
    csrf: str


def router(guard: Guard) -> APIRouter:
    """Its routes."""
    routes = APIRouter(prefix="/session", tags=["session"])
    frame = guard.frame

    @routes.post("", status_code=201)
    def log_in(login: Login, request: Request, response: Response) -> LoggedIn:
        """Begin a session; its cookie is in the answer."""
        if not security.comes_from_here(request):
            raise HTTPException(403, "log in from a page of this hub, or from a program")
        client = security.client_of(request)
        try:
            token = frame.people.log_in(login.name, login.password, login.code, client)
        except BusyError as error:
            raise HTTPException(429, str(error)) from None
        session = None if token is None else frame.people.session(token, client)
        if token is None or session is None:
            raise HTTPException(403, "name, password or digits are not right, or were used before")
        security.set_session(response, token)
        return _logged_in(session)

    @routes.get("")
    def who(session: Annotated[Session, Depends(guard.session)]) -> LoggedIn:
        """Who is logged in."""
        return _logged_in(session)

    @routes.delete("", status_code=204)
    def log_out(
        _person: Annotated[Person, Depends(guard.changing(*ROLES))], request: Request, response: Response
    ) -> None:
        """End the session."""
        frame.people.log_out(request.cookies[security.COOKIE])
        security.clear_session(response)

    return routes


def _logged_in(session: Session) -> LoggedIn:
    person = session.person
    return LoggedIn(name=person.name, role=person.role, site=person.site, csrf=session.csrf)
