"""`fedward study stats | start | pause | resume | stop | status`: studies on real hospitals, by way of a hub."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

if TYPE_CHECKING:
    from fedward_server.hub import Hub
    from fedward_server.journal import Tail
    from fedward_server.store import RunRow
    from fedward_server.surveys import SurveyResult

HubFolder = Annotated[Path, typer.Option("--hub", help="The hub's folder.")]
HubPlace = Annotated[
    str,
    typer.Option("--hub", help="The hub's folder, or the address of its pages (https://…), after `fedward hub login`."),
]
Run = Annotated[str, typer.Argument(metavar="RUN", help="The run's id; `fedward study status` lists them.")]
Wait = Annotated[
    float,
    typer.Option(min=0, help="Seconds to wait for sites that are not connected or whose steward has not approved."),
]
Detach = Annotated[bool, typer.Option("--detach", help="Return when the run is started; it goes on by itself.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

WAIT_S = 3600.0  # as in `runs`, which takes a second to import


def start(  # noqa: PLR0917 - typer reads options from parameters
    study: Annotated[str, typer.Argument(help="A study's TOML file, or the name of a template.")],
    hub: HubPlace,
    site: Annotated[
        list[str] | None, typer.Option(help="A site that takes part, once each; if not given, the study's, or all.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Instead of the study's own seed.")] = None,
    wait: Wait = WAIT_S,
    detach: Detach = False,
    as_json: AsJson = False,
) -> None:
    """Run a study on the hospitals that are enrolled at a hub. It goes on when this command is ended.

    Example: fedward study start breast-ultrasound --hub /srv/hub --site north --site valley
    Example: fedward study start my-study.toml --hub https://hub.example:8444
    """
    from fedward_common.study import find, load
    from fedward_server import remote_study, runs
    from fedward_server.hub import Hub

    if (there := remote_study.at(hub)) is not None:
        there.start(find(study), site or (), seed, wait, detach=detach, as_json=as_json)
        return
    opened = Hub.open(Path(hub))
    path = find(study)
    console = Console(stderr=True)
    row = runs.start(
        opened,
        load(path),
        names=site or (),
        seed=seed,
        wait_s=wait,
        base=path.parent,
        say=lambda words: _tell(console, words),
    )
    _go_on(opened, row.run, None, detach=detach, as_json=as_json)


def stats(  # noqa: PLR0917 - typer reads options from parameters
    study: Annotated[str, typer.Argument(help="A study's TOML file, or the name of a template.")],
    hub: HubFolder,
    site: Annotated[list[str] | None, typer.Option(help="As of `fedward study start`.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="As of `fedward study start`.")] = None,
    pixels: Annotated[
        bool, typer.Option("--pixels", help="Also the grey values: each hospital reads all of its images.")
    ] = False,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write the JSON there.")] = None,
    wait: Wait = WAIT_S,
    as_json: AsJson = False,
) -> None:
    """Ask the hospitals what patients they have for a study, before any training: counts, histograms, quantiles.

    Small cells stay at the hospitals, whose policies have to name "statistics". The approval is that of the study.

    Example: fedward study stats breast-ultrasound --hub /srv/hub
    """
    from fedward_common.study import find, load
    from fedward_server import runs
    from fedward_server.hub import Hub
    from fedward_server.surveys import Survey, SurveyResult

    opened, path, console = Hub.open(hub), find(study), Console(stderr=True)
    row = runs.start(
        opened,
        load(path),
        names=site or (),
        seed=seed,
        wait_s=wait,
        base=path.parent,
        survey=Survey(wanted="pixels" if pixels else "catalog"),
        say=lambda words: _tell(console, words),
    )
    _follow(opened, row.run, None, console)
    result = SurveyResult.read(opened.runs / row.run)
    if out is not None:
        result.write(out)
    _show_survey(result, as_json=as_json)


def _show_survey(result: "SurveyResult", *, as_json: bool) -> None:
    from fedward_server.survey_tables import show_statistics

    if as_json:
        print(result.model_dump_json(indent=2))
    else:
        show_statistics(result)


def resume(run: Run, hub: HubPlace, wait: Wait = WAIT_S, detach: Detach = False, as_json: AsJson = False) -> None:
    """Let a run that was paused go on, or one that failed or was stopped, after its last finished round.

    Example: fedward study resume breast-ultrasound-20270101T101500-a1b2c3 --hub /srv/hub
    """
    from fedward_server import remote_study, runs
    from fedward_server.hub import Hub
    from fedward_server.journal import Tail

    if (there := remote_study.at(hub)) is not None:
        there.resume(run, wait, detach=detach, as_json=as_json)
        return
    opened = Hub.open(Path(hub))
    tail = Tail(opened.runs / run)
    tail.skip()
    runs.resume(opened, run, wait_s=wait)
    _go_on(opened, run, tail, detach=detach, as_json=as_json)


def pause(run: Run, hub: HubPlace) -> None:
    """Let a run pause after the round in hand; `fedward study resume` lets it go on.

    Example: fedward study pause breast-ultrasound-20270101T101500-a1b2c3 --hub /srv/hub
    """
    from fedward_server import remote_study, runs
    from fedward_server.hub import Hub

    if (there := remote_study.at(hub)) is not None:
        there.act(run, "pause")
    else:
        runs.pause(Hub.open(Path(hub)), run)
    print(f"{run} pauses after the round in hand.")


def stop(run: Run, hub: HubPlace) -> None:
    """Stop a run; its finished rounds are kept, and it can be resumed.

    Example: fedward study stop breast-ultrasound-20270101T101500-a1b2c3 --hub /srv/hub
    """
    from fedward_server import remote_study, runs
    from fedward_server.hub import Hub

    if (there := remote_study.at(hub)) is not None:
        there.act(run, "stop")
    else:
        runs.stop(Hub.open(Path(hub)), run)
    print(f"{run} is stopped.")


def status(
    hub: HubPlace,
    run: Annotated[str | None, typer.Argument(metavar="RUN", help="A run's id; all runs if not given.")] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Show how the run goes on until it has ended.")] = False,
    as_json: AsJson = False,
) -> None:
    """List a hub's runs, or say how one stands: its sites, its rounds, why it failed.

    Example: fedward study status --hub /srv/hub
    """
    from fedward_common.errors import UsageError
    from fedward_server import remote_study
    from fedward_server.hub import Hub
    from fedward_server.tables import show_run, show_runs
    from fedward_server.watch import report, summary

    if run is None and follow:
        raise UsageError(f"--follow needs a RUN: `fedward study status --hub {hub}` lists them")
    if (there := remote_study.at(hub)) is not None:
        there.status(run, follow=follow, as_json=as_json)
        return
    opened = Hub.open(Path(hub))
    if run is None:
        with opened.store() as store:
            found: Any = [summary(opened, row) for row in store.runs()]
    elif follow:
        _go_on(opened, run, None, detach=False, as_json=as_json)
        return
    else:
        found = report(opened, run)
    if as_json:
        print(json.dumps(found, indent=2))
    elif run is None:
        show_runs(found)
    else:
        show_run(found)


def _go_on(hub: "Hub", run: str, tail: "Tail | None", *, detach: bool, as_json: bool) -> None:
    """Follow a run to its end, unless it is to go on by itself. Raises RunError where it ends otherwise."""
    from fedward_server.result import RunResult
    from fedward_server.surveys import FILE, SurveyResult
    from fedward_server.tables import show_across, show_gains
    from fedward_server.watch import across, gains, summary

    console = Console(stderr=True)
    if detach:
        with hub.store() as store:
            row = store.run(run)
        _tell(console, _how_to_go_on(hub, run))
    else:
        row = _follow(hub, run, tail, console, as_json=as_json)
    found = summary(hub, row)
    if as_json:
        print(json.dumps(found, indent=2))
    elif detach:
        print(run)
    elif (hub.runs / run / FILE).exists():
        _show_survey(SurveyResult.read(hub.runs / run), as_json=False)
    else:
        result = RunResult.read(hub.runs / run)
        show_gains(gains(result), console)
        show_across(across(result), console)
        print(found["figures"])


def _follow(hub: "Hub", run: str, tail: "Tail | None", console: Console, *, as_json: bool = False) -> "RunRow":
    """Show a run until it has ended. Raises RunError, after its JSON, where it ends otherwise than finished."""
    from fedward_common.errors import RunError
    from fedward_server.progress import RunBar
    from fedward_server.watch import follow, summary

    with _interruptible(console, hub, run), RunBar(console, run) as bar:
        row = follow(hub, run, bar, tail)
    if row.status in ("failed", "stopped"):
        if as_json:
            print(json.dumps(summary(hub, row), indent=2))
        raise RunError(f"run {run} {'failed' if row.status == 'failed' else 'was stopped'}: {row.reason}")
    return row


@contextmanager
def _interruptible(console: Console, hub: "Hub", run: str) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        _tell(console, _how_to_go_on(hub, run))
        raise


def _how_to_go_on(hub: "Hub", run: str) -> str:
    return (
        f"The run goes on. Follow it with `fedward study status {run} --hub {hub.folder} --follow`, "
        f"stop it with `fedward study stop {run} --hub {hub.folder}`."
    )


def _tell(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
