"""A run on real sites, in the process that Flower starts for it: its grid, its events, its log, its end in the records.

The process holds the lock of the run's folder while it lives, so that the hub's supervisor knows at once when it died.
What ends the process and is not the run's own failure it does not record: the supervisor does, and lets the run go on.
"""

import json
import logging
from contextlib import ExitStack
from pathlib import Path

import httpx
from flwr.app.user_config import UserConfig
from flwr.serverapp import Grid
from flwr.supercore.run import RunNotRunningException
from flwr.superlink.grid import HttpGrid

from fedward_common.errors import RunError
from fedward_common.logs import fedward_to, to_file
from fedward_common.process_memory import collect_often, give_pieces_back
from fedward_server.app import serve, serve_survey
from fedward_server.bulk import Bulk
from fedward_server.events import RunEvent
from fedward_server.flower_grid import FlowerGrid
from fedward_server.hub import Hub
from fedward_server.journal import Journal
from fedward_server.locks import held
from fedward_server.rounds import UPDATES
from fedward_server.runs import LOCK
from fedward_server.store import RunRow
from fedward_server.surveys import ASKED


def serve_sites(grid: Grid, config: UserConfig) -> None:
    """Do a run on the sites of its roster, and tell how it ended."""
    assert isinstance(grid, HttpGrid)
    give_pieces_back()
    collect_often()
    hub, run, folder = Hub.open(Path(str(config["hub"]))), str(config["run"]), Path(str(config["folder"]))
    form = hub.settings.log.format  # of a file, for Flower throws away what this process prints
    with held(folder / LOCK), fedward_to(to_file(folder / "run.log", form)), ExitStack() as at_the_end:
        bulk = None if hub.gateway is None else Bulk(hub.folder, run)
        if bulk is not None:
            at_the_end.callback(bulk.remove)
        sites = FlowerGrid(grid, json.loads(Path(str(config["roster"])).read_bytes()), folder / UPDATES, bulk)
        journal = Journal(folder)
        row = _row(hub, run)
        rounds = row.rounds
        if row.status != "running":  # between its start and now
            raise RunError(f"run {run} was stopped before it began")
        journal(RunEvent(kind="began", run=run, round=0, rounds=rounds))
        try:
            work = serve_survey if (folder / ASKED).exists() else serve
            work(sites, config, journal, sites.connected, fails=fails)
        except BaseException as error:
            end = "failed" if fails(error) else "was interrupted"
            logging.getLogger(__name__).exception("run %s %s", run, end)
            raise
        finally:
            row = _row(hub, run)
            if row.status == "failed":
                journal(RunEvent(kind="failed", run=run, round=0, rounds=rounds, note=row.reason or ""))
            if row.status in ("failed", "finished"):
                hub.audit().append(f"run {row.status}", _end(row))


def fails(error: BaseException) -> bool:
    """Whether an error is the run's own; without its SuperLink, or told to end, it goes on in another process."""
    return isinstance(error, Exception) and not isinstance(error, (httpx.HTTPError, RunNotRunningException))


def _row(hub: Hub, run: str) -> RunRow:
    with hub.store() as store:
        return store.run(run)


def _end(row: RunRow) -> dict[str, str]:
    end = {"run": row.run, "study": row.study_digest}
    more = {"model_sha256": row.model_sha256} if row.status == "finished" else {"reason": row.reason}
    return {**end, **{name: value for name, value in more.items() if value is not None}}
