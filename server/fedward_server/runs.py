"""Runs on real sites: started, stopped and resumed. What a run does by itself is in `deployment`.

A run's folder in the hub holds study.json (the resolved study), roster.json (its sites by their nodes' keys),
events.jsonl, run.log, the checkpoints, and run.json when it has finished; or survey.json and statistics.json, where it
asks for statistics and trains nothing.
"""

import json
import logging
import os
import secrets
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from fedward_common import pki
from fedward_common.errors import FedwardError, RunError, SettingsError, UsageError
from fedward_common.study import SiteEntry, StudySpec, resolved
from fedward_server import pausing
from fedward_server.checkpoints import newest
from fedward_server.enrolment import node_digest
from fedward_server.events import EventKind, RunEvent
from fedward_server.hub import Hub, enrolled
from fedward_server.journal import Journal
from fedward_server.locks import holder
from fedward_server.models import Registry, Started, keep_start, resolve_start
from fedward_server.store import UNFINISHED, RunRow, SiteRow, Store
from fedward_server.superlink import CONNECTION, POLL_S, RunConfig, write_bundle
from fedward_server.surveys import ASKED, Survey

log = logging.getLogger(__name__)

ENGINE = "deployment"
LOCK = "lock"  # in a run's folder, held by the process that does the run
STUDY, ROSTER = "study.json", "roster.json"
OPERATOR = "the hub's operator"  # who asks at the hub's own machine
STOP_LIMIT_S = 20.0
WAIT_S = 3600.0  # for sites that are not connected, or whose steward has not approved
THREADS = 1  # of the hub's own arithmetic: adding updates is no work, and one thread gives the same bits everywhere


def new_run_id(study: StudySpec) -> str:
    """A new run's id: the study, the time, and enough chance that two runs of one second differ."""
    return f"{study.study.id}-{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"


def start(
    hub: Hub,
    study: StudySpec,
    *,
    names: Sequence[str] = (),
    seed: int | None = None,
    wait_s: float = 0.0,
    base: Path = Path(),
    survey: Survey | None = None,
    say: Callable[[str], None] = log.info,
    by: str = OPERATOR,
) -> RunRow:
    """Start a run of a study on enrolled sites; it goes on by itself.

    The sites are the study's own, or those of `names`, or all; each is named in the resolved study with its
    fingerprint. Trained weights that the study names as a file are looked for from `base`, its file's folder; what is
    taken of them is told with `say`. With a `survey` the run asks for statistics and ends. Raises UsageError,
    StudyError or ModelError where that cannot be, RunError where the hub is not up.
    """
    if study.ended(datetime.now(UTC).date()):
        raise UsageError(f"the study ended on {study.study.ends}; a later [study] ends makes it another study")
    require_up(hub)
    spec, weights, told = _resolved(hub, study, names, seed, base)
    if told:
        say(told)
    with hub.store() as store:
        sites = store.sites()
        run = new_run_id(spec)
        folder = hub.runs / run
        folder.mkdir(mode=0o700)
        (folder / STUDY).write_bytes(spec.canonical_json())
        keep_start(weights, folder)
        if survey is not None:
            survey.write(folder / ASKED)
        sites_asked = [site.name for site in spec.sites]
        hub.audit().append("run started", {**_named(run, spec.digest), "sites": sites_asked, "by": by})
        store.start_run(run, spec.study.id, spec.digest, spec.canonical_json().decode(), ENGINE)
        with _failing(hub, store, run):
            _write_roster(folder, spec, sites)
            _launch(hub, store, run, resume=False, wait_s=wait_s)
        return store.run(run)


def resolve(
    hub: Hub, study: StudySpec, *, names: Sequence[str] = (), seed: int | None = None, base: Path = Path()
) -> StudySpec:
    """A study as this hub would run it, which is what the sites' stewards approve. Raises as `start` does."""
    return _resolved(hub, study, names, seed, base).study


def _resolved(hub: Hub, study: StudySpec, names: Sequence[str], seed: int | None, base: Path) -> Started:
    with hub.store() as store:
        spec = resolved(study, sites=chosen(study, store.sites(), names), seed=seed)
    return resolve_start(spec, base=base, registry=Registry(hub))


def pause(hub: Hub, run: str, *, by: str = OPERATOR) -> None:
    """Let a run pause after the round in hand. Raises RunError for one that is unknown, has ended or is paused."""
    with hub.store() as store:
        row = store.run(run)
    if row.status not in UNFINISHED:
        raise RunError(f"run {run} is not running: it {_ended(row)}")
    if (hub.runs / run / ASKED).exists():
        raise RunError(f"run {run} asks for statistics, and has no rounds to pause between: stop it instead")
    if pausing.is_paused(hub.runs / run):
        raise RunError(f"run {run} is paused already: `fedward study resume {run} --hub {hub.folder}` lets it go on")
    pausing.pause(hub.runs / run)
    hub.audit().append("run paused", {**_named(run, row.study_digest), "by": by})


