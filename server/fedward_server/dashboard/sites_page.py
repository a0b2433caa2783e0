"""Sites: who asks to join and is let in, who is shut out."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from fedward_common.errors import FedwardError
from fedward_common.pki import grouped
from fedward_server import control
from fedward_server.dashboard.frame import Form, Frame
from fedward_server.joining import INVITATION_DAYS, Joining
from fedward_server.people import Session


@dataclass(frozen=True, slots=True)
class SitesPage:
    """The page of sites, and what an operator does there."""

    frame: Frame

    def routes(self) -> list[Route]:
        """Its pages."""
        frame = self.frame
        return [
            Route("/sites", frame.page(self.sites)),
            Route("/sites/invite", frame.form(self.invite, "operator"), methods=["POST"]),
            Route("/sites/{name}/{action}", frame.form(self.act, "operator"), methods=["POST"]),
        ]

    def sites(self, request: Request, session: Session) -> Response:
        """The sites, and who asks to join."""
        return self._sites(request, session)

    def invite(self, request: Request, session: Session, form: Form) -> Response:
        """Make a code for a site; it is shown once."""
        site = form.get("site", "").strip()

        def do() -> dict[str, Any]:
            return {"code": self._joining(session).invite(site).code(), "code_site": site}

        return self._done(request, session, do)

    def act(self, request: Request, session: Session, form: Form) -> Response:
        """Let a site in, refuse it, or forget it."""
        name, action = request.path_params["name"], request.path_params["action"]
        actions: dict[str, Callable[[], dict[str, Any]]] = {
            "approve": lambda: self._approve(session, name, form.get("fingerprint", "")),
            "refuse": lambda: self._refuse(session, name, form.get("fingerprint", "")),
            "forget": lambda: self._forget(session, name, form.get("typed", "").strip()),
        }
        if action not in actions:
            return self.frame.told(request, session, "not_found", 404)
        return self._done(request, session, actions[action])

    # -----------------------------------------------------------------------------------------------------------------

    def _joining(self, session: Session) -> Joining:
        return Joining(self.frame.hub, self.frame.store, session.person.name)

    def _approve(self, session: Session, name: str, fingerprint: str) -> dict[str, Any]:
        control.approve(self.frame.hub, name, fingerprint, by=session.person.name)
        return {"said": "done_approved", "said_site": name}

    def _refuse(self, session: Session, name: str, fingerprint: str) -> dict[str, Any]:
        joining = self._joining(session)
        joining.refuse(joining.asked_by(name, fingerprint)[0])
        return {"said": "done_refused", "said_site": name}

    def _forget(self, session: Session, name: str, typed: str) -> dict[str, Any]:
        if typed != name:
            return {"said": "forget_words", "said_site": name}
        control.shut_out(self.frame.hub, name, by=session.person.name)
        return {"said": "done_forgotten", "said_site": name}

    def _done(self, request: Request, session: Session, do: Callable[[], dict[str, Any]]) -> Response:
        """The page of sites after something was done, or why it was not."""
        try:
            said = do()
        except FedwardError as error:
            return self._sites(request, session, status=409, said="failed_because", why=self.frame.words(error))
        return self._sites(request, session, **said)

    def _sites(self, request: Request, session: Session, status: int = 200, **said: Any) -> Response:
        overview, person = self.frame.overview, session.person
        values = {
            "now": overview(person, self.frame.presence.seen),
            "waiting": [{**each, "read_out": grouped(each["fingerprint"])} for each in overview.waiting(person)],
            "days": INVITATION_DAYS,
            "said_site": "",
            "code": "",
            "code_site": "",
        }
        return self.frame.render(request, session, "sites.html", status, **{**values, **said})
