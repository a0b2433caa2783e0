"""Studies and their runs, for programs, and a run's events for the page that shows it live."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

import rfc8785
from fastapi import APIRouter, Depends, HTTPException, Query, Request
from fastapi.responses import PlainTextResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from fedward_common.study import template_names, template_path
from fedward_server import studies
from fedward_server.api.people.guard import Guard
from fedward_server.hub import Hub
from fedward_server.live import LOOK_S, LiveRun, reason_for
from fedward_server.people import STARTERS, Person
from fedward_server.runs import WAIT_S
from fedward_server.store import RunRow, RunStatus
from fedward_server.watch import summary

MOST = 100
LONGEST_WAIT_S = 7 * 86400.0
KEEP_ALIVE_S = 10.0  # how often a stream asks whether its session goes on, and says something
MOST_STREAMS = 8  # of one person at a time

Wait = Annotated[float, Field(ge=0.0, le=LONGEST_WAIT_S)]


class Wanted(BaseModel):
    """A study to be run: its TOML text; the sites, if not the study's own or all; a seed, if not the study's own.

    `wait_s` is for sites that are not connected or whose steward has not approved.
    """

    model_config = ConfigDict(extra="forbid")

    study: Annotated[str, Field(max_length=studies.MOST_BYTES)]
    sites: tuple[str, ...] = ()
    seed: Annotated[int, Field(ge=0)] | None = None
    wait_s: Wait = WAIT_S


class CheckedStudy(BaseModel):
    """What a study's text is. Without faults: its id and title, its rounds, and the sites that it would ask."""

    faults: tuple[str, ...] = ()
    id: str | None = None
    title: str | None = None
    rounds: int | None = None
    sites: tuple[str, ...] = ()


def router(guard: Guard) -> APIRouter:
    """Its routes."""
    routes = APIRouter(tags=["studies"])
    frame, streams = guard.frame, Counter[str]()  # that are open, by person
    Anybody = Annotated[Person, Depends(guard.person)]  # noqa: N806 - types
    Starter = Annotated[Person, Depends(guard.changing(*STARTERS))]  # noqa: N806

    Visible = Annotated[RunRow, Depends(guard.run)]  # noqa: N806

    @routes.get("/templates")
    def templates(_person: Anybody) -> list[str]:
        """The names of the studies that are shipped, to begin with."""
        return list(template_names())

    @routes.get("/templates/{name}", response_class=PlainTextResponse)
    def template(name: str, _person: Anybody) -> str:
        """One of them, as TOML."""
        if name not in template_names():
            raise HTTPException(404, "there is no such template")
        return template_path(name).read_text("utf-8")

    @routes.post("/studies/check")
    def check(wanted: Wanted, _person: Starter) -> CheckedStudy:
        """What is wrong with a study, or what would be run of it. Nothing is started."""
        found = studies.check(frame.store, wanted.study, wanted.sites)
        spec = found.study
        if spec is None:
            return CheckedStudy(faults=found.faults)
        return CheckedStudy(id=spec.study.id, title=spec.study.title, rounds=spec.rounds, sites=found.sites)

    @routes.get("/runs")
    def runs(
        person: Anybody,
        many: Annotated[int, Query(ge=1, le=MOST)] = 25,
        before: str | None = None,
        status: RunStatus | None = None,
        words: Annotated[str, Query(max_length=128)] = "",
    ) -> list[dict[str, Any]]:
        """The runs that were started last, newest first; `before`, a run's id, pages on; `words` are of an id."""
        statuses = () if status is None else (status,)
        rows = frame.store.newest(many, before=before, site=person.asked_as, statuses=statuses, words=words)
        return [_told(person, row, frame.hub) for row in rows]

    @routes.post("/runs", status_code=201)
    def start(wanted: Wanted, person: Starter) -> dict[str, Any]:
        """Start a study on the hospitals; it goes on by itself."""
        row = studies.start(
            frame.hub, wanted.study, names=wanted.sites, seed=wanted.seed, wait_s=wanted.wait_s, by=person.name
        )
        return summary(frame.hub, row)

    @routes.get("/runs/{run}")
    def run(row: Visible, person: Anybody) -> Response:
        """How a run stands: its rounds, each site's part in them, who is waited for, what happened."""
        return Response(frame.live.of(row).text(person), media_type="application/json")

    @routes.get("/runs/{run}/study")
    def study(row: Visible) -> Response:
        """The study that it does, as its digest is of it and as each of its sites is sent it: with all sites' names."""
        return Response(rfc8785.dumps(row.study_json), media_type="application/json")

    @routes.post("/runs/{run}/{action}", status_code=202)
    def act(action: studies.Action, row: Visible, person: Starter, wait_s: Wait = WAIT_S) -> dict[str, Any]:
        """Pause a run after the round in hand, let it go on, or stop it; `wait_s` as of a start."""
        studies.act(frame.hub, row.run, action, wait_s=wait_s, by=person.name)
        return summary(frame.hub, frame.store.run(row.run))

    @routes.get("/runs/{run}/events", response_class=StreamingResponse)
    def events(row: Visible, person: Anybody, request: Request) -> StreamingResponse:
        """The same as server-sent events: first whole, then what is new whenever something is, until the run ends."""

        def goes_on() -> bool:
            session = frame.session(request)
            return session is not None and session.person == person

        if streams[person.name] >= MOST_STREAMS:
            raise HTTPException(429, f"you follow {MOST_STREAMS} runs already: close a page")
        return StreamingResponse(told(frame.live.of(row), person, goes_on), media_type="text/event-stream")

    async def told(live: LiveRun, person: Person, goes_on: Callable[[], bool]) -> AsyncIterator[bytes]:
        streams[person.name] += 1
        try:
            async for each in _events(live, person, goes_on):
                yield each
        finally:
            streams[person.name] -= 1

    return routes


async def _events(live: LiveRun, person: Person, goes_on: Callable[[], bool]) -> AsyncIterator[bytes]:
    sent, asked = -1, time.monotonic()
    while True:
        sent, text, over = await run_in_threadpool(live.news, person, sent)
        if text is not None:
            yield b"event: clock\ndata: %.3f\n\ndata: %b\n\n" % (time.time(), text)
        if over:
            yield b"event: over\ndata: {}\n\n"
            return
        if time.monotonic() - asked > KEEP_ALIVE_S:
            if not await run_in_threadpool(goes_on):
                return
            yield b": still here\n\n"
            asked = time.monotonic()
        await asyncio.sleep(LOOK_S)


def _told(person: Person, row: RunRow, hub: Hub) -> dict[str, Any]:
    """What a person may know of a run in a list."""
    return {**summary(hub, row), "reason": reason_for(person, row, hub), "figures": None}
