"""`fedward site …` once a hospital is a member of a federation: join, approve, run, watch, and see what has left."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedward_client.site import Site
from fedward_common.errors import SettingsError, StudyError, UsageError

if TYPE_CHECKING:
    from fedward_client.member import Member
    from fedward_client.stubs.site_pb2_grpc import ControlStub
    from fedward_common.study import StudySpec

LONGEST_APPROVAL = timedelta(days=366)
START_LIMIT_S, LOOK_S = 120.0, 0.2
LOG_LINES = 40

Folder = Annotated[Path, typer.Argument(help="The hospital's folder.")]
State = Annotated[Path | None, typer.Option(help="Where Fedward keeps its state.", show_default="FOLDER/.fedward")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Unsafe = Annotated[bool, typer.Option("--unsafe-no-walls", hidden=True)]
Supervised = Annotated[bool, typer.Option("--supervised", hidden=True)]


def init(  # noqa: PLR0917 - typer reads options from parameters
    folder: Folder,
    hub: Annotated[Path | None, typer.Option(help="The hub's card, hub.json, as its operator gave it.")] = None,
    name: Annotated[str | None, typer.Option(help="The site's name at the hub; else made from the folder's.")] = None,
    card: Annotated[
        Path | None, typer.Option(help="Where to write this site's card.", show_default="./NAME.json")
    ] = None,
    new_node_key: Annotated[
        bool, typer.Option("--new-node-key", help="For a hub that forgot this site: it takes no node's key twice.")
    ] = False,
    state: State = None,
    as_json: AsJson = False,
) -> None:
    """Make this folder a site: keys that never leave it, and a card for the hub's operator. What is there is kept.

    Example: fedward site init /srv/hospital --hub hub.json
    """
    from fedward_client.member import HUB_CARD, join
    from fedward_common.cards import HubCard
    from fedward_common.pki import grouped

    site, own = join(folder, hub, name=name, state=state, new_node_key=new_node_key)
    path = card or Path(f"{site.name}.json")
    own.write(path)
    known = HubCard.read(site.link / HUB_CARD) if (site.link / HUB_CARD).exists() else None
    if as_json:
        hub_name = known.hub if known is not None else None
        print(json.dumps({"site": site.name, "fingerprint": own.fingerprint, "card": str(path), "hub": hub_name}))
        return
    print(f"Site {site.name}. Its card, for the hub's operator: {path}")
    print(f"Fingerprint, to be compared by telephone:       {grouped(own.fingerprint)}")
    if not site.outputs:
        print("Its policy is empty: nothing leaves until site.toml says, under [policy],")
        print('outputs = ["counts", "update", "evaluation"]')
    if known is None:
        print("No hub yet: run this again with --hub and the hub's card.")
    else:
        print(f"Hub {known.hub} at {known.address}. Its fingerprint:  {grouped(known.fingerprint)}")


def up(
    folder: Folder,
    detach: Annotated[bool, typer.Option("--detach", help="Return when the site is ready; it goes on.")] = False,
    unsafe_no_walls: Unsafe = False,
    state: State = None,
) -> None:
    """Run this site: the data side and the network side, each behind its walls, until Ctrl-C or `fedward site down`.

    Example: fedward site up /srv/hospital --detach
    """
    from fedward_client import daemon

    site = Site.open(folder, state=state)
    if detach:
        _detach(site, unsafe=unsafe_no_walls)
        return
    keeper = daemon.Daemon(site, unsafe=unsafe_no_walls)
    keeper.require()
    daemon.log_to(site.ensure_state() / "daemon.log")
    shown = Console(stderr=True)
    if unsafe_no_walls:
        shown.print("NOT ISOLATED: the two sides of this site can see each other's files and networks.", style="bold")
    shown.print(f"Site {site.name} is starting. `fedward site status` says how it is, Ctrl-C ends it.", highlight=False)
    keeper()


def _detach(site: Site, *, unsafe: bool) -> None:
    from fedward_client import daemon

    if (found := daemon.pid(site)) is not None:
        raise SettingsError(f"another daemon (process {found}) serves site '{site.name}': it is up already")
    command = [sys.executable, "-m", "fedward_common", "site", "up", str(site.folder), "--state", str(site.state)]
    with (site.ensure_state() / "daemon.out").open("wb") as output:
        process = subprocess.Popen(
            [*command, *(["--unsafe-no-walls"] if unsafe else [])],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    started = time.monotonic()
    while not _healthy(site):
        if process.poll() is not None:
            said = (site.state / "daemon.out").read_text("utf-8", "replace").strip().splitlines()
            raise SettingsError(said[-1].removeprefix("fedward: ") if said else "the daemon ended at its start")
        if time.monotonic() - started > START_LIMIT_S:
            raise SettingsError(
                f"site '{site.name}' was not ready within {START_LIMIT_S:g} s; `fedward site log` says why"
            )
        time.sleep(LOOK_S)
    print(f"Site {site.name} is up (process {process.pid}).")


def _healthy(site: Site) -> bool:
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    from fedward_client.member import CONTROL_SOCKET
    from fedward_client.sockets import channel

    try:
        with closing(channel(site.state / CONTROL_SOCKET)) as connection:
            stub: Any = health_pb2_grpc.HealthStub(connection)
            found = stub.Check(health_pb2.HealthCheckRequest(), timeout=2.0)
    except (SettingsError, grpc.RpcError):
        return False
    return bool(found.status == health_pb2.HealthCheckResponse.SERVING)


def down(folder: Folder, state: State = None) -> None:
    """End this site's daemon, and wait until it has ended.

    Example: fedward site down /srv/hospital
    """
    from fedward_client import daemon

    site = Site.open(folder, state=state)
    found = daemon.pid(site)
    if found is None:
        raise SettingsError(f"no daemon serves site '{site.name}'")
    os.kill(found, signal.SIGTERM)
    started = time.monotonic()
    while daemon.pid(site) is not None:
        if time.monotonic() - started > START_LIMIT_S:
            raise SettingsError(f"the daemon (process {found}) did not end within {START_LIMIT_S:g} s")
        time.sleep(LOOK_S)
    print(f"Site {site.name} is down.")


def executor(
    folder: Folder, state: State = None, supervised: Supervised = False, unsafe_no_walls: Unsafe = False
) -> None:
    """Run the data side alone, as a systemd unit does; `fedward site up` runs both.

    Example: fedward site executor /srv/hospital
    """
    from fedward_client import daemon
    from fedward_client.executor import serve

    daemon.end_with_parent(supervised)
    site = Site.open(folder, state=state)
    daemon.log_to(site.ensure_state() / "executor.log")
    with daemon.told():
        daemon.require_walls(daemon.executor_walls(site), unsafe=unsafe_no_walls)
        serve(site)


def supernode(
    link: Annotated[Path, typer.Argument(help="The link folder in the site's state folder.")],
    supervised: Supervised = False,
    unsafe_no_walls: Unsafe = False,
) -> None:
    """Run the network side alone, as a systemd unit does; `fedward site up` runs both.

    Example: fedward site supernode /srv/hospital/.fedward/link
    """
    from fedward_client import daemon
    from fedward_client.member import LinkSettings
    from fedward_client.supernode import serve

    daemon.end_with_parent(supervised)
    settings = LinkSettings.read(link)
    daemon.log_to(link / "supernode.log")
    with daemon.told():
        daemon.require_walls(daemon.supernode_walls(link, settings.spool, settings.hidden), unsafe=unsafe_no_walls)
        serve(link)


# What a steward decides -----------------------------------------------------------------------------------------------


@contextmanager
def _control(site: Site) -> Iterator["ControlStub | None"]:
    """The daemon's control socket, None where no daemon is up and the folder can be used directly."""
    from fedward_client.member import CONTROL_SOCKET
    from fedward_client.sockets import channel, is_served
    from fedward_client.stubs.site_pb2_grpc import ControlStub

    if not (site.state / CONTROL_SOCKET).exists() or not is_served(site.state / CONTROL_SOCKET):
        yield None
        return
    with closing(channel(site.state / CONTROL_SOCKET)) as connection:
        yield ControlStub(connection)


