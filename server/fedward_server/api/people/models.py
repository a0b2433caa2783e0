"""The registered models, for programs."""

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Response
from pydantic import BaseModel, ConfigDict

from fedward_server import model_card
from fedward_server.api.people.guard import Guard
from fedward_server.dashboard.models_page import sent
from fedward_server.model_access import REMOVE, TAKE, ModelAccess
from fedward_server.models import Registered
from fedward_server.people import STARTERS, Person


class Added(BaseModel):
    """The model of a finished run, to be registered under a name."""

    model_config = ConfigDict(extra="forbid")

    name: str
    run: str
    note: str = ""


def router(guard: Guard) -> APIRouter:
    """Its routes."""
    routes = APIRouter(prefix="/models", tags=["models"])
    frame = guard.frame

    def access(person: Person) -> ModelAccess:
        return ModelAccess(frame.hub, frame.store, person)

    def found(models: ModelAccess, name: str) -> Registered:
        entry = models.find(name)
        if entry is None:
            raise HTTPException(404, f"there is no model '{name}' that you may see")
        return entry

    @routes.get("")
    def models(person: Annotated[Person, Depends(guard.person)]) -> list[Registered]:
        """The registered models, the newest first; a steward's are those of runs in which his site took part."""
        return access(person).entries

    @routes.post("", status_code=201)
    def add(person: Annotated[Person, Depends(guard.changing(*STARTERS))], added: Added) -> Registered:
        """Register the model of a finished run."""
        return access(person).add(added.name, added.run, added.note)

    @routes.get("/{name}")
    def model(person: Annotated[Person, Depends(guard.person)], name: str) -> dict[str, Any]:
        """A model's card, and its lineage: from the first weights that are known to those that began with it."""
        models = access(person)
        entry = found(models, name)
        return {"card": models.card(entry).model_dump(), "lineage": asdict(models.lineage(entry))}

    @routes.get("/{name}/card")
    def card(person: Annotated[Person, Depends(guard.person)], name: str) -> Response:
        """The card as Markdown."""
        models = access(person)
        entry = found(models, name)
        return Response(
            model_card.render(models.card(entry), models.lineage(entry), frame.hub.name), media_type="text/markdown"
        )

    @routes.get("/{name}/file")
    def file(person: Annotated[Person, Depends(guard.reading(*TAKE))], name: str) -> Response:
        """The model itself, a safetensors file, checked against its SHA-256. The audit log notes who took it."""
        models = access(person)
        return sent(models.take(found(models, name)))

    @routes.delete("/{name}", status_code=204)
    def remove(person: Annotated[Person, Depends(guard.changing(*REMOVE))], name: str) -> None:
        """Forget a model; runs that began with it keep its weights."""
        models = access(person)
        found(models, name)
        models.remove(name)

    return routes
