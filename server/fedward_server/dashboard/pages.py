"""The pages and the people's API: every route, who may take it, and what it does."""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from fedward_common.errors import FedwardError
from fedward_common.pki import grouped
from fedward_server import control
from fedward_server.dashboard import security
from fedward_server.dashboard.texts import LANGUAGES, chosen, texts
from fedward_server.hub import Hub
from fedward_server.joining import INVITATION_DAYS, Joining
from fedward_server.overview import Overview
from fedward_server.people import People, Person, Session
from fedward_server.presence import PresenceWatch
from fedward_server.store import Store

_HERE = Path(__file__).parent
_PATH = re.compile(r"/([a-z0-9-]+(/[a-z0-9-]+)*)?")  # of this hub, whatever a form says


@dataclass(frozen=True, slots=True)
class Dashboard:
    """The pages of one hub, whose database is opened and whose sites are watched."""

    hub: Hub
    store: Store
    presence: PresenceWatch

    def app(self) -> Starlette:
        """The application."""
        return Starlette(
            routes=[
                Route("/login", self.login, methods=["GET", "POST"]),
                Route("/language", self.language, methods=["POST"]),
                Route("/logout", self._form(self.logout), methods=["POST"]),
                Route("/", self._page(self.overview)),
                Route("/sites", self._page(self.sites)),
                Route("/sites/invite", self._form(self.invite, "operator"), methods=["POST"]),
                Route("/sites/{name}/{action}", self._form(self.act, "operator"), methods=["POST"]),
                Route("/api/v1/overview", self._page(self.overview_json)),
                Mount("/static", StaticFiles(directory=_HERE / "static")),
                Route("/{rest:path}", self._page(self.nothing)),
            ],
            middleware=[Middleware(BaseHTTPMiddleware, dispatch=security.with_headers)],
        )

    @property
    def _people(self) -> People:
        return People(self.store)

    # Who may ---------------------------------------------------------------------------------------------------------

    def _session(self, request: Request) -> Session | None:
        token = request.cookies.get(security.COOKIE)
        return None if token is None else self._people.session(token, security.client_of(request))

    def _page(self, handler: Callable[[Request, Session], Response]) -> Callable[[Request], Response]:
        """A page for who is logged in; others are sent to log in."""

        def guarded(request: Request) -> Response:
            session = self._session(request)
            if session is not None:
                return handler(request, session)
            if request.url.path.startswith("/api/"):
                return JSONResponse({"error": "log in first"}, status_code=401)
            if "hx-request" in request.headers:
                return Response(headers={"HX-Redirect": "/login?over=1"})
            answer = RedirectResponse("/login?over=1" if security.COOKIE in request.cookies else "/login", 303)
            security.clear_session(answer)
            return answer

        return guarded

    def _form(
        self, handler: Callable[[Request, Session, dict[str, str]], Response], *roles: str
    ) -> Callable[[Request], Awaitable[Response]]:
        """A form of a session's own page, for people of these roles; without, for everybody who is logged in."""

        async def guarded(request: Request) -> Response:
            form = {name: value for name, value in (await request.form()).items() if isinstance(value, str)}

            def answer() -> Response:
                session = self._session(request)
                if session is None:
                    return RedirectResponse("/login?over=1", 303)
                if not security.is_own_form(request, session, form.get("csrf", "")):
                    return self._told(request, session, "form_old", 403)
                if roles and session.person.role not in roles:
                    return self._told(request, session, "not_allowed", 403)
                return handler(request, session, form)

            return await run_in_threadpool(answer)

        return guarded

    # Logging in ------------------------------------------------------------------------------------------------------

    async def login(self, request: Request) -> Response:
        """The form, and what comes of it."""
        if request.method == "GET":
            said = "session_over" if "over" in request.query_params else ""
            return self._render(request, None, "login.html", said=said)
        form = await request.form()
        name, password, code = (str(form.get(field, "")) for field in ("name", "password", "code"))
        if not security.comes_from_here(request):
            return self._render(request, None, "login.html", 403, said="form_old")
        token = await run_in_threadpool(self._people.log_in, name, password, code, security.client_of(request))
        if token is None:
            self.hub.audit().append("login refused", {})
            return self._render(request, None, "login.html", 403, said="log_in_failed")
        answer = RedirectResponse("/", 303)
        security.set_session(answer, token)
        return answer

    def logout(self, request: Request, session: Session, form: dict[str, str]) -> Response:
        """End the session."""
        del session, form
        self._people.log_out(request.cookies[security.COOKIE])
        answer = RedirectResponse("/login", 303)
        security.clear_session(answer)
        return answer

    async def language(self, request: Request) -> Response:
        """Another language, for this browser."""
        now = self._language(request)
        other = LANGUAGES[(LANGUAGES.index(now) + 1) % len(LANGUAGES)]
        back = str((await request.form()).get("back", "/"))
        answer = RedirectResponse(back if _PATH.fullmatch(back) else "/", 303)
        answer.set_cookie(security.LANGUAGE_COOKIE, other, max_age=10**8, secure=True, samesite="strict", httponly=True)
        return answer

    # Pages -----------------------------------------------------------------------------------------------------------

    def overview(self, request: Request, session: Session) -> Response:
        """How the federation stands."""
        return self._render(request, session, "overview.html", now=self._now(session.person))

    def overview_json(self, request: Request, session: Session) -> Response:
        """The same for programs."""
        del request
        return JSONResponse(self._now(session.person))

    def sites(self, request: Request, session: Session) -> Response:
        """The sites, and who asks to join."""
        return self._sites(request, session)

    def invite(self, request: Request, session: Session, form: dict[str, str]) -> Response:
        """Make a code for a site; it is shown once."""
        site = form.get("site", "").strip()

        def do() -> dict[str, Any]:
            made = Joining(self.hub, self.store).invite(site)
            return {"code": made.code(), "code_site": site}

        return self._done(request, session, "invite", site, do)

    def act(self, request: Request, session: Session, form: dict[str, str]) -> Response:
        """Let a site in, refuse it, or forget it."""
        name, action = request.path_params["name"], request.path_params["action"]
        actions: dict[str, Callable[[], dict[str, Any]]] = {
            "approve": lambda: self._approve(name, form.get("fingerprint", "")),
            "refuse": lambda: self._refuse(name),
            "forget": lambda: self._forget(name, form.get("typed", "").strip()),
        }
        if action not in actions:
            return self._told(request, session, "not_found", 404)
        return self._done(request, session, action, name, actions[action])

    def nothing(self, request: Request, session: Session) -> Response:
        """No page of this name."""
        return self._told(request, session, "not_found", 404)

    # -----------------------------------------------------------------------------------------------------------------

    def _approve(self, name: str, fingerprint: str) -> dict[str, Any]:
        control.approve(self.hub, name, fingerprint)
        return {"said": "done_approved", "said_site": name}

    def _refuse(self, name: str) -> dict[str, Any]:
        joining = Joining(self.hub, self.store)
        joining.refuse(joining.asked_by(name)[0])
        return {"said": "done_refused", "said_site": name}

    def _forget(self, name: str, typed: str) -> dict[str, Any]:
        if typed != name:
            return {"said": "forget_words", "said_site": name}
        control.shut_out(self.hub, name)
        return {"said": "done_forgotten", "said_site": name}

    def _done(
        self, request: Request, session: Session, action: str, site: str, do: Callable[[], dict[str, Any]]
    ) -> Response:
        """The page of sites after something was done, or why it was not; the audit log says who did it."""
        try:
            said = do()
        except FedwardError as error:
            return self._sites(request, session, status=409, said="failed_because", why=str(error))
        if said.get("said") != "forget_words":
            self.hub.audit().append("done by", {"person": session.person.name, "action": action, "site": site})
        return self._sites(request, session, **said)

    def _sites(self, request: Request, session: Session, status: int = 200, **said: Any) -> Response:
        waiting = [
            {**each, "read_out": grouped(each["fingerprint"])} for each in self._overview.waiting(session.person)
        ]
        now = self._now(session.person)
        return self._render(
            request, session, "sites.html", status, now=now, waiting=waiting, days=INVITATION_DAYS, **said
        )

    @property
    def _overview(self) -> Overview:
        return Overview(self.hub, self.store)

    def _now(self, person: Person) -> dict[str, Any]:
        return self._overview(person, self.presence.seen)

    def _told(self, request: Request, session: Session, said: str, status: int) -> Response:
        return self._render(request, session, "told.html", status, said=said)

    def _language(self, request: Request) -> str:
        return chosen(request.cookies.get(security.LANGUAGE_COOKIE), request.headers.get("accept-language", ""))

    def _render(
        self, request: Request, session: Session | None, template: str, status: int = 200, **values: Any
    ) -> Response:
        language = self._language(request)
        words = {"said": "", "said_site": "", "why": "", "code": "", "code_site": "", **values}
        page = _ENVIRONMENT.get_template(template).render(
            t=texts(language), language=language, hub=self.hub.name, session=session, path=request.url.path, **words
        )
        return HTMLResponse(page, status_code=status)


_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FileSystemLoader(_HERE / "templates"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
