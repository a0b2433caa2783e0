"""The Flower ServerApp: wiring only.

The run's config names what to run: `study` (the resolved study's JSON file), `run` (its id), `folder` (where its
checkpoints and run.json go), `store` (the hub's database), `engine`, `resume`, and `threads` (of the arithmetic). On
real sites (engine "deployment") there are also `hub` (its folder), `roster` (a file of sites by their nodes' keys) and
`wait_s` (for sites that are not connected or not approved yet).
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from flwr.app import Context
from flwr.app.user_config import UserConfig
from flwr.serverapp import Grid, ServerApp

from fedward_common.errors import FedwardError
from fedward_common.study import StudySpec
from fedward_server import surveys
from fedward_server.events import Listener
from fedward_server.exchange import Connected
from fedward_server.result import RoundHistory, RunResult
from fedward_server.rounds import RoundEngine
from fedward_server.shelf import IN_MEMORY_BYTES, SHARED_BYTES
from fedward_server.store import RoundRow, SiteRoundRow, Store
from fedward_server.surveys import ASKED, Survey, SurveyResult, survey

INTERRUPTED = "it was interrupted; it can be resumed after its last checkpoint"

app = ServerApp()


def ends(_error: BaseException) -> bool:
    """What ends a run of an engine that nobody starts again by itself: anything."""
    return True


def serve(
    grid: Grid,
    config: UserConfig,
    listener: Listener,
    connected: Connected | None = None,
    *,
    fails: Callable[[BaseException], bool] = ends,
) -> RunResult:
    """Run a study over a grid and keep its history in the store; `connected` is of real sites.

    `fails` says whether an error is the run's end; after another the run is still recorded as running.
    """
    study, folder = _study(config), Path(str(config["folder"]))
    run, engine = str(config["run"]), str(config["engine"])
    with _recorded(config, study, fails) as store:
        result = RoundEngine(
            grid=grid,
            study=study,
            run=run,
            engine=engine,
            folder=folder,
            deadline_s=math.inf if engine == "embedded" else None,  # there, nobody is late but in the queue
            waiting_bytes=SHARED_BYTES if engine == "embedded" else IN_MEMORY_BYTES,
            on_round=lambda row: _record(store, run, row),
            listener=listener,
            connected=connected,
            wait_s=float(config.get("wait_s", 0.0)),
            compares=engine == "deployment",  # elsewhere the baselines are runs of their own
        )(resume=bool(config.get("resume", False)))
        store.finish_run(run, "finished", result.model_sha256)
    return result


def serve_survey(
    grid: Grid,
    config: UserConfig,
    listener: Listener,
    connected: Connected | None = None,
    *,
    fails: Callable[[BaseException], bool] = ends,
) -> SurveyResult:
    """Ask for the statistics that the run's folder says (`surveys.ASKED`), and write them there. Else as `serve`."""
    study, folder = _study(config), Path(str(config["folder"]))
    with _recorded(config, study, fails) as store:
        asked = Survey.model_validate_json((folder / ASKED).read_bytes())
        run, wait_s = str(config["run"]), float(config.get("wait_s", 0.0))
        result = survey(grid, study, run, asked.wanted, listener, connected=connected, wait_s=wait_s)
        result.write(folder / surveys.FILE)
        store.finish_run(run, "finished", None)
    return result


def _study(config: UserConfig) -> StudySpec:
    return StudySpec.from_json(Path(str(config["study"])).read_bytes())


@contextmanager
def _recorded(config: UserConfig, study: StudySpec, fails: Callable[[BaseException], bool]) -> Iterator[Store]:
    """The store, for a run's work: it knows the run from its begin on, and why it failed."""
    Path(str(config["folder"])).mkdir(parents=True, exist_ok=True)
    run = str(config["run"])
    with Store.open(Path(str(config["store"]))) as store:
        store.start_run(run, study.study.id, study.digest, study.canonical_json().decode(), str(config["engine"]))
        try:
            yield store
        except BaseException as error:
            if fails(error):
                store.finish_run(run, "failed", None, _reason(error))
            raise


def _reason(error: BaseException) -> str:
    if isinstance(error, FedwardError):
        return str(error)
    return f"{type(error).__name__} at the hub; its log says where" if isinstance(error, Exception) else INTERRUPTED


def _record(store: Store, run: str, row: RoundHistory) -> None:
    """A round's history as rows of the store."""
    whole = RoundRow(
        run=run,
        round=row.round,
        seconds=row.seconds,
        train_seconds=max(site.train_seconds for site in row.sites.values()),
        bytes_up=sum(site.bytes_up for site in row.sites.values()),
        bytes_down=sum(site.bytes_down for site in row.sites.values()),
        loss=row.train_loss,
        primary=row.primary,
    )
    accepted = [
        SiteRoundRow(
            run=run,
            round=row.round,
            site=name,
            patients=site.patients,
            seconds=site.seconds,
            train_seconds=site.train_seconds,
            bytes_up=site.bytes_up,
            bytes_down=site.bytes_down,
            loss=site.train_loss,
            reason=site.notes or None,
            primary=row.site_primary.get(name),
        )
        for name, site in row.sites.items()
    ]
    refused = [
        SiteRoundRow(
            run=run, round=row.round, site=name, status="refused", reason=reason, primary=row.site_primary.get(name)
        )
        for name, reason in row.refused.items()
    ]
    store.record_round(whole, [*accepted, *refused])


@app.main()
def _main(grid: Grid, context: Context) -> None:
    config = context.run_config
    if "threads" in config:
        import torch

        torch.set_num_threads(int(config["threads"]))
    if config["engine"] == "deployment":
        from fedward_server.deployment import serve_sites

        serve_sites(grid, config)
    else:
        serve(grid, config, lambda _event: None)
