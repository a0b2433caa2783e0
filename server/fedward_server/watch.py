"""Following runs, and saying how they stand."""

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from fedward_common.errors import RunError
from fedward_common.metrics import Evaluation, main_figure
from fedward_common.study import StudySpec
from fedward_server import surveys
from fedward_server.approvals import Approvals
from fedward_server.events import RunEvent
from fedward_server.figures.blocks import METRIC_TITLES, headline, interval_seed
from fedward_server.hub import Hub
from fedward_server.journal import Tail, standing
from fedward_server.pausing import is_paused
from fedward_server.result import FILE, RunResult, SiteResult
from fedward_server.store import UNFINISHED, RunRow

LOOK_S = 0.2


def follow(hub: Hub, run: str, show: Callable[[RunEvent], None], tail: Tail | None = None) -> RunRow:
    """Give `show` each event of a run until the run has ended; how it then stands in the database.

    Raises RunError for a run that is unknown, and where the hub goes down.
    """
    tail = tail or Tail(hub.runs / run)
    with hub.store() as store:
        while True:
            up = hub.pid() is not None
            row = store.run(run)  # before its events: so the last of them are read too
            for event in tail.new():
                show(event)
            if row.status not in UNFINISHED:
                return row
            if not up:
                raise RunError(
                    f"the hub is not up any more: start it with `fedward hub up {hub.folder}`; the run then goes on by "
                    f"itself, and `fedward study status {run} --hub {hub.folder} --follow` shows it"
                )
            time.sleep(LOOK_S)


def summary(hub: Hub, row: RunRow) -> dict[str, Any]:
    """A run in a line: for lists."""
    files = [path for name in (FILE, surveys.FILE) if (path := hub.runs / row.run / name).exists()]
    return {
        "run": row.run,
        "study": row.study_id,
        "study_digest": row.study_digest,
        "status": row.status,
        "paused": row.status in UNFINISHED and is_paused(hub.runs / row.run),
        "reason": row.reason,
        "started": row.started,
        "ended": row.ended,
        "model_sha256": row.model_sha256,
        "figures": str(files[0]) if row.status == "finished" and files else None,
    }


def gains(result: RunResult) -> list[dict[str, Any]]:
    """Who gains: each hospital's test patients by the model it made alone and by the common one.

    `alone`, `together` and `personal` (the strategy's own model of the hospital) are figures of the task's `measure`
    with their 95 % intervals, None where the small-cell rule, the policy or the study keeps them home.
    """
    kinds, measure, seed = ("alone", "together", "personal"), _measure(result.study), interval_seed(result.study)
    return [
        {
            "site": site,
            "label": label,
            "measure": measure,
            "patients": counted,
            **dict(zip(kinds, figures, strict=True)),
        }
        for site, found in sorted(result.sites.items())
        for label in result.study.asked_labels
        for figures in [[_figure(each, label, seed) for each in (found.alone, found.test, found.personal)]]
        for counted in [found.test.patients if found.test is not None else None]
    ]


def across(result: RunResult) -> list[dict[str, Any]]:
    """The cross-site matrix: each model that a hospital trained alone on each site's test patients, as in `gains`.

    Empty where a site's policy keeps these models home.
    """
    if not any(found.across for found in result.sites.values()):
        return []
    tested = {site: {**found.across, **_own(site, found)} for site, found in result.sites.items()}
    measure, seed = _measure(result.study), interval_seed(result.study)
    return [
        {
            "trained_at": maker,
            "tested_at": site,
            "label": label,
            "measure": measure,
            "figure": _figure(models[maker], label, seed),
        }
        for label in result.study.asked_labels
        for maker in sorted({name for models in tested.values() for name in models})
        for site, models in sorted(tested.items())
        if maker in models
    ]


def _own(site: str, found: SiteResult) -> dict[str, Evaluation]:
    return {} if found.alone is None else {site: found.alone}


def _measure(study: StudySpec) -> str:
    return METRIC_TITLES[headline(study)]


def _figure(evaluation: Evaluation | None, label: str, seed: int) -> dict[str, float] | None:
    found = None if evaluation is None else main_figure(evaluation, label, seed=seed)
    return None if found is None else found.model_dump()


def report(hub: Hub, run: str) -> dict[str, Any]:
    """All that is known of a run, as JSON."""
    with hub.store() as store:
        row, rounds, parts = store.run(run), store.rounds(run), store.site_rounds(run)
        approvals = Approvals(store).of(row.study_digest)
    now = standing(Tail(hub.runs / run).new())
    result = RunResult.read(hub.runs / row.run) if (hub.runs / row.run / FILE).exists() else None
    return {
        **summary(hub, row),
        "round": now.round,
        "rounds": row.rounds,
        "sites": [{"name": name, "last": kind, "note": note} for name, (kind, note) in sorted(now.sites.items())],
        "approvals": [asdict(each) for each in approvals.values()],
        "interruptions": [{"round": number, "reason": note} for number, note in now.interruptions],
        "gains": gains(result) if result is not None else [],
        "across": across(result) if result is not None else [],
        "history": [
            {**asdict(entry), "sites": [asdict(part) for part in parts if part.round == entry.round]}
            for entry in rounds
        ],
    }
