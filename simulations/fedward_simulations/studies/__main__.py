"""`python -m fedward_simulations.studies`: run the studies, and write the page of their results."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fedward_common.errors import FedwardError, UsageError
from fedward_common.study_faults import near
from fedward_simulations.studies.limits import LIMITS
from fedward_simulations.studies.limits_page import run_limits, write_page
from fedward_simulations.studies.running import is_done, page, run_all, trials


def main(
    data: Annotated[Path, typer.Option(help="The folder with the public collections, a folder each.")],
    out: Annotated[Path, typer.Option(help="Where runs, reports and models go.")] = Path("studies-output"),
    results: Annotated[Path, typer.Option(help="The page that is written.")] = Path("docs/results.md"),
    only: Annotated[list[str] | None, typer.Option(help="These studies only; may be repeated.")] = None,
) -> None:
    """Run Fedward's studies, three seeds each, and write the page of their results once all have run.

    Then the same for the four limits of the field: their page, limits.md, stands beside that of the results. What has
    its results in --out is not run again; a study whose collection is not in --data is left out.

    Example: python -m fedward_simulations.studies --data ../data --only heart-disease
    """
    console = Console(stderr=True)
    names = [*(trial.name for trial in trials()), *(limit.name for limit in LIMITS)]
    for name in only or ():
        if name not in names:
            raise UsageError(f"no study is called '{name}'{near(name, names)}; studies: {', '.join(names)}")
    wanted = set(only) if only else None
    run_all(data, out, wanted, console)
    if missing := [trial.name for trial in trials() if (data / trial.source).is_dir() and not is_done(trial, out)]:
        console.print(f"{results} is written once all have run; still to run: {', '.join(missing)}", highlight=False)
    else:
        results.write_text(page(out), encoding="utf-8")
        console.print(f"Results: {results}", highlight=False)
    if wanted is None or wanted & {limit.name for limit in LIMITS}:
        run_limits(data, out, wanted, console)
        limits = results.with_name("limits.md")
        write_page(out, limits)
        console.print(f"Limits: {limits}", highlight=False)


if __name__ == "__main__":
    try:
        typer.run(main)
    except FedwardError as error:
        sys.exit(f"fedward: {error}")
