"""`fedward hub up --demo`: a hub to look around in, with the results of real runs of planted hospitals.

What it shows is shipped as demo.json, without any weights; `make hub-demo` makes it anew. Whoever comes, on this
machine only, is a visitor who sees all that an auditor sees, without logging in. Nothing runs there.
"""

import json
import secrets
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import uvicorn
from pydantic import BaseModel
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request

from fedward_common.study import StudySpec
from fedward_server.dashboard.app import dashboard_app
from fedward_server.dashboard.frame import Frame
from fedward_server.hub import Hub
from fedward_server.journal import FILE as EVENTS
from fedward_server.live import LiveRuns
from fedward_server.people import Person, Session
from fedward_server.presence import Presence, PresenceWatch
from fedward_server.result import FILE as RESULT
from fedward_server.runs import STUDY
from fedward_server.store import METADATA, Store
from fedward_server.superlink import HOST

SHIPPED = Path(__file__).parent / "demo.json"
TABLES = ("sites", "runs", "run_sites", "rounds", "site_rounds")
NAME = "demonstration"

Row = dict[str, Any]

_CSRF = secrets.token_hex(16)  # of no page that another site could read


class RunFiles(BaseModel):
    """The files of one run's folder that the pages read; `result` is of one that has finished."""

    run: str
    events: str  # JSON lines
    result: dict[str, Any] | None = None


class Bundle(BaseModel):
    """What is shown: rows of the hub's database, files of the runs, entries of the audit log (event and data)."""

    fedward: str
    tables: dict[str, list[Row]]
    runs: list[RunFiles]
    audit: list[tuple[str, dict[str, Any]]]


def collect(hub: Hub, fedward: str) -> Bundle:
    """What a hub has to show; no key of its own, no weights."""
    with hub.store() as store:
        tables = {name: store.rows(sa.select(METADATA.tables[name])) for name in TABLES}
    runs = []
    for row in tables["runs"]:
        folder = hub.runs / row["run"]
        result = json.loads((folder / RESULT).read_text()) if (folder / RESULT).exists() else None
        runs.append(RunFiles(run=row["run"], events=(folder / EVENTS).read_text(), result=result))
    lines = [json.loads(line) for line in (hub.folder / "audit.jsonl").read_text().splitlines()]
    return Bundle(
        fedward=fedward,
        tables=tables,
        runs=runs,
        audit=[(line["event"], line["data"]) for line in lines if line["event"] != "begun"],
    )


def load(folder: Path) -> Hub:
    """A new hub in an empty folder, with what is shipped in it."""
    bundle = Bundle.model_validate_json(SHIPPED.read_bytes())
    hub = Hub.init(folder, name=NAME)
    with hub.store() as store:
        with store.writing() as connection:
            for name, rows in bundle.tables.items():
                connection.execute(sa.insert(METADATA.tables[name]), rows)
        for each in bundle.runs:
            place = hub.runs / each.run
            place.mkdir(mode=0o700)
            study = StudySpec.from_json(json.dumps(store.run(each.run).study_json))
            (place / STUDY).write_bytes(study.canonical_json())
            (place / EVENTS).write_text(each.events)
            if each.result is not None:
                (place / RESULT).write_text(json.dumps(each.result))
    audit = hub.audit()
    for event, data in bundle.audit:
        audit.append(event, data)
    return hub


class Tour(Frame):
    """The frame of a hub that anybody may look around in."""

    note = "demo_note"

    def session(self, request: Request) -> Session | None:
        """A visitor, who may look at everything and change nothing."""
        del request
        return Session(person=Person(name="visitor", role="auditor"), csrf=_CSRF)


def shown(hub: Hub, store: Store) -> TrustedHostMiddleware:
    """The pages of a loaded hub, whose sites are not there; not for a page elsewhere whose name leads here."""
    presence = PresenceWatch(hub, store)
    presence.seen = {name: Presence(connection="offline") for name in store.sites()}
    return TrustedHostMiddleware(dashboard_app(Tour(hub, store, presence, LiveRuns(hub, store))), [HOST, "localhost"])


def serve(folder: Path, port: int, ready: Callable[[str], None]) -> None:
    """Load what is shipped, say where it is, and show it until told to end."""
    hub = load(folder)
    with hub.store() as store:
        app = shown(hub, store)
        config = uvicorn.Config(app, host=HOST, port=port, log_level="warning", access_log=False, server_header=False)
        ready(f"http://{HOST}:{port}")
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # uvicorn sends itself once more what ended it
        with suppress(KeyboardInterrupt):
            uvicorn.Server(config).run()
