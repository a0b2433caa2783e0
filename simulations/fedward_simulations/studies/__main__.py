"""`python -m fedward_simulations.studies`: run the studies on real data, and write the page of their results."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fedward_common.errors import FedwardError, UsageError
from fedward_common.study_faults import near
from fedward_simulations.studies.running import is_done, page, run_all, trials


def main(
    data: Annotated[Path, typer.Option(help="The folder with the public collections, a folder each.")],
    out: Annotated[Path, typer.Option(help="Where runs, reports and models go.")] = Path("studies-output"),
    results: Annotated[Path, typer.Option(help="The page that is written.")] = Path("docs/results.md"),
    only: Annotated[list[str] | None, typer.Option(help="These studies only; may be repeated.")] = None,
) -> None:
    """Run Fedward's studies on real data, three seeds each, and write the page of their results once all have run.

    A study whose results stand in --out is not run again.

    Example: python -m fedward_simulations.studies --data ../data --only heart-disease
    """
    console = Console(stderr=True)
    names = [trial.name for trial in trials()]
    for name in only or ():
        if name not in names:
            raise UsageError(f"no study is called '{name}'{near(name, names)}; studies: {', '.join(names)}")
    run_all(data, out, set(only) if only else None, console)
    if missing := [trial.name for trial in trials() if not is_done(trial, out)]:
        console.print(f"{results} is written once all have run; still to run: {', '.join(missing)}", highlight=False)
        return
    results.write_text(page(out), encoding="utf-8")
    console.print(f"Results: {results}", highlight=False)


if __name__ == "__main__":
    try:
        typer.run(main)
    except FedwardError as error:
        sys.exit(f"fedward: {error}")
