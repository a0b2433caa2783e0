"""Logging in and out, and the language of a browser."""

import re
from dataclasses import dataclass

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from fedward_server.dashboard import security
from fedward_server.dashboard.frame import Form, Frame
from fedward_server.dashboard.texts import LANGUAGES
from fedward_server.people import BusyError, Session

_PAGE = re.compile(r"/([A-Za-z0-9-]+(/[A-Za-z0-9-]+)*)?(\?[!-~]*)?")  # of this hub, whatever a form says


@dataclass(frozen=True, slots=True)
class Entering:
    """The ways in and out."""

    frame: Frame

    def routes(self) -> list[Route]:
        """Its pages."""
        return [
            Route("/login", self.login, methods=["GET", "POST"]),
            Route("/language", self.language, methods=["POST"]),
            Route("/logout", self.frame.form(self.logout), methods=["POST"]),
        ]

    async def login(self, request: Request) -> Response:
        """The form, and what comes of it."""
        frame = self.frame
        if request.method == "GET":
            said = "session_over" if "over" in request.query_params else ""
            return frame.render(request, None, "login.html", said=said)
        form = await request.form()
        name, password, code = (str(form.get(field, "")) for field in ("name", "password", "code"))
        if not security.comes_from_here(request):
            return frame.render(request, None, "login.html", 403, said="form_old")
        try:
            token = await run_in_threadpool(frame.people.log_in, name, password, code, security.client_of(request))
        except BusyError:
            return frame.render(request, None, "login.html", 429, said="log_in_busy")
        if token is None:
            return frame.render(request, None, "login.html", 403, said="log_in_failed")
        answer = RedirectResponse("/", 303)
        security.set_session(answer, token)
        return answer

    def logout(self, request: Request, session: Session, form: Form) -> Response:
        """End the session."""
        del session, form
        self.frame.people.log_out(request.cookies.get(security.COOKIE, ""))
        answer = RedirectResponse("/login", 303)
        security.clear_session(answer)
        return answer

    async def language(self, request: Request) -> Response:
        """Another language, for this browser."""
        now = self.frame.language(request)
        other = LANGUAGES[(LANGUAGES.index(now) + 1) % len(LANGUAGES)]
        back = str((await request.form()).get("back", "/"))
        answer = RedirectResponse(back if _PAGE.fullmatch(back) else "/", 303)
        answer.set_cookie(security.LANGUAGE_COOKIE, other, max_age=10**8, secure=True, samesite="strict", httponly=True)
        return answer
