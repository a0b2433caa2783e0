"""How hubs and runs are shown on a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedward_common.cli_tables import show_pairs
from fedward_common.pki import grouped


def show_hub(found: Mapping[str, Any]) -> None:
    """What `control.survey` found."""
    state = f"up at {found['address']} (process {found['pid']})" if found["up"] else "not up"
    show_pairs([("Hub", found["hub"]), ("State", state)])
    if found["certificate_ends"] is not None:
        show_pairs([("Certificate ends", found["certificate_ends"][:10])])
    if found["waiting"]:
        waiting = [{**site, "fingerprint": grouped(site["fingerprint"])} for site in found["waiting"]]
        show_table(waiting, ("name", "fingerprint", "asked"), "")
    shown = [
        {
            "fingerprint": f"{site['fingerprint'][:16]}…",
            "since": site["since"] or "",
            "certificate": _ends(site),
            "says": _says(site["status"]) if found["up"] else "",  # a site tells nothing to a hub that is down
        }
        for site in found["sites"]
    ]
    sites = [{**site, **words} for site, words in zip(found["sites"], shown, strict=True)]
    columns = ("name", "fingerprint", "connection", "since", *(("certificate", "says") if found["gateway"] else ()))
    show_table(sites, columns, "no site is enrolled")
    show_runs(found["runs"])


def _ends(site: Mapping[str, Any]) -> str:
    """When a site's certificate ends, where that is near: it is renewed before, as long as the site is up."""
    end = site["certificate_ends"]
    if end is None:
        return "none"
    if site["certificate_over"]:
        return f"ended on {end[:10]}: invite the site again"
    return f"ends on {end[:10]}: is the site up?" if site["certificate_ends_soon"] else "holds"


def _says(told: Mapping[str, Any] | None) -> str:
    """How a site is, as it last told."""
    if told is None:
        return ""
    percent = told["work"]["percent"] if told["work"] is not None else None
    state = told["state"] if percent is None else f"{told['state']}, {percent} %"
    return "; ".join([state, *told["faults"]])


def show_runs(runs: Sequence[Mapping[str, Any]]) -> None:
    """Runs, a line each."""
    rows = [{**run, "status": status_of(run)} for run in runs]
    show_table(rows, ("run", "status", "started", "reason"), "no run was started")


def status_of(run: Mapping[str, Any]) -> str:
    """How a run stands, in a word."""
    return "paused" if run["paused"] else str(run["status"])


def show_run(found: Mapping[str, Any]) -> None:
    """What `watch.report` found of a run."""
    shown = {"run": "Run", "study": "Study", "study_digest": "Digest", "status": "Status", "reason": "Reason"}
    shown |= {"started": "Started", "ended": "Ended", "model_sha256": "Model", "figures": "Figures"}
    told = {**found, "status": status_of(found)}
    show_pairs((title, str(told[name])) for name, title in shown.items() if told[name] is not None)
    if found["interruptions"]:
        rows = [{"interrupted after round": each["round"], "why": each["reason"]} for each in found["interruptions"]]
        show_table(rows, ("interrupted after round", "why"), "")
    show_table(found["sites"], ("name", "last", "note"), "no site was asked yet")
    if found["approvals"]:
        answers = [{**each, "steward": each["state"]} for each in found["approvals"]]
        show_table(answers, ("site", "steward", "until", "reason"), "")
    if found["gains"]:
        show_gains(found["gains"])
    show_across(found["across"])
    rounds = [{**entry, "sites": _taken(entry["sites"])} for entry in found["history"]]
    show_table(rounds, ("round", "seconds", "loss", "primary", "sites"), "no round has ended yet")


def show_gains(rows: Sequence[Mapping[str, Any]], console: Console | None = None) -> None:
    """Who gains: a line each hospital and label."""
    titles = {key: f"{rows[0]['measure']} {words}" for key, words in _MODELS.items()} if rows else {}
    table = [
        {
            "hospital": row["site"],
            "label": row["label"],
            "test patients": row["patients"],
            **{title: _estimate(row[key]) for key, title in titles.items()},
            "gain": _gain(row["alone"], row["together"]),
        }
        for row in rows
    ]
    shown = [title for key, title in titles.items() if key != "personal" or any(row[title] for row in table)]
    show_table(table, ("hospital", "label", "test patients", *shown, "gain"), "no figures left the hospitals", console)


def show_across(rows: Sequence[Mapping[str, Any]], console: Console | None = None) -> None:
    """The cross-site matrix: a line each model that a hospital trained alone, a column each site that tested it."""
    console = console or Console()
    for label in dict.fromkeys(row["label"] for row in rows):
        of_label = {(row["trained_at"], row["tested_at"]): row["figure"] for row in rows if row["label"] == label}
        makers, testers = (sorted({pair[place] for pair in of_label}) for place in (0, 1))
        table = [
            {"trained alone at": maker, **{site: _value(of_label.get((maker, site))) for site in testers}}
            for maker in makers
        ]
        console.print(f"{rows[0]['measure']} of {label} on the test patients of", highlight=False)
        show_table(table, ("trained alone at", *testers), "", console)


def _value(found: Mapping[str, float] | None) -> str:
    return "" if found is None else f"{found['value']:.3f}"


_MODELS = {"alone": "alone", "together": "with the others", "personal": "of its own model"}


def _estimate(found: Mapping[str, float] | None) -> str:
    return "" if found is None else f"{found['value']:.3f} ({found['low']:.3f} to {found['high']:.3f})"


def _gain(alone: Mapping[str, float] | None, together: Mapping[str, float] | None) -> str:
    return f"{together['value'] - alone['value']:+.3f}" if alone is not None and together is not None else ""


def _taken(parts: Sequence[Mapping[str, Any]]) -> str:
    """Who took part in a round, and who was left out of it and why."""
    taken = [part["site"] for part in parts if part["status"] == "accepted"]
    refused = [f"without {part['site']}: {part['reason']}" for part in parts if part["status"] == "refused"]
    return "; ".join([", ".join(taken), *refused])


def show_table(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[str], none: str, console: Console | None = None
) -> None:
    """Rows as a table; where there are none, that in words."""
    console = console or Console()
    if not rows:
        console.print(f"({none})", highlight=False)
        return
    table = Table(*columns)
    for row in rows:
        table.add_row(*(Text(_cell(row[column]), overflow="fold") for column in columns))
    console.print(table)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    return "" if value is None else str(value)
