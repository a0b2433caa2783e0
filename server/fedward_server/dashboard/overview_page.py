"""Overview: which sites are there, what each does now, what needs a person."""

from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from fedward_server.dashboard.frame import Frame
from fedward_server.people import Session


@dataclass(frozen=True, slots=True)
class OverviewPage:
    """The first page."""

    frame: Frame

    def routes(self) -> list[Route]:
        """Its pages."""
        return [Route("/", self.frame.page(self.overview))]

    def overview(self, request: Request, session: Session) -> Response:
        """How the federation stands."""
        now = self.frame.overview(session.person, self.frame.presence.seen)
        return self.frame.render(request, session, "overview.html", now=now)
