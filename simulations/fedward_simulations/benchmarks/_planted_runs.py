"""A hub whose pages have much to show: ten thousand runs, and one of two hundred hospitals and five hundred rounds."""

import json
import math
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from fedward_common.study import SiteEntry, find, load, resolved
from fedward_server.hub import Hub
from fedward_server.journal import FILE
from fedward_server.store import METADATA, Store

STUDY = "breast-ultrasound"
ROUND_S = 10.0


def plant_run(hub: Hub, store: Store, run: str, *, sites: int, rounds: int) -> None:
    """A run in its last round, as it would have recorded itself: every site answers every round."""
    names = [f"hospital-{number:03}" for number in range(sites)]
    study = load(find(STUDY))
    study = study.model_copy(update={"training": study.training.model_copy(update={"rounds": rounds})})
    study = resolved(study, sites=[SiteEntry(name=name) for name in names])
    store.start_run(run, study.study.id, study.digest, study.canonical_json().decode(), "embedded")
    (hub.runs / run).mkdir()
    begun = datetime.now(UTC) - timedelta(seconds=ROUND_S * rounds)
    lines: list[str] = []

    def tell(kind: str, number: int, after_s: float, site: str = "") -> None:
        when = begun + timedelta(seconds=ROUND_S * number + after_s)
        event = {"kind": kind, "run": run, "round": number, "rounds": rounds, "site": site, "note": ""}
        lines.append(json.dumps({**event, "time": when.isoformat(timespec="milliseconds")}))

    totals: list[dict[str, Any]] = []
    parts: list[dict[str, Any]] = []
    for number in range(1, rounds + 1):
        tell("round", number, 0.0)
        for place, name in enumerate(names):
            tell("answered", number, 2.0 + 7.0 * place / sites, name)
        tell("aggregated", number, 9.5)
        loss = math.exp(-3 * number / rounds)
        shared = {"run": run, "round": number, "seconds": 9.5, "train_seconds": 8.0, "bytes_up": 4 * 10**6}
        shared |= {"bytes_down": 4 * 10**6, "status": "finished", "loss": loss, "primary": 0.95 - 0.4 * loss}
        totals.append(shared)
        parts += [
            {**shared, "site": name, "status": "accepted", "loss": loss + place / 1000}
            for place, name in enumerate(names)
        ]
    (hub.runs / run / FILE).write_text("\n".join(lines) + "\n")
    with store.writing() as connection:
        connection.execute(sa.insert(METADATA.tables["rounds"]), totals)
        connection.execute(sa.insert(METADATA.tables["site_rounds"]), parts)


def plant_runs(store: Store, many: int) -> None:
    """Finished runs of three hospitals, without files."""
    study = resolved(load(find(STUDY)), sites=[SiteEntry(name=name) for name in ("harbour", "north", "valley")])
    row = {
        "study_id": study.study.id,
        "study_digest": study.digest,
        "study_json": json.loads(study.canonical_json()),
        "engine": "deployment",
        "fedward_version": "0",
        "status": "finished",
        "ended": "2026-01-01T00:00:00.000+00:00",
    }
    rows = [{**row, "run": f"planted-{n:05}", "started": f"2026-01-01T00:00:00.{n:06}+00:00"} for n in range(many)]
    pairs = [{"run": each["run"], "site": site.name} for each in rows for site in study.sites]
    with store.writing() as connection:
        connection.execute(sa.insert(METADATA.tables["runs"]), rows)
        connection.execute(sa.insert(METADATA.tables["run_sites"]), pairs)
