"""What every page stands in: the hub that it tells of, who asks and whether he may, the template around it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import jinja2
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from fedward_common.errors import FedwardError
from fedward_server.audit_check import AuditChecks
from fedward_server.dashboard import security
from fedward_server.dashboard.texts import chosen, texts
from fedward_server.hub import Hub
from fedward_server.live import LiveRuns
from fedward_server.overview import Overview, sees
from fedward_server.people import People, Person, Role, Session
from fedward_server.presence import PresenceWatch
from fedward_server.store import RunRow, Store

HERE = Path(__file__).parent

Form = dict[str, str]
_OVER = "/login?over=1"  # where a session that is over leads


@dataclass(frozen=True, slots=True)
class Frame:
    """The pages of one hub, whose database is opened and whose sites are watched."""

    hub: Hub
    store: Store
    presence: PresenceWatch
    live: LiveRuns
    audit_checks: AuditChecks = field(default_factory=AuditChecks)

    note: ClassVar[str] = ""  # the name of what every page says first

    @property
    def people(self) -> People:
        """Who may log in."""
        return People(self.store, tell=lambda event, data: self.hub.audit().append(event, data))

    @property
    def overview(self) -> Overview:
        """How the hub stands."""
        return Overview(self.hub, self.store, self.live)

    def run(self, person: Person, name: str) -> RunRow | None:
        """A run that a person may know of, None for one that he may not and for one that is not there alike."""
        row = self.store.find(name)
        return row if row is not None and sees(person, row) else None

    # Who may ---------------------------------------------------------------------------------------------------------

    def session(self, request: Request) -> Session | None:
        """Who is logged in. What a page asks for by itself keeps no session from ending."""
        token = request.cookies.get(security.COOKIE)
        if token is None:
            return None
        return self.people.session(token, security.client_of(request), stays=not security.asks_by_itself(request))

    def page(self, handler: Callable[[Request, Session], Response], *roles: Role) -> Callable[[Request], Response]:
        """A page for who is logged in, of these roles where some are given; others are sent to log in."""

        def guarded(request: Request) -> Response:
            session = self.session(request)
            if session is not None and roles and session.person.role not in roles:
                return self.told(request, session, "not_allowed", 403)
            if session is not None:
                return handler(request, session)
            if "hx-request" in request.headers:
                return Response(headers={"HX-Redirect": _OVER})
            answer = RedirectResponse(_OVER if security.COOKIE in request.cookies else "/login", 303)
            security.clear_session(answer)
            return answer

        return guarded

    def form(
        self, handler: Callable[[Request, Session, Form], Response], *roles: Role
    ) -> Callable[[Request], Awaitable[Response]]:
        """A form of a session's own page, for people of these roles; without, for everybody who is logged in."""

        async def guarded(request: Request) -> Response:
            form = {name: value for name, value in (await request.form()).items() if isinstance(value, str)}

            def answer() -> Response:
                session, checks = self.session(request), "hx-request" in request.headers
                if session is None:
                    return Response(headers={"HX-Redirect": _OVER}) if checks else RedirectResponse(_OVER, 303)
                if not security.is_own_form(request, session, form.get("csrf", "")):
                    if checks:
                        return Response(headers={"HX-Refresh": "true"})
                    return self.told(request, session, "form_old", 403)
                if roles and session.person.role not in roles:
                    return self.told(request, session, "not_allowed", 403)
                return handler(request, session, form)

            return await run_in_threadpool(answer)

        return guarded

    # What they see ---------------------------------------------------------------------------------------------------

    def told(self, request: Request, session: Session, said: str, status: int) -> Response:
        """A page that says one thing."""
        return self.render(request, session, "told.html", status, said=said)

    def words(self, error: FedwardError) -> str:
        """What went wrong, without where on its machine the hub lies."""
        return self.hub.without_folder(str(error))

    def language(self, request: Request) -> str:
        """The language of whoever asks."""
        return chosen(request.cookies.get(security.LANGUAGE_COOKIE), request.headers.get("accept-language", ""))

    def render(
        self, request: Request, session: Session | None, template: str, status: int = 200, **values: Any
    ) -> Response:
        """A page of a template; `said` names what it tells first, with `why` in it."""
        language = self.language(request)
        here = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        back = "" if request.method == "POST" else here if status < 400 else "/"  # with another language
        words = {"said": "", "why": "", "back": back, "note": self.note, **values}
        page = _ENVIRONMENT.get_template(template).render(
            t=texts(language), language=language, hub=self.hub.name, session=session, path=request.url.path, **words
        )
        return HTMLResponse(page, status_code=status)


_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FileSystemLoader(HERE / "templates"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