def _member(site: Site) -> "Member":
    from fedward_client.member import Member

    return Member.open(site)


def approve(
    folder: Folder,
    study: Annotated[str, typer.Argument(help="A study that a hub asked for, by id or digest; or its resolved file.")],
    until: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="The last day. [default: the study's last, or 180 days]"),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    state: State = None,
) -> None:
    """Read a study that a hub wants to run here, and let exactly that one, up to a day.

    Example: fedward site approve /srv/hospital breast-ultrasound --until 2027-06-30
    """
    from fedward_client.steward import approve as approve_directly
    from fedward_common.study_text import describe

    site = Site.open(folder, state=state)
    member = _member(site)
    spec = _wanted(member, study)
    last = until.date() if until is not None else _default_end(spec)
    _check_end(last, spec)
    for heading, text in describe(spec):
        print(f"{heading}: {text}")
    print(f"Digest: {spec.digest}")
    if not yes and not typer.confirm(f"Let {site.name} take part until {last}?"):
        raise typer.Exit(1)
    with _control(site) as control:
        if control is None:
            approve_directly(member, spec, last)
        else:
            from fedward_client.stubs.site_pb2 import Approval

            done = control.Approve(Approval(study=spec.canonical_json().decode(), until=last.isoformat()))
            if done.error:
                raise SettingsError(done.error)
    print(f"Approved: {spec.study.id} (digest {spec.digest[:12]}…) until {last}.")


