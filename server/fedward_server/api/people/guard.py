"""Who asks the people's API, and whether he may."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

from fastapi import HTTPException, Request

from fedward_server.api.people import CSRF_HEADER
from fedward_server.dashboard import security
from fedward_server.dashboard.frame import Frame
from fedward_server.people import Person, Role, Session
from fedward_server.store import RunRow


@dataclass(frozen=True, slots=True)
class Guard:
    """What a route depends on: `Depends(guard.person)`, `Depends(guard.changing("operator"))`."""

    frame: Frame

    def session(self, request: Request) -> Session:
        """Whose session it is; 401 for nobody's."""
        session = self.frame.session(request)
        if session is None:
            raise HTTPException(401, "log in first")
        return session

    def person(self, request: Request) -> Person:
        """Who asks; 401 for nobody."""
        return self.session(request).person

    def reading(self, *roles: Role) -> Callable[[Request], Person]:
        """Who asks for what is for these roles only; 403 for others."""

        def allowed(request: Request) -> Person:
            return _of_role(self.person(request), roles)

        return allowed

    def run(self, run: str, request: Request) -> RunRow:
        """A run that whoever asks may know of; 404 for others, and for none of that name."""
        row = self.frame.run(self.person(request), run)
        if row is None:
            raise HTTPException(404, "there is no such run")
        return row

    def changing(self, *roles: Role) -> Callable[[Request], Person]:
        """Who asks for a change, of these roles; 403 for others, and for what comes from another page."""

        def allowed(request: Request) -> Person:
            session = self.session(request)
            if not security.is_own_form(request, session, request.headers.get(CSRF_HEADER, "")):
                raise HTTPException(403, f"send the csrf of your session in the header {CSRF_HEADER}")
            return _of_role(session.person, roles)

        return allowed


def _of_role(person: Person, roles: Collection[Role]) -> Person:
    if person.role not in roles:
        raise HTTPException(403, f"this is for {' or '.join(roles)}; you are {person.role}")
    return person