def resume(hub: Hub, run: str, *, wait_s: float = 0.0, by: str = OPERATOR) -> RunRow:
    """Let a run that was paused go on, or one that failed or was stopped, after its last checkpoint.

    Raises RunError for one that is unknown, running, interrupted or finished, and where the hub is not up.
    """
    with hub.store() as store:
        row = store.run(run)
        if pausing.go_on(hub.runs / run) and row.status in UNFINISHED:
            hub.audit().append("run continued", {**_named(run, row.study_digest), "by": by})
            return row
        if row.status not in ("failed", "stopped"):
            raise RunError(f"run {run} {_NOT_TO_RESUME[row.status].format(run=run, hub=hub.folder)}")
        require_up(hub)
        with _failing(hub, store, run):
            go_on(hub, store, row, wait_s=wait_s, by=by)
        return store.run(run)


_NOT_TO_RESUME = {
    "running": "is running: follow it with `fedward study status {run} --hub {hub} --follow`",
    "interrupted": "was interrupted, and goes on by itself while the hub is up: see `fedward hub status {hub}`",
    "finished": "has finished: start a new run",
}


def go_on(hub: Hub, store: Store, row: RunRow, *, wait_s: float, by: str) -> None:
    """Hand a run to Flower once more, to go on after its last checkpoint; nothing where it was stopped meanwhile.

    Raises RunError where Flower does not take it, SettingsError or UsageError where the run or a site was changed.
    """
    folder = hub.runs / row.run
    if holder(folder / LOCK) is not None:
        raise RunError(f"the process of run {row.run} is still ending: wait a moment, then resume it")
    spec, sites = _study(folder, row), store.sites()
    for entry in spec.sites:
        _check_entry(entry, enrolled(sites, entry.name))
    _write_roster(folder, spec, sites)
    (folder / LOCK).unlink(missing_ok=True)  # of the process before
    if store.go_on(row.run, row.status):
        tell(hub, row, "resumed")
        hub.audit().append("run resumed", {**_named(row.run, row.study_digest), "by": by})
        _launch(hub, store, row.run, resume=True, wait_s=wait_s)
        if row.status == "interrupted" and row.flower_run is not None:
            _give_up(hub, row.flower_run)


def stop(hub: Hub, run: str, *, by: str = OPERATOR) -> None:
    """Stop a run; its checkpoints stay, and nothing works on it any more when this returns.

    Raises RunError for one that has ended, and for one that is at work where the hub is not up.
    """
    with hub.store() as store:
        row = store.run(run)
        if row.status not in UNFINISHED:
            raise RunError(f"run {run} is not running: it {_ended(row)}")
        if row.status == "running":
            require_up(hub)
        end_run(hub, store, run, "stopped", f"it was stopped by {by}")  # first: it then ends as stopped
        if row.status == "running" and row.flower_run is not None:
            hub.link.flwr("stop", row.flower_run, CONNECTION)
    _await_end(hub.runs / run / LOCK)


def _await_end(lock: Path) -> None:
    """Wait until a run's process has ended; kill it where it takes too long, for its checkpoints are whole."""
    started = time.monotonic()
    while (process := holder(lock)) is not None:
        if time.monotonic() - started > STOP_LIMIT_S:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        time.sleep(POLL_S)


def end_run(hub: Hub, store: Store, run: str, status: Literal["failed", "stopped"], reason: str) -> None:
    """Record that a run failed or was stopped: in the database, in its events, in the audit log."""
    row = store.run(run)
    store.finish_run(run, status, None, reason)
    if store.run(run).status == status:  # a stopped one does not become a failed one
        tell(hub, row, status, reason)
        hub.audit().append(f"run {status}", {**_named(run, row.study_digest), "reason": reason})


def interrupt(hub: Hub, store: Store, row: RunRow, kind: Literal["died", "interrupted"], reason: str) -> None:
    """Record that nothing works on a run any more, unless it has ended by itself."""
    if store.interrupt_run(row.run, reason):
        tell(hub, row, kind, reason)
        hub.audit().append("run interrupted", {**_named(row.run, row.study_digest), "reason": reason})


def tell(hub: Hub, row: RunRow, kind: EventKind, note: str = "") -> None:
    """Write into a run's events what happened to it as a whole; the event's round is the last one on disk."""
    folder, rounds = hub.runs / row.run, row.rounds
    Journal(folder)(RunEvent(kind=kind, run=row.run, round=newest(folder), rounds=rounds, note=note))


