"""Studies: the runs there are, and a new one from a template or a file, checked while it is typed."""

import secrets
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from fedward_common.errors import FedwardError
from fedward_common.study import template_names, template_path
from fedward_server import studies
from fedward_server.dashboard.frame import Form, Frame
from fedward_server.people import STARTERS, Person, Session
from fedward_server.runs import WAIT_S
from fedward_server.store import RunRow, RunStatus

SHOWN = 25
STATUSES: tuple[RunStatus, ...] = ("running", "interrupted", "finished", "failed", "stopped")
REMEMBERED = 1000  # forms that were sent


@dataclass(frozen=True, slots=True)
class StudiesPage:
    """The list, and the form of a new study."""

    frame: Frame
    _sent: OrderedDict[str, str] = field(default_factory=OrderedDict)  # by a form's own number: the run it started
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def routes(self) -> list[Route]:
        """Its pages."""
        frame = self.frame
        return [
            Route("/studies", frame.page(self.studies)),
            Route("/studies/new", frame.page(self.new, *STARTERS)),
            Route("/studies/check", frame.form(self.check, *STARTERS), methods=["POST"]),
            Route("/studies/start", frame.form(self.start, *STARTERS), methods=["POST"]),
        ]

    def studies(self, request: Request, session: Session) -> Response:
        """The runs that were started last; what is asked for stands in the address."""
        asked = request.query_params
        status, words, before = (asked.get(name, "") for name in ("status", "words", "before"))
        statuses = tuple(each for each in STATUSES if each == status)
        rows = self.frame.store.newest(
            SHOWN + 1, before=before or None, site=session.person.asked_as, statuses=statuses, words=words[:128]
        )
        return self.frame.render(
            request,
            session,
            "studies.html",
            runs=[self._run(session.person, row) for row in rows[:SHOWN]],
            more=rows[SHOWN - 1].run if len(rows) > SHOWN else "",
            statuses=STATUSES,
            chosen=status,
            words=words,
        )

    def new(self, request: Request, session: Session) -> Response:
        """The form, with a template where one is asked for."""
        name = request.query_params.get("template", "")
        text = template_path(name).read_text("utf-8") if name in template_names() else ""
        return self._form(request, session, text=text, taken=name)

    def check(self, request: Request, session: Session, form: Form) -> Response:
        """What is wrong with what was typed so far, or what would be run: a part of the form's page."""
        found = studies.check(self.frame.store, form.get("study", ""), _sites(form))
        return self.frame.render(request, session, "study_checked.html", checked=found)

    def start(self, request: Request, session: Session, form: Form) -> Response:
        """Start it, once however often it is sent; then its page."""
        text, sites, number = form.get("study", ""), _sites(form), form.get("number", "")
        with self._turn:  # a second press waits for the first
            if number in self._sent:
                return self._started(self._sent[number])
            try:
                row = studies.start(self.frame.hub, text, names=sites, wait_s=WAIT_S, by=session.person.name)
            except FedwardError as error:
                return self._form(request, session, 409, text=text, ticked=sites, why=self.frame.words(error))
            self._sent[number] = row.run
            while len(self._sent) > REMEMBERED:
                self._sent.popitem(last=False)
        return self._started(row.run)

    def _started(self, run: str) -> Response:
        return RedirectResponse(f"/runs/{run}#started", 303)  # there the browser forgets what was typed

    def _form(self, request: Request, session: Session, status: int = 200, **values: Any) -> Response:
        shown = {
            "templates": template_names(),
            "taken": "",
            "ticked": (),
            "sites": list(self.frame.store.sites()),
            "number": secrets.token_hex(8),
            **values,
        }
        text, ticked = shown["text"], shown["ticked"]
        checked = studies.check(self.frame.store, text, ticked) if text else studies.Checked()
        return self.frame.render(request, session, "study_new.html", status, checked=checked, **shown)

    def _run(self, person: Person, row: RunRow) -> dict[str, Any]:
        live = self.frame.live.of(row) if row.unfinished else None
        return {
            "run": row.run,
            "study": row.study_id,
            "title": row.study_json["study"]["title"] or row.study_id,
            "status": row.status if live is None else live.shown,
            "started": row.started,
            "round": None if live is None else live.standing.round,
            "of": None if live is None else live.standing.rounds,
            "sites": len(row.sites),
            "approved": None
            if live is None or person.role == "steward"  # one answer more than his own would be the other's
            else sum(state == "approved" for state in live.approvals.values()),
        }


def _sites(form: Form) -> tuple[str, ...]:
    """The sites that were ticked: a box each, named "site-NAME"."""
    return tuple(sorted(name.removeprefix("site-") for name in form if name.startswith("site-")))