def _wanted(member: "Member", text: str) -> "StudySpec":
    """The study meant: one that a hub asked for, or a file that holds one as a hub resolved it."""
    from fedward_common.study import StudySpec

    asked = member.ledger.studies()
    found = [each for each in asked if text in {each.study_id, each.digest}] or [
        each for each in asked if len(text) >= 8 and each.digest.startswith(text)
    ]
    if len({each.digest for each in found}) > 1:
        digests = ", ".join(f"{each.digest[:12]}… (asked {each.asked[:16]})" for each in found)
        raise UsageError(f"a hub asked for several versions of {text}: name one by its digest: {digests}")
    if found:
        return StudySpec.from_json(found[0].study)
    path = Path(text)
    if path.suffix != ".json" or not path.is_file():
        names = ", ".join(sorted({each.study_id for each in asked})) or "none yet"
        raise UsageError(
            f"no hub has asked for a study '{text}' (asked for: {names}), and it is no resolved study's file"
        )
    try:
        return StudySpec.from_json(path.read_bytes())
    except ValueError:
        raise StudyError(
            f"{path.name} is no study as a hub resolves it: ask the investigator for its study.json"
        ) from None


def _default_end(spec: "StudySpec") -> date:
    today = datetime.now(UTC).date()
    return min(spec.study.ends or today + timedelta(days=180), today + LONGEST_APPROVAL)


def _check_end(last: date, spec: "StudySpec") -> None:
    today = datetime.now(UTC).date()
    if last < today:
        raise UsageError(f"--until {last} is over: give a day from today on")
    if last > today + LONGEST_APPROVAL:
        raise UsageError(f"--until {last} is more than a year away: approve for at most a year, then renew")
    if spec.ended(today):
        raise UsageError(f"the study's last day was {spec.study.ends}: there is nothing to approve")


def withdraw(
    folder: Folder,
    study: Annotated[str, typer.Argument(help="An approved study, by id or digest.")],
    state: State = None,
) -> None:
    """Take an approval back: from now on nothing leaves for that study.

    Example: fedward site withdraw /srv/hospital breast-ultrasound
    """
    from fedward_client.steward import withdraw as withdraw_directly
    from fedward_client.stubs.site_pb2 import Withdrawal

    site = Site.open(folder, state=state)
    member = _member(site)
    digests = [a.digest for a in member.ledger.approvals() if study in {a.study_id, a.digest}]
    if not digests:
        raise UsageError(f"no study '{study}' is approved; `fedward site status` lists those that are")
    with _control(site) as control:
        for digest in digests:
            if control is None:
                withdraw_directly(member, digest)
            elif error := control.Withdraw(Withdrawal(digest=digest)).error:
                raise SettingsError(error)
    print(f"Withdrawn: {study}.")


