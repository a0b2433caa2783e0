"""A run, live: who waits for whom, losses and figures, bytes, reasons; and what may be done with it."""

from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from fedward_common.errors import FedwardError
from fedward_server import studies
from fedward_server.api.people import PATH
from fedward_server.dashboard.frame import Form, Frame
from fedward_server.dashboard.texts import texts
from fedward_server.people import STARTERS, Session
from fedward_server.result import FILE
from fedward_server.runs import WAIT_S
from fedward_server.store import RunRow
from fedward_server.surveys import ASKED

ACTIONS = {  # what may be done with a run that is …
    "running": ("pause", "stop"),
    "interrupted": ("pause", "stop"),
    "paused": ("resume", "stop"),
    "failed": ("resume",),
    "stopped": ("resume",),
    "finished": (),
}


@dataclass(frozen=True, slots=True)
class RunPage:
    """The page of one run. What it shows it asks the people's API for, and draws in the browser."""

    frame: Frame

    def routes(self) -> list[Route]:
        """Its pages."""
        return [
            Route("/runs/{run}", self.frame.page(self.run)),
            Route("/runs/{run}/{action:str}", self.frame.form(self.act, *STARTERS), methods=["POST"]),
        ]

    def run(self, request: Request, session: Session) -> Response:
        """The page."""
        row = self.frame.run(session.person, request.path_params["run"])
        if row is None:
            return self.frame.told(request, session, "not_found", 404)
        return self._page(request, session, row)

    def act(self, request: Request, session: Session, form: Form) -> Response:
        """Pause, resume or stop it."""
        row = self.frame.run(session.person, request.path_params["run"])
        action = request.path_params["action"]
        if row is None or not any(action in allowed for allowed in ACTIONS.values()):
            return self.frame.told(request, session, "not_found", 404)
        if action == "stop" and form.get("sure") != "yes":
            return self._page(request, session, row, 409, said="tick_to_stop")
        try:
            studies.act(self.frame.hub, row.run, action, wait_s=WAIT_S, by=session.person.name)
        except FedwardError as error:
            return self._page(request, session, row, 409, said="failed_because", why=self.frame.words(error))
        return RedirectResponse(f"/runs/{row.run}", 303)

    def _page(self, request: Request, session: Session, row: RunRow, status: int = 200, **said: Any) -> Response:
        live = self.frame.live.of(row)
        study, surveys = live.row.study_json, (live.folder / ASKED).exists()
        words = texts(self.frame.language(request))
        return self.frame.render(
            request,
            session,
            "run.html",
            status,
            row=live.row,
            study=study,
            shown=live.shown,
            surveys=surveys,
            actions=[each for each in ACTIONS[live.shown] if not (surveys and each == "pause")]
            if session.person.starts
            else (),
            api=f"{PATH}/runs/{row.run}",
            measure=words[f"col_{study['evaluation']['primary']}"],
            has_results=(live.folder / FILE).exists(),
            words={key: text for key, text in words.items() if key.startswith(("approval_", "kind_", "live_"))}
            | {each: words[each] for each in ACTIONS},
            **said,
        )
