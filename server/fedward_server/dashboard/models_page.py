"""Models: what is registered, each model's card and lineage, its file, and adding and removing them."""

from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from fedward_common.errors import FedwardError
from fedward_server import model_card
from fedward_server.dashboard.frame import Form, Frame
from fedward_server.model_access import REMOVE, TAKE, Download, ModelAccess
from fedward_server.models import Registered
from fedward_server.people import STARTERS, Session


@dataclass(frozen=True, slots=True)
class ModelsPage:
    """The registered models."""

    frame: Frame

    def routes(self) -> list[Route]:
        """Its pages."""
        frame = self.frame
        return [
            Route("/models", frame.page(self.models)),
            Route("/models/add", frame.form(self.add, *STARTERS), methods=["POST"]),
            Route("/models/{name}", frame.page(self.model)),
            Route("/models/{name}/card", frame.page(self.card)),
            Route("/models/{name}/file", frame.page(self.file, *TAKE)),
            Route("/models/{name}/remove", frame.form(self.remove, *REMOVE), methods=["POST"]),
        ]

    def models(self, request: Request, session: Session) -> Response:
        """All of them, and a form for another, which may be of the run that the address names."""
        return self._models(request, session, typed={"run": request.query_params.get("run", "")})

    def model(self, request: Request, session: Session) -> Response:
        """One, with its card and its lineage."""
        return self._model(request, session)

    def add(self, request: Request, session: Session, form: Form) -> Response:
        """Register the model of a finished run."""
        name, run, note = (form.get(field, "").strip() for field in ("name", "run", "note"))
        try:
            self._access(session).add(name, run, note)
        except FedwardError as error:
            why = self.frame.words(error)
            return self._models(request, session, 409, said="failed_because", why=why, typed=form)
        return RedirectResponse(f"/models/{name}", 303)

    def remove(self, request: Request, session: Session, form: Form) -> Response:
        """Forget a model, whose name was typed."""
        name = request.path_params["name"]
        if form.get("typed", "").strip() != name:
            return self._model(request, session, 409, said="remove_words")
        try:
            self._access(session).remove(name)
        except FedwardError as error:
            return self._models(request, session, 409, said="failed_because", why=self.frame.words(error))
        return self._models(request, session, said="done_removed", said_model=name)

    def card(self, request: Request, session: Session) -> Response:
        """The card as Markdown."""
        access = self._access(session)
        entry = access.find(request.path_params["name"])
        if entry is None:
            return self.frame.told(request, session, "not_found", 404)
        text = model_card.render(access.card(entry), access.lineage(entry), self.frame.hub.name)
        headers = {"Content-Disposition": f'attachment; filename="{entry.name}-card.md"'}
        return Response(text, headers=headers, media_type="text/markdown")

    def file(self, request: Request, session: Session) -> Response:
        """The model itself."""
        access = self._access(session)
        entry = access.find(request.path_params["name"])
        if entry is None:
            return self.frame.told(request, session, "not_found", 404)
        try:
            return sent(access.take(entry))
        except FedwardError as error:
            return self._model(request, session, 409, said="failed_because", why=self.frame.words(error))

    # ------------------------------------------------------------------------------------------------------------------

    def _access(self, session: Session) -> ModelAccess:
        return ModelAccess(self.frame.hub, self.frame.store, session.person)

    def _models(self, request: Request, session: Session, status: int = 200, **said: Any) -> Response:
        access, entries = self._access(session), list[Registered]()
        try:
            entries = access.entries
        except FedwardError as error:
            said = {"said": "failed_because", "why": self.frame.words(error)}
        may_add = session.person.starts
        said = {"typed": Form(), "said_model": "", **said}
        runs = access.to_add(said["typed"].get("run", "")) if may_add else []
        return self.frame.render(
            request, session, "models.html", status, models=entries, may_add=may_add, runs=runs, **said
        )

    def _model(self, request: Request, session: Session, status: int = 200, **said: Any) -> Response:
        access = self._access(session)
        entry = access.find(request.path_params["name"])
        if entry is None:
            return self.frame.told(request, session, "not_found", 404)
        try:
            card = access.card(entry)
        except FedwardError as error:
            card, said = None, said or {"said": "failed_because", "why": self.frame.words(error)}
        values = {
            "model": entry,
            "card": card,
            "parameters": "" if card is None else model_card.counted(card.parameters),
            "lineage": access.lineage(entry),
            "may_take": session.person.role in TAKE,
            "may_remove": session.person.role in REMOVE,
        }
        return self.frame.render(request, session, "model.html", status, **{**values, **said})


def sent(download: Download) -> Response:
    """A model's file as an answer."""
    name, kind = f"{download.entry.name}.safetensors", "application/octet-stream"
    if download.parts is None:
        return FileResponse(download.path, filename=name, media_type=kind)
    headers = {"Content-Disposition": f'attachment; filename="{name}"', "Content-Length": str(download.size)}
    return StreamingResponse(download.parts, headers=headers, media_type=kind)
