"""`fedward site receive`: images from the hospital's own archive into the site's data folder."""

import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from fedward_client.cli_common import AsJson, Folder, State
from fedward_client.site import Site
from fedward_common.errors import PacsError, UsageError
from fedward_common.events import Event, Listener
from fedward_common.logs import process_to, to_terminal

if TYPE_CHECKING:
    from fedward_client.receiver.inbox import Tally
    from fedward_client.receiver.query import Wanted

LOOK_S = 0.5  # between two looks at what a listener took

_DAY = ["%Y-%m-%d"]


def receive(  # noqa: PLR0917 - typer reads options from parameters
    folder: Folder,
    modality: Annotated[str | None, typer.Option(help="Only series of this modality, MR for example.")] = None,
    since: Annotated[
        datetime | None, typer.Option("--from", formats=_DAY, help="Only studies from this day on.")
    ] = None,
    until: Annotated[datetime | None, typer.Option("--to", formats=_DAY, help="Only studies up to this day.")] = None,
    description_contains: Annotated[
        str | None, typer.Option(help="Only series with this text in their own or their study's description.")
    ] = None,
    study_file: Annotated[Path | None, typer.Option(help="Only the modality of this study's \\[cohort].")] = None,
    patients: Annotated[
        Path | None, typer.Option(help="Only the patients of this file, one Patient ID a line.")
    ] = None,
    labelled: Annotated[bool, typer.Option("--labelled", help="Only the patients of the label table.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Ask and count; fetch nothing.")] = False,
    listen: Annotated[
        bool, typer.Option("--listen/--once", help="Take what is sent until Ctrl-C / ask the archive once.")
    ] = False,
    state: State = None,
    as_json: AsJson = False,
) -> None:
    r"""Fetch studies from the archive that site.toml names under \[pacs], or take what is sent here.

    Run again, it fetches only what is not here yet.

    Example: fedward site receive /srv/hospital --modality US --from 2019-01-01 --dry-run
    """
    from fedward_client.receiver.query import Wanted
    from fedward_client.receiver.session import hushed

    site = Site.open(folder, state=state)
    wanted = Wanted(
        modality=_modality(modality, study_file),
        since=since.date() if since is not None else None,
        until=until.date() if until is not None else None,
        description=description_contains,
        patients=_patients(site, patients, labelled=labelled),
    )
    if listen and (dry_run or wanted != Wanted()):
        raise UsageError("--listen takes whatever the allowed AE titles send; leave the other options out")
    with _stoppable(), hushed():
        if listen:
            _listen(site, as_json=as_json)
        elif dry_run:
            _survey(site, wanted, as_json=as_json)
        else:
            _fetch(site, wanted, as_json=as_json)


