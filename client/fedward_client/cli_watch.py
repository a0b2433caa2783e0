"""`fedward site status | watch | receipts | log`: what a site does, and what has left it."""

import json
import sys
import time
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from fedward_client.cli_common import LOOK_S, AsJson, Folder, State, control_of, member_of
from fedward_client.site import Site
from fedward_common.cli_tables import show_pairs
from fedward_common.errors import SettingsError
from fedward_common.joining import SHOWN_AHEAD

LOG_LINES = 40


def status(folder: Folder, state: State = None, as_json: AsJson = False) -> None:
    """Say what this site is doing: its link, its approvals, what waits for one, what is under way.

    Example: fedward site status /srv/hospital
    """
    from fedward_client import daemon
    from fedward_client.stubs.site_pb2 import Nothing

    site = Site.open(folder, state=state)
    with control_of(site) as control:
        found: dict[str, Any] = (
            {**member_of(site).status(), "now": [], "pid": None, "told": None}
            if control is None
            else json.loads(control.Status(Nothing()).json)
        )
    found["up"] = found["pid"] is not None
    found["starting"] = control is None and daemon.is_up(site)
    found["link"] = _link(site)
    if as_json:
        print(json.dumps(found, indent=1))
        return
    _show_status(found)


def _link(site: Site) -> dict[str, Any]:
    from fedward_client.credentials import Credentials
    from fedward_client.member import HUB_CARD, LINK_STATUS, read_json
    from fedward_common.cards import HubCard

    link = read_json(site.link / LINK_STATUS) or {"state": "never connected", "reason": "", "since": ""}
    if (site.link / HUB_CARD).exists():
        card = HubCard.read(site.link / HUB_CARD)
        link |= {"hub": card.hub, "address": card.address}
        own = Credentials(site.link).certificate()
        link["certificate_ends"] = None if own is None else own.not_valid_after_utc.isoformat()
    return link


def _show_status(found: dict[str, Any]) -> None:
    link = found["link"]
    rows = [
        ("Site", f"{found['site']}, {_how(up=found['up'], starting=found['starting'])}"),
        ("Hub", f"{link.get('hub', 'none')} at {link.get('address', '-')}: {link['state']}"),
        ("", link["reason"]),
        ("Certificate", _ends_soon(link.get("certificate_ends"))),
        ("Paused", f"since {found['paused']}; `fedward site resume` goes on" if found["paused"] else "no"),
        ("May leave", ", ".join(found["outputs"]) or "nothing: the policy is empty"),
        *(("Now", f"{e['stage']} {e['done']}/{e['total']} {e['note']}") for e in found["now"]),
        *(("Approved", f"{a['study']} (digest {a['digest'][:12]}…) until {a['until']}") for a in found["approved"]),
        *(
            ("Waits", f"{w['study']} (digest {w['digest'][:12]}…), asked {w['asked'][:16]}: read and approve it")
            for w in found["waiting"]
        ),
        *(
            (d["state"].capitalize(), f"{d['study']} (digest {d['digest'][:12]}…), {d['since'][:16]}  {d['reason']}")
            for d in found["declined"]
        ),
        *(("Hub says", f"{q['run']}: {q['reason']}") for q in found["quarantined"]),
    ]
    show_pairs((heading, text) for heading, text in rows if text)


def _how(*, up: bool, starting: bool) -> str:
    if starting:
        return "its data side is starting, or cannot: `fedward site log` says which"
    return "up" if up else "down: start it with `fedward site up`"


def _ends_soon(end: str | None) -> str:
    """Of a certificate that is near its end, which the network side renews before; else nothing."""
    if end is None or datetime.fromisoformat(end) > datetime.now(UTC) + SHOWN_AHEAD:
        return ""
    return f"ends on {end[:10]}: keep this site up, which renews it; `fedward site log` says what stands in its way"


def watch(folder: Folder, state: State = None, as_json: AsJson = False) -> None:
    """Follow what this site is doing, live, until Ctrl-C.

    Example: fedward site watch /srv/hospital
    """
    import grpc

    from fedward_client.stubs.site_pb2 import Nothing

    site = Site.open(folder, state=state)
    with control_of(site) as control:
        if control is None:
            raise SettingsError(f"no daemon serves site '{site.name}': start it with `fedward site up`")
        try:
            _follow(control.Watch(Nothing()), as_json=as_json)
        except grpc.RpcError:
            print("The daemon has ended.", file=sys.stderr)


def _follow(events: Any, *, as_json: bool) -> None:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    if as_json:
        for event in events:
            print(
                json.dumps({"stage": event.stage, "done": event.done, "total": event.total, "note": event.note}),
                flush=True,
            )
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.fields[note]}", markup=False)) as progress:
        tasks: dict[str, Any] = {}
        for event in events:
            if event.stage not in tasks:
                tasks[event.stage] = progress.add_task(f"{event.stage:<9}", total=event.total, note="")
            progress.update(tasks[event.stage], completed=event.done, total=event.total, note=event.note)


def receipts(
    folder: Folder,
    run: Annotated[str | None, typer.Option(help="Of one run only.")] = None,
    state: State = None,
    as_json: AsJson = False,
) -> None:
    """List what has left this site: one signed receipt a message. `fedward audit verify` checks the signatures.

    Example: fedward site receipts /srv/hospital
    """
    from fedward_client.member import AUDIT
    from fedward_client.outbox import RECEIPT
    from fedward_common import audit

    site = Site.open(folder, state=state)
    if not (site.state / AUDIT).exists():
        raise SettingsError(f"site '{site.name}' has no log yet: let it join a hub first, with `fedward site join`")
    found = [e for e in audit.entries(site.state / AUDIT, event=RECEIPT) if run in {None, e.data["run"]}]
    if as_json:
        print(json.dumps([{"n": e.n, "time": e.time, **e.data, "signature": e.signature} for e in found], indent=1))
        return
    table = Table("entry", "time (UTC)", "run", "what", "round", "arrays", "bytes", "norm", "masked")
    for entry in found:
        data = entry.data
        table.add_row(
            str(entry.n),
            entry.time[:19],
            data["run"],
            data["kind"],
            str(data["round"] or ""),
            str(data["array_count"] or ""),
            f"{data['answer_bytes'] + data['array_bytes']:,}",
            f"{data['update_norm']:.4g}" if "update_norm" in data else "",
            "yes" if data["masked"] else "no",
        )
    Console().print(table)


def log(
    folder: Folder,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option(min=1, help="How many lines of each side.")] = LOG_LINES,
    state: State = None,
) -> None:
    """Show the last lines of the logs of the daemon and its two sides. They hold no patient's identifier.

    Example: fedward site log /srv/hospital --follow
    """
    site = Site.open(folder, state=state)
    files = {
        "daemon": site.state / "daemon.log",
        "data side": site.state / "executor.log",
        "network side": site.link / "supernode.log",
    }
    there = {name: path for name, path in files.items() if path.exists()}
    if not there:
        raise SettingsError(f"site '{site.name}' has no log yet: start it with `fedward site up`")
    places = {}
    for name, path in there.items():
        text = path.read_text("utf-8", "replace")
        for line in text.splitlines()[-lines:]:
            print(f"{name:<12} {line}")
        places[path] = len(text.encode())
    while follow:
        time.sleep(LOOK_S)
        for name, path in there.items():
            with path.open("rb") as file:
                places[path] = min(places[path], path.stat().st_size)  # rotated
                file.seek(places[path])
                data = file.read()
            places[path] += len(data)
            for line in data.decode("utf-8", "replace").splitlines():
                print(f"{name:<12} {line}", flush=True)