def require_up(hub: Hub) -> None:
    """Raise RunError unless the hub is up."""
    if hub.pid() is None or not hub.link.healthy():
        raise RunError(f"the hub is not up: start it with `fedward hub up {hub.folder}`")


# Sites ---------------------------------------------------------------------------------------------------------------


def chosen(study: StudySpec, sites: Mapping[str, SiteRow], names: Sequence[str]) -> list[SiteEntry]:
    """The roster of a run: the study's own sites, narrowed to `names`; without its own, `names`, or every site."""
    own = {entry.name: entry for entry in study.sites}
    if own and (others := [name for name in names if name not in own]):
        raise UsageError(f"{others[0]} is not in the study's [[sites]], which are {', '.join(own)}: leave it out")
    wanted = list(dict.fromkeys(names)) or list(own) or list(sites)
    if not wanted:
        raise UsageError("no site is enrolled at this hub: let one in first, with `fedward hub invite` or `enrol`")
    entries = []
    for name in wanted:
        entry, row = own.get(name, SiteEntry(name=name)), enrolled(sites, name)
        _check_entry(entry, row)
        entries.append(entry.model_copy(update={"fingerprint": row.fingerprint}))
    trainers = [entry for entry in entries if entry.role == "train" and entry.name != _only_tested(study)]
    if len(trainers) < study.strategy.min_sites:
        raise UsageError(
            f"the study asks for at least {study.strategy.min_sites} sites that train, and {len(trainers)} would: "
            "enrol more, or lower [strategy] min_sites"
        )
    return entries


def _only_tested(study: StudySpec) -> str | None:
    return study.split.site if study.split.kind == "leave-site-out" else None


def _check_entry(entry: SiteEntry, row: SiteRow) -> None:
    if entry.fingerprint is not None and entry.fingerprint != row.fingerprint:
        raise UsageError(
            f"the study names {entry.name} with fingerprint {entry.fingerprint[:16]}…, but {row.fingerprint[:16]}… is "
            "enrolled: ask the site which is its own, then correct the study or enrol the site anew"
        )


# Handing a run to Flower ---------------------------------------------------------------------------------------------


def _write_roster(folder: Path, study: StudySpec, sites: Mapping[str, SiteRow]) -> None:
    roster = {node_digest(sites[entry.name].node_key): entry.name for entry in study.sites}
    text = json.dumps(roster, indent=1).encode()
    if (folder / ROSTER).exists() and (folder / ROSTER).read_bytes() == text:
        (folder / ROSTER).touch()  # its time says when the run was last started
    else:
        pki.write_public(folder / ROSTER, text)


def _launch(hub: Hub, store: Store, run: str, *, resume: bool, wait_s: float) -> None:
    folder = hub.runs / run
    config: RunConfig = {
        "hub": str(hub.folder),
        "run": run,
        "engine": ENGINE,
        "study": str(folder / STUDY),
        "folder": str(folder),
        "store": str(hub.store_file),
        "roster": str(folder / ROSTER),
        "wait_s": wait_s,
        "resume": resume,
        "threads": THREADS,
    }
    with tempfile.TemporaryDirectory(prefix="fedward-run-") as scratch:
        bundle = write_bundle(Path(scratch) / "bundle", config)
        store.set_flower_run(run, str(hub.link.flwr("run", str(bundle), CONNECTION)["run-id"]))


def _give_up(hub: Hub, flower_run: str) -> None:
    """End a Flower run whose process is gone, which Flower notices after a minute only.

    Until then sites wait for the pieces of a question that nobody sends any more.
    """
    with suppress(RunError):  # it has noticed, or was started anew
        hub.link.flwr("stop", flower_run, CONNECTION)


@contextmanager
def _failing(hub: Hub, store: Store, run: str) -> Iterator[None]:
    """Record a run that could not be handed over as failed."""
    try:
        yield
    except FedwardError as error:
        if store.run(run).status == "running":
            end_run(hub, store, run, "failed", str(error))
        raise


def _study(folder: Path, row: RunRow) -> StudySpec:
    try:
        spec = StudySpec.from_json((folder / STUDY).read_bytes())
    except (OSError, ValueError):
        raise SettingsError(f"the study of run {row.run} cannot be read: restore its folder from a backup") from None
    if spec.digest != row.study_digest:
        raise SettingsError(f"the study of run {row.run} was changed: restore its folder from a backup")
    return spec


def _named(run: str, digest: str) -> dict[str, str]:
    return {"run": run, "study": digest}


def _ended(row: RunRow) -> str:
    words = {"failed": "failed", "stopped": "was stopped"}.get(row.status, "has finished")
    return f"{words} ({row.reason})" if row.reason else words