def pause(
    folder: Folder,
    reason: Annotated[str, typer.Option(help="Why, for the log.")] = "",
    state: State = None,
) -> None:
    """Let nothing leave until `fedward site resume`, over restarts too. What is being computed stays here.

    Example: fedward site pause /srv/hospital --reason "the GPU is needed"
    """
    from fedward_client.steward import pause as pause_directly
    from fedward_client.stubs.site_pb2 import PauseRequest

    site = Site.open(folder, state=state)
    with _control(site) as control:
        if control is None:
            pause_directly(_member(site), reason)
        elif error := control.Pause(PauseRequest(reason=reason)).error:
            raise SettingsError(error)
    print(f"Site {site.name} is paused.")


def resume(folder: Folder, state: State = None) -> None:
    """Let things leave again, as the policy and the approvals say.

    Example: fedward site resume /srv/hospital
    """
    from fedward_client.steward import resume as resume_directly
    from fedward_client.stubs.site_pb2 import Nothing

    site = Site.open(folder, state=state)
    with _control(site) as control:
        if control is None:
            resume_directly(_member(site))
        elif error := control.Resume(Nothing()).error:
            raise SettingsError(error)
    print(f"Site {site.name} goes on.")


# What a steward sees --------------------------------------------------------------------------------------------------


def status(folder: Folder, state: State = None, as_json: AsJson = False) -> None:
    """Say what this site is doing: its link, its approvals, what waits for one, what is under way.

    Example: fedward site status /srv/hospital
    """
    from fedward_client.stubs.site_pb2 import Nothing

    site = Site.open(folder, state=state)
    with _control(site) as control:
        found: dict[str, Any] = (
            {**_member(site).status(), "now": [], "pid": None}
            if control is None
            else json.loads(control.Status(Nothing()).json)
        )
    found["up"] = found["pid"] is not None
    found["link"] = _link(site)
    if as_json:
        print(json.dumps(found, indent=1))
        return
    _show_status(found)


def _link(site: Site) -> dict[str, Any]:
    from fedward_client.member import HUB_CARD, LINK_STATUS, read_json
    from fedward_common.cards import HubCard

    link = read_json(site.link / LINK_STATUS) or {"state": "never connected", "reason": "", "since": ""}
    if (site.link / HUB_CARD).exists():
        card = HubCard.read(site.link / HUB_CARD)
        link |= {"hub": card.hub, "address": card.address}
    return link


def _show_status(found: dict[str, Any]) -> None:
    link = found["link"]
    rows = [
        ("Site", f"{found['site']}, {'up' if found['up'] else 'down: start it with `fedward site up`'}"),
        ("Hub", f"{link.get('hub', 'none')} at {link.get('address', '-')}: {link['state']}"),
        ("", link["reason"]),
        ("Paused", f"since {found['paused']}; `fedward site resume` goes on" if found["paused"] else "no"),
        ("May leave", ", ".join(found["outputs"]) or "nothing: the policy is empty"),
        *(("Now", f"{e['stage']} {e['done']}/{e['total']} {e['note']}") for e in found["now"]),
        *(("Approved", f"{a['study']} (digest {a['digest'][:12]}…) until {a['until']}") for a in found["approved"]),
        *(
            ("Waits", f"{w['study']} (digest {w['digest'][:12]}…), asked {w['asked'][:16]}: read and approve it")
            for w in found["waiting"]
        ),
        *(("Refused", f"{q['run']}: {q['reason']}") for q in found["quarantined"]),
    ]
    grid = Table.grid(padding=(0, 2))
    for heading, text in rows:
        if text:
            grid.add_row(Text(heading, style="bold"), Text(text, overflow="fold"))
    Console().print(grid)


def watch(folder: Folder, state: State = None, as_json: AsJson = False) -> None:
    """Follow what this site is doing, live, until Ctrl-C.

    Example: fedward site watch /srv/hospital
    """
    import grpc

    from fedward_client.stubs.site_pb2 import Nothing

    site = Site.open(folder, state=state)
    with _control(site) as control:
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
        raise SettingsError(f"site '{site.name}' has no log yet: run `fedward site init` on its folder first")
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


COMMANDS = (init, up, down, approve, withdraw, pause, resume, status, watch, receipts, log, executor, supernode)
