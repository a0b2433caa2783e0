"""`fedward demo` and `fedward simulate`. Everything heavy is imported when a command runs, not when it is listed."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console

Workers = Annotated[
    int | None, typer.Option(min=1, help="Hospitals that train at a time, one core each; all cores if not given.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on where an interrupted run in --out stopped.")]
Json = Annotated[bool, typer.Option("--json", help="Print results.json to stdout when done.")]


class EngineName(StrEnum):
    """The engines of `fedward simulate`."""

    EMBEDDED = "embedded"
    RAY = "ray"


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0))


def demo(
    out: Annotated[Path, typer.Option(help="Where everything goes; an earlier demo there is replaced.")] = Path(
        "demo-output"
    ),
    seeds: Annotated[int, typer.Option(min=1, max=20, help="How many seeds; three tell luck from gain.")] = 1,
    workers: Workers = None,
    resume: Resume = False,
    as_json: Json = False,
) -> None:
    """Three phantom hospitals train one breast-ultrasound model together; ends with a table and a report.

    Example: fedward demo --out demo-output --seeds 3
    """
    from fedward_simulations.demo import demo as run_demo
    from fedward_simulations.progress import Bars
    from fedward_simulations.report import print_table

    console = Console(stderr=True)
    with _interruptible(console), Bars(console) as bars:
        results = run_demo(out, seeds=seeds, workers=workers or cores(), resume=resume, bars=bars)
    print_table(results, console)
    _finish(out, console, as_json=as_json)


def simulate(  # noqa: PLR0917 - typer reads options from parameters
    study: Annotated[str, typer.Argument(help="A study's TOML file, or the name of a template.")],
    data: Annotated[
        Path, typer.Option(help="A folder of hospitals: one folder each, with DICOM files and a labels.csv.")
    ],
    out: Annotated[Path, typer.Option(help="Where results.json, report.html and the model go.")],
    seed: Annotated[int | None, typer.Option(min=0, help="Instead of the study's own seed.")] = None,
    seeds: Annotated[int, typer.Option(min=1, max=20, help="How many seeds, counted up from the first.")] = 1,
    engine: Annotated[EngineName, typer.Option(help="embedded: this machine; ray: Flower's simulation runtime.")] = (
        EngineName.EMBEDDED
    ),
    pooled: Annotated[bool, typer.Option(help="Also train on pooled data, for comparison.")] = True,
    workers: Workers = None,
    hub: Annotated[
        Path | None, typer.Option(help="A hub's folder, where a study begins with a model that is registered there.")
    ] = None,
    resume: Resume = False,
    as_json: Json = False,
) -> None:
    """Run a study on one machine: each folder of --data is a hospital. Local-only models are always trained beside.

    Example: fedward simulate breast-ultrasound --data hospitals --out result --seed 7
    """
    from fedward_client.site import site_folders
    from fedward_common.errors import UsageError
    from fedward_common.study import find, load
    from fedward_server.hub import Hub
    from fedward_server.models import Registry, resolve_start

    path = find(study)
    spec, weights, told = resolve_start(
        load(path), base=path.parent, registry=None if hub is None else Registry(Hub.open(hub))
    )
    if out.resolve().is_relative_to(data.resolve()):
        raise UsageError(f"{out} is in {data}, where it would count as a hospital next time: choose another --out")
    folders = site_folders(data)

    from fedward_simulations.compare import open_hospitals  # these take seconds, and what is wrong is said at once
    from fedward_simulations.progress import Bars
    from fedward_simulations.report import print_table
    from fedward_simulations.simulate import Simulation

    first = spec.training.seed if seed is None else seed
    console = Console(stderr=True)
    if told:
        console.print(told, highlight=False, markup=False, soft_wrap=True)
    simulation = Simulation(
        study=spec,
        folders=open_hospitals(data, folders),
        out=out,
        seeds=range(first, first + seeds),
        engine=engine.value,
        pooled=pooled,
        workers=workers or cores(),
        resume=resume,
        weights=weights,
        data_notes=(f"{told} If they were trained on patients of these hospitals, some may be tested here.",)
        if told
        else (),
    )
    with _interruptible(console), Bars(console) as bars:
        results = simulation(bars)
    print_table(results, console)
    _finish(out, console, as_json=as_json)


@contextmanager
def _interruptible(console: Console) -> Iterator[None]:
    """Let a polite kill or a closed terminal end the command as Ctrl-C does, and say how to go on."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        yield
    except KeyboardInterrupt:
        console.print("Interrupted. The same command with --resume goes on after the last finished round.")
        raise


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _finish(out: Path, console: Console, *, as_json: bool) -> None:
    console.print(f"Report: {out / 'report.html'}", highlight=False, soft_wrap=True)
    if as_json:
        sys.stdout.write((out / "results.json").read_text(encoding="utf-8"))