@contextmanager
def _stoppable() -> Iterator[None]:
    """Inside, the signal that stops a service does what Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _modality(modality: str | None, study_file: Path | None) -> str | None:
    if study_file is None:
        return modality
    from fedward_common.study import load

    asked = load(study_file).cohort.modality
    if modality is not None and asked not in (None, modality):
        raise UsageError(f"--modality {modality} and the study's {asked} differ; leave one out")
    return asked or modality


def _patients(site: Site, file: Path | None, *, labelled: bool) -> tuple[str, ...] | None:
    if labelled:
        from fedward_client.intake.labels import patient_ids

        if file is not None:
            raise UsageError("--patients and --labelled both say which patients; leave one out")
        return patient_ids(site)
    if file is None:
        return None
    try:
        lines = [line.strip() for line in file.read_text("utf-8-sig").splitlines()]
    except OSError as error:
        raise UsageError(f"the file of --patients cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError("the file of --patients is not UTF-8 text; save it as UTF-8") from None
    for number, line in enumerate(lines, 1):
        if len(line) > 64 or "\\" in line or not line.isprintable():  # PS3.5 6.2, VR LO
            raise UsageError(f"line {number} of the file of --patients is no Patient ID; give one id a line")
    if not any(lines):
        raise UsageError("the file of --patients is empty; give one Patient ID a line")
    return tuple(dict.fromkeys(line for line in lines if line))


def _survey(site: Site, wanted: "Wanted", *, as_json: bool) -> None:
    from fedward_client.receiver.fetching import survey
    from fedward_client.receiver.session import peer_of

    with peer_of(site) as peer, _progress("Asking") as listener:
        found = survey(site, peer, wanted, listener)
    if as_json:
        print(json.dumps({"site": site.name, **asdict(found)}))
        return
    print(f"The archive has {found.studies} such studies with {found.series} series and {found.instances} objects.")
    for name, counts in (("Series by modality", found.modalities), ("Studies by year", found.years)):
        shown = ", ".join(f"{kind or '(not said)'} {count}" for kind, count in counts.items())
        print(f"{name}: {shown or 'none'}")


def _fetch(site: Site, wanted: "Wanted", *, as_json: bool) -> None:
    from fedward_client.receiver.fetching import fetch
    from fedward_client.receiver.inbox import Inbox
    from fedward_client.receiver.session import peer_of

    started = time.perf_counter()
    with Inbox.open(site) as inbox, peer_of(site) as peer:
        try:
            with _progress("Receiving") as listener:
                found = fetch(inbox, peer, wanted, listener)
        except BaseException:
            _say(inbox.tally)
            raise
    if as_json:
        print(json.dumps({"site": site.name, **asdict(found), **_figures(inbox.tally, started)}))
    else:
        print(f"The archive has {found.studies} such studies with {found.series} series.")
        _say(inbox.tally)
    if found.incomplete:
        raise PacsError(
            f"{found.incomplete} series are not whole: the archive did not send every object, or one was refused here; "
            "run this again, and ask the archive's administrator where that does not help"
        )


def _listen(site: Site, *, as_json: bool) -> None:
    from fedward_client.receiver.inbox import Inbox
    from fedward_client.receiver.listener import listening

    process_to(to_terminal(site.log_format, [site.folder, site.data]))  # what is refused
    started = time.perf_counter()
    with Inbox.open(site) as inbox, listening(inbox):
        where = f"{site.pacs.listen_host} port {site.pacs.listen_port}"
        typer.echo(f"Listening as {site.pacs.own_ae_title} at {where}; Ctrl-C ends it.", err=True)
        try:
            while True:
                time.sleep(LOOK_S)
        except KeyboardInterrupt:
            typer.echo("Ending.", err=True)
    if as_json:
        print(json.dumps({"site": site.name, **_figures(inbox.tally, started)}))
    else:
        _say(inbox.tally)


def _figures(tally: "Tally", started: float) -> dict[str, Any]:
    return {
        "objects": tally.new,
        "again": tally.again,
        "bytes": tally.size,
        "refused": dict(sorted(tally.refused.items())),
        "seconds": round(time.perf_counter() - started, 3),
    }


def _say(tally: "Tally") -> None:
    refused = "".join(f" {count} refused: {reason}." for reason, count in sorted(tally.refused.items()))
    typer.echo(
        f"Received {tally.new} new objects, {tally.again} that were here, {tally.size / 2**20:.1f} MiB.{refused}",
        err=True,
    )


@contextmanager
def _progress(what: str) -> Iterator[Listener]:
    """A bar of studies on stderr; each new reason to wait is a line of its own, so that a service's log has it too."""
    console = Console(stderr=True)
    bar = Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), console=console, transient=True)
    notes = [""]
    with bar:
        task = bar.add_task(f"{what}, studies", total=None)

        def listen(event: Event) -> None:
            if event.stage == "receive":
                bar.update(task, completed=event.done, total=event.total)
            elif event.note != notes[-1]:
                notes.append(event.note)
                console.print(event.note, highlight=False, markup=False)

        yield listen
